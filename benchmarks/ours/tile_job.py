"""Tissue, tiles and tile images of one slide with this project; see ``tiling_job.py``.

Usage: tile_job.py PLAN, a JSON file with slide, out, width, part (as of HistoPrep's script), passthrough (auto or
never), reader, and grid: histoprep (HistoPrep's rules and defaults), clam (CLAM's) or own.
"""

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from measure import report, timed

import microtome
from microtome import ImageCoding, SlideTiles, find_tissue, lay_tiles, open_slide, save_tiles
from microtome.slides.base import Slide
from microtome.tiles.clam import ClamGrid, lay_clam
from microtome.tiles.grid import Grid, Tiles
from microtome.tiles.histoprep import HistoPrepGrid, lay_histoprep
from microtome.tiles.save import SavedTiles
from microtome.tissue.otsu import Otsu
from microtome.tissue.saturation import Saturation


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    cv2.setNumThreads(1)
    found: dict[str, Any] = {"version": f"microtome {microtome.__version__}"}
    with open_slide(plan["slide"], reader=plan["reader"]) as slide:
        tiles, cpu_s, wall_s = timed(lay, slide, plan)
        n = found["tiles"] = len(tiles)
        if plan["part"] != "coordinates":
            before = (cpu_s, wall_s) if plan["part"] == "job" else (0.0, 0.0)
            saved, cpu_s, wall_s = timed(write, slide, tiles, plan)
            cpu_s, wall_s = cpu_s + before[0], wall_s + before[1]
            found["passed"] = saved.n_passthrough
    report(n, cpu_s, wall_s, **found)


def write(slide: Slide, tiles: Tiles, plan: dict[str, Any]) -> SavedTiles:
    coding = ImageCoding(quality=80, passthrough=plan["passthrough"])
    return save_tiles(SlideTiles(slide, tiles), Path(plan["out"]), coding=coding, workers=1)


def lay(slide: Slide, plan: dict[str, Any]) -> Tiles:
    """Find tissue and lay tiles, each by the rules of one program."""
    if plan["grid"] == "histoprep":
        mask = np.asarray(Otsu().find_mask(slide).mask)
        return lay_histoprep(slide, mask, HistoPrepGrid(width=plan["width"]))
    if plan["grid"] == "clam":
        return lay_clam(
            slide, Saturation().find_contours(slide), ClamGrid(patch_px=plan["width"], step_px=plan["width"])
        )
    return lay_tiles(slide, find_tissue(slide), Grid(tile_px=224, mpp=0.5))


if __name__ == "__main__":
    main()
