import math

import numpy as np
import pandas as pd
import pytest
from lifelines import KaplanMeierFitter
from lifelines.statistics import logrank_test

from microtome.errors import EvaluationError
from microtome.evaluation.concordance import Curves
from microtome.evaluation.metrics import Outcomes
from microtome.evaluation.survival import risk_groups, survival_curves
from tests.evaluation.tables import SURVIVAL, outcomes_of


def planted(n=120):
    values, columns = outcomes_of(SURVIVAL, n, seed=1)
    return Outcomes(SURVIVAL, values, columns).survival()


def test_curves_groups_and_test_are_lifelines() -> None:
    time, event, risk = planted()
    groups = risk_groups(risk)
    found = survival_curves(time, event, groups)
    high = risk > np.median(risk)
    assert found.logrank_p == pytest.approx(logrank_test(time[high], time[~high], event[high], event[~high]).p_value)
    assert found.groups["n"].tolist() == [int((~high).sum()), int(high.sum())]
    assert found.groups["events"].sum() == event.sum()
    for name, own in (("low risk", ~high), ("high risk", high)):
        curve = found.curves[found.curves["group"] == name]
        # the product-limit estimate, by our own weighted curves
        reference = Curves(time[own], event[own])
        steps = curve[curve["time"] > 0]
        np.testing.assert_array_equal(steps["time"], reference.times)
        np.testing.assert_allclose(steps["survival"], reference.survival(np.ones((1, int(own.sum()))))[0])
        assert curve.iloc[0][["time", "survival"]].tolist() == [0.0, 1.0]
        assert (curve["low"] <= curve["survival"]).all()
        assert (curve["survival"] <= curve["high"]).all()
        assert steps["at_risk"].tolist() == [int((time[own] >= t).sum()) for t in steps["time"]]
        assert (steps["events"] + steps["censored"]).sum() == own.sum()
        median = found.groups.set_index("group").loc[name, "median"]
        assert median == KaplanMeierFitter().fit(time[own], event[own]).median_survival_time_
    table = found.at_risk[found.at_risk["group"] == "high risk"]
    assert table["at_risk"].iloc[0] == high.sum()
    assert table["at_risk"].is_monotonic_decreasing
    assert 3 <= len(table) <= 11


def test_cut_points_are_explicit_and_may_come_from_training() -> None:
    risk = np.arange(9.0)
    assert risk_groups(risk).cuts == (4.0,)
    assert risk_groups(risk).labels().tolist() == ["low risk"] * 5 + ["high risk"] * 4  # the cut itself is low
    thirds = risk_groups(risk, "tertiles")
    assert np.bincount(thirds.place).tolist() == [3, 3, 3]
    trained = risk_groups(risk, reference=np.array([6.0, 7.0, 8.0]))
    assert trained.cuts == (7.0,)
    assert trained.place.sum() == 1
    assert risk_groups(risk, (1.0, 2.0, 3.0)).names[-1] == "risk group 4"
    found = survival_curves(risk + 1, np.ones(9, bool), thirds)
    assert found.groups["risk_above"].tolist() == [-math.inf, *thirds.cuts]
    assert found.groups["risk_to"].tolist() == [*thirds.cuts, math.inf]


def test_what_has_no_test_says_why() -> None:
    time = np.array([1.0, 2.0, 3.0, 4.0])
    tied = survival_curves(time, np.ones(4, bool), risk_groups(np.zeros(4)))
    assert math.isnan(tied.logrank_p)
    assert tied.reason == "one group only"
    censored = survival_curves(time, np.zeros(4, bool), risk_groups(time))
    assert math.isnan(censored.logrank_p)
    assert "censored" in censored.reason
    assert isinstance(censored.curves, pd.DataFrame)
    assert (censored.curves["survival"] == 1).all()
    one = survival_curves(np.array([0.3]), np.array([True]), risk_groups(np.array([1.0])))
    assert one.groups["n"].tolist() == [1]


@pytest.mark.parametrize("cuts", [(2.0, 1.0), (), (1.0, 1.0), (math.nan,)])
def test_bad_cuts_are_refused(cuts) -> None:
    with pytest.raises(EvaluationError, match=r"[Cc]uts"):
        risk_groups(np.array([1.0, 2.0]), cuts)


def test_bad_rows_are_refused() -> None:
    with pytest.raises(EvaluationError, match="NaN"):
        risk_groups(np.array([1.0, math.nan]))
    with pytest.raises(EvaluationError, match="at least one"):
        risk_groups(np.zeros(0))
    groups = risk_groups(np.array([1.0, 2.0]))
    with pytest.raises(EvaluationError, match="times over 0"):
        survival_curves(np.array([0.0, 2.0]), np.ones(2, bool), groups)
