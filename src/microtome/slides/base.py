"""The one pixel door: where in level-0 pixels, how many pixels out.

:class:`Slide` decides which pyramid level serves a request, resamples, and fills what lies out of bounds; a
reader implements "region at a native level" and nothing else.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Int, Shaped, UInt8

from microtome.errors import ChannelError, ConfigError, UnreadableRegionError
from microtome.geometry import Box, Size
from microtome.slides.direct_cache import TileCache
from microtome.slides.resample import Resample, resample_image, shrink_in_bands
from microtome.slides.resolution import Resolution
from microtome.slides.view import View, display_image

Fill = Literal["white", "black"]
Modality = Literal["brightfield", "fluorescence", "multichannel"]
Decode = Literal["exact", "dct"]

_BAND_PX = 16_000_000  # a level region above this many pixels is shrunk in bands, so that memory stays bounded
_DARK = 60  # a pixel whose brightest channel is below this is background of a fluorescence image
_BRIGHT = 170  # a pixel whose darkest channel is above this is background of a bright-field image


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the pyramid: its size, and level-0 pixels per pixel of it, per axis."""

    size: Size
    downsample_x: float
    downsample_y: float


@dataclass(frozen=True, slots=True)
class How:
    """How a region is read: which channels (None for all), the value out of bounds, how pixels shrink and decode."""

    channels: tuple[int, ...] | None
    outside: float
    resample: Resample
    decode: Decode = "exact"


