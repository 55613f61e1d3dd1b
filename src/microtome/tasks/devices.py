"""Several devices on one job: one process per device over the same output folder.

Each process goes through all slides and makes those that no other has claimed; what a dead one had claimed is taken
over by the others. When they are done, this process goes over the folder once more, as any run does that finds its
work done: it does what needs all slides (clusters, report) and writes the tables.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from os import cpu_count
from typing import Any

from microtome.config import ExtractConfig, FeatureConfig, RunConfig
from microtome.errors import ConfigError, WorkerError
from microtome.storage import Progress, QuietProgress, now_utc
from microtome.tasks.output import OutputFolder, RunRecord, read_slide_rows
from microtome.tasks.run import Helped, RunResult, RunStoppedError, run_here

REFUSED, STOPPED = 2, 130
"""Exit codes of a worker: the request cannot be honoured; it was asked to stop."""

_POLL_S = 0.5
_MIB = 1024 * 1024
_WAITING = "claimed by another process"  # what extraction notes of slides that it will come back to


@dataclass
class Worker:
    """One process and what it has said.

    Attributes:
        number: From 1.
        device: Where its encoder runs.
        process: Running or ended.
        result: What it made, once it has said so.
        refusal: Why it could not start; empty if it could.
    """

    number: int
    device: str
    process: "subprocess.Popen[str]"
    result: dict[str, Any] | None = None
    refusal: str = ""

    def stop(self) -> None:
        """Ask it to end cleanly: it does when nobody holds the other end of its standard input."""
        with suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()

    @property
    def death(self) -> str:
        """How it ended early, in words; empty where it did not."""
        code = self.process.returncode
        if code == 0 or self.refusal or (code == STOPPED and self.result is not None):
            return ""
        how = f"was ended by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        return f"Worker {self.number} on {self.device} {how}"


def run_on_devices(config: FeatureConfig, progress: Progress) -> RunResult:
    """Do what :func:`microtome.tasks.run.run` does, with one process for each device that the settings name.

    Raises:
        ConfigError: If a worker finds that the settings cannot be honoured.
        WorkerError: If all workers died.
        RunStoppedError: After Ctrl-C, once all workers have ended.
    """
    workers = [start_worker(config, i + 1, device) for i, device in enumerate(config.devices)]
    merged = MergedProgress(progress, len(workers))
    try:
        _follow(workers, merged)
        for worker in workers:
            if worker.refusal:
                raise ConfigError(f"Worker {worker.number} on {worker.device}: {worker.refusal}")
    except KeyboardInterrupt:
        _end(workers, merged)
        raise RunStoppedError(_as_far_as_it_came(config, workers)) from None
    finally:
        _end(workers, merged)
        progress.finish()
    lost = tuple(worker.death for worker in workers if worker.death)
    if len(lost) == len(workers):
        raise WorkerError(
            f"All workers died: {'; '.join(lost)}. What was finished is kept. If memory ran out (signal SIGKILL), name "
            "fewer devices or pass a smaller --memory; if one slide kills whatever reads it, slides.csv shows which "
            "are unfinished."
        )
    helped = Helped(
        seconds={slide_id: s for worker in workers for slide_id, s in (worker.result or {}).get("made", {}).items()},
        device=config.device,
        lost=lost,
        notes=[f"Features were made by {len(workers)} processes, on {', '.join(config.devices)}.", *map(_kept, lost)],
    )
    closing = config.model_copy(update={"device": config.devices[0]})
    try:
        return run_here(closing, progress if isinstance(config, RunConfig) else QuietProgress(), helped)
    except RunStoppedError:
        raise
    except KeyboardInterrupt:
        raise RunStoppedError(_as_far_as_it_came(config, workers)) from None


def _kept(death: str) -> str:
    return f"{death}; its slides were done by the others."


def worker_settings(config: FeatureConfig, device: str) -> ExtractConfig:
    """The settings of one device's process: up to features, with its share of threads and memory."""
    share = len(config.devices)
    threads = max(1, (config.workers or cpu_count() or 1) // share)
    names = ExtractConfig.model_fields.keys() & type(config).model_fields.keys()
    memory = f"{max(64, config.memory_bytes // share // _MIB)}M"
    values = {name: getattr(config, name) for name in names}
    return ExtractConfig(**{**values, "device": device, "workers": threads, "memory": memory})


def start_worker(config: FeatureConfig, number: int, device: str) -> Worker:
    """Start the process of one device."""
    settings = worker_settings(config, device)
    environment = {**os.environ}
    if device == "cpu":  # else each would start a thread per core
        environment.setdefault("OMP_NUM_THREADS", str(settings.workers))
    process = subprocess.Popen(
        [sys.executable, "-m", "microtome.tasks.device_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment,
        start_new_session=True,  # Ctrl-C reaches this process, which asks each worker once
    )
    worker = Worker(number, device, process)
    if process.stdin is not None:
        with suppress(OSError):  # it died at once: its end says so
            process.stdin.write(settings.model_dump_json() + "\n")
            process.stdin.flush()
    return worker


@dataclass
class MergedProgress:
    """Progress of several workers as that of one job.

    Each worker tells of each slide once, of those that others made too; tiles are told of by who made them.

    Attributes:
        progress: Where it is shown.
        n_workers: How many there are.
    """

    progress: Progress
    n_workers: int
    _stage: str = ""
    _total: int = 0
    _shown: int = 0
    _stages: dict[int, str] = field(default_factory=dict)
    _slides: dict[int, int] = field(default_factory=dict)
    _found: dict[int, int] = field(default_factory=dict)  # of these, those that were there already
    _tells: bool = False  # whether in this stage they say which slides were there already
    _said: set[str] = field(default_factory=set)
    _seen: set[str] = field(default_factory=set)

    def take(self, worker: int, event: dict[str, Any]) -> None:
        """Show what a worker says."""
        kind = event["kind"]
        if kind == "note":
            self.note(str(event["text"]))
        elif kind == "start":
            self._start(worker, str(event["stage"]), int(event["total"]))
        elif self._stages.get(worker) != self._stage:
            return  # behind the others
        elif kind == "expect":
            self._expect(worker, int(event["n_tiles"]))
        elif kind == "advance":
            self._advance(worker, int(event["n_slides"]), int(event["n_tiles"]))

    def note(self, text: str) -> None:
        """Show a line that several workers may say, once."""
        if text not in self._said and _WAITING not in text:
            self._said.add(text)
            self.progress.note(text)

    def _start(self, worker: int, stage: str, total: int) -> None:
        self._stages[worker] = stage
        if stage not in self._seen:
            self._seen.add(stage)
            self._stage, self._total, self._shown = stage, total, 0
            self._slides, self._found, self._tells = {}, {}, False
            self.progress.start(stage, total)

    def _expect(self, worker: int, n_tiles: int) -> None:
        self._tells = True
        if n_tiles:
            self.progress.expect(n_tiles)
        else:
            self._found[worker] = self._found.get(worker, 0) + 1

    def _advance(self, worker: int, n_slides: int, n_tiles: int) -> None:
        self._slides[worker] = self._slides.get(worker, 0) + n_slides
        done = max(self._slides.values())
        if self._tells:  # who made what: all that each made, and what all of them found there
            own = sum(self._slides.values()) - sum(self._found.values())
            done = min(self._total, own + min(self._found.get(w, 0) for w in range(self.n_workers)))
        new = max(0, done - self._shown)
        if new or n_tiles:
            self._shown += new
            self.progress.advance(n_slides=new, n_tiles=n_tiles)


def _follow(workers: Sequence[Worker], merged: MergedProgress) -> None:
    """Listen until all have ended; a death is said at once, a refusal ends the others."""
    said: queue.Queue[tuple[int, dict[str, Any] | None]] = queue.Queue()
    for i, worker in enumerate(workers):
        threading.Thread(target=_listen, args=(i, worker, said), name=f"worker {i + 1}", daemon=True).start()
    running = set(range(len(workers)))
    while running:
        try:
            i, event = said.get(timeout=_POLL_S)
        except queue.Empty:
            continue
        worker = workers[i]
        if event is None:
            worker.process.wait()
            running.discard(i)
            if worker.death:
                merged.note(f"{worker.death}; the others take over its slides.")
        elif event["kind"] == "result":
            worker.result = event
        elif event["kind"] == "refused":
            worker.refusal = str(event["text"])
            for other in workers:
                other.stop()
        else:
            merged.take(i, event)


def _listen(i: int, worker: Worker, said: "queue.Queue[tuple[int, dict[str, Any] | None]]") -> None:
    if worker.process.stdout is not None:
        with worker.process.stdout as lines:
            for line in lines:
                with suppress(ValueError):  # it died in the middle of a line
                    said.put((i, json.loads(line)))
    said.put((i, None))


def _end(workers: Sequence[Worker], merged: MergedProgress) -> None:
    """Ask all to stop and wait for them; a second Ctrl-C ends them at once."""
    for worker in workers:
        worker.stop()
    try:
        for worker in workers:
            if worker.process.poll() is None:
                merged.note("Stopping: waiting for what is under way.")
            worker.process.wait()
    except KeyboardInterrupt:
        for worker in workers:
            worker.process.kill()
            worker.process.wait()


def _as_far_as_it_came(config: FeatureConfig, workers: Sequence[Worker]) -> RunResult:
    """What the workers' tables say."""
    folder = OutputFolder(config.out)
    rows = list(read_slide_rows(folder.slides_csv).values())
    made = {slide_id for worker in workers for slide_id in (worker.result or {}).get("made", {})}
    record = RunRecord(started=now_utc(), config=config.model_dump(mode="json"))
    record.done = [row.slide_id for row in rows if row.slide_id in made]
    record.skipped = [row.slide_id for row in rows if row.status in ("done", "skipped") and row.slide_id not in made]
    record.unfinished = [row.slide_id for row in rows if row.status == "unfinished" and row.slide_id not in made]
    return RunResult(folder, record, rows, None, tuple(worker.death for worker in workers if worker.death))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
