import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from microtome.cohort.predictions import concat_predictions, predictions_table
from microtome.cohort.targets import Labels
from microtome.errors import EvaluationError
from microtome.evaluation.curves import (
    GRID,
    MAX_POINTS,
    at_grid,
    calibration_table,
    confusion_table,
    precision_recall_curve,
    roc_curve,
    threshold_curves,
)
from microtome.evaluation.rows import match_rows
from tests.evaluation.tables import (
    BINARY,
    MULTICLASS,
    MULTILABEL,
    ORDINAL,
    labels_of,
    outcomes_of,
    predictions_in_folds,
)


def rows_of(target, n=48, **folds):
    values, columns = outcomes_of(target, n)
    labels = labels_of(target, values, slides_per_patient=2)
    return match_rows(predictions_in_folds(labels, columns, **folds), labels)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=30))
def test_curves_are_scikit_learns(drawn) -> None:
    positive, scores = np.array([a for a, _ in drawn]), np.array([float(b) for _, b in drawn])
    assume(0 < positive.sum() < len(positive))
    found = roc_curve(positive, scores)
    fpr, tpr, thresholds = sk.roc_curve(positive, scores, drop_intermediate=False)
    np.testing.assert_allclose(found.to_numpy(), np.stack([fpr, tpr, thresholds], axis=1))
    assert np.trapezoid(found["tpr"], found["fpr"]) == pytest.approx(sk.roc_auc_score(positive, scores))
    precision, recall, thresholds = sk.precision_recall_curve(positive, scores)
    found = precision_recall_curve(positive, scores)
    np.testing.assert_allclose(found["recall"][1:], recall[-2::-1])
    np.testing.assert_allclose(found["precision"][1:], precision[-2::-1])
    np.testing.assert_allclose(found["threshold"][1:], thresholds[::-1])
    steps = np.diff(found["recall"]) @ found["precision"].to_numpy()[1:]
    assert steps == pytest.approx(sk.average_precision_score(positive, scores))


def test_values_at_the_grid() -> None:
    line = at_grid(np.array([0.0, 0.0, 0.5, 1.0]), np.array([0.0, 0.4, 0.8, 1.0]))
    assert line[0] == 0.4
    assert line[25] == pytest.approx(0.6)
    precision = at_grid(np.array([0.0, 0.5, 1.0]), np.array([1.0, 0.9, 0.3]), falling=True)
    assert precision[[0, 1, 50, 51, 100]].tolist() == [1.0, 0.9, 0.9, 0.3, 0.3]


@pytest.mark.parametrize("target", [BINARY, MULTICLASS, MULTILABEL, ORDINAL], ids=lambda t: t.type)
def test_every_class_has_pooled_fold_and_mean_curves_and_a_band(target) -> None:
    rows = rows_of(target, folds=3, repeats=2)
    found = threshold_curves(rows, n_boot=100, seed=0)
    names = {"binary": target.classes[1:], "ordinal": target.classes[1:]}.get(target.type, target.classes)
    for kind, x, y in (("roc", "fpr", "tpr"), ("pr", "recall", "precision")):
        table = found[kind]
        assert list(table.columns) == ["class", "repeat", "fold", x, y]
        assert tuple(table["class"].unique()) == names
        for _, curve in table.groupby(["class", "repeat", "fold"]):
            assert curve[x].is_monotonic_increasing
            assert curve[y].between(0, 1).all()
        mean, band = found[f"{kind}_mean"], found[f"{kind}_band"]
        for name in names:
            own = table[(table["class"] == name) & (table["repeat"] >= 0)]
            assert len(own.groupby(["repeat", "fold"])) == 6
            part = mean[mean["class"] == name]
            assert part["n_folds"].eq(6).all()
            np.testing.assert_array_equal(part[x], GRID)
            first = own[(own["repeat"] == 0) & (own["fold"] == 0)]
            assert part[y].min() >= 0
            assert len(first)
        assert (band["low"] <= band["high"]).all()
    # the mean of the folds' areas is the area under their vertical average
    roc = found["roc"]
    own = roc[(roc["class"] == names[0]) & (roc["repeat"] >= 0)]
    areas = [
        np.trapezoid(at_grid(c["fpr"].to_numpy(), c["tpr"].to_numpy()), GRID)
        for _, c in own.groupby(["repeat", "fold"])
    ]
    mean = found["roc_mean"][found["roc_mean"]["class"] == names[0]]
    assert np.trapezoid(mean["tpr"], GRID) == pytest.approx(np.mean(areas))


