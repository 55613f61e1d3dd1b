import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from microtome.errors import EvaluationError
from microtome.evaluation.significance import (
    auc_interval,
    auc_variance,
    delong_test,
    holm,
    mcnemar_test,
    operating_point,
)


def structural_components(positive, scores):
    """DeLong et al. 1988, equations 3 to 5, pair by pair."""
    psi = (scores[positive][:, None] > scores[~positive]) + 0.5 * (scores[positive][:, None] == scores[~positive])
    return psi.mean(), psi.mean(axis=1), psi.mean(axis=0)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 5)), min_size=4, max_size=30))
def test_delong_is_that_of_structural_components(rows) -> None:
    positive, a, b = (np.array(part) for part in zip(*rows, strict=True))
    a, b, positive = a.astype(float), b.astype(float), positive.astype(bool)
    assume(2 <= positive.sum() <= len(positive) - 2)
    auc_a, case_a, control_a = structural_components(positive, a)
    auc_b, case_b, control_b = structural_components(positive, b)
    expected = np.cov(case_a, case_b) / positive.sum() + np.cov(control_a, control_b) / (~positive).sum()
    found = auc_variance(positive, np.stack([a, b]))
    np.testing.assert_allclose(found.auc, [auc_a, auc_b])
    np.testing.assert_allclose(found.covariance, expected, atol=1e-12)
    assert found.auc[0] == pytest.approx(roc_auc_score(positive, a))
    # each row a patient of its own: the same, but for what cases and controls of one patient share, which is nothing
    alone = auc_variance(positive, np.stack([a, b]), np.arange(len(a)))
    np.testing.assert_allclose(alone.covariance, expected, atol=1e-12)
    test = delong_test(positive, a, b)
    variance = expected[0, 0] + expected[1, 1] - 2 * expected[0, 1]
    if variance > 1e-9:
        assert test.p_value == pytest.approx(2 * norm.sf(abs(auc_b - auc_a) / np.sqrt(variance)))


def test_variance_agrees_with_simulation_also_for_slides_of_patients() -> None:
    rng, aucs, plain, clustered = np.random.default_rng(0), [], [], []
    patients = np.repeat(np.arange(60), 4)
    for _ in range(400):
        positive = np.repeat(np.arange(60) % 2 == 0, 4)
        scores = positive + rng.normal(size=60)[patients] * 1.5 + 0.5 * rng.normal(size=240)
        found = auc_variance(positive, scores[None])
        aucs.append(found.auc[0])
        plain.append(found.covariance[0, 0])
        clustered.append(auc_variance(positive, scores[None], patients).covariance[0, 0])
    truth = np.var(aucs)
    assert np.mean(clustered) == pytest.approx(truth, rel=0.2)
    assert np.mean(plain) < 0.5 * truth  # rows taken as independent claim too much


def test_patients_with_cases_and_controls_share_their_variation() -> None:
    # every patient has a positive and a negative slide: what a patient adds to both cancels
    rng, aucs, clustered = np.random.default_rng(1), [], []
    patients, positive = np.repeat(np.arange(50), 2), np.tile([True, False], 50)
    for _ in range(400):
        scores = positive + 2.0 * rng.normal(size=50)[patients] + rng.normal(size=100)
        found = auc_variance(positive, scores[None], patients)
        aucs.append(found.auc[0])
        clustered.append(found.covariance[0, 0])
    assert np.mean(clustered) == pytest.approx(np.var(aucs), rel=0.25)


def test_the_test_of_equal_models_is_uniform_and_of_different_ones_is_sure() -> None:
    rng, p_values = np.random.default_rng(0), []
    positive = np.arange(120) < 50
    for _ in range(300):
        shared = positive + rng.normal(size=120)
        a, b = shared + rng.normal(size=120), shared + rng.normal(size=120)
        p_values.append(delong_test(positive, a, b).p_value)
    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.05, abs=0.04)
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.06)
    sure = delong_test(positive, rng.normal(size=120), 3.0 * positive + rng.normal(size=120))
    assert sure.p_value < 1e-6
    assert sure.low > 0
    assert sure.difference == pytest.approx(sure.auc_b - sure.auc_a)
    same = delong_test(positive, a, a * 2 + 1)
    assert (same.p_value, same.difference) == (1.0, 0.0)


def test_auc_interval_stays_inside_and_covers() -> None:
    rng, positive, covered = np.random.default_rng(0), np.arange(60) < 30, 0
    truth = float(norm.cdf(2 / np.sqrt(2)))
    for _ in range(200):
        auc, low, high = auc_interval(positive, 2.0 * positive + rng.normal(size=60))
        assert 0 < low <= auc <= high <= 1
        covered += low <= truth <= high
    assert 0.9 <= covered / 200 <= 0.99
    assert auc_interval(positive, positive.astype(float)) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("positive", "scores", "clusters", "match"),
    [
        ([True, True], [0.1, 0.2], None, "both classes"),
        ([True, False, False], [0.1, 0.2, 0.3], None, "1 with positive"),
        ([True, True, False, False], [0.1, 0.2, 0.3, 0.4], [0, 0, 1, 2], "1 with positive"),
        ([True, True, False, False], [0.1, math.nan, 0.3, 0.4], None, "NaN"),
        ([True, True, False, False], [0.1, 0.3, 0.4], None, "4 labels"),
    ],
)
def test_auc_variance_refuses(positive, scores, clusters, match) -> None:
    with pytest.raises(EvaluationError, match=match):
        auc_variance(np.array(positive), np.array([scores]), None if clusters is None else np.array(clusters))


def test_mcnemar_is_a_binomial_test_of_discordant_rows() -> None:
    right_a = np.array([True] * 10 + [False] * 3 + [True] * 20)
    right_b = np.array([False] * 10 + [True] * 3 + [True] * 20)
    found = mcnemar_test(right_a, right_b)
    assert (found.only_a, found.only_b) == (10, 3)
    # two-sided binomial of 3 in 13 at one half: 2 (1 + 13 + 78 + 286) / 2^13
    assert found.p_value == pytest.approx(2 * (1 + 13 + 78 + 286) / 2**13)
    assert mcnemar_test(right_a, right_a).p_value == 1.0
    with pytest.raises(EvaluationError, match="same rows"):
        mcnemar_test(right_a, right_b[:2])


def test_operating_point() -> None:
    positive = np.array([True] * 10 + [False] * 40)
    called = np.array([True] * 8 + [False] * 2 + [True] * 4 + [False] * 36)
    found = operating_point(positive, called)
    assert found.counts == (8, 2, 4, 36)
    assert (found.sensitivity[0], found.specificity[0]) == (0.8, 0.9)
    assert (found.ppv[0], found.npv[0]) == (8 / 12, 36 / 38)
    # Wilson's interval of 8 in 10 (Newcombe 1998's method 3)
    assert found.sensitivity[1:] == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert all(math.isnan(v) for v in operating_point(positive[:10], called[:10]).specificity)
    with pytest.raises(EvaluationError, match="50 truths and 3 calls"):
        operating_point(positive, called[:3])


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_is_monotone_and_between_raw_and_bonferroni(p_values) -> None:
    found = holm(p_values)
    for p, q in zip(p_values, found, strict=True):
        assert p <= q <= min(1.0, len(p_values) * p) + 1e-12
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(found)[order]) >= 0).all()
    assert holm([*p_values, math.nan])[:-1] == found


def test_holm_of_a_textbook_table() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    with pytest.raises(EvaluationError, match="between 0 and 1"):
        holm([1.2])
