"""Claims: one at a time, and the dead do not block."""

import errno
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from microtome.errors import ClaimedError, OutputWriteError
from microtome.storage import (
    CLAIM_EXPIRY_S,
    Claim,
)
from microtome.storage import claims as claims_module


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
        start = threading.Barrier(6)
        winners: list[Claim] = []

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


def _grave(claim: Claim, content: str) -> Path:
    path = claim._grave(claim.path.read_text())
    path.write_text(content)
    return path


def _dead_process() -> str:
    """What a process of this machine writes into its claims that is no more."""
    code = "import json, os; from microtome.storage.claims import _machine; "
    code += "print(json.dumps({'token': '', 'machine': _machine(), 'pid': os.getpid()}))"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.skipif(sys.platform == "win32", reason="there a claim dies of age only")
def test_a_burial_that_was_killed_is_repeated_at_once(tmp_path: Path) -> None:
    claim = Claim(tmp_path / "a")
    _foreign(claim.path, _dead_process())
    _grave(claim, _dead_process())
    with pytest.raises(ClaimedError), claim:  # clears it, and the next one succeeds
        pass
    with claim:
        claim.check()
    assert list(tmp_path.iterdir()) == []


def test_a_burial_by_another_machine_is_waited_for(tmp_path: Path) -> None:
    claim = Claim(tmp_path / "a")
    _foreign(claim.path)
    _age(claim.path, CLAIM_EXPIRY_S + 1)
    grave = _grave(claim, "another's")
    for _ in range(2):
        with pytest.raises(ClaimedError), claim:
            pass
    _age(grave, CLAIM_EXPIRY_S + 1)
    with pytest.raises(ClaimedError), claim:
        pass
    with claim:
        claim.check()
    assert list(tmp_path.iterdir()) == []


def test_what_killed_claimants_left_is_removed_by_the_next(tmp_path: Path) -> None:
    claim = Claim(tmp_path / "a")
    left = [claim._grave("some dead claim"), tmp_path / ".a.claim.12-0123abcd.tmp", tmp_path / ".a.12-0123abcd.tmp"]
    for path in left:
        path.write_text("x")
    with claim:
        assert list(tmp_path.iterdir()) == [claim.path]


def test_a_folder_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputWriteError), Claim(tmp_path / "file" / "a"):
        pass


def test_no_space_for_the_claim_is_explained_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, *_: Any, **__: Any) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutputWriteError), Claim(tmp_path / "a"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with Claim(tmp_path / "a") as claim:
        claim.check()
        with pytest.raises(ClaimedError), Claim(tmp_path / "a"):
            pass
    assert list(tmp_path.iterdir()) == []
