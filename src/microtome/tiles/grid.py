"""Where tiles lie: a grid at an exact resolution (or of a pyramid level), cut to tissue and to the slide."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Int, Int64

from microtome.errors import ConfigError, NoTilesError, TileError
from microtome.geometry import Box, Size
from microtome.slides.base import Slide
from microtome.tissue.tissue import Tissue

MAX_CANDIDATES = 20_000_000  # boxes that a grid may have before tissue is looked at: 640 MB of coordinates
# Coverage is measured to 1e-3 px of a side: a tile that lies wholly in tissue may come out as 0.99999.
COVERAGE_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Layout:
    """Base of the rules by which tiles are laid; each is a frozen dataclass of plain values."""


@dataclass(frozen=True, slots=True)
class Grid(Layout):
    """A regular grid of square tiles at an exact resolution, or in the pixels of one pyramid level.

    Tile (column i, row j), i and j from 0, has its corner at ``origin + round(i · stride)``, ``origin +
    round(j · stride)`` level-0 pixels and a side of ``round(tile_px · mpp / slide mpp)``; nothing
    accumulates from tile to tile.

    Attributes:
        tile_px: Side of a tile, in output pixels.
        mpp: Resolution of a tile, µm/px; None where ``level`` is given. Finer than the slide's own is
            allowed and enlarges pixels.
        stride_px: Distance from tile to tile, in output pixels; None for ``tile_px``. Less makes them
            overlap, more leaves gaps.
        min_tissue: Least share of a tile that must be tissue (to 1e-4), 0..1; 0 keeps every tile of the grid.
        level: Lay tiles in this pyramid level's own pixels; needs no mpp.
        anchor: Origin of the grid. ``slide``: the canvas corner (0, 0), the same grid whatever the tissue.
            ``tissue``: the corner of the tissue's bounding box; the grid then covers that bounding box only.
        bounds: ``in`` keeps tiles that lie wholly inside of the slide's scanned part; ``pad`` also those
            that reach out of it on any side.
    """

    tile_px: int = 224
    mpp: float | None = 0.5
    stride_px: int | None = None
    min_tissue: float = 0.5
    level: int | None = None
    anchor: Literal["slide", "tissue"] = "slide"
    bounds: Literal["in", "pad"] = "in"

    def __post_init__(self) -> None:
        if (self.mpp is None) == (self.level is None):
            raise ConfigError(
                f"A grid needs exactly one of mpp and level. Got mpp={self.mpp} and level={self.level}; pass "
                "mpp=None to lay tiles by level."
            )
        _at_least("tile_px", self.tile_px, 1)
        _at_least("stride_px", self.stride_px, 1)
        _at_least("level", self.level, 0)
        if self.mpp is not None and not (math.isfinite(self.mpp) and self.mpp > 0):
            raise ConfigError(f"mpp must be > 0 µm/px. Got {self.mpp}.")
        if not 0 <= self.min_tissue <= 1:
            raise ConfigError(f"min_tissue must be a share from 0 to 1. Got {self.min_tissue}.")
        _one_of("anchor", self.anchor, ("slide", "tissue"))
        _one_of("bounds", self.bounds, ("in", "pad"))

    @property
    def stride(self) -> int:
        """Distance from tile to tile, in output pixels."""
        return self.tile_px if self.stride_px is None else self.stride_px


@dataclass(frozen=True, slots=True)
class Supplied(Layout):
    """No rule of ours: the tiles came from a file of coordinates.

    Attributes:
        file: Its name.
    """

    file: str


def _at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise ConfigError(f"{name} must be at least {least}. Got {value}.")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}. Got {value!r}.")


@dataclass(frozen=True, eq=False)
class Tiles:
    """Tiles as they were laid: coordinates only, no pixels.

    Attributes:
        boxes: x y w h of each tile, level-0 pixels; in the order of the layout (row-major for :class:`Grid`).
        coverage: Share of each tile that is tissue, 0..1.
        tile_px: Width of a tile in output pixels (and height, unless ``tile_height_px`` says otherwise).
        mpp: Achieved resolution, µm per output pixel: the box is whole pixels. None where the slide's is
            unknown.
        level: Pyramid level in whose pixels they were laid; None where they were laid at a resolution.
        grid: The rule they were laid by.
        slide_size: Size of the slide's level 0.
        slide_mpp: The slide's resolution when they were laid, µm per level-0 pixel; None where unknown.
        level_size: Size of that pyramid level; None where ``level`` is.
        tile_height_px: Height of a tile in output pixels where tiles are not square.
    """

    boxes: Int64[np.ndarray, "n 4"]
    coverage: Float32[np.ndarray, " n"]
    tile_px: int
    mpp: float | None
    level: int | None
    grid: Layout
    slide_size: Size
    slide_mpp: float | None
    level_size: Size | None = None
    tile_height_px: int | None = None

    def __post_init__(self) -> None:
        if (self.level is None) != (self.level_size is None):
            raise ConfigError(f"Tiles of a level need its size, others none. Got {self.level} and {self.level_size}.")
        if len(self.boxes) != len(self.coverage):
            raise ConfigError(
                f"Each box needs a coverage. Got {len(self.boxes)} boxes, {len(self.coverage)} coverages."
            )
        for name in ("boxes", "coverage"):
            frozen = np.array(getattr(self, name))  # a copy: nobody else may write to it
            frozen.flags.writeable = False
            object.__setattr__(self, name, frozen)

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def tile_size(self) -> Size:
        """Size of a tile in output pixels."""
        return Size(self.tile_px, self.tile_px if self.tile_height_px is None else self.tile_height_px)

    @property
    def recipe(self) -> Mapping[str, object]:
        """What decides the tiles' pixels and order beside the slide, flat, for a digest.

        The values alone: two settings that lay the same boxes are the same recipe.
        """
        return {
            "tile_boxes": self.boxes,
            "tile_size_px": [self.tile_size.width, self.tile_size.height],
            "tile_mpp": self.mpp,
            "tile_level": self.level,
            "tile_slide_size": [self.slide_size.width, self.slide_size.height],
            "tile_slide_mpp": self.slide_mpp,
        }


def lay_tiles(slide: Slide, tissue: Tissue | None, grid: Grid, *, allow_empty: bool = False) -> Tiles:
    """Lay tiles on a slide.

    Args:
        slide: The slide; only its size, bounds, levels and resolution are used, no pixel is read.
        tissue: Where tissue is; None lays the whole grid (coverage 1).
        grid: How to lay.
        allow_empty: Return no tiles where none remains, instead of raising.

    Returns:
        Tiles in row-major order: by y, then x. Each is kept if its coverage is at least ``grid.min_tissue``.

    Raises:
        NoTilesError: If no tile remains and ``allow_empty`` is False; the message says why.
        TileError: If the tissue is of another slide, or a tile or stride is less than one slide pixel.
        ResolutionError: If ``grid.mpp`` is given and the slide's resolution is not known.
    """
    if tissue is not None and tissue.size != slide.size:
        raise TileError(
            f"The tissue is of a slide of {tissue.size.width} × {tissue.size.height} px, but '{slide.name}' "
            f"has {slide.size.width} × {slide.size.height} px. Pass the tissue found on this slide."
        )
    scales = _scales(slide, grid)
    sides = _side(slide, grid.tile_px, scales[0]), _side(slide, grid.tile_px, scales[1])
    try:
        boxes, coverage = _kept(slide, tissue, grid, scales, sides)
    except NoTilesError:
        if not allow_empty:
            raise
        boxes, coverage = np.zeros((0, 4), np.int64), np.zeros(0, np.float32)
    mpp0 = slide.resolution.mpp
    return Tiles(
        boxes=boxes,
        coverage=coverage,
        tile_px=grid.tile_px,
        mpp=None if mpp0 is None else sides[0] * mpp0 / grid.tile_px,
        level=grid.level,
        grid=grid,
        slide_size=slide.size,
        slide_mpp=mpp0,
        level_size=None if grid.level is None else slide.levels[grid.level].size,
    )


def _kept(
    slide: Slide, tissue: Tissue | None, grid: Grid, scales: tuple[float, float], sides: tuple[int, int]
) -> tuple[Int64[np.ndarray, "n 4"], Float32[np.ndarray, " n"]]:
    """Boxes and coverage of the tiles that remain, at least one."""
    if tissue is not None and tissue.is_empty and (grid.min_tissue > 0 or grid.anchor == "tissue"):
        raise NoTilesError(f"Slide '{slide.name}': no tile can be laid because there is no tissue.")
    frame = _frame(slide, tissue, grid)
    xs = _starts(frame.x, frame.right, sides[0], grid.stride * scales[0], span=_span(slide.bounds, "x", grid))
    ys = _starts(frame.y, frame.bottom, sides[1], grid.stride * scales[1], span=_span(slide.bounds, "y", grid))
    boxes = _cross(slide, xs, ys, *sides)
    coverage = np.ones(len(boxes), np.float32) if tissue is None else cover(tissue, boxes)
    keep = coverage >= grid.min_tissue - COVERAGE_TOLERANCE
    if not keep.any():
        raise NoTilesError(_why_none(slide, grid, boxes, coverage, sides))
    return boxes[keep], coverage[keep]


def cover(tissue: Tissue, boxes: Int64[np.ndarray, "n 4"]) -> Float32[np.ndarray, " n"]:
    """Share of each box that is tissue; only boxes that meet the tissue's bounding box are measured.

    Args:
        tissue: Where tissue is.
        boxes: x y w h, level-0 pixels.

    Returns:
        Shares, 0..1.
    """
    shares = np.zeros(len(boxes), np.float32)
    if tissue.is_empty:
        return shares
    left, top, right, bottom = tissue.polygons.bounds
    x, y, w, h = boxes.T
    near = (x < right) & (x + w > left) & (y < bottom) & (y + h > top)
    shares[near] = np.clip(tissue.coverage(boxes[near]), 0, 1)
    return shares


def level_of(slide: Slide, level: int) -> int:
    """``level`` if the slide has it.

    Raises:
        TileError: If it has not.
    """
    if level >= len(slide.levels):
        raise TileError(
            f"Slide '{slide.name}' has no level {level}. It has {len(slide.levels)} level(s), 0 to "
            f"{len(slide.levels) - 1}."
        )
    return level


def _scales(slide: Slide, grid: Grid) -> tuple[float, float]:
    """Level-0 pixels per output pixel, across and down."""
    if grid.level is not None:
        level = slide.levels[level_of(slide, grid.level)]
        return level.downsample_x, level.downsample_y
    if grid.mpp is None:
        raise ConfigError("A grid needs exactly one of mpp and level.")
    scale = grid.mpp / slide.mpp
    if grid.stride * scale < 1:
        raise TileError(
            f"A stride of {grid.stride} px at {grid.mpp:g} µm/px is less than one pixel of slide "
            f"'{slide.name}' ({slide.mpp:g} µm/px). Pass a larger stride_px."
        )
    return scale, scale


def _side(slide: Slide, tile_px: int, scale: float) -> int:
    side = round(tile_px * scale)
    if side < 1:
        raise TileError(
            f"A tile of {tile_px} px is less than one pixel of slide '{slide.name}'. Pass a larger tile_px."
        )
    return side


def _frame(slide: Slide, tissue: Tissue | None, grid: Grid) -> Box:
    """The part of the slide to lay tiles on; its corner is the grid's origin."""
    if grid.anchor == "slide":
        return Box(0, 0, max(1, slide.bounds.right), max(1, slide.bounds.bottom))
    if tissue is None:
        raise TileError(f"Slide '{slide.name}': a grid anchored at tissue needs tissue. Pass it, or anchor='slide'.")
    left, top, right, bottom = tissue.polygons.bounds
    x, y = math.floor(left), math.floor(top)
    around = Box(x, y, max(1, math.ceil(right) - x), max(1, math.ceil(bottom) - y))
    frame = around.intersection(slide.bounds)
    if frame is None:
        raise NoTilesError(f"Slide '{slide.name}': all tissue lies outside of the scanned part ({slide.bounds}).")
    return frame


