"""Slides as large as a scanner's, written in seconds: a painted piece of tissue laid again and again.

For timing and for memory, not for learning: the tissue has the look and the entropy of a scan (about 2.3 bit per
pixel at JPEG quality 80), but it repeats every 4096 pixels.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import simplejpeg
from jaxtyping import Bool, Float32, UInt8

from microtome.errors import ConfigError
from microtome.geometry import Box, Size
from microtome.storage import written_whole
from microtome.testing.synthetic_section import SyntheticSlide

TILE_PX = 256
DOWNSAMPLES = (1, 4, 16)
QUALITY = 80

_CELL_PX0 = 64  # grain of the tissue's outline, level-0 pixels; divides a tile, and 16 divides it
_PERIOD_PX0 = TILE_PX * DOWNSAMPLES[-1]  # the pattern repeats by whole tiles at every level
_PIECE = Box(3072, 8192, _PERIOD_PX0 // 2, _PERIOD_PX0 // 2)  # tissue throughout, of the section painted below
_GRAIN, _GRAIN_BLUR = 15.5, 0.7  # grey levels and pixels: what brings a tile to about 2.3 bit per pixel
_GLASS, _GLASS_GRAIN = 242.0, 1.2
_FIELD = 96  # resolution of the field that decides the outline
_LEAST_PX = 2048
_THUMBNAIL_PX = 768


@dataclass(frozen=True, slots=True)
class BigSlide:
    """A written slide and what is known of it.

    Attributes:
        path: The file.
        size: Level 0, in pixels.
        mpp: µm per level-0 pixel.
        tissue_share: Planted share of level 0 that is tissue, 0..1.
        n_tissue_tiles: Level-0 tiles of the file that are tissue throughout.
    """

    path: Path
    size: Size
    mpp: float
    tissue_share: float
    n_tissue_tiles: int


def write_svs_like(
    path: str | Path,
    size_px: int = 20_000,
    *,
    tissue_share: float = 0.35,
    seed: int = 0,
    mpp: float = 0.25,
    repeat_tiles: bool = False,
) -> BigSlide:
    """Write a square slide as Aperio's scanners do: BigTIFF, 256 px tiles, JPEG (YCbCr 4:2:0, quality 80), /1 /4 /16.

    The JPEG tables are kept once per level (``JPEGTables``), as scanners keep them. 20,000 px take about 50 MB and
    100,000 px with ``repeat_tiles`` about the same; each is written in some seconds. The same arguments give the same
    bytes.

    Args:
        path: The file to write.
        size_px: Side of level 0, at least 2048.
        tissue_share: Share of level 0 that is tissue, 0.01 to 0.9.
        seed: Decides the tissue's outline.
        mpp: What the file says, µm per level-0 pixel.
        repeat_tiles: Store tiles of the same pixels once and point to them again, as a file may; what a file system
            reads is then far less than what is decoded.

    Returns:
        What was written.

    Raises:
        ConfigError: If a number is out of range.
        OutputWriteError: If the file cannot be written.
    """
    path = Path(path)
    if size_px < _LEAST_PX or not 0.01 <= tissue_share <= 0.9 or seed < 0 or not 0.1 <= mpp <= 4:
        raise ConfigError(
            f"A big slide has size_px of at least {_LEAST_PX}, tissue_share 0.01 to 0.9, seed of at least 0 and mpp "
            f"0.1 to 4. Got {size_px}, {tissue_share}, {seed} and {mpp}."
        )
    picture = _Picture(size_px, tissue_share, seed)
    with written_whole(path) as temporary, temporary.open("wb") as file:
        _write(file, picture, mpp, repeat_tiles=repeat_tiles)
    n_whole = int((picture.coverage(0) == 1).sum())
    return BigSlide(path, Size(size_px, size_px), mpp, picture.tissue_share, n_whole)


class _Picture:
    """The pixels: a periodic piece of tissue where the outline says so, glass elsewhere."""

    def __init__(self, size_px: int, tissue_share: float, seed: int) -> None:
        self.size_px = size_px
        self.mask = _outline(size_px // _CELL_PX0, tissue_share, seed)
        self.tissue_share = float(self.mask.sum()) * _CELL_PX0**2 / size_px**2
        self._tissue = [_shrunk(_tissue(), downsample) for downsample in DOWNSAMPLES]
        grain = np.random.default_rng(0).standard_normal((TILE_PX, TILE_PX, 1), np.float32) * _GLASS_GRAIN
        self._glass = np.repeat(np.clip(_GLASS + grain, 0, 255).astype(np.uint8), 3, axis=2)

    def side(self, level: int) -> int:
        """Side of a level, in its own pixels."""
        return self.size_px // DOWNSAMPLES[level]

    def coverage(self, level: int) -> Float32[np.ndarray, "n n"]:
        """Share of tissue in each tile of a level."""
        cells = self._cells_per_tile(level)
        n = -(-self.side(level) // TILE_PX)
        padded = np.zeros((n * cells, n * cells), np.float32)
        height, width = (min(len(padded), side) for side in self.mask.shape)
        padded[:height, :width] = self.mask[:height, :width]
        share: Float32[np.ndarray, "n n"] = padded.reshape(n, cells, n, cells).mean(axis=(1, 3))
        return share

    def key(self, level: int, row: int, column: int, coverage: float) -> tuple[int, ...] | None:
        """Tiles of the same key have the same pixels; None for one at the outline, which is unlike any other."""
        if coverage == 0:
            return (-1,)
        if coverage == 1:
            period = len(self._tissue[level]) // TILE_PX
            return (level, row % period, column % period)
        return None

    def tile(self, level: int, row: int, column: int) -> UInt8[np.ndarray, "t t 3"]:
        """Pixels of one tile."""
        cells, piece = self._cells_per_tile(level), self._tissue[level]
        y, x = row * TILE_PX % len(piece), column * TILE_PX % len(piece)
        here = self.mask[row * cells : (row + 1) * cells, column * cells : (column + 1) * cells]
        whole = np.zeros((cells, cells), bool)
        whole[: here.shape[0], : here.shape[1]] = here
        inside = whole.repeat(TILE_PX // cells, axis=0).repeat(TILE_PX // cells, axis=1)
        return np.where(inside[:, :, None], piece[y : y + TILE_PX, x : x + TILE_PX], self._glass)

    def thumbnail(self) -> UInt8[np.ndarray, "t t 3"]:
        """The outline in the mean colours of tissue and glass."""
        side = min(_THUMBNAIL_PX, self.side(1))
        share = cv2.resize(self.mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)[:, :, None]
        tissue = self._tissue[-1].mean(axis=(0, 1), dtype=np.float32)
        return np.asarray(share * tissue + (1 - share) * np.float32(_GLASS)).astype(np.uint8)

    def _cells_per_tile(self, level: int) -> int:
        return TILE_PX * DOWNSAMPLES[level] // _CELL_PX0


def _outline(n_cells: int, tissue_share: float, seed: int) -> Bool[np.ndarray, "n n"]:
    """A few smooth pieces away from the slide's edge, of just this share of the cells."""
    rng = np.random.default_rng([seed, 17])
    noise = cv2.GaussianBlur(rng.standard_normal((_FIELD, _FIELD), np.float32), (0, 0), _FIELD / 12)
    at = np.linspace(-1, 1, _FIELD, dtype=np.float32)
    away = np.maximum(np.abs(at)[:, None], np.abs(at)[None, :]) ** 6
    field = cv2.resize(noise / noise.std() - 4 * away, (n_cells, n_cells), interpolation=cv2.INTER_CUBIC)
    mask: Bool[np.ndarray, "n n"] = np.asarray(field) > np.quantile(field, 1 - tissue_share)
    return mask


