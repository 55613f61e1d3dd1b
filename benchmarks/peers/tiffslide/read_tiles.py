"""Read the tiles of a plan with tiffslide."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import tiffslide
from measure import Reader, measure_tiles


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    cv2.setNumThreads(1)
    out = plan["out_px"]

    def opened() -> Reader:
        slide = tiffslide.TiffSlide(plan["slide"])

        def read(part: list[list[int]]) -> list[np.ndarray]:
            tiles = [slide.read_region((x, y), 0, (w, h), as_array=True) for x, y, w, h in part]
            return [t if len(t) == out else cv2.resize(t, (out, out), interpolation=cv2.INTER_AREA) for t in tiles]

        return read

    measure_tiles(opened, plan, tiffslide.__version__)


if __name__ == "__main__":
    main()
