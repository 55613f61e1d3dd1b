import json
import math

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax
from scipy.stats import pearsonr, spearmanr

from microtome.cohort.targets import Target
from microtome.errors import EvaluationError
from microtome.evaluation.concordance import count_pairs
from microtome.evaluation.metrics import (
    Outcomes,
    better_high,
    default_metric,
    list_metrics,
    score,
    weighted_metric,
    why_undefined,
)
from tests.conftest import golden_cases, require_case
from tests.evaluation.tables import (
    BINARY,
    MULTICLASS,
    MULTILABEL,
    ORDINAL,
    REGRESSION,
    SURVIVAL,
    TARGETS,
    outcomes_of,
)

tenths = st.integers(0, 10).map(lambda i: i / 10)  # few values: many ties
binary_rows = st.lists(st.tuples(st.integers(0, 1), tenths), min_size=2, max_size=30)


@settings(deadline=None, max_examples=40)
@given(binary_rows)
def test_binary_metrics_are_scikit_learns(rows) -> None:
    y, p = (np.array(part, float) for part in zip(*rows, strict=True))
    assume(0 < y.sum() < len(y))
    called = p > 0.5
    expected = {
        "roc_auc_score": sk.roc_auc_score(y, p),
        "average_precision_score": sk.average_precision_score(y, p),
        "accuracy_score": sk.accuracy_score(y, called),
        "balanced_accuracy_score": sk.balanced_accuracy_score(y, called),
        "f1_score": sk.f1_score(y, called),
        "sensitivity_score": sk.recall_score(y, called),
        "specificity_score": sk.recall_score(y, called, pos_label=0),
        "brier_score_loss": sk.brier_score_loss(y, p),
        "log_loss": sk.log_loss(y, p),
    }
    columns = {"p_MSS": 1 - p, "p_MSI": p}
    assert set(expected) == set(list_metrics(BINARY))
    for name, value in expected.items():
        assert score(name, BINARY, y[:, None], columns) == pytest.approx(value, rel=1e-9, abs=1e-12), name


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 2), st.tuples(*[st.integers(-3, 3)] * 3)), min_size=3, max_size=30))
def test_multiclass_metrics_are_scikit_learns(rows) -> None:
    y = np.array([r[0] for r in rows])
    p = softmax(np.array([r[1] for r in rows], float), axis=1)
    assume(len(np.unique(y)) > 1)
    called = p.argmax(axis=1)
    aucs = {k: sk.roc_auc_score(y == k, p[:, k]) for k in np.unique(y)}
    expected = {
        "mean_roc_auc_score": np.mean(list(aucs.values())),
        "accuracy_score": sk.accuracy_score(y, called),
        "balanced_accuracy_score": np.mean([(called == k)[y == k].mean() for k in np.unique(y)]),
        "mean_f1_score": sk.f1_score(y, called, average="macro"),
        "log_loss": sk.log_loss(y, p, labels=[0, 1, 2]),
        **{f"roc_auc_score:{'abc'[k]}": value for k, value in aucs.items()},
        **{f"recall_score:{'abc'[k]}": sk.recall_score(y == k, called == k) for k in np.unique(y)},
    }
    if len(np.unique(called)) > 1:
        expected["quadratic_kappa_score"] = sk.cohen_kappa_score(y, called, weights="quadratic", labels=[0, 1, 2])
    columns = {f"p_{name}": p[:, k] for k, name in enumerate("abc")}
    for name, value in expected.items():
        assert score(name, MULTICLASS, y[:, None].astype(float), columns) == pytest.approx(value, abs=1e-9), name


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 1.0, math.nan]), st.sampled_from([0.0, 1.0, math.nan]), tenths, tenths),
        min_size=2,
        max_size=30,
    )
)
def test_missing_labels_are_left_out_class_by_class(rows) -> None:
    table = np.array(rows)
    values, p = table[:, :2], table[:, 2:]
    columns = {"p_tp53": p[:, 0], "p_kras": p[:, 1]}
    defined: dict[str, list[float]] = {"roc_auc_score": [], "average_precision_score": []}
    for j, name in enumerate(MULTILABEL.classes):
        known = ~np.isnan(values[:, j])
        y, q = values[known, j], p[known, j]
        for metric, reference in (("roc_auc_score", sk.roc_auc_score), ("average_precision_score", None)):
            found = score(f"{metric}:{name}", MULTILABEL, values, columns)
            if len(np.unique(y)) < 2 and (reference or not (y == 1).any()):
                assert math.isnan(found)
                continue
            expected = (reference or sk.average_precision_score)(y, q)
            assert found == pytest.approx(expected)
            defined[metric].append(expected)
    for metric, parts in defined.items():
        mean = score(f"mean_{metric}", MULTILABEL, values, columns)
        assert mean == pytest.approx(np.mean(parts)) if parts else math.isnan(mean)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=30))
