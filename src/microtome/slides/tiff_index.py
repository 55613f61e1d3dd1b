"""The index of a TIFF file (its IFDs), read to tell what the file holds and whether all of it is there.

Classic TIFF and BigTIFF of either byte order, SubIFDs included. No pixels are decoded. Of Hamamatsu's TIFF above
4 GiB, whose offsets have their upper halves elsewhere, only the presence of the first IFD is checked.
"""

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np

from microtome.errors import CorruptSlideError, TruncatedSlideError

_MAX_PAGES = 4096  # a stack may have more; those beyond are not checked
_MAX_TAGS = 4096
_MAX_TILE_PX = 2**28  # OpenSlide ends the process where it has no memory for a tile
_FIRST_PRIVATE_TAG, _ICC_PROFILE = 32768, 34675  # vendors leave odd values in their own tags
_TYPES = {
    1: "u1",
    2: "u1",
    3: "u2",
    4: "u4",
    6: "i1",
    7: "u1",
    8: "i2",
    9: "i4",
    13: "u4",
    16: "u8",
    17: "i8",
    18: "u8",
}
_TYPE_BYTES = {**{k: int(v[1]) for k, v in _TYPES.items()}, 5: 8, 10: 8, 11: 4, 12: 8}

SUBFILE_TYPE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 254, 256, 257, 258, 259, 262
DESCRIPTION, STRIP_OFFSETS, ORIENTATION, SAMPLES, STRIP_COUNTS = 270, 273, 274, 277, 279
ROWS_PER_STRIP, TILE_WIDTH, TILE_HEIGHT = 278, 322, 323
PLANAR, TILE_OFFSETS, TILE_COUNTS, SUB_IFDS, EXTRA_SAMPLES = 284, 324, 325, 330, 338
NDPI = 65420
_READ = frozenset(
    {SUBFILE_TYPE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, DESCRIPTION, STRIP_OFFSETS, ORIENTATION, SAMPLES}
    | {ROWS_PER_STRIP, STRIP_COUNTS, TILE_WIDTH, TILE_HEIGHT, PLANAR, TILE_OFFSETS, TILE_COUNTS, SUB_IFDS}
    | {EXTRA_SAMPLES}
)
_CHECKED_PAIRS = ((STRIP_OFFSETS, STRIP_COUNTS), (TILE_OFFSETS, TILE_COUNTS))
_MIN_IS_BLACK, _RGB, _YCBCR = 1, 2, 6
_SEPARATE = 2


@dataclass(frozen=True, slots=True)
class TiffPage:
    """What one IFD says of its image."""

    width: int
    height: int
    bits: tuple[int, ...] = (1,)
    samples: int = 1
    photometric: int = -1
    compression: int = 1
    orientation: int = 1
    subfile_type: int = 0
    is_tiled: bool = False
    has_sub_ifds: bool = False
    extra_samples: int = 0


@dataclass(frozen=True, slots=True)
class TiffIndex:
    """What the IFDs of a TIFF file say.

    Attributes:
        is_big: Whether it is a BigTIFF.
        pages: The pages of the main chain, SubIFDs not included.
        description: Text of the first page.
    """

    is_big: bool
    pages: tuple[TiffPage, ...] = field(default=())
    description: str = ""

    @property
    def is_tiled(self) -> bool:
        """Whether the first page is tiled."""
        return bool(self.pages) and self.pages[0].is_tiled

    def unfit_for_openslide(self, *, generic: bool) -> str | None:
        """Why OpenSlide, which would open the file, shows it wrongly; None where it shows it as it is.

        Args:
            generic: Whether OpenSlide sees a generic TIFF, of which it reads the pages as libtiff's 8-bit RGBA, and
                only those marked as reduced versions of the first.
        """
        first = self.pages[0]
        if first.orientation != 1:
            return f"the orientation tag is {first.orientation}, which OpenSlide ignores"
        if not generic:
            return None
        if set(first.bits) != {8}:
            return f"the pixels have {first.bits[0]} bits, which OpenSlide reduces to 8"
        if first.samples not in (1, 3) or first.photometric not in (_MIN_IS_BLACK, _RGB, _YCBCR):
            return (
                f"the pixels have {first.samples} samples of photometric interpretation {first.photometric}, which "
                "OpenSlide does not show as they are"
            )
        if "<OME" in self.description[:10_000]:
            return "it is an OME-TIFF, of which OpenSlide reads neither channels nor SubIFD levels nor the pixel size"
        if first.has_sub_ifds:
            return "its lower levels are SubIFDs, which OpenSlide does not read"
        if sum((p.width, p.height) == (first.width, first.height) for p in self.pages) > 1:
            return "it holds several pages of the same size, of which OpenSlide reads the first"
        return None


