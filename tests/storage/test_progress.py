"""Progress as lines, as bars, and not at all."""

import io
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
from rich.console import Console

from microtome.storage import (
    LineProgress,
    QuietProgress,
    open_progress,
)
from microtome.storage.live import LiveProgress


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _lines(every_s: float = 5.0) -> tuple[LineProgress, Clock, Callable[[], list[str]]]:
    stream, clock = io.StringIO(), Clock()
    return LineProgress(stream, every_s=every_s, clock=clock), clock, lambda: stream.getvalue().splitlines()


def test_lines_come_at_most_every_few_seconds() -> None:
    progress, clock, lines = _lines()
    progress.start("features", 4)
    for _ in range(100):
        clock.now += 0.125
        progress.advance(n_tiles=8)
    assert len(lines()) == 2
    progress.finish()
    assert lines()[-1] == "features: 0/4 slides, 800 tiles, 12 s, 64 tiles/s"


def test_lines_tell_slides_pace_and_time_left() -> None:
    progress, clock, lines = _lines(every_s=0)
    progress.start("features", 2)
    progress.expect(100)
    clock.now += 10
    progress.advance(n_tiles=50)
    # the other slide is taken to have 100 tiles too: 150 are left, at 5 a second
    assert lines() == ["features: 0/2 slides, 50 tiles, 5 tiles/s, 30 s left"]
    progress.expect(0)  # it was there already
    progress.advance(n_slides=1)
    assert lines()[-1] == "features: 1/2 slides, 50 tiles, 5 tiles/s, 10 s left"


def test_lines_without_tiles_tell_time_left_by_slides() -> None:
    progress, clock, lines = _lines(every_s=0)
    progress.start("tissue", 4)
    clock.now += 90
    progress.advance(n_slides=1)
    assert lines() == ["tissue: 1/4 slides, 4 min 30 s left"]
    clock.now += 7200
    progress.advance(3)
    progress.finish()
    assert lines()[-1] == "tissue: 4/4 slides, 2 h 1 min"


def test_other_things_than_slides_have_a_pace_of_their_own() -> None:
    progress, clock, lines = _lines(every_s=0)
    progress.start("train", 40, "steps")
    clock.now += 2
    progress.advance(8)
    progress.finish()
    assert lines() == ["train: 8/40 steps, 4 steps/s, 8 s left", "train: 8/40 steps, 2 s"]


def test_pace_is_of_the_last_half_minute() -> None:
    progress, clock, lines = _lines(every_s=0)
    progress.start("features", 1)
    for rate in [1] * 100 + [50] * 100:
        clock.now += 1
        progress.advance(n_tiles=rate)
    assert "50 tiles/s" in lines()[-1]


def test_notes_are_one_line_and_stages_end_one_another() -> None:
    progress, _, lines = _lines()
    progress.note("failed: A\n(tissue): [red]no")
    progress.start("tissue", 1)
    progress.start("tiles", 1)
    progress.advance(1)
    progress.finish()
    progress.finish()
    progress.advance(1)
    progress.expect(3)
    assert lines() == ["failed: A (tissue): [red]no", "tissue: 0/1 slides, 0 s", "tiles: 1/1 slides, 0 s"]


def test_lines_of_many_threads_are_whole_and_add_up() -> None:
    progress, _, lines = _lines(every_s=0)
    progress.start("features", 8)

    def work() -> None:
        for _ in range(200):
            progress.advance(n_tiles=1)
        progress.advance(n_slides=1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    progress.finish()
    assert lines()[-1].startswith("features: 8/8 slides, 1600 tiles")
    assert all(line.startswith("features: ") for line in lines())


def _live() -> tuple[LiveProgress, Clock, io.StringIO]:
    stream, clock = io.StringIO(), Clock()
    console = Console(file=stream, force_terminal=True, width=120, color_system=None, legacy_windows=False)
    return LiveProgress(console, clock=clock), clock, stream


def test_bars_show_slides_tiles_pace_and_time_left() -> None:
    progress, clock, stream = _live()
    progress.start("features", 2)
    progress.expect(100)
    clock.now += 10
    progress.advance(n_tiles=50)
    progress.note("failed: B [bold]x[/bold]")
    progress.expect(100)
    progress.advance(n_slides=1, n_tiles=50)
    progress._bars.refresh()  # type: ignore[union-attr] # as its own thread does ten times a second
    assert "10 tiles/s, 10 s left" in stream.getvalue()
    progress.finish()
    text = stream.getvalue()
    assert "failed: B [bold]x[/bold]" in text
    assert "1/2 slides, 100 tiles, 10 s, 10 tiles/s" in text.splitlines()[-2]


def test_bars_of_stages_follow_one_another_and_stop() -> None:
    progress, _, stream = _live()
    progress.start("tissue", 3)
    progress.start("report", 0)
    progress.finish()
    progress.finish()
    progress.advance(1)
    progress.expect(1)
    text = stream.getvalue()
    assert "tissue" in text
    assert "report" in text


def test_progress_is_chosen_by_what_the_stream_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(open_progress(quiet=True), QuietProgress)
    assert isinstance(open_progress(stream=io.StringIO()), LineProgress)
    assert isinstance(open_progress(stream=Terminal()), LiveProgress)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(open_progress(stream=Terminal()), LineProgress)


def test_quiet_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    progress = QuietProgress()
    progress.start("a", 1)
    progress.expect(1)
    progress.advance(1, 1)
    progress.note("b")
    progress.finish()
    assert capfd.readouterr() == ("", "")


def test_rich_is_not_imported_before_a_bar_is_drawn() -> None:
    code = (
        "import sys, io, microtome.storage as s; "
        "s.open_progress(stream=io.StringIO()); assert 'rich' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
