import json

import pandas as pd
import pytest

from microtome.config import BenchmarkConfig, CVConfig
from microtome.errors import ConfigError, RecipeMismatchError
from microtome.tasks.mil.benchmark import list_cells, run_benchmark
from microtome.testing.mil_cohort import TARGETS, MilCohortOptions, write_mil_cohort
from tests.tasks.histossl_data import slide_names, write_clinical, write_features
from tests.tasks.mil.ridge_training import RidgeTraining


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return write_mil_cohort(tmp_path_factory.mktemp("planted"), MilCohortOptions(n_patients=24, n_features=8))


@pytest.fixture
def ridge(monkeypatch):
    training = RidgeTraining()
    monkeypatch.setattr("microtome.tasks.mil.train_jobs.train_jobs", training)
    return training


def config_of(out, **settings):
    usual = {"out": out, "outer": 2, "inner": 2, "epochs": 2, "n_boot": 20, "no_figures": True, "precision": "fp32"}
    return BenchmarkConfig(**{**usual, **settings})


def tasks_of(made):
    return ({"name": "mutated", "cohort": made.table, "target": "mutation"},)


def test_every_task_encoder_and_model_is_a_row(planted, ridge, tmp_path):
    models = ("meanpool", {"name": "wide", "model": "meanpool", "model_options": {"hidden": [16]}})
    encoders = {"planted": planted.features}
    result = run_benchmark(config_of(tmp_path, tasks=tasks_of(planted), encoders=encoders, models=models))
    assert not result.failed
    table = pd.read_csv(tmp_path / "results" / "results.csv")
    assert len(table) == 2
    assert set(table["task"]) == {"mutated"}
    assert table["estimate"].min() > 0.9
    assert table["p_holm"].notna().sum() == 1  # the second beside the first
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "done"
    assert len(result.lines()) >= 3


def test_a_cell_that_cannot_be_done_is_told_and_the_others_are_done(planted, ridge, tmp_path):
    encoders = {"planted": planted.features, "lost": tmp_path / "nowhere"}
    settings = {"tasks": tasks_of(planted), "encoders": encoders, "models": ("meanpool",)}
    result = run_benchmark(config_of(tmp_path / "out", **settings))
    assert [failure.encoder for failure in result.failed] == ["lost"]
    assert result.results is not None
    assert len(result.results.table) == 1
    assert any("lost" in line and line.startswith("failed") for line in result.lines())
    assert json.loads((tmp_path / "out" / "run.json").read_text())["n_done"] == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "nothing to do"),
        ({"tasks": ({"target": "mutation"},), "encoders": {"a": "x"}}, "cohort"),
        ({"tasks": ({"target": "m", "cohort": "c.csv", "colour": 1},), "encoders": {"a": "x"}}, "colour"),
        ({"tasks": ({"target": "m", "cohort": "c.csv"},) * 2, "encoders": {"a": "x"}}, "share"),
        ({"tasks": ({"target": "m", "cohort": "c.csv"},), "encoders": {"a": "x"}, "models": ({"name": "b"},)}, "model"),
        ({"tasks": ({"target": "m", "cohort": "c.csv"},), "encoders": ["a"]}, "folder"),
    ],
)
def test_a_benchmark_described_wrongly_is_refused(tmp_path, settings, said):
    with pytest.raises(ConfigError, match=said):
        list_cells(config_of(tmp_path, **settings))


def test_a_layout_needs_its_folder():
    with pytest.raises(ValueError, match="data"):
        BenchmarkConfig(layout="histossl")


def test_settings_of_the_benchmark_reach_every_cell_and_a_models_own_win(tmp_path):
    tasks = ({"name": "t", "cohort": "c.csv", "target": "x", **TARGETS["ordinal"], "unit": "patient"},)
    models = ("abmil", {"model": "transmil", "epochs": 7})
    cells = list_cells(config_of(tmp_path, tasks=tasks, encoders={"e": "{task}/f"}, models=models, seed=3))
    configs = [cell.config for cell in cells if isinstance(cell.config, CVConfig)]
    assert [config.epochs for config in configs] == [2, 7]
    assert {(str(config.features), config.unit, config.seed) for config in configs} == {("t/f", "patient", 3)}
    assert [config.out for config in configs] == [tmp_path / "t" / "e" / "abmil", tmp_path / "t" / "e" / "transmil"]


def test_a_folder_of_another_verb_is_left_alone(planted, tmp_path):
    (tmp_path / "run.json").write_text('{"kind": "cv"}')
    with pytest.raises(RecipeMismatchError, match="cv"):
        run_benchmark(config_of(tmp_path, tasks=tasks_of(planted), encoders={"planted": planted.features}))


def test_a_download_of_histossl_is_run_as_it_is(ridge, tmp_path):
    write_clinical(tmp_path)
    for cohort in ("LUAD", "LUSC"):
        write_features(tmp_path, f"TCGA_{cohort}", slide_names(cohort))
    settings = {"layout": "histossl", "data": tmp_path, "models": ("meanpool",)}
    result = run_benchmark(config_of(tmp_path / "out", tasks=("tcga_nsclc_cancer_subtype",), **settings))
    assert not result.failed, result.lines()
    assert result.results is not None
    row = result.results.table.iloc[0]
    assert row["task"].startswith("tcga_nsclc")
    assert row["features"] == "iBOTViTBasePANCAN"
    everything = list_cells(config_of(tmp_path / "out", **settings))
    assert {cell.task for cell in everything} >= {row["task"]}
    assert all("brca" not in cell.task for cell in everything)  # nobody has its features
    named = list_cells(config_of(tmp_path / "out", tasks=("tcga_brca_hrd",), **settings))
    assert isinstance(named[0].config, Exception)
