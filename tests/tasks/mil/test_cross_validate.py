import json
import shutil

import numpy as np
import pandas as pd
import pytest

from microtome.cohort.predictions import read_predictions
from microtome.config import CVConfig
from microtome.errors import CohortError, ConfigError, CorruptOutputError, MicrotomeError, RecipeMismatchError
from microtome.models.objectives import build_objective
from microtome.tasks.mil.bags import open_bags
from microtome.tasks.mil.cross_validate import cross_validate
from microtome.testing.mil_cohort import TARGETS, MilCohortOptions, write_mil_cohort
from tests.tasks.mil.ridge_training import RidgeTraining


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    options = MilCohortOptions(n_patients=30, slides_per_patient=2, n_features=8)
    return write_mil_cohort(tmp_path_factory.mktemp("planted"), options)


@pytest.fixture
def ridge(monkeypatch):
    training = RidgeTraining()
    monkeypatch.setattr("microtome.tasks.mil.train_jobs.train_jobs", training)
    return training


def config_of(made, out, **settings):
    usual = {
        "features": made.features, "cohort": made.table, "target": "mutation", "model": "meanpool", "out": out,
        "outer": 3, "inner": 2, "epochs": 3, "n_boot": 50, "no_figures": True, "precision": "fp32", "device": "cpu",
    }  # fmt: skip
    return CVConfig(**{**usual, **settings})


def settings_of(job):
    return job.hyper.learning_rate, job.hyper.weight_decay, job.hyper.n_epochs


def test_no_patient_is_trained_on_and_tested_at_any_level(planted, ridge, tmp_path):
    result = cross_validate(config_of(planted, tmp_path / "cv", repeats=2))
    patients = np.array(result.labels.patient_ids)
    assert len(ridge.jobs) == 2 * 3 * (4 * 2 + 1)
    for job in ridge.jobs:
        assert not set(patients[job.train]) & set(patients[job.test])
    inner, final = (jobs for jobs, _, _ in ridge.calls)  # all inner trainings of all folds at once
    for split, job in zip(result.splits, final, strict=True):
        assert job.train.tolist() == split.train.tolist()
        assert job.test.tolist() == split.test.tolist()
        own = [one for one in inner if one.key.startswith(f"r{split.repeat}-f{split.fold}-")]
        seen = {patient for one in own for patient in patients[np.concatenate([one.train, one.test])]}
        assert len(own) == 4 * 2
        assert not seen & set(patients[split.test])


def test_a_planted_signal_is_found_and_everything_is_written(planted, ridge, tmp_path):
    out = tmp_path / "cv"
    result = cross_validate(config_of(planted, out, no_figures=False))
    assert result.summary["estimate"] > 0.95
    names = {path.name for path in out.iterdir()}
    assert {"run.json", "splits.json", "selection.csv", "curves.csv", "folds.csv", "predictions.parquet"} <= names
    record = json.loads((out / "run.json").read_text())
    assert record["status"] == "done"
    assert record["summary"] == json.loads(json.dumps(dict(result.summary)))
    assert record["features"]["encoder"] == "planted"
    assert any("Nothing is known" in note for note in record["notes"])
    predictions = read_predictions(out / "predictions.parquet")
    assert sorted(predictions.table["id"]) == sorted(planted.slide_ids)
    assert not predictions.table["in_training"].any()
    folds = pd.read_csv(out / "folds.csv")
    assert folds["n_test"].sum() == len(planted.slide_ids)
    assert result.summary["mean"] == pytest.approx(folds[result.summary["metric"]].mean())
    assert result.summary["sd"] == pytest.approx(folds[result.summary["metric"]].std(ddof=0))
    assert len([line for line in result.lines() if line.startswith("fold ")]) == 3
    assert list((out / "evaluation").rglob("*.png"))


def test_the_point_and_epoch_that_were_best_inside_are_trained(planted, monkeypatch, tmp_path):
    class Picky(RidgeTraining):
        """Right only with a learning rate of 1e-4 and after the second epoch; elsewhere upside down."""

        def gain(self, job, epoch):
            return 1.0 if job.hyper.learning_rate == 1e-4 and epoch == 1 else -1.0

    training = Picky()
    monkeypatch.setattr("microtome.tasks.mil.train_jobs.train_jobs", training)
    result = cross_validate(config_of(planted, tmp_path / "ours"))
    final = training.calls[-1][0]
    assert [(job.hyper.learning_rate, job.hyper.weight_decay, job.hyper.n_epochs) for job in final] == [
        (1e-4, 0, 2)
    ] * 3
    assert result.summary["mean"] > 0.9
    assert result.selection.loc[result.selection["selected"], "n_epochs"].tolist() == [2, 2, 2]
    training.calls.clear()
    cross_validate(config_of(planted, tmp_path / "reference", compat="histossl"))
    assert [job.hyper.n_epochs for job in training.calls[-1][0]] == [1] * 3  # one epoch fewer than was best
    assert {job.hyper.risk_batch for job in training.jobs} == {16}  # risk sets of a batch


