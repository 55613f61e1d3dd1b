"""A slide whose pixels say where they are, so that a crop proves its origin.

Red and green hold the low 8 bits of a pixel's level-0 x and y. Blue holds the high 8 bits of x or of y, by a rule
that never gives three neighbours in a row the same one: the Thue-Morse sequence of x plus that of y, which is the
same at every power of 2. It is mixed with a hash of red and green, which no average of pixels has. So any crop of
3 × 3 pixels or more tells its place on slides of up to 65,536 pixels a side, at level 0 and at every level made by
keeping each block's first pixel.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int, UInt8

from microtome.errors import ConfigError
from microtome.geometry import Box, Point, Size
from microtome.slides.pyramid import Canvas
from microtome.slides.write import Compression, TileCoding, write_ome_tiff, write_tiff

MOST_PX = 65_536
_PARITY = np.array([bin(i).count("1") & 1 for i in range(256)], np.uint8)


def encode_origin(x: Int[np.ndarray, " w"], y: Int[np.ndarray, " h"]) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels at columns ``x`` and rows ``y`` (level-0 pixels, 0 to 65,535)."""
    columns, rows = np.broadcast_arrays(x[None, :], y[:, None])
    of_y = (_PARITY[columns & 255] ^ _PARITY[rows & 255]).astype(bool)
    high = (np.where(of_y, rows, columns) >> 8) ^ _scramble(columns & 255, rows & 255)
    return np.stack([columns & 255, rows & 255, high], axis=2).astype(np.uint8)


def _scramble(low_x: np.ndarray, low_y: np.ndarray) -> np.ndarray:
    """A byte that depends on both low bytes and is nothing like linear in them."""
    mixed = (low_x.astype(np.uint32) | low_y.astype(np.uint32) << np.uint32(8)) * np.uint32(0x9E3779B1)
    return np.asarray((mixed ^ mixed >> np.uint32(13)) >> np.uint32(16) & np.uint32(255)).astype(np.int64)


def decode_origin(image: UInt8[np.ndarray, "h w 3"]) -> Point:
    """Read where a crop of a coordinate slide came from, and check every pixel of it.

    Args:
        image: A crop of any level, at least 3 px wide and 3 px high, unscaled and lossless.

    Returns:
        Level-0 position of its top-left pixel's top-left corner.

    Raises:
        ConfigError: If the image is smaller, or its pixels are not a crop as they were written (resampled, turned,
            recompressed, filled, or of another slide).

    Example:
        >>> image = encode_origin(np.arange(1000, 1004), np.arange(70, 75))
        >>> decode_origin(image)
        Point(x=1000, y=70)
    """
    height, width = image.shape[:2]
    if min(height, width) < 3:
        raise ConfigError(f"A crop of at least 3 × 3 px is needed to tell its origin. Got {width} × {height}.")
    corner = image[:3, :3].astype(int)
    step = (corner[0, 1, 0] - corner[0, 0, 0]) % 256
    origin = None
    if step > 0:
        low_x, low_y = corner[0, :, 0], corner[:, 0, 1]
        of_y = _PARITY[low_x][None, :] ^ _PARITY[low_y][:, None]
        high = corner[:, :, 2] ^ _scramble(corner[:, :, 0], corner[:, :, 1])
        x = _first(high, low_x[None, :], of_y == 0, np.arange(3)[None, :] * step)
        y = _first(high, low_y[:, None], of_y == 1, np.arange(3)[:, None] * step)
        if x is not None and y is not None and max(x + step * width, y + step * height) < MOST_PX + step:
            origin = Point(x, y)
            if np.array_equal(encode_origin(x + step * np.arange(width), y + step * np.arange(height)), image):
                return origin
    raise ConfigError(
        "The image is not an unscaled lossless crop of a coordinate slide"
        + ("." if origin is None else f": it begins like one at ({origin.x}, {origin.y}) and then differs.")
    )


def _first(high: np.ndarray, low: np.ndarray, told: np.ndarray, offset: np.ndarray) -> int | None:
    """A coordinate of the crop's first pixel, from the first of its corner's pixels whose blue tells of it."""
    places = np.argwhere(told)
    if not len(places):
        return None
    at = tuple(places[0])
    value = (high[at] << 8 | np.broadcast_to(low, told.shape)[at]) - np.broadcast_to(offset, told.shape)[at]
    return int(value) if value >= 0 else None


def coordinate_canvas(size: Size, *, mpp: float | None = 0.5, downsamples: tuple[int, ...] = (1, 4, 16)) -> Canvas:
    """A coordinate slide as something to be written; level pixels keep the code of their block's top-left pixel.

    Where the largest downsample does not divide a side, OpenSlide takes the lower levels' scale to be a little off
    the whole number and interpolates between their pixels; choose a size that divides to read them through it.

    Raises:
        ConfigError: If it is larger than 65,536 px, or a downsample is not a power of 2 up to 64.
    """
    if max(size.width, size.height) > MOST_PX:
        raise ConfigError(f"A coordinate slide is at most {MOST_PX} px a side. Got {size.width} × {size.height}.")
    if any(d > 64 or d & (d - 1) for d in downsamples):
        raise ConfigError(f"A coordinate slide's downsamples are powers of 2 up to 64. Got {downsamples}.")
    return Canvas(_read, size, mpp, downsamples=downsamples, shrink="nearest")


def _read(box: Box) -> np.ndarray:
    return encode_origin(np.arange(box.x, box.right), np.arange(box.y, box.bottom))


def coordinate_slide(
    path: str | Path,
    *,
    size: Size,
    mpp: float | None = 0.5,
    kind: Literal["tiff", "ome"] = "tiff",
    downsamples: tuple[int, ...] = (1, 4, 16),
    tile_px: int = 256,
    compression: Compression = "deflate",
) -> Path:
    """Write a coordinate slide.

    Args:
        path: The file to write.
        size: Level 0, in pixels, at most 65,536 a side.
        mpp: µm per pixel; None writes a file that does not say.
        kind: ``tiff`` (generic pyramid) or ``ome`` (OME-TIFF).
        downsamples: Of its levels; powers of 2 up to 64.
        tile_px: Side of a tile.
        compression: ``deflate`` or ``none``.

    Returns:
        The path.

    Raises:
        ConfigError: If a setting is out of range, or the compression is lossy.
        OutputWriteError: If the file cannot be written.
    """
    path = Path(path)
    if compression not in ("deflate", "none"):
        raise ConfigError(f"A coordinate slide's compression must be lossless: deflate or none. Got {compression!r}.")
    if kind not in ("tiff", "ome"):
        raise ConfigError(f"kind must be tiff or ome. Got {kind!r}.")
    write = write_tiff if kind == "tiff" else write_ome_tiff
    write(
        path,
        coordinate_canvas(size, mpp=mpp, downsamples=downsamples),
        coding=TileCoding(tile_px=tile_px, compression=compression),
    )
    return path
