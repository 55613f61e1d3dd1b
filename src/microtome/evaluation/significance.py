"""Are two models different: DeLong, McNemar, sensitivity and specificity at a threshold, Holm's correction."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped
from scipy.special import ndtr, ndtri

from microtome.errors import EvaluationError
from microtome.evaluation.reliability import share_interval


@dataclass(frozen=True, slots=True)
class AucVariance:
    """AUCs of models on the same rows, and how they vary together.

    Attributes:
        auc: Of each model.
        covariance: Of the AUCs.
        n_clusters: Patients, or rows where each is a patient of its own.
    """

    auc: Float64[np.ndarray, " m"]
    covariance: Float64[np.ndarray, "m m"]
    n_clusters: int


@dataclass(frozen=True, slots=True)
class DeLongTest:
    """Two AUCs compared.

    Attributes:
        auc_a: Of the first model.
        auc_b: Of the second.
        difference: ``auc_b - auc_a``.
        se: Standard error of the difference.
        low: Lower end of its interval.
        high: Upper end.
        p_value: Two-sided; 1 where both rank all pairs alike.
    """

    auc_a: float
    auc_b: float
    difference: float
    se: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True, slots=True)
class McNemarTest:
    """Two classifiers on the same rows.

    Attributes:
        only_a: Rows that only the first has right.
        only_b: Rows that only the second has right.
        p_value: Two-sided, exact.
    """

    only_a: int
    only_b: int
    p_value: float


@dataclass(frozen=True, slots=True)
class Operating:
    """Calls at a threshold.

    Attributes:
        sensitivity: Share of the positives called; NaN without positives. With ``low`` and ``high`` (Wilson).
        specificity: Share of the negatives not called.
        ppv: Share of the called that are positive.
        npv: Share of the others that are negative.
        counts: True positives, false negatives, false positives, true negatives.
    """

    sensitivity: tuple[float, float, float]
    specificity: tuple[float, float, float]
    ppv: tuple[float, float, float]
    npv: tuple[float, float, float]
    counts: tuple[int, int, int, int]


def auc_variance(
    positive: Bool[np.ndarray, " n"],
    scores: Float64[np.ndarray, "m rows"],
    clusters: Shaped[np.ndarray, " n"] | None = None,
) -> AucVariance:
    """AUCs with their covariance, without resampling.

    Args:
        positive: What each row is; both classes with two rows (clusters) or more.
        scores: One row per model; higher means positive.
        clusters: Patient of each row, whose rows may vary together; None where each row is a patient of its own.

    Returns:
        AUCs and covariance. With one row per cluster this is DeLong's.

    Raises:
        EvaluationError: If a class has fewer than two clusters, shapes do not fit, or scores are NaN.

    References:
        E. R. DeLong et al., *Comparing the areas under two or more correlated receiver operating characteristic
        curves*, 1988, by the mid-ranks of X. Sun and W. Xu, 2014; N. A. Obuchowski, *Nonparametric analysis of
        clustered ROC curve data*, 1997.
    """
    from scipy.stats import rankdata  # takes a second to import

    _check_scores(positive, scores)
    members = np.arange(len(positive)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    n_clusters, n_case, n_control = int(members.max()) + 1, int(positive.sum()), int((~positive).sum())
    with_case, with_control = len(np.unique(members[positive])), len(np.unique(members[~positive]))
    if min(with_case, with_control) < 2:
        raise EvaluationError(
            f"The variance of an AUC needs two patients or more of each class. Got {with_case} with positive and "
            f"{with_control} with negative rows."
        )
    cases, controls = scores[:, positive], scores[:, ~positive]
    ranks = rankdata(np.concatenate([cases, controls], axis=1), axis=1)
    of_case = (ranks[:, :n_case] - rankdata(cases, axis=1)) / n_control
    of_control = 1 - (ranks[:, n_case:] - rankdata(controls, axis=1)) / n_case
    auc = of_case.mean(axis=1)
    case_sums = _sums(of_case - auc[:, None], members[positive], n_clusters)
    control_sums = _sums(of_control - auc[:, None], members[~positive], n_clusters)
    covariance = (
        with_case / (with_case - 1) * (case_sums @ case_sums.T) / n_case**2
        + with_control / (with_control - 1) * (control_sums @ control_sums.T) / n_control**2
    )
    if clusters is not None:
        cross = case_sums @ control_sums.T
        covariance = covariance + n_clusters / (n_clusters - 1) * (cross + cross.T) / (n_case * n_control)
    return AucVariance(auc, covariance, n_clusters)


def delong_test(
    positive: Bool[np.ndarray, " n"],
    a: Float64[np.ndarray, " n"],
    b: Float64[np.ndarray, " n"],
    *,
    clusters: Shaped[np.ndarray, " n"] | None = None,
    level: float = 0.95,
) -> DeLongTest:
    """Compare the AUCs of two models on the same rows.

    Args:
        positive: What each row is.
        a: Scores of the first model.
        b: Scores of the second.
        clusters: Patient of each row; None where each row is a patient of its own.
        level: Of the interval of the difference.

    Returns:
        Difference, interval and p-value.

    Raises:
        EvaluationError: As :func:`auc_variance`.
    """
    found = auc_variance(positive, np.stack([a, b]), clusters)
    difference = float(found.auc[1] - found.auc[0])
    variance = float(found.covariance[0, 0] + found.covariance[1, 1] - 2 * found.covariance[0, 1])
    se = float(np.sqrt(max(0.0, variance)))
    reach = float(ndtri((1 + level) / 2)) * se
    p_value = (
        1.0 if abs(difference) < 1e-12 else 0.0
    )  # without a variance: both rank all pairs alike, or all oppositely
    if se > 1e-12:
        p_value = float(2 * ndtr(-abs(difference) / se))
    return DeLongTest(
        float(found.auc[0]), float(found.auc[1]), difference, se, difference - reach, difference + reach, p_value
    )


def auc_interval(
    positive: Bool[np.ndarray, " n"],
    scores: Float64[np.ndarray, " n"],
    *,
    clusters: Shaped[np.ndarray, " n"] | None = None,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """AUC with DeLong's interval, drawn on the logit's scale so that it stays within 0 and 1.

    Args:
        positive: What each row is.
        scores: Higher means positive.
        clusters: Patient of each row; None where each row is a patient of its own.
        level: Share that the interval is to cover.

    Returns:
        AUC, low, high. An AUC of 0 or 1 has no variance: its interval has no width, which is no evidence.

    Raises:
        EvaluationError: As :func:`auc_variance`.

    References:
        G. Qin and L. Hotilovac, *Comparison of non-parametric confidence intervals for the area under the ROC curve*,
        2008.
    """
    found = auc_variance(positive, scores[None, :], clusters)
    auc, se = float(found.auc[0]), float(np.sqrt(max(0.0, float(found.covariance[0, 0]))))
    if not 0 < auc < 1:
        return auc, auc, auc
    reach = float(ndtri((1 + level) / 2)) * se / (auc * (1 - auc))
    centre = np.log(auc / (1 - auc))
    low, high = (float(1 / (1 + np.exp(-end))) for end in (centre - reach, centre + reach))
    return auc, low, high


def mcnemar_test(right_a: Bool[np.ndarray, " n"], right_b: Bool[np.ndarray, " m"]) -> McNemarTest:
    """Does one classifier have more rows right than the other, on the same rows.

    Args:
        right_a: Rows that the first has right. For sensitivities pass the positives only, for specificities the
            negatives.
        right_b: Rows that the second has right.

    Returns:
        Discordant rows and the exact two-sided p-value; 1 where none is discordant.

    Raises:
        EvaluationError: If the two differ in length.

    References:
        Q. McNemar, *Note on the sampling error of the difference between correlated proportions*, 1947.

    Example:
        >>> mcnemar_test(np.array([True] * 6), np.array([False] * 6)).p_value
        0.03125
    """
    from scipy.stats import binomtest  # takes a second to import

    if len(right_a) != len(right_b):
        raise EvaluationError(f"Both models must judge the same rows. Got {len(right_a)} and {len(right_b)}.")
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    p_value = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return McNemarTest(only_a, only_b, p_value)


def operating_point(
    positive: Bool[np.ndarray, " n"], called: Bool[np.ndarray, " m"], *, level: float = 0.95
) -> Operating:
    """Sensitivity, specificity and predictive values of calls, with intervals.

    Args:
        positive: What each row is.
        called: Whether it was called positive, for example ``scores >= 0.5``.
        level: Of the intervals (Wilson); they take rows as independent.

    Returns:
        Each as (share, low, high), NaN where it has no row to divide by.

    Raises:
        EvaluationError: If the two differ in length.
    """
    if len(positive) != len(called):
        raise EvaluationError(f"There are {len(positive)} truths and {len(called)} calls. Give one of each per row.")
    tp, fn = int((positive & called).sum()), int((positive & ~called).sum())
    fp, tn = int((~positive & called).sum()), int((~positive & ~called).sum())

    def share(hits: int, misses: int) -> tuple[float, float, float]:
        if hits + misses == 0:
            return (float("nan"),) * 3
        low, high = share_interval(np.array([float(hits)]), np.array([float(hits + misses)]), level=level)
        return hits / (hits + misses), float(low[0]), float(high[0])

    return Operating(share(tp, fn), share(tn, fp), share(tp, fp), share(tn, fn), (tp, fn, fp, tn))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: p-values that hold for a whole table.

    Args:
        p_values: Of the comparisons; NaN where there was none, which stays NaN and does not count.

    Returns:
        Corrected values in the same order, at most 1.

    Raises:
        EvaluationError: If a value lies outside 0..1.

    References:
        S. Holm, *A simple sequentially rejective multiple test procedure*, 1979.

    Example:
        >>> holm([0.25, 0.125, float("nan")])
        [0.25, 0.25, nan]
    """
    values = np.asarray(p_values, np.float64)
    known = np.flatnonzero(~np.isnan(values))
    if ((values[known] < 0) | (values[known] > 1)).any():
        raise EvaluationError(f"p-values must lie between 0 and 1. Got {values.tolist()}.")
    rising = known[np.argsort(values[known], kind="stable")]
    steps = values[rising] * np.arange(len(rising), 0, -1)
    found = np.full(len(values), np.nan)
    found[rising] = np.minimum(1.0, np.maximum.accumulate(steps)) if len(rising) else steps
    return [float(p) for p in found]


def _sums(
    parts: Float64[np.ndarray, "m k"], members: Int64[np.ndarray, " k"], n_clusters: int
) -> Float64[np.ndarray, "m c"]:
    return np.stack([np.bincount(members, row, minlength=n_clusters) for row in parts])


def _check_scores(positive: Bool[np.ndarray, " n"], scores: Float64[np.ndarray, "m rows"]) -> None:
    if scores.ndim != 2 or scores.shape[1] != len(positive):
        raise EvaluationError(f"There are {len(positive)} labels and scores of shape {scores.shape}.")
    if np.isnan(scores).any():
        raise EvaluationError("Scores are NaN. Leave those rows out.")
    if not positive.any() or positive.all():
        raise EvaluationError("An AUC needs rows of both classes.")
