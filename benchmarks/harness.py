"""What the benchmarks share: interleaved rounds, the machine's line, tables and their files, peers.

A benchmark measures its jobs in turn, round by round, so that whatever else the machine does hits all of them, and
gives the medians. Work per CPU-second holds on a busy machine; wall times are worth something on an idle one, and the
machine's line says which it was.

    from harness import Options, Peer, Report, interleaved, local, timed

    options = Options.parse(__doc__)
    peer = Peer("tiffslide")                    # installs itself on first use, or prints why it cannot
    samples = interleaved({"ours": timed(job, n=100), "tiffslide": peer.job("read.py", path)}, options.rounds)
    report = Report("tile_reading", options)
    report.rates("256 px tiles", samples, reference="tiffslide", unit="tiles")
    report.write()
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("MICROTOME_SHARED") or HERE.parents[1] / "shared")
PEERS = HERE / "peers"
sys.path.insert(0, str(PEERS))

from measure import cpu_seconds, peak_rss_mb  # noqa: E402 - peers' scripts import it from there too

_IDLE_SHARE = 0.15  # of the cores, busy with others' work, up to which a machine counts as idle
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
_TIMEOUT_S = 1800
_own_failures: list[str] = []  # a peer that fails is left out; where one of ours does, the benchmark fails

__all__ = ["HERE", "PEERS", "SHARED", "Job", "Options", "Peer", "Report", "Sample", "cache_folder", "cpu_seconds",
    "interleaved", "local", "machine", "median", "peak_rss_mb", "timed"]  # fmt: skip


# -- options ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """What every benchmark is asked.

    Attributes:
        quick: Less of everything: to see that it works; the figures are not kept.
        rounds: Interleaved rounds; medians are given.
        peers: Whether other libraries are measured too.
        extra: The benchmark's own arguments.
    """

    quick: bool
    rounds: int
    peers: bool = True
    extra: argparse.Namespace = field(default_factory=argparse.Namespace)

    @classmethod
    def parse(cls, about: str | None, add: Callable[[argparse.ArgumentParser], object] | None = None) -> "Options":
        """Read the command line; ``add`` puts a benchmark's own arguments in."""
        parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--quick", action="store_true", help="less of everything; results are not kept")
        parser.add_argument("--rounds", type=int, help="interleaved rounds (5; quick: 2); medians are given")
        parser.add_argument("--no-peers", action="store_true", help="measure nothing but this project")
        if add is not None:
            add(parser)
        found = parser.parse_args()
        return cls(found.quick, found.rounds or (2 if found.quick else 5), not found.no_peers, found)


def cache_folder() -> Path:
    """Where peers and big slides are kept: MICROTOME_BENCH_CACHE, by default ``~/.cache/microtome-bench``."""
    named = os.environ.get("MICROTOME_BENCH_CACHE")
    folder = Path(named) if named else Path.home() / ".cache" / "microtome-bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


# -- measuring ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """One measurement, or the median of several: ``n`` items in so many CPU and wall seconds.

    Attributes:
        n: Items done.
        cpu_s: CPU seconds, children included.
        wall_s: Wall seconds.
        details: Whatever else is known, such as ``peak_rss_mb``, ``version``, ``digest``.
        spread: Of CPU seconds over the rounds, (largest - smallest) / median.
    """

    n: float
    cpu_s: float
    wall_s: float
    details: Mapping[str, Any] = field(default_factory=dict)
    spread: float = 0.0

    @property
    def per_cpu_s(self) -> float:
        """Items per CPU-second."""
        return self.n / self.cpu_s if self.cpu_s > 0 else float("nan")

    @property
    def per_s(self) -> float:
        """Items per second on the wall."""
        return self.n / self.wall_s if self.wall_s > 0 else float("nan")


Job = Callable[[], Sample]


def timed(function: Callable[[], object], n: float = 1) -> Job:
    """A job in this process. What the function returns, if it is a dict, becomes the sample's details."""

    def job() -> Sample:
        cpu, wall = cpu_seconds(), time.perf_counter()
        details = function()
        cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
        return Sample(n, cpu, wall, details if isinstance(details, dict) else {})

    return job