def _section() -> SyntheticSlide:
    return SyntheticSlide(3, size=16_384, mpp=0.25)


@cache
def _tissue() -> UInt8[np.ndarray, "p p 3"]:
    """One period of tissue: a painted piece with grain on it, mirrored so that it goes on without a seam."""
    piece = _section().read(_PIECE).astype(np.float32)
    grain = np.random.default_rng(1).standard_normal(piece.shape[:2], np.float32)
    grain = np.asarray(cv2.GaussianBlur(grain, (0, 0), _GRAIN_BLUR))
    piece += (_GRAIN / grain.std() * grain)[:, :, None]
    quarter = np.clip(piece, 0, 255).astype(np.uint8)
    half = np.concatenate([quarter, quarter[:, ::-1]], axis=1)
    return np.concatenate([half, half[::-1]])


def _shrunk(image: UInt8[np.ndarray, "p p 3"], downsample: int) -> UInt8[np.ndarray, "q q 3"]:
    side = len(image) // downsample
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)) if downsample > 1 else image


# -- the file -----------------------------------------------------------------------------------------------


def _write(file: BinaryIO, picture: _Picture, mpp: float, *, repeat_tiles: bool) -> None:
    """Tiles first, level by level, then the directories that point to them."""
    file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0))
    coder = _Coder()
    directories = []
    whole, tail = f"{picture.size_px}x{picture.size_px}", f"|AppMag = {10 / mpp:.4g}|MPP = {mpp:.6g}"
    for level in range(len(DOWNSAMPLES)):
        side = picture.side(level)
        shown = whole if level == 0 else f"{whole} -> {side}x{side}"
        text = f"Aperio Image Library v12.0.0 (microtome)\r\n{shown} ({TILE_PX}x{TILE_PX}) JPEG/YCC Q={QUALITY}{tail}"
        where = _write_tiles(file, picture, level, coder, repeat_tiles=repeat_tiles)
        directories.append({**_tags(side, text), **_tile_tags(*where, coder.tables)})
        if level == 0:  # readers know the thumbnail by its place, second, and by its not being tiled
            image = picture.thumbnail()
            data = simplejpeg.encode_jpeg(image, QUALITY, colorspace="RGB", colorsubsampling="420")
            text = f"Aperio Image Library v12.0.0 (microtome)\r\n{whole} -> {len(image)}x{len(image)} - {tail}"
            strip = {273: ("Q", [file.tell()]), 278: ("I", [len(image)]), 279: ("Q", [len(data)])}
            directories.append({**_tags(len(image), text), **strip})
            file.write(data)
    _write_directories(file, directories)


