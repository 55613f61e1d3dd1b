"""HIPT's upper level: a transformer over a grid of tile vectors, and the two levels as one region encoder."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from microtome.errors import TileSizeError
from microtome.models.vit import TokenTransformer


class GridViT(TokenTransformer):
    """ViT-4K: a grid of tile vectors to one vector.

    Each vector goes through a linear layer and GELU; positions stretch by DINO's rule, so that grids need not be
    square nor 14 wide. What is called the patch size upstream has no effect and is left out.

    Args:
        in_dim: Length of a tile's vector.
        dim: Length of a token and of the result.
        depth: Number of blocks.
        n_heads: Heads per block.

    References:
        specs HIPT section 4.

    Example:
        >>> import torch
        >>> GridViT()(torch.zeros(1, 384, 4, 5)).shape
        torch.Size([1, 192])
    """

    def __init__(self, in_dim: int = 384, *, dim: int = 192, depth: int = 6, n_heads: int = 6) -> None:
        super().__init__(dim, depth=depth, n_heads=n_heads)
        self.phi = nn.Sequential(nn.Linear(in_dim, dim), nn.GELU())

    def embed(self, x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b n d"], tuple[int, int]]:
        """Tokens of the grid's vectors, row by row; the first of the two grid axes is the row."""
        rows, columns = x.shape[-2:]
        return self.phi(x.flatten(2).transpose(1, 2)), (rows, columns)


class RegionFeatures(NamedTuple):
    """What a region encoder gives for b regions of p tiles each.

    Attributes:
        cls256: (b, p, 384) vectors of the tiles, row by row.
        mean256: (b, 384) their mean.
        cls4k: (b, 192) vector of the region.
        mean256_cls4k: (b, 576) the two, side by side.
        grid: Rows and columns of the tiles.
    """

    cls256: Float[Tensor, "b p d"]
    mean256: Float[Tensor, "b d"]
    cls4k: Float[Tensor, "b e"]
    mean256_cls4k: Float[Tensor, "b f"]
    grid: tuple[int, int]


class RegionEncoder(nn.Module):
    """HIPT-4K: a region is cropped to whole tiles of 256 px, each tile encoded, and the grid of vectors encoded.

    Args:
        vit256: Tile encoder; (n, 3, 256, 256) to (n, 384).
        vit4k: Grid encoder; (b, 384, r, c) to (b, 192).
        tile_px: Side of a tile.
        batch_size: Tiles that go through ``vit256`` at once.

    References:
        specs HIPT section 4.
    """

    def __init__(self, vit256: nn.Module, vit4k: nn.Module, *, tile_px: int = 256, batch_size: int = 256) -> None:
        super().__init__()
        self.vit256 = vit256
        self.vit4k = vit4k
        self.tile_px = tile_px
        self.batch_size = batch_size

    def cut(self, regions: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b p 3 s s"], tuple[int, int]]:
        """The tiles of each region, row by row, and their grid.

        The surplus over whole tiles is cropped evenly; an odd half is rounded to the even number.

        Raises:
            TileSizeError: If a side is shorter than one tile.
        """
        side = self.tile_px
        height, width = regions.shape[-2:]
        rows, columns = height // side, width // side
        if not rows or not columns:
            raise TileSizeError(
                f"A region must be at least {side} x {side} px, got {width} x {height}. Cut larger regions."
            )
        top, left = round((height - rows * side) / 2), round((width - columns * side) / 2)
        cropped = regions[..., top : top + rows * side, left : left + columns * side]
        tiles = cropped.unfold(2, side, side).unfold(3, side, side)  # b 3 rows columns side side
        return tiles.permute(0, 2, 3, 1, 4, 5).flatten(1, 2), (rows, columns)

    def forward(self, regions: Float[Tensor, "b 3 h w"]) -> RegionFeatures:
        """Encode regions of one size.

        Args:
            regions: Normalised pixels, at least one tile in each direction.

        Returns:
            Vectors of tiles and regions.

        Raises:
            TileSizeError: If a side is shorter than one tile.
        """
        tiles, grid = self.cut(regions)
        parts = [self.vit256(part) for part in torch.split(tiles.flatten(0, 1), self.batch_size)]
        cls256 = torch.cat(parts).reshape(*tiles.shape[:2], -1)
        cls4k = self.vit4k(cls256.transpose(1, 2).reshape(len(cls256), -1, *grid))
        mean256 = cls256.mean(dim=1)
        return RegionFeatures(cls256, mean256, cls4k, torch.cat([mean256, cls4k], dim=1), grid)


class RegionVector(nn.Module):
    """One vector per region, of those that a region encoder gives.

    Args:
        regions: The region encoder.
        which: ``cls4k`` or ``mean256_cls4k``; see :class:`RegionFeatures`.
    """

    def __init__(self, regions: RegionEncoder, which: str) -> None:
        super().__init__()
        self.regions = regions
        self.which = which

    def forward(self, regions: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b f"]:
        """Features, (b, 192) or (b, 576)."""
        vector: Tensor = getattr(self.regions(regions), self.which)
        return vector
