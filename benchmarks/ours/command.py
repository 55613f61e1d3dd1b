"""Run a `microtome` command in this process and report its time and peak memory; see ``peak_memory.py``.

Usage: command.py N_ITEMS ARGUMENTS... (N_ITEMS 0: the number of tiles in the output folder's slides.csv).
"""

import contextlib
import csv
import sys
import threading
from pathlib import Path

from measure import report, timed


def main() -> None:
    n, arguments = float(sys.argv[1]), sys.argv[2:]
    watch = _AnonymousMemory()
    with contextlib.redirect_stdout(sys.stderr):
        code, cpu_s, wall_s = timed(_run, arguments)
    if code:
        sys.exit(code)
    if not n:
        out = Path(arguments[arguments.index("--out") + 1])
        with (out / "slides.csv").open(encoding="utf-8") as table:
            n = sum(int(row["n_tiles"]) for row in csv.DictReader(table))
    report(n, cpu_s, wall_s, anonymous_mb=watch.peak_mb(), torch="torch" in sys.modules)


def _run(arguments: list[str]) -> int:
    from microtome.cli import main as command

    try:
        return int(command(arguments) or 0)
    except SystemExit as error:
        return int(error.code or 0)


class _AnonymousMemory(threading.Thread):
    """The most memory that is the process's own, seen ten times a second: pages of mapped files are not in it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._status, self._peak, self._ended = Path("/proc/self/status"), 0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self._ended.wait(0.1):
            for line in self._status.read_text(encoding="utf-8").splitlines():
                if line.startswith("RssAnon:"):
                    self._peak = max(self._peak, int(line.split()[1]))

    def peak_mb(self) -> float:
        self._ended.set()
        self.join()
        return self._peak * 1024 / 1e6


if __name__ == "__main__":
    main()
