"""Killed, and raced by another process: nothing lost, nothing double, the same bytes."""

import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from microtome.features.extract import Extracted, Failure, Job, extract_all
from microtome.features.store import FeatureStore
from tests.conftest import REPOSITORY
from tests.features.extract_in_process import OPTIONS, slide
from tests.features.fakes import Means

NAMES = ("A", "BB", "CCC", "DDDD")


def _start(folder: Path, seconds: float = 0.003, names: tuple[str, ...] = NAMES) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "tests.features.extract_in_process", str(folder), str(seconds), *names],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )


def _finish(process: "subprocess.Popen[str]") -> list[str]:
    out, _ = process.communicate(timeout=100)
    assert process.returncode == 0
    return out.splitlines()


@pytest.fixture
def undisturbed(tmp_path: Path) -> FeatureStore:
    store = FeatureStore(tmp_path / "undisturbed")
    done: list[Extracted | Failure] = []
    jobs = [Job(name, partial(slide, name)) for name in NAMES]
    extract_all(jobs, Means(), store, OPTIONS, on_done=done.append)
    assert all(isinstance(o, Extracted) for o in done)
    return store


def _assert_same(store: FeatureStore, undisturbed: FeatureStore) -> None:
    assert list(store) == list(undisturbed)
    for slide_id in store:
        assert store.path(slide_id).read_bytes() == undisturbed.path(slide_id).read_bytes()


def _kill_again_and_again(folder: Path, undisturbed: FeatureStore, n_kills: int, seed: int) -> None:
    rng, store = random.Random(seed), FeatureStore(folder)  # noqa: S311 - moments of kills, not secrets
    assert OPTIONS.batch_size is not None
    n_batches = sum(-(-len(slide(name)) // OPTIONS.batch_size) for name in NAMES)
    for _ in range(n_kills):
        process = _start(folder)
        assert process.stdout is not None
        for _ in range(rng.randint(0, 1 + n_batches // n_kills)):
            process.stdout.readline()
        time.sleep(rng.random() * 0.01)
        process.send_signal(signal.SIGKILL) if hasattr(signal, "SIGKILL") else process.kill()
        process.wait()
        process.stdout.close()
        for slide_id in store:  # every file that is there is whole
            store.check(slide_id)
            np.testing.assert_array_equal(store[slide_id].features, undisturbed[slide_id].features)
    said = _finish(_start(folder, seconds=0))  # at once: a dead process's claim does not have to grow old
    assert sorted(line.split()[1] for line in said if not line.startswith("batch")) == sorted(NAMES)
    _assert_same(store, undisturbed)
    assert sorted(p.name for p in folder.iterdir()) == [f"{name}.h5" for name in NAMES]


def test_killed_and_run_again_is_as_if_undisturbed(tmp_path: Path, undisturbed: FeatureStore) -> None:
    _kill_again_and_again(tmp_path / "killed", undisturbed, n_kills=4, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_killed_twenty_times_is_as_if_undisturbed(tmp_path: Path, undisturbed: FeatureStore, seed: int) -> None:
    _kill_again_and_again(tmp_path / "killed", undisturbed, n_kills=20, seed=seed)


def test_two_processes_on_one_folder_share_the_work(tmp_path: Path, undisturbed: FeatureStore) -> None:
    folder = tmp_path / "shared"
    both = [_start(folder, 0.02), _start(folder, 0.02)]
    said = [_finish(process) for process in both]
    store = FeatureStore(folder)
    _assert_same(store, undisturbed)
    done = sorted(line.split()[1] for lines in said for line in lines if line.startswith("done"))
    skipped = [line.split()[1] for lines in said for line in lines if line.startswith("skipped")]
    assert done == sorted(NAMES)  # each by one of them
    assert sorted(skipped) == sorted(NAMES)  # and seen by the other
    assert sorted(p.name for p in folder.iterdir()) == [f"{name}.h5" for name in NAMES]


def test_the_other_process_goes_on_where_a_killed_one_was(tmp_path: Path, undisturbed: FeatureStore) -> None:
    folder = tmp_path / "shared"
    first = _start(folder, 0.05, ("DDDD",))
    assert first.stdout is not None
    for _ in range(5):
        first.stdout.readline()
    second = _start(folder, 0.0, ("DDDD",))  # waits for the claim
    first.stdout.readline()
    first.kill()
    first.wait()
    first.stdout.close()
    said = _finish(second)
    assert "done DDDD" in said
    assert said.count("batch") <= 12 - 4
    store = FeatureStore(folder)
    assert store.path("DDDD").read_bytes() == undisturbed.path("DDDD").read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT to a child")
def test_ctrl_c_keeps_what_is_committed(tmp_path: Path, undisturbed: FeatureStore) -> None:
    folder = tmp_path / "stopped"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.features.extract_in_process", str(folder), "0.1", *NAMES],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for _ in range(10):
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert not list(folder.glob("*.claim"))
    assert list(folder.glob(".*.partial"))
    said = _finish(_start(folder, 0.0))
    assert 0 < said.count("batch") <= 41 - 8
    _assert_same(FeatureStore(folder), undisturbed)
