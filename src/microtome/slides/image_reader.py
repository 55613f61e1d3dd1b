"""Plain images: PNG, JPEG and what else Pillow decodes, whole, when opened."""

import io
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata as packages
from pathlib import Path
from typing import Any, ClassVar

import imagecodecs
import numpy as np
import PIL
import tifffile
from jaxtyping import Shaped, UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

from microtome.errors import (
    CorruptSlideError,
    SlideOpenError,
    TruncatedSlideError,
    UnsupportedCompressionError,
    UnsupportedFormatError,
    ZeroSizeError,
)
from microtome.geometry import Box, Size
from microtome.slides.base import Level
from microtome.slides.file_slide import FileSlide, OpenOptions
from microtome.slides.orientation import orient_image
from microtome.slides.probe import FileKind
from microtome.slides.resolution import Metadata
from microtome.slides.tiff_index import is_tiff
from microtome.slides.tiff_metadata import find_mpp
from microtome.slides.tiff_pixels import compose_on_white

MAX_PIXELS = 2**29
"""A plain image above this many pixels (1.6 GB of RGB) is refused: it would have to be decoded as a whole."""

_UM_PER_INCH = 25_400.0
_MAX_ORIENTATION = 8
_WIDE_MODES = {"I;16": np.uint16, "I;16B": np.uint16, "I;16L": np.uint16, "I": np.int32, "F": np.float32}
_ONE_FRAME_OF_MANY = ("MPO",)  # a camera's JPEG with previews behind the picture
_PNG_FIRST_CHUNK, _PNG_DEPTH_BYTE, _PNG_WIDE = 8, 24, 16
_FORMATS = {"png": ("PNG",), "jpeg": ("JPEG", "MPO"), "image": ("GIF", "BMP", "JPEG2000", "WEBP", "PPM")}
_OLD_JPEG = 6


class ImageSlide(FileSlide):
    """A plain image as a slide of one level, held in memory.

    Alpha is composed on white, EXIF orientation applied; 16-bit pixels stay 16-bit.

    Args:
        path: The file.
        options: Resolution and channels as a person gives them.

    Raises:
        SlideOpenError: If the file cannot be decoded to its end; its subclass says why.
    """

    reader: ClassVar[str] = "image"

    @classmethod
    def decline(cls, kind: FileKind) -> str | None:
        """Why a plain-image reader does not take the file; None where it tries."""
        if kind.tiff is not None:
            first = kind.tiff.pages[0]
            if first.compression != _OLD_JPEG or first.is_tiled or first.orientation != 1 or len(kind.tiff.pages) > 1:
                return "of TIFF, only a page of old-style JPEG is left to it"
            return None
        return None if kind.format in _FORMATS else "it is no plain image"

    def __init__(self, path: Path, options: OpenOptions) -> None:
        data = path.read_bytes()
        picture = _old_jpeg_tiff(path, data) if is_tiff(data[:4]) else _picture(path, data)
        self._pixels: np.ndarray | None = picture.pixels
        self._image_format, self.channels = picture.image_format, picture.channels
        height, width = picture.pixels.shape[:2]
        self.levels = (Level(Size(width, height), 1.0, 1.0),)
        self.bounds = Box(0, 0, width, height)
        self.dtype = picture.pixels.dtype
        self._describe(path, options, picture.metadata, picture.properties)

    def read_native(self, level: int, box: Box) -> Shaped[np.ndarray, "h w c"]:
        """Crop the image."""
        if self._pixels is None:
            raise ValueError(f"Slide '{self.path.name}' is closed.")
        return self._pixels[box.y : box.bottom, box.x : box.right].copy()

    def close(self) -> None:
        """Let go of the pixels."""
        self._pixels = None

    @cached_property
    def native_recipe(self) -> Mapping[str, str]:
        """Reader, the versions of the decoders, and the format."""
        return {
            "name": self.reader,
            "pillow": PIL.__version__,
            "imagecodecs": packages.version("imagecodecs"),
            "format": self._image_format,
        }

    @property
    def associated_names(self) -> tuple[str, ...]:
        """None: a plain image has no others."""
        return ()

    def read_associated(self, name: str) -> UInt8[np.ndarray, "h w 3"]:
        """Always raises: there are none."""
        raise LookupError(f"Image '{self.path.name}' has no associated image {name!r}.")


@dataclass(frozen=True, slots=True)
class _Picture:
    """A decoded image and what its file says of it."""

    pixels: Shaped[np.ndarray, "h w c"]
    channels: tuple[str, ...]
    image_format: str
    metadata: Metadata | None
    properties: Mapping[str, str]


def _picture(path: Path, data: bytes) -> _Picture:
    with _opened(path, data) as image:
        metadata, properties, orientation = _metadata(image), _properties(image), _orientation(image)
        pixels, channels = _decode(path, data, image)
        image_format = str(image.format)
    if metadata is not None and orientation >= 5:
        metadata = Metadata(metadata.mpp_y, metadata.mpp_x, metadata.tag)
    return _Picture(orient_image(pixels, orientation), channels, image_format, metadata, properties)


def _old_jpeg_tiff(path: Path, data: bytes) -> _Picture:
    """A TIFF of old-style JPEG, which only libtiff understands, as a whole."""
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            page = tiff.pages.first
            size = Size(int(page.imagewidth), int(page.imagelength))
            metadata = find_mpp(page, None, None)
        _check_size(path, size)
        pixels = imagecodecs.tiff_decode(data, 0)
    except SlideOpenError:
        raise
    except Exception as error:
        # what libtiff cannot decode may be damaged or one of the many dialects of this compression
        raise UnsupportedCompressionError(
            f"'{path}' is compressed as old-style JPEG (TIFF compression 6), which libtiff does not decode here: "
            f"{error}. Save it again with another compression."
        ) from error
    if pixels.dtype != np.uint8 or pixels.shape != (size.height, size.width, 3):
        raise UnsupportedFormatError(f"'{path}' holds old-style JPEG of {pixels.dtype} {pixels.shape}. Save it as RGB.")
    return _Picture(pixels, ("R", "G", "B"), "TIFF", metadata, {"image.format": "TIFF, old-style JPEG"})


