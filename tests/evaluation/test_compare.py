import json
import math

import numpy as np
import pandas as pd
import pytest

from microtome.cohort.predictions import concat_predictions, predictions_table
from microtome.errors import ConfigError, EvaluationError
from microtome.evaluation.compare import bootstrap_p_value, compare_predictions
from microtome.evaluation.evaluate import evaluate
from microtome.evaluation.metrics import default_metric
from microtome.evaluation.significance import delong_test, holm
from tests.evaluation.tables import (
    BINARY,
    REGRESSION,
    TARGETS,
    labels_of,
    outcomes_of,
    predictions_in_folds,
)


def models(target, n=90, slides_per_patient=1):
    """A blind and two informed models' predictions of the same rows, and the labels."""
    values, weak = outcomes_of(target, n, signal=0.0)
    labels = labels_of(target, values, slides_per_patient=slides_per_patient)
    strong = outcomes_of(target, n, signal=3.0)[1]
    return {"blind": weak, "good": strong, "twin": {c: v.copy() for c, v in strong.items()}}, labels


@pytest.mark.parametrize("target", [t for t in TARGETS if t.type != "survival"], ids=lambda t: t.type)
def test_a_better_model_is_better_and_a_twin_is_not(target) -> None:
    columns, labels = models(target)
    found = compare_predictions(
        {n: predictions_in_folds(labels, c, seed=3) for n, c in columns.items()}, labels, n_boot=400
    )
    table = found.table
    assert table["metric"].eq(default_metric(target)).all()
    pairs = {(row["a"], row["b"]): row for row in table.to_dict("records")}
    better = pairs["blind", "good"]
    assert better["difference"] > 0
    assert better["low"] > 0
    assert better["p_value"] < 0.01
    assert better["difference"] == pytest.approx(better["estimate_b"] - better["estimate_a"])
    twin = pairs["good", "twin"]
    assert (twin["difference"], twin["low"], twin["high"], twin["p_value"]) == (0, 0, 0, 1)
    assert table["p_holm"].tolist() == pytest.approx(holm(table["p_value"].tolist()))


def test_survival_models_are_compared_on_the_same_patients() -> None:
    values, columns = outcomes_of(next(t for t in TARGETS if t.type == "survival"), 120, signal=2.0)
    labels = labels_of(next(t for t in TARGETS if t.type == "survival"), values)
    blind = {"risk": np.random.default_rng(3).normal(size=120)}
    named = {"blind": predictions_table(labels, blind), "good": predictions_table(labels, columns)}
    row = compare_predictions(named, labels, n_boot=300).table.iloc[0]
    assert row["metric"] == "cindex_score"
    assert row["low"] > 0
    assert math.isnan(row["delong_p"])


@pytest.mark.parametrize("slides_per_patient", [1, 3])
def test_delong_and_bootstrap_agree(slides_per_patient) -> None:
    columns, labels = models(BINARY, 90, slides_per_patient)
    rng = np.random.default_rng(0)
    other = {"p_MSI": np.clip(columns["good"]["p_MSI"] + 0.25 * rng.normal(size=90), 0, 1)}
    other["p_MSS"] = 1 - other["p_MSI"]
    named = {"good": predictions_table(labels, columns["good"]), "noisy": predictions_table(labels, other)}
    found = compare_predictions(named, labels, n_boot=4000).table.iloc[0]
    clusters = np.array(labels.patient_ids) if slides_per_patient > 1 else None
    positive = labels.values[:, 0] == 1
    test = delong_test(positive, columns["good"]["p_MSI"], other["p_MSI"], clusters=clusters)
    assert found["delong_p"] == pytest.approx(test.p_value)
    assert found["difference"] == pytest.approx(test.difference)
    assert (found["high"] - found["low"]) == pytest.approx(test.high - test.low, rel=0.2)
    assert found["p_value"] == pytest.approx(test.p_value, abs=0.05)


