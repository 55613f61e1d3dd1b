"""NVIDIA's cuCIM as a reader, for those who have it: taken by name only, and only where it gives OpenSlide's pixels."""

from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from importlib import metadata as packages
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Shaped, UInt8

from microtome.errors import ConfigError, UnsupportedFormatError
from microtome.geometry import Box, Size
from microtome.slides.direct_check import PixelsDifferError, same_pixels
from microtome.slides.file_slide import OpenOptions
from microtome.slides.openslide_reader import OpenSlideSlide
from microtome.slides.probe import FileKind

_CHECK_PX = 256


class CucimSlide(OpenSlideSlide):
    """A tiled TIFF through cuCIM; levels, resolution, properties and associated images are OpenSlide's.

    Args:
        path: The file.
        options: Resolution and channels as a person gives them.

    Raises:
        ConfigError: If cuCIM is not installed.
        SlideOpenError: If OpenSlide or cuCIM does not open the file, or their pixels differ.
    """

    reader: ClassVar[str] = "cucim"

    @classmethod
    def decline(cls, kind: FileKind) -> str | None:
        """Why the file is not for cuCIM; None where it tries."""
        return "it is no TIFF" if kind.tiff is None else super().decline(kind)

    def __init__(self, path: Path, options: OpenOptions) -> None:
        library = _library()
        super().__init__(path, options)
        try:
            self._image: Any = library.CuImage(str(path))
        except Exception as error:
            raise UnsupportedFormatError(f"'{path}' is not opened by cuCIM: {error}. Use another reader.") from error
        sizes = tuple(Size(int(w), int(h)) for w, h in self._image.resolutions["level_dimensions"])
        if sizes != tuple(level.size for level in self.levels):
            raise _unfit(path, f"its levels are {', '.join(f'{s.width}×{s.height}' for s in sizes)} px")
        self._check(path)

    def _check(self, path: Path) -> None:
        """Compare a corner, the middle and the last pixels of each level with OpenSlide."""
        for index, level in enumerate(self.levels):
            width, height = min(_CHECK_PX, level.size.width), min(_CHECK_PX, level.size.height)
            last = level.size.width - width, level.size.height - height
            for x, y in dict.fromkeys([(0, 0), (last[0] // 2, last[1] // 2), last]):
                try:
                    same_pixels(self.read_native, super().read_native, index, Box(x, y, width, height))
                except PixelsDifferError as error:
                    raise _unfit(path, str(error)) from error

    def read_native(self, level: int, box: Box) -> Shaped[np.ndarray, "h w c"]:
        """Read a region of a level in its own pixels."""
        self._opened()  # raises if closed
        downsample = self._downsamples[level]
        at = (round(box.x * downsample), round(box.y * downsample))
        try:
            region = self._image.read_region(location=at, size=(box.width, box.height), level=level)
            pixels: UInt8[np.ndarray, "h w c"] = np.asarray(region)
        except (RuntimeError, ValueError, OSError) as error:
            raise self._unreadable(level, box, error) from error
        if pixels.shape[:2] != (box.height, box.width) or pixels.dtype != np.uint8:
            raise self._unreadable(level, box, f"cuCIM gave {pixels.dtype} {pixels.shape}")
        return np.ascontiguousarray(pixels[:, :, :3])

    def close(self) -> None:
        """Let go of the file."""
        super().close()
        self._image = None

    @cached_property
    def native_recipe(self) -> Mapping[str, str]:
        """As OpenSlide's, and cuCIM's version."""
        return {**super().native_recipe, "cucim": _version(_library())}


def _library() -> ModuleType:
    try:
        return import_module("cucim")
    except ImportError as error:
        raise ConfigError(
            "The reader cucim needs a library that is not installed. Run 'pip install cucim-cu12' (Linux; no GPU is "
            "needed), or choose the reader direct, which is as quick."
        ) from error


def _version(library: ModuleType) -> str:
    for name in ("cucim-cu12", "cucim-cu13", "cucim"):
        try:
            return packages.version(name)
        except packages.PackageNotFoundError:
            continue
    return str(getattr(library, "__version__", "unknown"))


def _unfit(path: Path, why: str) -> UnsupportedFormatError:
    return UnsupportedFormatError(f"'{path.name}' cannot be read through cuCIM: {why}. Use reader auto or openslide.")