def is_tiff(head: bytes) -> bool:
    """Whether a file that starts like this is a TIFF or BigTIFF."""
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_tiff_index(path: Path) -> TiffIndex:
    """Read and check the index of a TIFF file.

    Args:
        path: A file for which :func:`is_tiff` holds.

    Returns:
        What its pages say.

    Raises:
        TruncatedSlideError: If the file ends before an IFD, or before pixels that an IFD names.
        CorruptSlideError: If an IFD makes no sense.
        OSError: If the file cannot be read.
    """
    with path.open("rb") as file:
        return _Walk(path, file).index()


class _Walk:
    """One pass over the IFDs of an open file."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._size = file.seek(0, 2)
        head = self._bytes(0, 4, "its header")
        self._order = "<" if head[:2] == b"II" else ">"
        self._big = head[2:4] in (b"+\0", b"\0+")
        self._seen: set[int] = set()

    def index(self) -> TiffIndex:
        at = self._number(8, 8) if self._big else self._number(4, 4)
        if not self._big and self._order == "<" and self._size > 2**32 and self._is_large_ndpi():
            return TiffIndex(is_big=False, pages=(TiffPage(1, 1, (8,), 3, is_tiled=False),))
        pages: list[TiffPage] = []
        description = ""
        while at and len(pages) < _MAX_PAGES:
            tags, at = self._ifd(at)
            page = self._page(tags)
            if not pages:
                description = bytes(tags.get(DESCRIPTION, np.empty(0, "u1"))).decode("utf-8", "replace").strip("\0")
            pages.append(page)
            self._check_sub_ifds(tags)
        if not pages:
            self._corrupt("it has no image")
        return TiffIndex(is_big=self._big, pages=tuple(pages), description=description)

    def _is_large_ndpi(self) -> bool:
        """Hamamatsu's own way above 4 GiB: a classic header whose offset has 64 bits."""
        at = self._number(4, 8)
        count = self._number(at, 2) if at + 2 <= self._size else 0
        entries = self._bytes(at + 2, count * 12, "its first IFD") if 0 < count < _MAX_TAGS else b""
        return any(struct.unpack_from("<H", entries, 12 * i)[0] == NDPI for i in range(len(entries) // 12))

    def _check_sub_ifds(self, tags: dict[int, np.ndarray]) -> None:
        for at in tags.get(SUB_IFDS, np.empty(0, "u8"))[:_MAX_PAGES]:
            following = int(at)
            # Some writers link the SubIFDs to each other as well as listing them: each is walked once.
            while following and following not in self._seen:
                below, following = self._ifd(following)
                self._page(below)

    def _ifd(self, at: int) -> tuple[dict[int, np.ndarray], int]:
        """The tags wanted of the IFD at an offset, and the offset of the next."""
        if at in self._seen:
            self._corrupt(f"its IFDs form a ring at byte {at}")
        self._seen.add(at)
        head, entry, word = (8, 20, 8) if self._big else (2, 12, 4)
        count = self._number(at, head)
        if not 0 < count <= _MAX_TAGS:
            self._corrupt(f"the IFD at byte {at} has {count} entries")
        entries = self._bytes(at + head, count * entry + word, f"the IFD at byte {at}")
        tags: dict[int, np.ndarray] = {}
        for start in range(0, count * entry, entry):
            tag, kind = struct.unpack_from(self._order + "HH", entries, start)
            if tag in _READ and kind in _TYPES:
                tags[tag] = self._values(tag, kind, entries[start + 4 : start + entry])
            elif (tag < _FIRST_PRIVATE_TAG or tag == _ICC_PROFILE) and kind in _TYPE_BYTES:
                self._check_values(tag, kind, entries[start + 4 : start + entry])
        return tags, self._integer(entries[-word:])

    def _values(self, tag: int, kind: int, entry: bytes) -> np.ndarray:
        word = len(entry) // 2
        count = self._integer(entry[:word])
        n_bytes = count * _TYPE_BYTES[kind]
        if n_bytes <= word:
            data = entry[word : word + n_bytes]
        else:
            data = self._bytes(self._integer(entry[word:]), n_bytes, f"the values of tag {tag}")
        return np.frombuffer(data, self._order + _TYPES[kind])

    def _check_values(self, tag: int, kind: int, entry: bytes) -> None:
        """The values of a tag that nobody here reads must lie within the file too: a decoder may need them."""
        word = len(entry) // 2
        n_bytes = self._integer(entry[:word]) * _TYPE_BYTES[kind]
        end = self._integer(entry[word:]) + n_bytes
        if n_bytes > word and end > self._size:
            self._truncated(f"the values of tag {tag} end at byte {end}")

    def _page(self, tags: dict[int, np.ndarray]) -> TiffPage:
        if not (_has(tags, WIDTH) and _has(tags, HEIGHT)):
            self._corrupt("an IFD names no width or no height")
        if _first(tags, SAMPLES, 1) < 1:
            self._corrupt("an IFD names no samples")
        tile = _first(tags, TILE_WIDTH, 0), _first(tags, TILE_HEIGHT, 0)
        if tile[0] * tile[1] > _MAX_TILE_PX:
            self._corrupt(f"it has tiles of {tile[0]} × {tile[1]} px")
        self._check_segments(tags)
        return TiffPage(
            width=int(tags[WIDTH][0]),
            height=int(tags[HEIGHT][0]),
            bits=tuple(int(b) for b in tags.get(BITS, np.ones(1, "u2"))),
            samples=_first(tags, SAMPLES, 1),
            photometric=_first(tags, PHOTOMETRIC, -1),
            compression=_first(tags, COMPRESSION, 1),
            orientation=_first(tags, ORIENTATION, 1),
            subfile_type=_first(tags, SUBFILE_TYPE, 0),
            is_tiled=TILE_OFFSETS in tags,
            has_sub_ifds=_has(tags, SUB_IFDS),
            extra_samples=len(tags.get(EXTRA_SAMPLES, ())),
        )

    def _check_segments(self, tags: dict[int, np.ndarray]) -> None:
        """Every tile and strip that the IFD names must lie within the file."""
        for at, count in _CHECKED_PAIRS:
            if at not in tags or count not in tags:
                continue
            offsets, counts = tags[at].astype(np.uint64), tags[count].astype(np.uint64)
            needed = _n_segments(tags, tiled=at == TILE_OFFSETS)
            if len(offsets) < needed:
                self._corrupt(f"an image of this size has {needed} tiles or strips, but it names {len(offsets)}")
            if len(offsets) != len(counts):
                self._corrupt(f"an IFD names {len(offsets)} offsets of pixels but {len(counts)} lengths")
            ends = np.where(counts > 0, offsets + counts, 0)
            if len(ends) and int(ends.max()) > self._size:
                missing = int((ends > self._size).sum())
                self._truncated(f"{missing} of {len(ends)} tiles or strips of a page end beyond it")

    def _number(self, at: int, n_bytes: int) -> int:
        return self._integer(self._bytes(at, n_bytes, "its index"))

    def _integer(self, data: bytes) -> int:
        return int.from_bytes(data, "little" if self._order == "<" else "big")

    def _bytes(self, at: int, n_bytes: int, what: str) -> bytes:
        if at + n_bytes > self._size:
            self._truncated(f"{what} ends at byte {at + n_bytes}")
        self._file.seek(at)
        return self._file.read(n_bytes)

    def _truncated(self, what: str) -> NoReturn:
        raise TruncatedSlideError(
            f"'{self._path}' is a TIFF that was cut off: the file has {self._size} bytes, but {what}. Copy it again "
            "from its source."
        )

    def _corrupt(self, what: str) -> NoReturn:
        raise CorruptSlideError(
            f"'{self._path}' starts as a TIFF, but its index makes no sense: {what}. Copy it again from its source."
        )


def _n_segments(tags: dict[int, np.ndarray], *, tiled: bool) -> int:
    """How many tiles or strips an image of its size has."""
    width, height = int(tags[WIDTH][0]), int(tags[HEIGHT][0])
    planes = _first(tags, SAMPLES, 1) if _first(tags, PLANAR, 1) == _SEPARATE else 1
    if not tiled:
        rows = _first(tags, ROWS_PER_STRIP, height)
        return planes * -(-height // rows) if rows else 0
    across, down = _first(tags, TILE_WIDTH, 0), _first(tags, TILE_HEIGHT, 0)
    return planes * -(-width // across) * -(-height // down) if across and down else 0


def _has(tags: dict[int, np.ndarray], tag: int) -> bool:
    return len(tags.get(tag, ())) > 0


def _first(tags: dict[int, np.ndarray], tag: int, default: int) -> int:
    return int(tags[tag][0]) if _has(tags, tag) else default
