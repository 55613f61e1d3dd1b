"""Tissue and tiles of one slide with TIAToolbox, 224 px at 0.5 µm/px; no images. See ``tiling_job.py``.

Usage: tile_job.py PLAN, a JSON file with slide.
"""

import contextlib
import json
import sys
from pathlib import Path

import tiatoolbox
from measure import report, timed
from tiatoolbox.tools.patchextraction import get_patch_extractor
from tiatoolbox.wsicore.wsireader import WSIReader


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with contextlib.redirect_stdout(sys.stderr):
        n, cpu_s, wall_s = timed(tile, plan["slide"])
    report(1, cpu_s, wall_s, tiles=n, version=f"TIAToolbox {tiatoolbox.__version__}")


def tile(slide: str) -> int:
    wsi = WSIReader.open(slide)
    mask = wsi.tissue_mask(resolution=8.0, units="mpp")
    patches = get_patch_extractor(
        "slidingwindow", input_img=wsi, input_mask=mask, patch_size=(224, 224), resolution=0.5, units="mpp",
        min_mask_ratio=0.5,
    )  # fmt: skip
    return len(patches.coordinate_list)


if __name__ == "__main__":
    main()
