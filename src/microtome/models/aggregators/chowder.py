"""Chowder: the highest and the lowest scores of a bag."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from microtome.errors import ConfigError
from microtome.models.aggregators.base import Aggregator, AggregatorOutput
from microtome.models.aggregators.layers import mlp


class Chowder(Aggregator):
    """Each instance is scored once per output; layers on the highest and lowest scores give that output's logit.

    The attention is the scores themselves, one map per output, (b, n, c): not a distribution. A bag with fewer
    instances than scores are wanted has zeros in the places that stay empty; between that and twice as many, the
    middle scores occur among the highest and the lowest.

    Args:
        n_features: Length of an instance's vector.
        n_outputs: Number of logits.
        n_top: How many of the highest scores.
        n_bottom: How many of the lowest.
        score_hidden: Lengths of the layers between vector and score.
        hidden: Lengths of the layers between scores and logit.
        activation: After each hidden layer.

    Raises:
        ConfigError: If no score is wanted.

    References:
        specs histossl section 3. The reference crashes where a padded batch is shorter than ``n_top``; here the
        number of padded rows decides nothing.
    """

    sums_to_one = False

    def __init__(
        self,
        n_features: int,
        n_outputs: int,
        *,
        n_top: int = 10,
        n_bottom: int = 10,
        score_hidden: Sequence[int] = (128,),
        hidden: Sequence[int] = (128, 64),
        activation: str = "sigmoid",
    ) -> None:
        super().__init__(n_features, n_outputs)
        if min(n_top, n_bottom) < 0 or n_top + n_bottom == 0:
            raise ConfigError(f"Chowder needs some highest or lowest scores, got n_top={n_top}, n_bottom={n_bottom}.")
        self.n_top = n_top
        self.n_bottom = n_bottom
        self.score = mlp(n_features, score_hidden, n_outputs)
        self.mlp = mlp(n_top + n_bottom, hidden, 1, activation=activation)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def aggregate(self, features: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> AggregatorOutput:
        """Logits of the extreme scores."""
        scores: Tensor = self.score(features).masked_fill(~mask[..., None], 0)
        logits = self.mlp(self.extremes(scores, mask).transpose(1, 2))[..., 0]
        return AggregatorOutput(logits, scores.to(torch.promote_types(scores.dtype, torch.float32)))

    def extremes(self, scores: Float[Tensor, "b n c"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b k c"]:
        """The highest scores, highest first, then the lowest, lowest first; 0 where there are too few."""
        missing = max(self.n_top, self.n_bottom) - scores.shape[1]
        if missing > 0:
            scores = functional.pad(scores, (0, 0, 0, missing))
            mask = functional.pad(mask, (0, missing))
        absent = ~mask[..., None]
        top = scores.masked_fill(absent, -torch.inf).topk(self.n_top, dim=1).values
        bottom = scores.masked_fill(absent, torch.inf).topk(self.n_bottom, dim=1, largest=False).values
        picked = torch.cat([top, bottom], dim=1)
        return picked.masked_fill(picked.isinf(), 0)
