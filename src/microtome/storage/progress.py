"""Progress of a job over slides: live bars on a terminal, plain lines in a log, or nothing."""

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol, runtime_checkable

_RATE_WINDOW_S = 30.0


@runtime_checkable
@runtime_checkable
class Stream(Protocol):
    """What progress is written to: an open text file, or anything that acts like one."""

    def write(self, text: str, /) -> object:
        """Write text."""
        ...

    def flush(self) -> object:
        """Make what was written visible."""
        ...

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        ...


@runtime_checkable
class Progress(Protocol):
    """Where a job says how far it is. Every method may be called from any thread."""

    def start(self, stage: str, total: int, unit: str = "slides") -> None:
        """Begin a stage over ``total`` slides, or whatever ``unit`` names; one that is under way ends."""
        ...

    def expect(self, n_tiles: int) -> None:
        """Say how many tiles are to be done of one more slide, so that the time left can be told."""
        ...

    def advance(self, n_slides: int = 0, n_tiles: int = 0) -> None:
        """Count what has been done since the last call."""
        ...

    def note(self, text: str) -> None:
        """Say something once: a slide that failed, a slide that another process has."""
        ...

    def finish(self) -> None:
        """End the stage."""
        ...


class QuietProgress:
    """Says nothing."""

    def start(self, stage: str, total: int, unit: str = "slides") -> None:
        """Ignored."""

    def expect(self, n_tiles: int) -> None:
        """Ignored."""

    def advance(self, n_slides: int = 0, n_tiles: int = 0) -> None:
        """Ignored."""

    def note(self, text: str) -> None:
        """Ignored."""

    def finish(self) -> None:
        """Ignored."""


class Tally:
    """How far one stage is, how fast, and how long it still takes."""

    def __init__(self, stage: str, total: int, clock: Callable[[], float], unit: str = "slides") -> None:
        self.stage, self.total, self.unit = stage, total, unit
        self.n_slides = self.n_tiles = 0
        self._clock, self._began = clock, clock()
        self._n_known = self._n_tiled = self._known_tiles = 0  # slides looked at, slides with tiles to do, tiles
        self._recent: deque[tuple[float, int]] = deque([(self._began, 0)])

    @property
    def seconds(self) -> float:
        """Since the stage began."""
        return self._clock() - self._began

    def expect(self, n_tiles: int) -> None:
        """Count the tiles of one more slide."""
        self._n_known += 1
        self._n_tiled += n_tiles > 0
        self._known_tiles += n_tiles

    def advance(self, n_slides: int, n_tiles: int) -> None:
        """Count what has been done."""
        self.n_slides += n_slides
        self.n_tiles += n_tiles
        if n_tiles:
            now = self._clock()
            self._recent.append((now, self.n_tiles))
            while len(self._recent) > 2 and self._recent[1][0] < now - _RATE_WINDOW_S:
                self._recent.popleft()

    @property
    def tiles_per_s(self) -> float:
        """Over the last half minute."""
        then, before = self._recent[0]
        elapsed = self._clock() - then
        return (self.n_tiles - before) / elapsed if elapsed > 0 else 0.0

    @property
    def average_tiles_per_s(self) -> float:
        """Over the whole stage."""
        return self.n_tiles / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """None where nobody can tell yet."""
        if self.n_slides >= self.total:
            return None
        if self._n_tiled and self.n_tiles:
            unknown = max(0, self.total - self._n_known)
            tiles = self._known_tiles * (1 + unknown / self._n_tiled)
            rate = self.tiles_per_s
            return max(0.0, tiles - self.n_tiles) / rate if rate > 0 else None
        if self.n_slides == 0:
            return None
        return self.seconds / self.n_slides * (self.total - self.n_slides)

    def done_text(self) -> str:
        """What has been done."""
        parts = [f"{self.n_slides}/{self.total} {self.unit}"] if self.total else []
        if self.n_tiles:
            parts.append(f"{self.n_tiles} tiles")
        return ", ".join(parts)

    def pace_text(self) -> str:
        """How fast it goes and how long it still takes."""
        parts = [f"{self.tiles_per_s:.0f} tiles/s"] if self.n_tiles else []
        if self.unit != "slides" and self.n_slides and self.seconds > 0:
            parts.append(f"{self.n_slides / self.seconds:.3g} {self.unit}/s")
        left = self.seconds_left
        if left is not None:
            parts.append(f"{duration_text(left)} left")
        return ", ".join(parts)

    def closing_text(self) -> str:
        """What was done, in what time."""
        parts = [self.done_text()] if self.done_text() else []
        parts.append(duration_text(self.seconds))
        if self.n_tiles:
            parts.append(f"{self.average_tiles_per_s:.0f} tiles/s")
        return ", ".join(parts)


def duration_text(seconds: float) -> str:
    """A duration for people.

    Example:
        >>> duration_text(7.2), duration_text(95), duration_text(9000)
        ('7 s', '1 min 35 s', '2 h 30 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class LineProgress:
    """Plain lines, for a log.

    Args:
        stream: Where they go; standard error by default.
        every_s: Least time between two lines of one stage, in seconds.
        clock: Tells the time, in seconds.
    """

    def __init__(
        self,
        stream: Stream | None = None,
        *,
        every_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream: Stream = sys.stderr if stream is None else stream
        self._every_s, self._clock = every_s, clock
        self._lock = threading.RLock()
        self._tally: Tally | None = None
        self._said = 0.0

    def start(self, stage: str, total: int, unit: str = "slides") -> None:
        """Begin a stage; its first line comes when there is something to say."""
        with self._lock:
            self.finish()
            self._tally, self._said = Tally(stage, total, self._clock, unit), self._clock()

    def expect(self, n_tiles: int) -> None:
        """Count the tiles of one more slide."""
        with self._lock:
            if self._tally:
                self._tally.expect(n_tiles)

    def advance(self, n_slides: int = 0, n_tiles: int = 0) -> None:
        """Count, and say so if the last line is old enough."""
        with self._lock:
            if self._tally is None:
                return
            self._tally.advance(n_slides, n_tiles)
            if self._clock() - self._said >= self._every_s:
                self._said = self._clock()
                parts = (self._tally.done_text(), self._tally.pace_text())
                self._say(f"{self._tally.stage}: {', '.join(p for p in parts if p)}")

    def note(self, text: str) -> None:
        """A line of its own."""
        with self._lock:
            self._say(text)

    def finish(self) -> None:
        """The stage's last line: what was done, how long it took."""
        with self._lock:
            if self._tally is not None:
                self._say(f"{self._tally.stage}: {self._tally.closing_text()}")
                self._tally = None

    def _say(self, line: str) -> None:
        self._stream.write(" ".join(line.splitlines()) + "\n")
        self._stream.flush()


def open_progress(*, quiet: bool = False, stream: Stream | None = None) -> Progress:
    """Choose how progress is shown: bars where ``stream`` is a terminal that can draw them, lines where not.

    Args:
        quiet: Show nothing.
        stream: Where it is shown; standard error by default.
    """
    if quiet:
        return QuietProgress()
    shown: Stream = sys.stderr if stream is None else stream
    if shown.isatty() and os.environ.get("TERM") != "dumb":
        from microtome.storage.live import live_progress  # not before: rich takes a while to import

        return live_progress(shown)
    return LineProgress(shown)
