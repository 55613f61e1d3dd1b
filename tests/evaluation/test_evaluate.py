import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from microtome.cohort.predictions import concat_predictions, predictions_of, predictions_table
from microtome.cohort.table import Cohort, CohortSlide
from microtome.errors import CohortError, ConfigError, EvaluationError
from microtome.evaluation.evaluate import evaluate
from microtome.evaluation.metrics import default_metric, list_metrics, score
from microtome.evaluation.rows import match_rows
from tests.evaluation.tables import (
    BINARY,
    MULTICLASS,
    ORDINAL,
    REGRESSION,
    SURVIVAL,
    TARGETS,
    labels_of,
    outcomes_of,
    predictions_in_folds,
)


def cohort_of(labels_by_slide: dict[str, str | None], patients: dict[str, str] | None = None) -> Cohort:
    patients = patients or {}
    return Cohort(
        tuple(CohortSlide(s, patients.get(s, s), labels={"msi": v}) for s, v in labels_by_slide.items()), ("msi",)
    )


def simple(ids, p, *, patients=None, in_training=None, fold=0):
    p = np.array(p, float)
    columns = {"p_MSS": 1 - p, "p_MSI": p, "fold": np.full(len(p), fold)}
    return predictions_of(BINARY, ids, patients or ids, columns, in_training=in_training)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.type)
def test_every_type_from_predictions_to_files(target, tmp_path) -> None:
    values, columns = outcomes_of(target, 80, signal=2.0)
    labels = labels_of(target, values, slides_per_patient=2 if target.type != "survival" else 1)
    predictions = predictions_in_folds(labels, columns, repeats=2)
    found = evaluate(predictions, labels, n_boot=100)
    assert set(list_metrics(target)) <= set(found.table["metric"])
    assert (found.table["low"] <= found.table["high"]).all()
    # with the same predictions in every repeat the mean over repeats is the metric of all rows
    for name in list_metrics(target):
        row = found[name]
        assert row["estimate"] == pytest.approx(score(name, target, values, columns), rel=1e-9), name
        assert row["n"] == 80
        assert row["n_patients"] == len(set(labels.patient_ids))
        parts = found.folds[found.folds["metric"] == name]["estimate"]
        assert len(parts) == 8
        assert row["fold_mean"] == pytest.approx(parts.mean())
        assert row["fold_sd"] == pytest.approx(np.std(parts.dropna()))
    assert len(found.rows) == 160
    assert not found.excluded
    paths = found.write(tmp_path / "evaluation")
    assert sorted(p.name for p in (tmp_path / "evaluation").iterdir()) == sorted(p.name for p in paths)
    about = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert about["metrics"][0]["metric"] == default_metric(target)
    assert about["target"]["name"] == target.name
    again = pd.read_csv(tmp_path / "evaluation" / "metrics.csv")
    np.testing.assert_allclose(again["estimate"], found.table["estimate"])
    assert any(default_metric(target) in line for line in found.lines())


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.type)
def test_order_of_rows_and_of_the_cohort_changes_nothing(target) -> None:
    values, columns = outcomes_of(target, 40)
    labels = labels_of(target, values)
    predictions = predictions_in_folds(labels, columns, folds=3)
    rng = np.random.default_rng(1)
    shuffled = replace(predictions, table=predictions.table.iloc[rng.permutation(40)])
    a, b = evaluate(predictions, labels, n_boot=30), evaluate(shuffled, labels.take(rng.permutation(40)), n_boot=30)
    pd.testing.assert_frame_equal(a.table, b.table, check_exact=True)
    pd.testing.assert_frame_equal(a.folds, b.folds, check_exact=True)
    pd.testing.assert_frame_equal(a.rows, b.rows, check_exact=True)


def test_seed_decides_and_intervals_hold_the_estimate() -> None:
    values, columns = outcomes_of(BINARY, 100)
    labels = labels_of(BINARY, values)
    predictions = predictions_table(labels, columns)
    a, b, c = (evaluate(predictions, labels, n_boot=200, seed=s).table for s in (0, 0, 1))
    pd.testing.assert_frame_equal(a, b)
    assert (a["low"] != c["low"]).any()
    assert ((a["low"] <= a["estimate"]) & (a["estimate"] <= a["high"])).all()
    basic = evaluate(predictions, labels, n_boot=200, interval="basic").table
    np.testing.assert_allclose(basic["low"], 2 * a["estimate"] - a["high"])
    none = evaluate(predictions, labels, n_boot=0)
    assert none.table["low"].isna().all()
    assert "roc_band" not in none.curves


