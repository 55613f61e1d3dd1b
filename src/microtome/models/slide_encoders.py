"""Published slide encoders that gather a bag of tile vectors by gated attention: CHIEF and FEATHER.

Attributes of the modules carry the published names.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from microtome.errors import ConfigError


class SlideVector(NamedTuple):
    """What a slide encoder gives for b bags.

    Attributes:
        vector: (b, d), one per slide.
        attention: (b, n), how much each tile counts; sums to one over the tiles that are there, 0 elsewhere.
    """

    vector: Float[Tensor, "b d"]
    attention: Float[Tensor, "b n"]


class GatedAttention(nn.Module):
    """Scores of a tile: a linear layer on tanh times sigmoid of two others.

    Args:
        dim: Length of a tile's vector.
        hidden: Length in between.
        n_scores: How many scores, one per way to attend.
        dropout: Share of the values in between that training leaves out, of each factor.

    References:
        https://arxiv.org/abs/1802.04712
    """

    def __init__(self, dim: int, hidden: int, n_scores: int = 1, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention_a = nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Dropout(dropout))
        self.attention_b = nn.Sequential(nn.Linear(dim, hidden), nn.Sigmoid(), nn.Dropout(dropout))
        self.attention_c = nn.Linear(hidden, n_scores)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n s"]:
        """Scores before the softmax."""
        scores: Tensor = self.attention_c(self.attention_a(x) * self.attention_b(x))
        return scores


def _weigh(scores: Float[Tensor, "b n"], mask: Bool[Tensor, "b n"] | None) -> Float[Tensor, "b n"]:
    """Softmax over the tiles that are there."""
    if scores.shape[1] == 0 or (mask is not None and not bool(mask.any(dim=1).all())):
        raise ConfigError("A bag without a single tile has no slide vector. Leave such slides out.")
    return scores.softmax(dim=1) if mask is None else scores.masked_fill(~mask, -torch.inf).softmax(dim=1)


class Chief(nn.Module):
    """CHIEF without its anatomical site: tile vectors averaged by gated attention that looks at a projection of them.

    Args:
        in_dim: Length of a tile's vector, CHIEF's own CTransPath's by default.
        dim: Length of the projection.
        hidden: Of the gated attention.

    References:
        specs encoders, slide encoders. The sum is over the vectors as they came, not over their projections.
    """

    def __init__(self, in_dim: int = 768, *, dim: int = 512, hidden: int = 256) -> None:
        super().__init__()
        self.attention_net = nn.Sequential(
            nn.Linear(in_dim, dim), nn.ReLU(), nn.Dropout(0.25), GatedAttention(dim, hidden)
        )

    def forward(self, features: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"] | None = None) -> SlideVector:
        """Encode bags.

        Args:
            features: Tile vectors, padded to one length.
            mask: True where there is a tile; None where all are.

        Returns:
            (b, in_dim) and the attention.

        Raises:
            ConfigError: If a bag has no tile.
        """
        attention = _weigh(self.attention_net(features)[..., 0], mask)
        return SlideVector((attention[..., None] * features).sum(dim=1), attention)


class Feather(nn.Module):
    """FEATHER: projected tile vectors averaged by gated attention.

    Args:
        in_dim: Length of a tile's vector: 768 (CONCH v1.5), 1024 (UNI), 1536 (UNI2-h).
        dim: Length of the projection and of the result.
        hidden: Of the gated attention.

    References:
        specs encoders, slide encoders.
    """

    def __init__(self, in_dim: int, *, dim: int = 512, hidden: int = 384) -> None:
        super().__init__()
        self.patch_embed = nn.Sequential(nn.Linear(in_dim, dim), nn.ReLU())
        self.global_attn = GatedAttention(dim, hidden)

    def forward(self, features: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"] | None = None) -> SlideVector:
        """Encode bags; arguments and errors are those of :meth:`Chief.forward`.

        Returns:
            (b, dim) and the attention.
        """
        projected = self.patch_embed(features)
        attention = _weigh(self.global_attn(projected)[..., 0], mask)
        return SlideVector((attention[..., None] * projected).sum(dim=1), attention)
