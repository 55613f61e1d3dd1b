"""The measurements behind the ``texture`` encoder: many tiles per call, in OpenCV and NumPy.

Tiles of a chunk lie below each other in one tall image, so that a call serves all of them and Python's own share of
the time is small; a chunk is small enough for its planes to stay in the processor's caches. No value depends on what
else is in the chunk: filters work on tiles mirrored at their borders (the edge pixel repeated), no filter keeps a
running sum, and sums run over one tile at a time in an order that only its own pixels decide.

All but the finest detail is measured on the tile averaged to half its size: JPEG keeps colour at that resolution, and
there are four times fewer pixels. An odd last row or column is left out when a size is halved. Measures that divide by
a contrast add the noise of an 8-bit JPEG to it, so that they fade out on empty glass instead of measuring noise.

Every measure is a mean, share or density over the tile, so that tiles of different sizes compare. The order of values
is that of ``TEXTURE_FEATURES``.
"""

from itertools import pairwise
from typing import Any

import cv2 as _cv2
import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8

from microtome.encoders.texture_objects import WHITE_OD, ground_values, lumen_values, nuclear_values
from microtome.encoders.texture_stacks import BINOMIAL_5, MEAN_3, count_levels, filter_each, pad
from microtome.stain import od_table, unmixing_matrix

cv2: Any = _cv2  # OpenCV's stubs know no numbers as operands, which its functions take

_CHUNK_PX = 16 * 224 * 224  # pixels at a time: Python's share is small, some 10 MB are at work

_OD_MAX = 2.55  # intensity 20 of 255; denser is ink, a fold or dirt, and must not outweigh tissue
_OD = np.minimum(od_table(), np.float32(_OD_MAX))
_STEPS_PER_OD = 100.0  # planes are also kept as 8 bits in steps of 0.01 OD, for quantiles, patterns, finest detail
_OD_STEPS = np.rint(_OD * _STEPS_PER_OD).astype(np.uint8)
# Rows that turn the OD of R, G, B into haematoxylin, eosin, mean OD and residual.
_UNMIX = unmixing_matrix().T
_DYES = np.linalg.inv(unmixing_matrix())  # rows haematoxylin, eosin, residual: OD of R, G, B per concentration
_MIXES = [row[None] for row in np.vstack([_UNMIX[:2], np.full((1, 3), 1 / 3), _UNMIX[2:]]).astype(np.float32)]
_H_PLANE, _E_PLANE, _OD_PLANE = range(3)
_N_SCALED = 3  # of these, those that are looked at on several scales: all but the residual

_NOISE_OD = 0.01  # noise of 8-bit JPEG: contrasts below it are not told apart
_FAINT_OD = 0.2  # shares of stains fade out below it

_LEVELS = 5  # cells of 2, 4, 8, 16 and 32 px; neighbouring ones say nearly the same, so that some measures skip a few
_E_LEVELS = (0, 1, 3)
_SKEW_LEVELS = (0, 1, 2, 3)
_SPREAD_LEVELS = (1, 3)
_CORRELATION_LEVELS = (0, 2)

_NORMAL_SPREAD = (2 / np.pi) ** 0.5  # of normally distributed values

_LBP_LEVELS = (0, 1, 2)
_LBP_TOLERANCE = 3  # steps of 0.01 OD: JPEG noise must not make patterns
_EDGE_NOISE = _NOISE_OD / 2  # of a gradient per cell: a Sobel filter leaves about half of the pixels' noise

# Freeing one large block tells glibc's allocator to keep freed blocks of up to its size. Else each plane would be
# mapped and zeroed anew, page by page, which took a fifth of the time. It costs no memory: nothing writes to it.
np.empty(30 << 20, dtype=np.uint8)

Stack = Float32[np.ndarray, "n h w"]
Smaller = Float32[np.ndarray, "n H W"]
Column = Float[np.ndarray, " n"]


