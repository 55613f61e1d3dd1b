"""The fast way to the pixels of a tiled TIFF of JPEG (SVS, generic TIFF, BigTIFF): OpenSlide's, without OpenSlide.

Everything but pixels is OpenSlide's: levels, bounds, resolution, properties, associated images. A level that is fit
for it is read from the file's compressed tiles, each decoded once while it is wanted, outside of the GIL. Anything
unusual is left to OpenSlide: a level of another compression or with a downsample between whole pixels, a tile that is
missing or of a kind that was not compared. On opening, a few tiles of each level are compared with OpenSlide's pixels.
"""

from collections.abc import Mapping
from functools import cached_property
from importlib import metadata as packages
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Int, Shaped, UInt8

from microtome.errors import ConfigError, SlideOpenError, UnsupportedFormatError
from microtome.geometry import Box, Size
from microtome.slides.base import Decode, Fill, How, Level, level_box
from microtome.slides.direct_cache import TileCache
from microtome.slides.direct_check import UNREADABLE, PixelsDifferError, check_plane
from microtome.slides.direct_decode import ForeignTileError, Jpeg2000Coding
from microtome.slides.direct_file import DirectFile
from microtome.slides.direct_index import APERIO_JPEG2000_RGB, JPEG, read_tile_tables
from microtome.slides.direct_plane import TilePlane
from microtome.slides.file_slide import OpenOptions
from microtome.slides.openslide_reader import OpenSlideSlide
from microtome.slides.probe import FileKind
from microtome.slides.resample import Resample, resample_image

_CACHE_BYTES = 64 * 2**20
_VENDORS = ("aperio", "generic-tiff")  # whose levels are pages as they are; others shift, overlap or crop them