def _span(bounds: Box, axis: Literal["x", "y"], grid: Grid) -> tuple[int, int, bool]:
    """First and end coordinate of the scanned part along an axis, and whether tiles must stay inside."""
    start, end = (bounds.x, bounds.right) if axis == "x" else (bounds.y, bounds.bottom)
    return start, end, grid.bounds == "in"


def _starts(origin: int, end: int, side: int, stride: float, *, span: tuple[int, int, bool]) -> Int64[np.ndarray, " n"]:
    """Coordinates ``origin + round(i · stride)`` below ``end``, of tiles that meet (or lie in) the span."""
    low, high, inside = span
    first = max(0, math.floor((low - side - origin) / stride) - 1)  # a slide's scanned part may begin far from (0, 0)
    last = max(first, math.ceil((end - origin) / stride) + 1)
    starts = origin + np.rint(np.arange(first, last + 1, dtype=np.float64) * stride).astype(np.int64)
    kept = starts < end
    kept &= (starts >= low) & (starts + side <= high) if inside else (starts < high) & (starts + side > low)
    result: Int64[np.ndarray, " n"] = starts[kept]
    return result


def _cross(
    slide: Slide, xs: Int64[np.ndarray, " c"], ys: Int64[np.ndarray, " r"], side_x: int, side_y: int
) -> Int64[np.ndarray, "n 4"]:
    if len(xs) * len(ys) > MAX_CANDIDATES:
        raise TileError(
            f"The grid has {len(xs)} × {len(ys)} places on slide '{slide.name}', more than {MAX_CANDIDATES}. "
            "Pass a larger stride_px or mpp."
        )
    return boxes_at(xs, ys, side_x, side_y)


