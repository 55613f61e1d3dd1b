"""FastGlioma's slide level: a transformer over the patches of one slide with Fourier positions, and the score head.

Attributes of the modules carry the published names.
"""

import math
from itertools import pairwise

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from microtome.models.vit import Block

N_PREFIX = 8
"""The class token and seven registers, stored as one parameter."""


class FourierPositions(nn.Module):
    """Positions by learned Fourier features of raw grid coordinates; prefix tokens have learned ones.

    Args:
        dim: Length of a position.
        n_frequencies: Rows of the frequency matrix.
        hidden: Of the small network behind it.

    References:
        specs FastGlioma section 1.3. Coordinates go in as they are: not centred, not scaled.
    """

    def __init__(self, dim: int = 512, *, n_frequencies: int = 48, hidden: int = 36) -> None:
        super().__init__()
        self.cls_pos_emb = nn.Parameter(torch.zeros(1, N_PREFIX, dim))
        self._ff_embed = nn.Linear(2, n_frequencies, bias=False)
        self._mlp = nn.Sequential(
            nn.LayerNorm(2 * n_frequencies, eps=1e-5),
            nn.Linear(2 * n_frequencies, hidden),
            nn.GELU(),
            nn.LayerNorm(hidden, eps=1e-5),
            nn.Linear(hidden, dim),
        )
        nn.init.normal_(self._ff_embed.weight, std=0.25)

    def forward(self, coordinates: Shaped[Tensor, "b n 2"]) -> Float[Tensor, "b m d"]:
        """Positions of the prefix tokens and of the patches.

        Args:
            coordinates: Row and column of each patch on the slide's grid, of any number type.
        """
        phases = self._ff_embed(coordinates.to(self._ff_embed.weight.dtype))
        waves = torch.cat([phases.cos(), phases.sin()], dim=-1) / math.sqrt(2 * phases.shape[-1])
        return torch.cat([self.cls_pos_emb.expand(len(waves), -1, -1), self._mlp(waves)], dim=1)


class SrhSlideTransformer(nn.Module):
    """Vectors of the patches of a slide, and where they lie, to one vector.

    Args:
        dim: Length of a vector; there is no projection before the transformer.
        depth: Number of blocks.
        n_heads: Heads per block.

    References:
        specs FastGlioma section 1.3.
    """

    def __init__(self, dim: int = 512, *, depth: int = 2, n_heads: int = 4) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, N_PREFIX, dim))
        self.pos_embed = FourierPositions(dim)
        self.blocks = nn.ModuleList(Block(dim, n_heads, eps=1e-5, qkv_bias=False) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-5)
        nn.init.normal_(self.cls_token, std=0.02)  # zeros would keep the registers equal for ever

    def _begin(self, features: Float[Tensor, "b n d"], coordinates: Shaped[Tensor, "b n 2"]) -> Float[Tensor, "b m d"]:
        tokens = torch.cat([self.cls_token.expand(len(features), -1, -1), features], dim=1)
        begun: Tensor = tokens + self.pos_embed(coordinates)
        return begun

    def forward(self, features: Float[Tensor, "b n d"], coordinates: Shaped[Tensor, "b n 2"]) -> Float[Tensor, "b d"]:
        """The first token after the final norm.

        Args:
            features: Vectors of the patches of one or several slides of the same number of patches.
            coordinates: Row and column of each patch.
        """
        tokens = self._begin(features, coordinates)
        for block in self.blocks:
            tokens = block(tokens)
        normed: Tensor = self.norm(tokens)
        return normed[:, 0]

    def last_attention(
        self, features: Float[Tensor, "b n d"], coordinates: Shaped[Tensor, "b n 2"]
    ) -> Float[Tensor, "b heads m m"]:
        """Attention in the last block, of every token to every token; the first eight are not patches."""
        tokens = self._begin(features, coordinates)
        *before, block = self.blocks
        for earlier in before:
            tokens = earlier(tokens)
        assert isinstance(block, Block)  # noqa: S101  for the type checker: a ModuleList holds any module
        return block.attn.weights(block.norm1(tokens))


class Layers(nn.Module):
    """Linear layers with ReLU between them, under the published names ``layers.{0,2,...}``.

    Args:
        lengths: Of the input, of what is hidden, of the output.

    References:
        specs FastGlioma section 1.2: Xavier-uniform weights, bias 0.01.
    """

    def __init__(self, *lengths: int) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        for into, out in pairwise(lengths):
            linear = nn.Linear(into, out)
            nn.init.xavier_uniform_(linear.weight)
            nn.init.constant_(linear.bias, 0.01)
            steps += [linear, nn.ReLU()]
        self.layers = nn.Sequential(*steps[:-1])

    def forward(self, vectors: Float[Tensor, "b d"]) -> Float[Tensor, "b e"]:
        """One vector per vector."""
        made: Tensor = self.layers(vectors)
        return made


class ScoreHead(Layers):
    """A slide's vector to its logit; the score is its sigmoid.

    References:
        specs FastGlioma section 1.4.
    """

    def __init__(self, dim: int = 512) -> None:
        super().__init__(dim, dim, 1)


class SrhScorer(nn.Module):
    """Slide transformer and score head: patches of a slide to its logit.

    Attributes:
        slide: The transformer.
        head: The head.
    """

    def __init__(self) -> None:
        super().__init__()
        self.slide = SrhSlideTransformer()
        self.head = ScoreHead()

    def forward(self, features: Float[Tensor, "b n d"], coordinates: Shaped[Tensor, "b n 2"]) -> Float[Tensor, "b 1"]:
        """Logits; arguments are those of :meth:`SrhSlideTransformer.forward`."""
        logits: Tensor = self.head(self.slide(features, coordinates))
        return logits
