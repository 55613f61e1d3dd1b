"""SIGKILL at random moments of a run: what is there is whole, and the rerun gives what an undisturbed run gives."""

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from microtome.config import RunConfig
from tests.conftest import REPOSITORY
from tests.faults.outputs import contents, do, leftovers, open_every_file, statuses, values_of

SETTINGS = {"n_clusters": 3, "umap_points": 0, "batch_size": 4, "tissue_method": "auto"}

STAGE_BEFORE = {
    "tissue": "inspect",
    "tiles": "tissue",
    "thumbnails": "tiles",
    "features": "thumbnails",
    "clusters": "features",
    "report": "montages",
}
"""Stage → the stage whose last line of progress says that it begins."""

MADE_SINCE = {
    "tissue": ("tissue", "tiles", "thumbnails", "features", "clusters"),
    "tiles": ("tiles", "thumbnails", "features", "clusters"),
    "thumbnails": ("thumbnails", "features", "clusters"),
    "features": ("features", "clusters"),
    "clusters": ("clusters",),
    "report": (),
}
"""Stage → what it and those after it make."""


def start(slides: Path, out: Path, *, umap_points: int = 0) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "microtome", "run", str(slides), "--out", str(out)]
    command += ["--n-clusters", "3", "--umap-points", str(umap_points), "--batch-size", "4"]
    command += ["--thumbnail-px", "256"]
    return subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def kill_in(stage: str, slides: Path, out: Path, delay: float, *, umap_points: int = 0) -> bool:
    """Kill a run some time after a stage began; False where it was quicker."""
    before = STAGE_BEFORE[stage] if not (umap_points and stage == "report") else "umap"
    process = start(slides, out, umap_points=umap_points)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(f"{before}:"):
            break
    time.sleep(delay)  # a random moment of the stage, not a wait for something
    process.kill()
    process.stderr.close()
    return process.wait(timeout=60) != 0


def seconds_of(out: Path) -> dict[str, float]:
    """How long each stage takes; of the report nobody keeps account."""
    return {**json.loads((out / "run.json").read_text())["seconds"], "report": 0.5}


def assert_same(out: Path, undisturbed: Path) -> None:
    assert contents(out) == contents(undisturbed)
    assert values_of(out) == values_of(undisturbed)
    assert leftovers(out) == []
    assert set(statuses(out).values()) <= {"done", "skipped"}
    assert json.loads((out / "run.json").read_text())["slides"]["failed"] == []
    assert (out / "report.html").is_file()


@pytest.fixture(scope="module")
def undisturbed(cohort, tmp_path_factory) -> Path:
    """With the method that takes longest, so that there are moments to be killed in."""
    out = tmp_path_factory.mktemp("undisturbed-auto") / "out"
    assert do(RunConfig, cohort, out, **SETTINGS).record.failed == []
    return out


def test_killed_in_four_stages_and_run_again_is_as_if_undisturbed(cohort, undisturbed, tmp_path):
    rng, seconds = random.Random(0), seconds_of(undisturbed)  # noqa: S311 - moments of kills, not secrets
    out = tmp_path / "out"
    killed = []
    for stage in ("tissue", "features", "clusters", "report"):
        killed.append(kill_in(stage, cohort, out, rng.random() * seconds[stage]))
        open_every_file(out)
    assert sum(killed) >= 3
    do(RunConfig, cohort, out, **SETTINGS)
    assert open_every_file(out) > 15
    assert_same(out, undisturbed)


@pytest.fixture(scope="module")
def undisturbed_umap(cohort, undisturbed, tmp_path_factory):
    out = Path(shutil.copytree(undisturbed, tmp_path_factory.mktemp("umap") / "out"))
    assert do(RunConfig, cohort, out, **{**SETTINGS, "umap_points": 60}).record.failed == []
    return out


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("stage", STAGE_BEFORE)
def test_killed_twenty_four_times_is_as_if_undisturbed(cohort, undisturbed_umap, undisturbed, tmp_path, stage):
    """Four times in each of six stages, at four moments of it; what earlier kills left stays for the next."""
    rng, seconds = random.Random(stage), seconds_of(undisturbed)  # noqa: S311 - moments of kills, not secrets
    out = Path(shutil.copytree(undisturbed_umap, tmp_path / "out"))
    for quarter in range(4):
        while True:
            for folder in MADE_SINCE[stage]:
                for path in (p for p in (out / folder).rglob("*") if p.is_file() and not p.name.startswith(".")):
                    if path.suffix != ".claim":
                        path.unlink()
            (out / "report.html").unlink(missing_ok=True)
            delay = (quarter + rng.random()) / 4 * seconds[stage]
            if kill_in(stage, cohort, out, delay, umap_points=60):
                break
        open_every_file(out)
    do(RunConfig, cohort, out, **{**SETTINGS, "umap_points": 60})
    open_every_file(out)
    assert_same(out, undisturbed_umap)
