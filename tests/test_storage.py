"""Whole files, claims, recipes and progress."""

import errno
import io
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from microtome.errors import ClaimedError, ConfigError, OutputWriteError, SlidePermissionError
from microtome.storage import (
    CLAIM_EXPIRY_S,
    Claim,
    LineProgress,
    QuietProgress,
    digest,
    hash_array,
    hash_file,
    now_utc,
    open_progress,
    recipe_changes,
    recipe_text,
    remove_leftovers,
    safe_name,
    write_json,
    write_text,
    written_whole,
)
from microtome.storage import claims as claims_module
from microtome.storage.live import LiveProgress

# -- names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["A", "TCGA-3X (2)", "a.b.c", "Schnitt Ä", "字", "con-1", "x" * 180, "COMA", "a b"])
def test_good_names_are_kept(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", ".hidden", "a/b", "a\\b", "../a", "/a", "C:a", "a*", "a?", 'a"', "a<", "a>", "a|", "a\n", "a\x00",
        "a\x7f", "a.", "a ", "x" * 181, "Ä" * 91, "con", "NUL", "com1", "LPT9.svs", "Aux.h5", "bad\udcff",
    ],
)  # fmt: skip
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be a file name"):
        safe_name(name)


@given(st.text(max_size=12))
def test_a_safe_name_is_one_part_of_a_path(name: str) -> None:
    try:
        safe_name(name)
    except ConfigError:
        return
    assert Path("folder", name).name == name
    assert Path("folder", name).parent == Path("folder")


# -- whole files ----------------------------------------------------------------------------------------------


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "a.txt"
    with written_whole(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_failing_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), written_whole(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_the_systems_refusal_is_explained(tmp_path: Path, number: int) -> None:
    path = tmp_path / "a.txt"
    with (
        pytest.raises(OutputWriteError, match=r"a\.txt' cannot be written: .*Free space") as caught,
        written_whole(path),
    ):
        raise OSError(number, os.strerror(number))
    assert isinstance(caught.value.__cause__, OSError)
    assert not path.exists()


def test_errors_of_inputs_are_not_taken_for_errors_of_the_output(tmp_path: Path) -> None:
    path = tmp_path / "out" / "a.txt"
    with pytest.raises(PermissionError) as caught, written_whole(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "slide.svs"))
    assert not isinstance(caught.value, OutputWriteError)
    with pytest.raises(SlidePermissionError), written_whole(path):
        raise SlidePermissionError(errno.EACCES, "not yours")


def test_a_file_in_place_of_the_folder_is_explained(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputWriteError):
        write_text(tmp_path / "out" / "a.txt", "x")
    with pytest.raises(OutputWriteError):
        write_text(tmp_path / "out" / "deep" / "a.txt", "x")
    (tmp_path / "dir").mkdir()
    with pytest.raises(OutputWriteError):
        write_text(tmp_path / "dir", "x")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_a_read_only_folder_is_explained(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputWriteError):
            write_text(tmp_path / "a.txt", "x")
    finally:
        tmp_path.chmod(0o700)


