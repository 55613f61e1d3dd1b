"""Statistics of weighted rows, for many weightings at once.

A resample of rows is a row of weights: how often each was drawn. What does not depend on the weights (sorting, ties)
is done once; each function here returns another one, from (b, n) weights to (b,) values, NaN where undefined.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped

Weighted = Callable[[Float64[np.ndarray, "b n"]], Float64[np.ndarray, " b"]]
"""From weights of the rows to a value per weighting."""


def ratio(above: Float64[np.ndarray, "*s"], below: Float64[np.ndarray, "*s"]) -> Float64[np.ndarray, "*s"]:
    """The quotient, NaN where ``below`` is 0."""
    out = np.full(np.broadcast_shapes(above.shape, below.shape), np.nan)
    np.divide(above, below, out=out, where=below != 0)
    return out


def pick(weights: Float64[np.ndarray, "b n"], rows: Int64[np.ndarray, " m"]) -> Float64[np.ndarray, "b m"]:
    """Columns of the weights; several times quicker than an index in brackets."""
    found: Float64[np.ndarray, "b m"] = np.take(weights, rows, axis=1)
    return found


class Pairs:
    """Pairs of a case and a control: how often the case scores higher, ties counting half.

    Args:
        scores: Of all rows.
        cases: Rows on one side.
        controls: Rows on the other.

    Attributes:
        cases: The rows, by rising score.
        controls: The rows, by rising score.
    """

    def __init__(
        self, scores: Float64[np.ndarray, " n"], cases: Int64[np.ndarray, " k"], controls: Int64[np.ndarray, " m"]
    ) -> None:
        self.cases = cases[np.argsort(scores[cases], kind="stable")]
        self.controls = controls[np.argsort(scores[controls], kind="stable")]
        self._below = np.searchsorted(scores[self.controls], scores[self.cases], side="left")
        self._not_above = np.searchsorted(scores[self.controls], scores[self.cases], side="right")
        self._ties = not np.array_equal(self._below, self._not_above)

    def share(
        self, case_weights: Float64[np.ndarray, "b k"], control_weights: Float64[np.ndarray, "b m"]
    ) -> Float64[np.ndarray, " b"]:
        """Share of the pairs' weight, 0..1, from weights of ``cases`` and ``controls``; NaN where there is no pair."""
        sums = running(control_weights)
        won = np.einsum("bk,bk->b", case_weights, pick(sums, self._below))
        if self._ties:
            won = (won + np.einsum("bk,bk->b", case_weights, pick(sums, self._not_above))) / 2
        return ratio(won, case_weights.sum(axis=1) * sums[:, -1])


def running(values: Float64[np.ndarray, "b n"]) -> Float64[np.ndarray, "b n1"]:
    """Running sums, from 0."""
    sums = np.zeros((len(values), values.shape[1] + 1))
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums


def auroc(positive: Bool[np.ndarray, " n"], scores: Float64[np.ndarray, " n"]) -> Weighted:
    """Area under the ROC curve; ties count half."""
    pairs = Pairs(scores, np.flatnonzero(positive), np.flatnonzero(~positive))
    return lambda weights: pairs.share(pick(weights, pairs.cases), pick(weights, pairs.controls))


def average_precision(positive: Bool[np.ndarray, " n"], scores: Float64[np.ndarray, " n"]) -> Weighted:
    """Sum over thresholds of the step in recall times the precision, as scikit-learn computes it."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of runs of equal scores
    hits = positive[order].astype(np.float64)

    def area(weights: Float64[np.ndarray, "b n"]) -> Float64[np.ndarray, " b"]:
        drawn = pick(weights, order)
        called = pick(np.cumsum(drawn, axis=1), ends)
        found = pick(np.cumsum(drawn * hits, axis=1), ends)
        precision = np.divide(found, called, out=np.zeros_like(found), where=called > 0)
        steps = np.diff(found, axis=1, prepend=0.0)
        return ratio((steps * precision).sum(axis=1), found[:, -1])

    return area


class Confusion:
    """Weights of each pair of true and predicted class; the last answer is kept for other statistics of it.

    Args:
        truth: Class numbers.
        called: Predicted class numbers.
        n_classes: How many there are.
    """

    def __init__(self, truth: Int64[np.ndarray, " n"], called: Int64[np.ndarray, " n"], n_classes: int) -> None:
        self._cells, self._n_classes = truth * n_classes + called, n_classes
        self._last: tuple[Float64[np.ndarray, "b n"], Float64[np.ndarray, "b c c"]] | None = None

    def __call__(self, weights: Float64[np.ndarray, "b n"]) -> Float64[np.ndarray, "b c c"]:
        """Rows are true, columns predicted classes."""
        if self._last is None or self._last[0] is not weights:
            sums = [np.bincount(self._cells, row, minlength=self._n_classes**2) for row in weights]
            table = np.array(sums, np.float64).reshape(len(weights), self._n_classes, self._n_classes)
            self._last = weights, table
        return self._last[1]


def accuracy(table: Float64[np.ndarray, "b c c"]) -> Float64[np.ndarray, " b"]:
    """Share on the diagonal."""
    return ratio(np.trace(table, axis1=1, axis2=2), table.sum(axis=(1, 2)))


def balanced_accuracy(table: Float64[np.ndarray, "b c c"]) -> Float64[np.ndarray, " b"]:
    """Mean recall of the classes that occur."""
    return mean_of_defined(ratio(np.diagonal(table, axis1=1, axis2=2), table.sum(axis=2)))


def f1_per_class(table: Float64[np.ndarray, "b c c"]) -> Float64[np.ndarray, "b c"]:
    """F1 of each class; NaN for one that neither occurs nor is predicted."""
    hits = np.diagonal(table, axis1=1, axis2=2)
    return ratio(2 * hits, table.sum(axis=1) + table.sum(axis=2))


def quadratic_kappa(table: Float64[np.ndarray, "b c c"]) -> Float64[np.ndarray, " b"]:
    """Cohen's kappa with quadratic weights."""
    grades = np.arange(table.shape[1])
    distance = np.square(grades[:, None] - grades[None, :]).astype(np.float64)
    rows, columns = table.sum(axis=2), table.sum(axis=1)
    observed = np.einsum("bij,ij->b", table, distance)
    expected = np.einsum("bi,bj,ij->b", rows, columns, distance)
    return 1 - ratio(observed * rows.sum(axis=1), expected)


