"""The reference's linear evaluation."""

import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from microtome.errors import EvaluationError
from microtome.evaluation.probe_reference import METRICS, LabelledFeatures, reference_probe, reference_scores
from tests.conftest import golden_cases, require_case


def golden_data(inputs):
    """Features as the case's rule makes them."""
    r = np.random.Generator(np.random.PCG64(inputs["input_seed"]))
    n_classes, d = inputs["n_classes"], inputs["d"]
    mu = (inputs["sep"] * r.standard_normal((n_classes, d))).astype(np.float32)
    sets = []
    for n in (inputs["n_train"], inputs["n_val"]):
        labels = r.integers(0, n_classes, size=n)
        features = mu[labels] + r.standard_normal((n, d), dtype=np.float32)
        if n_classes > 2:  # the background, class 1, is left out
            kept = labels != 1
            labels, features = labels[kept] - (labels[kept] > 1), features[kept]
        sets.append(LabelledFeatures(features, labels.astype(np.int64)))
    return sets


@pytest.mark.parametrize("case", golden_cases("linear_probe_"), ids=lambda case: case.name)
@pytest.mark.slow
def test_golden(case):
    record = json.loads((require_case(case) / "case.json").read_text())
    train, valid = golden_data(record["inputs"])
    expected, tolerance = record["outputs"]["results"], record["tolerance"]
    names = [key.removesuffix("_auc") for key in expected[0] if key.endswith("_auc") and not key.startswith("bt_")]
    rows, scores = reference_probe(train, valid, names, portions=record["settings"]["portions"])
    stored = np.load(case / "data.npz")
    np.testing.assert_array_equal(stored["val_labels"], valid.labels)
    for i, (row, wanted) in enumerate(zip(rows, expected, strict=True)):
        np.testing.assert_allclose(scores[i], stored[f"scores_portion{i}"], atol=tolerance["scores_atol"])
        assert row.keys() == wanted.keys()
        for key, value in wanted.items():
            atol = tolerance["interval_atol" if key.startswith("bt_") else "metrics_atol"]
            assert row[key] == pytest.approx(value, abs=atol), key


@pytest.mark.parametrize("n_classes", [2, 4])
def test_metrics_of_resamples_are_scikit_learns(n_classes):
    rng = np.random.default_rng(n_classes)
    labels = rng.integers(0, n_classes, 60)
    scores = rng.dirichlet(np.ones(n_classes), 60).round(1)
    weights = np.array([np.bincount(rng.integers(0, 60, 60), minlength=60) for _ in range(5)], float)
    for name, metric in METRICS.items():
        for row, found in zip(weights.astype(int), metric(labels, scores)(weights), strict=True):
            y, s = np.repeat(labels, row), np.repeat(scores, row, axis=0)
            expected = {
                "auc": lambda y=y, s=s: (
                    roc_auc_score(y, s[:, 1])
                    if n_classes == 2
                    else np.mean([roc_auc_score(y == c, s[:, c]) for c in range(n_classes)])
                ),
                "acc": lambda y=y, s=s: accuracy_score(y, s.argmax(1)),
                "f1": lambda y=y, s=s: f1_score(y, s.argmax(1), average="binary" if n_classes == 2 else "macro"),
            }[name]()
            assert found == pytest.approx(expected)


def tiles(labels, seed=0, d=3):
    labels = np.asarray(labels, np.int64)
    features = np.random.default_rng(seed).standard_normal((len(labels), d)) + labels[:, None]
    return LabelledFeatures(features, labels)


def test_a_portion_without_a_class_is_refused():
    train = tiles([0] * 30 + [1] * 30 + [2])
    with pytest.raises(EvaluationError, match=r"portion 0\.04 of the training tiles \(2 tiles\) hold no tile of class"):
        reference_probe(train, tiles([0, 1, 2]), "abc", portions=[0.04], n_seeds=1)
    with pytest.raises(EvaluationError, match="to judge by hold no tile of class c"):
        reference_probe(train, tiles([0, 1]), "abc", portions=[1], n_seeds=1)
    with pytest.raises(EvaluationError, match="at least two classes"):
        reference_probe(tiles([0, 0]), tiles([0]), "a")


def test_seeds_are_averaged():
    train, judged = tiles([0, 1] * 20), tiles([0, 1] * 5, 1)
    few, more = (reference_scores(train, judged.features, n_seeds=n) for n in (1, 3))
    assert few.shape == (10, 2)
    np.testing.assert_allclose(more.sum(axis=1), 1)
    assert np.abs(few - more).max() > 0
    with pytest.raises(EvaluationError, match="n_seeds"):
        reference_scores(train, judged.features, n_seeds=0)
