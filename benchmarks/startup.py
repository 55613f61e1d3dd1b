"""Seconds until there is anything: importing the package, and `--help`, each in a new process.

Beside them the import of peers, as far as another benchmark has installed them, and of PyTorch, which is never
imported before a network is to run.
"""

import subprocess
import sys
import time
from collections.abc import Callable

from harness import Job, Options, Report, Sample, cache_folder, cpu_seconds, interleaved

_PEERS = {"tiatoolbox": "tiatoolbox", "lazyslide": "lazyslide", "histoprep": "histoprep"}  # folder → module
_LIMITS = {"import microtome": 0.3, "microtome --help": 0.5, "microtome run --help": 0.5}


def main() -> None:
    options = Options.parse(__doc__)
    report = Report("startup", options, about=(__doc__ or "").split("\n\n")[0])
    jobs: dict[str, Job | None] = {
        "python -c pass": process(sys.executable, "-c", "pass"),
        "import microtome": process(sys.executable, "-c", "import microtome"),
        "microtome --help": process(sys.executable, "-m", "microtome", "--help"),
        "microtome run --help": process(sys.executable, "-m", "microtome", "run", "--help"),
        "import torch": process(sys.executable, "-c", "import torch"),
    }
    if options.peers:
        for folder, module in _PEERS.items():
            python = cache_folder() / folder / "bin" / "python"
            if (python.parents[1] / ".installed").is_file():
                jobs[f"import {module}"] = process(str(python), "-c", f"import {module}")
    samples = interleaved(jobs, options.rounds)
    rows = [row(name, sample) for name, sample in samples.items()]
    note = "idle machine" if report.idle else "LOADED machine: wall times are not to be judged, CPU seconds are"
    report.table("Start-up of a process", ["", "wall s", "CPU s", "limit s", "holds"], rows, [note])
    report.write()


def row(name: str, sample: Sample) -> list[object]:
    """A line of the table: a limit holds where the wall time is below it."""
    limit = _LIMITS.get(name)
    return [
        name,
        sample.wall_s,
        sample.cpu_s,
        "" if limit is None else limit,
        "" if limit is None else sample.wall_s < limit,
    ]


def process(*command: str) -> Callable[[], Sample]:
    """A job that runs a command and must succeed."""

    def job() -> Sample:
        cpu, wall = cpu_seconds(), time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return Sample(1, cpu_seconds() - cpu, time.perf_counter() - wall)

    return job


if __name__ == "__main__":
    main()
