"""Slides and tiles that the benchmarks share. Big slides are written once and kept in the benchmarks' cache."""

from pathlib import Path

import numpy as np
from harness import SHARED, cache_folder

from microtome.slides.open import open_slide
from microtome.testing.big_slides import write_svs_like
from microtome.tiles.grid import Grid, lay_tiles
from microtome.tissue.find import find_tissue

CMU = SHARED / "data" / "wsi" / "CMU-1-Small-Region.svs"
_BIG = {"20k": (20_000, False), "100k": (100_000, True), "100k-full": (100_000, False), "6k": (6_144, False)}


def big_slide(name: str) -> Path:
    """A synthetic slide of this side; of ``100k`` tiles of the same pixels are stored once, of ``100k-full`` not."""
    side, repeat_tiles = _BIG[name]
    path = cache_folder() / "slides" / f"synthetic-{name}-1.svs"  # 1: rises when the writer's pixels change
    if not path.is_file():
        write_svs_like(path, side, repeat_tiles=repeat_tiles)
    return path


def tissue_boxes(path: Path, side_px0: int, n: int, *, offset_px0: int = 0) -> list[list[int]]:
    """The first boxes of a grid, row by row, that are tissue, level-0 pixels; ``offset_px0`` moves the grid."""
    with open_slide(path) as slide:
        tissue = find_tissue(slide)
        by_level = Grid(tile_px=side_px0, mpp=None, level=0, min_tissue=0)
        boxes = lay_tiles(slide, None, by_level).boxes + np.array([offset_px0, offset_px0, 0, 0])
        width, height = slide.size.width, slide.size.height
    inside = (boxes[:, 0] + side_px0 <= width) & (boxes[:, 1] + side_px0 <= height)
    boxes = boxes[inside]
    boxes = boxes[tissue.coverage(boxes) > 0.99]
    found: list[list[int]] = boxes[:n].tolist()
    return found
