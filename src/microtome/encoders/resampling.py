"""Pillow's antialiased resize as a matrix, so that it can run inside a network's graph on any device."""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, Float64

from microtome.errors import ConfigError


def _box(x: Float64[np.ndarray, " k"]) -> Float64[np.ndarray, " k"]:
    return ((x > -0.5) & (x <= 0.5)).astype(np.float64)


def _bilinear(x: Float64[np.ndarray, " k"]) -> Float64[np.ndarray, " k"]:
    triangle: np.ndarray = np.clip(1 - np.abs(x), 0, None)
    return triangle


def _hamming(x: Float64[np.ndarray, " k"]) -> Float64[np.ndarray, " k"]:
    window: np.ndarray = np.where(np.abs(x) < 1, np.sinc(x) * (0.54 + 0.46 * np.cos(np.pi * x)), 0.0)
    return window


def _bicubic(x: Float64[np.ndarray, " k"]) -> Float64[np.ndarray, " k"]:
    """Keys' kernel with a = -0.5, Pillow's choice (OpenCV and PyTorch take -0.75 without antialiasing)."""
    a, x = -0.5, np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    kernel: np.ndarray = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return kernel


def _lanczos(x: Float64[np.ndarray, " k"]) -> Float64[np.ndarray, " k"]:
    kernel: np.ndarray = np.where((x >= -3) & (x < 3), np.sinc(x) * np.sinc(x / 3), 0.0)
    return kernel


_FILTERS: dict[str, tuple[float, Callable[[Float64[np.ndarray, " k"]], Float64[np.ndarray, " k"]]]] = {
    "box": (0.5, _box),
    "bilinear": (1.0, _bilinear),
    "hamming": (1.0, _hamming),
    "bicubic": (2.0, _bicubic),
    "lanczos": (3.0, _lanczos),
}
INTERPOLATIONS = (*_FILTERS, "nearest")
"""Names of the filters of :func:`resize_matrix`."""


def resize_matrix(n_in: int, n_out: int, interpolation: str) -> Float32[np.ndarray, "out in"]:
    """How much each pixel of a row counts for each pixel of the resized row.

    Shrinking widens the filter by the ratio (antialiasing), as Pillow does and as torchvision does on its images.

    Args:
        n_in: Pixels of the row.
        n_out: Pixels of the resized row.
        interpolation: One of :data:`INTERPOLATIONS`.

    Returns:
        Rows sum to 1; the identity where both lengths are equal.

    Raises:
        ConfigError: If there is no such filter, or a length is not positive.

    References:
        Pillow, ``Resample.c``. Pillow rounds the coefficients to 22 bits; these are float32.

    Example:
        >>> resize_matrix(4, 2, "box")
        array([[0.5, 0.5, 0. , 0. ],
               [0. , 0. , 0.5, 0.5]], dtype=float32)
    """
    if interpolation not in INTERPOLATIONS:
        raise ConfigError(f"There is no interpolation {interpolation!r}. There are: {', '.join(INTERPOLATIONS)}.")
    if n_in < 1 or n_out < 1:
        raise ConfigError(f"Rows to resize have at least one pixel. Got {n_in} to {n_out}.")
    if n_in == n_out:
        return np.eye(n_in, dtype=np.float32)
    matrix = np.zeros((n_out, n_in))
    scale = n_in / n_out
    if interpolation == "nearest":
        # Summed step by step as Pillow does: where a centre falls between two pixels, rounding decides.
        centres = np.cumsum([scale * 0.5, *[scale] * (n_out - 1)])
        matrix[np.arange(n_out), np.minimum(centres.astype(int), n_in - 1)] = 1
        return matrix.astype(np.float32)
    radius, kernel = _FILTERS[interpolation]
    widen = max(scale, 1.0)
    for i in range(n_out):
        centre = (i + 0.5) * scale
        first = max(math.trunc(centre - radius * widen + 0.5), 0)
        last = min(math.trunc(centre + radius * widen + 0.5), n_in)
        weights = kernel((np.arange(first, last) - centre + 0.5) / widen)
        matrix[i, first:last] = weights / weights.sum()
    return matrix.astype(np.float32)
