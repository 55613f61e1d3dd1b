"""Tissue and tiles of one slide with LazySlide, 224 px at 0.5 µm/px; no images. See ``tiling_job.py``.

Usage: tile_job.py PLAN, a JSON file with slide.
"""

import contextlib
import json
import sys
from pathlib import Path

import lazyslide
from measure import report, timed
from wsidata import open_wsi


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with contextlib.redirect_stdout(sys.stderr):
        n, cpu_s, wall_s = timed(tile, plan["slide"])
    report(1, cpu_s, wall_s, tiles=n, version=f"LazySlide {lazyslide.__version__}")


def tile(slide: str) -> int:
    wsi = open_wsi(slide, store=None)
    lazyslide.pp.find_tissues(wsi)
    lazyslide.pp.tile_tissues(wsi, 224, mpp=0.5)
    return len(wsi.shapes["tiles"])


if __name__ == "__main__":
    main()
