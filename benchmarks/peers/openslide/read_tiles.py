"""Read the tiles of a plan with openslide-python, as most pipelines do: RGBA, then RGB, then shrunk by area."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import openslide
from measure import Reader, measure_tiles


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    cv2.setNumThreads(1)
    out = plan["out_px"]

    def opened() -> Reader:
        slide = openslide.OpenSlide(plan["slide"])

        def read(part: list[list[int]]) -> list[np.ndarray]:
            tiles = [np.asarray(slide.read_region((x, y), 0, (w, h)).convert("RGB")) for x, y, w, h in part]
            return [t if len(t) == out else cv2.resize(t, (out, out), interpolation=cv2.INTER_AREA) for t in tiles]

        return read

    measure_tiles(opened, plan, f"{openslide.__version__}, library {openslide.__library_version__}")


if __name__ == "__main__":
    main()
