"""How pixels shrink: area averaging by default, Pillow's filters by name for parity with other tools."""

from collections.abc import Callable
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import Float, Shaped
from PIL import Image

from microtome.errors import ConfigError
from microtome.geometry import Box, Size

Resample = Literal["area", "nearest", "bilinear", "bicubic", "lanczos"]

_PIL_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_BAND_ROWS = 256


def resample_image(image: Shaped[np.ndarray, "h w c"], size: Size, resample: Resample) -> Shaped[np.ndarray, "H W c"]:
    """Resample an image to ``size``.

    Args:
        image: Pixels of any real dtype.
        size: Target size.
        resample: ``area`` averages each target pixel's footprint exactly (OpenCV INTER_AREA) and is bilinear where
            the image grows; the others are Pillow's antialiased filters of that name.

    Returns:
        Resampled pixels of the same dtype.
    """
    if resample == "area":
        grows = size.width > image.shape[1] or size.height > image.shape[0]
        flag = cv2.INTER_LINEAR if grows else cv2.INTER_AREA
        return _cv2_resize(image, size, flag)
    if resample not in _PIL_FILTERS:
        raise ConfigError(f"resample must be area or one of {', '.join(_PIL_FILTERS)}. Got {resample!r}.")
    if image.dtype == np.uint8 and image.shape[2] in (1, 3):
        picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        out = np.asarray(picture.resize((size.width, size.height), _PIL_FILTERS[resample]))
        return out.reshape(size.height, size.width, image.shape[2])
    planes = [_pil_float(image[:, :, c], size, _PIL_FILTERS[resample]) for c in range(image.shape[2])]
    return _as_dtype(np.stack(planes, axis=2), image.dtype)


def shrink_in_bands(
    read: Callable[[Box], Shaped[np.ndarray, "h w c"]], source: Box, size: Size
) -> Shaped[np.ndarray, "H W c"]:
    """Area-average a region too large to hold: bands of rows are read, shrunk across, and summed down.

    Args:
        read: Reads a part of ``source``.
        source: The region, in the pixels that ``read`` takes.
        size: Target size, at most that of ``source`` on either axis.

    Returns:
        The same as averaging the whole region at once, up to rounding.
    """
    sums: Float[np.ndarray, "H W c"] | None = None
    dtype: np.dtype[Any] | None = None
    ratio = source.height / size.height
    for top in range(0, source.height, _BAND_ROWS):
        rows = min(_BAND_ROWS, source.height - top)
        band = read(Box(source.x, source.y + top, source.width, rows))
        dtype = band.dtype
        across = _cv2_resize(band.astype(np.float32), Size(size.width, rows), cv2.INTER_AREA)
        if sums is None:
            sums = np.zeros((size.height, size.width, band.shape[2]), np.float64)
        first, last = int(top / ratio), min(size.height, int(np.ceil((top + rows) / ratio)))
        weights = _overlaps(np.arange(first, last) * ratio, ratio, np.arange(top, top + rows))
        sums[first:last] += np.tensordot(weights / ratio, across, axes=1)
    if sums is None or dtype is None:
        raise ConfigError("There is nothing to shrink: the region has no rows.")
    return _as_dtype(sums, dtype)


def _overlaps(starts: np.ndarray, length: float, pixels: np.ndarray) -> Float[np.ndarray, "targets pixels"]:
    """Length of the part of each unit pixel that lies in each interval ``start .. start + length``."""
    ends = np.minimum(starts[:, None] + length, pixels[None, :] + 1)
    overlaps: np.ndarray = np.clip(ends - np.maximum(starts[:, None], pixels[None, :]), 0.0, 1.0)
    return overlaps


def _cv2_resize(image: np.ndarray, size: Size, flag: int) -> np.ndarray:
    if image.dtype.kind not in "uif":
        raise ConfigError(f"Pixels of {image.dtype} cannot be resampled.")
    work = image if image.dtype in (np.uint8, np.uint16, np.float32, np.float64) else image.astype(np.float64)
    # OpenCV takes few channels at a time and drops a single one
    planes = [
        cv2.resize(work[:, :, c : c + 4], (size.width, size.height), interpolation=flag)
        for c in range(0, work.shape[2], 4)
    ]
    planes = [p if p.ndim == 3 else p[:, :, None] for p in planes]
    return _as_dtype(planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2), image.dtype)


def _pil_float(plane: np.ndarray, size: Size, method: Image.Resampling) -> np.ndarray:
    picture = Image.fromarray(plane.astype(np.float32))
    return np.asarray(picture.resize((size.width, size.height), method), dtype=np.float64)


def _as_dtype(values: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    if values.dtype == dtype:
        return values
    if dtype.kind in "ui":
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    out: np.ndarray = values.astype(dtype)
    return out
