"""Cross-validation with real training: what is planted is found, what is not is not, and a kill changes nothing."""

import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from microtome.config import CVConfig
from microtome.tasks.mil.cross_validate import cross_validate
from microtome.testing.mil_cohort import TARGETS, MilCohortOptions, write_mil_cohort


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return write_mil_cohort(tmp_path_factory.mktemp("planted"), MilCohortOptions(n_patients=40, n_features=8))


def config_of(made, out, **settings):
    usual = {
        "features": made.features, "cohort": made.table, "target": "mutation", "model": "meanpool", "out": out,
        "outer": 3, "inner": 2, "epochs": 8, "grid": ("learning_rate=0.05,0.005",), "weight_decay": 0, "batch_size": 8,
        "n_boot": 100, "no_figures": True, "precision": "fp32", "device": "cpu",
    }  # fmt: skip
    return CVConfig(**{**usual, **settings})


def test_a_planted_signal_is_found(planted, tmp_path):
    result = cross_validate(config_of(planted, tmp_path))
    assert result.summary["low"] > 0.8
    assert result.summary["estimate"] > 0.9


@pytest.mark.slow
def test_without_a_signal_nothing_is_found(tmp_path):
    """Choosing among points and epochs must not leak into what is reported."""
    low, high = [], []
    for seed in range(3):
        options = MilCohortOptions(n_patients=40, n_features=8, signal=0.0, seed=seed)
        made = write_mil_cohort(tmp_path / str(seed), options)
        result = cross_validate(config_of(made, tmp_path / f"cv{seed}", seed=seed))
        low.append(result.summary["low"])
        high.append(result.summary["high"])
    within = sum(a <= 0.5 <= b for a, b in zip(low, high, strict=True))
    assert within >= 2, list(zip(low, high, strict=True))
    assert sum(low) / 3 < 0.5 < sum(high) / 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", TARGETS)
def test_every_type_of_target_goes_from_table_to_figures(planted, tmp_path, kind):
    chance = 0.0 if kind == "regression" else 0.5
    result = cross_validate(config_of(planted, tmp_path, model="abmil", no_figures=False, **TARGETS[kind]))
    assert result.summary["low"] > chance
    assert list((tmp_path / "evaluation" / "figures").iterdir())


_RUN = """
import sys
from pathlib import Path
from microtome.config import CVConfig
from microtome.tasks.mil.cross_validate import cross_validate
cross_validate(CVConfig.model_validate_json(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_and_comes_to_the_same(planted, tmp_path):
    settings = {"epochs": 20}
    whole = cross_validate(config_of(planted, tmp_path / "whole", **settings))
    config = config_of(planted, tmp_path / "killed", **settings).model_dump_json()
    kills = 0
    for pause in (0.0, 0.4, 1.0):
        process = subprocess.Popen([sys.executable, "-c", _RUN, config], env={**os.environ, "OMP_NUM_THREADS": "1"})
        jobs = tmp_path / "killed" / "jobs"
        until = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < until and not (jobs.exists() and any(jobs.rglob("*"))):
            time.sleep(0.05)
        time.sleep(pause)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills
    again = cross_validate(config_of(planted, tmp_path / "killed", **settings))
    pd.testing.assert_frame_equal(again.predictions.table, whole.predictions.table, atol=1e-6, rtol=1e-6)
    pd.testing.assert_frame_equal(again.selection, whole.selection)
    assert not list((tmp_path / "killed").glob(".*.tmp"))


def test_a_finished_run_trains_nothing_again(planted, tmp_path, monkeypatch):
    first = cross_validate(config_of(planted, tmp_path))
    monkeypatch.setattr("microtome.tasks.mil.train_jobs._train", lambda *_: pytest.fail("trained again"))
    again = cross_validate(config_of(planted, tmp_path))
    pd.testing.assert_frame_equal(first.predictions.table, again.predictions.table)
    assert first.summary == again.summary
