"""Tables that figures are drawn from: ROC, precision and recall, calibration, confusion; over folds and with bands."""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64

from microtome.cohort.targets import Target
from microtome.errors import EvaluationError
from microtome.evaluation.bootstrap import resampled
from microtome.evaluation.metrics import Outcomes
from microtome.evaluation.reliability import reliability_curve
from microtome.evaluation.rows import Rows
from microtome.evaluation.weighted import pick

GRID = np.linspace(0.0, 1.0, 101)
"""Where curves of folds are averaged and bands are given."""

MAX_POINTS = 2001
"""Of one curve in a table; metrics are of all points."""

Binary = tuple[Bool[np.ndarray, " n"], Float64[np.ndarray, " n"]]


def roc_curve(positive: Bool[np.ndarray, " n"], scores: Float64[np.ndarray, " n"]) -> pd.DataFrame:
    """The ROC curve, one point per distinct score.

    Args:
        positive: What each row is.
        scores: Higher means positive.

    Returns:
        fpr, tpr (rising from 0 to 1) and threshold (falling from infinity: rows with at least this score are called).

    Raises:
        EvaluationError: If one class is absent.

    Example:
        >>> roc_curve(np.array([True, False]), np.array([0.9, 0.1])).to_numpy().tolist()
        [[0.0, 0.0, inf], [0.0, 1.0, 0.9], [1.0, 1.0, 0.1]]
    """
    _check(positive, need_negative=True)
    ends, hits, called = _cumulative(positive, scores)
    fpr, tpr = (called - hits) / (~positive).sum(), hits / positive.sum()
    return pd.DataFrame({"fpr": np.r_[0.0, fpr], "tpr": np.r_[0.0, tpr], "threshold": np.r_[np.inf, ends]})


def precision_recall_curve(positive: Bool[np.ndarray, " n"], scores: Float64[np.ndarray, " n"]) -> pd.DataFrame:
    """Precision over recall, one point per distinct score.

    Args:
        positive: What each row is.
        scores: Higher means positive.

    Returns:
        recall (rising from 0), precision and threshold; the first point has the precision of the highest score.

    Raises:
        EvaluationError: If no row is positive.
    """
    _check(positive, need_negative=False)
    ends, hits, called = _cumulative(positive, scores)
    precision = hits / called
    return pd.DataFrame(
        {
            "recall": np.r_[0.0, hits / positive.sum()],
            "precision": np.r_[precision[:1], precision],
            "threshold": np.r_[np.inf, ends],
        }
    )