def _opened(path: Path, data: bytes) -> Image.Image:
    """Open with Pillow's own format classes, whose general door has a lower bound on the number of pixels."""
    Image.init()
    for name in (f for formats in _FORMATS.values() for f in formats):
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory is None or (accept is not None and accept(data[:16]) is not True):
            continue
        try:
            image: Image.Image = factory(io.BytesIO(data), str(path))
        except (UnidentifiedImageError, SyntaxError, OSError, ValueError, EOFError) as error:
            raise _broken(path, data, error) from error
        _check_size(path, Size(*image.size))
        n_frames = int(getattr(image, "n_frames", 1))
        if n_frames > 1 and image.format not in _ONE_FRAME_OF_MANY:
            raise UnsupportedFormatError(f"'{path}' is a film of {n_frames} images. Save the one that is meant.")
        return image
    raise UnsupportedFormatError(f"'{path}' is an image that Pillow does not know. Save it as PNG or TIFF.")


def _check_size(path: Path, size: Size) -> None:
    if size.width < 1 or size.height < 1:
        raise ZeroSizeError(
            f"'{path}' is an image of {size.width} × {size.height} px: there is nothing to see. Export it again."
        )
    if size.area > MAX_PIXELS:
        raise UnsupportedFormatError(
            f"'{path}' is a plain image of {size.width}×{size.height} px, more than the {MAX_PIXELS} px that are "
            "decoded as a whole. Convert it to a tiled TIFF, for example with vips."
        )


def _decode(path: Path, data: bytes, image: Image.Image) -> tuple[Shaped[np.ndarray, "h w c"], tuple[str, ...]]:
    """Pixels and the names of their channels."""
    try:
        if image.format == "PNG":
            _check_png(data)
        if image.format == "PNG" and data[_PNG_DEPTH_BYTE] == _PNG_WIDE:
            return _wide_png(data)
        image.load()
        return _narrow(image)
    except (OSError, SyntaxError, ValueError, EOFError, imagecodecs.PngError) as error:
        raise _broken(path, data, error) from error


def _check_png(data: bytes) -> None:
    """Check that all chunks are there and whole: Pillow does not look at the checksums of pixels."""
    at = _PNG_FIRST_CHUNK
    while data[at + 4 : at + 8] != b"IEND":
        if at + 12 > len(data):
            raise EOFError("truncated: the last chunk is missing")
        length = int.from_bytes(data[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(data):
            raise EOFError("truncated: a chunk ends beyond the file")
        if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise ValueError(f"the chunk at byte {at} has another checksum than it says")
        at = end + 4


def _narrow(image: Image.Image) -> tuple[Shaped[np.ndarray, "h w c"], tuple[str, ...]]:
    """Pixels as Pillow gives them."""
    if image.mode in _WIDE_MODES:
        return np.asarray(image).astype(_WIDE_MODES[image.mode])[:, :, None], ("grey",)
    if image.mode in ("1", "L"):
        return np.array(image.convert("L"))[:, :, None], ("grey",)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return compose_on_white(np.array(image.convert("RGBA")), alpha=3), ("R", "G", "B")
    return np.array(image.convert("RGB")), ("R", "G", "B")


def _wide_png(data: bytes) -> tuple[Shaped[np.ndarray, "h w c"], tuple[str, ...]]:
    """16-bit PNG, which Pillow reduces to 8 bits."""
    pixels = imagecodecs.png_decode(data)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if pixels.shape[2] in (2, 4):
        pixels = compose_on_white(pixels, alpha=pixels.shape[2] - 1)
    return pixels, ("grey",) if pixels.shape[2] == 1 else ("R", "G", "B")


_ENDS: dict[bytes, Callable[[bytes], bool]] = {
    b"\xff\xd8": lambda data: b"\xff\xd9" in data[-64:],
    b"\x89P": lambda data: b"IEND" in data[-64:],
}


def _broken(path: Path, data: bytes, error: Exception) -> CorruptSlideError | TruncatedSlideError:
    """Cut off, where the end of the format is missing or the decoder says so; else damaged."""
    ends = _ENDS.get(data[:2])
    if (ends is not None and not ends(data)) or "truncated" in str(error):
        return TruncatedSlideError(f"'{path}' is an image that was cut off ({error}). Copy it again from its source.")
    return CorruptSlideError(f"'{path}' is an image that cannot be decoded ({error}). Copy it again from its source.")


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, OSError):
        return 1  # damaged EXIF says nothing
    return value if isinstance(value, int) and 1 <= value <= _MAX_ORIENTATION else 1


def _metadata(image: Image.Image) -> Metadata | None:
    dpi: Any = image.info.get("dpi")
    if not dpi or not all(float(d) > 0 for d in dpi):
        return None
    tag = {"PNG": "png.pHYs", "JPEG": "jpeg.density"}.get(str(image.format), f"{str(image.format).lower()}.dpi")
    return Metadata(_UM_PER_INCH / float(dpi[0]), _UM_PER_INCH / float(dpi[1]), tag)


def _properties(image: Image.Image) -> dict[str, str]:
    texts = {f"image.{k}": str(v)[:1000] for k, v in image.info.items() if isinstance(k, str) and isinstance(v, str)}
    return {**texts, "image.format": str(image.format), "image.mode": image.mode}