def test_regression_metrics_are_scikit_learns_and_scipys(rows) -> None:
    y, v = (np.array(part, float) / 4 for part in zip(*rows, strict=True))
    assume(np.ptp(y) > 0 and np.ptp(v) > 0)
    expected = {
        "r2_score": sk.r2_score(y, v),
        "mean_absolute_error": sk.mean_absolute_error(y, v),
        "root_mean_squared_error": sk.root_mean_squared_error(y, v),
        "pearson_score": pearsonr(y, v).statistic,
        "spearman_score": spearmanr(y, v).statistic,
    }
    assert set(expected) == set(list_metrics(REGRESSION))
    for name, value in expected.items():
        assert score(name, REGRESSION, y[:, None], {"value": v}) == pytest.approx(value, abs=1e-9), name


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-4, 8)), min_size=4, max_size=30))
def test_ordinal_metrics_are_means_over_thresholds(rows) -> None:
    y, s = (np.array(part, float) for part in zip(*rows, strict=True))
    assume(len(np.unique(y)) > 1 and np.ptp(s) > 0)
    p = expit(s[:, None] / 2 - np.arange(3))
    columns = {"grade": p.sum(axis=1), **{f"p_ge_{name}": p[:, k] for k, name in enumerate(ORDINAL.classes[1:])}}
    parts = []
    for k, name in enumerate(ORDINAL.classes[1:], start=1):
        found = score(f"roc_auc_score:>={name}", ORDINAL, y[:, None], columns)
        if 0 < (y >= k).sum() < len(y):
            parts.append(sk.roc_auc_score(y >= k, s))  # the same order at every threshold
            assert found == pytest.approx(parts[-1])
        else:
            assert math.isnan(found)
    assert score("mean_roc_auc_score", ORDINAL, y[:, None], columns) == pytest.approx(np.mean(parts))
    assert score("spearman_score", ORDINAL, y[:, None], columns) == pytest.approx(spearmanr(y, s).statistic)
    called = np.floor(columns["grade"] + 0.5)
    for k, name in enumerate(ORDINAL.classes):
        if (y == k).any():
            share = (called == y)[y == k].mean()
            assert score(f"recall_score:{name}", ORDINAL, y[:, None], columns) == pytest.approx(share)
    assert score("accuracy_score", ORDINAL, y[:, None], columns) == pytest.approx((called == y).mean())
    if len(np.unique(called)) > 1:
        kappa = sk.cohen_kappa_score(y, called, weights="quadratic", labels=[0, 1, 2, 3])
        assert score("quadratic_kappa_score", ORDINAL, y[:, None], columns) == pytest.approx(kappa)