def test_repeats_are_pooled_each_and_then_averaged() -> None:
    values, columns = outcomes_of(BINARY, 60)
    labels = labels_of(BINARY, values)
    other = outcomes_of(BINARY, 60, seed=9)[1]
    predictions = concat_predictions([predictions_table(labels, c, repeat=r) for r, c in enumerate((columns, other))])
    found = evaluate(predictions, labels, metrics=["auroc"], n_boot=0)["auroc"]["estimate"]
    parts = [roc_auc_score(values[:, 0], c["p_MSI"]) for c in (columns, other)]
    assert found == pytest.approx(np.mean(parts))
    both = roc_auc_score(np.tile(values[:, 0], 2), np.concatenate([columns["p_MSI"], other["p_MSI"]]))
    assert found != pytest.approx(both, abs=1e-6)


def test_training_patients_do_not_count_unless_asked() -> None:
    ids = [f"s{i}" for i in range(8)]
    cohort = cohort_of({s: "MSI" if i % 2 else "MSS" for i, s in enumerate(ids)})
    predictions = simple(ids, np.linspace(0, 1, 8), in_training=[True, True, *[False] * 6])
    found = evaluate(predictions, cohort, n_boot=20)
    assert dict(found.excluded) == dict.fromkeys(("s0", "s1"), "the patient was in training")
    assert found["auroc"]["n"] == 6
    assert evaluate(predictions, cohort, n_boot=20, include_training=True)["auroc"]["n"] == 8
    assert any("Excluded: 2 the patient was in training" in line for line in found.lines())
    everyone = simple(ids, np.linspace(0, 1, 8), in_training=[True] * 8)
    with pytest.raises(EvaluationError, match="8 the patient was in training"):
        evaluate(everyone, cohort)


def test_what_lacks_a_label_or_a_prediction_is_counted() -> None:
    cohort = cohort_of({"a": "MSS", "b": "MSI", "c": None, "d": "MSI", "e": "MSS", "f": None})
    predictions = simple(["a", "b", "c", "d", "stranger"], [0.1, 0.9, 0.5, 0.7, 0.2])
    found = evaluate(predictions, cohort, n_boot=0)
    assert set(found.excluded) == {"c", "e", "f", "stranger"}
    assert found.excluded["e"] == "no prediction"
    assert found.excluded["stranger"] == "no label"
    assert "label" in found.excluded["c"] or "missing" in found.excluded["c"]
    assert found.excluded["f"] == found.excluded["c"]
    assert found["auroc"]["n"] == 3
    with pytest.raises(EvaluationError, match="No prediction of 'msi' counts"):
        evaluate(simple(["x", "y"], [0.1, 0.2]), cohort)


def test_slides_are_pooled_to_patients_only_if_asked() -> None:
    patients = {"a1": "a", "a2": "a", "b1": "b", "c1": "c", "c2": "c"}
    cohort = cohort_of({"a1": "MSS", "a2": "MSS", "b1": "MSI", "c1": "MSI", "c2": "MSI"}, patients)
    predictions = simple(list(patients), [0.2, 0.6, 0.3, 0.1, 0.9], patients=list(patients.values()))
    assert evaluate(predictions, cohort, n_boot=0)["auroc"]["n"] == 5
    mean = evaluate(predictions, cohort, n_boot=0, unit="patient")
    assert mean.rows["p_MSI"].tolist() == pytest.approx([0.4, 0.3, 0.5])
    assert mean.rows["p_MSS"].tolist() == pytest.approx([0.6, 0.7, 0.5])
    assert mean["auroc"]["estimate"] == 0.5
    highest = evaluate(predictions, cohort, n_boot=0, unit="patient", pool="max")
    assert highest.rows["p_MSI"].tolist() == [0.6, 0.3, 0.9]
    assert (highest.rows["p_MSI"] + highest.rows["p_MSS"]).tolist() == pytest.approx([1.0] * 3)


def test_pooled_probabilities_of_classes_sum_to_one_and_grades_are_pooled() -> None:
    for target in (MULTICLASS, ORDINAL):
        values, columns = outcomes_of(target, 24)
        values = np.repeat(values[::2], 2, axis=0)
        slides = tuple(
            CohortSlide(f"s{i}", f"p{i // 2}", labels={target.columns[0]: target.classes[int(values[i, 0])]})
            for i in range(24)
        )
        cohort = Cohort(slides, target.columns)
        predictions = predictions_of(target, [s.slide_id for s in slides], [s.patient_id for s in slides], columns)
        for pool in ("mean", "max"):
            rows = match_rows(predictions, cohort, unit="patient", pool=pool)
            assert len(rows) == 12
            table = rows.table.set_index("id")
            if target is MULTICLASS:
                np.testing.assert_allclose(table[list(rows.columns)].sum(axis=1), 1.0)
            else:
                own = getattr(np, pool)(columns["grade"].reshape(12, 2), axis=1)
                np.testing.assert_allclose(table["grade"].loc[[f"p{i}" for i in range(12)]], own)