_LIMITED = """
import resource, sys
from pathlib import Path
from microtome.errors import OutputWriteError
from microtome.storage import write_text
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    write_text(Path(sys.argv[1]), "x" * 1000)
except OutputWriteError:
    sys.exit(7)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_real_lack_of_space_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    assert subprocess.run([sys.executable, "-c", _LIMITED, str(path)], check=False).returncode == 7
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_plain_and_finite(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": (1, np.float32(0.5)), "path": Path("x"), "none": None, "ä": True})
    assert json.loads(path.read_text(encoding="utf-8")) == {"b": [1, 0.5], "path": "x", "none": None, "ä": True}
    with pytest.raises(ConfigError, match="finite"):
        write_json(path, {"a": float("nan")})
    with pytest.raises(ConfigError, match="set cannot be recorded"):
        write_json(path, {"a": {1, 2}})


def test_leftovers_of_one_output_are_removed_and_no_others(tmp_path: Path) -> None:
    path = tmp_path / "A.h5"
    own = [".A.h5.123-0123abcd.tmp", ".A.h5.9-00000000.tmp"]
    others = [
        "A.h5",
        "A.h5.claim",
        ".A.h5.partial",
        ".A.h5.b.h5.123-0123abcd.tmp",
        ".B.h5.123-0123abcd.tmp",
        ".A.h5.tmp",
    ]
    for name in own + others:
        (tmp_path / name).write_text(name)
    remove_leftovers(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(others)


def test_hashes_are_sha256(tmp_path: Path) -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (tmp_path / "a").write_bytes(b"")
    assert hash_file(tmp_path / "a") == empty
    assert hash_array(np.zeros(0)) == empty
    grid = np.arange(6).reshape(2, 3)
    assert hash_array(grid.T) == hash_array(np.ascontiguousarray(grid.T)) != hash_array(grid)


def test_now_is_utc_to_the_second() -> None:
    import datetime as dt

    now = dt.datetime.strptime(now_utc(), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=dt.UTC)
    assert abs((dt.datetime.now(dt.UTC) - now).total_seconds()) < 5


# -- recipes --------------------------------------------------------------------------------------------------

_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
_recipes = st.dictionaries(st.sampled_from("abcdef"), _values, max_size=4)


@given(_recipes, st.randoms())
def test_digest_does_not_depend_on_order(recipe: dict[str, Any], random: Any) -> None:
    items = list(recipe.items())
    random.shuffle(items)
    assert digest(dict(items)) == digest(recipe)
    assert len(digest(recipe)) == 32


@given(_recipes, st.sampled_from("abcdef"), _values)
def test_digest_changes_with_every_value_and_the_change_is_named(recipe: dict[str, Any], key: str, value: Any) -> None:
    other = {**recipe, key: value}
    same = recipe_text(recipe) == recipe_text(other)
    assert (digest(recipe) == digest(other)) == same
    changes = recipe_changes(recipe_text(recipe), recipe_text(other))
    assert [c.split(":")[0] for c in changes] == ([] if same else [key])


@pytest.mark.parametrize(("one", "two"), [(1, 1.0), (1, True), (0, False), ("1", 1), (None, "absent"), ([], {})])
def test_values_that_python_or_a_reader_may_confuse_are_told_apart(one: Any, two: Any) -> None:
    assert digest({"a": one}) != digest({"a": two})
    assert len(recipe_changes(recipe_text({"a": one}), recipe_text({"a": two}))) == 1


def test_arrays_count_by_value_dtype_and_shape() -> None:
    grid = np.arange(6)
    distinct = {digest({"a": a}) for a in (grid, grid + 1, grid.astype(np.int32), grid.reshape(2, 3), grid.tolist())}
    assert len(distinct) == 5
    assert digest({"a": grid}) == digest({"a": grid.copy()[::1]})


def test_changes_are_short_and_name_added_and_removed_values() -> None:
    old, new = recipe_text({"a": 1, "long": "x" * 200}), recipe_text({"b": 2, "long": "y" * 200})
    changes = recipe_changes(old, new)
    assert changes[:2] == ["a: 1 → absent", "b: absent → 2"]
    assert len(changes[2]) < 140
    with pytest.raises(ValueError):
        recipe_changes("[]", "{}")


# -- claims ---------------------------------------------------------------------------------------------------


def _age(path: Path, seconds: float) -> None:
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def _foreign(path: Path, content: str = "another machine's") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def test_one_at_a_time(tmp_path: Path) -> None:
    output = tmp_path / "out" / "a.h5"
    with Claim(output) as claim:
        assert claim.path == tmp_path / "out" / "a.h5.claim"
        assert claim.is_held()
        assert Claim(output).is_held()
        claim.check()
        with pytest.raises(ClaimedError, match=r"a\.h5' is being made by another process"), Claim(output):
            pass
        assert claim.path.exists()
    assert list(output.parent.iterdir()) == []
    assert not Claim(output).is_held()
    with claim:  # and again
        claim.check()


def test_other_outputs_are_not_concerned(tmp_path: Path) -> None:
    with Claim(tmp_path / "a"), Claim(tmp_path / "b"):
        pass


def test_a_claim_is_let_go_when_the_work_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Claim(tmp_path / "a"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_an_old_claim_of_another_machine_is_taken_over(tmp_path: Path) -> None:
    claim = Claim(tmp_path / "a")
    _foreign(claim.path)
    with pytest.raises(ClaimedError), Claim(tmp_path / "a"):
        pass
    _age(claim.path, CLAIM_EXPIRY_S - 5)
    with pytest.raises(ClaimedError), Claim(tmp_path / "a"):
        pass
    _age(claim.path, 10)
    assert not claim.is_held()
    with claim:
        claim.check()
    assert list(tmp_path.iterdir()) == []


def test_a_claim_from_the_future_dies_too(tmp_path: Path) -> None:
    claim = Claim(tmp_path / "a")
    _foreign(claim.path)
    _age(claim.path, -CLAIM_EXPIRY_S - 100)
    with claim:
        claim.check()


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"pid": "x", "machine": 1}', "\x00"])
def test_a_damaged_claim_dies_of_age_only(tmp_path: Path, content: str) -> None:
    claim = Claim(tmp_path / "a")
    _foreign(claim.path, content)
    assert claim.is_held()
    _age(claim.path, CLAIM_EXPIRY_S + 1)
    with claim:
        claim.check()


_CLAIMING = """
import sys, time
from pathlib import Path
from microtome.storage import Claim
Claim(Path(sys.argv[1])).__enter__()
print("claimed", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there a claim dies of age only")
def test_the_claim_of_a_killed_process_of_this_machine_is_dead_at_once(tmp_path: Path) -> None:
    output = tmp_path / "a"
    process = subprocess.Popen([sys.executable, "-c", _CLAIMING, str(output)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(ClaimedError), Claim(output):
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    (tmp_path / ".a.1-0123abcd.tmp").write_text("half")
    assert not Claim(output).is_held()
    with Claim(output) as claim:
        claim.check()
        assert list(tmp_path.iterdir()) == [claim.path]
    assert list(tmp_path.iterdir()) == []


def test_the_heartbeat_keeps_a_claim_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims_module, "CLAIM_HEARTBEAT_S", 0.01)
    with Claim(tmp_path / "a") as claim:
        _age(claim.path, 1000)
        before = claim.path.stat().st_mtime
        for _ in range(500):
            if claim.path.stat().st_mtime > before:
                break
            threading.Event().wait(0.01)
        assert claim.is_held()


def test_a_lost_claim_is_noticed_and_left_to_its_new_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims_module, "CLAIM_HEARTBEAT_S", 0.01)
    with Claim(tmp_path / "a") as claim:
        claim.path.write_text("another's")
        _age(claim.path, 50)
        date = claim.path.stat().st_mtime
        threading.Event().wait(0.1)
        assert claim.path.stat().st_mtime == date  # not refreshed by us
        with pytest.raises(ClaimedError, match="stood still"):
            claim.check()
    assert claim.path.read_text() == "another's"


def test_dead_claims_are_cleaned_up_and_living_ones_kept(tmp_path: Path) -> None:
    claim = Claim(tmp_path / "a")
    claim.remove_if_dead()
    _foreign(claim.path)
    claim.remove_if_dead()
    assert claim.path.exists()
    _age(claim.path, CLAIM_EXPIRY_S + 1)
    claim.remove_if_dead()
    assert list(tmp_path.iterdir()) == []


def test_of_many_threads_that_find_a_dead_claim_one_gets_it(tmp_path: Path) -> None:
    for attempt in range(20):
        output = tmp_path / str(attempt) / "a"
        _foreign(Claim(output).path)
        _age(Claim(output).path, CLAIM_EXPIRY_S + 1)
        start, winners = threading.Barrier(6), []

        def race(output: Path = output, start: threading.Barrier = start, winners: list[Claim] = winners) -> None:
            claim = Claim(output)
            start.wait()
            try:
                claim.__enter__()
            except ClaimedError:
                return
            winners.append(claim)

        threads = [threading.Thread(target=race) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(winners) == 1
        winners[0].check()
        winners[0].__exit__()
        assert list(output.parent.iterdir()) == []


def _count_up(output: Path, n: int) -> None:
    """Add to a number in a file, which is only right if nobody else does so meanwhile."""
    for _ in range(n):
        while True:
            try:
                with Claim(output):
                    output.write_text(str(int(output.read_text()) + 1))
                break
            except ClaimedError:
                threading.Event().wait(0.001)


def test_processes_exclude_each_other(tmp_path: Path) -> None:
    output = tmp_path / "count"
    output.write_text("0")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_count_up, args=(output, 15)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert output.read_text() == "30"
    assert list(tmp_path.iterdir()) == [output]


def test_a_burial_that_was_killed_is_repeated(tmp_path: Path) -> None:
    claim = Claim(tmp_path / "a")
    _foreign(claim.path)
    _age(claim.path, CLAIM_EXPIRY_S + 1)
    grave = claim._beside(claims_module.hashlib.sha256(b"another machine's").hexdigest()[:16])
    grave.touch()
    with pytest.raises(ClaimedError), claim:  # somebody else may be burying it
        pass
    _age(grave, CLAIM_EXPIRY_S + 1)
    with pytest.raises(ClaimedError), claim:  # no: clears it, and the next one succeeds
        pass
    with claim:
        claim.check()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputWriteError), Claim(tmp_path / "file" / "a"):
        pass


def test_no_space_for_the_claim_leaves_no_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    claim, plain = Claim(tmp_path / "a"), Path.open

    def open_full(self: Path, *arguments: Any, **named: Any) -> Any:
        plain(self, *arguments, **named).close()
        return Full()

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(OutputWriteError), claim:
        pass
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


# -- progress -------------------------------------------------------------------------------------------------


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
    code = "import sys, io, microtome.storage as s; s.open_progress(stream=io.StringIO()); assert 'rich' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