def interleaved(jobs: Mapping[str, Job | None], rounds: int, *, warm: int = 1) -> dict[str, Sample]:
    """Run all jobs in turn, again and again, and give the medians.

    Args:
        jobs: By name; None is left out, and so is one that fails, with the reason printed.
        rounds: Rounds that count.
        warm: Rounds before, which do not: caches fill, clocks rise.

    Returns:
        Medians of CPU and wall seconds by name, in order; details are those of the last round.
    """
    left = {name: job for name, job in jobs.items() if job is not None}
    found: dict[str, list[Sample]] = {name: [] for name in left}
    for turn in range(warm + rounds):
        for name, job in list(left.items()):
            try:
                sample = job()
            except Exception as error:  # noqa: BLE001 - one that does not work must not cost the others their figures
                print(f"  {name}: left out: {type(error).__name__}: {error}", file=sys.stderr)
                del left[name]
                continue
            if turn >= warm:
                found[name].append(sample)
    return {name: median(found[name]) for name in left}


def median(samples: Sequence[Sample]) -> Sample:
    """Median CPU and wall seconds per item of several samples, for as many items as the last one had."""
    cpu = [s.cpu_s / s.n for s in samples]
    wall = [s.wall_s / s.n for s in samples]
    last, middle = samples[-1], statistics.median(cpu)
    spread = (max(cpu) - min(cpu)) / middle if middle > 0 else 0.0
    return Sample(last.n, middle * last.n, statistics.median(wall) * last.n, last.details, spread)


