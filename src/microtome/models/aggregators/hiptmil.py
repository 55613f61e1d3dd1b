"""HIPT's slide stage: a transformer over region vectors, then gated attention."""

from copy import deepcopy

from jaxtyping import Bool, Float
from torch import Tensor, nn

from microtome.errors import ConfigError
from microtome.models.aggregators.base import Aggregator, AggregatorOutput, pool, weigh
from microtome.models.aggregators.transmil import check_compat
from microtome.models.slide_encoders import GatedAttention
from microtome.models.vit4k import GridViT


class HIPTMIL(Aggregator):
    """Projection, two transformer layers without positions, gated attention, one layer, classifier.

    The attention is one map, (b, n, 1), a distribution.

    Args:
        n_features: Length of an instance's vector.
        n_outputs: Number of logits.
        dim: Length of a token.
        n_heads: Heads of the transformer.
        dropout: Of every layer that has one.
        compat: ``histossl`` takes one bag at a time and ignores the mask, so that padding takes part as instances of
            zeros, and starts both transformer layers from the same values.

    References:
        specs histossl section 3, HIPT section 4.
    """

    def __init__(
        self,
        n_features: int,
        n_outputs: int,
        *,
        dim: int = 192,
        n_heads: int = 3,
        dropout: float = 0.25,
        compat: str | None = None,
    ) -> None:
        check_compat(compat)
        super().__init__(n_features, n_outputs)
        self.compat = compat
        self.phi = nn.Sequential(nn.Linear(n_features, dim), nn.ReLU(), nn.Dropout(dropout))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, n_heads, dim, dropout, batch_first=True) for _ in range(2)
        )
        if compat is not None:
            self.layers[1] = deepcopy(self.layers[0])
        self.attention = GatedAttention(dim, dim, dropout=dropout)
        self.rho = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout))
        self.classifier = nn.Linear(dim, n_outputs)

    def aggregate(self, features: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> AggregatorOutput:
        """Logits of the weighted average of the transformer's tokens."""
        if self.compat is not None:
            return self._as_published(features, mask)
        return self._attend(features, mask, None if bool(mask.all()) else ~mask)

    def _attend(self, features: Tensor, mask: Tensor, ignored: Tensor | None) -> AggregatorOutput:
        tokens = self.phi(features)
        for layer in self.layers:
            tokens = layer(tokens, src_key_padding_mask=ignored)
        attention = weigh(self.attention(tokens), mask)
        return AggregatorOutput(self.classifier(self.rho(pool(attention, tokens)[:, 0])), attention)

    def _as_published(self, features: Tensor, mask: Tensor) -> AggregatorOutput:
        if len(features) > 1:
            raise ConfigError(
                f"HIPTMIL with compat='histossl' takes one bag at a time, got {len(features)}. Leave compat out."
            )
        logits, attention = self._attend(features, mask.new_ones(mask.shape), None)
        attention = attention * mask[..., None]
        return AggregatorOutput(logits, attention / attention.sum(dim=1, keepdim=True))


class HiptSlide(nn.Module):
    """HIPT_LGP_FC: regions of tile vectors through ViT-4K, and the regions' vectors through :class:`HIPTMIL`.

    It is no aggregator of the registry, because its instances are grids of vectors.

    Args:
        n_outputs: Number of logits.
        n_features: Length of a tile's vector.
        grid: Rows and columns of tiles in a region.
        dropout: Of every layer that has one, ViT-4K left aside.

    References:
        specs HIPT section 4.
    """

    def __init__(
        self, n_outputs: int, *, n_features: int = 384, grid: tuple[int, int] = (16, 16), dropout: float = 0.25
    ) -> None:
        super().__init__()
        self.grid = grid
        self.local_vit = GridViT(n_features)
        self.regions = HIPTMIL(192, n_outputs, dropout=dropout)

    def forward(self, tokens: Float[Tensor, "b m t d"], mask: Bool[Tensor, "b m"] | None = None) -> AggregatorOutput:
        """Aggregate slides.

        Args:
            tokens: Tile vectors of m regions, row by row.
            mask: True where there is a region; None where all are.

        Returns:
            Logits (b, n_outputs) and attention over regions (b, m, 1), a distribution.

        Raises:
            ConfigError: If a slide has no region, or a region another number of tiles than the grid.
        """
        if tokens.shape[2] != self.grid[0] * self.grid[1]:
            raise ConfigError(f"A region has {self.grid[0]} x {self.grid[1]} tiles, got {tokens.shape[2]}.")
        if mask is not None:
            tokens = tokens.masked_fill(~mask[..., None, None], 0)
        grids = tokens.flatten(0, 1).transpose(1, 2).reshape(-1, tokens.shape[3], *self.grid)
        vectors = self.local_vit(grids).reshape(*tokens.shape[:2], -1)
        output: AggregatorOutput = self.regions(vectors, mask)
        return output
