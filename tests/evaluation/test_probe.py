"""Quick classifiers on frozen features."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import StandardScaler

from microtome.errors import ConfigError, EvaluationError
from microtome.evaluation.probe import (
    TEMPERATURE,
    few_shot,
    judge,
    probe_centroid,
    probe_knn,
    probe_logistic,
)
from microtome.evaluation.probe_reference import LabelledFeatures


def tiles(n=120, n_classes=3, apart=3.0, seed=0, d=6):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    return LabelledFeatures(rng.standard_normal((n, d)) + apart * np.eye(n_classes, d)[labels], labels)


def test_logistic_regression_is_scikit_learns_with_the_strength_that_was_chosen():
    train, judged = tiles(), tiles(seed=1)
    found = probe_logistic(train, judged.features)
    scaler = StandardScaler().fit(train.features)
    model = LogisticRegression(C=found.chosen["strength"], max_iter=5000).fit(
        scaler.transform(train.features), train.labels
    )
    np.testing.assert_allclose(found.scores, model.predict_proba(scaler.transform(judged.features)), atol=1e-6)
    assert (found.scores.argmax(1) == judged.labels).mean() > 0.85


def test_the_penalty_is_chosen_by_what_it_gives_on_other_patients():
    """Features tell patients, not classes: within a patient a weak penalty looks best, between them a strong one."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(20), 20)
    labels = (patients % 2).astype(np.int64)
    features = np.concatenate([np.eye(20)[patients] * 4, rng.standard_normal((400, 2))], axis=1)
    train = LabelledFeatures(features, labels)
    by_tile = probe_logistic(train, features).chosen["strength"]
    by_patient = probe_logistic(train, features, groups=[str(p) for p in patients]).chosen["strength"]
    assert by_patient < by_tile


def test_penalties_that_do_not_converge_end_the_path(monkeypatch):
    monkeypatch.setattr("microtome.evaluation.probe._MAX_STEPS", 3)
    train = tiles(apart=20)
    assert probe_logistic(train, train.features, strengths=[1e-9, 1e9]).chosen["strength"] == 1e-9
    with pytest.raises(EvaluationError, match="did not converge in 3 steps"):
        probe_logistic(train, train.features, strengths=[1e9])


def test_too_few_patients_to_choose_by():
    with pytest.raises(EvaluationError, match=r"2 patient\(s\)"):
        probe_logistic(tiles(), tiles().features, groups=["a", "b"] * 60)
    train = tiles()
    groups = ["one" if label == 0 else str(i) for i, label in enumerate(train.labels)]
    with pytest.raises(EvaluationError, match="No fifth"):
        probe_logistic(train, train.features, groups=groups)


@given(seed=st.integers(0, 100), k=st.integers(1, 30))
@settings(max_examples=15, deadline=None)
def test_nearest_neighbours_by_brute_force(seed, k):
    train, judged = tiles(30, seed=seed), tiles(5, seed=seed + 1)
    scores = probe_knn(train, judged.features, k=k).scores
    for row, vector in zip(scores, judged.features, strict=True):
        cosines = train.features @ vector / np.linalg.norm(train.features, axis=1) / np.linalg.norm(vector)
        nearest = np.argsort(-cosines)[:k]
        votes = np.array([np.exp(cosines[nearest][train.labels[nearest] == c] / TEMPERATURE).sum() for c in range(3)])
        np.testing.assert_allclose(row, votes / votes.sum(), atol=1e-9)


@pytest.mark.parametrize("k", [0, 31])
def test_neighbours_that_are_not_there(k):
    with pytest.raises(ConfigError, match="knn must be between 1 and the number of training tiles, 30"):
        probe_knn(tiles(30), tiles(5).features, k=k)


def test_nearest_centroid_is_scikit_learns_on_centred_unit_vectors():
    train, judged = tiles(apart=1), tiles(apart=1, seed=1)

    def prepared(features):
        centred = features - train.features.mean(axis=0)
        return centred / np.linalg.norm(centred, axis=1, keepdims=True)

    model = NearestCentroid().fit(prepared(train.features), train.labels)
    expected = model.predict(prepared(judged.features))
    found = probe_centroid(train, judged.features).scores
    np.testing.assert_array_equal(found.argmax(axis=1), expected)
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_a_tile_without_features_is_no_nan():
    train = tiles()
    zero = np.zeros((1, 6))
    for scores in (probe_knn(train, zero, k=3).scores, probe_centroid(train, zero).scores):
        assert np.isfinite(scores).all()


def test_more_shots_help_and_noise_stays_at_chance():
    train, judged = tiles(apart=1.0), tiles(apart=1.0, seed=1)
    few, many = (few_shot(train, judged, shots=n, n_episodes=200).mean() for n in (1, 16))
    assert 1 / 3 < few < many
    noise = few_shot(tiles(300, apart=0), tiles(300, apart=0, seed=1), shots=4, n_episodes=400)
    assert abs(noise.mean() - 1 / 3) < 4 * noise.std() / np.sqrt(400) + 0.02
    np.testing.assert_array_equal(
        few_shot(train, judged, shots=2, n_episodes=5, seed=3), few_shot(train, judged, shots=2, n_episodes=5, seed=3)
    )
    with pytest.raises(EvaluationError, match="40 training tiles; 41 shots"):
        few_shot(train, judged, shots=41)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_metrics_are_scikit_learns(n_classes):
    rng = np.random.default_rng(3)
    labels = rng.integers(0, n_classes, 90)
    scores = rng.dirichlet(np.ones(n_classes), 90)
    names = "abc"[:n_classes]
    rows = {(row["metric"], row["class"]): row for row in judge(labels, scores, names, n_boot=200)}
    called = scores.argmax(axis=1)
    auc = roc_auc_score(labels, scores[:, 1] if n_classes == 2 else scores, multi_class="ovr")
    assert rows["roc_auc_score", ""]["estimate"] == pytest.approx(auc)
    assert rows["balanced_accuracy_score", ""]["estimate"] == pytest.approx(balanced_accuracy_score(labels, called))
    each = f1_score(labels, called, average=None)
    assert rows["f1_score", "a"]["estimate"] == pytest.approx(each[0])
    assert rows["f1_score", ""]["estimate"] == pytest.approx(each[1] if n_classes == 2 else each.mean())
    for row in rows.values():
        assert row["low"] <= row["estimate"] <= row["high"]


def test_intervals_are_by_patient():
    """Copies of a tile add nothing: with patients known the interval is as wide as that of one tile per patient."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60)
    first = 0.5 + 0.2 * (labels - 0.5) + 0.3 * rng.standard_normal(60)
    scores = np.stack([1 - first, first], axis=1)
    patients = [str(i) for i in range(60)]

    def width(repeat, groups):
        row = judge(np.repeat(labels, repeat), np.repeat(scores, repeat, axis=0), "ab", groups=groups, n_boot=400)[0]
        return row["high"] - row["low"]

    alone = width(1, None)
    assert width(10, list(np.repeat(patients, 10))) == pytest.approx(alone, rel=0.15)
    assert width(10, None) < 0.5 * alone
