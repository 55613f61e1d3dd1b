"""Likeness to supports, and scores in the form in which they are judged."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from microtome.encoders.srh_use import BANDS, band_of
from microtome.tasks.srh.few_shot import Supports
from microtome.tasks.srh.tables import ordinal_predictions, score_row


def kinds(rng, n, places):
    """Vectors around several places."""
    centres = np.array(places, np.float32)[np.arange(n) % len(places)]
    return (centres + 0.1 * rng.standard_normal(centres.shape)).astype(np.float32)


def test_tumour_of_several_kinds_is_told_from_normal_between_them():
    """The mean over all tumour supports lies among the normal ones; the nearest few do not."""
    rng = np.random.default_rng(0)
    normal, tumour = [[0, 1, 9], [0, -1, 9]], [[2, 0, 9], [-2, 0, 9]]
    supports = Supports.of(kinds(rng, 16, normal), kinds(rng, 16, tumour))
    truth = np.repeat([0, 1], 40)
    likeness = supports.likeness(np.concatenate([kinds(rng, 40, normal), kinds(rng, 40, tumour)]))
    assert ((likeness > 0) & (likeness < 1)).all()
    assert roc_auc_score(truth, likeness) > 0.99


def test_one_support_of_each_class_is_enough():
    supports = Supports.of(np.array([[1, 0, 0]], np.float32), np.array([[0, 1, 0]], np.float32))
    low, high, between = supports.likeness(np.array([[1, 0, 0], [0, 1, 0], [0.5, 0.5, 1]], np.float32))
    assert low < 0.01 < 0.99 < high
    assert between == pytest.approx(0.5)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_scores_are_judged_by_their_order_and_their_bands(scores):
    rows = [
        {"slide_id": f"P{i}.1", "patient_id": "" if i % 2 else f"P{i}", "model": "m", **score_row(score)}
        for i, score in enumerate(scores)
    ]
    table = ordinal_predictions(rows).table
    above = table[["p_ge_1", "p_ge_2", "p_ge_3"]].to_numpy()
    assert (np.diff(above, axis=1) <= 0).all()
    assert table["grade"].tolist() == [band_of(score).grade for score in scores]
    for k, band in enumerate(BANDS[:-1]):
        clear = np.abs(np.array(scores) - band.upto) > 1e-9
        assert ((above[:, k] > 0.5) == (np.array(scores) > band.upto))[clear].all()
    order = np.argsort(scores, kind="stable")
    assert (np.diff(above[order], axis=0) >= -1e-12).all()
    assert table["patient_id"].tolist() == [row["patient_id"] or row["slide_id"] for row in rows]
