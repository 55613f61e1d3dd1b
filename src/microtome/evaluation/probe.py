"""How much of what tells classes of tiles apart is in their features: quick classifiers on frozen features.

Logistic regression along a path of regularisation, nearest neighbours, nearest class centroid, and few-shot episodes.
Each gives class probabilities or calls for the same judged tiles, with intervals of a bootstrap by patient.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int64
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from microtome.errors import ConfigError, EvaluationError
from microtome.evaluation import weighted
from microtome.evaluation.bootstrap import interval, resampled
from microtome.evaluation.probe_reference import LabelledFeatures, f1_of, hit_rate, macro_auroc, macro_f1

STRENGTHS = tuple(float(10.0**power) for power in range(-6, 4))
"""Inverse strengths of the L2 penalty that are tried, strongest penalty first."""
KNN, TEMPERATURE = 20, 0.07
SHOTS = (1, 2, 4, 8, 16)
N_EPISODES, N_QUERIES = 1000, 15

_ROWS_AT_ONCE, _MAX_STEPS = 4096, 5000


@dataclass(frozen=True, eq=False)
class Probed:
    """What one classifier says of the judged tiles.

    Attributes:
        method: ``logistic``, ``knn`` or ``centroid``.
        scores: (m, c) probabilities of the classes.
        chosen: What was chosen on the training tiles, for example the strength of the penalty.
    """

    method: str
    scores: Float64[np.ndarray, "m c"]
    chosen: Mapping[str, float]


def probe_logistic(
    train: LabelledFeatures,
    features: Float[np.ndarray, "m d"],
    *,
    groups: Sequence[str] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> Probed:
    """Multinomial logistic regression with an L2 penalty, its strength chosen on a fifth of the training tiles.

    Args:
        train: Tiles to learn from, every class among them.
        features: Of the tiles to judge.
        groups: Patient of each training tile: one patient's tiles stay on one side of the choice. None where nobody
            knows; each tile is then by itself.
        strengths: Inverse strengths to choose from.
        seed: Decides the fifth.

    Raises:
        EvaluationError: If the training tiles cannot be split so that both sides hold every class, or nothing
            converges.
    """
    scaler = StandardScaler().fit(train.features)
    x, judged = scaler.transform(train.features), scaler.transform(features)
    fitting, choosing = _split_off(train.labels, groups, seed)
    losses = {}
    model = LogisticRegression(max_iter=_MAX_STEPS, warm_start=True)
    for strength in sorted(strengths):
        if not _fit(model.set_params(C=strength), x[fitting], train.labels[fitting]):
            break  # the weaker penalties that follow are further from an optimum still
        losses[strength] = log_loss(train.labels[choosing], model.predict_proba(x[choosing]))
    # Of equal ones the stronger penalty.
    best = min(losses, key=lambda strength: (losses[strength], strength), default=None)
    final = None if best is None else LogisticRegression(C=best, max_iter=_MAX_STEPS)
    if best is None or final is None or not _fit(final, x, train.labels):
        raise EvaluationError(
            f"Logistic regression did not converge in {_MAX_STEPS} steps with the strengths "
            f"{', '.join(f'{s:g}' for s in strengths)}. Pass stronger penalties (smaller numbers)."
        )
    scores = np.asarray(final.predict_proba(judged), np.float64)
    return Probed("logistic", scores, {"strength": best, "log_loss": losses[best]})


def _fit(model: LogisticRegression, x: Float[np.ndarray, "n d"], labels: Int64[np.ndarray, " n"]) -> bool:
    """Fit a model; whether it has converged."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            model.fit(x, labels)
        except ConvergenceWarning:
            return False
    return True


def probe_knn(train: LabelledFeatures, features: Float[np.ndarray, "m d"], *, k: int = KNN) -> Probed:
    """The k nearest training tiles by cosine, each voting with exp(cosine / 0.07).

    Args:
        train: Tiles to compare with.
        features: Of the tiles to judge.
        k: How many vote.

    Raises:
        ConfigError: If there are fewer training tiles than that.

    References:
        Wu et al., Unsupervised feature learning via non-parametric instance discrimination, CVPR 2018.
    """
    if not 1 <= k <= len(train):
        raise ConfigError(f"knn must be between 1 and the number of training tiles, {len(train)}. Got {k}.")
    bank, judged = _unit(train.features), _unit(features)
    n_classes = int(train.labels.max()) + 1
    votes = np.zeros((len(judged), n_classes))
    for start in range(0, len(judged), _ROWS_AT_ONCE):
        near = judged[start : start + _ROWS_AT_ONCE] @ bank.T
        rows = np.argpartition(-near, k - 1, axis=1)[:, :k]
        weights = np.exp((np.take_along_axis(near, rows, axis=1) - 1) / TEMPERATURE)
        for number in range(n_classes):
            votes[start : start + len(near), number] = (weights * (train.labels[rows] == number)).sum(axis=1)
    return Probed("knn", votes / votes.sum(axis=1, keepdims=True), {"k": float(k)})


def probe_centroid(train: LabelledFeatures, features: Float[np.ndarray, "m d"]) -> Probed:
    """The nearest mean of a class, after centring by the training tiles' mean and scaling to length one.

    References:
        Wang et al., SimpleShot, 2019 (CL2N). Probabilities are the softmax of minus the squared distances.
    """
    centre = train.features.mean(axis=0)
    x, judged = _unit(train.features - centre), _unit(features - centre)
    means = np.stack([x[train.labels == number].mean(axis=0) for number in range(int(train.labels.max()) + 1)])
    distances = np.square(judged).sum(axis=1)[:, None] - 2 * judged @ means.T + np.square(means).sum(axis=1)
    nearness = np.exp(distances.min(axis=1, keepdims=True) - distances)
    return Probed("centroid", (nearness / nearness.sum(axis=1, keepdims=True)).astype(np.float64), {})


