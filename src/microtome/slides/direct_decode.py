"""Decode one compressed tile of a TIFF as OpenSlide does, bit for bit, or say that it is of a kind that is not known.

A tile of JPEG may be an abbreviated stream: the tables that all tiles share lie in a tag of the page. In front of what
a tile holds goes one head: these tables, and an Adobe marker that says which colours the tag of the page says, because
OpenSlide takes the tag's word for it, whatever a stream itself says. Only streams whose frame header (size,
components, sampling) is one that was compared with OpenSlide are decoded here.

References:
    ITU-T T.81, annex B (markers); Adobe TN 5116 (marker APP14); TIFF Technical Note 2 (JPEGTables); Aperio MAN-0069
    (compressions 33003 and 33005).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import simplejpeg
from jaxtyping import UInt8

JPEG_SCALES = (8, 4, 2)
"""How much smaller than stored a JPEG can be decoded, largest first."""

_SOI, _SOS = 0xD8, 0xDA
_DQT, _DHT, _DRI, _COM = 0xDB, 0xC4, 0xDD, 0xFE
_TABLES = (_DQT, _DHT, _DRI)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {_DHT, 0xC8, 0xCC}
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"  # followed by the transform: 0 for RGB, 1 for YCbCr
_MARK = 0xFF
_MIN_HEADER = 10  # up to the number of components


class ForeignTileError(Exception):
    """A tile is of a kind that was not compared with OpenSlide, which therefore decides what it shows."""


class TileCoding(ABC):
    """How the tiles of a page are compressed.

    Attributes:
        width: Of a tile, in pixels.
        height: Of a tile.
        scales: By which it can be decoded smaller.
    """

    scales: tuple[int, ...] = ()

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height

    def admit(self, data: bytes) -> bool:
        """Take streams of this one's kind for known, because it is about to be compared.

        Returns:
            Whether the kind is new.

        Raises:
            ForeignTileError: If it is none that can be decoded here.
        """
        return False

    def dismiss(self, data: bytes) -> None:  # noqa: B027 - a kind that needs no admission has nothing to take back
        """Take back what was admitted: the comparison did not come about."""

    @abstractmethod
    def decode(self, data: bytes, out: UInt8[np.ndarray, "h w 3"], scale: int = 1) -> None:
        """Decode a tile.

        Args:
            data: The tile as it is stored.
            out: Takes the pixels; C-contiguous, of the tile's size divided by ``scale``.
            scale: 1, or one of :attr:`scales`.

        Raises:
            ForeignTileError: If it is of a kind that was not admitted.
            ValueError: If it is damaged; a decoder's warning counts.
            RuntimeError: Likewise.
        """


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where a JPEG's own content begins, where its entropy-coded data begins, and its frame header."""

    start: int
    body: int
    header: bytes


