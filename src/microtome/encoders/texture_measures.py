"""The measurements behind the ``texture`` encoder, tile by tile, in OpenCV and NumPy.

Every measure is a mean, share or density over the tile, so that tiles of different sizes compare; filters mirror
the tile at its border (without repeating the edge pixel). The order of values is that of ``TEXTURE_FEATURES``.
"""

from itertools import pairwise
from math import log, log1p
from typing import Any

import cv2 as _cv2
import numpy as np
from jaxtyping import Float32, Float64, Int32, UInt8
from scipy.spatial import cKDTree

from microtome.stain import od_table, unmixing_matrix

cv2: Any = _cv2  # OpenCV's stubs know no numbers as operands, which its functions take

_OD_MAX = 2.55  # intensity 20 of 255; denser is ink, a fold or dirt, and must not outweigh tissue
_OD = np.minimum(od_table(), np.float32(_OD_MAX))
# Rows that turn the OD of R, G, B into haematoxylin, eosin, residual and mean OD.
_MIXES = [row[None] for row in np.vstack([unmixing_matrix().T, np.full(3, 1 / 3)]).astype(np.float32)]
_STEPS_PER_OD = 100.0  # planes are also kept as 8 bits in steps of 0.01 OD, for quantiles and patterns
_FLAT = 1e-6  # variance (OD²) below which a plane counts as flat; one grey level in a thousand pixels has more

_BANDS = 6  # octaves; neighbouring ones say nearly the same, so that some measures take every other one
_E_LEVELS = (0, 2, 4)
_SKEW_LEVELS = (1, 2, 3, 4)
_SPREAD_LEVELS = (0, 2, 4)
_CORRELATION_LEVELS = (1, 3)
_NOISE_OD = 0.01  # noise of 8-bit JPEG: energies below it are not told apart
_LBP_SCALES = 3
_LBP_TOLERANCE = 3  # steps of 0.01 OD: JPEG noise must not make patterns
_CELL_PX = 4
_WINDOW_CELLS = 3

_NUCLEUS_OVER_LOCAL = 0.12  # OD above the mean of the surroundings
_NUCLEUS_FLOOR = 0.25  # OD; fainter haematoxylin is no nucleus whatever surrounds it
_SURROUNDINGS_CELLS = 11  # 44 px, some three nuclei wide at 0.5 µm/px
_NUCLEUS_AREA_PX = (30, 3000)  # up to a few that touch
_FAR_PX = 64.0  # distances are cut here, so that small tiles compare with large ones
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))

_WHITE_OD = 0.2
_DARK_OD = 1.5
_WHITE_AREA_PX = 30

Plane = Float32[np.ndarray, "h w"]
Smaller = Float32[np.ndarray, "H W"]
Mask = UInt8[np.ndarray, "h w"]


def measure_tile(image: UInt8[np.ndarray, "h w 3"]) -> Float64[np.ndarray, " d"]:
    """Measure one tile.

    Args:
        image: 8-bit RGB pixels, at least 32 px high and wide.

    Returns:
        One value per entry of ``TEXTURE_FEATURES``.
    """
    density = cv2.LUT(np.ascontiguousarray(image), _OD)
    # One plane at a time: several times faster than all at once and cv2.split.
    h, e, residual, od = (cv2.transform(density, row) for row in _MIXES)
    steps = _to_steps(od)
    white = cv2.compare(cv2.GaussianBlur(od, (3, 3), 0.8), _WHITE_OD, cv2.CMP_LT)
    labels, nuclei, areas, centres = find_nuclei(h)
    return np.array(
        [
            *_stain_values(density, h, e, residual),
            *_quantiles(steps, (0.05, 0.95)),
            *_band_values(h, e),
            *_pattern_values(steps),
            *_edge_values(od),
            *_nuclear_values(h, labels, nuclei, areas, centres),
            *_ground_values((h, e, residual, od), white, labels),
            *_lumen_values(od, white),
        ],
        dtype=np.float64,
    )


def _to_steps(plane: Plane) -> UInt8[np.ndarray, "h w"]:
    steps: np.ndarray = cv2.convertScaleAbs(cv2.max(plane, 0.0), alpha=_STEPS_PER_OD)  # rounds, saturates at 255
    return steps


# -- colour -----------------------------------------------------------------------------------------------------


