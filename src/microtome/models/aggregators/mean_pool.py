"""The mean of a bag."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from microtome.models.aggregators.base import Aggregator, AggregatorOutput
from microtome.models.aggregators.layers import mlp


class MeanPool(Aggregator):
    """Linear layers on the mean vector of the bag.

    The attention is one map, (b, n, 1): every instance counts the same.

    Args:
        n_features: Length of an instance's vector.
        n_outputs: Number of logits.
        hidden: Lengths of the layers between mean and logits.
        activation: After each of them.

    References:
        specs histossl section 3.
    """

    def __init__(
        self, n_features: int, n_outputs: int, *, hidden: Sequence[int] = (), activation: str = "sigmoid"
    ) -> None:
        super().__init__(n_features, n_outputs)
        self.mlp = mlp(n_features, hidden, n_outputs, activation=activation)

    def aggregate(self, features: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> AggregatorOutput:
        """Logits of the mean."""
        wide = torch.promote_types(features.dtype, torch.float32)
        count = mask.sum(dim=1, keepdim=True)
        mean = features.sum(dim=1, dtype=wide) / count
        return AggregatorOutput(self.mlp(mean.to(features.dtype)), (mask.to(wide) / count)[..., None])
