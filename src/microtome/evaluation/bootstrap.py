"""Intervals by drawing patients again: all rows of a patient are drawn together."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

from microtome.errors import ConfigError

IntervalKind = Literal["percentile", "basic"]

_BLOCK = 1 << 18  # weights in hand at once: they stay in the processor's cache


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with what resampling says of it.

    Attributes:
        low: Lower end; NaN where nothing can be said.
        high: Upper end.
        n_undefined: Resamples in which the statistic has no value; they do not count.
    """

    low: float
    high: float
    n_undefined: int


def patient_draws(patients: Int64[np.ndarray, " n"], n_boot: int, seed: int) -> Iterator[Float64[np.ndarray, "b n"]]:
    """How often each row is drawn when patients are drawn with replacement.

    Args:
        patients: Number of each row's patient, 0 to their number less 1.
        n_boot: Resamples.
        seed: Of the draws; the same seed and number of patients draw the same patients.

    Yields:
        Blocks of resamples, each a row of counts; the blocks' size has no effect on the draws.
    """
    n_patients, rng = int(patients.max(initial=-1)) + 1, np.random.default_rng(seed)
    each_once = len(patients) == n_patients and np.array_equal(patients, np.arange(n_patients))
    size = max(1, _BLOCK // max(1, len(patients)))
    for start in range(0, n_boot, size):
        counts = np.empty((min(size, n_boot - start), n_patients))
        for row in counts:
            drawn = rng.integers(n_patients, size=n_patients, dtype=np.int32)
            row[:] = np.bincount(drawn, minlength=n_patients)
        yield counts if each_once else np.take(counts, patients, axis=1)


def resampled(
    statistics: Callable[[Float64[np.ndarray, "b n"]], Float64[np.ndarray, "b m"]],
    patients: Int64[np.ndarray, " n"],
    n_boot: int,
    seed: int,
) -> Float64[np.ndarray, "n_boot m"]:
    """Statistics of every resample.

    Args:
        statistics: From weights of rows to m values per resample.
        patients: As for :func:`patient_draws`.
        n_boot: Resamples, at least 1.
        seed: Of the draws.

    Returns:
        One row per resample; NaN where a statistic is undefined.
    """
    return np.concatenate([statistics(weights) for weights in patient_draws(patients, n_boot, seed)])


def interval(
    estimate: float,
    resamples: Float64[np.ndarray, " b"],
    *,
    level: float = 0.95,
    kind: IntervalKind = "percentile",
) -> Interval:
    """The interval of an estimate.

    Args:
        estimate: Of all rows.
        resamples: Of each resample; NaN is left out and counted.
        level: Share that the interval is to cover, between 0 and 1.
        kind: percentile: quantiles of the resamples; basic: these mirrored at the estimate.

    Returns:
        Ends, NaN where the estimate is or all resamples are.

    Raises:
        ConfigError: If the level is out of range.

    References:
        A. C. Davison and D. V. Hinkley, *Bootstrap Methods and their Application*, 1997, sections 5.2 and 5.3.

    Example:
        >>> interval(0.5, np.array([0.25, 0.5, 1.0, np.nan]), level=0.5, kind="basic")
        Interval(low=0.25, high=0.625, n_undefined=1)
    """
    if not 0 < level < 1:
        raise ConfigError(f"level must be between 0 and 1. Got {level}.")
    known = resamples[~np.isnan(resamples)]
    n_undefined = len(resamples) - len(known)
    if not len(known) or np.isnan(estimate):
        return Interval(float("nan"), float("nan"), n_undefined)
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    if kind == "basic":
        low, high = 2 * estimate - high, 2 * estimate - low
    return Interval(float(low), float(high), n_undefined)
