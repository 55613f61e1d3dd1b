"""What the ``texture`` encoder finds in tiles: nuclei, what lies between them, and lumen.

Works on cells of 2 px; lengths and areas are told in tile pixels. Tiles of a chunk are labelled in one tall image.
"""

from dataclasses import dataclass
from typing import Any

import cv2 as _cv2
import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, UInt8
from scipy.spatial import cKDTree

from microtome.encoders.texture_stacks import BINOMIAL_3, MEAN_5, filter_each, find_runs, label, spaced

cv2: Any = _cv2  # OpenCV's stubs know no numbers as operands, which its functions take

_CELL_PX = 2
_NUCLEUS_OVER_LOCAL = 0.12  # OD above the mean of the surroundings
_NUCLEUS_FLOOR = 0.25  # OD; fainter haematoxylin is no nucleus whatever surrounds it
_NUCLEUS_AREA_PX = (30, 3000)  # up to a few that touch
_FAR_PX = 64.0  # distances are cut here, so that small tiles compare with large ones
_CENTRE_STEPS = 64  # per cell: centres on a grid of powers of two, so that differences are exact in any tile

WHITE_OD = 0.2
_DARK_OD = 1.5
_WHITE_CELL_PX = 4
_WHITE_AREA_PX = 30

Stack = Float32[np.ndarray, "n h w"]
Masks = UInt8[np.ndarray, "n h w"]
Column = Float[np.ndarray, " n"]


@dataclass(frozen=True, slots=True)
class Nuclei:
    """Nuclei of a chunk of tiles, in order of tile and first pixel.

    Attributes:
        tile: Which tile each lies in.
        area_px: Area in tile pixels.
        centre_px: Centre x y in tile pixels, to 1/32 px.
        elongation: 1 - short axis / long axis.
        angle: Direction of the long axis, radians.
    """

    tile: Int64[np.ndarray, " m"]
    area_px: Float64[np.ndarray, " m"]
    centre_px: Float64[np.ndarray, "m 2"]
    elongation: Float64[np.ndarray, " m"]
    angle: Float64[np.ndarray, " m"]


def nuclear_values(h: Stack, around: Float32[np.ndarray, "n _ _"]) -> tuple[Masks, list[Column]]:
    """Dark blobs of any size, and the measures of those of a nucleus' size.

    Args:
        h: Haematoxylin in cells of 2 px, OD.
        around: The same in cells of 8 px.

    Returns:
        Masks of all blobs, 1 or 0; ten columns.
    """
    blobs = find_blobs(h, around)
    nuclei = measure_blobs(blobs)
    return blobs, [*_summarise(nuclei, len(h), h[0].size * _CELL_PX**2), *_staining(h, blobs)]


def find_blobs(h: Stack, around: Float32[np.ndarray, "n _ _"]) -> Masks:
    """Cells where smoothed haematoxylin exceeds 0.25 OD and its 40 px surroundings by 0.12 OD, as 1 and 0."""
    height, width = h.shape[1:]
    mean = filter_each(around, MEAN_5)  # 40 px, some three nuclei wide at 0.5 µm/px
    limit = np.empty_like(h)
    for tile, coarse in zip(limit, mean, strict=True):
        cv2.resize(coarse, (width, height), dst=tile, interpolation=cv2.INTER_LINEAR)
    np.add(limit, np.float32(_NUCLEUS_OVER_LOCAL), out=limit)
    np.maximum(limit, np.float32(_NUCLEUS_FLOOR), out=limit)
    blobs: np.ndarray = np.greater(filter_each(h, BINOMIAL_3), limit).view(np.uint8)
    return blobs


