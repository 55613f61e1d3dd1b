"""Several processes on one output folder, one per device."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from microtome.config import ExtractConfig, RunConfig
from microtome.errors import ConfigError, WorkerError
from microtome.features.store import FeatureStore
from microtome.storage import QuietProgress
from microtome.tasks import devices
from microtome.tasks.devices import MergedProgress
from microtome.tasks.run import run
from microtome.testing.synthetic import write_sample

FEATURES = "features/texture_224px_0.5"


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    write_sample(folder, n_slides=6, size_px=768, kinds=("tiff",))
    return folder


def settings(slides, out, kind=ExtractConfig, **values):
    return kind(
        slides=(str(slides),), out=out, **{"quiet": True, "quality_flags": False, "device": "cpu,cpu", **values}
    )


def features_of(out):
    store = FeatureStore(out / FEATURES)
    return {slide_id: (store[slide_id].features[:], store[slide_id].coords[:]) for slide_id in store}


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert len(one) == 6
    for slide_id in one:
        for a, b in zip(one[slide_id], other[slide_id], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def by_one(slides, tmp_path_factory):
    out = tmp_path_factory.mktemp("one")
    assert not run(settings(slides, out, device="cpu")).failed
    return features_of(out)


class Heard(QuietProgress):
    def __init__(self, on_start=None):
        self.stages, self.notes, self.n_slides, self.n_tiles = {}, [], 0, 0
        self.on_start = on_start

    def start(self, stage, total, unit="slides"):
        self.stages[stage] = total
        self.n_slides = self.n_tiles = 0
        if self.on_start:
            self.on_start(stage)

    def advance(self, n_slides=0, n_tiles=0):
        self.n_slides += n_slides
        self.n_tiles += n_tiles

    def note(self, text):
        self.notes.append(text)


@pytest.fixture
def started(monkeypatch):
    """Workers as they are started."""
    seen = []
    start = devices.start_worker

    def start_worker(*arguments):
        seen.append(start(*arguments))
        return seen[-1]

    monkeypatch.setattr(devices, "start_worker", start_worker)
    return seen


@pytest.mark.slow
def test_two_processes_give_what_one_gives_and_their_work_counts_as_one_job(slides, by_one, tmp_path):
    heard = Heard()
    result = run(settings(slides, tmp_path), progress=heard)
    assert not result.failed
    assert len(result.record.done) == 6
    assert all(row.seconds > 0 and row.status == "done" for row in result.rows)
    assert_same(by_one, features_of(tmp_path))
    assert heard.stages["features"] == 6
    assert heard.n_slides == 6
    assert heard.n_tiles == sum(len(features) for features, _ in by_one.values())
    said = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert said["config"]["device"] == "cpu,cpu"
    assert "2 processes" in said["notes"][0]
    again = run(settings(slides, tmp_path, device="cpu"))
    assert len(again.record.skipped) == 6


@pytest.mark.slow
def test_what_needs_all_slides_is_done_once_at_the_end(slides, tmp_path):
    result = run(settings(slides, tmp_path, RunConfig, n_clusters=2, umap_points=0), progress=Heard())
    assert not result.failed
    assert result.report is not None
    assert len(list((tmp_path / "clusters").glob("sample-*.parquet"))) == 6


@pytest.mark.slow
def test_a_killed_process_loses_no_slide_and_is_told_of(slides, by_one, tmp_path, started):
    heard = Heard(lambda stage: started[1].process.kill() if stage == "tissue" else None)
    result = run(settings(slides, tmp_path), progress=heard)
    assert_same(by_one, features_of(tmp_path))
    assert result.record.failed == []
    assert result.failed
    assert result.lost == ("Worker 2 on cpu was ended by SIGKILL",)
    assert any("the others take over" in note for note in heard.notes)
    assert any("SIGKILL" in note for note in json.loads((tmp_path / "run.json").read_text())["notes"])
    assert not list(tmp_path.rglob("*.claim"))


def test_when_all_die_it_is_an_error(slides, tmp_path, started):
    def kill(stage):
        del stage
        for worker in started:
            worker.process.kill()

    with pytest.raises(WorkerError, match=r"Worker 1 on cpu .*SIGKILL.*Worker 2"):
        run(settings(slides, tmp_path), progress=Heard(kill))


def test_what_one_process_is_refused_ends_all(slides, tmp_path, started):
    with pytest.raises(ConfigError, match=r"Worker \d on cpu: No encoder goes by 'textur'"):
        run(settings(slides, tmp_path, encoder="textur"), progress=Heard())
    assert all(worker.process.poll() is not None for worker in started)


@pytest.mark.slow
def test_a_bad_slide_fails_once(slides, tmp_path):
    folder = tmp_path / "slides"
    folder.mkdir()
    for path in sorted(slides.glob("sample-*.tif*"))[:2]:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "broken.tiff").write_bytes(b"II*\0")
    heard = Heard()
    result = run(settings(folder, tmp_path / "out"), progress=heard)
    assert [failure.slide_id for failure in result.record.failed] == ["broken"]
    assert len(result.record.done) == 2
    assert sum("broken" in note for note in heard.notes) == 1


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
def test_ctrl_c_ends_all_processes_and_the_next_run_goes_on(slides, by_one, tmp_path):
    command = [sys.executable, "-m", "microtome", "extract", str(slides), "--out", str(tmp_path), "--device", "cpu,cpu"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("tissue/*.geojson")):
        assert process.poll() is None
        time.sleep(0.02)
    children = children_of(process.pid)
    assert len(children) == 2
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "goes on from there" in said
    assert "Traceback" not in said
    assert not any(is_running(child) for child in children)
    assert not run(settings(slides, tmp_path)).failed
    assert_same(by_one, features_of(tmp_path))


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_processes_share_threads_and_memory(slides, tmp_path):
    whole = settings(slides, tmp_path, RunConfig, workers=5, memory="1G", seed=3, n_tiles=7)
    got = devices.worker_settings(whole, "cpu")
    assert (got.device, got.workers, got.memory_bytes) == ("cpu", 2, 512 * 1024**2)
    assert (got.slides, got.out, got.seed, got.n_tiles) == ((str(slides),), tmp_path, 3, 7)
    assert ExtractConfig.model_validate_json(got.model_dump_json()) == got


@pytest.mark.parametrize("device", ["cpu,cuda:0", "cuda:0,", ",", "auto,auto", "cuda,cuda", "mps,mps"])
def test_devices_of_two_kinds_or_without_a_number_are_refused(device):
    with pytest.raises(ValueError, match="device"):
        ExtractConfig(device=device)


def test_devices_are_read_one_by_one():
    assert ExtractConfig(device="cuda:0, cuda:1").devices == ("cuda:0", "cuda:1")
    assert ExtractConfig().devices == ("auto",)


def test_progress_of_two_workers_counts_each_slide_and_tile_once():
    heard = Heard()
    merged = MergedProgress(heard, 2)

    def say(worker, kind, **event):
        merged.take(worker, {"kind": kind, **event})

    for worker in (0, 1):
        say(worker, "start", stage="tissue", total=4)
    for worker in (0, 1, 1, 0, 0, 0, 1, 1):
        say(worker, "advance", n_slides=1, n_tiles=0)
    assert heard.n_slides == 4
    say(0, "start", stage="features", total=4)
    say(1, "advance", n_slides=1, n_tiles=5)  # still in the stage before
    assert heard.n_slides == 0
    say(1, "start", stage="features", total=4)
    for worker in (0, 1):  # the first slide was there; each makes one
        say(worker, "expect", n_tiles=0)
        say(worker, "advance", n_slides=1, n_tiles=0)
        say(worker, "expect", n_tiles=7)
        say(worker, "advance", n_slides=0, n_tiles=7)
        say(worker, "advance", n_slides=1, n_tiles=0)
    assert (heard.n_slides, heard.n_tiles) == (3, 14)
    for text in ("failed: a", "failed: a", "b: claimed by another process; waiting for it at the end"):
        say(0, "note", text=text)
    assert heard.notes == ["failed: a"]
