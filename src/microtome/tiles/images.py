"""Tile image files: decoding them as 8-bit RGB, and a digest of a set of them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from microtome.errors import TileError
from microtome.geometry import Size

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
_DEEP_MODES = frozenset({"I", "F"})  # and every mode with a semicolon: 16-bit
_WHOLE_BYTES = 256 * 1024 * 1024  # sets up to this size are hashed byte by byte
_SAMPLES = 256
_SAMPLE_BYTES = 4096

#: What Pillow raises when a file cannot be decoded.
UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def is_image(path: Path) -> bool:
    """Whether the name is that of a visible image file."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def decode_image(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Decode a tile image: orientation tags applied, grey as RGB, transparency composed on white.

    Raises:
        TileError: If it is not an 8-bit image.
        OSError: If it cannot be decoded (or another of :data:`UNDECODABLE`).
    """
    with Image.open(path) as file:
        if file.mode in _DEEP_MODES or ";" in file.mode:
            raise TileError(f"Tile '{path}' has pixels of mode {file.mode}, not 8-bit RGB or grey. Convert it first.")
        picture = ImageOps.exif_transpose(file)
        if picture.has_transparency_data:
            rgba = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        pixels: UInt8[np.ndarray, "h w 3"] = np.array(picture.convert("RGB"))
    return pixels


def image_size(path: Path) -> Size:
    """The size that :func:`decode_image` will give, from the file's header; raises as it does."""
    with Image.open(path) as file:
        width, height = file.size
        turned = file.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # orientations that swap the axes
    return Size(height, width) if turned else Size(width, height)


def fingerprint(files: Sequence[Path], *, root: Path) -> str:
    """A digest of a set of files: their names below ``root``, sizes and content.

    Content is hashed whole up to 256 MiB in all; of larger sets, 256 evenly spread blocks of 4 KiB. A file
    that is not there counts as such.

    Args:
        files: In the order that matters.
        root: Folder that the names are relative to, so that a moved folder has the same digest.

    Returns:
        32 hexadecimal digits.
    """
    hasher = hashlib.sha256()
    sizes = [file.stat().st_size if file.is_file() else -1 for file in files]
    for file, size in zip(files, sizes, strict=True):
        hasher.update(f"{file.relative_to(root).as_posix()}\0{size}\0".encode())
    total = sum(size for size in sizes if size > 0)
    if total <= _WHOLE_BYTES:
        for file, size in zip(files, sizes, strict=True):
            if size > 0:
                hasher.update(file.read_bytes())
    else:
        _hash_samples(hasher, files, sizes, total)
    return hasher.hexdigest()[:32]


def _hash_samples(hasher: "hashlib._Hash", files: Sequence[Path], sizes: Sequence[int], total: int) -> None:
    ends = np.cumsum([max(0, size) for size in sizes])
    for place in np.linspace(0, total - 1, _SAMPLES).astype(np.int64):
        index = int(np.searchsorted(ends, place, side="right"))
        start = int(place - (ends[index] - sizes[index]))
        with files[index].open("rb") as file:
            file.seek(max(0, min(start, sizes[index] - _SAMPLE_BYTES)))
            hasher.update(file.read(_SAMPLE_BYTES))
