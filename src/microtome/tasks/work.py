"""A job over many slides: who is still in it, what each stage does to each of them, and what went wrong.

A bad slide leaves the job with its reason; the others go on. What another process is making is waited for. A slide
that is replaced while the job runs leaves it too: no stage works on another file than the first one saw.
"""

import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from os import cpu_count
from pathlib import Path
from typing import TypeVar

from microtome.config import SlideOptions, TissueConfig
from microtome.errors import ClaimedError, CorruptOutputError, MicrotomeError, OutputWriteError, SlideChangedError
from microtome.slides.base import Slide
from microtome.slides.listing import SlideEntry
from microtome.slides.open import open_slide
from microtome.storage import Claim, Progress, now_utc, remove_leftovers
from microtome.tasks.output import (
    OutputFolder,
    RunRecord,
    SlideRow,
    StageFailure,
    Status,
    read_failures,
    read_slide_rows,
    write_run_record,
    write_slide_rows,
)

_CLAIM_POLL_S = 1.0
_HELD_POLL_S = 0.05

_T = TypeVar("_T")

Step = Callable[[SlideEntry], bool]
"""Does one stage to one slide; says whether anything had to be done."""


def open_entry(entry: SlideEntry, config: SlideOptions) -> Slide:
    """Open a listed slide as the settings say: the cohort table's mpp before ``--mpp``."""
    mpp, source = (entry.mpp, "cohort") if entry.mpp is not None else (config.mpp, "--mpp")
    return open_slide(
        entry.path,
        mpp=mpp,
        override_mpp=config.override_mpp and mpp is not None,
        mpp_source=source,
        reader=config.reader,
        channels=config.channel_names,
        window=config.window_range,
    )


@contextmanager
def held(output: Path) -> Iterator[None]:
    """Hold an output against other processes on the same folder; wait while one of them holds it."""
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(Claim(output))
                break
            except ClaimedError:
                time.sleep(_HELD_POLL_S)
        yield


def set_aside(path: Path) -> Path:
    """Move a damaged file out of the way, in case that a person can still use it."""
    aside = path.with_name(f"{path.name}.damaged")
    path.replace(aside)
    return aside


