"""Two processes on one output folder: no slide is lost, none is done twice, the tables are whole."""

import shutil
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.faults.outputs import (
    FEATURES,
    QUICK_FLAGS,
    SLIDES,
    contents,
    leftovers,
    open_every_file,
    statuses,
    values_of,
)
from tests.faults.test_killed import assert_same

RUN = ("run", "--n-clusters", "3", "--umap-points", "0", "--batch-size", "4")


def start(out, *arguments) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "microtome", *map(str, arguments), "--out", str(out), *QUICK_FLAGS]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process) -> str:
    stdout, stderr = process.communicate(timeout=250)
    assert process.returncode == 0, stderr
    assert "Traceback" not in stderr
    return stdout


def test_two_processes_on_one_folder_give_what_one_gives(cohort, undisturbed, tmp_path):
    out = tmp_path / "out"
    for process in [start(out, *RUN, cohort) for _ in range(2)]:
        assert "failed 0" in finish(process)
    assert_same(out, undisturbed)
    open_every_file(out)


def test_two_processes_with_a_half_each_fill_one_table(cohort, undisturbed, tmp_path):
    out = tmp_path / "out"
    halves = [start(out, "extract", cohort / name) for name in ("sample-01.svs", "sample-02.tif")]
    for process in halves:
        assert "done 1" in finish(process)
    assert statuses(out) == dict.fromkeys(SLIDES, "done")
    assert values_of(out) == values_of(undisturbed)
    assert contents(out, "tissue", "tiles", "features") == contents(undisturbed, "tissue", "tiles", "features")
    assert leftovers(out) == []


@pytest.mark.slow
def test_two_processes_measure_the_flags_of_one_slide_without_failing(cohort, finished, undisturbed):
    """Features are there, their flags are not, as after a kill between the two: both processes want to add them."""
    shutil.rmtree(finished / "tiles")
    both = [start(finished, "tile", cohort) for _ in range(2)]
    for process in both:
        finish(process)
    both = [start(finished, "extract", cohort) for _ in range(2)]
    for process in both:
        assert "failed 0" in finish(process)
    assert contents(finished, "tiles", FEATURES) == contents(undisturbed, "tiles", FEATURES)
    assert leftovers(finished) == []
