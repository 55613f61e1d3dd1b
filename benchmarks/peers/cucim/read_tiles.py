"""Read the tiles of a plan with cuCIM on the CPU."""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
from cucim import CuImage
from measure import Reader, measure_tiles


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    cv2.setNumThreads(1)
    out = plan["out_px"]

    def opened() -> Reader:
        CuImage.cache("nocache")
        CuImage.cache("per_process", memory_capacity=256)  # MiB; off by default, and slower so
        slide = CuImage(plan["slide"])

        def read(part: list[list[int]]) -> list[np.ndarray]:
            tiles = [np.asarray(slide.read_region((x, y), (w, h), level=0)) for x, y, w, h in part]
            return [t if len(t) == out else cv2.resize(t, (out, out), interpolation=cv2.INTER_AREA) for t in tiles]

        return read

    measure_tiles(opened, plan, version("cucim-cu12"))


if __name__ == "__main__":
    main()
