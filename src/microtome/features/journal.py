"""The features of a slide while they are being made: one file to which whole batches are appended.

A batch is committed when its record is in the file complete, which its checksum says. So nothing but the last
record can be lost to a kill, and a resumed run goes on after the last whole one, whatever stands behind it. The
file is forced to the disk now and then, against loss of power.
"""

import json
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from microtome.storage import write_errors_explained

SYNC_BYTES = 64 * 1024 * 1024
SYNC_SECONDS = 30.0
_MAGIC = b"microtome features journal 1\n"
_RECORD = struct.Struct("<4sIIIIII")  # mark, batch, rows, unreadable, bytes of errors, checksums of payload and head
_MARK = b"MTBR"


@dataclass(frozen=True, slots=True)
class JournalHead:
    """What a journal must agree in to be gone on with.

    Attributes:
        recipe_digest: Digest of what decides the features.
        dim: Length of a feature vector.
        dtype: Of the features.
        n_tiles: Number of tiles asked for.
        batch_size: Number of tiles per batch; batches of another size would be computed otherwise.
    """

    recipe_digest: str
    dim: int
    dtype: str
    n_tiles: int
    batch_size: int


@dataclass(frozen=True, slots=True)
class JournalBatch:
    """One batch: its readable tiles with their features, and the others with the reason.

    Attributes:
        rows: Which tiles of the source the features are of.
        features: One row per readable tile.
        unreadable: Tile of the source → why it could not be decoded.
    """

    rows: Int64[np.ndarray, " n"]
    features: Float[np.ndarray, "n d"]
    unreadable: Mapping[int, str]


class Journal:
    """An open journal. What an earlier one with the same head had committed is kept, anything else is discarded.

    Args:
        path: Its file.
        head: What it must agree in.

    Attributes:
        n_batches: Batches committed.
        n_rows: Rows of features in them.
        n_unreadable: Tiles in them that could not be decoded.

    Raises:
        OutputWriteError: If the file cannot be written.
    """

    def __init__(self, path: Path, head: JournalHead) -> None:
        self.path, self.head = path, head
        self.n_batches = self.n_rows = self.n_unreadable = 0
        self._first = _MAGIC + json.dumps(asdict(head), sort_keys=True).encode() + b"\n"
        self._end = len(self._first)
        self._unsynced, self._synced_at = 0, time.monotonic()
        with write_errors_explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            self._file = FileIO(path, "r+")
            try:
                self._resume()
            except BaseException:
                self._file.close()
                raise

    def append(self, batch: JournalBatch) -> None:
        """Commit the next batch.

        Raises:
            OutputWriteError: If there is no space left, say; what was committed before stays so.
        """
        record = _pack(self.n_batches, batch)
        with write_errors_explained(self.path):
            try:
                self._write(record)
                self._sync_now_and_then(len(record))
            except OSError:
                with suppress(OSError):  # a torn record is ignored anyway
                    self._file.truncate(self._end)
                raise
        self._end += len(record)
        self._count(batch)

    def batches(self) -> Iterator[JournalBatch]:
        """Read what is committed, in order; stops where a record is torn or damaged."""
        with self.path.open("rb") as file:
            if file.read(len(self._first)) != self._first:
                return
            index = 0
            while (batch := _unpack(file.read(_RECORD.size), file.read, index, self.head)) is not None:
                yield batch
                index += 1

    def close(self) -> None:
        """Force what is committed to the disk and let go of the file; an empty one is deleted."""
        if self.n_batches == 0:
            self.remove()
        if not self._file.closed:
            with suppress(OSError):
                os.fsync(self._file.fileno())
            self._file.close()

    def remove(self) -> None:
        """Let go of the file and delete it."""
        self._file.close()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _resume(self) -> None:
        for batch in self.batches():
            self._end += len(_pack(self.n_batches, batch))
            self._count(batch)
        if self.n_batches == 0:
            self._file.truncate(0)
            self._file.seek(0)
            self._write(self._first)
        self._file.truncate(self._end)
        self._file.seek(self._end)

    def _count(self, batch: JournalBatch) -> None:
        self.n_batches += 1
        self.n_rows += len(batch.rows)
        self.n_unreadable += len(batch.unreadable)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:  # a raw file may take less than all
            view = view[self._file.write(view) :]

    def _sync_now_and_then(self, n_bytes: int) -> None:
        self._unsynced += n_bytes
        if self._unsynced >= SYNC_BYTES or time.monotonic() - self._synced_at >= SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._unsynced, self._synced_at = 0, time.monotonic()


def _pack(index: int, batch: JournalBatch) -> bytes:
    errors = json.dumps({str(row): reason for row, reason in batch.unreadable.items()}).encode()
    features = np.ascontiguousarray(batch.features).tobytes()
    payload = np.ascontiguousarray(batch.rows).tobytes() + features + errors
    counts = (_MARK, index, len(batch.rows), len(batch.unreadable), len(errors), zlib.crc32(payload))
    head = _RECORD.pack(*counts, 0)
    return _RECORD.pack(*counts, zlib.crc32(head)) + payload


def _unpack(head: bytes, read: Callable[[int], bytes], index: int, expected: JournalHead) -> JournalBatch | None:
    """The batch that a record holds; None where it is torn, damaged or not the next one."""
    if len(head) < _RECORD.size:
        return None
    *counts, checksum = _RECORD.unpack(head)
    if zlib.crc32(_RECORD.pack(*counts, 0)) != checksum:
        return None
    mark, found, n_rows, n_unreadable, n_errors, payload_checksum = counts
    if mark != _MARK or found != index or n_rows + n_unreadable > expected.batch_size:
        return None
    dtype = np.dtype(expected.dtype)
    n_features = n_rows * expected.dim * dtype.itemsize
    payload = read(8 * n_rows + n_features + n_errors)
    if zlib.crc32(payload) != payload_checksum:
        return None
    rows = np.frombuffer(payload, np.int64, n_rows)
    features = np.frombuffer(payload, dtype, n_rows * expected.dim, offset=8 * n_rows)
    errors = json.loads(payload[8 * n_rows + n_features :])
    return JournalBatch(rows, features.reshape(n_rows, expected.dim), {int(r): e for r, e in errors.items()})
