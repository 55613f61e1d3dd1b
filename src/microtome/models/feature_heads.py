"""From what a trunk gives to one vector per image, where the trunk itself does not do it.

A head holds its trunk under ``trunk`` unless the published names say otherwise.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from microtome.errors import ConfigError

POOLINGS = ("cls", "mean", "cls+mean")
"""How tokens become one vector."""


class TokenFeatures(nn.Module):
    """The class token, the mean of the patch tokens, or both side by side.

    Args:
        trunk: Gives all tokens after its final norm, (b, n, d): class token, registers, then patches.
        pooling: Which of them.
        n_registers: Tokens between the class token and the patches, left out of the mean.

    Raises:
        ConfigError: If ``pooling`` is none of the three.
    """

    def __init__(self, trunk: nn.Module, pooling: str, *, n_registers: int = 0) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ConfigError(f"Tokens are pooled by {', '.join(POOLINGS)}. Got {pooling!r}.")
        self.trunk = trunk
        self.pooling = pooling
        self.n_registers = n_registers

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Features: (b, d), or (b, 2 d) for both, the class token first."""
        tokens: Tensor = self.trunk(images)
        if self.pooling == "cls":
            return tokens[:, 0]
        mean = tokens[:, 1 + self.n_registers :].mean(dim=1)
        return mean if self.pooling == "mean" else torch.cat([tokens[:, 0], mean], dim=-1)


class MultiScaleFeatures(nn.Module):
    """The vector of the image beside the mean vector of its four quarters, each seen twice as large.

    The normalised image is enlarged twofold, bicubic and not antialiased, and cut into four images of its own size.

    Args:
        trunk: (b, 3, s, s) to (b, d).

    References:
        specs encoders, MUSK (``ms_aug``).
    """

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b f"]:
        """Features, (b, 2 d): the whole image's vector, then the mean of the quarters'."""
        n, _, side, _ = images.shape
        large = functional.interpolate(images, scale_factor=2, mode="bicubic")
        quarters = [large[..., y : y + side, x : x + side] for y in (0, side) for x in (0, side)]
        details = self.trunk(torch.cat(quarters)).unflatten(0, (4, n)).mean(dim=0)
        return torch.cat([self.trunk(images), details], dim=-1)


class ProjectedFeatures(nn.Module):
    """KEEP: a trunk's vector through a two-layer head, scaled to length one.

    Parameters carry the published names ``visual`` and ``visual_head.{0,2}``.

    Args:
        visual: (b, 3, h, w) to (b, in_dim).
        in_dim: Length of the trunk's vector.
        dim: Length of the result.
    """

    def __init__(self, visual: nn.Module, in_dim: int, dim: int) -> None:
        super().__init__()
        self.visual = visual
        self.visual_head = nn.Sequential(nn.Linear(in_dim, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Vectors of length one."""
        return functional.normalize(self.visual_head(self.visual(images)), dim=-1)


class XcitFeatures(nn.Module):
    """HistoEncoder's rule on a timm XCiT: token 0 after each of the last blocks, and the mean of the patch tokens.

    The outputs of the last ``num_blocks`` blocks go through the final norm; token 0 of each is kept, the oldest
    first. The class token joins just before the two class-attention blocks, so for ``num_blocks`` above 2 the older
    blocks have none and token 0 is the top-left *patch*: the original does so, and so does this, because features
    made with it are in use. Prefer 1 or 2.

    Args:
        trunk: timm's XCiT without classifier.
        num_blocks: How many blocks, class-attention blocks counted.
        avg_pool: Whether to append the mean of the last block's patch tokens.

    Raises:
        ConfigError: If ``num_blocks`` is not between 1 and the number of blocks.

    References:
        specs HistoEncoder section 1.
    """

    def __init__(self, trunk: nn.Module, *, num_blocks: int = 1, avg_pool: bool = False) -> None:
        super().__init__()
        own: Any = trunk  # timm declares no types
        n_total = len(own.blocks) + len(own.cls_attn_blocks)
        if not 1 <= num_blocks <= n_total:
            raise ConfigError(f"num_blocks must be between 1 and {n_total} for this encoder, got {num_blocks}.")
        self.trunk: Any = own
        self.num_blocks = num_blocks
        self.avg_pool = avg_pool

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Features, (b, d * (num_blocks + avg_pool))."""
        trunk = self.trunk
        tokens, grid = trunk.patch_embed(images)
        if trunk.pos_embed is not None:
            positions = trunk.pos_embed(len(tokens), *grid)
            tokens = tokens + positions.reshape(len(tokens), -1, tokens.shape[1]).transpose(1, 2)
        outputs = []
        for block in trunk.blocks:
            tokens = block(tokens, *grid)
            outputs.append(tokens)
        tokens = torch.cat([trunk.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        for block in trunk.cls_attn_blocks:
            tokens = block(tokens)
            outputs.append(tokens)
        last = [trunk.norm(output) for output in outputs[-self.num_blocks :]]
        parts = [output[:, 0] for output in last]
        if self.avg_pool:
            parts.append(last[-1][:, 1:].mean(dim=1))
        return torch.cat(parts, dim=-1)
