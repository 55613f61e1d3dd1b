"""Vision transformers of the DINO lineage: positions stretched by DINO's rule, attention maps within reach.

Names of parameters are those of the published files, which are also timm's.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from microtome.errors import TileSizeError

TABLE_GRID = (14, 14)
"""Grid for which the published position tables were made: 224 px in tokens of 16 px."""


def stretch_grid(table: Float[Tensor, "1 d r c"], grid: tuple[int, int]) -> Float[Tensor, "1 d p q"]:
    """A grid of positions brought to another grid by DINO's rule.

    Bicubic, not antialiased; the scale is (new side + 0.1) / old side and is used as given for the sampling points,
    so that the result differs a little from a resize to the new size.

    Args:
        table: Positions on their grid.
        grid: Rows and columns wanted.

    Returns:
        Positions on the new grid; ``table`` itself where the grid is the same.

    References:
        specs histossl section 1 and HIPT section 4.
    """
    if table.shape[-2:] == grid:
        return table
    scale = [(new + 0.1) / old for new, old in zip(grid, table.shape[-2:], strict=True)]
    return functional.interpolate(table, scale_factor=scale, mode="bicubic")


def stretch_positions(table: Float[Tensor, "1 n d"], grid: tuple[int, int]) -> Float[Tensor, "1 m d"]:
    """A published position table for another grid, by :func:`stretch_grid`.

    Args:
        table: One row for the class token, which stays, then 14 x 14 rows.
        grid: Rows and columns wanted.
    """
    rows = table[:, 1:].reshape(1, *TABLE_GRID, -1).permute(0, 3, 1, 2)
    return torch.cat([table[:, :1], stretch_grid(rows, grid).permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


class Attention(nn.Module):
    """Multi-head self-attention with one stacked projection; rows are q, k, v, each head by head."""

    def __init__(self, dim: int, n_heads: int, *, qkv_bias: bool = True) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def _split(self, x: Float[Tensor, "b n d"]) -> tuple[Tensor, Tensor, Tensor]:
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.n_heads, d // self.n_heads).permute(2, 0, 3, 1, 4)
        return q, k, v

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Attend."""
        q, k, v = self._split(x)
        attended = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return out

    def weights(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b heads n n"]:
        """Attention of every token (second to last axis) to every token; each row sums to one."""
        q, k, _ = self._split(x)
        scores: Tensor = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        return scores.softmax(dim=-1)


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Apply to each token."""
        out: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, dim: int, n_heads: int, *, eps: float, qkv_bias: bool = True) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, n_heads, qkv_bias=qkv_bias)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Attend, then transform each token; both are added to the input."""
        attended: Tensor = x + self.attn(self.norm1(x))
        out: Tensor = attended + self.mlp(self.norm2(attended))
        return out


class TokenTransformer(nn.Module):
    """Class token, positions, blocks and final norm; a subclass says how its input becomes tokens."""

    def __init__(self, dim: int, *, depth: int, n_heads: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + TABLE_GRID[0] * TABLE_GRID[1], dim))
        self.blocks = nn.ModuleList(Block(dim, n_heads, eps=eps) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=eps)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.apply(_start)

    def embed(self, x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b n d"], tuple[int, int]]:
        """Tokens row by row, without the class token and without positions, and their grid."""
        raise NotImplementedError

    def _begin(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b m d"]:
        tokens, grid = self.embed(x)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        return tokens + stretch_positions(self.pos_embed, grid)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """The class token after the final norm."""
        return self.tokens(x)[-1][:, 0]

    def tokens(self, x: Float[Tensor, "b c h w"], *, last: int = 1) -> list[Float[Tensor, "b n d"]]:
        """All tokens after each of the last blocks, through the final norm; the class token is the first.

        Args:
            x: As :meth:`forward` takes it.
            last: How many blocks.

        Returns:
            One array per block, in the order of the blocks.
        """
        tokens, kept = self._begin(x), []
        for block in self.blocks:
            tokens = block(tokens)
            kept.append(tokens)
        return [self.norm(t) for t in kept[-last:]]

    def last_attention(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b heads n n"]:
        """Attention in the last block, of every token to every token; the class token is the first."""
        *before, block = self.blocks
        tokens = self._begin(x)
        for earlier in before:
            tokens = earlier(tokens)
        assert isinstance(block, Block)  # noqa: S101  for the type checker: a ModuleList holds any module
        return block.attn.weights(block.norm1(tokens))


class PatchEmbed(nn.Module):
    """Squares of pixels to tokens."""

    def __init__(self, dim: int, patch_px: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_px, stride=patch_px)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d r c"]:
        """One token per square."""
        tokens: Tensor = self.proj(images)
        return tokens


class DinoViT(TokenTransformer):
    """ViT whose positions stretch by DINO's rule: iBOT and DINO teachers, HIPT's ViT-256, EXAONEPath.

    Any size whose sides are multiples of the patch goes in. Parameters carry timm's names, as the files do.

    Args:
        dim: Length of a token.
        depth: Number of blocks.
        n_heads: Heads per block.
        patch_px: Side of a patch; the position table is for 14 x 14 patches.
        eps: Of the layer norms.

    References:
        specs histossl section 1, HIPT section 4.

    Example:
        >>> import torch
        >>> DinoViT(12, depth=1, n_heads=2)(torch.zeros(2, 3, 32, 48)).shape
        torch.Size([2, 12])
    """

    def __init__(self, dim: int, *, depth: int, n_heads: int, patch_px: int = 16, eps: float = 1e-6) -> None:
        super().__init__(dim, depth=depth, n_heads=n_heads, eps=eps)
        self.patch_px = patch_px
        self.patch_embed = PatchEmbed(dim, patch_px)

    def embed(self, x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b n d"], tuple[int, int]]:
        """Tokens of the image's patches, row by row.

        Raises:
            TileSizeError: If a side is not a multiple of the patch: the border would be lost without a word.
        """
        height, width = x.shape[-2:]
        if height % self.patch_px or width % self.patch_px:
            raise TileSizeError(
                f"This ViT takes images whose sides are multiples of {self.patch_px} px, got {width} x {height}. "
                "Cut other tiles or resize them."
            )
        patches = self.patch_embed(x)
        rows, columns = patches.shape[-2:]
        return patches.flatten(2).transpose(1, 2), (rows, columns)


def _start(module: nn.Module) -> None:
    """DINO's initial weights, for training from nothing."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def token_grid(attention: Float[Tensor, "b heads n n"], grid: Sequence[int]) -> Float[Tensor, "b heads r c"]:
    """The class token's attention to the other tokens, laid out as they lie on the image.

    Args:
        attention: What :meth:`TokenTransformer.last_attention` gives.
        grid: Rows and columns of the tokens.
    """
    rows, columns = grid
    return attention[:, :, 0, 1:].reshape(*attention.shape[:2], rows, columns)