class JpegCoding(TileCoding):
    """JPEG, compression 7.

    Args:
        width: Of a tile, in pixels.
        height: Of a tile.
        tables: The page's JPEGTables.
        transform: What three components are: 0 for RGB, 1 for YCbCr; None for grey.

    Raises:
        ForeignTileError: If the tables are none.
    """

    scales = JPEG_SCALES

    def __init__(self, width: int, height: int, *, tables: bytes | None, transform: int | None) -> None:
        super().__init__(width, height)
        colours = b"" if transform is None else _ADOBE + bytes([transform])
        self._head = bytes([_MARK, _SOI]) + colours + (b"" if tables is None else _table_segments(tables))
        self._n_components = 1 if transform is None else 3
        self._known: set[bytes] = set()
        self._last = (b"", 0)  # how the tile before began, up to its scan: most begin alike

    def admit(self, data: bytes) -> bool:
        """Take frame headers such as this one's for known."""
        frame = _frame(data)
        header = frame.header
        height, width = int.from_bytes(header[5:7], "big"), int.from_bytes(header[7:9], "big")
        if (width, height, header[9]) != (self.width, self.height, self._n_components):
            raise ForeignTileError(
                f"a tile holds {width}×{height} px of {header[9]} components, and not {self.width}×{self.height} px "
                f"of {self._n_components}"
            )
        is_new = header not in self._known
        self._known.add(header)
        return is_new

    def dismiss(self, data: bytes) -> None:
        """Know its frame header no more."""
        self._known.discard(_frame(data).header)
        self._last = (b"", 0)

    @property
    def is_colour(self) -> bool:
        """Whether tiles have three components."""
        return self._n_components == 3

    def stream(self, data: bytes) -> bytes:
        """A tile as a JPEG file of its own: with the page's tables, and a marker that says which colours it has.

        Raises:
            ForeignTileError: If it is of a kind that was not admitted.
        """
        began, start = self._last
        if not began or not data.startswith(began):
            frame = _frame(data)
            if frame.header not in self._known:
                raise ForeignTileError("a tile has a frame header unlike those that were compared with OpenSlide")
            start = frame.start
            self._last = (data[: frame.body], start)
        return b"".join((self._head, memoryview(data)[start:]))

    def decode(self, data: bytes, out: UInt8[np.ndarray, "h w 3"], scale: int = 1) -> None:
        """Decode a tile; slow DCT and smooth upsampling, as libjpeg has them by default and OpenSlide uses them."""
        stream = self.stream(data)
        _decode_jpeg(stream, out, 0 if scale == 1 else self.height // scale, 0 if scale == 1 else self.width // scale)


class Jpeg2000Coding(TileCoding):
    """JPEG 2000 in RGB, Aperio's compression 33005."""

    def decode(self, data: bytes, out: UInt8[np.ndarray, "h w 3"], scale: int = 1) -> None:
        """Decode a tile in this thread alone."""
        import imagecodecs  # takes a moment, and few slides need it

        if scale != 1:
            raise ForeignTileError("JPEG 2000 is decoded at full size here")
        pixels = imagecodecs.jpeg2k_decode(data, numthreads=1)
        if pixels.shape != out.shape or pixels.dtype != np.uint8:
            raise ForeignTileError(f"a tile holds {pixels.dtype} {pixels.shape}")
        out[...] = pixels


def _decode_jpeg(stream: bytes, out: UInt8[np.ndarray, "h w 3"], min_height: int, min_width: int) -> None:
    """Decode into ``out``; the sizes asked for are those of ``out`` or 0."""
    simplejpeg.decode_jpeg(
        stream, "RGB", fastdct=False, fastupsample=False, min_height=min_height, min_width=min_width, buffer=out
    )


def _frame(data: bytes) -> _Frame:
    """Walk the markers of a JPEG up to its first scan.

    Raises:
        ForeignTileError: If it is not built as expected.
    """
    if data[:2] != b"\xff\xd8":
        raise ForeignTileError("a tile is no JPEG")
    at = start = 2
    header = b""
    while True:
        marker, end = _segment(data, at)
        if marker == _SOS:
            break
        if _says_nothing(marker):
            if at != start:  # it may speak of colours
                raise ForeignTileError("a tile's JPEG has application markers between its tables")
            start = end
        elif marker in _FRAMES:
            header = data[at:end]
        elif marker not in _TABLES:
            raise ForeignTileError(f"a tile's JPEG has the marker {marker:#x}")
        at = end
    if len(header) < _MIN_HEADER:
        raise ForeignTileError("a tile's JPEG has no frame header before its first scan")
    return _Frame(start, end, header)


def _segment(data: bytes, at: int) -> tuple[int, int]:
    """The marker at an offset, and where its segment ends.

    Raises:
        ForeignTileError: If there is none.
    """
    if at + 4 > len(data) or data[at] != _MARK:
        raise ForeignTileError("a tile's JPEG has no marker where one should be")
    return data[at + 1], at + 2 + (data[at + 2] << 8 | data[at + 3])


def _says_nothing(marker: int) -> bool:
    """Whether it is a comment or an application's marker."""
    return marker == _COM or 0xE0 <= marker <= 0xEF


def _table_segments(tables: bytes) -> bytes:
    """The tables of a page's JPEGTables, without what surrounds them.

    Raises:
        ForeignTileError: If it holds anything else.
    """
    if tables[:2] != b"\xff\xd8":
        raise ForeignTileError("the tables of its JPEGs cannot be read")
    kept = []
    at = 2
    while tables[at : at + 2] != b"\xff\xd9":
        marker, end = _segment(tables, at)
        if marker in _TABLES:
            kept.append(tables[at:end])
        elif not _says_nothing(marker):
            raise ForeignTileError(f"the tables of its JPEGs hold the marker {marker:#x}")
        at = end
    return b"".join(kept)
