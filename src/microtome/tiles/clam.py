"""Tiles as CLAM lays them: one grid per tissue contour, a test at each place, holes left out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float32, Int, Int64

from microtome.errors import ConfigError, NoTilesError
from microtome.slides.base import Slide
from microtome.tiles.grid import Layout, Tiles, level_of
from microtome.tissue.saturation import Contour

ContourTest = Literal["four_pt", "four_pt_hard", "center", "basic"]
_RASTER_PX = 64  # a patch's side on the raster on which its share of tissue is measured


@dataclass(frozen=True, slots=True)
class ClamGrid(Layout):
    """CLAM's patch grid, with its defaults.

    Attributes:
        patch_px: Side of a patch, in pixels of ``level``.
        step_px: Distance from patch to patch, in pixels of ``level``.
        level: Pyramid level that patches are read from.
        contour_fn: When a place lies in a contour. ``four_pt``: any of four points around the centre
            (half-way to the corners) does; ``four_pt_hard``: all of them do; ``center``: the centre does;
            ``basic``: the top-left corner does. A point on the outline lies in it.
        use_padding: Whether a patch may reach out of the slide.
    """

    patch_px: int = 256
    step_px: int = 256
    level: int = 0
    contour_fn: ContourTest = "four_pt"
    use_padding: bool = True

    def __post_init__(self) -> None:
        if self.patch_px < 1 or self.step_px < 1 or self.level < 0:
            raise ConfigError(f"patch_px and step_px must be at least 1, level at least 0. Got {self}.")
        if self.contour_fn not in _TESTS:
            raise ConfigError(f"contour_fn must be one of {', '.join(_TESTS)}. Got {self.contour_fn!r}.")


def lay_clam(slide: Slide, contours: Sequence[Contour], grid: ClamGrid) -> Tiles:
    """Lay tiles where CLAM does.

    Args:
        slide: The slide; no pixel is read.
        contours: Outlines of the tissue and its holes.
        grid: How to lay.

    Returns:
        Tiles in CLAM's own order: contour by contour, in each by x, then y. Where contours' bounding boxes
        overlap, so may their tiles. Coverage is the share of the patch inside of its contour and outside of
        its holes, measured on a raster of about 64 × 64 points per patch.

    Raises:
        NoTilesError: If no tile remains.
        TileError: If the slide has no such level.

    References:
        CLAM (53e2409), ``create_patches_fp.py``: the grid starts at the contour's bounding box, the step is
        ``step_size · int(downsample)``, a patch is left out if its centre lies strictly inside of a hole.
    """
    level = slide.levels[level_of(slide, grid.level)]
    down_x, down_y = int(level.downsample_x), int(level.downsample_y)
    width, height = grid.patch_px * down_x, grid.patch_px * down_y
    laid = [_lay_contour(slide, contour, grid, (down_x, down_y)) for contour in contours]
    boxes = np.concatenate([boxes for boxes, _ in laid]) if laid else np.zeros((0, 4), np.int64)
    if len(boxes) == 0:
        raise NoTilesError(
            f"Slide '{slide.name}': no patch of {width} × {height} px lies in any of {len(contours)} "
            f"contours by {grid.contour_fn}. Pass a smaller patch_px, or other segmentation parameters."
        )
    mpp0 = slide.resolution.mpp
    return Tiles(
        boxes=boxes,
        coverage=np.concatenate([shares for _, shares in laid]),
        tile_px=grid.patch_px,
        mpp=None if mpp0 is None else width * mpp0 / grid.patch_px,
        level=grid.level,
        grid=grid,
        slide_size=slide.size,
        slide_mpp=mpp0,
        level_size=level.size,
    )


def _lay_contour(
    slide: Slide, contour: Contour, grid: ClamGrid, down: tuple[int, int]
) -> tuple[Int64[np.ndarray, "n 4"], Float32[np.ndarray, " n"]]:
    outline = _points(contour.outline)
    holes = [_points(hole) for hole in contour.holes]
    width, height = grid.patch_px * down[0], grid.patch_px * down[1]
    x, y, w, h = cv2.boundingRect(outline)
    # a patch without padding must end inside of the slide; the last place that does is still used
    end_x = x + w if grid.use_padding else min(x + w, slide.size.width - width + 1)
    end_y = y + h if grid.use_padding else min(y + h, slide.size.height - height + 1)
    inside = _TESTS[grid.contour_fn]
    boxes = [
        (left, top, width, height)
        for left in range(x, end_x, grid.step_px * down[0])
        for top in range(y, end_y, grid.step_px * down[1])
        if inside(outline, left, top, width) and not _centre_in_hole(holes, left, top, width)
    ]
    table = np.array(boxes, np.int64).reshape(-1, 4)
    return table, _shares(outline, holes, table)


def _points(points: Int[np.ndarray, "n 2"]) -> np.ndarray:
    return np.ascontiguousarray(points, np.int32).reshape(-1, 1, 2)


def _holds(outline: np.ndarray, x: float, y: float) -> bool:
    return bool(cv2.pointPolygonTest(outline, (float(x), float(y)), measureDist=False) >= 0)


def _four(outline: np.ndarray, left: int, top: int, side: int) -> list[bool]:
    x, y, shift = left + side // 2, top + side // 2, int(side // 2 * 0.5)
    shifts = [(-shift, -shift), (shift, shift), (shift, -shift), (-shift, shift)] if shift else [(0, 0)]
    return [_holds(outline, x + dx, y + dy) for dx, dy in shifts]


_TESTS: dict[str, Callable[[np.ndarray, int, int, int], bool]] = {
    "four_pt": lambda outline, left, top, side: any(_four(outline, left, top, side)),
    "four_pt_hard": lambda outline, left, top, side: all(_four(outline, left, top, side)),
    "center": lambda outline, left, top, side: _holds(outline, left + side // 2, top + side // 2),
    "basic": lambda outline, left, top, _: _holds(outline, left, top),
}


def _centre_in_hole(holes: Sequence[np.ndarray], left: int, top: int, side: int) -> bool:
    centre = (left + side / 2, top + side / 2)
    return any(cv2.pointPolygonTest(hole, centre, measureDist=False) > 0 for hole in holes)


def _shares(
    outline: np.ndarray, holes: Sequence[np.ndarray], boxes: Int64[np.ndarray, "n 4"]
) -> Float32[np.ndarray, " n"]:
    """Share of each box inside of the outline and outside of the holes, one row of patches at a time."""
    shares = np.zeros(len(boxes), np.float32)
    if len(boxes) == 0:
        return shares
    scale = min(1.0, _RASTER_PX / float(boxes[0, 2]))
    left = int(boxes[:, 0].min())
    span = int((boxes[:, 0] + boxes[:, 2]).max()) - left
    for top in np.unique(boxes[:, 1]):
        chosen = np.flatnonzero(boxes[:, 1] == top)
        corner = np.array([left, top])
        strip = np.zeros((max(1, round(int(boxes[0, 3]) * scale)), max(1, round(span * scale))), np.uint8)
        for polygon, value in [(outline, 1), *((hole, 0) for hole in holes)]:
            cv2.fillPoly(strip, [np.rint((polygon - corner) * scale).astype(np.int32)], value)
        sums = np.concatenate([[0], np.cumsum(strip.sum(axis=0, dtype=np.int64))])
        starts = np.rint((boxes[chosen, 0] - left) * scale).astype(np.int64)
        ends = np.minimum(len(sums) - 1, np.rint((boxes[chosen, 0] + boxes[chosen, 2] - left) * scale).astype(np.int64))
        area = np.maximum(1, (ends - starts) * strip.shape[0])
        shares[chosen] = np.minimum(1, (sums[ends] - sums[starts]) / area)
    return shares