@pytest.mark.shared
@pytest.mark.parametrize("case", golden_cases("metrics"), ids=lambda p: p.name)
def test_golden_metrics(case) -> None:
    about = json.loads((require_case(case) / "case.json").read_text())
    data, expected = np.load(case / "data.npz"), about["outputs"]["values"]
    close = {"rel": about["tolerance"]["rtol"], "abs": about["tolerance"]["atol"]}

    def same(name: str, *arguments: object) -> None:
        assert score(*arguments) == pytest.approx(float(expected[name]), nan_ok=True, **close), name  # type: ignore[arg-type]  # unpacked

    y, logit = data["binary_labels"], data["binary_logits"][:, 0]
    same("binary_auc_one_column", "auroc", BINARY, y, {"p_MSI": logit})
    same("binary_accuracy", "accuracy_score", BINARY, y, {"p_MSI": expit(logit)})
    rows = softmax(data["binary_logits_two_columns"], axis=1)
    same("binary_auc_two_columns_rowwise_softmax", "auroc", BINARY, y, {"p_MSI": rows[:, 1]})
    # the reference takes the highest logit of each row off, then divides by the sum of the whole matrix
    whole = np.exp(data["binary_logits_two_columns"] - data["binary_logits_two_columns"].max(axis=1, keepdims=True))
    same("binary_auc_two_columns_reference", "auroc", BINARY, y, {"p_MSI": whole[:, 1] / whole.sum()})
    same("single_class_auc", "auroc", BINARY, np.ones_like(y), {"p_MSI": logit})
    y, logits = data["multiclass_labels"], data["multiclass_logits"]
    names = tuple(f"c{k}" for k in range(logits.shape[1]))
    target, columns = Target("t", "multiclass", ("t",), names), {f"p_{c}": logits[:, k] for k, c in enumerate(names)}
    same("multiclass_mean_ovr_auc", "auroc", target, y, columns)
    same("multiclass_accuracy", "accuracy_score", target, y, columns)
    for k, value in enumerate(expected["ovr_auc_per_class"]):
        assert score(f"roc_auc_score:c{k}", target, y, columns) == pytest.approx(value, **close)
    keep = y[:, 0] < y.max()
    absent = {name: column[keep] for name, column in columns.items()}
    same("multiclass_mean_ovr_auc_last_class_absent", "auroc", target, y[keep], absent)
    signed, risk = data["survival_signed_time"][:, 0], data["survival_logits"][:, 0]
    values = np.stack([np.abs(signed), signed > 0], axis=1).astype(float)
    same("cindex", "cindex", SURVIVAL, values, {"risk": risk})
    counts = count_pairs(values[:, 0], signed > 0, risk)
    found = {"concordant": counts.concordant, "tied_risk": counts.tied_risk, "comparable": counts.comparable}
    assert found == expected["cindex_counts"]


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.type)
def test_weights_are_repeated_rows(target) -> None:
    values, columns = outcomes_of(target, 60, seed=3)
    rng = np.random.default_rng(0)
    drawn = rng.integers(60, size=(5, 60))
    weights = np.stack([np.bincount(row, minlength=60) for row in drawn]).astype(float)
    names = [*list_metrics(target), *(["time_auc_score:4"] if target.type == "survival" else [])]
    for name in names:
        if name == "mean_time_auc_score":
            continue  # its times are those of all rows
        found = weighted_metric(name, Outcomes(target, values, columns))(weights)
        expected = [score(name, target, values[row], {c: v[row] for c, v in columns.items()}) for row in drawn]
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.type)
def test_order_of_rows_does_not_matter_and_nan_is_nan(target) -> None:
    values, columns = outcomes_of(target, 50, seed=1)
    turned = np.random.default_rng(1).permutation(50)
    for name in list_metrics(target):
        found = score(name, target, values, columns)
        assert math.isfinite(found)
        shuffled = {c: v[turned] for c, v in columns.items()}
        assert score(name, target, values[turned], shuffled) == pytest.approx(found, rel=1e-12)
        broken = {c: np.where(np.arange(50) == 7, np.nan, v) for c, v in columns.items()}
        assert math.isnan(score(name, target, values, broken))
        assert "NaN in" in why_undefined(name, Outcomes(target, values, broken))
        assert math.isnan(score(name, target, values[:0], {c: v[:0] for c, v in columns.items()}))


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.type)
def test_the_default_metric_rewards_signal(target) -> None:
    name = default_metric(target)
    assert better_high(name)
    assert name == list_metrics(target)[0]
    blind, weak, strong = (score(name, target, *outcomes_of(target, 400, signal=s)) for s in (0.0, 0.7, 3.0))
    if target.type != "regression":
        assert abs(blind - 0.5) < 0.1
        assert blind < weak < strong
    assert score(name, target, *outcomes_of(target, 400, signal=1.0)) > (0.0 if target.type == "regression" else 0.6)


