"""Tile sources and encoders that are arrays and means, for tests of everything around them."""

import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from microtome.encoders.base import Card, Encoder
from microtome.errors import ModalityError
from microtome.features.outcomes import Job
from microtome.storage import hash_array
from microtome.tiles.source import TileBatch


class ArraySource:
    """Tiles that lie in an array; some may be unreadable, and each read may take a while."""

    def __init__(
        self,
        slide_id: str = "A",
        n: int = 10,
        *,
        shape: tuple[int, int, int] = (8, 8, 3),
        dtype: Any = np.uint8,
        modality: str = "brightfield",
        broken: Mapping[int, str] | None = None,
        seed: int = 0,
        delay_s: float = 0.0,
        note: str = "",
    ) -> None:
        rng = np.random.default_rng([seed, len(slide_id), *slide_id.encode()])
        self.slide_id = slide_id
        self.images = rng.integers(0, np.iinfo(dtype).max, (n, *shape), dtype=dtype, endpoint=True)
        side = 2 * shape[0]
        columns = np.arange(n) % 7, np.arange(n) // 7
        self.boxes = np.stack([columns[0] * side, columns[1] * side, *[np.full(n, side)] * 2], axis=1).astype(np.int64)
        self.modality, self.dtype, self.tile_shape, self.mpp = modality, np.dtype(dtype), shape, 0.5
        self.broken = dict(broken or {})
        self.delay_s, self.note = delay_s, note
        self.closed = False
        self.n_read = 0
        self._lock = threading.Lock()

    @property
    def recipe(self) -> Mapping[str, object]:
        return {
            "slide": hash_array(self.images),
            "tile_boxes": self.boxes,
            "slide_mpp": 0.25,
            "slide_mpp_source": "metadata",
            "tile_slide_size": [1000, 2000],
            "note": self.note,
        }

    def __len__(self) -> int:
        return len(self.images)

    def read(self, rows: np.ndarray) -> TileBatch:
        assert not self.closed, "read after close"
        if self.delay_s:
            time.sleep(self.delay_s)
        with self._lock:
            self.n_read += len(rows)
        images = self.images[rows].copy()
        readable = np.array([int(row) not in self.broken for row in rows], bool)
        images[~readable] = 0
        errors = {int(row): self.broken[int(row)] for row in rows if int(row) in self.broken}
        return TileBatch(images, rows, readable, errors)

    def close(self) -> None:
        self.closed = True


def job_of(source: ArraySource) -> Job:
    """A job whose source is there already."""
    return Job(source.slide_id, lambda: source)


class Means(Encoder):
    """Mean and spread of each channel; refuses what it was not made for."""

    def __init__(
        self,
        *,
        channels: int = 3,
        dtype: Any = np.uint8,
        modality: str = "brightfield",
        name: str = "means",
        delay_s: float = 0.0,
        concurrent: bool = False,
    ) -> None:
        self.card = Card(name=name, dim=2 * channels, input_px=None, tile_px=8, modality=modality)
        self.device, self.precision = "cpu", "fp32"
        self.concurrent = concurrent
        self.dtype, self.delay_s = np.dtype(dtype), delay_s
        self.shapes: list[tuple[int, ...]] = []
        self.threads: set[int] = set()

    def encode(self, images: np.ndarray) -> np.ndarray:
        if images.dtype != self.dtype or 2 * images.shape[3] != self.card.dim:
            raise ModalityError(f"takes {self.dtype}, got {images.dtype}")
        self.shapes.append(images.shape)
        self.threads.add(threading.get_ident())
        if self.delay_s:
            time.sleep(self.delay_s)
        pixels = images.astype(np.float64)
        vectors = np.concatenate([pixels.mean(axis=(1, 2)), pixels.std(axis=(1, 2))], axis=1)
        return vectors.astype(np.float32)