def mean_of_defined(values: Float64[np.ndarray, "b c"]) -> Float64[np.ndarray, " b"]:
    """Mean over the columns that are not NaN; NaN where all are."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0).sum(axis=1), known.sum(axis=1).astype(np.float64))


def mean(values: Float64[np.ndarray, " n"]) -> Weighted:
    """Weighted mean."""
    return lambda weights: ratio(weights @ values, weights.sum(axis=1))


def r2(truth: Float64[np.ndarray, " n"], predicted: Float64[np.ndarray, " n"]) -> Weighted:
    """Share of the variance that is explained; NaN where the truth is constant."""
    centred = truth - truth.mean() if len(truth) else truth
    errors = np.square(truth - predicted)

    def share(weights: Float64[np.ndarray, "b n"]) -> Float64[np.ndarray, " b"]:
        return 1 - ratio(weights @ errors, _variances(centred[None, :], weights) * weights.sum(axis=1))

    return share


def pearson(first: Float64[np.ndarray, " n"], second: Float64[np.ndarray, " n"]) -> Weighted:
    """Linear correlation, -1..1; NaN where either is constant."""
    a, b = (part - part.mean() if len(part) else part for part in (first, second))
    return lambda weights: _correlation(a[None, :], b[None, :], weights)


def spearman(first: Float64[np.ndarray, " n"], second: Float64[np.ndarray, " n"]) -> Weighted:
    """Correlation of ranks, -1..1, tied values at their mean rank; NaN where either is constant."""
    rank_first, rank_second = _ranks(first), _ranks(second)
    return lambda weights: _correlation(rank_first(weights), rank_second(weights), weights)


def _ranks(values: Float64[np.ndarray, " n"]) -> Callable[[Float64[np.ndarray, "b n"]], Float64[np.ndarray, "b n"]]:
    """Middle ranks within each weighting, less a constant half."""
    order = np.argsort(values, kind="stable")
    new = np.append(True, np.diff(values[order]) != 0) if len(values) else np.zeros(0, bool)
    starts, place = np.flatnonzero(new), np.empty(len(values), np.int64)
    place[order] = np.cumsum(new) - 1

    def ranks(weights: Float64[np.ndarray, "b n"]) -> Float64[np.ndarray, "b n"]:
        sizes = np.add.reduceat(pick(weights, order), starts, axis=1)
        middle = np.cumsum(sizes, axis=1) - sizes / 2
        return pick(middle - weights.sum(axis=1, keepdims=True) / 2, place)

    return ranks


def _variances(values: Float64[np.ndarray, "#b n"], weights: Float64[np.ndarray, "b n"]) -> Float64[np.ndarray, " b"]:
    """Weighted variances; exactly 0 where all values with a weight are equal."""
    drawn = weights > 0
    low = np.where(drawn, values, np.inf).min(axis=1, initial=np.inf)
    high = np.where(drawn, values, -np.inf).max(axis=1, initial=-np.inf)
    total = weights.sum(axis=1)
    centre = ratio((weights * values).sum(axis=1), total)
    spread = ratio((weights * np.square(values - centre[:, None])).sum(axis=1), total)
    spread[low >= high] = 0.0
    return spread


def _correlation(
    first: Float64[np.ndarray, "#b n"], second: Float64[np.ndarray, "#b n"], weights: Float64[np.ndarray, "b n"]
) -> Float64[np.ndarray, " b"]:
    total = weights.sum(axis=1)
    a, b = (part - ratio((weights * part).sum(axis=1), total)[:, None] for part in (first, second))
    together = ratio((weights * a * b).sum(axis=1), total)
    scale = np.sqrt(_variances(first, weights) * _variances(second, weights))
    found: Any = np.clip(ratio(together, scale), -1.0, 1.0)
    return np.asarray(found, np.float64)


def runs(values: Shaped[np.ndarray, " n"]) -> tuple[Shaped[np.ndarray, " k"], Int64[np.ndarray, " n"]]:
    """Values that occur, rising, and the place of each row's among them."""
    found, place = np.unique(values, return_inverse=True)
    return found, place.astype(np.int64)