def _stain_values(density: Float32[np.ndarray, "h w 3"], h: Plane, e: Plane, residual: Plane) -> list[float]:
    (h_mean, h_std), (e_mean, e_std), (_, residual_std) = (_mean_std(plane) for plane in (h, e, residual))
    red, green, blue = cv2.mean(density)[:3]
    absorbed, dyed = red + green + blue, max(h_mean, 0.0) + max(e_mean, 0.0)
    return [
        h_std,
        _asymmetry(*_quantiles(_to_steps(h), (0.05, 0.5, 0.95))),
        e_std,
        _asymmetry(*_quantiles(_to_steps(e), (0.05, 0.5, 0.95))),
        residual_std,
        max(h_mean, 0.0) / dyed if dyed > _NOISE_OD else 0.5,
        blue / absorbed if absorbed > _NOISE_OD else 1 / 3,
        _correlation(cv2.subtract(h, h_mean), cv2.subtract(e, e_mean)),
    ]


def _mean_std(plane: Plane) -> tuple[float, float]:
    """Mean and standard deviation; cv2.meanStdDev gives the same in ten times the time."""
    mean = cv2.mean(plane)[0]
    return mean, max(_rms(plane) ** 2 - mean**2, 0.0) ** 0.5


def _quantiles(steps: UInt8[np.ndarray, "h w"], shares: tuple[float, ...]) -> list[float]:
    """Quantiles in OD, interpolated inside of the 0.01 OD step that holds them."""
    counts = cv2.calcHist([steps], [0], None, [256], [0, 256]).ravel().astype(np.float64)
    total = np.cumsum(counts)
    wanted = np.array(shares) * total[-1]
    step = np.searchsorted(total, wanted)
    inside = (wanted - (total[step] - counts[step])) / counts[step]
    quantiles: list[float] = (np.clip(step + inside - 0.5, 0, 255) / _STEPS_PER_OD).tolist()
    return quantiles


def _asymmetry(low: float, middle: float, high: float) -> float:
    width = high - low
    return (high + low - 2 * middle) / width if width > 2 * _NOISE_OD else 0.0


def _rms(plane: Plane) -> float:
    return float(cv2.norm(plane) / plane.size**0.5)


def _correlation(a: Plane, b: Plane) -> float:
    """Correlation of two planes of mean 0; 0 where either is flat."""
    rms_a, rms_b = _rms(a), _rms(b)
    if min(rms_a, rms_b) ** 2 <= _FLAT:
        return 0.0
    product = float(cv2.mean(cv2.multiply(a, b))[0])
    return min(max(product / (rms_a * rms_b), -1.0), 1.0)


# -- texture ----------------------------------------------------------------------------------------------------


def _band_values(h: Plane, e: Plane) -> list[float]:
    """Energies, asymmetry, spread and stain correlation of the bands of two Laplacian pyramids."""
    h_ln, e_ln, skews, spreads, correlations = [], [], [], [], []
    for level in range(_BANDS):
        (h_band, h), (e_band, e) = _split_band(h), _split_band(e)
        rms = _rms(h_band)
        h_ln.append(log(_NOISE_OD + rms))
        if level in _E_LEVELS:
            e_ln.append(log(_NOISE_OD + _rms(e_band)) - h_ln[-1])
        if level in _SKEW_LEVELS:
            skews.append(_skew(h_band, rms))
        if level in _SPREAD_LEVELS:
            spreads.append(cv2.norm(h_band, cv2.NORM_L1) / h_band.size / rms if rms**2 > _FLAT else 1.0)
        if level in _CORRELATION_LEVELS:
            correlations.append(_correlation(h_band, e_band))
    rises = [coarse - fine for fine, coarse in pairwise(h_ln)]
    return [h_ln[0], *rises, *e_ln, *skews, *spreads, *correlations]


def _split_band(plane: Plane) -> tuple[Plane, Smaller]:
    low = cv2.pyrDown(plane)
    return cv2.subtract(plane, cv2.pyrUp(low, dstsize=plane.shape[1::-1])), low


def _skew(plane: Plane, rms: float) -> float:
    if rms**2 <= _FLAT:
        return 0.0
    third = cv2.mean(cv2.multiply(cv2.multiply(plane, plane), plane))[0]
    return float(np.cbrt(third) / rms)


def _pattern_table() -> Float64[np.ndarray, "256 4"]:
    """Which of the four pattern classes each 8-neighbour code falls into; code 0 (none darker) into none."""
    codes = (np.arange(256)[:, None] >> np.arange(8)) & 1
    count = codes.sum(axis=1)
    one_run = (codes != np.roll(codes, 1, axis=1)).sum(axis=1) <= 2
    classes = (
        one_run & (count >= 1) & (count <= 2),
        one_run & (count >= 3) & (count <= 5),
        one_run & (count >= 6),
        ~one_run,
    )
    return np.stack(classes, axis=1).astype(np.float64)


_PATTERNS = _pattern_table()
# Row and column of each bit in the 3×3 neighbourhood, all the way round.
_RING = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))