def vertical_average(table: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Mean of the folds' curves at fixed positions.

    Args:
        table: ``class``, ``repeat`` (−1 for the pooled curve, which is left out), ``fold``, ``x`` and ``y``.
        x: Column of positions, rising within a curve.
        y: Column of values.

    Returns:
        class, x (101 positions), y (mean over folds), sd (ddof 0), n_folds.

    References:
        T. Fawcett, *An introduction to ROC analysis*, 2006, section 8 (vertical averaging).
    """
    parts = []
    for name, of_class in table[table["repeat"] >= 0].groupby("class", sort=False):
        lines = [
            at_grid(part[x].to_numpy(np.float64), part[y].to_numpy(np.float64), falling=x == "recall")
            for _, part in of_class.groupby(["repeat", "fold"], sort=True)
        ]
        mean, sd = np.mean(lines, axis=0), np.std(lines, axis=0)
        parts.append(pd.DataFrame({"class": name, x: GRID, y: mean, "sd": sd, "n_folds": len(lines)}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["class", x, y, "sd", "n_folds"])


def at_grid(
    x: Float64[np.ndarray, " k"], y: Float64[np.ndarray, " k"], *, falling: bool = False
) -> Float64[np.ndarray, " g"]:
    """A curve's values at the grid.

    Args:
        x: Positions, rising.
        y: Values.
        falling: Take the value of the first point that reaches a position (precision at a recall), instead of a
            straight line between points (ROC; where it rises at one position, its highest value).

    Returns:
        One value per position of :data:`GRID`.
    """
    if falling:
        # the small step lets a recall that is a whole share of a hundred count as reached
        return y[np.minimum(np.searchsorted(x, GRID - 1e-12, side="left"), len(x) - 1)]
    last = np.append(np.diff(x) > 0, True)
    return np.asarray(np.interp(GRID, x[last], y[last]), np.float64)


def class_views(outcomes: Outcomes) -> Iterator[tuple[str, Int64[np.ndarray, " m"], Binary]]:
    """Each class (binary: the positive one; ordinal: each threshold) with its rows, truths and scores."""
    target, everything = outcomes.target, np.arange(len(outcomes.values))
    if target.type == "binary":
        name = target.classes[1]
        yield name, everything, (outcomes.truth() == 1, outcomes.column(f"p_{name}"))
    elif target.type == "multiclass":
        for k, name in enumerate(target.classes):
            yield name, everything, (outcomes.truth() == k, outcomes.column(f"p_{name}"))
    elif target.type == "ordinal":
        for k, name in enumerate(target.classes[1:], start=1):
            yield name, everything, (outcomes.truth() >= k, outcomes.at_least(k))
    elif target.type == "multilabel":
        for j, name in enumerate(target.classes):
            known = np.flatnonzero(~np.isnan(outcomes.values[:, j]))
            yield name, known, (outcomes.values[known, j] == 1, outcomes.column(f"p_{name}")[known])


def threshold_curves(rows: Rows, *, n_boot: int, seed: int, level: float = 0.95) -> dict[str, pd.DataFrame]:
    """ROC and precision-recall curves: pooled, of each fold, their vertical average, bootstrap bands.

    Args:
        rows: Predictions with labels, of classes.
        n_boot: Resamples of patients for the bands; 0 for none.
        seed: Of the draws.
        level: Share that a band covers at each position.

    Returns:
        roc and pr: class, repeat, fold (both −1 for the pooled curve), fpr and tpr, or recall and precision; roc_mean
        and pr_mean: as :func:`vertical_average`; roc_band and pr_band: class, position, low, high. A curve that is not
        defined is left out.
    """
    kinds = (("roc", "fpr", "tpr", roc_curve, True), ("pr", "recall", "precision", precision_recall_curve, False))
    found = {}
    folds = {(-1, -1): np.arange(len(rows)), **rows.groups("repeat", "fold")}
    for kind, x, y, draw, need_negative in kinds:
        parts = []
        for (repeat, fold), members in folds.items():
            for name, _, (positive, scores) in class_views(rows.outcomes(members)):
                if positive.any() and (not need_negative or not positive.all()):
                    curve = _thinned(draw(positive, scores)[[x, y]]).assign(repeat=repeat, fold=fold)
                    parts.append(curve.assign(**{"class": name}))
        columns = ["class", "repeat", "fold", x, y]
        found[kind] = pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)
        found[f"{kind}_mean"] = vertical_average(found[kind], x, y)
        if n_boot:
            found[f"{kind}_band"] = _bands(rows, x, (n_boot, seed, level))
    return found


def _thinned(curve: pd.DataFrame) -> pd.DataFrame:
    """At most :data:`MAX_POINTS` points, the ends among them: more cannot be seen, and would be most of the folder."""
    if len(curve) <= MAX_POINTS:
        return curve
    return curve.iloc[np.linspace(0, len(curve) - 1, MAX_POINTS).round().astype(int)]


def confusion_table(rows: Rows) -> pd.DataFrame:
    """How many rows of each class were called which: label, prediction, n. One repeat counts as much as another."""
    outcomes, classes = rows.outcomes(), rows.target.classes
    cells = outcomes.truth() * len(classes) + outcomes.called()
    counts = np.bincount(cells, minlength=len(classes) ** 2)
    pairs = [(label, called) for label in classes for called in classes]
    return pd.DataFrame({"label": [a for a, _ in pairs], "prediction": [b for _, b in pairs], "n": counts})


def calibration_table(rows: Rows, n_bins: int = 10) -> pd.DataFrame:
    """Reliability of each class: class, and the columns of a reliability curve."""
    parts = [
        reliability_curve(positive, scores, n_bins=n_bins).assign(**{"class": name})
        for name, _, (positive, scores) in class_views(rows.outcomes())
        if len(positive)
    ]
    return pd.concat(parts, ignore_index=True)


def has_classes(target: Target) -> bool:
    """Whether the target's predictions are probabilities of classes."""
    return target.type in ("binary", "multiclass", "multilabel", "ordinal")


def _bands(rows: Rows, x: str, settings: tuple[int, int, float]) -> pd.DataFrame:
    (n_boot, seed, level), parts = settings, list[pd.DataFrame]()
    patients = rows.patients()
    for name, members, (positive, scores) in class_views(rows.outcomes()):
        if not positive.any() or positive.all():
            continue
        lines = resampled(_line_at_grid(positive, scores, members, falling=x == "recall"), patients, n_boot, seed)
        known = lines[~np.isnan(lines).any(axis=1)]
        if len(known):
            low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2], axis=0)
            parts.append(pd.DataFrame({"class": name, x: GRID, "low": low, "high": high}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["class", x, "low", "high"])


def _line_at_grid(
    positive: Bool[np.ndarray, " m"],
    scores: Float64[np.ndarray, " m"],
    members: Int64[np.ndarray, " m"],
    *,
    falling: bool,
) -> Callable[[Float64[np.ndarray, "b n"]], Float64[np.ndarray, "b g"]]:
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits, place = positive[order], members[order]

    def lines(weights: Float64[np.ndarray, "b n"]) -> Float64[np.ndarray, "b g"]:
        drawn = pick(weights, place)
        found = np.cumsum(drawn * hits, axis=1)[:, ends]
        called = np.cumsum(drawn, axis=1)[:, ends]
        out = np.full((len(weights), len(GRID)), np.nan)
        for i, (tp, all_) in enumerate(zip(found, called, strict=True)):
            n_negative = all_[-1] - tp[-1]
            if tp[-1] == 0 or n_negative == 0:
                continue
            if falling:
                seen = all_ > 0
                out[i] = at_grid(tp[seen] / tp[-1], tp[seen] / all_[seen], falling=True)
            else:
                out[i] = at_grid(np.r_[0.0, (all_ - tp) / n_negative], np.r_[0.0, tp / tp[-1]])
        return out

    return lines


def _cumulative(
    positive: Bool[np.ndarray, " n"], scores: Float64[np.ndarray, " n"]
) -> tuple[Float64[np.ndarray, " k"], Float64[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
    """Distinct scores, falling; positives and rows with at least that score."""
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    ends = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1)
    hits = np.cumsum(positive[order])[ends].astype(np.float64)
    return falling[ends], hits, ends + 1.0


def _check(positive: Bool[np.ndarray, " n"], *, need_negative: bool) -> None:
    if not positive.any() or (need_negative and positive.all()):
        raise EvaluationError(f"The curve needs both classes. Got {int(positive.sum())} positive of {len(positive)}.")
