import math
import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lifelines import KaplanMeierFitter
from lifelines.utils import concordance_index

from microtome.evaluation.concordance import (
    Curves,
    count_pairs,
    default_horizons,
    harrell,
    integrated_brier,
    mean_time_auc,
    time_auc,
    uno,
)
from microtome.evaluation.metrics import Outcomes, score, why_undefined
from tests.evaluation.tables import SURVIVAL, outcomes_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what the peer says about its own imports is not ours
    from sksurv import metrics as sksurv_metrics
    from sksurv.util import Surv

subjects = st.lists(
    st.tuples(st.integers(1, 8), st.booleans(), st.integers(-3, 3)), min_size=2, max_size=25
)  # few times and risks: many ties


def unpacked(rows):
    time, event, risk = (np.array(part) for part in zip(*rows, strict=True))
    return time.astype(float), event.astype(bool), risk.astype(float)


def brute_force(time, event, risk) -> tuple[int, int, int]:
    concordant = tied = comparable = 0
    for i in range(len(time)):
        for j in range(len(time)):
            later = time[i] < time[j] or (time[i] == time[j] and not event[j])
            if event[i] and i != j and later:
                comparable += 1
                concordant += risk[i] > risk[j]
                tied += risk[i] == risk[j]
    return int(concordant), int(tied), comparable


def once(weighted, n) -> float:
    return float(weighted(np.ones((1, n)))[0])


@settings(deadline=None)
@given(subjects)
def test_pairs_are_those_of_counting_and_of_lifelines(rows) -> None:
    time, event, risk = unpacked(rows)
    found = count_pairs(time, event, risk)
    assert (found.concordant, found.tied_risk, found.comparable) == brute_force(time, event, risk)
    c = once(harrell(time, event, risk), len(time))
    if found.comparable:
        assert c == pytest.approx(concordance_index(time, -risk, event))
    else:
        assert math.isnan(c)


@settings(deadline=None, max_examples=50)
@given(subjects, st.sampled_from([None, 4.5, 7.5]))
def test_uno_is_scikit_survivals(rows, tau) -> None:
    time, event, risk = unpacked(rows)
    assume(not (event & (time == time.max())).any())  # there the peer stops: its censoring curve is 0
    found = once(uno(time, event, risk, tau=tau), len(time))
    try:
        expected = sksurv_metrics.concordance_index_ipcw(*[Surv.from_arrays(event, time)] * 2, risk, tau=tau)[0]
    except (ValueError, ZeroDivisionError, sksurv_metrics.NoComparablePairException):
        assert math.isnan(found)
        return
    assert found == pytest.approx(expected, nan_ok=True)


@settings(deadline=None, max_examples=50)
@given(subjects, st.lists(st.integers(1, 7), min_size=1, max_size=3, unique=True))
def test_time_dependent_auc_is_scikit_survivals(rows, horizons) -> None:
    time, event, risk = unpacked([*rows, (9, False, 0), (1, True, 1)])  # somebody outlives the last horizon
    horizons = sorted(float(h) for h in horizons)
    assume(all((event & (time <= h)).any() for h in horizons))
    outcome = Surv.from_arrays(event, time)
    expected, mean = sksurv_metrics.cumulative_dynamic_auc(outcome, outcome, risk, horizons)
    found = [once(time_auc(time, event, risk, h), len(time)) for h in horizons]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert once(mean_time_auc(time, event, risk, horizons), len(time)) == pytest.approx(float(mean))


@settings(deadline=None, max_examples=50)
@given(subjects, st.lists(st.integers(1, 7), min_size=2, max_size=4, unique=True), st.randoms(use_true_random=False))
def test_integrated_brier_is_scikit_survivals(rows, horizons, random) -> None:
    time, event, _ = unpacked([*rows, (9, False, 0), (1, True, 1)])
    times = np.array(sorted(horizons), float)
    survival = np.array([sorted((random.random() for _ in times), reverse=True) for _ in time])
    outcome = Surv.from_arrays(event, time)
    expected = sksurv_metrics.integrated_brier_score(outcome, outcome, survival, times)
    assert once(integrated_brier(time, event, survival, times), len(time)) == pytest.approx(expected)


@settings(deadline=None, max_examples=30)
@given(subjects, st.data())
def test_weighted_curves_are_lifelines(rows, data) -> None:
    time, event, _ = unpacked(rows)
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(time), max_size=len(time))), float)
    assume(weights.sum() > 0)
    again = np.repeat(np.arange(len(time)), weights.astype(int))
    fitter = KaplanMeierFitter().fit(time[again], event[again])
    curves = Curves(time, event)
    found = curves.survival(weights[None])[0]
    np.testing.assert_allclose(found, fitter.survival_function_at_times(curves.times).to_numpy(), atol=1e-12)
    free = curves.censoring(weights[None])[0]
    assert (np.diff(free) <= 1e-12).all()
    if event[again].all():
        np.testing.assert_allclose(free, 1.0)


def test_large_tables_agree_with_lifelines() -> None:
    values, columns = outcomes_of(SURVIVAL, 1500, seed=5)
    time, event, risk = Outcomes(SURVIVAL, values, columns).survival()
    assert once(harrell(time, event, risk), 1500) == pytest.approx(concordance_index(time, -risk, event), rel=1e-12)


def test_risk_and_survival_time_have_opposite_signs() -> None:
    time, event, risk = np.array([1.0, 2.0, 3.0]), np.array([True, True, False]), np.array([3.0, 2.0, 1.0])
    assert once(harrell(time, event, risk), 3) == 1.0
    assert once(harrell(time, event, -risk), 3) == 0.0
    assert once(harrell(time, event, 0 * risk), 3) == 0.5


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([[3.0, 0.0], [5.0, 0.0]], "all times are censored"),
        ([[5.0, 1.0], [3.0, 0.0]], "no comparable pair"),
        ([[4.0, 1.0], [4.0, 1.0]], "no comparable pair"),  # two events at one time
        ([[4.0, 1.0]], "no comparable pair"),
    ],
)
def test_folds_too_small_for_a_c_index_are_nan_with_a_reason(values, reason) -> None:
    table, columns = np.array(values), {"risk": np.arange(len(values), dtype=float)}
    for metric in ("cindex_score", "uno_cindex_score", "mean_time_auc_score"):
        assert math.isnan(score(metric, SURVIVAL, table, columns))
        assert reason in why_undefined(metric, Outcomes(SURVIVAL, table, columns))


def test_horizons_are_quartiles_of_events_that_somebody_outlives() -> None:
    time, event = np.arange(1.0, 10.0), np.array([True] * 5 + [False] * 4)
    assert default_horizons(time, event) == (2.0, 3.0, 4.0)
    assert default_horizons(time, np.zeros(9, bool)) == ()
    assert default_horizons(np.array([2.0, 2.0]), np.array([True, True])) == ()


@pytest.mark.parametrize("tau", [None, 6.0])
def test_uno_is_scikit_survivals_on_a_cohort(tau) -> None:
    values, columns = outcomes_of(SURVIVAL, 200, seed=2)
    time, event, risk = Outcomes(SURVIVAL, values, columns).survival()
    event = event & (time < time.max())
    expected = sksurv_metrics.concordance_index_ipcw(*[Surv.from_arrays(event, time)] * 2, risk, tau=tau)[0]
    found = once(uno(time, event, risk, tau=tau), 200)
    assert found == pytest.approx(expected, rel=1e-12)
    assert found != pytest.approx(once(harrell(time, event, risk), 200), abs=1e-4)
