"""Whole tiling jobs, from a slide's file to tile images or coordinates, beside the programs that do them today.

With images: the same tiles as HistoPrep, by its rules and defaults, as JPEG files of quality 80, one core. Ours once
with the slide's own bytes where a tile of the grid is a tile of the file, and once with every image encoded. The job is
finding tissue, laying tiles and writing images; images are that last part alone. Without images: coordinates; each
program has its own idea of tissue, so their numbers of tiles differ and say nothing of quality. Starting Python and
importing is in neither side's figures but for those that say so.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from harness import Job, Options, Peer, Report, Sample, interleaved, local
from inputs import CMU, big_slide

_MEMORY = Path("/dev/shm")  # noqa: S108 - where it is there, files made in it cost no disk


def main() -> None:
    options = Options.parse(__doc__, add=add_arguments)
    report = Report("tiling_job", options, about=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    place = options.extra.folder or (_MEMORY if _MEMORY.is_dir() else None)
    where = "a file system in memory" if place == _MEMORY else "disk"
    with tempfile.TemporaryDirectory(dir=place) as folder:
        bench = Bench(report, Path(folder), where)
        big = big_slide("6k" if options.quick else "20k")
        name = big.stem
        bench.with_images(f"{name}, images alone, 256 px (tiles of the file)", big, 256, "images")
        bench.with_images(f"{name}, images alone, 250 px (across tiles of the file)", big, 250, "images")
        bench.with_images(f"{name}, whole job, 256 px", big, 256, "job")
        bench.whole_commands(f"{name}, whole commands, 256 px, start-up and thumbnails included", big, 256)
        bench.coordinates(f"{name}, coordinates", big)
        if CMU.is_file():
            bench.with_images("CMU-1-Small-Region, images alone, 240 px (tiles of the file)", CMU, 240, "images")
            bench.with_images("CMU-1-Small-Region, whole job, 256 px (across tiles of the file)", CMU, 256, "job")
    report.write()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--folder", type=Path, help="where images are written (a file system in memory, if there is one)"
    )
    parser.add_argument("--large-peers", action="store_true", help="also install peers of more than 3 GB (TIAToolbox)")


class Bench:
    """The jobs of one report, writing below one folder.

    Args:
        report: Takes the tables.
        folder: To write below.
        where: What it lies on.
    """

    def __init__(self, report: Report, folder: Path, where: str) -> None:
        self.report, self.options, self.folder, self.where = report, report.options, folder, where
        self._n_plans = 0

    def with_images(self, title: str, slide: Path, width: int, part: str) -> None:
        """An image of each tile, and with part "job" tissue and tiles before."""
        ask: dict[str, object] = {"slide": slide, "width": width, "part": part, "grid": "histoprep"}
        jobs: dict[str, Job | None] = {
            "ours": self.ours(**ask),
            "ours, all encoded": self.ours(**ask, passthrough="never"),
            "ours, all encoded, OpenSlide": self.ours(**ask, passthrough="never", reader="openslide"),
        }
        if self.options.peers:
            jobs["HistoPrep"] = self.theirs("histoprep", **ask)
        samples = interleaved(jobs, self.options.rounds)
        details = {"tiles": "tiles", "own bytes": "passed", "peak MB": "peak_rss_mb"}
        notes = [f"images on {self.where}", *versions(samples)]
        self.report.rates(title, samples, reference="HistoPrep", unit="tiles", details=details, notes=notes)

    def whole_commands(self, title: str, slide: Path, width: int) -> None:
        """What a person types, as a process: `microtome tile --save-tiles`, and HistoPrep, each with its own tissue."""
        grid = ["--level", 0, "--tile-px", width, "--min-tissue", 0.25]
        command = ["tile", slide, *grid, "--save-tiles", "--workers", 1, "--quiet"]
        jobs: dict[str, Job | None] = {
            "microtome tile": self.fresh(lambda out: local("ours/command.py", 0, *command, "--out", out, whole=True))
        }
        if self.options.peers:
            jobs["HistoPrep"] = self.theirs("histoprep", slide=slide, width=width, part="command")
        samples = interleaved(jobs, self.options.rounds)
        notes = [f"images on {self.where}", *(f"{name}: {sample.n:.0f} tiles" for name, sample in samples.items())]
        details = {"peak MB": "peak_rss_mb"}
        self.report.rates(title, samples, reference="HistoPrep", unit="tiles", details=details, notes=notes)

    def coordinates(self, title: str, slide: Path) -> None:
        """Tissue and coordinates, no pixel of a tile."""
        ask: dict[str, object] = {"slide": slide, "width": 256, "part": "coordinates"}
        jobs: dict[str, Job | None] = {
            "ours, 224 px at 0.5 µm/px": self.ours(**ask, grid="own"),
            "ours, HistoPrep's rules, 256 px": self.ours(**ask, grid="histoprep"),
            "ours, CLAM's rules, 256 px": self.ours(**ask, grid="clam"),
        }
        notes = ["CLAM itself is on no package index; its rules and defaults are timed as they are done here."]
        if self.options.peers:
            jobs["HistoPrep, 256 px"] = self.theirs("histoprep", **ask)
            jobs["LazySlide, 224 px at 0.5 µm/px"] = self.theirs("lazyslide", **ask)
            if self.options.extra.large_peers:
                jobs["TIAToolbox, 224 px at 0.5 µm/px"] = self.theirs("tiatoolbox", **ask)
            else:
                notes.append("TIAToolbox was left out: with torch it installs 7 GB. --large-peers measures it.")
        samples = {name: one_slide(sample) for name, sample in interleaved(jobs, self.options.rounds).items()}
        rows = [
            [name, s.cpu_s, s.wall_s, f"{s.spread:.0%}", s.details["process_cpu_s"], s.details["tiles"],
             s.details["peak_rss_mb"]]
            for name, s in samples.items()
        ]  # fmt: skip
        columns = ["", "CPU-s", "wall s", "spread", "CPU-s with start-up", "tiles", "peak MB"]
        self.report.table(title, columns, rows, [*notes, *versions(samples)])

    def ours(self, **ask: object) -> Job:
        """This project's script."""
        ask = {"passthrough": "auto", "reader": "auto", **ask}
        return self.fresh(lambda out: local("ours/tile_job.py", self.plan(out, ask)))

    def theirs(self, peer: str, **ask: object) -> Job | None:
        """A peer's script; None where the peer cannot be installed."""
        there = Peer(peer)
        if not there.available:
            return None

        def made(out: Path) -> Job:
            job = there.job("tile_job.py", self.plan(out, ask), whole=ask["part"] == "command")
            if job is None:
                raise RuntimeError(there.why_not)
            return job

        return self.fresh(made)

    def fresh(self, made: Callable[[Path], Job]) -> Job:
        """A job that finds an empty folder each time."""
        self._n_plans += 1
        out = self.folder / f"job{self._n_plans}"

        def job() -> Sample:
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            found = made(out / "out")()
            shutil.rmtree(out)
            return found

        return job

    def plan(self, out: Path, ask: Mapping[str, object]) -> Path:
        """Write what a script is asked."""
        path = out.parent / "plan.json"
        path.write_text(json.dumps({**ask, "slide": str(ask["slide"]), "out": str(out)}), encoding="utf-8")
        return path


def one_slide(sample: Sample) -> Sample:
    """A sample of a peer that counts tiles, as one of a slide."""
    return Sample(1, sample.cpu_s, sample.wall_s, sample.details, sample.spread)


def versions(samples: Mapping[str, Sample]) -> list[str]:
    return sorted({str(sample.details["version"]) for sample in samples.values()})


if __name__ == "__main__":
    main()
