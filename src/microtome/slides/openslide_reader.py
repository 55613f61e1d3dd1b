"""Slides that OpenSlide reads: SVS, NDPI, MRXS, SCN, BIF, VMS, Philips and Trestle TIFF, DICOM, CZI, tiled TIFF."""

import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from importlib import metadata as packages
from pathlib import Path
from typing import ClassVar

import numpy as np
import openslide
from jaxtyping import Shaped, UInt8

from microtome.errors import (
    SlideOpenError,
    UnreadableRegionError,
    UnsupportedCompressionError,
    UnsupportedFormatError,
)
from microtome.geometry import Box, Size
from microtome.slides.base import Level
from microtome.slides.companions import find_companions
from microtome.slides.file_slide import FileSlide, OpenOptions
from microtome.slides.probe import FileKind
from microtome.slides.resolution import Metadata

_PLAIN_FORMATS = ("png", "jpeg", "image")
_CHECKED_VENDORS = (
    "generic-tiff",
    "aperio",
)  # for the others OpenSlide knows the vendor's meaning of the tags
_MPP_ORIGIN = {  # the tag behind openslide.mpp-x, by vendor
    "aperio": "aperio.MPP",
    "generic-tiff": "tiff.XResolution",
    "hamamatsu": "tiff.XResolution",
    "leica": "tiff.XResolution",
    "philips": "philips.DICOM_PIXEL_SPACING",
    "ventana": "ventana.ScanRes",
    "trestle": "tiff.XResolution",
    "mirax": "mirax.MICROMETER_PER_PIXEL_X",
    "sakura": "sakura.NominalLensMagnification",
    "dicom": "dicom.PixelSpacing",
    "zeiss": "zeiss.Scaling",
}


class OpenSlideSlide(FileSlide):
    """A slide through OpenSlide.

    Pixels are 8-bit RGB, transparency composed on white. At a level whose downsample is not a whole number OpenSlide
    can only be addressed in level-0 pixels, so it places the level with up to half a level-0 pixel of error and
    interpolates; level 0 and whole downsamples are exact.

    Args:
        path: The file that OpenSlide is to open.
        options: Resolution and channels as a person gives them.

    Raises:
        SlideOpenError: If OpenSlide does not open the file.
    """

    reader: ClassVar[str] = "openslide"

    @classmethod
    def decline(cls, kind: FileKind) -> str | None:
        """Why OpenSlide does not take the file, or would read it wrongly; None where it tries."""
        if kind.format in _PLAIN_FORMATS:
            return "plain images are not OpenSlide's"
        if kind.dicom is not None and (kind.dicom.bits != 8 or kind.dicom.photometric.startswith("MONOCHROME")):
            what = f"{kind.dicom.photometric} of {kind.dicom.bits} bits"
            return f"OpenSlide takes DICOM of 8-bit colour only; this is {what}"
        try:
            vendor = openslide.OpenSlide.detect_format(str(kind.path))
        except openslide.OpenSlideError as error:
            return f"OpenSlide: {error}"
        if vendor is None:
            return _unknown(kind)
        if kind.tiff is not None and vendor in _CHECKED_VENDORS:
            return kind.tiff.unfit_for_openslide(generic=vendor == "generic-tiff")
        return None

    def __init__(self, path: Path, options: OpenOptions) -> None:
        self._lock = threading.Lock()
        self._handle: openslide.OpenSlide | None = _open(path)
        handle = self._handle
        properties = _properties(handle)
        self._downsamples = tuple(float(d) for d in handle.level_downsamples)
        self.levels = _levels(handle.level_dimensions)
        self.bounds = _bounds(properties, self.levels[0].size)
        self.channels = ("R", "G", "B")
        self.dtype = np.dtype(np.uint8)
        self._associated = tuple(sorted(handle.associated_images))
        self._describe(path, options, _metadata(properties), properties)

    def read_native(self, level: int, box: Box) -> Shaped[np.ndarray, "h w c"]:
        """Read a region of a level in its own pixels.

        An OpenSlide handle that has failed once fails for ever, and another thread may have made it fail. So a failed
        read is tried once more on a handle of its own: what fails there is truly unreadable.
        """
        handle = self._opened()
        try:
            return self._region(handle, level, box)
        except openslide.OpenSlideError:
            pass
        self.check_unchanged()
        try:
            fresh = _open(self.path)
            pixels = self._region(fresh, level, box)
        except (openslide.OpenSlideError, SlideOpenError) as error:
            self._replace(handle, _open(self.path))
            raise self._unreadable(level, box, error) from error
        self._replace(handle, fresh)
        return pixels

    def _opened(self) -> openslide.OpenSlide:
        handle = self._handle
        if handle is None:
            raise ValueError(f"Slide '{self.path.name}' is closed.")
        return handle

    def _replace(self, failed: openslide.OpenSlide, fresh: openslide.OpenSlide) -> None:
        # The failed handle is not closed here, since other threads may be inside of it; it closes with its last user.
        with self._lock:
            if self._handle is failed:
                self._handle = fresh

    def _region(self, handle: openslide.OpenSlide, level: int, box: Box) -> UInt8[np.ndarray, "h w 3"]:
        downsample = self._downsamples[level]
        location = (round(box.x * downsample), round(box.y * downsample))
        return _on_white(np.asarray(handle.read_region(location, level, (box.width, box.height))))

    def close(self) -> None:
        """Let go of the file; a read under way in another thread ends first."""
        with self._lock:
            self._handle = None

    @cached_property
    def native_recipe(self) -> Mapping[str, str]:
        """Reader, OpenSlide's own version, that of the build that holds its decoders, and the format it saw."""
        return {
            "name": self.reader,
            "openslide": openslide.__library_version__,
            "openslide_build": _build_version(),
            "format": self.properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown"),
        }

    @property
    def associated_names(self) -> tuple[str, ...]:
        """Names of associated images; listing them reads none."""
        return self._associated

    def read_associated(self, name: str) -> UInt8[np.ndarray, "h w 3"]:
        """Read an associated image."""
        if name not in self._associated:
            raise LookupError(
                f"Slide '{self.path.name}' has no associated image {name!r}. It has: "
                f"{', '.join(self._associated) or 'none'}."
            )
        try:
            # on a handle of its own, since a failure would spoil the shared one
            with _open(self.path) as handle:
                return _on_white(np.asarray(handle.associated_images[name].convert("RGBA")))
        except (openslide.OpenSlideError, MemoryError) as error:
            raise UnreadableRegionError(
                f"Slide '{self.path.name}': the associated image {name!r} cannot be decoded: {error}. Do without it."
            ) from error

    @cached_property
    def companions(self) -> tuple[Path, ...]:
        """Files beside a MRXS, VMS or DICOM slide that are part of it."""
        return find_companions(self.path)