def test_folds_with_one_class_say_so_and_do_not_spoil_the_rest() -> None:
    values, columns = outcomes_of(BINARY, 24)
    labels = labels_of(BINARY, values)
    fold_of = np.where(np.arange(24) < 16, np.arange(24) % 2, 2)
    parts = [
        predictions_table(labels.take(rows), {c: v[rows] for c, v in columns.items()}, fold=k)
        for k, rows in enumerate(np.flatnonzero(fold_of == k) for k in range(3))
    ]
    found = evaluate(concat_predictions(parts), labels, n_boot=50)
    folds = found.folds[found.folds["metric"] == "roc_auc_score"].set_index("fold")
    assert folds["estimate"].isna().tolist() == [True, True, False]
    assert folds.loc[0, "reason"] == "one class only: 'MSS'"
    assert folds.loc[2, "reason"] == ""
    assert found["auroc"]["n_folds"] == 1
    assert found["auroc"]["fold_mean"] == pytest.approx(folds.loc[2, "estimate"])
    assert math.isfinite(found["auroc"]["estimate"])


def test_means_over_fewer_classes_say_so() -> None:
    values, columns = outcomes_of(ORDINAL, 40)
    keep = values[:, 0] < 3
    labels = labels_of(ORDINAL, values[keep])
    found = evaluate(predictions_table(labels, {c: v[keep] for c, v in columns.items()}), labels, n_boot=0)
    assert "mean over 2 of 3 thresholds" in found["mean_roc_auc_score"]["reason"]
    assert "one class only" in found["roc_auc_score:>=high"]["reason"]


def test_planted_signal_is_found_and_none_is_within_its_interval_of_chance() -> None:
    values, columns = outcomes_of(BINARY, 300, signal=6.0)
    labels = labels_of(BINARY, values, slides_per_patient=3)
    assert evaluate(predictions_in_folds(labels, columns), labels, n_boot=100)["auroc"]["estimate"] > 0.95
    around_chance = 0
    for seed in range(12):
        columns = outcomes_of(BINARY, 150, seed=seed, signal=0.0)[1]
        labels = labels_of(BINARY, values[:150], slides_per_patient=3)
        row = evaluate(predictions_in_folds(labels, columns), labels, metrics=["auroc"], n_boot=200)["auroc"]
        around_chance += row["low"] < 0.5 < row["high"]
    assert around_chance >= 10


def test_intervals_widen_when_slides_repeat_their_patient() -> None:
    values, columns = outcomes_of(BINARY, 60)
    once = labels_of(BINARY, values)
    again = labels_of(BINARY, np.repeat(values, 4, axis=0), slides_per_patient=4)
    fourfold = {c: np.repeat(v, 4) for c, v in columns.items()}
    a = evaluate(predictions_table(once, columns), once, n_boot=300)["auroc"]
    b = evaluate(predictions_table(again, fourfold), again, n_boot=300)["auroc"]
    assert b[["estimate", "low", "high"]].tolist() == pytest.approx(a[["estimate", "low", "high"]].tolist())


def test_survival_tables_and_curves_of_survival_columns() -> None:
    values, columns = outcomes_of(SURVIVAL, 90, signal=1.5)
    labels = labels_of(SURVIVAL, values)
    curve = {f"s_{t}": np.exp(-t / 12 * np.exp(columns["risk"])) for t in (2, 5, 8)}
    found = evaluate(predictions_table(labels, {**columns, **curve}), labels, n_boot=50, risk_cuts="tertiles")
    assert {"cindex_score", "uno_cindex_score", "mean_time_auc_score", "integrated_brier_loss"} <= set(
        found.table["metric"]
    )
    assert sum(found.table["metric"].str.startswith("time_auc_score:")) == 3
    assert found["integrated_brier_loss"]["better"] == "low"
    assert found["integrated_brier_loss"]["estimate"] < 0.25
    assert found.settings["logrank_p"] < 0.01
    assert len(found.settings["risk_cuts"]) == 2
    subjects = found.curves["subjects"]
    assert len(subjects) == 90
    assert found.rows["risk_group"].value_counts().to_dict() == subjects["risk_group"].value_counts().to_dict()
    assert "integrated_brier_loss" not in set(
        evaluate(predictions_table(labels, columns), labels, n_boot=0).table["metric"]
    )
    broken = {**columns, **curve, "s_5": np.full(90, 1.5)}
    with pytest.raises(EvaluationError, match="s_5"):
        evaluate(predictions_table(labels, broken), labels)


