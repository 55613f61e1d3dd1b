import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss

from microtome.errors import ConfigError, EvaluationError
from microtome.evaluation.reliability import (
    brier_decomposition,
    calibration_fit,
    entropy,
    expected_calibration_error,
    fit_line,
    reliability_curve,
    share_interval,
)

rows = st.lists(st.tuples(st.booleans(), st.integers(0, 20).map(lambda i: i / 20)), min_size=1, max_size=40)


@settings(deadline=None, max_examples=50)
@given(rows, st.integers(1, 12), st.sampled_from(["uniform", "quantile"]))
def test_bins_are_scikit_learns(drawn, n_bins, strategy) -> None:
    positive, p = (np.array(part) for part in zip(*drawn, strict=True))
    bins = reliability_curve(positive, p, n_bins=n_bins, strategy=strategy)
    assert bins["n"].sum() == len(p)
    assert (bins["low"] <= bins["observed"] + 1e-12).all()
    assert (bins["observed"] <= bins["high"] + 1e-12).all()
    if len(set(positive)) == 2:
        observed, predicted = calibration_curve(positive, p, n_bins=n_bins, strategy=strategy)
        np.testing.assert_allclose(bins["observed"], observed)
        np.testing.assert_allclose(bins["predicted"], predicted)


@settings(deadline=None, max_examples=50)
@given(rows, st.integers(1, 12))
def test_parts_of_brier_add_up(drawn, n_bins) -> None:
    positive, p = (np.array(part) for part in zip(*drawn, strict=True))
    parts = brier_decomposition(positive, p, n_bins=n_bins)
    assert parts.score == pytest.approx(np.mean((p - positive) ** 2))
    total = parts.reliability - parts.resolution + parts.uncertainty + parts.within_bins
    assert total == pytest.approx(parts.score)
    assert parts.reliability >= 0
    assert parts.resolution <= parts.uncertainty + 1e-12
    if len(set(positive)) == 2:
        assert parts.score == pytest.approx(brier_score_loss(positive, p))
    assert 0 <= expected_calibration_error(positive, p, n_bins=n_bins) <= 1


def test_one_value_per_bin_leaves_nothing_within() -> None:
    positive, p = np.array([True, False, True, True]), np.array([0.25, 0.25, 0.75, 0.75])
    parts = brier_decomposition(positive, p)
    assert parts.within_bins == pytest.approx(0.0)
    # two bins of two: observed 1/2 and 1, prevalence 3/4
    assert (parts.reliability, parts.resolution) == pytest.approx((0.0625, 0.0625))
    assert expected_calibration_error(positive, p) == pytest.approx(0.25)


def test_slope_and_intercept_undo_a_distortion() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=60_000) * 1.5
    positive = rng.random(60_000) < expit(z)
    true = calibration_fit(positive, expit(z))
    assert (true.slope, true.intercept, true.in_the_large) == pytest.approx((1.0, 0.0, 0.0), abs=0.04)
    bold = calibration_fit(positive, expit(2 * z + 1))
    assert (bold.slope, bold.intercept) == pytest.approx((0.5, -0.5), abs=0.04)
    assert bold.in_the_large < -0.4
    few = slice(0, 300)
    peer = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(z[few, None], positive[few])
    scale, shift = fit_line(positive[few].astype(float), z[few])
    assert (scale, shift) == pytest.approx((peer.coef_[0, 0], peer.intercept_[0]), abs=1e-5)


def test_separated_or_constant_predictions_have_no_slope() -> None:
    positive = np.array([False, False, True, True])
    found = calibration_fit(positive, np.array([0.1, 0.2, 0.8, 0.9]))
    assert math.isnan(found.slope)
    assert found.in_the_large == pytest.approx(0.0, abs=1e-6)
    turned = calibration_fit(positive, np.array([0.9, 0.8, 0.2, 0.1]))
    assert math.isnan(turned.slope)
    flat = calibration_fit(positive, np.full(4, 0.3))
    assert math.isnan(flat.slope)
    assert flat.in_the_large == pytest.approx(-logit(0.3))
    assert math.isnan(calibration_fit(np.ones(4, bool), np.full(4, 0.3)).in_the_large)
    assert math.isnan(calibration_fit(positive, np.array([0.0, 0.0, 1.0, 1.0])).slope)


def test_entropy_is_the_log_loss() -> None:
    y, p = np.array([1.0, 0.0, 1.0]), np.array([0.9, 0.2, 0.5])
    assert entropy(y, p) == pytest.approx(log_loss(y, p))
    assert entropy(np.array([1.0]), np.array([0.0])) == math.inf


def test_wilson_covers_at_the_ends() -> None:
    low, high = share_interval(np.array([0.0, 10.0]), np.array([10.0, 10.0]))
    assert low[0] == 0.0
    assert high[1] == 1.0
    assert high[0] == pytest.approx(0.2775, abs=1e-4)  # Newcombe 1998
    with pytest.raises(ConfigError, match="level"):
        share_interval(low, np.ones(2), level=1.0)


@pytest.mark.parametrize("p", [[0.1], [0.1, 1.2], [0.1, -0.1], [0.1, math.nan], []])
def test_what_is_no_probability_is_refused(p) -> None:
    for function in (reliability_curve, expected_calibration_error, brier_decomposition, calibration_fit):
        with pytest.raises(EvaluationError):
            function(np.array([True, False]), np.array(p, float))
    with pytest.raises(ConfigError, match="n_bins"):
        reliability_curve(np.array([True]), np.array([0.5]), n_bins=0)
