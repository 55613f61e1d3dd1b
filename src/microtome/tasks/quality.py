"""Quality flags of tiles, measured on the pixels that extraction reads anyway, kept with the tile coordinates."""

import json
import threading
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int, Int64, Shaped

from microtome.slides.base import Decode, Slide
from microtome.tiles.grid import Tiles
from microtome.tiles.slide_tiles import SlideTiles
from microtome.tiles.source import TileBatch
from microtome.tiles.store import read_tile_quality, read_tiles, read_tiles_recipe, write_tiles
from microtome.tissue.quality import tile_quality

QUALITY_FLAGS = ("blur", "pen", "black", "white")
_CHUNK = 64


class MeasuredTiles(SlideTiles):
    """Tiles of a slide that are measured as they are read: each decoding thread measures what it decoded."""

    def __init__(self, slide: Slide, tiles: Tiles, slide_id: str, *, decode: Decode = "exact") -> None:
        super().__init__(slide, tiles, slide_id, decode=decode)
        self.quality = no_quality(len(tiles))
        self._measuring = threading.Lock()

    def read_into(self, rows: Int[np.ndarray, " n"], images: Shaped[np.ndarray, "n h w c"]) -> TileBatch:
        """Read tiles and note the flags of those that are RGB and readable."""
        batch = super().read_into(rows, images)
        if batch.readable.any() and self.dtype == np.uint8 and self.tile_shape[2] == 3:
            found = tile_quality(batch.images if batch.readable.all() else batch.images[batch.readable])
            with self._measuring:
                for name, values in found.items():
                    self.quality[name][batch.rows[batch.readable]] = values
        return batch


def no_quality(n: int) -> dict[str, Float32[np.ndarray, " n"]]:
    """Flags of tiles that nobody has measured: NaN."""
    return {name: np.full(n, np.nan, np.float32) for name in QUALITY_FLAGS}


def unmeasured(path: Path, rows: Int64[np.ndarray, " k"]) -> Int64[np.ndarray, " m"]:
    """Which of these rows have no flags in a file of tiles."""
    stored = read_tile_quality(path)
    if not stored:
        return rows
    missing: Int64[np.ndarray, " m"] = rows[np.isnan(next(iter(stored.values()))[rows])]
    return missing


def keep_quality(path: Path, slide_id: str, quality: dict[str, Float32[np.ndarray, " n"]]) -> None:
    """Add measured flags to a file of tiles, whose claim the caller holds; what it has already stays."""
    tiles, stored = read_tiles(path), read_tile_quality(path)
    merged = {name: np.where(np.isnan(values), stored.get(name, values), values) for name, values in quality.items()}
    recipe = json.loads(read_tiles_recipe(path))
    write_tiles(path, tiles, slide_id=slide_id, recipe=recipe, quality=merged)


def measure_rows(source: MeasuredTiles, rows: Int64[np.ndarray, " k"]) -> None:
    """Read tiles for their flags alone."""
    for start in range(0, len(rows), _CHUNK):
        source.read(rows[start : start + _CHUNK])
