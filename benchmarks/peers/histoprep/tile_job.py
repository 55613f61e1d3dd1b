"""Tissue, tiles and tile images of one slide with HistoPrep; see ``tiling_job.py``.

Usage: tile_job.py PLAN, a JSON file with slide, out, width and part: job (tissue, tiles and images), images (those
alone), coordinates (tissue and tiles alone) or command (the command line's whole job, thumbnails included).
"""

import contextlib
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from histoprep import SlideReader
from histoprep._cli import cut_slides
from histoprep._data import TileCoordinates
from measure import report, timed


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with contextlib.redirect_stdout(sys.stderr):
        if plan["part"] == "command":
            n, cpu_s, wall_s = timed(run_command, plan)
        else:
            n, cpu_s, wall_s = run_parts(plan)
    report(n, cpu_s, wall_s, tiles=n, version=f"HistoPrep {version('histoprep')}")


def run_parts(plan: dict[str, Any]) -> tuple[int, float, float]:
    """The steps of the command line, with its defaults, on one core and without thumbnails."""
    reader = SlideReader(plan["slide"])
    tiles, cpu_s, wall_s = timed(lay, reader, plan["width"])
    if plan["part"] == "coordinates":
        return len(tiles), cpu_s, wall_s
    _, more_cpu_s, more_wall_s = timed(write, reader, tiles, plan["out"])
    if plan["part"] == "images":
        return len(tiles), more_cpu_s, more_wall_s
    return len(tiles), cpu_s + more_cpu_s, wall_s + more_wall_s


def lay(reader: SlideReader, width: int) -> TileCoordinates:
    _, mask = reader.get_tissue_mask(level=reader.level_from_max_dimension(8192), sigma=1.0, multiplier=1.05)
    return reader.get_tile_coordinates(mask, width, max_background=0.75)


def write(reader: SlideReader, tiles: TileCoordinates, out: str) -> None:
    reader.save_regions(out, tiles, quality=80, num_workers=1, save_thumbnails=False, verbose=False)


def run_command(plan: dict[str, Any]) -> int:
    arguments = ["-i", plan["slide"], "-o", plan["out"], "-w", str(plan["width"]), "-j", "1"]
    cut_slides(arguments, standalone_mode=False)
    return len(list(Path(plan["out"]).glob("*/tiles/*.jpeg")))


if __name__ == "__main__":
    main()
