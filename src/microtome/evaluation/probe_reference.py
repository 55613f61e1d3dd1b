"""Linear evaluation of tile features exactly as HistoSSL does it: thirty SGD classifiers on growing portions.

References:
    HistoSSLscaling (73f1d19), specification section 4 "Tile level" and correction 10. Deviations: a portion in which a
    class has no tile is refused (there the reference gives columns of the wrong classes), and portions are drawn before
    a shared generator only where they are asked for in the same order with the same number of resamples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from sklearn.linear_model import SGDClassifier
from sklearn.preprocessing import StandardScaler

from microtome.errors import EvaluationError
from microtome.evaluation import weighted
from microtome.evaluation.weighted import Weighted

PORTIONS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0)
N_SEEDS, N_RESAMPLES = 30, 1000
_ROWS_OF_WEIGHTS = 50  # resamples that are weighed at once


@dataclass(frozen=True, eq=False)
class LabelledFeatures:
    """Features of tiles and their classes.

    Attributes:
        features: (n, d).
        labels: (n,) class numbers.
    """

    features: Float[np.ndarray, "n d"]
    labels: Int64[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Int64[np.ndarray, " m"]) -> "LabelledFeatures":
        """Some of the tiles."""
        return LabelledFeatures(self.features[rows], self.labels[rows])


def reference_scores(
    train: LabelledFeatures, features: Float[np.ndarray, "m d"], *, n_seeds: int = N_SEEDS
) -> Float64[np.ndarray, "m c"]:
    """Mean probabilities of SGD classifiers that differ in their seed, on features scaled by those of the training.

    Args:
        train: Tiles to learn from.
        features: Of the tiles to judge.
        n_seeds: Number of classifiers.
    """
    scaler = StandardScaler().fit(train.features)
    x_train, x = scaler.transform(train.features), scaler.transform(features)
    total: Float64[np.ndarray, "m c"] | None = None
    for seed in range(n_seeds):
        model = SGDClassifier(
            loss="log_loss",
            penalty="l2",
            learning_rate="adaptive",
            eta0=1e-4,
            early_stopping=False,
            random_state=seed,
        ).fit(x_train, train.labels)
        scores = model.predict_proba(x)
        total = scores if total is None else total + scores
    if total is None:
        raise EvaluationError(f"n_seeds must be at least 1. Got {n_seeds}.")
    return np.asarray(total / n_seeds, np.float64)


def reference_probe(
    train: LabelledFeatures,
    valid: LabelledFeatures,
    classes: Sequence[str],
    *,
    portions: Sequence[float] = PORTIONS,
    n_seeds: int = N_SEEDS,
    n_resamples: int = N_RESAMPLES,
    on_portion: Callable[[float], None] | None = None,
) -> tuple[list[dict[str, float]], list[Float64[np.ndarray, "m c"]]]:
    """The reference's table: one row per portion of the training tiles.

    Args:
        train: Tiles to learn from.
        valid: Tiles to judge by.
        classes: Names of the classes.
        portions: Shares of the training tiles, drawn without replacement, in this order: the one generator behind the
            subsamples also draws the resamples, so that order and number of resamples decide later subsamples.
        n_seeds: Number of classifiers whose probabilities are averaged.
        n_resamples: Of the basic bootstrap over the judged tiles.
        on_portion: Told each portion when it is done.

    Returns:
        Rows with ``portion``, ``<class>_{auc,acc,f1}``, ``auc``, ``acc``, ``f1`` (macro; of class 1 for two classes)
        and ``bt_{auc,acc,f1}_{low,high}``; and the mean probabilities, one array per portion.

    Raises:
        EvaluationError: If there are fewer than two classes, a portion lacks one, or the judged tiles do.
    """
    check_classes("The tiles to judge by", valid.labels, classes)
    draws = np.random.RandomState(0)  # the reference's own generator, so that its draws come out
    rows, scores = [], []
    for portion in portions:
        chosen = draws.choice(np.arange(len(train)), size=int(portion * len(train)), replace=False)
        part = train.take(chosen)
        check_classes(f"The portion {portion:g} of the training tiles ({len(part)} tiles)", part.labels, classes)
        found = reference_scores(part, valid.features, n_seeds=n_seeds)
        rows.append({"portion": portion, **_summary(valid.labels, found, classes, draws, n_resamples)})
        scores.append(found)
        if on_portion is not None:
            on_portion(portion)
    return rows, scores


def check_classes(what: str, labels: Int64[np.ndarray, " n"], classes: Sequence[str]) -> None:
    """Make sure that every class has a tile.

    Raises:
        EvaluationError: If one has none, or there are fewer than two.
    """
    if len(classes) < 2:
        raise EvaluationError(f"Linear evaluation needs at least two classes. Got {', '.join(classes) or 'none'}.")
    absent = [name for number, name in enumerate(classes) if not (labels == number).any()]
    if absent:
        raise EvaluationError(f"{what} hold no tile of class {', '.join(absent)}. Take more tiles, or leave it out.")


def macro_auroc(labels: Int64[np.ndarray, " n"], scores: Float64[np.ndarray, "n c"]) -> Weighted:
    """Mean one-vs-rest AUC; of the second column for two classes."""
    numbers = [1] if scores.shape[1] == 2 else range(scores.shape[1])
    parts = [weighted.auroc(labels == number, scores[:, number]) for number in numbers]
    return lambda weights: np.mean([part(weights) for part in parts], axis=0)


def macro_f1(labels: Int64[np.ndarray, " n"], scores: Float64[np.ndarray, "n c"]) -> Weighted:
    """Mean F1 of the classes; of class 1 for two classes."""
    n_classes = scores.shape[1]
    table = weighted.Confusion(labels, scores.argmax(axis=1), n_classes)
    if n_classes == 2:
        return lambda weights: np.nan_to_num(weighted.f1_per_class(table(weights))[:, 1])
    return lambda weights: weighted.mean_of_defined(weighted.f1_per_class(table(weights)))


def f1_of(truth: Bool[np.ndarray, " n"], called: Bool[np.ndarray, " n"]) -> Weighted:
    """F1 of one class; NaN where it neither occurs nor is called."""
    table = weighted.Confusion(truth.astype(np.int64), called.astype(np.int64), 2)
    return lambda weights: weighted.f1_per_class(table(weights))[:, 1]


def hit_rate(labels: Int64[np.ndarray, " n"], scores: Float64[np.ndarray, "n c"]) -> Weighted:
    """Share of tiles whose most probable class is theirs."""
    return weighted.mean((scores.argmax(axis=1) == labels).astype(np.float64))


METRICS = {"auc": macro_auroc, "acc": hit_rate, "f1": macro_f1}


def _summary(
    labels: Int64[np.ndarray, " n"],
    scores: Float64[np.ndarray, "n c"],
    classes: Sequence[str],
    draws: np.random.RandomState,
    n_resamples: int,
) -> dict[str, float]:
    once = np.ones((1, len(labels)))
    called = scores.argmax(axis=1)
    row: dict[str, float] = {}
    for number, name in enumerate(classes):
        truth, said = labels == number, called == number
        f1 = f1_of(truth, said)(once)[0]
        row[f"{name}_auc"] = float(weighted.auroc(truth, scores[:, number])(once)[0])
        row[f"{name}_acc"] = float((truth == said).mean())
        row[f"{name}_f1"] = float(np.nan_to_num(f1))
    measures = {name: metric(labels, scores) for name, metric in METRICS.items()}
    row |= {name: float(measure(once)[0]) for name, measure in measures.items()}
    for name, measure in measures.items():  # in this order: each draws its own resamples
        low, high = _basic_interval(row[name], measure, len(labels), draws, n_resamples)
        row[f"bt_{name}_low"], row[f"bt_{name}_high"] = low, high
    return row


def _basic_interval(
    estimate: float, measure: Weighted, n: int, draws: np.random.RandomState, n_resamples: int
) -> tuple[float, float]:
    """Basic bootstrap interval of 95 %: twice the estimate less the resamples' quantiles."""
    values = []
    for start in range(0, n_resamples, _ROWS_OF_WEIGHTS):
        some = range(start, min(start + _ROWS_OF_WEIGHTS, n_resamples))
        drawn = [draws.choice(np.arange(n), size=n, replace=True) for _ in some]
        values.append(measure(np.array([np.bincount(rows, minlength=n) for rows in drawn], np.float64)))
    low, high = np.percentile(np.concatenate(values), [2.5, 97.5])
    return float(2 * estimate - high), float(2 * estimate - low)