def measure_blobs(blobs: Masks) -> Nuclei:
    """Measure the blobs, 4-connected, of 30 to 3000 px, from the moments of their cells."""
    apart = spaced(blobs)
    height, width = apart.shape[1:]
    labels, count = label(apart)
    start, length = find_runs(apart)
    of = labels.ravel()[start]
    cells = np.bincount(of, weights=length, minlength=count).astype(np.float64)  # whole numbers if empty
    area_px = cells * _CELL_PX**2
    sized = (area_px >= _NUCLEUS_AREA_PX[0]) & (area_px <= _NUCLEUS_AREA_PX[1])
    inside = sized[of]
    start, length = start[inside], length[inside]
    of = (np.cumsum(sized) - 1)[of[inside]]
    y = start // width
    x = start - y * width
    tile = y // height
    y -= tile * height
    # Sums over a run of cells, in whole numbers: exact, so that no rounding depends on the chunk.
    last = x + length - 1
    run_x = (x + last) * length // 2
    run_xx = (last * (last + 1) * (2 * last + 1) - (x - 1) * x * (2 * x - 1)) // 6
    cells = cells[sized]
    mx, my, mxx, myy, mxy = (
        np.bincount(of, weights=weights, minlength=len(cells)) / cells
        for weights in (run_x, y * length, run_xx, y * y * length, y * run_x)
    )
    owner = np.zeros(len(cells), dtype=np.int64)
    owner[of] = tile
    elongation, angle = _axes(mxx - mx * mx, myy - my * my, mxy - mx * my)
    centre = np.rint(np.stack([mx, my], axis=1) * _CENTRE_STEPS) / _CENTRE_STEPS
    return Nuclei(
        tile=owner,
        area_px=cells * _CELL_PX**2,
        centre_px=(centre + 0.5) * _CELL_PX - 0.5,
        elongation=elongation,
        angle=angle,
    )


def _axes(
    xx: Float64[np.ndarray, " m"], yy: Float64[np.ndarray, " m"], xy: Float64[np.ndarray, " m"]
) -> tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
    """Elongation and direction from central second moments."""
    # 1/12 is a cell's own extent: without it a line one cell wide would have no width.
    xx, yy = xx + 1 / 12, yy + 1 / 12
    spread = np.hypot(xx - yy, 2 * xy)
    return 1 - np.sqrt(np.maximum(xx + yy - spread, 0) / (xx + yy + spread)), np.arctan2(2 * xy, xx - yy) / 2


def _summarise(nuclei: Nuclei, n: int, tile_area_px: int) -> list[Column]:
    tile = nuclei.tile
    count = np.bincount(tile, minlength=n)
    some = count > 0

    def mean(values: Float64[np.ndarray, " m"], empty: float = 0.0) -> Column:
        sums = np.bincount(tile, weights=values, minlength=n)
        means: np.ndarray = np.where(some, sums / np.maximum(count, 1), empty)
        return means

    log_area = np.log(nuclei.area_px)
    size = mean(log_area, np.log(_NUCLEUS_AREA_PX[0]))
    aligned = [mean(nuclei.elongation * turn(2 * nuclei.angle)) for turn in (np.cos, np.sin)]
    return [
        np.bincount(tile, weights=nuclei.area_px, minlength=n) / tile_area_px,
        np.log1p(count * 1e4 / tile_area_px),
        size,
        np.sqrt(mean((log_area - size[tile]) ** 2)),
        mean(nuclei.elongation),
        np.hypot(*aligned),
        *_spacing(nuclei, count, tile_area_px),
    ]


def _spacing(nuclei: Nuclei, count: Int64[np.ndarray, " n"], tile_area_px: int) -> tuple[Column, Column]:
    """Mean distance to the nearest neighbour, and that over what points thrown at random would have."""
    several = count > 1
    if not several.any():
        return np.full(len(count), _FAR_PX), np.ones(len(count))
    centre, tile = nuclei.centre_px, nuclei.tile
    # One tree for all tiles, laid so far apart that no nucleus of another tile is nearer than distances are cut.
    step = float(np.ceil(centre[:, 1].max()) + 2 * _FAR_PX)
    laid = centre + np.stack([np.zeros(len(tile)), tile * step], axis=1)
    tree = cKDTree(laid, balanced_tree=False, compact_nodes=False)
    nearest = np.minimum(np.asarray(tree.query(laid, k=2)[0])[:, 1], _FAR_PX)
    mean = np.bincount(tile, weights=nearest, minlength=len(count)) / np.maximum(count, 1)
    random = np.minimum(0.5 * np.sqrt(tile_area_px / np.maximum(count, 1)), _FAR_PX)
    return np.where(several, mean, _FAR_PX), np.where(several, mean / random, 1.0)


