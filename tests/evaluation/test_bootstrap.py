import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from microtome.errors import ConfigError
from microtome.evaluation import bootstrap
from microtome.evaluation.bootstrap import interval, patient_draws, resampled
from microtome.evaluation.weighted import auroc, mean


def test_rows_of_a_patient_are_drawn_together_and_patients_as_often_as_there_are() -> None:
    patients = np.array([0, 2, 1, 0, 2, 2])
    draws = np.concatenate(list(patient_draws(patients, 500, 0)))
    assert draws.shape == (500, 6)
    for k in range(3):
        own = draws[:, patients == k]
        assert (own == own[:, :1]).all()
    counts = np.stack([draws[:, 0], draws[:, 2], draws[:, 1]], axis=1)
    assert (counts.sum(axis=1) == 3).all()
    # a patient is drawn Binomial(3, 1/3) times: mean 1, variance 2/3
    np.testing.assert_allclose(counts.mean(axis=0), 1.0, atol=0.15)
    np.testing.assert_allclose(counts.var(axis=0), 2 / 3, atol=0.15)


def test_draws_depend_on_the_seed_alone(monkeypatch) -> None:
    patients = np.arange(40) // 2
    whole = np.concatenate(list(patient_draws(patients, 30, 7)))
    assert not np.array_equal(whole, np.concatenate(list(patient_draws(patients, 30, 8))))
    monkeypatch.setattr(bootstrap, "_BLOCK", 100)  # two resamples at once
    blocks = list(patient_draws(patients, 30, 7))
    assert len(blocks) == 15
    np.testing.assert_array_equal(whole, np.concatenate(blocks))
    # one row per patient: the same patients
    np.testing.assert_array_equal(whole[:, ::2], np.concatenate(list(patient_draws(np.arange(20), 30, 7))))


def test_resampled_aurocs_are_scikit_learns_on_the_drawn_rows() -> None:
    rng = np.random.default_rng(0)
    positive, scores, patients = rng.random(60) < 0.4, rng.normal(size=60).round(1), np.arange(60) // 3
    statistic = auroc(positive, scores)
    found = resampled(lambda w: statistic(w)[:, None], patients, 20, 1)[:, 0]
    for weights, value in zip(np.concatenate(list(patient_draws(patients, 20, 1))), found, strict=True):
        rows = np.repeat(np.arange(60), weights.astype(int))
        assert value == pytest.approx(roc_auc_score(positive[rows], scores[rows]))


def test_resamples_without_a_value_are_counted_and_left_out() -> None:
    positive = np.array([True, False, False, False])  # often no positive is drawn
    statistic = auroc(positive, np.array([0.9, 0.1, 0.2, 0.95]))
    draws = resampled(lambda w: statistic(w)[:, None], np.arange(4), 400, 0)[:, 0]
    share = np.isnan(draws).mean()
    # no positive: (3/4)^4; no negative: (1/4)^4
    assert share == pytest.approx(0.75**4 + 0.25**4, abs=0.08)
    found = interval(2 / 3, draws)
    assert found.n_undefined == np.isnan(draws).sum()
    assert 0 <= found.low <= found.high <= 1


def test_interval_kinds() -> None:
    draws = np.linspace(0.0, 1.0, 101)
    assert interval(0.4, draws, level=0.9).low == pytest.approx(0.05)
    assert interval(0.4, draws, level=0.9).high == pytest.approx(0.95)
    basic = interval(0.4, draws, level=0.9, kind="basic")
    assert (basic.low, basic.high) == pytest.approx((2 * 0.4 - 0.95, 2 * 0.4 - 0.05))
    assert math.isnan(interval(0.4, np.array([])).low)
    assert math.isnan(interval(math.nan, draws).high)
    assert interval(0.4, np.full(3, math.nan)).n_undefined == 3
    with pytest.raises(ConfigError, match="level"):
        interval(0.4, draws, level=95)


def test_intervals_cover_and_slides_of_one_patient_are_not_independent() -> None:
    # mean of 40 patients with 5 slides each that differ by patient only
    rng, covered_patients, covered_rows = np.random.default_rng(0), 0, 0
    patients = np.repeat(np.arange(40), 5)
    for turn in range(120):
        values = rng.normal(size=40)[patients] + 0.05 * rng.normal(size=200)
        statistic = mean(values)
        for own in (patients, np.arange(200)):
            draws = np.concatenate([statistic(weights) for weights in patient_draws(own, 200, turn)])
            found = interval(float(values.mean()), draws)
            if own is patients:
                covered_patients += found.low <= 0 <= found.high
            else:
                covered_rows += found.low <= 0 <= found.high
    assert 0.88 <= covered_patients / 120 <= 0.99
    assert covered_rows / 120 < 0.75  # drawing slides would claim too much