def few_shot(
    train: LabelledFeatures,
    judged: LabelledFeatures,
    *,
    shots: int,
    n_episodes: int = N_EPISODES,
    n_queries: int = N_QUERIES,
    seed: int = 0,
) -> Float64[np.ndarray, " e"]:
    """Accuracy of nearest centroids from a few tiles per class, in episodes.

    Every episode draws ``shots`` training tiles of each class and up to ``n_queries`` judged tiles of each, the same
    number of every class.

    Args:
        train: Tiles to draw supports from.
        judged: Tiles to draw queries from.
        shots: Supports per class.
        n_episodes: How often.
        n_queries: Queries per class.
        seed: Decides the draws.

    Returns:
        Accuracy of each episode.

    Raises:
        EvaluationError: If a class has fewer training tiles than ``shots``.

    References:
        Wang et al., SimpleShot, 2019 (CL2N).
    """
    centre = train.features.mean(axis=0)
    x, queries = _unit(train.features - centre), _unit(judged.features - centre)
    n_classes = int(train.labels.max()) + 1
    supports = [np.flatnonzero(train.labels == number) for number in range(n_classes)]
    asked = [np.flatnonzero(judged.labels == number) for number in range(n_classes)]
    if min(map(len, supports)) < shots:
        raise EvaluationError(
            f"A class has {min(map(len, supports))} training tiles; {shots} shots need as many. Ask for fewer."
        )
    n_asked = min(n_queries, *map(len, asked))
    rng = np.random.default_rng(seed)
    hits = np.empty(n_episodes)
    truth = np.repeat(np.arange(n_classes), n_asked)
    for episode in range(n_episodes):
        drawn = [rng.choice(rows, shots, replace=False) for rows in supports]
        means = np.stack([x[rows].mean(axis=0) for rows in drawn])
        tiles = queries[np.concatenate([rng.choice(rows, n_asked, replace=False) for rows in asked])]
        distances = np.square(means).sum(axis=1) - 2 * tiles @ means.T
        hits[episode] = (distances.argmin(axis=1) == truth).mean()
    return hits


def judge(
    labels: Int64[np.ndarray, " m"],
    scores: Float64[np.ndarray, "m c"],
    classes: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    n_boot: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Metrics of a classifier, with percentile intervals of a bootstrap by patient.

    Args:
        labels: (m,) class numbers.
        scores: (m, c) probabilities.
        classes: Names of the classes.
        groups: Patient of each tile, drawn as one; None to draw tiles by themselves.
        n_boot: Number of resamples.
        seed: Decides them.

    Returns:
        One row per metric: ``metric``, ``class`` (empty for all together), ``estimate``, ``low``, ``high``, ``n_boot``
        (resamples in which the metric exists). AUC is the mean one-vs-rest one, F1 the mean over classes (for two
        classes: of the second).
    """
    called = scores.argmax(axis=1)
    table = weighted.Confusion(labels, called, len(classes))
    measures: list[tuple[str, str, weighted.Weighted]] = [
        ("roc_auc_score", "", macro_auroc(labels, scores)),
        ("accuracy_score", "", hit_rate(labels, scores)),
        ("balanced_accuracy_score", "", lambda weights: weighted.balanced_accuracy(table(weights))),
        ("f1_score", "", macro_f1(labels, scores)),
    ]
    for number, name in enumerate(classes):
        measures.append(("roc_auc_score", name, weighted.auroc(labels == number, scores[:, number])))
        measures.append(("f1_score", name, f1_of(labels == number, called == number)))
    names = np.arange(len(labels)).astype(str) if groups is None else np.asarray(groups)
    patients = np.unique(names, return_inverse=True)[1].astype(np.int64)

    def all_of(weights: Float64[np.ndarray, "b n"]) -> Float64[np.ndarray, "b m"]:
        return np.stack([measure(weights) for _, _, measure in measures], axis=1)

    estimates = all_of(np.ones((1, len(labels))))[0]
    draws = resampled(all_of, patients, n_boot, seed)
    rows = []
    for place, (metric, name, _) in enumerate(measures):
        found = interval(float(estimates[place]), draws[:, place])
        ends = {"estimate": float(estimates[place]), "low": found.low, "high": found.high}
        rows.append({"metric": metric, "class": name, **ends, "n_boot": n_boot - found.n_undefined})
    return rows


def _split_off(
    labels: Int64[np.ndarray, " n"], groups: Sequence[str] | None, seed: int
) -> tuple[Int64[np.ndarray, " a"], Int64[np.ndarray, " b"]]:
    """Four fifths to fit and one to choose by, stratified, patients whole."""
    names = np.arange(len(labels)).astype(str) if groups is None else np.asarray(groups)
    counts = np.bincount(labels)
    if min(counts) < 5 or len(np.unique(names)) < 5:
        raise EvaluationError(
            f"To choose the penalty, training tiles are split by patient into five parts. Got "
            f"{len(np.unique(names))} patient(s) and {min(counts)} tile(s) of the rarest class. Take more."
        )
    splits = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    for fitting, choosing in splits.split(labels, labels, names):
        if len(np.unique(labels[fitting])) == len(np.unique(labels[choosing])) == len(counts):
            return fitting, choosing
    raise EvaluationError("No fifth of the training patients holds every class, so that no penalty can be chosen.")


def _unit(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Vectors of length one; a vector of zeros stays."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(lengths > 0, lengths, 1)