# -- the machine --------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What is measured on: CPU, cores, matrix units, memory, load at the moment."""
    text = _text("/proc/cpuinfo")
    model = next((line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")), "")
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    memory = next((line for line in _text("/proc/meminfo").splitlines() if line.startswith("MemTotal")), "")
    return {
        "cpu": model or platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 1,
        "flags": [flag for flag in _FLAGS if flag in flags],
        "memory_gb": round(int(memory.split()[1]) * 1024 / 1e9) if memory else None,
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }


def machine_line(found: Mapping[str, Any]) -> str:
    """The machine in one line."""
    flags = ", ".join(found["flags"]) or "no AVX2"
    line = f"{found['cores']} cores of {found['cpu']} ({flags}), {found['memory_gb']} GB, Python {found['python']}"
    return f"{line}; load {found['load']}" if "others" not in found else f"{line}; {load_text(found['others'])}"


def load_text(others: float) -> str:
    """Whether a machine counts as idle, by the share of its cores that others kept busy."""
    return f"{'idle' if others <= _IDLE_SHARE else 'LOADED'}: others used {max(0.0, others):.0%} of the cores"


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


class _Load:
    """What others do to the machine from now on: its busy time less that of this process and its children."""

    def __init__(self) -> None:
        self._began = self._now()

    def others(self) -> float:
        """Share of all cores, 0..1."""
        (busy, total, own), (busy0, total0, own0) = self._now(), self._began
        if total <= total0:  # no such clock here, or none has passed
            return min(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
        return (busy - busy0 - (own - own0)) / (total - total0)

    def _now(self) -> tuple[float, float, float]:
        """CPU seconds of all cores, busy and in all, and our own."""
        ticks = [int(value) for value in _text("/proc/stat").split("\n", 1)[0].split()[1:9]] or [0] * 8
        second = os.sysconf("SC_CLK_TCK")
        return (sum(ticks) - sum(ticks[3:5])) / second, sum(ticks) / second, cpu_seconds()


# -- peers --------------------------------------------------------------------------------------------------


class Peer:
    """Another library in a virtual environment of its own; its scripts lie in ``benchmarks/peers/<name>/``.

    The environment is made from ``requirements.txt`` on first use. A folder without one runs with this project's own
    environment: its library is a dependency of ours.

    Args:
        name: The folder's name.

    Attributes:
        why_not: Why it cannot be used; empty if it can.
    """

    def __init__(self, name: str) -> None:
        self.name, self.folder = name, PEERS / name
        self.why_not = ""
        self._python: Path | None = None

    @property
    def available(self) -> bool:
        """Whether it is installed, which it is if it can be."""
        if self._python is None and not self.why_not:
            try:
                self._python = self._installed()
            except (OSError, subprocess.SubprocessError) as error:
                self.why_not = str(error)
            if self.why_not:
                print(f"  peer {self.name}: not measured: {self.why_not}", file=sys.stderr)
        return self._python is not None

    def run(self, script: str, *arguments: object, timeout_s: float = _TIMEOUT_S) -> dict[str, Any]:
        """Run one of its scripts.

        Args:
            script: File in its folder (or a path).
            arguments: Of the script, turned into text.
            timeout_s: After which it is ended.

        Returns:
            What the script printed as its last line, a JSON object with at least ``n cpu_s wall_s peak_rss_mb``, and
            ``process_cpu_s`` and ``process_wall_s``: of the whole process, start-up included.

        Raises:
            RuntimeError: If the peer cannot be installed, or the script fails.
        """
        if not self.available:
            raise RuntimeError(self.why_not)
        command = [str(self._python), str(self.folder / script), *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(PEERS), "PYTHONNOUSERSITE": "1"}
        cpu, wall = cpu_seconds(), time.perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False)
        cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
        if done.returncode != 0:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise RuntimeError(f"{script} ended with {done.returncode}: {''.join(last)[:300]}")
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return {"process_cpu_s": cpu, "process_wall_s": wall, **found}

    def job(self, script: str, *arguments: object, whole: bool = False) -> Job | None:
        """The same as a job for :func:`interleaved`; None where the peer cannot be installed.

        Args:
            script: As for :meth:`run`.
            arguments: As for :meth:`run`.
            whole: Count the whole process, start-up included, and not only what the script measured.
        """
        if not self.available:
            return None

        def job() -> Sample:
            found = self.run(script, *arguments)
            cpu, wall = ("process_cpu_s", "process_wall_s") if whole else ("cpu_s", "wall_s")
            return Sample(found["n"], found[cpu], found[wall], found)

        return job

    def _installed(self) -> Path:
        wanted = self.folder / "requirements.txt"
        if not wanted.is_file():
            return Path(sys.executable)
        venv = cache_folder() / self.name
        python, note = venv / "bin" / "python", venv / ".installed"
        mark = hashlib.sha256(wanted.read_bytes() + sys.version.encode()).hexdigest()
        if not note.is_file() or note.read_text(encoding="utf-8") != mark:
            print(f"  peer {self.name}: installing into {venv}", file=sys.stderr)
            shutil.rmtree(venv, ignore_errors=True)
            base = getattr(sys, "_base_executable", sys.executable)
            self._check(subprocess.run([base, "-m", "venv", venv], capture_output=True, text=True, check=False))
            pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", wanted]
            if "# no-deps" in wanted.read_text(encoding="utf-8"):  # all that it needs is listed, and less than it says
                pip.append("--no-deps")
            self._check(subprocess.run(pip, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False))
            note.write_text(mark, encoding="utf-8")
        return python

    def _check(self, done: "subprocess.CompletedProcess[str]") -> None:
        if done.returncode != 0:
            lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
            errors = [line for line in lines if line.startswith("ERROR")] or lines
            raise OSError(f"does not install: {' '.join(errors[:2])[:300]}")


def local(script: str | Path, *arguments: object, whole: bool = False) -> Job:
    """A script of ours as a job: a process of its own, measured as a peer's is.

    Args:
        script: Path, relative to ``benchmarks/``; it prints its line with ``measure.report``.
        arguments: Of the script.
        whole: Count the whole process, start-up included.
    """
    found = Peer("here").job(str(HERE / script), *arguments, whole=whole)
    if found is None:  # it needs nothing that is not there
        raise RuntimeError(f"{script} cannot be run")
    run: Job = found

    def job() -> Sample:
        try:
            return run()
        except Exception as error:
            _own_failures.append(f"{script}: {error}")
            raise

    return job


# -- results ------------------------------------------------------------------------------------------------


@dataclass
class Table:
    """Rows of text and numbers under named columns, with notes below."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)

    def as_text(self) -> str:
        """For a terminal: columns aligned, numbers to the right."""
        cells = [self.columns, *self.rows]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        lines = []
        for row in cells:
            padded = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
            lines.append("  ".join([row[0].ljust(widths[0]), *padded[1:]]))
        lines.insert(1, "-" * len(lines[0]))
        return "\n".join([f"\n{self.title}", *lines, *(f"  {note}" for note in self.notes)])


class Report:
    """The tables of one benchmark: printed as they come, written as JSON at the end.

    Args:
        name: Of the benchmark and its file.
        options: A quick run's results go to ``benchmarks/results/``, a full one's to ``docs/benchmarks/``.
        about: A sentence or two on what is measured, for the page of results.
    """

    def __init__(self, name: str, options: Options, about: str = "") -> None:
        self.name, self.options, self.about = name, options, " ".join(about.split())
        self.machine = machine()
        self._load = _Load()
        self.tables: list[Table] = []
        print(f"== {name}{' (quick)' if options.quick else ''}: {machine_line(self.machine)}")

    @property
    def idle(self) -> bool:
        """Whether nothing else has kept the machine busy since this began: only then are wall times worth judging."""
        return self._load.others() <= _IDLE_SHARE

    def table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], notes: Sequence[str] = ()
    ) -> None:
        """Print and keep a table; numbers are shown with three digits."""
        table = Table(title, list(columns), [[shown(cell) for cell in row] for row in rows], list(notes))
        self.tables.append(table)
        print(table.as_text(), flush=True)

    def rates(
        self,
        title: str,
        samples: Mapping[str, Sample],
        *,
        reference: str,
        unit: str,
        details: Mapping[str, str] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """Print and keep items per CPU-second and per second, with the ratio to a named sample.

        Args:
            title: Of the table.
            samples: Medians by name.
            reference: The one whose rate per CPU-second is 1; no ratio is shown if it is absent.
            unit: What is counted, for example ``tiles``.
            details: More columns: title → key in the samples' details.
            notes: Lines below.
        """
        details = details or {}
        base = samples[reference].per_cpu_s if reference in samples else None
        columns = ["", f"{unit}/CPU-s", f"× {reference}", f"{unit}/s", "spread", *details]
        rows = [
            [
                name,
                sample.per_cpu_s,
                sample.per_cpu_s / base if base else "",
                sample.per_s,
                f"{sample.spread:.0%}",
                *(sample.details.get(key, "") for key in details.values()),
            ]
            for name, sample in samples.items()
        ]
        self.table(title, columns, rows, notes)

    def write(self) -> Path:
        """Write the tables as JSON; gives the file.

        Raises:
            SystemExit: If one of our own jobs failed; what there is is written, but not to the docs.
        """
        keep = not self.options.quick and not _own_failures
        folder = HERE.parent / "docs" / "benchmarks" if keep else HERE / "results"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        self.machine["others"] = round(self._load.others(), 2)
        content = {
            "name": self.name,
            "about": self.about,
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "quick": self.options.quick,
            "rounds": self.options.rounds,
            "machine": self.machine,
            "tables": [vars(table) for table in self.tables],
        }
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"\n  {load_text(self.machine['others'])}; written to {path}")
        if _own_failures:
            raise SystemExit(f"{self.name} FAILED: {_own_failures[0]}")
        return path


def shown(value: object) -> str:
    """A table's cell: numbers with three significant digits and no more than needed."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "NO", None: ""}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)
