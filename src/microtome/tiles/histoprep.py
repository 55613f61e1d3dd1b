"""Tiles as HistoPrep lays them: on level 0, from the slide's corner, by the background in a mask."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, Int64, Shaped

from microtome.errors import ConfigError, NoTilesError, TileError
from microtome.geometry import Size
from microtome.slides.base import Slide
from microtome.tiles.grid import Layout, Tiles, boxes_at, level_of

_ROUNDING = 1e-9  # of a share of background that is a ratio of counts


@dataclass(frozen=True, slots=True)
class HistoPrepGrid(Layout):
    """HistoPrep's grid, with its defaults.

    Attributes:
        width: Width of a tile, level-0 pixels.
        height: Height of a tile, level-0 pixels; None for ``width``.
        overlap: Share of a tile that overlaps its neighbour, 0 up to but not including 1.
        max_background: Largest share of a tile that may be background, 0..1.
        in_bounds: Drop the last column and row where they reach out of the slide. As in HistoPrep only the
            last one is dropped, so that with overlap others may still reach out.
        level: Pyramid level that tiles are read from.
    """

    width: int = 640
    height: int | None = None
    overlap: float = 0.0
    max_background: float = 0.75
    in_bounds: bool = False
    level: int = 0

    def __post_init__(self) -> None:
        if self.width < 1 or (self.height is not None and self.height < 1) or self.level < 0:
            raise ConfigError(f"width, height and level must not be negative, sizes at least 1. Got {self}.")
        if not 0 <= self.overlap < 1:
            raise ConfigError(f"overlap must be at least 0 and less than 1. Got {self.overlap}.")
        if not 0 <= self.max_background <= 1:
            raise ConfigError(f"max_background must be a share from 0 to 1. Got {self.max_background}.")

    @property
    def size(self) -> Size:
        """Size of a tile, level-0 pixels."""
        return Size(self.width, self.width if self.height is None else self.height)


def lay_histoprep(slide: Slide, mask: Shaped[np.ndarray, "h w"], grid: HistoPrepGrid) -> Tiles:
    """Lay tiles where HistoPrep does.

    Args:
        slide: The slide; no pixel is read.
        mask: Tissue mask of the whole slide at any scale; non-zero is tissue.
        grid: How to lay.

    Returns:
        Tiles in row-major order. Their coverage is 1 less the share of background; outside of the slide is
        background. Their output size is that of the box on ``grid.level``.

    Raises:
        NoTilesError: If no tile remains.
        TileError: If the tile is larger than the slide, or the slide has no such level.

    References:
        HistoPrep 2.0.5, ``get_tile_coordinates``. Deviation: a mask whose scale differs between the axes is
        used with each axis' own scale.
    """
    level = slide.levels[level_of(slide, grid.level)]
    boxes = _candidates(slide.size, grid)
    background = 1 - _tissue_share(mask, slide.size, boxes)
    keep = background <= grid.max_background + _ROUNDING
    if not keep.any():
        raise NoTilesError(
            f"Slide '{slide.name}': all of {len(boxes)} tiles are more than {grid.max_background:g} "
            f"background; the best is {float(background.min()):.3g}. Pass a larger max_background or a "
            "smaller width."
        )
    tile = Size(round(grid.size.width / level.downsample_x), round(grid.size.height / level.downsample_y))
    mpp0 = slide.resolution.mpp
    return Tiles(
        boxes=boxes[keep],
        coverage=(1 - background[keep]).astype(np.float32),
        tile_px=tile.width,
        mpp=None if mpp0 is None else grid.width * mpp0 / tile.width,
        level=grid.level,
        grid=grid,
        slide_size=slide.size,
        slide_mpp=mpp0,
        level_size=level.size,
        tile_height_px=None if tile.height == tile.width else tile.height,
    )


def _candidates(slide: Size, grid: HistoPrepGrid) -> Int64[np.ndarray, "n 4"]:
    tile = grid.size
    if tile.width > slide.width or tile.height > slide.height:
        raise TileError(
            f"A tile of {tile.width} × {tile.height} px is larger than the slide ({slide.width} × "
            f"{slide.height} px). Pass a smaller width."
        )
    xs = _starts(slide.width, tile.width, grid)
    ys = _starts(slide.height, tile.height, grid)
    return boxes_at(xs, ys, tile.width, tile.height)


def _starts(length: int, side: int, grid: HistoPrepGrid) -> Int64[np.ndarray, " n"]:
    starts = np.arange(0, length, max(side - round(side * grid.overlap), 1), dtype=np.int64)
    return starts[:-1] if grid.in_bounds and starts[-1] + side > length else starts


def _tissue_share(
    mask: Shaped[np.ndarray, "h w"], slide: Size, boxes: Int64[np.ndarray, "n 4"]
) -> Float32[np.ndarray, " n"] | np.ndarray:
    """Share of tissue in each box's window of the mask; what lies outside of it is background."""
    depth = cv2.CV_32S if mask.size < 2**31 else cv2.CV_64F  # counts are whole in both
    sums = np.asarray(cv2.integral((mask != 0).view(np.uint8), sdepth=depth))
    scale = np.array([slide.width / mask.shape[1], slide.height / mask.shape[0]])
    corner = np.rint(boxes[:, :2] / scale).astype(np.int64)
    extent = np.maximum(1, np.rint(boxes[:, 2:] / scale).astype(np.int64))
    left, top = np.minimum(corner, [mask.shape[1], mask.shape[0]]).T
    right, bottom = np.minimum(corner + extent, [mask.shape[1], mask.shape[0]]).T
    tissue = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    share: np.ndarray = tissue / extent.prod(axis=1)
    return share
