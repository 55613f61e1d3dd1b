"""Labels and predictions for tests of evaluation: random, with ties, several slides per patient."""

from collections.abc import Mapping

import numpy as np
from scipy.special import expit, softmax

from microtome.cohort.predictions import Predictions, concat_predictions, predictions_table
from microtome.cohort.targets import Labels, Target

BINARY = Target("msi", "binary", ("msi",), ("MSS", "MSI"))
MULTICLASS = Target("subtype", "multiclass", ("subtype",), ("a", "b", "c"))
MULTILABEL = Target("mutation", "multilabel", ("tp53", "kras"), ("tp53", "kras"))
ORDINAL = Target("grade", "ordinal", ("grade",), ("none", "low", "mid", "high"))
REGRESSION = Target("age", "regression", ("age",))
SURVIVAL = Target("os", "survival", ("time", "event"))
TARGETS = (BINARY, MULTICLASS, MULTILABEL, ORDINAL, REGRESSION, SURVIVAL)


def labels_of(target: Target, values: np.ndarray, *, slides_per_patient: int = 1) -> Labels:
    """Labels of slides s000, s001, ... of patients p000, ..."""
    n = len(values)
    ids = tuple(f"s{i:03d}" for i in range(n))
    patients = tuple(f"p{i // slides_per_patient:03d}" for i in range(n))
    return Labels(target, ids, patients, tuple((i,) for i in ids), np.asarray(values, np.float64).reshape(n, -1))


def outcomes_of(target: Target, n: int, seed: int = 0, signal: float = 1.0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Label values and prediction columns that know something of them, rounded so that there are ties."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=n)
    if target.type == "binary":
        values = (np.arange(n) % 2).astype(float)
        p = np.round(expit(signal * (values - 0.5) + noise), 2)
        return values[:, None], {"p_MSS": 1 - p, "p_MSI": p}
    if target.type == "multiclass":
        values = np.arange(n) % 3
        p = softmax(signal * np.eye(3)[values] + rng.normal(size=(n, 3)), axis=1)
        return values[:, None].astype(float), {f"p_{c}": p[:, k] for k, c in enumerate(target.classes)}
    if target.type == "multilabel":
        values = np.stack([np.arange(n) % 2, np.arange(n) // 2 % 2], axis=1).astype(float)
        p = np.round(expit(signal * values + rng.normal(size=(n, 2))), 2)
        values[::7, 0] = np.nan
        return values, {f"p_{c}": p[:, k] for k, c in enumerate(target.classes)}
    if target.type == "ordinal":
        values = np.arange(n) % 4
        p = expit(np.round(signal * values + noise, 1)[:, None] - np.array([0.5, 1.5, 2.5]))
        names = [f"p_ge_{c}" for c in target.classes[1:]]
        return values[:, None].astype(float), {"grade": p.sum(axis=1), **{c: p[:, k] for k, c in enumerate(names)}}
    if target.type == "regression":
        values = np.round(rng.normal(50, 10, size=n), 1)
        share = signal / (1 + signal)
        return values[:, None], {"value": np.round(50 + share * (values - 50) + 10 * (1 - share) * noise, 1)}
    risk = np.round(rng.normal(size=n), 1)
    event, end = rng.exponential(10 * np.exp(-signal * risk)), rng.exponential(12, size=n)
    values = np.stack([np.ceil(np.minimum(event, end)), event <= end], axis=1).astype(float)
    return values, {"risk": risk}


def predictions_in_folds(
    labels: Labels, columns: Mapping[str, np.ndarray], *, folds: int = 4, repeats: int = 1, seed: int = 0
) -> Predictions:
    """Each row in one test fold of every repeat; patients stay together."""
    patients, rng = np.unique(labels.patient_ids, return_inverse=True)[1], np.random.default_rng(seed)
    parts = []
    for repeat in range(repeats):
        fold_of = rng.permutation(np.arange(patients.max() + 1) % folds)[patients]
        for fold in range(folds):
            rows = np.flatnonzero(fold_of == fold)
            own = {name: column[rows] for name, column in columns.items()}
            parts.append(predictions_table(labels.take(rows), own, fold=fold, repeat=repeat))
    return concat_predictions(parts)
