"""Survival of groups by predicted risk: Kaplan–Meier curves, log-rank test, numbers at risk."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64, Shaped

from microtome.errors import EvaluationError

RiskCuts = Literal["median", "tertiles"] | Sequence[float]

_NAMES = {2: ("low risk", "high risk"), 3: ("low risk", "medium risk", "high risk")}


@dataclass(frozen=True, slots=True)
class RiskGroups:
    """Subjects in groups of rising risk.

    Attributes:
        names: Of the groups.
        cuts: Risks that part them; a subject with a risk above a cut is beyond it.
        place: (n,) group of each subject.
    """

    names: tuple[str, ...]
    cuts: tuple[float, ...]
    place: Int64[np.ndarray, " n"]

    def labels(self) -> Shaped[np.ndarray, " n"]:
        """Name of each subject's group."""
        found: Shaped[np.ndarray, " n"] = np.array(self.names, object)[self.place]
        return found


@dataclass(frozen=True, slots=True)
class SurvivalCurves:
    """Kaplan–Meier curves of groups.

    Attributes:
        curves: group, time (from 0), survival, low, high (log-log), at_risk (just before), events, censored.
        groups: group, n, events, median (infinite where less than half have the event), risk_above, risk_to.
        at_risk: group, time, at_risk: numbers at a few round times, for a table under the figure.
        logrank_statistic: Chi-square of the log-rank test.
        logrank_p: Its p-value; NaN where there is one group, or no event.
        reason: Why there is no p-value.
    """

    curves: pd.DataFrame
    groups: pd.DataFrame
    at_risk: pd.DataFrame
    logrank_statistic: float
    logrank_p: float
    reason: str = ""


def risk_groups(
    risk: Float64[np.ndarray, " n"],
    cuts: RiskCuts = "median",
    *,
    reference: Float64[np.ndarray, " m"] | None = None,
) -> RiskGroups:
    """Group subjects by risk.

    Args:
        risk: Of each subject.
        cuts: median or tertiles, or the risks themselves, rising.
        reference: Risks whose median or tertiles cut, for example those of the training patients; None for ``risk``.

    Returns:
        The groups with their cuts. Tied risks may leave a group empty.

    Raises:
        EvaluationError: If there is no risk, a risk is NaN, or cuts do not rise.

    Example:
        >>> risk_groups(np.array([0.1, 0.2, 0.9])).labels().tolist()
        ['low risk', 'low risk', 'high risk']
    """
    source = risk if reference is None else reference
    if not len(source) or np.isnan(risk).any() or np.isnan(source).any():
        raise EvaluationError("Risk groups need at least one risk, and none that is NaN.")
    if cuts == "median":
        found = [float(np.median(source))]
    elif cuts == "tertiles":
        found = [float(q) for q in np.quantile(source, (1 / 3, 2 / 3))]
    else:
        found = _checked_cuts(cuts)
    names = _NAMES.get(len(found) + 1) or tuple(f"risk group {k + 1}" for k in range(len(found) + 1))
    return RiskGroups(names, tuple(found), np.searchsorted(found, risk, side="left").astype(np.int64))


def _checked_cuts(cuts: Sequence[float]) -> list[float]:
    try:
        found = [float(cut) for cut in cuts]
    except (TypeError, ValueError):
        found = []
    if not found or any(b <= a for a, b in pairwise(found)) or not np.isfinite(found).all():
        raise EvaluationError(f"Cuts must be median, tertiles or rising numbers. Got {cuts!r}.")
    return found


def survival_curves(
    time: Float64[np.ndarray, " n"], event: Bool[np.ndarray, " n"], groups: RiskGroups, *, level: float = 0.95
) -> SurvivalCurves:
    """Kaplan–Meier curves of risk groups and the log-rank test between them, by lifelines.

    Args:
        time: To the event or to the end of observation, over 0; one row per subject.
        event: Whether it happened.
        groups: Of the subjects; empty groups are left out.
        level: Of the intervals.

    Returns:
        Curves, groups, numbers at risk, test.

    Raises:
        EvaluationError: If there are no subjects, or a time is not positive.

    References:
        E. L. Kaplan and P. Meier, 1958; N. Mantel, 1966; intervals on the log(-log) scale.
    """
    from lifelines import KaplanMeierFitter
    from lifelines.statistics import multivariate_logrank_test

    if not len(time) or not (time > 0).all():
        raise EvaluationError("Survival curves need at least one subject, and times over 0.")
    curves, summary, at_risk = [], [], []
    ticks = _round_times(float(time.max()))
    limits = (-np.inf, *groups.cuts, np.inf)
    for k, name in enumerate(groups.names):
        own = groups.place == k
        if not own.any():
            continue
        fitter = KaplanMeierFitter(alpha=1 - level).fit(time[own], event[own])
        curves.append(_curve(fitter).assign(group=name))
        counts = (name, int(own.sum()), int(event[own].sum()))
        summary.append((*counts, float(fitter.median_survival_time_), limits[k], limits[k + 1]))
        at_risk += [(name, t, int((time[own] >= t).sum())) for t in ticks]
    statistic, p_value, reason = float("nan"), float("nan"), ""
    if len(summary) < 2:
        reason = "one group only"
    elif not event.any():
        reason = "no event: all times are censored"
    else:
        test = multivariate_logrank_test(time, groups.place, event)
        statistic, p_value = float(test.test_statistic), float(test.p_value)
    return SurvivalCurves(
        pd.concat(curves, ignore_index=True)[["group", *_CURVE]],
        pd.DataFrame(summary, columns=["group", "n", "events", "median", "risk_above", "risk_to"]),
        pd.DataFrame(at_risk, columns=["group", "time", "at_risk"]),
        statistic,
        p_value,
        reason,
    )


_CURVE = ("time", "survival", "low", "high", "at_risk", "events", "censored")


def _curve(fitter: "object") -> pd.DataFrame:
    survival = fitter.survival_function_.iloc[:, 0]  # type: ignore[attr-defined]  # lifelines has no types
    ends, table = fitter.confidence_interval_, fitter.event_table  # type: ignore[attr-defined]  # lifelines has no types
    return pd.DataFrame(
        {
            "time": survival.index.to_numpy(np.float64),
            "survival": survival.to_numpy(np.float64),
            "low": ends.iloc[:, 0].to_numpy(np.float64),
            "high": ends.iloc[:, 1].to_numpy(np.float64),
            "at_risk": table["at_risk"].to_numpy(np.int64),
            "events": table["observed"].to_numpy(np.int64),
            "censored": table["censored"].to_numpy(np.int64),
        }
    )


def _round_times(last: float) -> list[float]:
    """0 and about five round times up to the last."""
    rough = last / 5
    unit = 10.0 ** np.floor(np.log10(rough))
    step = float(next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= rough))
    return [float(t) for t in np.arange(0.0, last + step * 1e-9, step)]