def test_only_common_units_count_and_folds_may_differ() -> None:
    columns, labels = models(BINARY, 60)
    first = np.arange(50)
    part = predictions_in_folds(labels.take(first), {c: v[:50] for c, v in columns["good"].items()}, folds=2)
    whole = predictions_in_folds(labels, columns["blind"], folds=5)
    found = compare_predictions({"part": part, "whole": whole}, labels, n_boot=20)
    assert found.table["n"].tolist() == [50]
    assert found.unpaired == {f"s{i:03d}": "not predicted by part" for i in range(50, 60)}
    alone = evaluate(predictions_table(labels.take(first), {c: v[:50] for c, v in columns["blind"].items()}),
                     labels, n_boot=0)  # fmt: skip
    assert found.table["estimate_b"].iloc[0] == pytest.approx(alone["auroc"]["estimate"])
    rest = predictions_table(labels.take(np.arange(50, 60)), {c: v[50:] for c, v in columns["blind"].items()})
    with pytest.raises(EvaluationError, match="no unit in common"):
        compare_predictions({"part": part, "rest": rest}, labels)


def test_repeats_are_compared_without_delong() -> None:
    columns, labels = models(BINARY, 60)
    twice = predictions_in_folds(labels, columns["good"], repeats=2)
    once = predictions_table(labels, columns["blind"])
    row = compare_predictions({"once": once, "twice": twice}, labels, n_boot=50).table.iloc[0]
    assert math.isnan(row["delong_p"])
    assert math.isfinite(row["p_value"])


def test_a_reference_and_several_metrics(tmp_path) -> None:
    columns, labels = models(REGRESSION)
    named = {n: predictions_table(labels, c) for n, c in columns.items()}
    found = compare_predictions(
        named, labels, metrics=["r2_score", "mean_absolute_error"], reference="blind", n_boot=100, seed=4
    )
    assert found.table[["a", "b"]].drop_duplicates().to_numpy().tolist() == [["blind", "good"], ["blind", "twin"]]
    errors = found.table[found.table["metric"] == "mean_absolute_error"]
    assert (errors["difference"] < 0).all()
    again = compare_predictions(
        named, labels, metrics=["r2_score", "mean_absolute_error"], reference="blind", n_boot=100, seed=4
    )
    pd.testing.assert_frame_equal(found.table, again.table)
    found.write(tmp_path / "out")
    assert len(pd.read_csv(tmp_path / "out" / "comparison.csv")) == 4
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["settings"]["reference"] == "blind"


def test_p_values_of_resamples() -> None:
    assert bootstrap_p_value(np.full(99, 0.1)) == pytest.approx(0.02)
    assert bootstrap_p_value(np.array([-0.1, 0.1] * 50)) == 1.0
    assert bootstrap_p_value(np.zeros(50)) == 1.0
    assert math.isnan(bootstrap_p_value(np.full(3, math.nan)))


def test_the_bootstrap_test_keeps_its_level() -> None:
    rng, hits = np.random.default_rng(0), 0
    values = (np.arange(60) % 2)[:, None].astype(float)
    labels = labels_of(BINARY, values)
    for _ in range(24):
        shared = values[:, 0] + rng.normal(size=60)
        pair = {}
        for name in ("a", "b"):
            p = 1 / (1 + np.exp(-shared - rng.normal(size=60)))
            pair[name] = predictions_table(labels, {"p_MSS": 1 - p, "p_MSI": p})
        hits += compare_predictions(pair, labels, n_boot=200).table["p_value"].iloc[0] < 0.05
    assert hits <= 5


def test_what_cannot_be_compared_is_refused() -> None:
    columns, labels = models(BINARY, 20)
    one = predictions_table(labels, columns["good"])
    with pytest.raises(EvaluationError, match="two models"):
        compare_predictions({"a": one}, labels)
    values, others = outcomes_of(REGRESSION, 20)
    with pytest.raises(EvaluationError, match="one target"):
        compare_predictions({"a": one, "b": predictions_table(labels_of(REGRESSION, values), others)}, labels)
    with pytest.raises(ConfigError, match="reference"):
        compare_predictions({"a": one, "b": one}, labels, reference="c")
    with pytest.raises(ConfigError, match="n_boot"):
        compare_predictions({"a": one, "b": one}, labels, n_boot=0)
    with pytest.raises(EvaluationError):
        concat_predictions([])