def boxes_at(xs: Int[np.ndarray, " c"], ys: Int[np.ndarray, " r"], width: int, height: int) -> Int64[np.ndarray, "n 4"]:
    """Boxes of one size at every pair of coordinates, row-major.

    Args:
        xs: Left edges, level-0 pixels.
        ys: Upper edges.
        width: Width of each box.
        height: Height of each box.

    Returns:
        x y w h, by y, then x.
    """
    boxes = np.empty((len(ys), len(xs), 4), np.int64)
    boxes[..., 0] = xs[None, :]
    boxes[..., 1] = ys[:, None]
    boxes[..., 2:] = (width, height)
    return boxes.reshape(-1, 4)


def _why_none(
    slide: Slide, grid: Grid, boxes: np.ndarray, coverage: Float[np.ndarray, " n"], sides: tuple[int, int]
) -> str:
    if len(boxes) == 0:
        return (
            f"Slide '{slide.name}': no tile of {sides[0]} × {sides[1]} px lies on the grid and inside of the "
            f"scanned part of {slide.bounds.width} × {slide.bounds.height} px. Pass a smaller tile_px or "
            "mpp, or bounds='pad'."
        )
    return (
        f"Slide '{slide.name}': none of {len(boxes)} tiles is at least {grid.min_tissue:g} tissue; the best "
        f"is {float(coverage.max()):.3g}. Pass a smaller min_tissue or tile_px."
    )
