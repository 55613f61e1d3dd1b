"""Pixels of TIFF pages by segment: only the tiles or strips that a region needs are read and decoded.

Files are read with a lock instead of being mapped: where a mapped file shrinks, the process dies.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tifffile
from jaxtyping import Shaped

from microtome.errors import TruncatedSlideError, UnsupportedCompressionError, UnsupportedFormatError
from microtome.geometry import Box
from microtome.slides.tiff_pixels import Page

MAX_SEGMENT_BYTES = 2**31
"""A compressed strip or tile above this many decoded bytes is refused: it is decoded as a whole, or not at all."""

_CACHE_BYTES = 64 * 2**20
_RAW_SEGMENT_BYTES = 2**18
_N_DECODE_LOCKS = 32
_OLD_JPEG = 6
_CONTIG, _SEPARATE = 1, 2


class SourceFile:
    """A file that many threads read pieces of."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._file: BinaryIO | None = path.open("rb")
        self.size = self._file.seek(0, 2)

    def read(self, at: int, n_bytes: int) -> bytes:
        """Read bytes at an offset.

        Raises:
            EOFError: If the file ends before.
            ValueError: If it is closed.
        """
        with self._lock:
            if self._file is None:
                raise ValueError(f"'{self.path.name}' is closed.")
            self._file.seek(at)
            data = self._file.read(n_bytes)
        if len(data) < n_bytes:
            raise EOFError(f"the file ends {n_bytes - len(data)} bytes too early")
        return data

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None


class SegmentCache:
    """The decoded segments used last, up to a number of bytes; the last one is kept whatever its size."""

    def __init__(self, max_bytes: int = _CACHE_BYTES) -> None:
        self._max_bytes, self._n_bytes = max_bytes, 0
        self._segments: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._lock = threading.Lock()
        self._decode_locks = [threading.Lock() for _ in range(_N_DECODE_LOCKS)]

    def decode_lock(self, key: tuple[int, int]) -> threading.Lock:
        """A lock to hold while this segment is decoded, so that no two threads do the same work."""
        return self._decode_locks[hash(key) % _N_DECODE_LOCKS]

    def find(self, key: tuple[int, int]) -> np.ndarray | None:
        """A segment, if it is here."""
        with self._lock:
            segment = self._segments.get(key)
            if segment is not None:
                self._segments.move_to_end(key)
            return segment

    def keep(self, key: tuple[int, int], segment: np.ndarray) -> None:
        """Keep a segment; forget those not used for longest."""
        with self._lock:
            if key in self._segments:
                return
            self._segments[key] = segment
            self._n_bytes += segment.nbytes
            while self._n_bytes > self._max_bytes and len(self._segments) > 1:
                _, old = self._segments.popitem(last=False)
                self._n_bytes -= old.nbytes

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._segments.clear()
            self._n_bytes = 0


@dataclass(frozen=True, slots=True)
class _Grid:
    """How a page is cut: height and width of a segment, and their number across and down."""

    height: int
    width: int
    across: int
    down: int


