"""The journal of batches: what a kill, a full disk or another program does to it."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from microtome.errors import ConfigError, CorruptOutputError, OutputWriteError
from microtome.features import journal as journal_module
from microtome.features.bag import read_bag
from microtome.features.journal import Journal, JournalBatch, JournalHead
from microtome.features.writer import BagPlan, BagWriter, partial_path
from microtome.testing.store_contract import example_boxes, example_features

HEAD = JournalHead("digest", dim=3, dtype="float32", n_tiles=100, batch_size=4)


def _batch(index: int) -> JournalBatch:
    lost = {4 * index + 3: f"torn {index} ü"} if index % 2 else {}
    rows = np.arange(4 * index, 4 * index + 4 - len(lost))
    return JournalBatch(rows, example_features(len(rows), 3, seed=index), lost)


def _filled(path: Path, n: int) -> bytes:
    journal = Journal(path, HEAD)
    for index in range(n):
        journal.append(_batch(index))
    journal.close()
    return path.read_bytes()


def _assert_holds(journal: Journal, n: int) -> None:
    found = list(journal.batches())
    assert len(found) == journal.n_batches == n
    assert journal.n_rows == sum(len(b.rows) for b in found)
    assert journal.n_unreadable == sum(len(b.unreadable) for b in found)
    for index, batch in enumerate(found):
        expected = _batch(index)
        np.testing.assert_array_equal(batch.rows, expected.rows)
        np.testing.assert_array_equal(batch.features, expected.features)
        assert batch.unreadable == expected.unreadable


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_batches_come_back(tmp_path: Path, dtype: str) -> None:
    journal = Journal(tmp_path / "j", JournalHead("d", 3, dtype, 100, 4))
    features = example_features(2, 3, dtype=dtype)
    journal.append(JournalBatch(np.array([5, 7]), features, {6: "torn"}))
    journal.append(JournalBatch(np.zeros(0, np.int64), features[:0], {8: "a", 9: "b"}))
    first, second = journal.batches()
    np.testing.assert_array_equal(first.features, features)
    assert second.unreadable == {8: "a", 9: "b"}
    assert second.features.shape == (0, 3)
    journal.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1), damage=st.sampled_from(["cut", "flip", "zeros", "garbage"]))
def test_a_damaged_journal_is_gone_on_with_after_its_last_whole_batch(
    tmp_path: Path, share: float, damage: str
) -> None:
    path = tmp_path / "j"
    path.unlink(missing_ok=True)
    whole = _filled(path, 6)
    ends = [len(whole)]
    for n in range(5, -1, -1):
        other = tmp_path / "other"
        other.unlink(missing_ok=True)
        journal = Journal(other, HEAD)
        for index in range(n):
            journal.append(_batch(index))
        ends.append(other.stat().st_size)
        journal.close()
    where = min(len(whole) - 1, int(share * len(whole)))
    if damage == "cut":
        path.write_bytes(whole[:where])
    elif damage == "flip":
        path.write_bytes(whole[:where] + bytes([whole[where] ^ 0x40]) + whole[where + 1 :])
    elif damage == "zeros":
        path.write_bytes(whole[:where] + b"\0" * (len(whole) - where))
    else:
        path.write_bytes(whole[:where] + whole[where:][::-1])
    found = path.read_bytes()
    same = next((i for i, (a, b) in enumerate(zip(whole, found, strict=False)) if a != b), min(len(whole), len(found)))
    intact = sum(end <= same for end in ends) - 1
    journal = Journal(path, HEAD)
    _assert_holds(journal, max(0, intact))
    for index in range(journal.n_batches, 6):
        journal.append(_batch(index))
    journal.close()
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "other",
    [
        JournalHead("else", 3, "float32", 100, 4),
        JournalHead("digest", 4, "float32", 100, 4),
        JournalHead("digest", 3, "float16", 100, 4),
        JournalHead("digest", 3, "float32", 99, 4),
        JournalHead("digest", 3, "float32", 100, 5),
    ],
)
def test_a_journal_of_another_head_is_discarded(tmp_path: Path, other: JournalHead) -> None:
    _filled(tmp_path / "j", 3)
    journal = Journal(tmp_path / "j", other)
    assert journal.n_batches == 0
    assert list(journal.batches()) == []
    journal.close()
    assert not (tmp_path / "j").exists()


def test_a_failed_append_leaves_what_was_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j"
    before = _filled(path, 2)
    journal = Journal(path, HEAD)
    plain = Journal._write

    def fill_up(self: Journal, data: bytes) -> None:
        plain(self, data[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Journal, "_write", fill_up)
    with pytest.raises(OutputWriteError, match="No space left"):
        journal.append(_batch(2))
    monkeypatch.undo()
    journal.close()
    assert path.read_bytes() == before


def test_the_disk_is_made_to_hold_it_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    monkeypatch.setattr(journal_module, "SYNC_BYTES", 200)
    journal = Journal(tmp_path / "j", HEAD)
    record = len(journal_module._pack(0, _batch(0)))
    n = 0
    while not synced:
        journal.append(_batch(2 * n))  # of one size
        n += 1
    assert n == -(-200 // record)
    monkeypatch.setattr(journal_module, "SYNC_SECONDS", 0.0)
    journal.append(_batch(2 * n))
    assert len(synced) == 2
    journal.close()
    assert len(synced) == 3


def _plan(n: int = 10) -> BagPlan:
    return BagPlan("r", np.arange(n), example_boxes(n), dim=3, dtype="float32", batch_size=4)


def test_batches_must_add_up(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "A.h5", _plan())
    for features, lost in (
        (example_features(3, 3), {}),
        (example_features(4, 3), {1: "torn"}),
        (example_features(4, 2), {}),
        (example_features(4, 3), {7: "of another batch"}),
    ):
        with pytest.raises(ConfigError):
            writer.append(features, lost)
    with pytest.raises(ConfigError, match="0 of 3 batches"):
        writer.seal()
    writer.append(example_features(4, 3), {})
    writer.append(example_features(4, 3), {})
    writer.append(example_features(2, 3), {})
    assert writer.is_complete
    with pytest.raises(ConfigError):
        writer.append(example_features(1, 3), {})
    writer.seal()
    assert len(read_bag(tmp_path / "A.h5", "A")) == 10


def test_what_somebody_else_changed_is_not_sealed(tmp_path: Path) -> None:
    path = tmp_path / "A.h5"
    writer = BagWriter(path, _plan(4))
    writer.append(example_features(4, 3), {})
    data = bytearray(partial_path(path).read_bytes())
    data[-5] ^= 1
    partial_path(path).write_bytes(bytes(data))
    with pytest.raises(CorruptOutputError, match="changed by somebody else"):
        writer.seal()
    assert list(tmp_path.iterdir()) == []
