"""How tile images are stored: format, JPEG quality, and which are the slide's own bytes."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

from microtome.errors import ConfigError
from microtome.geometry import Size
from microtome.tiles.images import UNDECODABLE

_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
SUBSAMPLING = "4:2:0"  # of colour; Pillow's default, and so that of HistoPrep's images


@dataclass(frozen=True, slots=True)
class ImageCoding:
    """How tile images are stored.

    Attributes:
        image_format: ``jpeg`` (colour subsampled 4:2:0, as HistoPrep's) or ``png`` (lossless).
        quality: JPEG quality, 1..100; PNG has none and takes no notice of it.
        passthrough: ``auto``: a JPEG of a tile that is exactly one JPEG tile of the slide's file, not resampled, is
            the file's own bytes. It has the very pixels that reading gives, at the scanner's quality; ``quality``
            holds for the others. ``never``: every image is encoded alike.

    Raises:
        ConfigError: If a value is not allowed.
    """

    image_format: Literal["jpeg", "png"] = "jpeg"
    quality: int = 80
    passthrough: Literal["auto", "never"] = "auto"

    def __post_init__(self) -> None:
        if self.image_format not in ("jpeg", "png"):
            raise ConfigError(f"image_format must be jpeg or png. Got {self.image_format!r}.")
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"quality must be 1 to 100. Got {self.quality}.")
        if self.passthrough not in ("auto", "never"):
            raise ConfigError(f"passthrough must be auto or never. Got {self.passthrough!r}.")

    @property
    def passes_through(self) -> bool:
        """Whether the slide's own bytes are taken where they can be."""
        return self.image_format == "jpeg" and self.passthrough == "auto"

    @property
    def recipe(self) -> Mapping[str, object]:
        """What decides the images beside their pixels, flat, for a digest; None is what a format has not."""
        is_jpeg = self.image_format == "jpeg"
        return {
            "image_format": self.image_format,
            "image_quality": self.quality if is_jpeg else None,
            "image_subsampling": SUBSAMPLING if is_jpeg else None,
            "image_passthrough": self.passthrough if is_jpeg else None,
        }

    def encode(self, image: UInt8[np.ndarray, "h w 3"]) -> bytes:
        """Encode RGB pixels as a complete file."""
        if self.image_format == "png":
            file = io.BytesIO()
            Image.fromarray(image).save(file, format="png")
            return file.getvalue()
        subsampling = SUBSAMPLING.replace(":", "")
        encoded: bytes = simplejpeg.encode_jpeg(image, self.quality, "RGB", subsampling, fastdct=False)
        return encoded

    def holds(self, data: bytes, size: Size) -> bool:
        """Whether a file's bytes are a whole image of this format and size.

        A JPEG is decoded, in grey at an eighth of its size, for which each of its coefficients is read all the same:
        data that is cut off, or has a hole, does not come out without a complaint. A PNG has sums of its own.

        Args:
            data: All bytes of the file.
            size: The size that it should have, in pixels.
        """
        if self.image_format == "png":
            return _holds_png(data, size)
        try:
            if simplejpeg.decode_jpeg_header(data)[:2] != (size.height, size.width):
                return False
            simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, strict=True)
        except ValueError:
            return False
        return True


def _holds_png(data: bytes, size: Size) -> bool:
    if not data.endswith(_PNG_END):
        return False
    try:
        with Image.open(io.BytesIO(data)) as image:
            fits = image.format == "PNG" and image.size == (size.width, size.height)
            image.verify()  # the sums of all chunks up to the last; loading pixels would not look at them
            return fits
    except UNDECODABLE:
        return False