class DirectSlide(OpenSlideSlide):
    """A tiled TIFF of JPEG, its tiles decoded directly; the pixels are OpenSlide's.

    JPEG that a decoder warns of is unreadable here, though OpenSlide shows some of it.

    Args:
        path: The file.
        options: Resolution and channels as a person gives them.

    Raises:
        SlideOpenError: If OpenSlide does not open the file, no level can be read directly, or pixels differ from
            OpenSlide's.
    """

    reader: ClassVar[str] = "direct"

    @classmethod
    def decline(cls, kind: FileKind) -> str | None:
        """Why the file is not for direct reading; None where it tries."""
        if kind.tiff is None:
            return "it is no TIFF"
        known = (JPEG, APERIO_JPEG2000_RGB)
        if not any(page.is_tiled and page.compression in known for page in kind.tiff.pages):
            return "it has no tiles of JPEG"
        return super().decline(kind)

    def __init__(self, path: Path, options: OpenOptions) -> None:
        super().__init__(path, options)
        self.cache = TileCache(_CACHE_BYTES)
        vendor = self.properties.get("openslide.vendor", "unknown")
        if vendor not in _VENDORS:
            raise _unfit(path, f"only OpenSlide knows how the format '{vendor}' places its tiles")
        self._file = DirectFile(path)
        self._planes, reasons = self._find_planes()
        self._check(reasons)
        if not any(self._planes):
            raise _unfit(path, _listed(reasons))
        if reasons:
            self.reader_note = f"OpenSlide reads {_listed(reasons)}"

    def _check(self, reasons: dict[int, str]) -> None:
        """Compare with OpenSlide; give up levels of which nothing could be compared."""
        reference = super().read_native
        for level, plane in enumerate(self._planes):
            try:
                if plane is None or check_plane(plane, level, reference, 2 if level else 3):
                    continue
            except PixelsDifferError as error:
                raise _unfit(self.path, str(error)) from error
            self._planes[level], reasons[level] = None, "no tile of it could be compared"

    def _find_planes(self) -> tuple[list[TilePlane | None], dict[int, str]]:
        try:
            tables = read_tile_tables(self.path, [level.size for level in self.levels], self._downsamples)
        except Exception as error:  # a damaged index may raise anything; OpenSlide has opened the file
            raise _unfit(self.path, f"its index cannot be read ({error})") from error
        planes = [None if isinstance(t, str) else TilePlane(t, self._file) for t in tables]
        return planes, {level: t for level, t in enumerate(tables) if isinstance(t, str)}

    def read_native(self, level: int, box: Box) -> Shaped[np.ndarray, "h w c"]:
        """Read a region of a level in its own pixels."""
        self._file.check_open()
        plane = self._planes[level]
        if plane is None:
            return super().read_native(level, box)
        try:
            return plane.read(box, self.cache)
        except ForeignTileError:
            return super().read_native(level, box)
        except UNREADABLE as error:
            self._file.check_open()
            raise self._unreadable(level, box, error) from error

    def read_into(
        self,
        box: Box,
        out: UInt8[np.ndarray, "h w 3"],
        *,
        fill: Fill = "white",
        resample: Resample = "area",
        decode: Decode = "exact",
    ) -> None:
        """As of every slide; a region that is one whole tile of level 0 is decoded where it is wanted, not copied."""
        if decode != "exact" or not self._decode_whole(box, out):
            super().read_into(box, out, fill=fill, resample=resample, decode=decode)

    def _decode_whole(self, box: Box, out: UInt8[np.ndarray, "h w 3"]) -> bool:
        """Decode in place a region that is one whole tile of level 0, wanted as it is; False for any other."""
        plane = self._planes[0]
        as_it_is = self.view is None and out.shape == (box.height, box.width, 3) and out.flags.c_contiguous
        if plane is None or not as_it_is or self.best_level(box, box.size) != 0:
            return False
        index = plane.whole_tile(box)
        if index is None:
            return False
        self._file.check_open()
        try:
            plane.decode_into(index, out, 1)
        except ForeignTileError:
            return False
        except UNREADABLE as error:
            self._file.check_open()
            raise self._unreadable(0, box, error) from error
        return True

    def _read_scaled(self, box: Box, size: Size, how: How) -> Shaped[np.ndarray, "h w c"] | None:
        index, scale = self.best_level(box, size), self.dct_scale(box, size)
        if scale == 1:
            return None
        level, plane = _smaller(self.levels[index], scale), self._planes[index]
        source = level_box(level, box, size)
        if plane is None or not Box.of(level.size).contains(source):
            return None
        try:
            pixels = plane.read(source, self.cache, scale)
        except ForeignTileError:
            return None
        except UNREADABLE as error:
            self._file.check_open()
            raise self._unreadable(index, source, error) from error
        if how.channels is not None:
            pixels = np.ascontiguousarray(pixels[:, :, list(how.channels)])
        return pixels if source.size == size else resample_image(pixels, size, how.resample)

    def dct_scale(self, box: Box, size: Size) -> int:
        """By how much JPEG is decoded smaller; the level that serves the region must be one that is decoded here."""
        index = self.best_level(box, size)
        plane = self._planes[index]
        if plane is None or not plane.table.coding.scales:
            why = self.reader_note if plane is None else "it is JPEG 2000"
            raise ConfigError(
                f"Level {index} of slide '{self.path.name}' cannot be read with decode='dct' (--decode dct): {why}. "
                "Leave it out (decode='exact')."
            )
        for scale in plane.table.coding.scales:
            level = _smaller(self.levels[index], scale)
            if (
                box.width / level.downsample_x > size.width - 0.5
                and box.height / level.downsample_y > size.height - 0.5
            ):
                return scale
        return 1

    def expect(
        self, boxes: Int[np.ndarray, "n 4"], size: Size, decode: Decode = "exact", cache: TileCache | None = None
    ) -> None:
        """Count how often each compressed tile will be wanted, so that it is kept just so long."""
        if cache is not None:
            self.cache = cache
        if not len(boxes):
            return
        typical = Box(0, 0, *(int(v) for v in np.median(boxes[:, 2:], axis=0)))
        index, scale = self.best_level(typical, size), self.dct_scale(typical, size) if decode == "dct" else 1
        plane, level = self._planes[index], _smaller(self.levels[index], scale)
        if plane is None:
            return
        factors = np.array([level.downsample_x, level.downsample_y])
        corners = np.rint(boxes[:, :2] / factors).astype(np.int64)
        ends = np.rint((boxes[:, :2] + boxes[:, 2:]) / factors).astype(np.int64)
        plane.expect(np.concatenate([corners, np.maximum(1, ends - corners)], axis=1), scale)

    def compressed_tile(self, level: int, box: Box) -> bytes | None:
        """The JPEG file of a region that is one whole tile of a level."""
        self._file.check_open()
        plane = self._planes[level]
        try:
            return None if plane is None else plane.compressed(box)
        except (ForeignTileError, EOFError, OSError):  # reading the pixels says what is wrong
            return None

    def close(self) -> None:
        """Let go of the file and of decoded tiles."""
        super().close()
        self._file.close()
        for plane in self._planes:
            if plane is not None:
                plane.forget(self.cache)

    @cached_property
    def native_recipe(self) -> Mapping[str, str]:
        """As OpenSlide's, and the versions of the decoders."""
        jpeg2000 = any(p is not None and isinstance(p.table.coding, Jpeg2000Coding) for p in self._planes)
        decoders = ("simplejpeg", "imagecodecs") if jpeg2000 else ("simplejpeg",)
        return {**super().native_recipe, **{name: packages.version(name) for name in decoders}}


def _smaller(level: Level, scale: int) -> Level:
    """A level as it is when decoded smaller, whole pixels only."""
    size = Size(level.size.width // scale, level.size.height // scale)
    return Level(size, level.downsample_x * scale, level.downsample_y * scale)


def _unfit(path: Path, why: str) -> SlideOpenError:
    return UnsupportedFormatError(f"'{path.name}' cannot be read directly: {why}. Open it with reader openslide.")


def _listed(reasons: Mapping[int, str]) -> str:
    return "; ".join(f"level {level}: {why}" for level, why in sorted(reasons.items()))
