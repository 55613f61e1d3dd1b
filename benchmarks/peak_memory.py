"""Memory and time of a slide of 100,000 × 100,000 px: tissue, tiles and `texture` features, and the tile budget.

The peak is the high-water mark that the kernel keeps for the process. `--memory` bounds decoded tiles in flight; what
the process takes before any tile is in flight (Python, libraries, the open slide, the encoder) comes on top and is
measured in a process of its own.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from harness import Options, Peer, Report
from inputs import big_slide

_LIMIT_MB = 2**30 / 1e6  # 1 GiB for everything, whatever the slide's size
_BUDGETS = ("512M", "128M", "48M")
_OURS = Path(__file__).with_name("ours")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--full-file", action="store_true", help="a slide of 1.1 GB whose tiles are all stored")


def main() -> None:
    options = Options.parse(__doc__, add_arguments)
    report = Report("peak_memory", options, about=(__doc__ or "").split("\n\n")[0])
    name = "100k-full" if options.extra.full_file else "100k"
    slide = big_slide("20k" if options.quick else name)
    with tempfile.TemporaryDirectory() as folder:
        found = [run(slide, Path(folder) / f"run{i}") for i in range(1 if options.quick else min(3, options.rounds))]
        rows = [
            [
                "tissue + tiles + texture",
                max(r["peak_rss_mb"] for r in found),
                _LIMIT_MB,
                all(r["peak_rss_mb"] < _LIMIT_MB and not r["torch"] for r in found),
                sorted(r["wall_s"] for r in found)[len(found) // 2],
                sorted(r["cpu_s"] for r in found)[len(found) // 2],
                found[0]["n"],
            ]
        ]
        columns = ["", "peak MB", "limit MB", "holds", "wall s", "CPU s", "tiles"]
        title = f"{'20' if options.quick else '100'},000 px square, one process, start-up included"
        report.table(title, columns, rows, [f"worst peak of {len(found)} runs; torch is not imported"])
        budget_table(report, slide, Path(folder))
    report.write()


def budget_table(report: Report, slide: Path, folder: Path) -> None:
    """The same for extraction alone, with the tiles laid before, under several budgets."""
    here = Peer("here")
    run(slide, folder / "baseline", "tile")
    baseline = here.run(str(_OURS / "baseline.py"), slide, folder / "baseline", "texture", 32)["peak_rss_mb"]
    rows = [["no tiles in flight", "", baseline, "", ""]]
    for budget in _BUDGETS:
        out = folder / f"budget-{budget}"
        run(slide, out, "tile")
        found = run(slide, out, "extract", "--memory", budget, "--batch-size", "32")
        limit = baseline + int(budget[:-1]) * 2**20 / 1e6
        rows.append([f"--memory {budget}", limit, found["peak_rss_mb"], found["peak_rss_mb"] < limit, found["cpu_s"]])
    columns = ["", "limit MB", "peak MB", "holds", "CPU s"]
    report.table("Extraction alone: baseline + budget", columns, rows, ["batches of 32 tiles"])


def run(slide: Path, out: Path, verb: str = "extract", *more: str) -> dict[str, Any]:
    """Run a command in a process of its own."""
    return Peer("here").run(str(_OURS / "command.py"), 0, verb, slide, "--out", out, "--quiet", *more)


if __name__ == "__main__":
    main()
