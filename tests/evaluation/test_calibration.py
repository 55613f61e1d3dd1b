import json
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from microtome.errors import ConfigError, EvaluationError
from microtome.evaluation.calibration import Calibration, fit_calibration, fit_cut_points
from microtome.evaluation.reliability import expected_calibration_error


def planted(n: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and logits that are three times too bold and shifted."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=n)
    return (rng.random(n) < expit(z)).astype(float), 3 * z + 2


@pytest.mark.parametrize("kind", ["affine", "temperature", "isotonic"])
def test_calibration_repairs_held_out_rows_and_keeps_their_order(kind) -> None:
    values, logits = planted()
    fitted = fit_calibration(kind, values, logits)
    new_values, new_logits = planted(seed=1)
    before, after = expit(new_logits), fitted.apply(new_logits)
    assert log_loss(new_values, after) < log_loss(new_values, before) - 0.1
    assert roc_auc_score(new_values, after) == pytest.approx(roc_auc_score(new_values, before), abs=5e-3)
    order = np.argsort(new_logits)
    assert (np.diff(after[order]) >= 0).all()
    if kind != "temperature":  # which has no shift
        assert expected_calibration_error(new_values == 1, after) < 0.04
    again = Calibration.from_dict(json.loads(json.dumps(fitted.as_dict())))
    assert again == fitted
    assert fitted.apply(new_logits[:, None]).shape == (4000, 1)


def test_affine_is_platts() -> None:
    values, logits = planted(200)
    n_one, n_zero = values.sum(), 200 - values.sum()
    drawn = np.where(values == 1, (n_one + 1) / (n_one + 2), 1 / (n_zero + 2))
    # shares of a class as weights of two rows
    weights = np.concatenate([drawn, 1 - drawn])
    peer = LogisticRegression(C=np.inf, tol=1e-12, max_iter=5000)
    peer.fit(np.tile(logits, 2)[:, None], np.repeat([1, 0], 200), sample_weight=weights)
    fitted = fit_calibration("affine", values, logits)
    assert (fitted.scale, fitted.shift) == pytest.approx((peer.coef_[0, 0], peer.intercept_[0]), abs=1e-4)


def test_separated_rows_give_a_finite_scale() -> None:
    values, logits = np.array([0.0] * 10 + [1.0] * 10), np.arange(20.0)
    for kind in ("affine", "temperature"):
        fitted = fit_calibration(kind, values, logits - 9.5)
        assert 0 < fitted.scale < 100
        assert fitted.apply(np.array([-9.5]))[0] < 0.1


def test_grades_as_shares_are_calibrated() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=5000)
    share = rng.binomial(3, expit(z)) / 3
    fitted = fit_calibration("affine", share, 2 * z - 1)
    assert (fitted.scale, fitted.shift) == pytest.approx((0.5, 0.5), abs=0.05)


def test_temperature_of_several_classes() -> None:
    rng = np.random.default_rng(0)
    z = 1.5 * rng.normal(size=(6000, 3))
    classes = (rng.random((6000, 1)) > softmax(z, axis=1).cumsum(axis=1)).sum(axis=1).astype(float)
    fitted = fit_calibration("temperature", classes, 4 * z)
    assert fitted.scale == pytest.approx(0.25, rel=0.05)
    p = fitted.apply(4 * z)
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    assert log_loss(classes, p) < log_loss(classes, softmax(4 * z, axis=1))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-4, 4)), min_size=2, max_size=30))
def test_isotonic_is_scikit_learns(rows) -> None:
    values, logits = (np.array(part, float) for part in zip(*rows, strict=True))
    if len(set(values)) < 2 or np.ptp(logits) == 0:
        with pytest.raises(EvaluationError):
            fit_calibration("isotonic", values, logits)
        return
    fitted = fit_calibration("isotonic", values, logits)
    peer = IsotonicRegression(out_of_bounds="clip").fit(logits, values)
    at = np.linspace(-6, 6, 41)
    np.testing.assert_allclose(fitted.apply(at), peer.predict(at), atol=1e-9)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6)), min_size=3, max_size=20))
def test_cut_points_are_the_best_of_all(rows) -> None:
    grades, scores = np.array([r[0] for r in rows]), np.array([float(r[1]) for r in rows])
    levels = np.unique(scores)
    if set(grades) != {0, 1, 2} or len(levels) < 3:
        with pytest.raises(EvaluationError):
            fit_cut_points(grades, scores, 3)
        return

    def mean_recall(cuts) -> float:
        called = np.searchsorted(cuts, scores, side="right")
        return float(np.mean([(called == k)[grades == k].mean() for k in range(3)]))

    found = fit_cut_points(grades, scores, 3)
    between = (levels[1:] + levels[:-1]) / 2
    assert mean_recall(found) == pytest.approx(max(mean_recall(cuts) for cuts in combinations(between, 2)))
    assert set(found) <= set(between)
    assert found[0] < found[1]


@pytest.mark.parametrize(
    ("kind", "values", "outputs", "match"),
    [
        ("affine", [1.0], [0.5], "two rows"),
        ("affine", [1.0, 0.0], [0.5], "two rows"),
        ("affine", [1.0, 1.0], [0.5, 0.6], "two classes"),
        ("affine", [1.0, float("nan")], [0.5, 0.6], "two classes"),
        ("affine", [0.0, 2.0], [0.5, 0.6], "between 0 and 1"),
        ("affine", [0.0, 1.0], [0.5, 0.5], "nothing to calibrate"),
        ("isotonic", [0.0, 1.0], [0.5, float("inf")], "finite"),
        ("affine", [0.0, 1.0], [[0.5, 1.0], [0.1, 0.2]], "one column"),
        ("temperature", [0.0, 2.0], [[0.5, 1.0], [0.1, 0.2]], "class numbers"),
    ],
)
def test_what_cannot_be_fitted_is_refused(kind, values, outputs, match) -> None:
    with pytest.raises(EvaluationError, match=match):
        fit_calibration(kind, np.array(values), np.array(outputs))


def test_what_cannot_be_applied_is_refused() -> None:
    with pytest.raises(EvaluationError, match="one column"):
        Calibration("affine").apply(np.zeros((2, 2)))
    with pytest.raises(EvaluationError, match="finite"):
        Calibration("affine").apply(np.array([np.nan]))
    with pytest.raises(ConfigError, match="affine, temperature or isotonic"):
        Calibration.from_dict({"kind": "beta"})
    with pytest.raises(ConfigError, match="knots"):
        Calibration.from_dict({"kind": "isotonic"})