class TiffPlane:
    """One page of a TIFF, readable by region: stored pixels, stored orientation.

    Args:
        page: The page (or a light frame of one).
        source: Its file.
        cache: Where decoded segments are kept.
        index: Which plane of an uncompressed run of planes behind one page this is; 0 for most.

    Raises:
        UnsupportedCompressionError: If its compression is unknown here.
        UnsupportedFormatError: If it is laid out in a way that cannot be read by segment.
    """

    def __init__(self, page: Page, source: SourceFile, cache: SegmentCache, index: int = 0) -> None:
        key = page.keyframe
        self._source, self._cache = source, cache
        self.width, self.height = int(key.imagewidth), int(key.imagelength)
        self.samples = int(key.samplesperpixel)
        self.dtype = np.dtype(key.dtype or "u1")
        self.is_planar = int(key.planarconfig) == _SEPARATE and self.samples > 1
        _check(key, source.path)
        # jpegtables and jpegheader are values of the page itself, the decoder is that of its keyframe
        self._tables = {"jpegtables": page.jpegtables, "jpegheader": key.jpegheader}
        self._offsets, self._counts = tuple(page.dataoffsets), tuple(page.databytecounts)
        self._raw_base: int | None = None
        if _is_raw(key, page):
            # uncompressed rows, one after the other: a region needs no more than its own rows
            self._raw_base = self._offsets[0] + index * self._plane_bytes
            self._check_raw_bytes()
            self._stored_dtype = self.dtype.newbyteorder(key.parent.byteorder)
            self._grid = self._raw_grid()
        elif index:
            raise UnsupportedFormatError(
                f"'{source.path}' holds planes without pages of their own, and they are compressed. Save it as "
                "OME-TIFF."
            )
        else:
            self._decode = key.decode
            self._grid = _page_grid(key)
            self._check_segment_bytes()

    @property
    def _plane_bytes(self) -> int:
        return self.width * self.height * self.samples * self.dtype.itemsize

    def _raw_grid(self) -> _Grid:
        row_samples = 1 if self.is_planar else self.samples
        row_bytes = self.width * row_samples * self.dtype.itemsize
        rows = max(1, min(self.height, _RAW_SEGMENT_BYTES // row_bytes))
        return _Grid(rows, self.width, 1, -(-self.height // rows))

    def _check_raw_bytes(self) -> None:
        end = (self._raw_base or 0) + self._plane_bytes
        if end > self._source.size:
            raise TruncatedSlideError(
                f"'{self._source.path}' is a TIFF that was cut off: the file has {self._source.size} bytes, but its "
                f"pixels end at byte {end}. Copy it again from its source."
            )

    def _check_segment_bytes(self) -> None:
        n_bytes = self._grid.height * self._grid.width * self.samples * self.dtype.itemsize
        if n_bytes > MAX_SEGMENT_BYTES:
            raise UnsupportedFormatError(
                f"'{self._source.path}' stores its pixels in compressed pieces of {n_bytes / 1e9:.1f} GB each, which "
                "cannot be read in part. Save it as a tiled TIFF."
            )

    def read(self, box: Box) -> Shaped[np.ndarray, "h w s"]:
        """Read a region in stored pixels.

        Raises:
            Exception: Whatever the decoder raises where pixels cannot be decoded.
        """
        out = np.zeros((box.height, box.width, self.samples), self.dtype)
        grid = self._grid
        rows = range(box.y // grid.height, (box.bottom - 1) // grid.height + 1)
        columns = range(box.x // grid.width, (box.right - 1) // grid.width + 1)
        for sample in range(self.samples) if self.is_planar else (None,):
            for row in rows:
                for column in columns:
                    index = (sample or 0) * grid.across * grid.down + row * grid.across + column
                    at = Box(column * grid.width, row * grid.height, grid.width, grid.height)
                    _paste(out, box, self._segment(index), at, sample)
        return out

    def try_first(self) -> None:
        """Decode one segment, so that what no decoder here knows is found at open.

        Raises:
            UnsupportedCompressionError: If the decoder says that it does not know this kind of data.
        """
        if self._raw_base is not None:
            return
        try:
            self._segment(0)
        except (NotImplementedError, ImportError) as error:
            raise UnsupportedCompressionError(
                f"'{self._source.path}' holds pixels in a form that cannot be decoded: {error}. Save it with another "
                "compression."
            ) from error
        except Exception:  # noqa: BLE001 - one damaged segment leaves the others readable; reading it will say so
            return

    def _segment(self, index: int) -> Shaped[np.ndarray, "h w s"]:
        key = (id(self), index)
        segment = self._cache.find(key)
        if segment is not None:
            return segment
        with self._cache.decode_lock(key):
            segment = self._cache.find(key)
            if segment is None:
                segment = self._raw_rows(index) if self._raw_base is not None else self._decoded(index)
                self._cache.keep(key, segment)
        return segment

    def _raw_rows(self, index: int) -> Shaped[np.ndarray, "h w s"]:
        grid = self._grid
        sample, row = divmod(index, grid.down)
        row_samples = 1 if self.is_planar else self.samples
        first = row * grid.height
        rows = min(grid.height, self.height - first)
        row_bytes = self.width * row_samples * self.dtype.itemsize
        start = (self._raw_base or 0) + (sample * self.height + first) * row_bytes
        data = np.frombuffer(self._source.read(start, rows * row_bytes), self._stored_dtype)
        return data.reshape(rows, self.width, row_samples).astype(self.dtype, copy=False)

    def _decoded(self, index: int) -> Shaped[np.ndarray, "h w s"]:
        grid = self._grid
        n_bytes = self._counts[index]
        samples = 1 if self.is_planar else self.samples
        if n_bytes == 0:  # never written, as in sparse files
            blank = 255 if self.dtype == np.uint8 else 0
            return np.full((grid.height, grid.width, samples), blank, self.dtype)
        encoded = self._source.read(self._offsets[index], n_bytes)
        data, _, shape = self._decode(encoded, index, **self._tables)
        if data is None:
            raise ValueError("the decoder gave nothing")
        pixels: np.ndarray = np.asarray(data).reshape(shape[-3:] if data.size == np.prod(shape) else data.shape[-3:])
        return pixels.astype(self.dtype, copy=False)


def _paste(
    out: Shaped[np.ndarray, "h w s"],
    box: Box,
    segment: Shaped[np.ndarray, "H W S"],
    at: Box,
    sample: int | None,
) -> None:
    """Copy the common part of a segment, which lies at ``at``, and the region ``box``."""
    held = Box(at.x, at.y, segment.shape[1], segment.shape[0])
    common = held.intersection(box)
    wanted = at.intersection(box)
    if common is None or wanted is None or common.size != wanted.size:
        # strips and border tiles may be smaller than the grid, but never within the image
        if wanted is not None and (common is None or common.right < wanted.right or common.bottom < wanted.bottom):
            raise ValueError(f"a segment has {segment.shape[1]}×{segment.shape[0]} px, too few")
        return
    part = segment[common.y - at.y : common.bottom - at.y, common.x - at.x : common.right - at.x]
    rows = slice(common.y - box.y, common.bottom - box.y)
    columns = slice(common.x - box.x, common.right - box.x)
    if sample is None:
        out[rows, columns] = part
    else:
        out[rows, columns, sample] = part[:, :, 0]


def _page_grid(key: Page) -> _Grid:
    if key.is_tiled:
        height, width = int(key.tilelength), int(key.tilewidth)
    else:
        height, width = (
            min(int(key.rowsperstrip) or int(key.imagelength), int(key.imagelength)),
            int(key.imagewidth),
        )
    return _Grid(height, width, -(-int(key.imagewidth) // width), -(-int(key.imagelength) // height))


def _is_raw(key: Page, page: Page) -> bool:
    """Whether the page is one run of uncompressed rows of whole bytes."""
    if key.is_tiled or int(key.compression) != 1 or key.is_subsampled or int(key.predictor) != 1:
        return False
    if int(key.fillorder) != 1 or key.bitspersample != key.dtype.itemsize * 8 or key.dtype == bool:
        return False
    offsets, counts = page.dataoffsets, page.databytecounts
    return all(a + n == b for a, n, b in zip(offsets, counts, offsets[1:], strict=False))


def _check(key: Page, path: Path) -> None:
    compression = int(key.compression)
    if compression == _OLD_JPEG and not key.parent.is_ndpi:
        raise UnsupportedCompressionError(
            f"'{path}' is compressed as old-style JPEG (TIFF compression 6), which is not decoded here. Save it again."
        )
    if compression != 1 and compression not in tifffile.TIFF.DECOMPRESSORS:
        raise UnsupportedCompressionError(
            f"'{path}' is compressed in a way that is not known here (TIFF compression {compression}). Save it again "
            "with JPEG, LZW, deflate or without compression."
        )
    if key.dtype is None or int(key.imagedepth) > 1:
        raise UnsupportedFormatError(
            f"'{path}' holds samples of a kind that is not read here (format {key.sampleformat}, {key.bitspersample} "
            f"bits, depth {key.imagedepth})."
        )
