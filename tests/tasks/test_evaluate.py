import json

import numpy as np
import pandas as pd
import pytest

from microtome.cohort.predictions import predictions_of
from microtome.cohort.targets import Target
from microtome.config import EvaluateConfig
from microtome.errors import CohortError, ConfigError, CorruptOutputError, EvaluationError
from microtome.tasks.evaluate import evaluate_files
from tests.tasks.evaluation_runs import BINARY, GOOD, POOR, binary_predictions, write_labels


@pytest.fixture
def labels(tmp_path):
    return write_labels(tmp_path)


def judge(tmp_path, labels, predictions, **settings):
    path = tmp_path / "predictions.parquet"
    predictions.write(path)
    return evaluate_files(
        EvaluateConfig(**{"predictions": path, "cohort": labels, "n_boot": 40, "out": tmp_path / "out", **settings})
    )


def test_the_folder_holds_what_was_computed(tmp_path, labels):
    result = judge(tmp_path, labels, binary_predictions(GOOD))
    out = tmp_path / "out"
    assert result.page == out / "evaluation.html"
    assert [path.name for path in result.figures] == [
        "roc.png",
        "precision_recall.png",
        "calibration.png",
        "confusion.png",
    ]
    said = json.loads((out / "evaluation.json").read_text())
    (auroc,) = [row for row in said["metrics"] if row["metric"] == "roc_auc_score"]
    # of 4 × 4 pairs one is the wrong way round: 0.7 without the trait over 0.6 with it
    assert auroc["estimate"] == 15 / 16
    assert (said["n"], said["n_patients"]) == (8, 8)
    assert said["excluded"].keys() == {"s8"}
    record = json.loads((out / "run.json").read_text())
    assert (record["kind"], record["status"]) == ("evaluate", "done")
    assert record["target"] == BINARY.as_dict()
    assert record["predictions"]["model"] == "abmil"
    html = result.page.read_text(encoding="utf-8")
    assert "0.938" in html
    assert html.count("data:image/png;base64,") == 4
    assert "s8" in html


def test_the_same_request_gives_the_same_files(tmp_path, labels):
    def files():
        judge(tmp_path, labels, binary_predictions(GOOD), n_boot=20)
        paths = (path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.name != "run.json")
        return {path.relative_to(tmp_path): path.read_bytes() for path in paths}

    first = files()
    assert len(first) > 8
    assert files() == first


def test_patients_in_training_are_left_out_and_counted_unless_asked_for(tmp_path, labels):
    predictions = binary_predictions(GOOD, in_training=[0, 7, 8])
    result = judge(tmp_path, labels, predictions, no_figures=True)
    assert set(result.evaluation.rows["id"]) == {"s1", "s2", "s3", "s4", "s5", "s6"}
    html = result.page.read_text(encoding="utf-8")
    assert 'data-figure="n_training_patients"' in html
    assert '2</div>\n    <div class="label">patients of the training set' in html  # s7 and s8 are of one patient
    everybody = judge(tmp_path, labels, predictions, no_figures=True, include_training=True)
    assert len(everybody.evaluation.rows) == 8
    assert "2 patients were in training and are counted" in everybody.page.read_text(encoding="utf-8")


def test_slides_become_patients_where_asked_for(tmp_path):
    labels = write_labels(tmp_path, msi=["MSS"] * 4 + ["MSI-H"] * 5)
    result = judge(tmp_path, labels, binary_predictions(GOOD), unit="patient", no_figures=True)
    (row,) = result.evaluation.rows.query("id == 'p7'").to_dict("records")
    assert row["p_MSI-H"] == pytest.approx((0.95 + 0.5) / 2)
    assert result.evaluation.settings["unit"] == "patient"


def test_other_models_are_compared_on_the_same_patients(tmp_path, labels):
    (tmp_path / "b").mkdir()
    other = tmp_path / "b" / "predictions.parquet"
    binary_predictions(POOR[:8]).write(other)
    result = judge(tmp_path, labels, binary_predictions(GOOD), compare=[other], no_figures=True)
    (pair,) = result.comparison.table.to_dict("records")
    assert pair["a"].endswith("predictions")
    assert pair["b"] == "b/predictions"
    assert pair["difference"] == 6 / 16 - 15 / 16  # counted by hand
    table = pd.read_csv(tmp_path / "out" / "comparison.csv")
    assert table["difference"].iloc[0] == -9 / 16
    assert "b/predictions" in result.page.read_text(encoding="utf-8")


def test_a_comparison_of_other_targets_or_with_itself_is_refused(tmp_path, labels):
    other = tmp_path / "other.parquet"
    age = Target("age", "regression", ("age",))
    predictions_of(age, ["s0"], ["p0"], {"value": np.array([1.0])}).write(other)
    with pytest.raises(EvaluationError, match="'other' predicts 'age'"):
        judge(tmp_path, labels, binary_predictions(GOOD), compare=[other])
    with pytest.raises(ConfigError, match="given twice"):
        judge(tmp_path, labels, binary_predictions(GOOD), compare=[tmp_path / "predictions.parquet"])
    binary_predictions(POOR).write(other)
    with pytest.raises(ConfigError, match="unit"):
        judge(tmp_path, labels, binary_predictions(GOOD), compare=[other], unit="patient")