def test_bands_hold_the_curve_and_narrow_with_patients() -> None:
    widths = []
    for n in (40, 400):
        rows = rows_of(BINARY, n, folds=1)
        found = threshold_curves(rows, n_boot=200, seed=0)
        pooled, band = found["roc"][found["roc"]["repeat"] < 0], found["roc_band"]
        line = at_grid(pooled["fpr"].to_numpy(), pooled["tpr"].to_numpy())
        assert ((band["low"] <= line + 1e-9) & (line <= band["high"] + 1e-9)).mean() > 0.95
        widths.append(float((band["high"] - band["low"]).iloc[5:20].mean()))
    assert 0.1 < widths[1] < 0.7 * widths[0]


def test_confusion_and_calibration_count_every_row() -> None:
    rows = rows_of(MULTICLASS)
    outcomes = rows.outcomes()
    wide = confusion_table(rows).pivot_table(index="label", columns="prediction", values="n")
    np.testing.assert_array_equal(wide.to_numpy(), sk.confusion_matrix(outcomes.truth(), outcomes.called()))
    table = calibration_table(rows)
    assert table.groupby("class")["n"].sum().tolist() == [48, 48, 48]
    assert calibration_table(rows_of(MULTILABEL)).groupby("class")["n"].sum().to_dict() == {"tp53": 41, "kras": 48}


def test_folds_with_one_class_have_no_curve() -> None:
    values, columns = outcomes_of(BINARY, 8)
    labels = labels_of(BINARY, values)
    even = np.arange(8) % 2 == 0
    parts = [
        predictions_table(labels.take(np.flatnonzero(m)), {c: v[m] for c, v in columns.items()}, fold=k)
        for k, m in enumerate((even, ~even))
    ]
    found = threshold_curves(match_rows(concat_predictions(parts), labels), n_boot=0, seed=0)
    assert found["roc"]["repeat"].unique().tolist() == [-1]
    assert found["pr"][["repeat", "fold"]].drop_duplicates().to_numpy().tolist() == [[-1, -1], [0, 1]]
    assert found["roc_mean"].empty
    assert "roc_band" not in found


def test_one_class_is_refused() -> None:
    with pytest.raises(EvaluationError, match="both classes"):
        roc_curve(np.array([True, True]), np.array([0.1, 0.2]))
    with pytest.raises(EvaluationError, match="both classes"):
        precision_recall_curve(np.array([False]), np.array([0.1]))


def test_long_curves_are_thinned_and_keep_their_area() -> None:
    rng = np.random.default_rng(0)
    values = (np.arange(6000) % 2)[:, None].astype(float)
    p = 1 / (1 + np.exp(-values[:, 0] - rng.normal(size=6000)))
    ids = tuple(f"s{i}" for i in range(6000))
    labels = Labels(BINARY, ids, ids, tuple((i,) for i in ids), values)
    rows = match_rows(predictions_table(labels, {"p_MSS": 1 - p, "p_MSI": p}), labels)
    curve = threshold_curves(rows, n_boot=0, seed=0)["roc"]
    pooled = curve[curve["repeat"] < 0]
    assert len(pooled) == MAX_POINTS
    assert pooled[["fpr", "tpr"]].iloc[[0, -1]].to_numpy().tolist() == [[0, 0], [1, 1]]
    assert np.trapezoid(pooled["tpr"], pooled["fpr"]) == pytest.approx(sk.roc_auc_score(values[:, 0], p), abs=1e-3)
