"""ABMIL: a mean that gated attention weighs."""

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor, nn

from microtome.errors import ConfigError
from microtome.models.aggregators.base import Aggregator, AggregatorOutput, pool, weigh
from microtome.models.aggregators.layers import mlp
from microtome.models.slide_encoders import GatedAttention


class ABMIL(Aggregator):
    """Projected vectors averaged by gated attention, and layers on the average.

    The attention is one map, (b, n, 1), a distribution.

    Args:
        n_features: Length of an instance's vector.
        n_outputs: Number of logits.
        dim: Length of the projection and inside the attention.
        temperature: The attention's scores are divided by it: below 1 sharper, above flatter.
        hidden: Lengths of the layers between average and logits.
        activation: After each of them.

    Raises:
        ConfigError: If the temperature is not above 0.

    References:
        https://arxiv.org/abs/1802.04712; specs histossl section 3.
    """

    def __init__(
        self,
        n_features: int,
        n_outputs: int,
        *,
        dim: int = 128,
        temperature: float = 1.0,
        hidden: Sequence[int] = (128, 64),
        activation: str = "relu",
    ) -> None:
        super().__init__(n_features, n_outputs)
        if not temperature > 0:
            raise ConfigError(f"ABMIL's temperature must be above 0, got {temperature}.")
        self.temperature = temperature
        self.project = nn.Linear(n_features, dim)
        self.attention = GatedAttention(dim, dim)
        self.mlp = mlp(dim, hidden, n_outputs, activation=activation)

    def aggregate(self, features: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> AggregatorOutput:
        """Logits of the weighted average."""
        values = self.project(features)
        attention = weigh(self.attention(values) / self.temperature, mask)
        return AggregatorOutput(self.mlp(pool(attention, values)[:, 0]), attention)
