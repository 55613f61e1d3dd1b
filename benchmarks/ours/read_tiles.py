"""Read the tiles of a plan with this project; see ``tile_reading.py``."""

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from measure import Reader, measure_tiles

import microtome
from microtome.slides.open import open_slide
from microtome.tiles.grid import Grid, Tiles
from microtome.tiles.slide_tiles import SlideTiles


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    reader: Any = sys.argv[2]
    decode = {"decode": sys.argv[3]} if sys.argv[3:] else {}
    cv2.setNumThreads(1)
    boxes = np.array(plan["boxes"], np.int64)
    rows = {tuple(box): row for row, box in enumerate(plan["boxes"])}
    side, out = int(boxes[0, 2]), plan["out_px"]

    def opened() -> Reader:
        slide = open_slide(plan["slide"], reader=reader)
        mpp = slide.mpp
        grid = Grid(tile_px=out, mpp=mpp * side / out)
        tiles = Tiles(boxes, np.ones(len(boxes), np.float32), out, grid.mpp, None, grid, slide.size, mpp)
        source = SlideTiles(slide, tiles, **decode)

        first = iter((True,))

        def read(part: list[list[int]]) -> np.ndarray:
            if next(first, False):  # as extraction does: what neighbours share is then decoded once
                source.expect(np.arange(len(source)))
            batch = source.read(np.array([rows[tuple(box)] for box in part]))
            if not batch.readable.all():
                raise RuntimeError(f"tiles cannot be decoded: {batch.errors}")
            return batch.images

        return read

    measure_tiles(opened, plan, microtome.__version__)


if __name__ == "__main__":
    main()
