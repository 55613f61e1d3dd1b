"""Calibration and out-of-distribution flag that a model carries."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from microtome.encoders.srh_reference import (
    Calibration,
    calibration_text,
    fit_familiar,
    read_calibration,
)
from microtome.encoders.srh_use import BANDS, band_of
from microtome.errors import WeightsError

FITTED = Calibration(scale=2.0, offset=-1.0, knots=((0.1, 0.0), (0.4, 0.5), (0.9, 1.0)), n_slides=40, cuts=(0.3, 0.6))


def test_without_a_calibration_the_score_is_the_sigmoid():
    np.testing.assert_allclose(
        Calibration().apply(np.array([0.0, 2.0, -800.0, 800.0])), [0.5, 0.880797, 0, 1], atol=1e-6
    )


def test_the_knots_are_met_and_the_ends_are_flat():
    logits = (np.log(np.array([0.1, 0.4, 0.9]) / (1 - np.array([0.1, 0.4, 0.9]))) + 1) / 2
    np.testing.assert_allclose(FITTED.apply(logits), [0, 0.5, 1], atol=1e-12)
    np.testing.assert_array_equal(FITTED.apply(np.array([-50.0, 50.0])), [0, 1])


@given(arrays(np.float64, 20, elements=st.floats(-30, 30)))
def test_a_calibration_never_turns_two_slides_around(logits):
    order = np.argsort(logits)
    assert (np.diff(FITTED.apply(logits)[order]) >= 0).all()


def test_a_calibration_comes_back_from_its_text():
    assert read_calibration(calibration_text(FITTED)) == FITTED


@pytest.mark.parametrize(
    "text", ["", "{}", '{"scale": "x"}', "[]", '{"scale":1,"offset":0,"knots":[[1]],"n_slides":0,"cuts":[]}']
)
def test_text_that_is_no_calibration_is_refused(text):
    with pytest.raises(WeightsError, match="calibration"):
        read_calibration(text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": 0.0},
        {"scale": float("nan")},
        {"knots": ((0.5, 0.1), (0.4, 0.2))},
        {"knots": ((0.1, 0.5), (0.4, 0.2))},
        {"knots": ((0.1, 1.5),)},
    ],
)
def test_a_calibration_that_does_not_rise_is_refused(wrong):
    with pytest.raises(WeightsError, match="rises"):
        Calibration(**wrong)


def test_slides_unlike_the_validation_slides_are_far():
    rng = np.random.default_rng(0)
    centre = rng.standard_normal(64)
    familiar = fit_familiar((centre + 0.3 * rng.standard_normal((60, 64))).astype(np.float32))
    alike = (centre + 0.3 * rng.standard_normal((200, 64))).astype(np.float32)
    unlike = rng.standard_normal((200, 64)).astype(np.float32)
    share = np.mean([familiar.distance(row) > familiar.limit for row in alike])
    assert share < 0.2
    assert all(familiar.distance(row) > familiar.limit for row in unlike)


def test_the_limit_lets_the_stated_share_of_validation_slides_pass():
    rng = np.random.default_rng(1)
    embeddings = (3 + rng.standard_normal((100, 16))).astype(np.float32)
    familiar = fit_familiar(embeddings, quantile=0.9)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    similar = unit @ unit.T
    np.fill_diagonal(similar, -1)
    own = 1 - np.sort(similar, axis=1)[:, -5:].mean(axis=1)
    assert 0.88 <= (own <= familiar.limit + 1e-6).mean() <= 0.92


def test_too_few_or_broken_validation_slides_are_refused():
    with pytest.raises(WeightsError, match="at least 7"):
        fit_familiar(np.ones((6, 4), np.float32))
    broken = np.ones((9, 4), np.float32)
    broken[3, 2] = np.nan
    with pytest.raises(WeightsError, match="finite"):
        fit_familiar(broken)


@pytest.mark.parametrize(
    ("score", "grade"),
    [(0.0, 0), (0.25, 0), (0.250001, 1), (0.5, 1), (0.500001, 2), (0.85, 2), (0.850001, 3), (1.0, 3)],
)
def test_a_boundary_belongs_to_the_lower_band(score, grade):
    assert band_of(score).grade == grade


def test_bands_are_the_published_ones():
    assert [band.percent for band in BANDS] == ["0-25 %", "26-50 %", "51-85 %", "86-100 %"]
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"0\.\.1"):
            band_of(wrong)