def test_one_class_is_undefined_and_says_so(tmp_path):
    labels = write_labels(tmp_path)
    result = judge(tmp_path, labels, binary_predictions(GOOD[:4]))  # those of the other class have no prediction
    auroc = result.evaluation.table.set_index("metric").loc["roc_auc_score"]
    assert np.isnan(auroc["estimate"])
    html = result.page.read_text(encoding="utf-8")
    assert "one class" in html
    assert "roc.png" not in [path.name for path in result.figures]


def test_nothing_to_judge_is_an_error(tmp_path):
    labels = write_labels(tmp_path, msi=[""] * 9)
    with pytest.raises((EvaluationError, CohortError)):
        judge(tmp_path, labels, binary_predictions(GOOD))
    assert not (tmp_path / "out").exists()


def test_a_cohort_without_the_column_is_refused_by_name(tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("slide_id,patient_id,hrd\ns0,p0,1\n")
    with pytest.raises(CohortError, match="msi"):
        judge(tmp_path, labels, binary_predictions(GOOD))


def test_duplicate_ids_are_refused(tmp_path, labels):
    path = tmp_path / "predictions.csv"
    binary_predictions(GOOD).write(path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1]]) + "\n")
    settings = EvaluateConfig(predictions=path, cohort=labels, target="msi", positive="MSI-H", out=tmp_path / "out")
    with pytest.raises(EvaluationError, match="s0"):
        evaluate_files(settings)


def test_a_table_of_somebody_else_is_judged_when_its_target_is_named(tmp_path, labels):
    path = tmp_path / "theirs.csv"
    binary_predictions(GOOD).write(path)
    settings = {"predictions": path, "cohort": labels, "n_boot": 0, "no_figures": True, "out": tmp_path / "out"}
    result = evaluate_files(EvaluateConfig(**settings, target="msi", positive="MSI-H"))
    assert result.evaluation["roc_auc_score"]["estimate"] == 15 / 16
    with pytest.raises(ConfigError, match="target"):
        evaluate_files(EvaluateConfig(**settings, positive="MSI-H"))


def test_absent_and_truncated_predictions_are_said(tmp_path, labels):
    with pytest.raises(ConfigError, match="lost"):
        evaluate_files(EvaluateConfig(predictions=tmp_path / "lost.parquet", cohort=labels))
    whole = binary_predictions(GOOD).write(tmp_path / "whole.parquet").read_bytes()
    for name, data in (("empty", b""), ("short", whole[: len(whole) // 2]), ("noise", b"PAR1 nothing of the kind")):
        path = tmp_path / f"{name}.parquet"
        path.write_bytes(data)
        with pytest.raises(CorruptOutputError, match=name):
            evaluate_files(EvaluateConfig(predictions=path, cohort=labels))


def test_subgroups_are_judged_by_themselves(tmp_path):
    labels = write_labels(tmp_path, centre=["a", "b"] * 4 + ["a"], side=["l"] * 4 + ["r"] * 5)
    result = judge(tmp_path, labels, binary_predictions(GOOD), subgroups="centre,side", metrics=("roc_auc_score",))
    table = pd.read_csv(tmp_path / "out" / "subgroups.csv")
    assert table[["column", "subgroup"]].to_numpy().tolist() == [
        ["centre", "a"],
        ["centre", "b"],
        ["side", "l"],
        ["side", "r"],
    ]
    assert table["n"].tolist() == [4, 4, 4, 4]
    # a: 0.1 and 0.2 below 0.6 and 0.8; b: 0.3 and 0.7 below 0.9 and 0.95; a side has one class
    assert table["estimate"].tolist()[:2] == [1.0, 1.0]
    assert table["estimate"].isna().tolist()[2:] == [True, True]
    assert "one class" in table["reason"].iloc[2]
    assert list(result.tables) == ["subgroups"]


def test_an_adjunct_is_compared_at_one_half(tmp_path):
    labels = write_labels(tmp_path, dye=["0", "0", "1", "0", "1", "1", "0", "0", "1"])
    result = judge(tmp_path, labels, binary_predictions(GOOD), adjuncts="dye")
    table = result.tables["adjuncts"].set_index("name")
    assert table.loc["model", ["sensitivity", "specificity"]].tolist() == [1.0, 0.75]
    assert table.loc["dye", ["sensitivity", "specificity"]].tolist() == [0.5, 0.75]
    assert (tmp_path / "out" / "adjuncts.csv").is_file()


def test_runs_with_other_seeds_are_repeats(tmp_path, labels):
    other = tmp_path / "other.parquet"
    binary_predictions(POOR).write(other)
    one = judge(tmp_path, labels, binary_predictions(GOOD))
    both = judge(tmp_path, labels, binary_predictions(GOOD), repeats=other, out=tmp_path / "both")
    poor = judge(tmp_path, labels, binary_predictions(POOR), out=tmp_path / "poor")
    estimates = [each.evaluation["roc_auc_score"]["estimate"] for each in (one, poor, both)]
    assert estimates[2] == pytest.approx(np.mean(estimates[:2]))
    assert set(both.evaluation.rows["repeat"]) == {0, 1}
    with pytest.raises(ConfigError, match=r"nowhere\.parquet"):
        judge(tmp_path, labels, binary_predictions(GOOD), repeats=tmp_path / "nowhere.parquet")