def measure_tiles(images: UInt8[np.ndarray, "n h w 3"]) -> Float64[np.ndarray, "n d"]:
    """Measure tiles of one size.

    Args:
        images: 8-bit RGB pixels, at least 32 px high and wide, at least one tile.

    Returns:
        One row per tile; one value per entry of ``TEXTURE_FEATURES``.
    """
    n, h, w = images.shape[:3]
    chunk = max(1, _CHUNK_PX // (h * w))
    return np.concatenate([_measure_chunk(images[i : i + chunk]) for i in range(0, n, chunk)])


def _measure_chunk(images: UInt8[np.ndarray, "n h w 3"]) -> Float64[np.ndarray, "n d"]:
    h, w = images.shape[1:3]
    images = np.ascontiguousarray(images[:, : h // 2 * 2, : w // 2 * 2])
    planes = _unmix(images)
    levels = [planes[:_N_SCALED]]
    while len(levels) < _LEVELS:
        levels.append(_halve(levels[-1]))
    od = planes[_OD_PLANE]
    white = (od < WHITE_OD).view(np.uint8)
    blobs, nuclear = nuclear_values(planes[_H_PLANE], around=levels[2][_H_PLANE])
    columns = [
        *_stain_values(planes),
        *_band_values(images, levels),
        *_pattern_values([_to_steps(levels[level][_OD_PLANE]) for level in _LBP_LEVELS]),
        *_edge_values(od, cell=2),
        *_edge_values(levels[1][_OD_PLANE], cell=4),
        *nuclear,
        *ground_values(planes, white, blobs),
        *lumen_values(od, levels[1][_OD_PLANE], white),
    ]
    return np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)


def _unmix(images: UInt8[np.ndarray, "n h w 3"]) -> Float32[np.ndarray, "4 n H W"]:
    """Haematoxylin, eosin, mean optical density and residual of 2 px cells."""
    n, h, w = (images.shape[0], images.shape[1] // 2, images.shape[2] // 2)
    half = cv2.resize(images.reshape(-1, 2 * w, 3), (w, n * h), interpolation=cv2.INTER_AREA)
    density = cv2.LUT(half, _OD)
    planes = np.empty((len(_MIXES), n * h, w), dtype=np.float32)
    for plane, row in zip(planes, _MIXES, strict=True):
        # One plane at a time and into a plane of its own: several times faster than all at once and a split.
        cv2.transform(density, row, dst=plane)
    return planes.reshape(-1, n, h, w)


def _halve(stacks: Float32[np.ndarray, "k n h w"]) -> Float32[np.ndarray, "k n H W"]:
    k, n, h, w = stacks.shape
    return _shrink(stacks.reshape(k * n, h, w), 2).reshape(k, n, h // 2, w // 2)


def _shrink(stack: Stack, factor: int) -> Smaller:
    """Means of square cells; rows and columns that fill no cell are left out."""
    n, h, w = stack.shape[0], stack.shape[1] // factor, stack.shape[2] // factor
    whole = np.ascontiguousarray(stack[:, : h * factor, : w * factor])
    small = cv2.resize(whole.reshape(-1, w * factor), (w, n * h), interpolation=cv2.INTER_AREA)
    cells: np.ndarray = small.reshape(n, h, w)
    return cells


def _to_steps(stack: Stack) -> UInt8[np.ndarray, "n h w"]:
    flat = cv2.max(stack.reshape(-1, stack.shape[2]), 0.0)
    steps: np.ndarray = cv2.convertScaleAbs(flat, alpha=_STEPS_PER_OD)  # rounds, saturates at 255
    return steps.reshape(stack.shape)


# -- sums over each tile ----------------------------------------------------------------------------------------


def _rows(stack: Stack) -> Float32[np.ndarray, "n p"]:
    return np.ascontiguousarray(stack).reshape(len(stack), -1)


def _means(stack: Float32[np.ndarray, "*k p"]) -> Float64[np.ndarray, "*k"]:
    means: np.ndarray = stack.mean(axis=-1).astype(np.float64)
    return means


def _mean_products(a: Float32[np.ndarray, "n p"], b: Float32[np.ndarray, "n p"]) -> Column:
    # Not einsum: it sums a single row in another order than several.
    return _means(a * b)


def _rms(a: Float32[np.ndarray, "n p"]) -> Column:
    rms: np.ndarray = np.sqrt(_mean_products(a, a))
    return rms


def _correlations(a: Float32[np.ndarray, "n p"], b: Float32[np.ndarray, "n p"]) -> Column:
    """Correlation of planes of mean 0, fading to 0 as either nears the noise."""
    together: np.ndarray = _mean_products(a, b) / (_with_noise(_rms(a)) * _with_noise(_rms(b)))
    return together.clip(-1, 1)


def _with_noise(rms: Column) -> Column:
    noisy: np.ndarray = np.hypot(rms, _NOISE_OD)
    return noisy


# -- colour -----------------------------------------------------------------------------------------------------


def _faded(part: Column, whole: Column, neutral: float) -> Column:
    """Share of a part in a whole absorption; goes to a neutral value as the whole falls from 0.2 OD to 0."""
    weight = np.clip(whole / _FAINT_OD, 0, 1) ** 2
    share: np.ndarray = neutral + weight * (part / np.maximum(whole, _NOISE_OD) - neutral)
    return share


def _stain_values(planes: Float32[np.ndarray, "4 n h w"]) -> list[Column]:
    h, e, _, residual = flat = planes.reshape(*planes.shape[:2], -1)
    h_mean, e_mean, od_mean, residual_mean = _means(flat)
    h_var, e_var, residual_var = (
        np.maximum(_mean_products(plane, plane) - mean**2, 0)
        for plane, mean in ((h, h_mean), (e, e_mean), (residual, residual_mean))
    )
    noise = _NOISE_OD**2
    together = (_mean_products(h, e) - h_mean * e_mean) / np.sqrt((h_var + noise) * (e_var + noise))
    blue = _DYES[0, 2] * h_mean + _DYES[1, 2] * e_mean + _DYES[2, 2] * residual_mean
    h_dyed, e_dyed = np.maximum(h_mean, 0), np.maximum(e_mean, 0)
    return [
        np.sqrt(h_var),
        _asymmetry(planes[_H_PLANE]),
        np.sqrt(e_var),
        _asymmetry(planes[_E_PLANE]),
        np.sqrt(residual_var),
        _faded(h_dyed, h_dyed + e_dyed, 0.5),
        _faded(blue, 3 * od_mean, 1 / 3),
        np.clip(together, -1, 1),
        *np.maximum(_quantiles(_to_steps(planes[_OD_PLANE]), (0.05, 0.95)), 0).T,
    ]


def _quantiles(steps: UInt8[np.ndarray, "n h w"], shares: tuple[float, ...]) -> Float64[np.ndarray, "n q"]:
    """Quantiles in OD, interpolated inside of the 0.01 OD step that holds them."""
    counts = np.stack([count_levels(tile) for tile in steps])
    total = np.cumsum(counts, axis=1)
    wanted = np.array(shares) * total[0, -1]
    # The first step whose total reaches what is wanted.
    step = (total[:, None, :] < wanted[:, None]).sum(axis=2)
    here = np.take_along_axis(counts, step, axis=1)
    inside = (wanted - (np.take_along_axis(total, step, axis=1) - here)) / here
    quantiles: np.ndarray = (step + inside - 0.5) / _STEPS_PER_OD
    return quantiles


def _asymmetry(stack: Stack) -> Column:
    low, middle, high = _quantiles(_to_steps(stack), (0.05, 0.5, 0.95)).T
    asymmetry: np.ndarray = (high + low - 2 * middle) / (high - low + 2 * _NOISE_OD)
    return asymmetry


# -- texture ----------------------------------------------------------------------------------------------------


def _band_values(images: UInt8[np.ndarray, "n h w 3"], levels: list[Float32[np.ndarray, "3 n _ _"]]) -> list[Column]:
    """Energies, asymmetry, spread and stain correlation of details, from the finest to the coarsest."""
    energies, e_over_h, skews, spreads, correlations = [], [], [], [], []
    for level, planes in enumerate(levels):
        h, e = _details(planes[: _E_PLANE + 1])
        rms = _rms(h)
        energies.append(np.log(_NOISE_OD + rms))
        if level in _E_LEVELS:
            e_over_h.append(np.log(_NOISE_OD + _rms(e)) - energies[-1])
        if level in _CORRELATION_LEVELS:
            correlations.append(_correlations(h, e))
        if level in _SKEW_LEVELS:
            skews.append(np.cbrt(_mean_products(h * h, h)) / _with_noise(rms))
        if level in _SPREAD_LEVELS:
            spreads.append(_spread(_means(np.abs(h)), rms))
    rises = [coarse - fine for fine, coarse in pairwise(energies)]
    finest_mean, finest_rms = _finest(images)
    finest = [np.log(_NOISE_OD + finest_rms) - energies[0], _spread(finest_mean, finest_rms)]
    return [*finest, energies[0], *rises, *e_over_h, *skews, *spreads, *correlations]


def _details(planes: Float32[np.ndarray, "2 n h w"]) -> Float32[np.ndarray, "2 n p"]:
    """What a binomial blur of five cells takes away."""
    stack = planes.reshape(-1, *planes.shape[2:])
    details: np.ndarray = stack - filter_each(stack, BINOMIAL_5)
    return details.reshape(2, planes.shape[1], -1)


def _spread(magnitude: Column, rms: Column) -> Column:
    """Mean magnitude over root mean square, as normal noise of 0.01 OD on top would have it."""
    spread: np.ndarray = np.hypot(magnitude, _NORMAL_SPREAD * _NOISE_OD) / _with_noise(rms)
    return spread


def _finest(images: UInt8[np.ndarray, "n h w 3"]) -> tuple[Column, Column]:
    """Mean magnitude and root mean square of single pixels' detail, in the OD of luma, away from the border."""
    n, h, w = images.shape[:3]
    steps = cv2.LUT(cv2.cvtColor(images.reshape(-1, w, 3), cv2.COLOR_RGB2GRAY), _OD_STEPS)
    detail = cv2.absdiff(steps, cv2.GaussianBlur(steps, (3, 3), 0)).reshape(n, h, w)
    inner = [tile[1:-1, 1:-1] for tile in detail]
    scale = 1 / (_STEPS_PER_OD * inner[0].size)
    magnitude = np.array([cv2.norm(tile, cv2.NORM_L1) for tile in inner]) * scale
    squares = np.array([cv2.norm(tile, cv2.NORM_L2SQR) for tile in inner]) * scale / _STEPS_PER_OD
    return magnitude, np.sqrt(squares)


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


def _pattern_values(scales: list[UInt8[np.ndarray, "n _ _"]]) -> list[Column]:
    """Shares of local binary patterns, in rotation-invariant classes, away from the border."""
    values: list[Column] = []
    for steps in scales:
        codes = _pattern_codes(steps)[:, 1:-1, 1:-1]
        counts = np.stack([count_levels(tile) for tile in codes])
        values += list(((counts[:, :, None] * _PATTERNS).sum(axis=1) / codes[0].size).T)
    return values


def _pattern_codes(steps: UInt8[np.ndarray, "n h w"]) -> UInt8[np.ndarray, "n h w"]:
    """One bit per darker neighbour; at the border of a tile they mean nothing."""
    w = steps.shape[2]
    flat = steps.ravel()
    codes = np.zeros_like(flat)
    reach = w + 1  # of a neighbour in the flat array
    limit = np.minimum(flat[reach:-reach], 255 - _LBP_TOLERANCE) + np.uint8(_LBP_TOLERANCE)
    inner = codes[reach:-reach]
    for row, column in _RING:
        start = row * w + column
        np.add(inner, inner, out=inner)
        np.add(inner, np.greater(flat[start : start + len(limit)], limit).view(np.uint8), out=inner)
    return codes.reshape(steps.shape)


# -- edges ------------------------------------------------------------------------------------------------------


def _edge_values(stack: Stack, *, cell: int) -> list[Column]:
    """Log mean gradient, and coherence of directions within three cells and over the tile."""
    padded = pad(stack, 1)
    tall = padded.reshape(-1, padded.shape[2])
    dx, dy = (cv2.Sobel(tall, cv2.CV_32F, *axes, ksize=3, scale=1 / 8) for axes in ((1, 0), (0, 1)))
    xx, yy = cv2.multiply(dx, dx), cv2.multiply(dy, dy)
    strength = cv2.sqrt(cv2.add(xx, yy))  # cv2.magnitude rounds by where in memory the values lie
    # The gradient with its angle doubled, so that opposite directions add up instead of cancelling.
    along = cv2.subtract(xx, yy)
    across = cv2.multiply(dx, dy, scale=2)
    strength, along, across = (plane.reshape(padded.shape)[:, 1:-1, 1:-1] for plane in (strength, along, across))
    along, across = _shrink(along, cell), _shrink(across, cell)
    local = _rows(filter_each(along, MEAN_3)) ** 2 + _rows(filter_each(across, MEAN_3)) ** 2
    rows = _rows(strength)
    energy = _mean_products(rows, rows) + _EDGE_NOISE**2
    tile = np.hypot(_means(_rows(along)), _means(_rows(across)))
    return [
        np.log(_NOISE_OD + _means(rows)),
        np.minimum(_means(np.sqrt(local)) / energy, 1.0),
        np.minimum(tile / energy, 1.0),
    ]
