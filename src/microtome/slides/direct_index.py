"""Which page of a TIFF holds which level, where its tiles lie, and whether they can be decoded here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import Int64

from microtome.geometry import Size
from microtome.slides.direct_decode import ForeignTileError, Jpeg2000Coding, JpegCoding, TileCoding
from microtome.slides.tiff_pixels import Page

JPEG, APERIO_JPEG2000_YCBCR, APERIO_JPEG2000_RGB = 7, 33003, 33005
_GREY, _RGB, _YCBCR = 1, 2, 6
_TRANSFORMS = {_GREY: None, _RGB: 0, _YCBCR: 1}
_SAMPLES = {_GREY: 1, _RGB: 3, _YCBCR: 3}


@dataclass(frozen=True, slots=True, eq=False)
class TileTable:
    """The tiles of a level.

    Attributes:
        size: Of the level, in its pixels.
        coding: How tiles are compressed, and their size.
        across: How many tiles lie side by side.
        offsets: Where each tile begins in the file, row by row.
        counts: How many bytes each has; 0 where a tile is missing.
    """

    size: Size
    coding: TileCoding
    across: int
    offsets: Int64[np.ndarray, " n"]
    counts: Int64[np.ndarray, " n"]


def read_tile_tables(path: Path, sizes: Sequence[Size], downsamples: Sequence[float]) -> list[TileTable | str]:
    """Find the tiles of each level.

    Args:
        path: A TIFF.
        sizes: Of the levels, as OpenSlide has them.
        downsamples: Of the levels, as OpenSlide has them.

    Returns:
        By level, its tiles, or why they cannot be read here.
    """
    with tifffile.TiffFile(path) as tiff:
        pages = [page.aspage() for page in tiff.pages]
        found = [_page_of(pages, size) for size in sizes]
        tables: list[TileTable | str] = []
        thinned: int | None = None
        for level, (page, size, factor) in enumerate(zip(found, sizes, downsamples, strict=True)):
            tables.append(_level_table(page, size, factor, thinned))
            if thinned is None and (page is None or 0 in page.databytecounts):
                thinned = level
    return tables


def _page_of(pages: Sequence[Page], size: Size) -> Page | None:
    """The one tiled page of this size; None where there is none, or several."""
    found = [p for p in pages if p.is_tiled and (p.imagewidth, p.imagelength) == (size.width, size.height)]
    return found[0] if len(found) == 1 else None


def _level_table(page: Page | None, size: Size, downsample: float, thinned: int | None) -> TileTable | str:
    """The tiles of a level; ``thinned`` is the first level before it that may have missing tiles."""
    if downsample != int(downsample):
        return f"its downsample is {downsample:.6g}, between whole pixels, where OpenSlide interpolates"
    if page is None:
        return "not one tiled page alone has its size"
    if thinned is not None:  # in Aperio's slides it does so, for tiles that are there too
        return f"tiles of level {thinned} are missing, and OpenSlide may draw parts from it"
    return _page_table(page, size)


def _page_table(page: Page, size: Size) -> TileTable | str:
    coding = _coding(page)
    if isinstance(coding, str):
        return coding
    across, down = -(-size.width // coding.width), -(-size.height // coding.height)
    offsets, counts = (np.asarray(v, np.int64) for v in (page.dataoffsets, page.databytecounts))
    if not len(offsets) == len(counts) == across * down:
        return f"it has {across * down} tiles, but names {len(offsets)}"
    return TileTable(size, coding, across, offsets, counts)


def _coding(page: Page) -> TileCoding | str:
    """How the page's tiles are compressed, or why they cannot be decoded here."""
    compression, photometric, samples = int(page.compression), int(page.photometric), int(page.samplesperpixel)
    if compression not in (JPEG, APERIO_JPEG2000_RGB):
        return f"its compression is {compression}, neither JPEG (7) nor JPEG 2000 in RGB (33005)"
    if np.any(np.asarray(page.bitspersample) != 8) or int(page.planarconfig) != 1 or int(page.imagedepth) != 1:
        return "its pixels are not 8-bit samples side by side"
    if _SAMPLES.get(photometric) != samples:
        return f"it has {samples} samples of photometric interpretation {photometric}"
    width, height = int(page.tilewidth), int(page.tilelength)
    if width % 16 or height % 16:
        return f"its tiles have {width}×{height} px, no multiple of 16"
    if compression == APERIO_JPEG2000_RGB:
        return Jpeg2000Coding(width, height) if samples == 3 else "it is JPEG 2000 without colours"
    try:
        return JpegCoding(width, height, tables=page.jpegtables, transform=_TRANSFORMS[photometric])
    except ForeignTileError as error:
        return str(error)
