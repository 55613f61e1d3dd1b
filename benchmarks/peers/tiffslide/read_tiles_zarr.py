"""Read the tiles of a plan with tifffile: level 0 as a zarr array, sliced."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import tifffile
import zarr
from measure import Reader, measure_tiles


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    cv2.setNumThreads(1)
    out = plan["out_px"]

    def opened() -> Reader:
        level = zarr.open(tifffile.TiffFile(plan["slide"]).pages[0].aszarr(), mode="r")

        def read(part: list[list[int]]) -> list[np.ndarray]:
            tiles = [np.ascontiguousarray(level[y : y + h, x : x + w]) for x, y, w, h in part]
            return [t if len(t) == out else cv2.resize(t, (out, out), interpolation=cv2.INTER_AREA) for t in tiles]

        return read

    measure_tiles(opened, plan, f"{tifffile.__version__}, zarr {zarr.__version__}")


if __name__ == "__main__":
    main()
