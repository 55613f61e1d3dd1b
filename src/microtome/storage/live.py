"""Progress as bars on a terminal, drawn by rich; a module of its own because rich takes a while to import."""

import threading
import time
from collections.abc import Callable
from typing import IO, cast

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from microtome.storage.progress import Stream, Tally


class LiveProgress:
    """Bars that move, one per stage, on a terminal.

    Args:
        console: Where they are drawn; standard error by default.
        clock: Tells the time, in seconds.
    """

    def __init__(self, console: Console | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = Console(stderr=True) if console is None else console
        self._clock = clock
        self._lock = threading.RLock()
        self._tally: Tally | None = None
        self._bars: RichProgress | None = None
        self._task: TaskID | None = None

    def start(self, stage: str, total: int, unit: str = "slides") -> None:
        """Draw a bar; one of total 0 pulses."""
        with self._lock:
            self.finish()
            self._tally = Tally(stage, total, self._clock, unit)
            self._bars = RichProgress(
                SpinnerColumn(),
                TextColumn("{task.description:<12}", markup=False),
                BarColumn(bar_width=30),
                TextColumn("{task.fields[done]}", markup=False),
                TextColumn("{task.fields[pace]}", markup=False, style="cyan"),
                console=self._console,
            )
            self._task = self._bars.add_task(stage, total=total or None, done="", pace="")
            self._bars.start()
            self._show()

    def expect(self, n_tiles: int) -> None:
        """Count the tiles of one more slide."""
        with self._lock:
            if self._tally:
                self._tally.expect(n_tiles)

    def advance(self, n_slides: int = 0, n_tiles: int = 0) -> None:
        """Move the bar."""
        with self._lock:
            if self._tally is not None:
                self._tally.advance(n_slides, n_tiles)
                self._show()

    def note(self, text: str) -> None:
        """A line above the bars; markup in it (slide names may hold brackets) is not interpreted."""
        with self._lock:
            self._console.print(Text(text))

    def finish(self) -> None:
        """Stop the bar and leave it with its last figures."""
        with self._lock:
            if self._bars is None or self._task is None or self._tally is None:
                return
            total = self._tally.total or 1
            completed = self._tally.n_slides if self._tally.total else 1
            self._bars.update(
                self._task,
                total=total,
                completed=completed,
                done=self._tally.closing_text(),
                pace="",
                refresh=True,
            )
            self._bars.stop()
            self._bars = self._task = self._tally = None

    def _show(self) -> None:
        if self._bars is not None and self._task is not None and self._tally is not None:
            self._bars.update(
                self._task,
                completed=self._tally.n_slides,
                done=self._tally.done_text(),
                pace=self._tally.pace_text(),
            )


def live_progress(stream: Stream) -> LiveProgress:
    """Bars on the terminal behind ``stream``."""
    return LiveProgress(Console(file=cast("IO[str]", stream)))