def test_an_option_of_the_model_can_be_searched(planted, ridge, tmp_path):
    settings = {"grid": ("activation=sigmoid,relu", "learning_rate=1e-3"), "weight_decay": 0}
    result = cross_validate(config_of(planted, tmp_path / "cv", **settings))
    assert {spec.options["activation"] for _, spec, _ in ridge.calls} == {"sigmoid", "relu"}
    assert set(result.folds["activation"]) <= {"sigmoid", "relu"}


def test_without_inner_folds_settings_are_fixed(planted, ridge, tmp_path):
    result = cross_validate(config_of(planted, tmp_path / "cv", inner=0, learning_rate=0.01))
    assert len(ridge.jobs) == 3
    assert {(job.hyper.learning_rate, job.hyper.weight_decay, job.hyper.n_epochs) for job in ridge.jobs} == {
        (0.01, 0.0, 3)
    }
    assert result.selection.empty
    with pytest.raises(ConfigError, match="several values"):
        cross_validate(config_of(planted, tmp_path / "other", inner=0, grid=("learning_rate=0.1,0.2",)))


def test_a_site_is_left_out_at_every_level(planted, ridge, tmp_path):
    result = cross_validate(config_of(planted, tmp_path / "cv", group="site", leave_one_site_out=True))
    sites = pd.read_csv(planted.table).set_index("slide_id")["site"][list(result.labels.ids)].to_numpy()
    assert len(result.splits) == 4
    assert [set(sites[split.test]) for split in result.splits] == [{"A"}, {"B"}, {"C"}, {"D"}]
    for job in ridge.jobs:
        assert not set(sites[job.train]) & set(sites[job.test])


def test_published_folds_are_used_as_they_are(planted, ridge, tmp_path):
    first = cross_validate(config_of(planted, tmp_path / "first", seed=7))
    again = cross_validate(config_of(planted, tmp_path / "again", splits=tmp_path / "first" / "splits.json"))
    for one, other in zip(first.splits, again.splits, strict=True):
        assert one.test.tolist() == other.test.tolist()
        assert [pair.test.tolist() for pair in one.inner] == [pair.test.tolist() for pair in other.inner]


def test_a_fixed_test_set_is_predicted_by_the_average_of_the_inner_models(planted, ridge, tmp_path):
    result = cross_validate(config_of(planted, tmp_path / "cv", holdout="site=D", inner=3))
    (split,) = result.splits
    (jobs,) = (jobs for jobs, _, _ in ridge.calls)  # nothing is trained after the choice
    chosen = result.selection[result.selection["selected"]].iloc[0]
    mine = [job for job in jobs if f"-g{chosen['point']}-" in job.key]
    assert len(mine) == 3
    patients = np.array(result.labels.patient_ids)
    for job in jobs:
        assert not set(patients[job.train]) & set(patients[split.test])
        assert job.test[-len(split.test) :].tolist() == split.test.tolist()
    bags, _ = open_bags(planted.features, result.labels)
    alone = RidgeTraining()(mine, bags, result.labels, None, build_objective(result.labels.target))
    logits = [one.logits[int(chosen["n_epochs"]) - 1, -len(split.test) :] for one in alone]
    expected = 1 / (1 + np.exp(-np.mean(logits, axis=0)[:, 0].astype(float)))
    found = result.predictions.table.set_index("id").loc[[result.labels.ids[i] for i in split.test], "p_1"]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_same_again_gives_the_same_and_other_settings_are_refused(planted, ridge, tmp_path):
    out = tmp_path / "cv"
    first = cross_validate(config_of(planted, out))
    again = cross_validate(config_of(planted, out, n_boot=20))  # what decides no training may change
    pd.testing.assert_frame_equal(first.predictions.table, again.predictions.table)
    with pytest.raises(RecipeMismatchError, match="epochs: 3 → 4"):
        cross_validate(config_of(planted, out, epochs=4))
    assert json.loads((out / "run.json").read_text())["config"]["epochs"] == 3
    (out / "jobs").mkdir(exist_ok=True)
    (out / "jobs" / "left").write_text("from before")
    cross_validate(config_of(planted, out, epochs=4, overwrite=True))
    assert not (out / "jobs" / "left").exists()


def test_other_labels_or_features_are_other_settings(planted, ridge, tmp_path):
    out = tmp_path / "cv"
    cross_validate(config_of(planted, out))
    table = pd.read_csv(planted.table, dtype=str)
    other = {"0": "1", "1": "0"}[table["mutation"].iloc[0]]
    table["mutation"] = [other, other, *table["mutation"].iloc[2:]]  # both slides of the first patient
    table.to_csv(tmp_path / "corrected.csv", index=False)
    with pytest.raises(RecipeMismatchError, match="labels"):
        cross_validate(config_of(planted, out, cohort=tmp_path / "corrected.csv"))