@dataclass
class Work:
    """Slides on their way through the stages.

    Attributes:
        config: Settings of the verb.
        folder: Where everything goes.
        entries: All slides, in the order of the cohort.
        progress: Where progress is shown.
        record: What run.json will hold.
        stop: Set to end cleanly after what is under way.
        rows: What is known of each slide, for slides.csv.
        worked: Slides for which some stage had something to do.
        finished: Slides that have gone through all stages.
    """

    config: TissueConfig
    folder: OutputFolder
    entries: list[SlideEntry]
    progress: Progress
    record: RunRecord
    stop: threading.Event = field(default_factory=threading.Event)
    rows: dict[str, SlideRow] = field(default_factory=dict)
    worked: set[str] = field(default_factory=set)
    finished: set[str] = field(default_factory=set)
    _failed: set[str] = field(default_factory=set)
    _seen: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        mend = self.config.overwrite
        self._rows_before = self._read_table(read_slide_rows, self.folder.slides_csv, mend=mend) or {}
        self._read_table(read_failures, self.folder.run_json, mend=mend)
        for entry in self.entries:
            self.rows.setdefault(entry.slide_id, SlideRow(entry.slide_id, str(entry.path)))

    @property
    def alive(self) -> list[SlideEntry]:
        """Slides that have not failed."""
        return [e for e in self.entries if e.slide_id not in self._failed]

    @property
    def threads(self) -> int:
        """How many slides or tiles are worked on at once."""
        return self.config.workers or cpu_count() or 1

    def open(self, entry: SlideEntry) -> Slide:
        """Open a slide as the settings say, and make sure that it is the file that the job saw first.

        Raises:
            SlideChangedError: If it was replaced since.
            SlideOpenError: If it cannot be opened.
        """
        slide = open_entry(entry, self.config)
        try:
            seen = self._seen.setdefault(entry.slide_id, slide.fingerprint)
            if slide.fingerprint == seen:
                return slide
        except OSError as error:
            slide.close()
            raise SlideChangedError(
                f"Slide '{entry.path}' went away while it was being opened ({error.strerror}). Put it back and run "
                "again."
            ) from error
        slide.close()
        raise SlideChangedError(
            f"Slide '{entry.path}' was replaced by another file while the run was under way, so nothing more is made "
            "of it. Run again once it is in place, with --overwrite if the first file was the wrong one."
        )

    def fail(self, slide_id: str, stage: str, error: BaseException) -> None:
        """Take a slide out of the job with its reason."""
        reason = str(error) or type(error).__name__
        if not isinstance(error, MicrotomeError):  # a fault of ours or of a library: keep where it came from
            frame = traceback.extract_tb(error.__traceback__)[-1] if error.__traceback__ else None
            where = f" (at {frame.name}, line {frame.lineno})" if frame else ""
            reason = f"Unexpected {type(error).__name__}: {reason}{where}"
        row = self.rows[slide_id]
        with self._lock:
            if slide_id in self._failed:
                return
            self._failed.add(slide_id)
            row.status, row.error = "failed", reason
            self.record.failed.append(StageFailure(slide_id, row.path, stage, type(error).__name__, reason))
        self.progress.note(f"failed: {slide_id} ({stage}): {reason}")

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[None]:
        """Show and time one stage; save the tables when it ends, however it ends.

        Tables that cannot be written then are no reason to stop: the end of the job is.
        """
        began = time.monotonic()
        self.progress.start(name, len(self.alive) if total is None else total)
        try:
            yield
        finally:
            self.progress.finish()
            self.record.seconds[name] = self.record.seconds.get(name, 0.0) + time.monotonic() - began
            self.save_if_possible()

    def each(self, name: str, step: Step) -> None:
        """Do one stage to every slide still in the job, several at once; isolate failures; wait out claims.

        Raises:
            KeyboardInterrupt: After what was under way has ended, where Ctrl-C was pressed.
        """
        with self.stage(name):
            waiting = self._sweep(name, step, self.alive)
            while waiting and not self.stop.is_set():
                self.stop.wait(_CLAIM_POLL_S)
                waiting = self._sweep(name, step, waiting)

    def _sweep(self, name: str, step: Step, entries: list[SlideEntry]) -> list[SlideEntry]:
        """Run the step over entries; return those that another process claims."""
        claimed: list[SlideEntry] = []
        with ThreadPoolExecutor(self.threads, thread_name_prefix=name) as pool:
            futures: dict[Future[bool], SlideEntry] = {pool.submit(self._timed, step, e): e for e in entries}
            try:
                for future in as_completed(futures):
                    self._settle(name, futures[future], future, claimed)
            except KeyboardInterrupt:
                self.stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return claimed

    def _settle(self, name: str, entry: SlideEntry, future: Future[bool], claimed: list[SlideEntry]) -> None:
        error = future.exception()
        if isinstance(error, ClaimedError):
            claimed.append(entry)
            return
        if error is not None:
            self.fail(entry.slide_id, name, error)
        elif future.result():
            self.worked.add(entry.slide_id)
        self.progress.advance(n_slides=1)

    def _timed(self, step: Step, entry: SlideEntry) -> bool:
        if self.stop.is_set():
            return False
        began = time.monotonic()
        try:
            return step(entry)
        finally:
            self.rows[entry.slide_id].seconds += time.monotonic() - began

    def finish(self) -> None:
        """Say that all stages are over; save the tables."""
        self.finished.update(entry.slide_id for entry in self.alive)
        self.save()

    def _status(self, slide_id: str) -> Status:
        if slide_id not in self.finished:
            return "unfinished"
        return "done" if slide_id in self.worked else "skipped"

    def save_if_possible(self) -> None:
        """:meth:`save`, or a note where the tables cannot be written just now."""
        try:
            self.save()
        except OutputWriteError as error:
            self.progress.note(str(error))

    def save(self) -> None:
        """Write slides.csv and run.json as things stand, keeping what they say of slides that are not in this job.

        Raises:
            OutputWriteError: If they cannot be written.
        """
        self.record.ended = now_utc()
        rows = []
        for entry in self.entries:
            row = self.rows[entry.slide_id]
            before = self._rows_before.get(entry.slide_id)
            if row.status != "failed":
                row.status = self._status(entry.slide_id)
                if row.status == "skipped" and before is not None:  # what it took when it was made
                    row.seconds = before.seconds
            rows.append(row)
        self.record.done = [r.slide_id for r in rows if r.status == "done"]
        self.record.skipped = [r.slide_id for r in rows if r.status == "skipped"]
        self.record.unfinished = [r.slide_id for r in rows if r.status == "unfinished"]
        table, record = self.folder.slides_csv, self.folder.run_json
        with held(table):  # for moments, and for both
            remove_leftovers(record)
            there = self._read_table(read_slide_rows, table, mend=True) or {}
            others = {k: r for k, r in there.items() if k not in self.rows}
            failed = self._read_table(read_failures, record, mend=True) or []
            self.record.failed_before = [f for f in failed if f.slide_id in others and others[f.slide_id].error]
            write_slide_rows(table, [*rows, *others.values()])
            write_run_record(record, self.record)

    def _read_table(self, read: Callable[[Path], _T], path: Path, *, mend: bool) -> _T | None:
        """Read what earlier runs said; with ``mend`` a damaged table is moved aside and begun anew.

        Somebody's spreadsheet may damage a table in the middle of a long run, which must not end for that.
        """
        try:
            return read(path)
        except CorruptOutputError as error:
            if not mend:
                raise
            try:
                aside = set_aside(path)
            except OSError:  # the folder is read-only; writing will say so
                return None
            self.record.notes.append(f"{error} It was kept as '{aside.name}' and begun anew.")
            return None