class Slide(ABC):
    """An open slide; a context manager; safe to read from many threads; picklable (reopens itself).

    Attributes:
        path: The file that was opened.
        reader: Name of the reader that took it, for example ``"openslide"``.
        levels: The pyramid, largest first; ``levels[0]`` is level 0.
        bounds: The scanned part of the canvas, in level-0 pixels (the whole canvas for most formats). Outside of
            it there is nothing; reading there gives ``fill``.
        channels: Names of the native channels, for example ``("R", "G", "B")`` or ``("DAPI", "FITC")``.
        dtype: Native dtype of a channel.
        resolution: µm per pixel and where it came from; :attr:`mpp` raises where it is not known.
        view: How 16-bit or many-channel pixels are seen as 8-bit RGB; None where they are RGB or grey already.
        properties: The file's metadata as text.
        reader_note: Why this reader and not the fastest one for files of this kind, or which part of the file is left
            to another; empty where there is nothing to say.
    """

    reader: ClassVar[str]
    reader_note: str = ""

    path: Path
    levels: tuple[Level, ...]
    bounds: Box
    channels: tuple[str, ...]
    dtype: np.dtype[Any]
    resolution: Resolution
    view: View | None
    properties: Mapping[str, str]

    # -- what a reader implements -------------------------------------------------------------------------

    @abstractmethod
    def read_native(self, level: int, box: Box) -> Shaped[np.ndarray, "h w c"]:
        """Read a region of a level in that level's own pixels; the box lies inside of the level.

        Args:
            level: Index into :attr:`levels`.
            box: Region in pixels *of that level*.

        Returns:
            Pixels, native dtype, one column per name in :attr:`channels`; RGB pixels have alpha composed on white.

        Raises:
            UnreadableRegionError: If any pixel of it cannot be decoded.
        """

    def read_channels(self, level: int, box: Box, channels: tuple[int, ...] | None) -> Shaped[np.ndarray, "h w c"]:
        """Some channels of :meth:`read_native`, by index; None for all. A reader that can decode fewer overrides it."""
        pixels = self.read_native(level, box)
        return pixels if channels is None else pixels[:, :, list(channels)]

    def compressed_tile(self, level: int, box: Box) -> bytes | None:
        """A JPEG file that holds exactly a region of a level, as the slide's own file has it compressed.

        A reader that can take such a thing out of its file overrides it; decoded, it must give the pixels of
        :meth:`read_native`. It is not decoded here and may be damaged.

        Args:
            level: Index into :attr:`levels`.
            box: Region in pixels *of that level*.

        Returns:
            A complete JPEG, or None where the region is not one whole JPEG tile of the file.
        """
        return None

    @abstractmethod
    def close(self) -> None:
        """Close the file; reading afterwards raises."""

    @property
    @abstractmethod
    def native_recipe(self) -> Mapping[str, str]:
        """What decides the native pixels beside the file: reader, native library and decoder versions."""

    @property
    @abstractmethod
    def associated_names(self) -> tuple[str, ...]:
        """Names of associated images (``label``, ``macro``, ...). A label may show patient data."""

    @abstractmethod
    def read_associated(self, name: str) -> UInt8[np.ndarray, "h w 3"]:
        """Read an associated image; nothing here ever reads one unless asked.

        Raises:
            LookupError: If there is none of this name.
        """

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A digest of the file's content (sampled), its companions' names and sizes; not of its path or date."""

    @abstractmethod
    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as "open it again": an open file does not travel to another process."""

    # -- what every slide has -------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self.path.stem

    @property
    def size(self) -> Size:
        """Width and height of level 0, in pixels."""
        return self.levels[0].size

    @property
    def mpp(self) -> float:
        """µm per level-0 pixel.

        Raises:
            ResolutionError: If metadata does not give it plausibly and nobody else did.
        """
        return self.resolution.known(self.path)

    @property
    def mpp_source(self) -> str:
        """Where :attr:`mpp` came from."""
        return self.resolution.source

    @property
    def is_rgb(self) -> bool:
        """Whether native pixels are 8-bit RGB or 8-bit grey."""
        return self.dtype == np.uint8 and (len(self.channels) == 1 or self.channels == ("R", "G", "B"))

    @property
    def recipe(self) -> dict[str, object]:
        """What decides the pixels of :meth:`read`, flat, for a digest."""
        return {
            "slide": self.fingerprint,
            **{f"reader_{key}": value for key, value in self.native_recipe.items()},
            "slide_mpp": self.resolution.mpp,
            "slide_mpp_source": self.resolution.source,
            **({} if self.view is None else self.view.recipe),
        }

    @cached_property
    def modality(self) -> Modality:
        """Kind of image: what :attr:`view` declares, else multichannel, else by whether the background is dark."""
        if self.view is not None:
            return "brightfield"
        if not self.is_rgb:
            return "multichannel"
        picture = self._overview()
        dark = float((picture.max(axis=2) < _DARK).mean())
        bright = float((picture.min(axis=2) > _BRIGHT).mean())  # in all colours: a bright dye is bright in its own
        return "fluorescence" if dark > 0.5 and bright < 0.05 else "brightfield"

    def _overview(self) -> UInt8[np.ndarray, "h w 3"]:
        """A small picture of the scanned part; of what can be read of it where a region is damaged."""
        try:
            return self.thumbnail(512)
        except UnreadableRegionError as error:
            first_error = error
        edges_x = np.linspace(self.bounds.x, self.bounds.right, 9).astype(int)
        edges_y = np.linspace(self.bounds.y, self.bounds.bottom, 9).astype(int)
        parts = []
        for x, y in itertools.product(range(8), range(8)):
            with suppress(UnreadableRegionError, ConfigError):  # a slide under 8 px has parts of no size
                box = Box(
                    int(edges_x[x]),
                    int(edges_y[y]),
                    int(edges_x[x + 1] - edges_x[x]),
                    int(edges_y[y + 1] - edges_y[y]),
                )
                parts.append(self.read(box, size=Size(64, 64)))
        if not parts:
            raise first_error
        return np.concatenate(parts)

    def read(
        self,
        box: Box,
        *,
        size: Size | None = None,
        fill: Fill = "white",
        resample: Resample = "area",
        decode: Decode = "exact",
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Read a region as 8-bit RGB.

        Args:
            box: Where, in level-0 pixels; may reach out of the slide.
            size: How many pixels out; by default the box's own size (level 0).
            fill: What lies outside of :attr:`bounds`: white, or black as OpenSlide and DeepZoom have it.
            resample: How pixels shrink. Where a level has the asked resolution its pixels come as they are.
            decode: ``exact``, or ``dct``: where pixels shrink to a half or less, JPEG is decoded at a half, a quarter
                or an eighth of its size at once, quicker and a little different (one or two grey levels on average).

        Returns:
            RGB pixels, shape (size.height, size.width, 3), 0..255.

        Raises:
            UnreadableRegionError: If any pixel of it cannot be decoded.
            ChannelError: If the slide is not 8-bit RGB or grey and was opened without ``channels``.
            ConfigError: If this slide cannot be read with ``decode="dct"``.
        """
        if self.view is not None:
            value = self.view.high if fill == "white" else self.view.low
            how = How(self.view.channels, value, resample, decode)
            return self.view.apply_window(self._read_how(box, size, how))
        if not self.is_rgb:
            raise ChannelError(
                f"Slide '{self.path.name}' has {len(self.channels)} channel(s) of {self.dtype} "
                f"({', '.join(self.channels)[:200]}), not 8-bit RGB. Say how to see it with channels= (--channels, one "
                "or three of them) and, unless it is 8-bit, window= (--window LOW,HIGH)."
            )
        pixels = self.read_raw(box, size=size, fill=fill, resample=resample, decode=decode)
        return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels

    def read_into(
        self,
        box: Box,
        out: UInt8[np.ndarray, "h w 3"],
        *,
        fill: Fill = "white",
        resample: Resample = "area",
        decode: Decode = "exact",
    ) -> None:
        """The same into memory of the caller's, whose height and width say how many pixels; errors as of :meth:`read`.

        After an error the memory may hold anything.
        """
        size = Size(out.shape[1], out.shape[0])
        out[...] = self.read(box, size=size, fill=fill, resample=resample, decode=decode)

    def read_compressed(self, box: Box, *, size: Size | None = None) -> bytes | None:
        """A region as a JPEG file of the slide's own bytes, where :meth:`read` would do nothing to them but decode.

        Args:
            box: Where, in level-0 pixels.
            size: As :meth:`read`.

        Returns:
            A complete JPEG, which may be damaged; None where pixels are resampled, filled or windowed, or the region is
            not one whole JPEG tile of the file.
        """
        if self.view is not None or self.channels != ("R", "G", "B"):
            return None
        size = size or box.size
        index = self.best_level(box, size)
        source = self._level_box(index, box, size)
        if source.size != size or source.intersection(self._level_bounds(self.levels[index])) != source:
            return None
        return self.compressed_tile(index, source)

    def read_raw(
        self,
        box: Box,
        *,
        size: Size | None = None,
        fill: Fill = "white",
        resample: Resample = "area",
        decode: Decode = "exact",
    ) -> Shaped[np.ndarray, "h w c"]:
        """Read a region in the slide's own channels and dtype; arguments and errors as in :meth:`read`.

        ``fill`` white is 255 for 8-bit RGB and grey, and 0 for everything else, where 0 means no signal.
        """
        return self._read_how(box, size, How(None, 255 if fill == "white" and self.is_rgb else 0, resample, decode))

    def _read_how(self, box: Box, size: Size | None, how: How) -> Shaped[np.ndarray, "h w c"]:
        size = size or box.size
        if size.width < 1 or size.height < 1:
            raise ConfigError(f"size must be at least 1 × 1 px. Got {size.width} × {size.height}.")
        if how.decode == "dct" and (scaled := self._read_scaled(box, size, how)) is not None:
            return scaled
        level = self.best_level(box, size)
        source = self._level_box(level, box, size)
        if source.size == size:
            return self._read_filled(level, source, how)
        if how.resample == "area" and source.width * source.height > _BAND_PX:
            return shrink_in_bands(lambda band: self._read_filled(level, band, how), source, size)
        return resample_image(self._read_filled(level, source, how), size, how.resample)

    def thumbnail(self, max_px: int = 1024) -> UInt8[np.ndarray, "h w 3"]:
        """The scanned part (:attr:`bounds`) with a longest side of at most ``max_px``, to look at.

        Many-channel and 16-bit slides opened without ``channels`` are stretched for display, per channel, from
        the 1st to the 99.8th percentile; such pixels are for eyes only and nothing computes from them.
        """
        size = self.bounds.size.fitted(max_px)
        if self.view is None and not self.is_rgb:
            return display_image(self.read_raw(self.bounds, size=size), rgb=self.channels == ("R", "G", "B"))
        return self.read(self.bounds, size=size)

    def best_level(self, box: Box, size: Size) -> int:
        """The smallest level that still has at least the asked resolution; level 0 where none has."""
        best = 0
        for index, level in enumerate(self.levels):
            fits_x = box.width / level.downsample_x > size.width - 0.5
            fits_y = box.height / level.downsample_y > size.height - 0.5
            if fits_x and fits_y:
                best = index
        return best

    def _read_scaled(self, box: Box, size: Size, how: How) -> Shaped[np.ndarray, "h w c"] | None:
        """A region decoded smaller than it is stored; None where it is not; errors as in :meth:`dct_scale`."""
        self.dct_scale(box, size)
        return None

    def dct_scale(self, box: Box, size: Size) -> int:
        """By how much JPEG is decoded smaller than stored where a region is read with ``decode="dct"``.

        Args:
            box: Where, in level-0 pixels.
            size: How many pixels out.

        Returns:
            2, 4 or 8; 1 where it does not shrink to a half.

        Raises:
            ConfigError: If this slide cannot be read so.
        """
        raise ConfigError(
            f"Slide '{self.path.name}' cannot be read with decode='dct' (--decode dct): only the reader direct can, "
            f"and this is {self.reader}{self.reader_note and f' ({self.reader_note})'}. Leave it out (decode='exact')."
        )

    def expect(  # noqa: B027 - most readers have nothing to keep
        self, boxes: Int[np.ndarray, "n 4"], size: Size, decode: Decode = "exact", cache: TileCache | None = None
    ) -> None:
        """Be told which regions will be read next, so that a reader may keep what they share; changes no pixel.

        Args:
            boxes: x y w h, in level-0 pixels, each as often as it will be read.
            size: How many pixels out, as in :meth:`read`.
            decode: As in :meth:`read`.
            cache: Where decoded pixels of the file are kept meanwhile; None for the slide's own place.
        """

    def _level_box(self, index: int, box: Box, size: Size) -> Box:
        return level_box(self.levels[index], box, size)

    def _read_filled(self, index: int, box: Box, how: How) -> Shaped[np.ndarray, "h w c"]:
        """Read a level's region that may reach out of the scanned part."""
        inside = box.intersection(self._level_bounds(self.levels[index]))
        if inside == box:
            return self.read_channels(index, box, how.channels)
        n_channels = len(self.channels if how.channels is None else how.channels)
        canvas = np.full((box.height, box.width, n_channels), _within(how.outside, self.dtype), self.dtype)
        if inside is not None:
            y, x = inside.y - box.y, inside.x - box.x
            pixels = self.read_channels(index, inside, how.channels)
            canvas[y : y + inside.height, x : x + inside.width] = pixels
        return canvas

    def _level_bounds(self, level: Level) -> Box:
        x, y = round(self.bounds.x / level.downsample_x), round(self.bounds.y / level.downsample_y)
        # ceil: a level's last column may stand for less than a whole pixel's worth of level 0
        right = min(level.size.width, -int(-self.bounds.right // level.downsample_x))
        bottom = min(level.size.height, -int(-self.bounds.bottom // level.downsample_y))
        return Box(x, y, max(1, right - x), max(1, bottom - y))

    def __enter__(self) -> "Slide":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        mpp = "unknown mpp" if self.resolution.mpp is None else f"{self.resolution.mpp:g} µm/px"
        return f"<{type(self).__name__} '{self.path.name}' {self.size.width}×{self.size.height} {mpp}>"


def level_box(level: Level, box: Box, size: Size) -> Box:
    """A box in pixels of a level, rounded to whole ones; equal in size to ``size`` where they agree."""
    x, y = round(box.x / level.downsample_x), round(box.y / level.downsample_y)
    w, h = box.width / level.downsample_x, box.height / level.downsample_y
    if abs(w - size.width) < 0.5 and abs(h - size.height) < 0.5:
        return Box(x, y, size.width, size.height)
    right, bottom = round(box.right / level.downsample_x), round(box.bottom / level.downsample_y)
    return Box(x, y, max(1, right - x), max(1, bottom - y))


def _within(value: float, dtype: np.dtype[Any]) -> float:
    """The nearest value that a dtype has."""
    if dtype.kind not in "ui":
        return value
    limits = np.iinfo(dtype)
    return min(max(round(value), limits.min), limits.max)