@pytest.mark.parametrize(
    ("metric", "target", "values", "columns", "reason"),
    [
        ("auroc", BINARY, [1, 1], {"p_MSS": [0.5, 0.1], "p_MSI": [0.5, 0.9]}, "one class only: 'MSI'"),
        ("auroc", MULTICLASS, [2, 2], {f"p_{c}": [0.3, 0.4] for c in "abc"}, "one class only: 'c'"),
        ("r2_score", REGRESSION, [2, 2], {"value": [0.3, 0.4]}, "constant"),
        ("r2_score", REGRESSION, [2], {"value": [0.3]}, "fewer than two"),
        ("roc_auc_score:>=high", ORDINAL, [0, 1, 2], {f"p_ge_{c}": [0.1, 0.2, 0.3] for c in ("low", "mid", "high")},
         "one class only at '>=high'"),
        ("recall_score:c", MULTICLASS, [0, 1], {f"p_{c}": [0.3, 0.4] for c in "abc"}, "no row of class 'c'"),
        ("roc_auc_score:kras", MULTILABEL, [[0, 1], [1, 1]], {"p_tp53": [0.1, 0.2], "p_kras": [0.1, 0.2]}, "'kras'"),
    ],
)  # fmt: skip
def test_what_is_undefined_says_why(metric, target, values, columns, reason) -> None:
    values = np.array(values, float).reshape(len(values), -1)
    columns = {name: np.array(column, float) for name, column in columns.items()}
    assert math.isnan(score(metric, target, values, columns))
    assert reason in why_undefined(metric, Outcomes(target, values, columns))


@pytest.mark.parametrize(
    ("metric", "target", "change", "match"),
    [
        ("no_such_score", BINARY, {}, "no metric 'no_such_score' for binary"),
        ("cindex", BINARY, {}, "no metric"),
        ("roc_auc_score:MSI", BINARY, {}, "has no parts"),
        ("roc_auc_score:d", MULTICLASS, {}, "no class 'd'"),
        ("roc_auc_score:>=none", ORDINAL, {}, "lowest grade"),
        ("auroc", BINARY, {"p_MSI": None}, "lack the column 'p_MSI'"),
        ("auroc", BINARY, {"p_MSI": np.zeros(3)}, "shape"),
        ("auroc", BINARY, {"p_MSI": np.array(["x"] * 20)}, "must hold numbers"),
        ("accuracy_score", ORDINAL, {"grade": np.full(20, 4.0)}, "between 0 and 3"),
        ("time_auc_score", SURVIVAL, {}, "after a colon"),
        ("time_auc_score:soon", SURVIVAL, {}, "needs a time"),
        ("integrated_brier_loss", SURVIVAL, {}, "survival at two times"),
    ],
)
def test_what_cannot_be_scored_is_refused(metric, target, change, match) -> None:
    values, columns = outcomes_of(target, 20)
    columns = {name: column for name, column in {**columns, **change}.items() if column is not None}
    with pytest.raises(EvaluationError, match=match):
        score(metric, target, values, columns)


def test_labels_that_are_missing_are_refused_where_no_class_can_leave_them_out() -> None:
    values, columns = outcomes_of(BINARY, 20)
    values[3] = np.nan
    with pytest.raises(EvaluationError, match="Labels are NaN"):
        score("auroc", BINARY, values, columns)