def test_a_folder_of_another_verb_is_never_thrown_away(planted, ridge, tmp_path):
    (tmp_path / "run.json").write_text('{"config": {"slides": ["a.svs"]}}')
    with pytest.raises(RecipeMismatchError, match="another --out"):
        cross_validate(config_of(planted, tmp_path, overwrite=True))
    assert "a.svs" in (tmp_path / "run.json").read_text()


def test_a_damaged_record_is_told(planted, ridge, tmp_path):
    (tmp_path / "run.json").write_text('{"kind": "cv", ')
    with pytest.raises(CorruptOutputError, match="overwrite"):
        cross_validate(config_of(planted, tmp_path))
    assert cross_validate(config_of(planted, tmp_path, overwrite=True)).summary["n_folds"] == 3


def test_an_encoder_that_saw_the_cohort_is_told(ridge, tmp_path):
    options = MilCohortOptions(n_patients=20, n_features=8, encoder="phikon", prefix="TCGA-A1-A")
    cohort = write_mil_cohort(tmp_path, options)
    result = cross_validate(config_of(cohort, tmp_path / "cv"))
    assert any("trained on TCGA" in note and "20 of 20" in note for note in result.notes)
    assert any("trained on TCGA" in line for line in result.lines())
    with pytest.raises(ConfigError, match="phikon"):
        cross_validate(config_of(cohort, tmp_path / "other", encoder="uni"))


def _changed(planted, tmp_path, change):
    """The cohort's table and features with something wrong in them."""
    shutil.copytree(planted.features, tmp_path / "features")
    table = pd.read_csv(planted.table, dtype=str)
    table = change(table, tmp_path / "features")
    table.to_csv(tmp_path / "labels.csv", index=False)
    return {"features": tmp_path / "features", "cohort": tmp_path / "labels.csv"}


def _one_class(table, _):
    return table.assign(mutation="1")


def _few_patients(table, _):
    return table.groupby("mutation").head(2)  # two patients


def _twice(table, _):
    return pd.concat([table, table.iloc[:1]])


def _no_deaths(table, _):
    return table.assign(OS="0")


def _rare_class(table, _):
    return table.assign(mutation=["1", "1"] + ["0"] * (len(table) - 2))


@pytest.mark.parametrize(
    ("change", "settings", "said"),
    [
        (_one_class, {}, "mutation"),
        (_few_patients, {}, "fold"),
        (_twice, {}, "P000-0"),
        (_no_deaths, TARGETS["survival"], "event|censored"),
        (_rare_class, {}, "class|fold"),
        (lambda table, _: table, {"target": "nothing"}, "nothing"),
        (lambda table, _: table, {"target": ""}, "target"),
        (lambda table, _: table, {"model": "meanpol"}, "meanpool"),
        (lambda table, _: table, {"model_options": ("breadth=3",)}, "breadth"),
        (lambda table, _: table, {"grid": ("dropouts=1,2",)}, "dropouts"),
        (lambda table, _: table, {"grid": ("batch_size=0",)}, "batch_size"),
        (lambda table, _: table, {"objective": "cox"}, "cox"),
        (lambda table, _: table, {"group": "hospital"}, "hospital"),
        (lambda table, _: table, {"holdout": "site=Z"}, "site|test"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused_at_once(planted, ridge, tmp_path, change, settings, said):
    given = {**_changed(planted, tmp_path, change), **settings}
    with pytest.raises(MicrotomeError, match=said) as caught:
        cross_validate(config_of(planted, tmp_path / "cv", **given))
    assert isinstance(caught.value, CohortError | ConfigError)
    assert not (tmp_path / "cv").exists()
    assert not ridge.jobs


def test_what_is_left_out_is_counted_with_its_reason(planted, ridge, tmp_path):
    def change(table, features):
        table.loc[0, "mutation"] = ""
        (features / "P005-1.h5").unlink()
        return table

    result = cross_validate(config_of(planted, tmp_path / "cv", **_changed(planted, tmp_path, change)))
    assert set(result.labels.excluded) == {"P000-0", "P005-1"}
    record = json.loads((tmp_path / "cv" / "run.json").read_text())
    assert record["n_excluded"] == 2
    assert "feature" in record["excluded"]["P005-1"]
    assert record["n_units"] == len(planted.slide_ids) - 2


def test_labels_like_1_dot_0_behind_a_byte_order_mark_are_read(planted, ridge, tmp_path):
    table = pd.read_csv(planted.table, dtype=str)
    table["mutation"] += ".0"
    table.to_csv(tmp_path / "labels.csv", index=False, encoding="utf-8-sig")
    result = cross_validate(config_of(planted, tmp_path / "cv", cohort=tmp_path / "labels.csv"))
    assert result.labels.target.classes == ("0", "1")
    assert result.summary["estimate"] > 0.95


def test_all_slides_of_a_patient_can_be_one_bag(planted, ridge, tmp_path):
    result = cross_validate(config_of(planted, tmp_path / "cv", unit="patient"))
    assert len(result.labels) == 30
    assert set(result.predictions.table["id"]) == set(planted.hidden)
