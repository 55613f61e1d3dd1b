"""What a slide writer writes, streamed: level 0 is read once in bands, and each lower level is made from the one above.

Memory holds one band of level 0 and nothing else; lower levels are spooled to an unnamed temporary file beside the
output, because a pyramidal file stores its levels one after the other.
"""

import itertools
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Shaped

from microtome.errors import ConfigError
from microtome.geometry import Box, Size

_BAND_BYTES = 48 * 2**20
_BLOCK_PX = 1024


@dataclass(frozen=True, slots=True)
class Canvas:
    """Pixels to be written as a slide, and what is known of them.

    Attributes:
        read: Gives the pixels of a box of level 0 that lies inside of the canvas: (h, w, channels) of ``dtype``. It
            is called from several threads, once per box, in no promised order. ``Slide.read`` fits.
        size: Level 0, in pixels.
        mpp: µm per level-0 pixel; None writes a file that does not say.
        downsamples: Level-0 pixels per pixel of each level, from 1; each an integer multiple of the one before. A
            level that does not divide evenly loses its last partial column or row, as Aperio's do.
        channels: Names; ``("R", "G", "B")`` for colour.
        dtype: ``uint8`` or ``uint16``.
        shrink: ``area`` averages; ``nearest`` keeps each block's top-left pixel, for pixels that are a code.
    """

    read: Callable[[Box], Shaped[np.ndarray, "h w c"]]
    size: Size
    mpp: float | None
    downsamples: tuple[int, ...] = (1, 4, 16)
    channels: tuple[str, ...] = ("R", "G", "B")
    dtype: Literal["uint8", "uint16"] = "uint8"
    shrink: Literal["area", "nearest"] = "area"

    def __post_init__(self) -> None:
        steps = self.downsamples
        rising = all(b > a and b % a == 0 for a, b in itertools.pairwise(steps))
        if not steps or steps[0] != 1 or not rising:
            raise ConfigError(
                f"downsamples must start with 1 and each be a multiple of the one before, as in 1, 4, 16. Got {steps}."
            )
        if self.size.width < steps[-1] or self.size.height < steps[-1]:
            raise ConfigError(
                f"A slide of {self.size.width} × {self.size.height} px has nothing left at downsample {steps[-1]}. "
                "Leave that level out of downsamples."
            )
        if self.mpp is not None and not (math.isfinite(self.mpp) and self.mpp > 0):
            raise ConfigError(f"mpp must be > 0 µm/px, or None to write none. Got {self.mpp}.")
        if self.dtype not in ("uint8", "uint16") or self.shrink not in ("area", "nearest") or not self.channels:
            raise ConfigError(
                "A canvas has at least one channel, dtype uint8 or uint16 and shrink area or nearest. Got "
                f"{len(self.channels)} channel(s), {self.dtype}, {self.shrink}."
            )

    @property
    def is_rgb(self) -> bool:
        """Whether it is 8-bit colour."""
        return self.channels == ("R", "G", "B") and self.dtype == "uint8"

    @property
    def level_sizes(self) -> tuple[Size, ...]:
        """Size of each level, in its own pixels."""
        return tuple(Size(self.size.width // d, self.size.height // d) for d in self.downsamples)

    @property
    def n_bytes(self) -> int:
        """Bytes of all levels, uncompressed."""
        return sum(s.area for s in self.level_sizes) * len(self.channels) * np.dtype(self.dtype).itemsize

    def only(self, channel: int) -> "Canvas":
        """The canvas of one of its channels."""
        return replace(self, read=partial(_read_channel, self.read, channel), channels=(self.channels[channel],))


def _read_channel(read: Callable[[Box], np.ndarray], channel: int, box: Box) -> np.ndarray:
    return read(box)[:, :, channel : channel + 1]


class TilePyramid:
    """The tiles of a canvas, level after level; a context manager.

    Args:
        canvas: What to cut into tiles.
        tile_px: Side of a tile.
        spool: Folder for the temporary file.
        workers: Threads that read; by default one per core.
    """

    def __init__(self, canvas: Canvas, tile_px: int, *, spool: Path, workers: int | None = None) -> None:
        self._canvas = canvas
        self._tile_px = tile_px
        self._spool = spool
        self._workers = workers or os.cpu_count() or 1
        self._stack = ExitStack()
        self._levels: dict[int, np.ndarray] = {}
        self._done = -1

    def __enter__(self) -> "TilePyramid":
        canvas = self._canvas
        self._pool = self._stack.enter_context(ThreadPoolExecutor(self._workers))
        # One level more than is written where only level 0 is: the overview has to come from somewhere.
        extra = [] if len(canvas.downsamples) > 1 else [max(1, -(-max(canvas.size.width, canvas.size.height) // 1024))]
        self._steps = [*canvas.downsamples, *(d for d in extra if d > 1)]
        for index, step in enumerate(self._steps[1:], start=1):
            shape = (canvas.size.height // step, canvas.size.width // step, len(canvas.channels))
            if min(shape) > 0:
                file = self._stack.enter_context(tempfile.TemporaryFile(dir=self._spool, prefix=".spool-"))
                self._levels[index] = np.memmap(file, dtype=canvas.dtype, mode="w+", shape=shape)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._levels.clear()  # a mapped file must be let go before it can be closed
        self._stack.close()

    def tiles(self, level: int) -> Iterator[Shaped[np.ndarray, "t t c"]]:
        """The tiles of a level, row by row; those on the right and bottom edge are padded by repeating it.

        Levels are asked for in order, each read to its end, because each is made while the one above is read.
        """
        if level != self._done + 1:
            raise ConfigError(f"Levels are made in order: {self._done + 1} is next. Got {level}.")
        for band in self._bands(level):
            for y in range(0, len(band), self._tile_px):
                yield from self._row(band[y : y + self._tile_px])

    def overview(self, max_px: int) -> Shaped[np.ndarray, "h w c"]:
        """The whole slide, longest side at most ``max_px``; from the second level, so after level 0 has been read."""
        if 1 not in self._levels:  # a slide so small that level 0 itself is an overview
            return self._canvas.read(Box.of(self._canvas.size))
        source = np.asarray(self._levels[1])
        size = Size(source.shape[1], source.shape[0]).fitted(max_px)
        out = cv2.resize(source, (size.width, size.height), interpolation=cv2.INTER_AREA)
        return np.asarray(out).reshape(size.height, size.width, source.shape[2])

    def _bands(self, level: int) -> Iterator[np.ndarray]:
        """Bands of rows of a level; on the way each is shrunk into the level below."""
        size = Size(self._canvas.size.width // self._steps[level], self._canvas.size.height // self._steps[level])
        ratio = self._steps[level + 1] // self._steps[level] if level + 1 in self._levels else 1
        rows = self._band_rows(size, ratio)
        for y in range(0, size.height, rows):
            height = min(rows, size.height - y)
            band = self._read(Box(0, y, size.width, height)) if level == 0 else self._spooled(level, y, height)
            if ratio > 1:
                self._shrink_into(level + 1, band, y // ratio, ratio)
            if y + height == size.height:  # noted here, since a writer does not ask for more tiles than it needs
                self._done = level
            yield band

    def _band_rows(self, size: Size, ratio: int) -> int:
        """A band's height: whole tiles and pixels of the level below, doubled while it stays below some tens of MB."""
        unit = math.lcm(self._tile_px, ratio)
        row_bytes = size.width * len(self._canvas.channels) * np.dtype(self._canvas.dtype).itemsize
        most = min(_BAND_BYTES // max(1, row_bytes), _BLOCK_PX)
        while 2 * unit <= most:
            unit *= 2
        return unit

    def _spooled(self, level: int, y: int, height: int) -> np.ndarray:
        return np.asarray(self._levels[level][y : y + height])

    def _read(self, where: Box) -> np.ndarray:
        """Read a band of level 0, block by block."""
        canvas = self._canvas
        band = np.empty((where.height, where.width, len(canvas.channels)), canvas.dtype)
        boxes = [
            Box(x, where.y, min(_BLOCK_PX, where.width - x), where.height) for x in range(0, where.width, _BLOCK_PX)
        ]
        for box, block in zip(boxes, self._pool.map(canvas.read, boxes), strict=True):
            if block.shape != (box.height, box.width, band.shape[2]) or block.dtype != band.dtype:
                raise ConfigError(
                    f"The canvas must give {box.height} × {box.width} × {band.shape[2]} pixels of {band.dtype} for "
                    f"{box}. Got {' × '.join(map(str, block.shape))} of {block.dtype}."
                )
            band[:, box.x : box.right] = block
        return band

    def _shrink_into(self, level: int, band: np.ndarray, y: int, ratio: int) -> None:
        target = self._levels[level]
        height, width = min(len(band) // ratio, len(target) - y), target.shape[1]
        if height < 1:
            return
        whole = band[: height * ratio, : width * ratio]
        if self._canvas.shrink == "nearest":
            target[y : y + height] = whole[::ratio, ::ratio]
        else:
            small = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
            target[y : y + height] = np.asarray(small).reshape(height, width, -1)

    def _row(self, strip: np.ndarray) -> Iterator[np.ndarray]:
        side = self._tile_px
        for x in range(0, strip.shape[1], side):
            tile = strip[:, x : x + side]
            if tile.shape[:2] != (side, side):
                tile = np.pad(tile, ((0, side - tile.shape[0]), (0, side - tile.shape[1]), (0, 0)), mode="edge")
            yield np.ascontiguousarray(tile)