def _pattern_values(steps: UInt8[np.ndarray, "h w"]) -> list[float]:
    """Shares of local binary patterns, in rotation-invariant classes, at octave scales."""
    values: list[float] = []
    for scale in range(_LBP_SCALES):
        if scale:
            steps = cv2.pyrDown(steps)
        h, w = steps.shape
        padded = cv2.copyMakeBorder(steps, 1, 1, 1, 1, cv2.BORDER_REFLECT_101)
        centre = cv2.add(steps, _LBP_TOLERANCE)  # saturates at 255
        codes = np.zeros((h, w), dtype=np.uint8)
        for bit, (row, column) in enumerate(_RING):
            darker = cv2.compare(padded[row : row + h, column : column + w], centre, cv2.CMP_GT)
            codes |= darker & np.uint8(1 << bit)
        counts = cv2.calcHist([codes], [0], None, [256], [0, 256]).ravel().astype(np.float64)
        values += (counts @ _PATTERNS / codes.size).tolist()
    return values


# -- edges ------------------------------------------------------------------------------------------------------


def _edge_values(od: Plane) -> list[float]:
    """Strength and direction of edges: of fine detail, and of that of four pixels and more."""
    return [*_edges(cv2.GaussianBlur(od, (5, 5), 1.0)), *_edges(cv2.pyrDown(cv2.pyrDown(od)))]


def _smooth_cells(plane: Plane, window: int) -> Smaller:
    """Means over cells of 4 px, then over a window of cells: a wide blur at a fraction of its price."""
    cells = tuple(max(1, round(side / _CELL_PX)) for side in plane.shape[::-1])
    small = cv2.resize(plane, cells, interpolation=cv2.INTER_AREA)
    # Mirroring reaches no further than the cells go.
    smooth: np.ndarray = cv2.blur(small, tuple(min(window, 2 * side - 1) for side in cells))
    return smooth


def _edges(plane: Plane) -> list[float]:
    """Log mean gradient, and coherence of directions within a window and over the tile."""
    dx = cv2.Sobel(plane, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8)
    dy = cv2.Sobel(plane, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8)
    strength = cv2.magnitude(dx, dy)
    mean, energy = cv2.mean(strength)[0], _rms(strength) ** 2
    if energy <= _FLAT:
        return [log(_NOISE_OD + mean), 0.0, 0.0]
    # The gradient with its angle doubled, so that opposite directions add up instead of cancelling.
    along = cv2.subtract(cv2.multiply(dx, dx), cv2.multiply(dy, dy))
    across = cv2.multiply(dx, dy, scale=2)
    local = cv2.magnitude(_smooth_cells(along, _WINDOW_CELLS), _smooth_cells(across, _WINDOW_CELLS))
    tile = float(np.hypot(cv2.mean(along)[0], cv2.mean(across)[0]))
    return [log(_NOISE_OD + mean), min(cv2.mean(local)[0] / energy, 1.0), min(tile / energy, 1.0)]


# -- nuclei, what lies between them, and lumen ------------------------------------------------------------------


def find_nuclei(
    h: Plane,
) -> tuple[Int32[np.ndarray, "h w"], Int32[np.ndarray, " m"], Float64[np.ndarray, " m"], Float64[np.ndarray, "m 2"]]:
    """Find dark blobs of haematoxylin of a nucleus' size.

    A pixel is dark where smoothed haematoxylin exceeds 0.25 OD and its 44 px surroundings by 0.12 OD; blobs are
    4-connected after an opening by a 3×3 cross, and 30 to 3000 px large.

    Args:
        h: Haematoxylin concentration, OD.

    Returns:
        Label image of all blobs; labels of those of a nucleus' size, their areas in px, their centres x y in px.
    """
    smooth = cv2.GaussianBlur(h, (5, 5), 1.0)
    around = cv2.resize(_smooth_cells(h, _SURROUNDINGS_CELLS), h.shape[::-1], interpolation=cv2.INTER_LINEAR)
    limit = cv2.max(cv2.add(around, _NUCLEUS_OVER_LOCAL), _NUCLEUS_FLOOR)
    dark = cv2.morphologyEx(cv2.compare(smooth, limit, cv2.CMP_GT), cv2.MORPH_OPEN, _CROSS)
    _, labels, stats, centres = cv2.connectedComponentsWithStats(dark, connectivity=4)
    areas = stats[:, cv2.CC_STAT_AREA]
    sized = (areas >= _NUCLEUS_AREA_PX[0]) & (areas <= _NUCLEUS_AREA_PX[1])
    sized[0] = False  # the background
    kept = np.flatnonzero(sized).astype(np.int32)
    return labels, kept, areas[kept].astype(np.float64), centres[kept]


