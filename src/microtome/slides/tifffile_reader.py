"""TIFF that OpenSlide refuses or would show wrongly: striped, OME, QPTIFF, ImageJ, oriented, many channels or bits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata as packages
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tifffile
from jaxtyping import Shaped, UInt8

from microtome.errors import (
    CorruptSlideError,
    MicrotomeError,
    MissingCompanionError,
    SlideOpenError,
    UnreadableRegionError,
    UnsupportedFormatError,
    ZeroSizeError,
)
from microtome.geometry import Box, Size
from microtome.slides.base import Level
from microtome.slides.file_slide import FileSlide, OpenOptions
from microtome.slides.orientation import orient_image, oriented_size, stored_box
from microtome.slides.probe import FileKind
from microtome.slides.resolution import Metadata
from microtome.slides.tiff_metadata import channel_names, find_mpp, ome_image, plane_names
from microtome.slides.tiff_pixels import Colour, Page, page_colour
from microtome.slides.tiff_segments import SegmentCache, SourceFile, TiffPlane
from microtome.slides.view import display_image

Series = Any
"""A series of pages of tifffile, which has no types of its own that say more."""

_FOREIGN_LAYOUTS = ("ndpi", "philips", "bif", "scn", "vista")  # their geometry is not in the TIFF tags
_ORIENTATION = 274
_TEXT_TAGS = (270, 271, 272, 305, 306, 315, 316)
_SHAPE_TOLERANCE = 0.02


class TiffSlide(FileSlide):
    """A TIFF through tifffile's index, its segments decoded one by one.

    Level 0 is the file's largest image; its SubIFDs, or the pages that follow as reduced versions of it, are the
    other levels. Every page of a stack is a channel with a name (``T0 Z2 C1``), so that ``channels=`` can pick one.
    Pixels of 1, 4 and other odd bit depths come as unsigned 16-bit, so that nobody takes them for 8-bit grey.

    Args:
        path: The file.
        options: Resolution and channels as a person gives them.

    Raises:
        SlideOpenError: If the file cannot be opened; its subclass says why.
    """

    reader: ClassVar[str] = "tifffile"

    @classmethod
    def decline(cls, kind: FileKind) -> str | None:
        """Why tifffile does not take the file; None where it tries."""
        return None if kind.tiff is not None else "it is no TIFF"

    def __init__(self, path: Path, options: OpenOptions) -> None:
        self._files: dict[Path, SourceFile] = {}
        self._cache = SegmentCache()
        try:
            with tifffile.TiffFile(path) as tiff:
                self._read_index(path, tiff, options)
        except (MicrotomeError, MemoryError, PermissionError):
            self.close()
            raise
        except Exception as error:
            # a parser raises what it likes on bytes that make no sense
            self.close()
            raise CorruptSlideError(
                f"'{path}' has a TIFF index that cannot be followed ({type(error).__name__}: {error}). Copy it again "
                "from its source."
            ) from error

    def _read_index(self, path: Path, tiff: tifffile.TiffFile, options: OpenOptions) -> None:
        layout = next((name for name in _FOREIGN_LAYOUTS if getattr(tiff, f"is_{name}", False)), None)
        if layout is not None:
            raise UnsupportedFormatError(
                f"'{path}' is a TIFF of the {layout} layout, which only OpenSlide places rightly."
            )
        series = list(tiff.series)
        main = max(range(len(series)), key=lambda i: _area(series[i]))  # the first of the largest
        first = _first_page(series[main], path)
        self._orientation = int(first.tags[_ORIENTATION].value) if _ORIENTATION in first.tags else 1
        if not 1 <= self._orientation <= 8:
            self._orientation = 1  # TIFF 6.0 knows no other; readers take the default
        self._stacks = [self._open_stack(level, path) for level in _pyramid(series[main])]
        base = self._stacks[0]
        self._colour = base.colour
        ome = ome_image(tiff.ome_metadata, main) if tiff.is_ome else None
        names = channel_names(ome, [p for p in series[main].pages if p is not None])
        self.channels = plane_names(base.axes, self._colour.names, names)
        self.dtype = self._colour.dtype
        self.levels = _levels([oriented_size(s.size, self._orientation) for s in self._stacks])
        self.bounds = Box.of(self.levels[0].size)
        self._associated = self._open_associated(series, main, path)
        base.planes[0].try_first()
        metadata = find_mpp(first, ome, tiff.imagej_metadata if tiff.is_imagej else None)
        if metadata is not None and self._orientation >= 5:
            metadata = Metadata(metadata.mpp_y, metadata.mpp_x, metadata.tag)
        self._describe(path, options, metadata, _properties(first, series))

    def _open_stack(self, series: Series, path: Path) -> "_Stack":
        key = _first_page(series, path)
        axes = _stack_axes(series, key, path)
        n_planes = int(np.prod([length for _, length in axes], dtype=np.int64))
        pages = list(series.pages)
        if any(page is None for page in pages):
            raise _missing_planes(path, sum(page is None for page in pages))
        if len(pages) == n_planes:
            planes = [TiffPlane(page, self._source(page), self._cache) for page in pages]
        elif len(pages) == 1 and series.dataoffset is not None:  # ImageJ: one page, the other planes right behind it
            planes = [TiffPlane(pages[0], self._source(pages[0]), self._cache, i) for i in range(n_planes)]
        else:
            raise CorruptSlideError(
                f"'{path}' names {n_planes} planes but has {len(pages)} pages. Save it as OME-TIFF."
            )
        is_channel = n_planes > 1 or series.kind == "ome"
        return _Stack(tuple(planes), tuple(axes), page_colour(key, path, is_channel=is_channel))

    def _source(self, page: Page) -> SourceFile:
        path = Path(page.parent.filehandle.path)
        if path not in self._files:
            self._files[path] = SourceFile(path)
        return self._files[path]

    def _open_associated(self, series: Sequence[Series], main: int, path: Path) -> dict[str, "_Stack"]:
        """The file's other images, by name; those that cannot be read here are left out."""
        found: dict[str, _Stack] = {}
        for index, other in enumerate(series):
            if index == main:
                continue
            name = (str(other.name) or f"image {index}").lower()
            try:
                stack = self._open_stack(other, path)
            except (SlideOpenError, ValueError, IndexError, TypeError):
                continue
            found[name if name not in found else f"{name} {index}"] = stack
        return found

    def read_native(self, level: int, box: Box) -> Shaped[np.ndarray, "h w c"]:
        """Read a region of a level in its own pixels."""
        return self.read_channels(level, box, None)

    def read_channels(self, level: int, box: Box, channels: tuple[int, ...] | None) -> Shaped[np.ndarray, "h w c"]:
        """Read some channels of a region; pages of other channels are not decoded."""
        stored = stored_box(box, self.levels[level].size, self._orientation)
        try:
            pixels = self._stacks[level].read(stored, channels)
        except Exception as error:
            # decoders raise what they like; all of it means "not decoded"
            raise self._region_error(level, box, error) from error
        return orient_image(pixels, self._orientation)

    def _region_error(self, level: int, box: Box, error: Exception) -> Exception:
        if not self._files:
            return ValueError(f"Slide '{self.path.name}' is closed.")
        if isinstance(error, MemoryError):
            return error
        return self._unreadable(level, box, error)

    def close(self) -> None:
        """Close the files."""
        files, self._files = self._files, {}
        for file in files.values():
            file.close()
        self._cache.clear()

    @cached_property
    def native_recipe(self) -> Mapping[str, str]:
        """Reader, and the versions of tifffile and of the library of its decoders."""
        return {
            "name": self.reader,
            "tifffile": tifffile.__version__,
            "imagecodecs": packages.version("imagecodecs"),
            "orientation": str(self._orientation),
        }

    @property
    def associated_names(self) -> tuple[str, ...]:
        """Names of the file's other images, lower case."""
        return tuple(sorted(self._associated))

    def read_associated(self, name: str) -> UInt8[np.ndarray, "h w 3"]:
        """Read one of the file's other images as 8-bit RGB, stretched for display where it is not that."""
        if name not in self._associated:
            raise LookupError(
                f"Slide '{self.path.name}' has no associated image {name!r}. It has: "
                f"{', '.join(self.associated_names) or 'none'}."
            )
        stack = self._associated[name]
        try:
            pixels = stack.read(Box.of(stack.size))
        except Exception as error:
            raise UnreadableRegionError(
                f"Slide '{self.path.name}': the associated image {name!r} cannot be decoded: {error}. Do without it."
            ) from error
        if pixels.dtype != np.uint8 or pixels.shape[2] not in (1, 3):
            return display_image(pixels)
        return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels

    @cached_property
    def companions(self) -> tuple[Path, ...]:
        """Other files of an OME-TIFF in several."""
        return tuple(sorted(p for p in self._files if p.resolve() != self.path.resolve()))


