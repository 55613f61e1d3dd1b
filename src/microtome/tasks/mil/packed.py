"""Bags laid end to end, and softmax, sums and extremes over each of them, for many models at once.

Only scores, a few numbers per instance, are ever spread out bag by bag; vectors stay packed, so nothing of size is
padded. Axes: m models, b bags of the pack, n instances of all of them, c maps, e length of a vector.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from microtome.tasks.mil.stacked_products import weighted_sums


@dataclass(frozen=True, slots=True)
class Pack:
    """Some bags, end to end.

    Attributes:
        features: (n, d) instances of all bags, in the precision of matrix products.
        rows: Row of the labels of each bag.
        lengths: Instances of each bag.
    """

    features: Float[Tensor, "n d"]
    rows: tuple[int, ...]
    lengths: tuple[int, ...]

    def __len__(self) -> int:
        """How many bags."""
        return len(self.rows)

    @property
    def bag_of(self) -> Int64[Tensor, " n"]:
        """The bag of each instance."""
        lengths = torch.tensor(self.lengths, device=self.features.device)
        return torch.repeat_interleave(torch.arange(len(self), device=lengths.device), lengths)

    @property
    def absent(self) -> Bool[Tensor, "b n"]:
        """Where an instance is not of the bag."""
        return self.bag_of != torch.arange(len(self), device=self.features.device)[:, None]

    def means(self) -> Float32[Tensor, "b d"]:
        """Mean vector of each bag."""
        if len(self) == 1:
            return self.features.mean(dim=0, keepdim=True, dtype=torch.float32)
        sums = self.features.new_zeros(len(self), self.features.shape[1], dtype=torch.float32)
        sums.index_add_(0, self.bag_of, self.features.float())
        return sums / torch.tensor(self.lengths, device=sums.device)[:, None]

    def spread(self, scores: Float[Tensor, "m n c"], fill: float) -> Float32[Tensor, "m b n c"]:
        """Scores bag by bag, ``fill`` where an instance is not of the bag."""
        wide = scores.float()[:, None]
        return wide if len(self) == 1 else wide.masked_fill(self.absent[..., None], fill)

    def attend(self, scores: Float[Tensor, "m n c"]) -> Float32[Tensor, "m b n c"]:
        """Softmax over each bag, 0 elsewhere."""
        return self.spread(scores, -torch.inf).softmax(dim=2)

    def pool(
        self, attention: Float32[Tensor, "m b n c"], values: Float[Tensor, "*m n e"]
    ) -> Float32[Tensor, "m b c e"]:
        """Sums of the instances' vectors that attention weighs, one per bag and map.

        Args:
            attention: As :meth:`attend` gives it.
            values: Vectors of each model, or one set for all.
        """
        m, b, n, c = attention.shape
        weights = attention.to(values.dtype).transpose(2, 3)
        if values.ndim == 2:
            sums = weights.reshape(m * b * c, n) @ values
        else:
            sums = weighted_sums(weights.reshape(m, b * c, n), values)
        return sums.float().reshape(m, b, c, -1)