def _nuclear_values(
    h: Plane,
    labels: Int32[np.ndarray, "h w"],
    kept: Int32[np.ndarray, " m"],
    areas: Float64[np.ndarray, " m"],
    centres: Float64[np.ndarray, "m 2"],
) -> list[float]:
    n = len(kept)
    if not n:
        return [0.0, 0.0, log(_NUCLEUS_AREA_PX[0]), 0.0, 0.0, 0.0, _FAR_PX, 1.0, 0.0, 0.0]
    rank = np.full(int(labels.max()) + 1, -1, dtype=np.int32)
    rank[kept] = np.arange(n, dtype=np.int32)
    flat = np.flatnonzero(labels)
    nucleus = rank[labels.ravel()[flat]]
    flat, nucleus = flat[nucleus >= 0], nucleus[nucleus >= 0]
    rows, columns = np.divmod(flat, h.shape[1])
    elongation, angle = _axes(columns - centres[nucleus, 0], rows - centres[nucleus, 1], nucleus, areas)
    stained = h.ravel()[flat].astype(np.float64)
    log_area = np.log(areas)
    spacing, regularity = _spacing(centres, h.size)
    return [
        len(flat) / h.size,
        log1p(n * 1e4 / h.size),
        float(log_area.mean()),
        float(log_area.std()),
        float(elongation.mean()),
        float(np.abs((elongation * np.exp(2j * angle)).mean())),
        spacing,
        regularity,
        float(stained.mean()),
        float(stained.std()),
    ]


def _axes(
    dx: Float64[np.ndarray, " p"],
    dy: Float64[np.ndarray, " p"],
    nucleus: Int32[np.ndarray, " p"],
    areas: Float64[np.ndarray, " m"],
) -> tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
    """Elongation and direction of each nucleus from the second moments of its pixels."""
    xx, yy, xy = (np.bincount(nucleus, weights=w, minlength=len(areas)) / areas for w in (dx * dx, dy * dy, dx * dy))
    # 1/12 is a pixel's own extent: without it a line one pixel wide would have no width.
    xx, yy = xx + 1 / 12, yy + 1 / 12
    spread = np.hypot(xx - yy, 2 * xy)
    return 1 - np.sqrt(np.maximum(xx + yy - spread, 0) / (xx + yy + spread)), np.arctan2(2 * xy, xx - yy) / 2


def _spacing(centres: Float64[np.ndarray, "m 2"], area_px: int) -> tuple[float, float]:
    """Mean distance to the nearest neighbour, and that over what points thrown at random would have."""
    if len(centres) < 2:
        return _FAR_PX, 1.0
    tree = cKDTree(centres, balanced_tree=False, compact_nodes=False)
    nearest = np.asarray(tree.query(centres, k=2)[0])[:, 1]
    mean = float(np.minimum(nearest, _FAR_PX).mean())
    random = min(0.5 * (area_px / len(centres)) ** 0.5, _FAR_PX)
    return mean, mean / random


def _ground_values(
    planes: tuple[Plane, Plane, Plane, Plane], white: Mask, labels: Int32[np.ndarray, "h w"]
) -> list[float]:
    """Colour of what is neither lumen nor dark blob: cytoplasm, fibres, mucin."""
    ground = cv2.compare(labels, 0, cv2.CMP_EQ) & ~white
    n = cv2.countNonZero(ground)
    if not n:
        return [0.0] * 4
    weights = ground.astype(np.float32)  # 255 or 0
    scale = 1 / 255 / n
    means = [cv2.mean(cv2.multiply(plane, weights))[0] * plane.size * scale for plane in planes]
    od = cv2.multiply(planes[3], weights)
    squares = float(cv2.norm(od)) ** 2 * scale / 255
    return [*means[:3], max(squares - means[3] ** 2, 0.0) ** 0.5]


def _lumen_values(od: Plane, white: Mask) -> list[float]:
    n_white = cv2.countNonZero(white)
    depth = pieces = 0.0
    if n_white == white.size:
        depth, pieces = _FAR_PX, 1e4 / white.size
    elif n_white:
        distance = cv2.distanceTransform(white, cv2.DIST_L2, 3)
        depth = float(np.minimum(distance, _FAR_PX).sum(dtype=np.float64)) / n_white
        _, _, stats, _ = cv2.connectedComponentsWithStats(white, connectivity=4)
        pieces = np.count_nonzero(stats[1:, cv2.CC_STAT_AREA] >= _WHITE_AREA_PX) * 1e4 / white.size
    dark = cv2.countNonZero(cv2.compare(od, _DARK_OD, cv2.CMP_GT))
    return [n_white / white.size, log1p(depth), log1p(pieces), log1p(100 * dark / od.size)]
