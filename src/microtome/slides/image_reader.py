"""Plain images: PNG, JPEG and what else Pillow decodes, whole, when opened."""

import io
from collections.abc import Callable, Mapping
from functools import cached_property
from importlib import metadata as packages
from pathlib import Path
from typing import Any, ClassVar

import imagecodecs
import numpy as np
import PIL
from jaxtyping import Shaped, UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

from microtome.errors import CorruptSlideError, TruncatedSlideError, UnsupportedFormatError, ZeroSizeError
from microtome.geometry import Box, Size
from microtome.slides.base import Level
from microtome.slides.file_slide import FileSlide, OpenOptions
from microtome.slides.orientation import orient_image
from microtome.slides.probe import FileKind
from microtome.slides.resolution import Metadata
from microtome.slides.tiff_pixels import compose_on_white

MAX_PIXELS = 2**29
"""A plain image above this many pixels (1.6 GB of RGB) is refused: it would have to be decoded as a whole."""

_UM_PER_INCH = 25_400.0
_MAX_ORIENTATION = 8
_WIDE_MODES = {"I;16": np.uint16, "I;16B": np.uint16, "I;16L": np.uint16, "I": np.int32, "F": np.float32}
_ONE_FRAME_OF_MANY = ("MPO",)  # a camera's JPEG with previews behind the picture
_PNG_DEPTH_BYTE, _PNG_WIDE = 24, 16
_FORMATS = {"png": ("PNG",), "jpeg": ("JPEG", "MPO"), "image": ("GIF", "BMP", "JPEG2000", "WEBP", "PPM")}
_TIFF_FORMATS = ("TIFF",)


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
            if len(kind.tiff.pages) > 1 or first.is_tiled or set(first.bits) != {8} or first.orientation != 1:
                return "only a striped TIFF of one page of 8 bits is a plain image"
            return None
        return None if kind.format in _FORMATS else "it is no plain image"

    def __init__(self, path: Path, options: OpenOptions) -> None:
        data = path.read_bytes()
        with _opened(path, data) as image:
            self._image_format = str(image.format)
            metadata = _metadata(image)
            properties = _properties(image)
            orientation = _orientation(image)
            pixels, self.channels = _decode(path, data, image)
        self._pixels: np.ndarray | None = orient_image(pixels, orientation)
        if metadata is not None and orientation >= 5:
            metadata = Metadata(metadata.mpp_y, metadata.mpp_x, metadata.tag)
        height, width = self._pixels.shape[:2]
        self.levels = (Level(Size(width, height), 1.0, 1.0),)
        self.bounds = Box(0, 0, width, height)
        self.dtype = self._pixels.dtype
        self._describe(path, options, metadata, properties)

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


def _opened(path: Path, data: bytes) -> Image.Image:
    """Open with Pillow's own format classes, whose general door has a lower bound on the number of pixels."""
    Image.init()
    for name in (*(f for formats in _FORMATS.values() for f in formats), *_TIFF_FORMATS):
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory is None or (accept is not None and accept(data[:16]) is not True):
            continue
        try:
            image: Image.Image = factory(io.BytesIO(data), str(path))
        except (UnidentifiedImageError, SyntaxError, OSError, ValueError, EOFError) as error:
            raise _broken(path, data, error) from error
        _check_size(path, image)
        return image
    raise UnsupportedFormatError(f"'{path}' is an image that Pillow does not know. Save it as PNG or TIFF.")


def _check_size(path: Path, image: Image.Image) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ZeroSizeError(
            f"'{path}' is an image of {width} × {height} px: there is nothing to see. Export it again."
        )
    if width * height > MAX_PIXELS:
        raise UnsupportedFormatError(
            f"'{path}' is a plain image of {width}×{height} px, more than the {MAX_PIXELS} px that are decoded as a whole. "
            "Convert it to a tiled TIFF, for example with vips."
        )
    n_frames = int(getattr(image, "n_frames", 1))
    if n_frames > 1 and image.format not in _ONE_FRAME_OF_MANY:
        raise UnsupportedFormatError(f"'{path}' is a film of {n_frames} images. Save the one that is meant.")


def _decode(
    path: Path, data: bytes, image: Image.Image
) -> tuple[Shaped[np.ndarray, "h w c"], tuple[str, ...]]:
    """Pixels and the names of their channels."""
    try:
        if image.format == "PNG" and data[_PNG_DEPTH_BYTE] == _PNG_WIDE:
            return _wide_png(data)
        image.load()
        return _narrow(image)
    except (OSError, SyntaxError, ValueError, EOFError, imagecodecs.PngError) as error:
        raise _broken(path, data, error) from error


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
    if b"IEND" not in data[-64:]:
        raise ValueError("truncated: the last chunk is missing")
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
        return TruncatedSlideError(
            f"'{path}' is an image that was cut off ({error}). Copy it again from its source."
        )
    return CorruptSlideError(
        f"'{path}' is an image that cannot be decoded ({error}). Copy it again from its source."
    )


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
    tag = {"PNG": "png.pHYs", "JPEG": "jpeg.density"}.get(
        str(image.format), f"{str(image.format).lower()}.dpi"
    )
    return Metadata(_UM_PER_INCH / float(dpi[0]), _UM_PER_INCH / float(dpi[1]), tag)


def _properties(image: Image.Image) -> dict[str, str]:
    texts = {
        f"image.{k}": str(v)[:1000]
        for k, v in image.info.items()
        if isinstance(k, str) and isinstance(v, str)
    }
    return {**texts, "image.format": str(image.format), "image.mode": image.mode}
