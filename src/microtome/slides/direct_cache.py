"""Decoded tiles of files that are wanted again, so that each compressed tile is decoded once."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import cast

import numpy as np
from jaxtyping import Int, UInt8

Tile = UInt8[np.ndarray, "h w 3"]


class _Decoding:
    """A tile that one thread decodes and others wait for."""

    def __init__(self) -> None:
        self.done, self.tile = threading.Event(), cast("Tile | None", None)


class TileCache:
    """Decoded tiles, at most so many bytes of them; usable from many threads and by many slides.

    Where it is known how often each tile of a plane will be read, a tile stays until it was read that often, and a tile
    that finds no room is decoded again. Where it is not known, the tiles used last stay.

    Args:
        max_bytes: Never hold more; 0 holds nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self._n_bytes = max_bytes, 0
        self._promised: dict[tuple[Hashable, int], Tile] = {}
        self._recent: OrderedDict[tuple[Hashable, int], Tile] = OrderedDict()
        self._pending: dict[tuple[Hashable, int], _Decoding] = {}
        self._lock = threading.Lock()

    @property
    def n_bytes(self) -> int:
        """What it holds."""
        return self._n_bytes

    def limit(self, max_bytes: int) -> None:
        """Set the most that it may hold; what is too much is let go of."""
        if max_bytes == self.max_bytes:
            return
        with self._lock:
            self.max_bytes = max_bytes
            while self._n_bytes > max_bytes:
                held = self._recent or self._promised
                self._n_bytes -= held.pop(next(iter(held))).nbytes

    def fetch(
        self, plane: Hashable, index: int, uses: Int[np.ndarray, " n"] | None, decode: Callable[[int], Tile]
    ) -> Tile:
        """A decoded tile, which nobody may write to; decoded by one thread where several want it.

        Args:
            plane: Whose tile.
            index: Which one.
            uses: How often each tile of the plane is still to be read, this time included; counted down here. None
                where nobody knows.
            decode: Decodes a tile.

        Raises:
            Exception: Whatever ``decode`` raises.
        """
        key = (plane, index)
        with self._lock:  # one hold for counting and looking: whoever has counted either has the tile or waits for it
            left = None if uses is None else max(0, int(uses[index]) - 1)
            if uses is not None:
                uses[index] = left
            tile = self._find(key, left)
            if tile is not None:
                return tile
            pending = self._pending.get(key)
            if pending is None:
                mine = self._pending[key] = _Decoding()
        if pending is not None:
            pending.done.wait()
            return decode(index) if pending.tile is None else pending.tile  # None: the other's attempt failed
        try:
            mine.tile = decode(index)
            return mine.tile
        finally:
            with self._lock:
                del self._pending[key]
                if mine.tile is not None:
                    self._keep(key, mine.tile, uses)
            mine.done.set()

    def forget(self, plane: Hashable) -> None:
        """Let go of a plane's tiles."""
        with self._lock:
            for held in (self._promised, self._recent):
                for key in [key for key in held if key[0] is plane]:
                    self._n_bytes -= held.pop(key).nbytes

    def _find(self, key: tuple[Hashable, int], left: int | None) -> Tile | None:
        tile = self._promised.get(key)
        if tile is not None:
            if left == 0:
                self._n_bytes -= self._promised.pop(key).nbytes
            return tile
        tile = self._recent.get(key)
        if tile is not None:
            self._recent.move_to_end(key)
        return tile

    def _keep(self, key: tuple[Hashable, int], tile: Tile, uses: Int[np.ndarray, " n"] | None) -> None:
        if uses is not None and uses[key[1]] == 0:  # whoever still wanted it waits for this one
            return
        while self._recent and self._n_bytes + tile.nbytes > self.max_bytes:
            self._n_bytes -= self._recent.popitem(last=False)[1].nbytes
        if self._n_bytes + tile.nbytes > self.max_bytes:
            return
        (self._recent if uses is None else self._promised)[key] = tile
        self._n_bytes += tile.nbytes