def test_a_patient_counts_once_in_survival_curves() -> None:
    values, columns = outcomes_of(SURVIVAL, 30)
    labels = labels_of(SURVIVAL, np.repeat(values, 3, axis=0), slides_per_patient=3)
    slides = evaluate(predictions_table(labels, {"risk": np.repeat(columns["risk"], 3)}), labels, n_boot=0)
    alone = labels_of(SURVIVAL, values)
    once = evaluate(predictions_table(alone, columns), alone, n_boot=0)
    assert slides.settings["logrank_p"] == pytest.approx(once.settings["logrank_p"])
    assert slides.curves["risk_groups"]["n"].sum() == 30
    mixed = labels_of(SURVIVAL, values, slides_per_patient=3)
    found = evaluate(predictions_table(mixed, columns), mixed, n_boot=0)
    assert found.settings["logrank_p"] is None
    assert "differ" in found.settings["logrank_reason"]
    assert not found.curves


def test_calibration_of_binary_predictions_is_summed_up() -> None:
    values, columns = outcomes_of(BINARY, 400)
    labels = labels_of(BINARY, values)
    summary = evaluate(predictions_table(labels, columns), labels, n_boot=0).settings["calibration"]
    assert summary["slope"] == pytest.approx(1.0, abs=0.35)
    parts = summary["brier_reliability"] - summary["brier_resolution"] + summary["brier_uncertainty"]
    assert parts + summary["brier_within_bins"] == pytest.approx(score("brier_score_loss", BINARY, values, columns))


def test_regression_and_ranks() -> None:
    values, columns = outcomes_of(REGRESSION, 50)
    labels = labels_of(REGRESSION, values)
    found = evaluate(predictions_table(labels, columns), labels, metrics=["spearman_score"], n_boot=20)
    assert found.table["metric"].tolist() == ["spearman_score"]
    assert found["spearman_score"]["estimate"] == pytest.approx(spearmanr(values[:, 0], columns["value"]).statistic)
    assert not found.curves
    with pytest.raises(EvaluationError, match="was not computed"):
        found["r2_score"]


def test_one_patient_has_no_interval() -> None:
    values, columns = outcomes_of(BINARY, 6)
    labels = labels_of(BINARY, values, slides_per_patient=6)
    row = evaluate(predictions_table(labels, columns), labels)["auroc"]
    assert math.isfinite(row["estimate"])
    assert math.isnan(row["low"])
    assert row["n_patients"] == 1


def test_what_does_not_fit_is_refused() -> None:
    cohort = cohort_of({"a": "MSS", "b": "MSI", "c": "MSI"})
    predictions = simple(["a", "b", "c"], [0.1, 0.9, 0.4])
    with pytest.raises(EvaluationError, match="patient 'z' in the predictions"):
        evaluate(simple(["a", "b", "c"], [0.1, 0.9, 0.4], patients=["a", "z", "c"]), cohort)
    with pytest.raises(EvaluationError, match="no metric 'accuracy' for binary"):
        evaluate(predictions, cohort, metrics=["accuracy"])
    with pytest.raises(ConfigError, match="n_boot"):
        evaluate(predictions, cohort, n_boot=-1)
    with pytest.raises(ConfigError, match="level"):
        evaluate(predictions, cohort, level=95.0)
    with pytest.raises(CohortError):
        evaluate(predictions, cohort_of({"a": "MSI", "b": "MSI", "c": "MSI"}))
    with pytest.raises(EvaluationError, match="not of patients"):
        evaluate(predictions, labels_of(BINARY, np.array([0, 1, 1])), unit="patient")
    with pytest.raises(EvaluationError, match="The labels are of"):
        evaluate(predictions, labels_of(replace(BINARY, name="other"), np.array([0, 1, 1])))
    of_patients = predictions_of(
        BINARY, ["a"], ["a"], {"p_MSS": np.array([0.5]), "p_MSI": np.array([0.5])}, unit="patient"
    )
    with pytest.raises(EvaluationError, match="cannot become"):
        evaluate(of_patients, cohort, unit="slide")
    with pytest.raises(EvaluationError):  # NaN and twice the same slide never become a table
        simple(["a", "b"], [0.1, math.nan])
    with pytest.raises(EvaluationError):
        simple(["a", "a"], [0.1, 0.2])
