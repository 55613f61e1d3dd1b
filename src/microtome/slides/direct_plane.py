"""Regions of one level put together from its decoded tiles."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int, Int64, UInt8

from microtome.geometry import Box, Size
from microtome.slides.direct_cache import Tile, TileCache
from microtome.slides.direct_decode import ForeignTileError, JpegCoding
from microtome.slides.direct_file import DirectFile
from microtome.slides.direct_index import TileTable

_MAX_SAMPLES = 12


class TilePlane:
    """One level, readable by region at full size, or at a half, a quarter or an eighth where its coding can do that.

    Args:
        table: Its tiles.
        file: The file.

    Attributes:
        table: Its tiles.
    """

    def __init__(self, table: TileTable, file: DirectFile) -> None:
        self.table, self._file = table, file
        self._scaled = {scale: _Scaled(self, scale) for scale in (1, *table.coding.scales)}

    def read(self, box: Box, cache: TileCache, scale: int = 1) -> UInt8[np.ndarray, "h w 3"]:
        """Read a region.

        Args:
            box: In pixels of the level divided by ``scale``; inside of it.
            cache: Where decoded tiles are kept.
            scale: 1, or one that the coding can do.

        Raises:
            ForeignTileError: If a tile of it is missing, or of a kind that was not compared with OpenSlide.
            ValueError, RuntimeError, EOFError, OSError: If a tile of it cannot be read or decoded.
        """
        return self._scaled[scale].read(box, cache)

    def decode_into(self, index: int, out: Tile, scale: int) -> None:
        """Read and decode one tile; errors as in :meth:`read`."""
        table = self.table
        n_bytes = int(table.counts[index])
        if n_bytes == 0:
            raise ForeignTileError("a tile is missing")
        table.coding.decode(self._file.read(int(table.offsets[index]), n_bytes), out, scale)

    def stored(self, index: int) -> bytes:
        """The bytes of a tile."""
        return self._file.read(int(self.table.offsets[index]), int(self.table.counts[index]))

    def compressed(self, box: Box) -> bytes | None:
        """The JPEG file of a region that is one whole tile of it, in colour; None for any other region.

        Raises:
            ForeignTileError: If the tile is of a kind that was not compared with OpenSlide.
            EOFError, OSError: If it cannot be read.
        """
        coding, index = self.table.coding, self.whole_tile(box)
        if index is None or not isinstance(coding, JpegCoding) or not coding.is_colour:
            return None
        return coding.stream(self.stored(index)) if self.table.counts[index] > 0 else None

    def whole_tile(self, box: Box) -> int | None:
        """The tile that a region of the level is, exactly and whole; None where it is none."""
        table, width, height = self.table, self.table.coding.width, self.table.coding.height
        if (box.width, box.height) != (width, height) or box.x % width or box.y % height:
            return None
        inside = box.x >= 0 and box.y >= 0 and box.right <= table.size.width and box.bottom <= table.size.height
        return box.y // height * table.across + box.x // width if inside else None

    def tile_box(self, index: int) -> Box:
        """A tile's place in the level, what overhangs cut off."""
        table = self.table
        row, column = divmod(index, table.across)
        width, height = table.coding.width, table.coding.height
        x, y = column * width, row * height
        return Box(x, y, min(width, table.size.width - x), min(height, table.size.height - y))

    def samples(self) -> Iterator[int]:
        """Tiles to compare: that of most bytes (tissue, not glass), that in the middle, the last; then by bytes."""
        counts, across = self.table.counts, self.table.across
        by_bytes = np.argsort(-counts, kind="stable")[:_MAX_SAMPLES].tolist()
        middle = len(counts) // across // 2 * across + across // 2
        for index in dict.fromkeys([by_bytes[0], middle, len(counts) - 1, *by_bytes[1:]]):
            if counts[index] > 0:
                yield int(index)

    def expect(self, boxes: Int[np.ndarray, "n 4"], scale: int) -> None:
        """Be told which regions will be read, each as often as it is named; earlier expectations are forgotten.

        Args:
            boxes: x y w h, in pixels of the level divided by ``scale``.
            scale: As in :meth:`read`.
        """
        self._scaled[scale].expect(boxes)

    def forget(self, cache: TileCache) -> None:
        """Let go of decoded tiles."""
        for scaled in self._scaled.values():
            cache.forget(scaled)


class _Scaled:
    """A plane at one scale."""

    def __init__(self, plane: TilePlane, scale: int) -> None:
        table = plane.table
        self._plane, self._scale, self._across = plane, scale, table.across
        self._width, self._height = table.coding.width // scale, table.coding.height // scale
        self._size = Size(table.size.width // scale, table.size.height // scale)
        self._uses: Int64[np.ndarray, " n"] | None = None

    def read(self, box: Box, cache: TileCache) -> UInt8[np.ndarray, "h w 3"]:
        width, height, across = self._width, self._height, self._across
        first_row, last_row = box.y // height, (box.bottom - 1) // height
        first, last = box.x // width, (box.right - 1) // width
        out = np.empty((box.height, box.width, 3), np.uint8)
        if (box.x, box.y, box.width, box.height) == (first * width, first_row * height, width, height):
            self._plane.decode_into(first_row * across + first, out, self._scale)  # nobody else wants a part of it
            return out
        for row in range(first_row, last_row + 1):
            top = row * height - box.y
            rows = out[max(0, top) : top + height]
            from_row = max(0, -top)
            for column in range(first, last + 1):
                tile = cache.fetch(self, row * across + column, self._uses, self._decode)
                left = column * width - box.x
                part = rows[:, max(0, left) : left + width]
                from_column = max(0, -left)
                part[...] = tile[from_row : from_row + part.shape[0], from_column : from_column + part.shape[1]]
        return out

    def _decode(self, index: int) -> Tile:
        tile = np.empty((self._height, self._width, 3), np.uint8)
        self._plane.decode_into(index, tile, self._scale)
        return tile

    def expect(self, boxes: Int[np.ndarray, "n 4"]) -> None:
        table = self._plane.table
        across, down = table.across, len(table.counts) // table.across
        x, y, w, h = boxes.astype(np.int64).T
        first, last = _clipped(x // self._width, across), _clipped((x + w - 1) // self._width, across)
        top, bottom = _clipped(y // self._height, down), _clipped((y + h - 1) // self._height, down)
        inside = (x < self._size.width) & (x + w > 0) & (y < self._size.height) & (y + h > 0)
        steps = np.zeros((down + 1, across + 1), np.int64)  # +1 where a box begins, -1 behind its end; summed below
        for rows, columns, step in (
            (top, first, 1),
            (top, last + 1, -1),
            (bottom + 1, first, -1),
            (bottom + 1, last + 1, 1),
        ):
            np.add.at(steps, (rows[inside], columns[inside]), step)
        self._uses = steps.cumsum(axis=0).cumsum(axis=1)[:down, :across].ravel()


def _clipped(cells: Int64[np.ndarray, " n"], n: int) -> Int64[np.ndarray, " n"]:
    clipped: Int64[np.ndarray, " n"] = np.clip(cells, 0, n - 1)
    return clipped
