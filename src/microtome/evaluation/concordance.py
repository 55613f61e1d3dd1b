"""Ranking of survival times by risk: Harrell's and Uno's C, time-dependent AUC, integrated Brier score.

Weights of rows as in :mod:`microtome.evaluation.weighted`. A higher risk means an earlier event. A pair is comparable
where one subject has an event and the other is known to have lived longer: later in time, or censored at the same time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from microtome.evaluation.weighted import Pairs, Weighted, pick, ratio, running, runs


@dataclass(frozen=True, slots=True)
class PairCounts:
    """Pairs of subjects.

    Attributes:
        concordant: The one with the event has the higher risk.
        tied_risk: Both have the same risk.
        comparable: All that can be compared.
    """

    concordant: int
    tied_risk: int
    comparable: int


def count_pairs(
    time: Float64[np.ndarray, " n"], event: Bool[np.ndarray, " n"], risk: Float64[np.ndarray, " n"]
) -> PairCounts:
    """Concordant, tied and comparable pairs, as lifelines counts them.

    Args:
        time: To the event or to the end of observation.
        event: Whether it happened.
        risk: Higher means earlier.

    Returns:
        The counts.

    Example:
        >>> count_pairs(np.array([1.0, 2.0, 3.0]), np.array([True, False, True]), np.array([0.5, 0.5, 0.1]))
        PairCounts(concordant=1, tied_risk=1, comparable=2)
    """
    below, tied, comparable = _Comparable(time, event, risk).sums(np.ones((1, len(time))))
    return PairCounts(int(below.sum()), int(tied.sum()), int(comparable.sum()))


def harrell(
    time: Float64[np.ndarray, " n"], event: Bool[np.ndarray, " n"], risk: Float64[np.ndarray, " n"]
) -> Weighted:
    """Harrell's C: share of the comparable pairs that are concordant, tied risks counting half.

    References:
        F. E. Harrell et al., *Evaluating the yield of medical tests*, JAMA 1982; pairs as in lifelines.
    """
    pairs = _Comparable(time, event, risk)

    def share(weights: Float64[np.ndarray, "b n"]) -> Float64[np.ndarray, " b"]:
        below, tied, comparable = pairs.sums(weights)
        own = pick(weights, pairs.events)
        return ratio((own * (below + tied / 2)).sum(axis=1), (own * comparable).sum(axis=1))

    return share


def uno(
    time: Float64[np.ndarray, " n"],
    event: Bool[np.ndarray, " n"],
    risk: Float64[np.ndarray, " n"],
    *,
    tau: float | None = None,
) -> Weighted:
    """Uno's C: pairs weighted by the inverse squared probability of not being censored by then.

    Args:
        time: To the event or to the end of observation.
        event: Whether it happened.
        risk: Higher means earlier.
        tau: Count only events before this time; None for all.

    Returns:
        From weights to C. The censoring curve is that of the weighted rows themselves. NaN where it is 0 at an
        event that counts.

    References:
        H. Uno et al., *On the C-statistics for evaluating overall adequacy of risk prediction procedures with censored
        survival data*, Statistics in Medicine 2011; the curve at, not before, the event's time, as in scikit-survival.
    """
    pairs, curves = _Comparable(time, event, risk), Curves(time, event)
    early = time[pairs.events] < tau if tau is not None else np.ones(len(pairs.events), bool)

    def share(weights: Float64[np.ndarray, "b n"]) -> Float64[np.ndarray, " b"]:
        below, tied, comparable = pairs.sums(weights)
        own = pick(weights, pairs.events) * early
        own = _over(own, np.square(pick(curves.censoring(weights), curves.place[pairs.events])))
        return ratio((own * (below + tied / 2)).sum(axis=1), (own * comparable).sum(axis=1))

    return share


def time_auc(
    time: Float64[np.ndarray, " n"], event: Bool[np.ndarray, " n"], risk: Float64[np.ndarray, " n"], horizon: float
) -> Weighted:
    """AUC of having had the event by the horizon against living beyond it, censoring weighted out.

    Args:
        time: To the event or to the end of observation.
        event: Whether it happened.
        risk: Higher means earlier.
        horizon: In the unit of ``time``.

    Returns:
        From weights to the AUC, 0..1.

    References:
        H. Hung and C.-T. Chiang, *Estimation methods for time-dependent AUC models with survival data*, 2010
        (cumulative cases, dynamic controls), as in scikit-survival.
    """
    cases, controls = np.flatnonzero(event & (time <= horizon)), np.flatnonzero(time > horizon)
    pairs, curves = Pairs(risk, cases, controls), Curves(time, event)

    def area(weights: Float64[np.ndarray, "b n"]) -> Float64[np.ndarray, " b"]:
        own = _over(pick(weights, pairs.cases), pick(curves.censoring(weights), curves.place[pairs.cases]))
        return pairs.share(own, pick(weights, pairs.controls))

    return area


def mean_time_auc(
    time: Float64[np.ndarray, " n"],
    event: Bool[np.ndarray, " n"],
    risk: Float64[np.ndarray, " n"],
    horizons: Sequence[float],
) -> Weighted:
    """Time-dependent AUC averaged over horizons, each with the share of events since the one before.

    References:
        J. Lambert and S. Chevret, *Summary measure of discrimination in survival models based on cumulative/dynamic
        time-dependent ROC curves*, 2016, as in scikit-survival.
    """
    parts, curves = [time_auc(time, event, risk, h) for h in horizons], Curves(time, event)
    places = [curves.place_at(h) for h in horizons]

    def area(weights: Float64[np.ndarray, "b n"]) -> Float64[np.ndarray, " b"]:
        alive = np.insert(curves.survival(weights), 0, 1.0, axis=1)[:, np.array(places) + 1]
        steps = -np.diff(alive, axis=1, prepend=1.0)
        values = np.stack([part(weights) for part in parts], axis=1)
        return ratio(np.where(steps > 0, values * steps, 0.0).sum(axis=1), steps.sum(axis=1))

    return area


def integrated_brier(
    time: Float64[np.ndarray, " n"],
    event: Bool[np.ndarray, " n"],
    survival: Float64[np.ndarray, "n t"],
    horizons: Float64[np.ndarray, " t"],
) -> Weighted:
    """Squared error of predicted survival, censoring weighted out, averaged from the first to the last horizon.

    Args:
        time: To the event or to the end of observation.
        event: Whether it happened.
        survival: Predicted probability of living beyond each horizon.
        horizons: Rising; at least two.

    Returns:
        From weights to the score; 0 is best.

    References:
        E. Graf et al., *Assessment and comparison of prognostic classification schemes for survival data*, 1999.
    """
    curves = Curves(time, event)
    places = [curves.place_at(h) for h in horizons]

    def area(weights: Float64[np.ndarray, "b n"]) -> Float64[np.ndarray, " b"]:
        free = curves.censoring(weights)
        own, total = free[:, curves.place], weights.sum(axis=1)
        scores = []
        for k, horizon in enumerate(horizons):
            dead, alive = event & (time <= horizon), time > horizon
            then = np.ones(len(weights)) if places[k] < 0 else free[:, places[k]]
            errors = _over(weights[:, dead], own[:, dead]) @ np.square(survival[dead, k])
            errors = errors + _over(weights[:, alive] @ np.square(1 - survival[alive, k]), then)
            scores.append(ratio(errors, total))
        return np.asarray(np.trapezoid(np.stack(scores, axis=1), horizons, axis=1) / (horizons[-1] - horizons[0]))

    return area


class Curves:
    """Kaplan–Meier curves of survival and of censoring under weights.

    Args:
        time: To the event or to the end of observation.
        event: Whether it happened.

    Attributes:
        times: Times that occur, rising.
        place: Of each row's time among them.
    """

    def __init__(self, time: Float64[np.ndarray, " n"], event: Bool[np.ndarray, " n"]) -> None:
        self.times, self.place = runs(time)
        self._order = np.argsort(self.place, kind="stable")
        self._starts = np.searchsorted(self.place[self._order], np.arange(len(self.times)))
        self._event = event[self._order].astype(np.float64)

    def place_at(self, time: float) -> int:
        """Place of the last time that is not later; -1 before the first."""
        return int(np.searchsorted(self.times, time, side="right")) - 1

    def survival(self, weights: Float64[np.ndarray, "b n"]) -> Float64[np.ndarray, "b t"]:
        """Share alive after each time."""
        events, _, at_risk = self._steps(weights)
        return _product(events, at_risk)

    def censoring(self, weights: Float64[np.ndarray, "b n"]) -> Float64[np.ndarray, "b t"]:
        """Share not yet censored after each time; events at a time come before censoring at it."""
        events, censored, at_risk = self._steps(weights)
        return _product(censored, at_risk - events)

    def _steps(self, weights: Float64[np.ndarray, "b n"]) -> tuple[Float64[np.ndarray, "b t"], ...]:
        drawn = pick(weights, self._order)
        events = np.add.reduceat(drawn * self._event, self._starts, axis=1)
        all_ = np.add.reduceat(drawn, self._starts, axis=1)
        at_risk = np.cumsum(all_[:, ::-1], axis=1)[:, ::-1]
        return events, all_ - events, at_risk


def _product(lost: Float64[np.ndarray, "b t"], at_risk: Float64[np.ndarray, "b t"]) -> Float64[np.ndarray, "b t"]:
    factors = 1 - np.divide(lost, at_risk, out=np.zeros_like(lost), where=at_risk > 0)
    return np.cumprod(factors, axis=1)


def _over(weights: Float64[np.ndarray, "*s"], probability: Float64[np.ndarray, "*s"]) -> Float64[np.ndarray, "*s"]:
    """Inverse-probability weights: 0 where there is no weight, NaN where the probability is 0."""
    return np.where(weights == 0, 0.0, ratio(weights, probability))


class _Comparable:
    """For each subject with an event: weights of those known to live longer, of lower and of equal risk.

    In the order of time (events before censored) those are a suffix. A suffix is a union of blocks, one per power of
    two; within each the rows are sorted by risk, so that a sum over lower risks is a difference of running sums:
    n log n per weighting.
    """

    def __init__(
        self, time: Float64[np.ndarray, " n"], event: Bool[np.ndarray, " n"], risk: Float64[np.ndarray, " n"]
    ) -> None:
        self._order = np.lexsort((~event, time))
        in_time, is_event = time[self._order], event[self._order]
        self.events: Int64[np.ndarray, " e"] = self._order[is_event]
        times, place = runs(in_time)
        first = np.searchsorted(in_time, times)
        n_events = np.bincount(place, is_event, minlength=len(times)).astype(np.int64)
        self._starts = (first + n_events)[place[is_event]]
        _, rank = runs(risk[self._order])
        self._levels = _levels(rank, self._starts, rank[is_event])

    def sums(
        self, weights: Float64[np.ndarray, "b n"]
    ) -> tuple[Float64[np.ndarray, "b e"], Float64[np.ndarray, "b e"], Float64[np.ndarray, "b e"]]:
        """Of those who live longer, per event: weight of lower risk, of equal risk, of all."""
        in_time = pick(weights, self._order)
        below, not_above = (np.zeros((len(weights), len(self._starts))) for _ in range(2))
        for level in self._levels:
            sums = running(pick(in_time, level.order))
            before = pick(sums, level.first)
            below[:, level.queries] += pick(sums, level.below) - before
            not_above[:, level.queries] += pick(sums, level.not_above) - before
        sums = running(in_time)
        return below, not_above - below, sums[:, -1:] - pick(sums, self._starts)


@dataclass(frozen=True, slots=True)
class _Level:
    """Blocks of one size, each sorted by risk, and the suffixes that use one of them."""

    order: Int64[np.ndarray, " n"]
    queries: Int64[np.ndarray, " q"]
    first: Int64[np.ndarray, " q"]
    below: Int64[np.ndarray, " q"]
    not_above: Int64[np.ndarray, " q"]


def _levels(
    rank: Int64[np.ndarray, " n"], starts: Int64[np.ndarray, " e"], own: Int64[np.ndarray, " e"]
) -> list[_Level]:
    n, levels, position = len(rank), list[_Level](), starts.copy()  # a start is at least 1: it follows its own event
    n_ranks = int(rank.max(initial=0)) + 1
    for bit in range(n.bit_length()):
        queries = np.flatnonzero((position >> bit) % 2 == 1)
        queries = queries[position[queries] < n]
        if len(queries):
            block = position[queries] >> bit
            keys = (np.arange(n) >> bit) * n_ranks + rank
            order = np.argsort(keys, kind="stable")
            rising, wanted = keys[order], block * n_ranks + own[queries]
            below, not_above = (np.searchsorted(rising, wanted, side) for side in ("left", "right"))
            levels.append(_Level(order, queries, block << bit, below, not_above))
            position[queries] += 1 << bit
    return levels


def default_horizons(time: Float64[np.ndarray, " n"], event: Bool[np.ndarray, " n"]) -> tuple[float, ...]:
    """Quartiles of the events' times, without one at which nobody is left; none where there is no event."""
    if not event.any():
        return ()
    found = np.unique(np.quantile(time[event], (0.25, 0.5, 0.75)))
    return tuple(float(t) for t in found if t < time.max())