def _staining(h: Stack, blobs: Masks) -> list[Column]:
    """Mean and standard deviation of haematoxylin in blobs of any size."""
    inside, flat = _weights(blobs), h.reshape(len(h), -1)
    cells = np.maximum(inside.sum(axis=1).astype(np.float64), 1)
    inside *= flat
    mean = inside.sum(axis=1) / cells
    inside *= flat
    squares = inside.sum(axis=1) / cells
    return [mean, np.sqrt(np.maximum(squares - mean**2, 0))]


def _weights(masks: Masks) -> Float32[np.ndarray, "n p"]:
    return masks.reshape(len(masks), -1).astype(np.float32)


def ground_values(planes: Float32[np.ndarray, "4 n h w"], white: Masks, blobs: Masks) -> list[Column]:
    """Colour of what is neither lumen nor dark blob: cytoplasm, fibres, mucin.

    Args:
        planes: Haematoxylin, eosin, optical density and residual in cells of 2 px, OD.
        white: Cells of lumen or glass, 1 or 0.
        blobs: Dark blobs, 1 or 0.

    Returns:
        Four columns, 0 where there is no ground.
    """
    h, e, od, residual = planes.reshape(*planes.shape[:2], -1)
    ground = _weights((white | blobs) ^ 1)
    cells = np.maximum(ground.sum(axis=1).astype(np.float64), 1)

    def mean(plane: Float32[np.ndarray, "n p"]) -> Column:
        means: np.ndarray = (plane * ground).sum(axis=1) / cells
        return means

    variance = mean(od * od) - mean(od) ** 2
    return [mean(h), mean(e), mean(residual), np.sqrt(np.maximum(variance, 0))]


def lumen_values(od: Stack, od_coarse: Float32[np.ndarray, "n _ _"], white: Masks) -> list[Column]:
    """Lumen, fat and glass, and what is too dark for tissue.

    Args:
        od: Optical density in cells of 2 px.
        od_coarse: The same in cells of 4 px.
        white: Cells of 2 px that count as white, 1 or 0.

    Returns:
        Four columns.
    """
    cells = od[0].size
    masks = (od_coarse < WHITE_OD).view(np.uint8)
    depth = np.array([_depth(mask) for mask in masks])
    tile_area_px = masks[0].size * _WHITE_CELL_PX**2
    dark = np.array([cv2.countNonZero(tile) for tile in np.greater(od, np.float32(_DARK_OD)).view(np.uint8)])
    share = np.array([cv2.countNonZero(tile) for tile in white]) / cells
    return [
        share,
        np.log1p(depth),
        np.log1p(_count_pieces(masks) * (1e4 / tile_area_px)),
        np.log1p(100 * dark / cells),
    ]


def _depth(mask: UInt8[np.ndarray, "h w"]) -> float:
    """Mean distance of white to what is not, px; 0 where nothing is white."""
    n_white = cv2.countNonZero(mask)
    if n_white in (0, mask.size):
        return _FAR_PX if n_white else 0.0
    # To the cell's edge, not to the next one's centre: half a cell less.
    distance = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    cut = np.minimum(distance * _WHITE_CELL_PX, np.float32(_FAR_PX)).sum(dtype=np.float64)
    return float(cut / n_white - _WHITE_CELL_PX / 2)


def _count_pieces(masks: Masks) -> Int64[np.ndarray, " n"]:
    """White areas of at least 30 px in each tile."""
    apart = spaced(masks)
    labels, count = label(apart)
    start, length = find_runs(apart)
    of = labels.ravel()[start]
    owner = np.zeros(count, dtype=np.int64)
    owner[of] = start // apart[0].size
    large = np.bincount(of, weights=length, minlength=count) * _WHITE_CELL_PX**2 >= _WHITE_AREA_PX
    large[0] = False
    pieces: np.ndarray = np.bincount(owner[large], minlength=len(masks))
    return pieces
