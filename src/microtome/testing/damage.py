"""Slides made bad on purpose, to see that the rest of a run survives them."""

from pathlib import Path

import tifffile

from microtome.errors import ConfigError
from microtome.geometry import Box


def break_tile(path: str | Path, level: int = 0, index: int = 0) -> Box:
    """Overwrite the compressed bytes of one tile of a TIFF, in place, so that it alone cannot be decoded.

    The file still opens, and its other tiles still decode. OpenSlide, once it has met the broken tile, fails on
    every later read through the same handle.

    Args:
        path: A tiled TIFF, SVS or OME-TIFF that may be spoiled: a copy.
        level: Which level of the pyramid.
        index: Which tile of it, counted row by row.

    Returns:
        The tile's box, in pixels of that level, clipped to it.

    Raises:
        ConfigError: If there is no such level or tile, the level is not tiled, or it is not compressed (any bytes
            are pixels then).
    """
    path = Path(path)
    with tifffile.TiffFile(path) as tiff:
        levels = tiff.series[0].levels
        if not 0 <= level < len(levels):
            raise ConfigError(f"'{path.name}' has levels 0 to {len(levels) - 1}. Got level {level}.")
        page = levels[level].keyframe
        if page is None or not page.is_tiled or page.compression == 1:
            raise ConfigError(f"Level {level} of '{path.name}' is not made of compressed tiles, so none can be broken.")
        if not 0 <= index < len(page.dataoffsets):
            raise ConfigError(
                f"Level {level} of '{path.name}' has tiles 0 to {len(page.dataoffsets) - 1}. Got {index}."
            )
        offset, n_bytes = page.dataoffsets[index], page.databytecounts[index]
        across = -(-page.imagewidth // page.tilewidth)
        tile = Box(
            index % across * page.tilewidth,
            index // across * page.tilelength,
            page.tilewidth,
            page.tilelength,
        )
        whole = Box(0, 0, page.imagewidth, page.imagelength)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * n_bytes)  # neither a JPEG marker, nor a zlib header, nor a TIFF offset
    return tile.intersection(whole) or tile