@dataclass(frozen=True, slots=True)
class _Stack:
    """The pages of one level: planes in the order of the axes over them, and what their samples mean."""

    planes: tuple[TiffPlane, ...]
    axes: tuple[tuple[str, int], ...]
    colour: Colour

    @property
    def size(self) -> Size:
        return Size(self.planes[0].width, self.planes[0].height)

    def read(self, box: Box, channels: tuple[int, ...] | None = None) -> Shaped[np.ndarray, "h w c"]:
        """Native channels of a region, by index over the planes' samples; None for all."""
        if channels is None:
            parts = [self.colour.convert(plane.read(box)) for plane in self.planes]
            return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
        n = len(self.colour.names)
        needed = {c // n: self.colour.convert(self.planes[c // n].read(box)) for c in dict.fromkeys(channels)}
        return np.stack([needed[c // n][:, :, c % n] for c in channels], axis=2)


def _area(series: Series) -> int:
    key = series.keyframe
    return int(key.imagewidth) * int(key.imagelength) if key is not None else 0


def _first_page(series: Series, path: Path) -> Page:
    key = series.keyframe
    if key is None:
        raise _missing_planes(path, 1)
    if not key.imagewidth or not key.imagelength:
        raise ZeroSizeError(
            f"'{path}' is a TIFF of {key.imagewidth} × {key.imagelength} px: there is nothing to see. Export it again."
        )
    return key


def _missing_planes(path: Path, n: int) -> MissingCompanionError:
    return MissingCompanionError(
        f"'{path}' is one file of an OME-TIFF in several, and {n} of its planes lie in files that are not beside it. "
        "Copy all of its files into one folder."
    )


def _stack_axes(series: Series, key: Page, path: Path) -> list[tuple[str, int]]:
    """Axes over the pages, slowest first: those of the series that are not those of a page."""
    axes, page_axes = series.axes, key.axes
    if not axes.endswith(page_axes) or "Y" not in page_axes or "X" not in page_axes:
        raise UnsupportedFormatError(
            f"'{path}' has pages with axes {page_axes} in a stack of {axes}, which is not read here."
        )
    n = len(axes) - len(page_axes)
    return list(zip(axes[:n], (int(length) for length in series.shape[:n]), strict=True))


def _pyramid(series: Series) -> list[Series]:
    """The levels of a series that are reduced versions of the first: smaller each time, of one shape and kind."""
    base = series.levels[0]
    kept = [base]
    for level in series.levels[1:]:
        key, last = level.keyframe, kept[-1].keyframe
        if key is None or key.imagewidth >= last.imagewidth or key.imagelength >= last.imagelength:
            continue
        across = base.keyframe.imagewidth / key.imagewidth
        down = base.keyframe.imagelength / key.imagelength
        rounding = 1 / min(key.imagewidth, key.imagelength)
        same_kind = level.axes == base.axes and level.dtype == base.dtype
        if same_kind and abs(across / down - 1) <= max(_SHAPE_TOLERANCE, rounding):
            kept.append(level)
    return kept


def _levels(sizes: Sequence[Size]) -> tuple[Level, ...]:
    full = sizes[0]
    return tuple(Level(s, full.width / s.width, full.height / s.height) for s in sizes)


def _properties(page: Page, series: Sequence[Series]) -> dict[str, str]:
    texts = {f"tiff.{page.tags[code].name}": str(page.tags[code].value) for code in _TEXT_TAGS if code in page.tags}
    return {
        **texts,
        "tiff.layout": str(series[0].kind),
        "tiff.compression": getattr(page.compression, "name", str(page.compression)),
        "tiff.n_images": str(len(series)),
    }