def _open(path: Path) -> openslide.OpenSlide:
    try:
        return openslide.OpenSlide(str(path))
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise UnsupportedFormatError(f"'{path}' is of no format that OpenSlide knows.") from error
    except openslide.OpenSlideError as error:
        raise _open_error(path, str(error)) from error


def _open_error(path: Path, message: str) -> SlideOpenError:
    unsupported = "compression" in message.lower() or "transfer syntax" in message.lower()
    kind = UnsupportedCompressionError if unsupported else UnsupportedFormatError
    return kind(f"'{path}' cannot be opened by OpenSlide: {message}. Convert it, for example to OME-TIFF.")


def _properties(handle: openslide.OpenSlide) -> dict[str, str]:
    found = {}
    for name in handle.properties:
        with suppress(KeyError):  # a damaged file has names without values
            found[name] = str(handle.properties[name])
    return found


def _unknown(kind: FileKind) -> str:
    if kind.tiff is not None and not kind.tiff.is_tiled:
        return "OpenSlide takes TIFF only where it is tiled; this one is striped"
    return "OpenSlide knows no such format"


def _levels(sizes: tuple[tuple[int, int], ...]) -> tuple[Level, ...]:
    width, height = sizes[0]
    return tuple(Level(Size(w, h), width / w, height / h) for w, h in sizes)


def _bounds(properties: Mapping[str, str], size: Size) -> Box:
    """The scanned part: OpenSlide's bounds clipped to the canvas; the canvas where there are none."""
    names = ("x", "y", "width", "height")
    try:
        x, y, width, height = (int(properties[f"openslide.bounds-{name}"]) for name in names)
    except (KeyError, ValueError):
        return Box.of(size)
    if width < 1 or height < 1:
        return Box.of(size)
    return Box(x, y, width, height).intersection(Box.of(size)) or Box.of(size)


def _metadata(properties: Mapping[str, str]) -> Metadata | None:
    try:
        x = float(properties[openslide.PROPERTY_NAME_MPP_X])
        y = float(properties[openslide.PROPERTY_NAME_MPP_Y])
    except (KeyError, ValueError):
        return None
    vendor = properties.get(openslide.PROPERTY_NAME_VENDOR, "")
    return Metadata(x, y, _MPP_ORIGIN.get(vendor, "openslide.mpp-x"))


def _on_white(rgba: UInt8[np.ndarray, "h w 4"]) -> UInt8[np.ndarray, "h w 3"]:
    """Compose straight (not premultiplied) RGBA on white."""
    alpha = rgba[:, :, 3]
    rgb = np.ascontiguousarray(rgba[:, :, :3])
    if alpha.min() == 255:
        return rgb
    weight = alpha[:, :, None].astype(np.uint16)
    return ((rgb * weight + 255 * (255 - weight) + 127) // 255).astype(np.uint8)


def _build_version() -> str:
    try:
        return packages.version("openslide-bin")
    except packages.PackageNotFoundError:
        return "system"