def _write_tiles(
    file: BinaryIO, picture: _Picture, level: int, coder: "_Coder", *, repeat_tiles: bool
) -> tuple[list[int], list[int]]:
    """Write the tiles of a level; give where each begins and its bytes."""
    offsets, counts = [], []
    written: dict[tuple[int, ...] | None, int] = {}
    for (row, column), coverage in np.ndenumerate(picture.coverage(level)):
        key = picture.key(level, row, column, float(coverage))
        data = coder.encoded(key, picture, level, row, column)
        if not repeat_tiles or key is None or key not in written:
            written[key] = file.tell()
            file.write(data)
        offsets.append(written[key])
        counts.append(len(data))
    return offsets, counts


class _Coder:
    """JPEG tiles without their tables; tiles that come again are compressed once."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, ...], bytes] = {}
        self.tables = b""

    def encoded(self, key: tuple[int, ...] | None, picture: _Picture, level: int, row: int, column: int) -> bytes:
        """The stream of a tile."""
        if key is not None and key in self._kept:
            return self._kept[key]
        tile = np.ascontiguousarray(picture.tile(level, row, column))
        stream = simplejpeg.encode_jpeg(tile, QUALITY, colorspace="RGB", colorsubsampling="420")
        tables, data = _without_tables(stream)
        if self.tables and tables != self.tables:
            raise RuntimeError("The JPEG library made other tables for one tile than for another.")
        self.tables = tables
        if key is not None:
            self._kept[key] = data
        return data


def _without_tables(stream: bytes) -> tuple[bytes, bytes]:
    """Split a JPEG into its tables and the rest, both streams of their own; the JFIF header is left out."""
    tables, rest = io.BytesIO(), io.BytesIO()
    tables.write(stream[:2])
    rest.write(stream[:2])
    at = 2
    for marker, segment in _segments(stream):
        if marker in (0xDB, 0xC4):  # quantisation, Huffman
            tables.write(segment)
        elif marker != 0xE0:
            rest.write(segment)
        at += len(segment)
    rest.write(stream[at:])
    return tables.getvalue() + b"\xff\xd9", rest.getvalue()


def _segments(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """The header segments of a JPEG up to and with the start of scan."""
    at, marker = 2, 0
    while marker != 0xDA:
        marker = stream[at + 1]
        length = 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        yield marker, stream[at : at + length]
        at += length


_Tag = tuple[str, list[int] | bytes]  # struct's letter of the type, and the values


def _tags(side: int, description: str) -> dict[int, _Tag]:
    """Tags of every directory: an RGB image as JPEG in YCbCr 4:2:0, the side in pixels."""
    return {
        254: ("I", [0]), 256: ("I", [side]), 257: ("I", [side]), 258: ("H", [8, 8, 8]), 259: ("H", [7]),
        262: ("H", [6]), 270: ("s", description.encode("ascii") + b"\0"), 277: ("H", [3]), 284: ("H", [1]),
        530: ("H", [2, 2]),
    }  # fmt: skip


def _tile_tags(offsets: list[int], counts: list[int], tables: bytes) -> dict[int, _Tag]:
    return {322: ("I", [TILE_PX]), 323: ("I", [TILE_PX]), 324: ("Q", offsets), 325: ("I", counts), 347: ("B", tables)}


def _write_directories(file: BinaryIO, directories: list[dict[int, _Tag]]) -> None:
    """Write a chain of BigTIFF directories and point the header to the first.

    References:
        BigTIFF as in libtiff: header of 16 bytes, entries of 20, offsets of 8; values of up to 8 bytes in place.
    """
    types = {"s": 2, "H": 3, "I": 4, "B": 7, "Q": 16}
    link = 8  # where the offset of the next directory is to stand
    for tags in directories:
        entries = b""
        for number, (letter, values) in sorted(tags.items()):
            data = values if isinstance(values, bytes) else np.array(values, f"<{letter}").tobytes()
            if len(data) <= 8:
                place = data.ljust(8, b"\0")
            else:
                file.write(b"\0" * (-file.tell() % 8))
                place = struct.pack("<Q", file.tell())
                file.write(data)
            entries += struct.pack("<HHQ", number, types[letter], len(values)) + place
        file.write(b"\0" * (-file.tell() % 8))
        start = file.tell()
        file.write(struct.pack("<Q", len(tags)) + entries + struct.pack("<Q", 0))
        end = file.tell()
        file.seek(link)
        file.write(struct.pack("<Q", start))
        file.seek(end)
        link = end - 8
