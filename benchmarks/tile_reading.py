"""Tiles per CPU-second beside OpenSlide and others: aligned, unaligned, and shrunk to the resolution of an encoder.

Each reader runs in a process of its own; opening and importing are not counted. "pixels" holds the tiles against
OpenSlide's: the digest of all of them, or by how many grey levels the first ones differ.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from harness import Job, Options, Peer, Report, Sample, interleaved, local
from inputs import CMU, big_slide, tissue_boxes

REFERENCE = "openslide-python"


@dataclass(frozen=True)
class Case:
    """Which tiles of which slide."""

    title: str
    slide: Path
    boxes: list[list[int]]
    out_px: int
    repeats: int = 1


def main() -> None:
    options = Options.parse(__doc__)
    report = Report("tile_reading", options, about=(__doc__ or "").split("\n\n")[0])
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(quick=options.quick):
            samples = interleaved(jobs(case, Path(folder), peers=options.peers), options.rounds)
            report.rates(
                f"{case.title} ({len(case.boxes)} tiles, one thread)",
                compared(samples, Path(folder), case.out_px),
                reference=REFERENCE,
                unit="tiles",
                details={"pixels": "pixels", "peak MB": "peak_rss_mb"},
                notes=[f"{name}: {sample.details['version']}" for name, sample in samples.items()],
            )
        two_threads(report, Path(folder))
    report.write()


def cases(*, quick: bool) -> Iterator[Case]:
    """The synthetic slide, and a real one with 240 px tiles stored as RGB."""
    big, n = big_slide("20k"), 96 if quick else 320
    yield Case("20k synthetic, 256 px aligned", big, tissue_boxes(big, 256, n), 256)
    yield Case("20k synthetic, 256 px unaligned", big, tissue_boxes(big, 256, n, offset_px0=100), 256)
    yield Case("20k synthetic, 224 px at 0.5 µm/px from 0.25", big, tissue_boxes(big, 448, n // 2), 224)
    if CMU.is_file():
        repeats = 2 if quick else 10  # it has few tiles
        yield Case("CMU-1-Small-Region, 240 px aligned", CMU, tissue_boxes(CMU, 240, n), 240, repeats)
        yield Case("CMU-1-Small-Region, 224 px unaligned", CMU, tissue_boxes(CMU, 224, n, offset_px0=100), 224, repeats)


def jobs(case: Case, folder: Path, *, peers: bool) -> Mapping[str, Job | None]:
    """Every reader on one case."""

    def plan(name: str) -> Path:
        return write_plan(folder, name, case, threads=1)

    found: dict[str, Job | None] = {
        REFERENCE: Peer("openslide").job("read_tiles.py", plan(REFERENCE)),
        "ours (direct)": local("ours/read_tiles.py", plan("ours (direct)"), "direct"),
        "ours (OpenSlide)": local("ours/read_tiles.py", plan("ours (OpenSlide)"), "openslide"),
    }
    if case.boxes[0][2] != case.out_px:
        found["ours (direct, dct)"] = local("ours/read_tiles.py", plan("ours (direct, dct)"), "direct", "dct")
    if peers:
        tiffslide, cucim = Peer("tiffslide"), Peer("cucim")
        found["tiffslide"] = tiffslide.job("read_tiles.py", plan("tiffslide"))
        found["tifffile + zarr"] = tiffslide.job("read_tiles_zarr.py", plan("tifffile + zarr"))
        found["cuCIM (CPU)"] = cucim.job("read_tiles.py", plan("cuCIM (CPU)"))
    return found


def write_plan(folder: Path, name: str, case: Case, *, threads: int) -> Path:
    """What a reader's script is asked."""
    path = folder / f"{name}.json"
    plan = {
        "slide": str(case.slide),
        "boxes": case.boxes,
        "out_px": case.out_px,
        "repeats": case.repeats,
        "threads": threads,
        "keep": str(folder / f"{name}.raw"),
    }
    path.write_text(json.dumps(plan), encoding="utf-8")
    return path


def compared(samples: Mapping[str, Sample], folder: Path, out_px: int) -> dict[str, Sample]:
    """The samples with a word on their pixels."""
    wanted = np.fromfile(folder / f"{REFERENCE}.raw", np.uint8).astype(np.int16)
    digest = samples[REFERENCE].details["digest"] if REFERENCE in samples else None
    found = {}
    for name, sample in samples.items():
        pixels = "exact" if sample.details["digest"] == digest else ""
        if not pixels:
            got = np.fromfile(folder / f"{name}.raw", np.uint8).astype(np.int16)
            difference = np.abs(got - wanted) if got.shape == wanted.shape else None
            pixels = "other shape" if difference is None else f"mean {difference.mean():.2g}, most {difference.max()}"
        found[name] = Sample(sample.n, sample.cpu_s, sample.wall_s, {**sample.details, "pixels": pixels}, sample.spread)
    return found


def two_threads(report: Report, folder: Path) -> None:
    """Wall time of two threads beside one; worth judging on an idle machine alone."""
    options = report.options
    big = big_slide("20k")
    case = Case("", big, tissue_boxes(big, 256, 96 if options.quick else 640), 256)
    found: dict[str, Job | None] = {}
    for threads in (1, 2):
        ours, theirs = f"ours (direct), {threads}", f"{REFERENCE}, {threads}"
        found[ours] = local("ours/read_tiles.py", write_plan(folder, ours, case, threads=threads), "direct")
        found[theirs] = Peer("openslide").job("read_tiles.py", write_plan(folder, theirs, case, threads=threads))
    samples = interleaved(found, options.rounds)
    rows = []
    for name in ("ours (direct)", REFERENCE):
        one, two = samples.get(f"{name}, 1"), samples.get(f"{name}, 2")
        if one and two:
            rows.append([name, one.per_s, two.per_s, two.per_s / one.per_s, two.cpu_s / two.wall_s])
    note = "idle machine" if report.idle else "LOADED machine: printed, not to be judged"
    columns = ["", "tiles/s, 1 thread", "tiles/s, 2 threads", "2 ÷ 1", "cores used by 2"]
    report.table("Two threads, 256 px aligned, wall time", columns, rows, [note])


if __name__ == "__main__":
    main()
