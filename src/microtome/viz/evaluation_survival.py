"""Survival of groups of risk: Kaplan–Meier curves with bands, numbers at risk, and the log-rank test."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float64

from microtome.errors import EvaluationError
from microtome.viz.figure_style import (
    DASHES,
    INK,
    LINE_COLORS,
    SOFT,
    in_house_style,
    new_figure,
    set_heading,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GROUP_COLORS = (LINE_COLORS[0], LINE_COLORS[3], LINE_COLORS[2], LINE_COLORS[4], LINE_COLORS[1])
_HIGH = 0.45  # of survival at the end


@dataclass(frozen=True, slots=True)
class SurvivalCurve:
    """Survival of one group.

    Attributes:
        name: Of the group, for example ``low risk``.
        times: Rising times, from 0.
        survival: Share still free of the event at each of them, held until the next.
        low: Lower end of its interval.
        high: Upper end of it.
        durations: Time of each member, for the numbers at risk and the marks of censoring.
        events: Whether the member's time ends with the event.
    """

    name: str
    times: Float64[np.ndarray, " t"]
    survival: Float64[np.ndarray, " t"]
    low: Float64[np.ndarray, " t"]
    high: Float64[np.ndarray, " t"]
    durations: Float64[np.ndarray, " n"]
    events: Bool[np.ndarray, " n"]


@in_house_style
def draw_survival(
    groups: Sequence[SurvivalCurve], title: str, *, p_value: float | None = None, time_unit: str = "", note: str = ""
) -> "Figure":
    """Kaplan–Meier curves with 95 % bands, marks where somebody is censored, and how many are at risk below.

    Args:
        groups: From low to high risk; five at most.
        title: Of the figure.
        p_value: Of the log-rank test between the groups.
        time_unit: Unit of the times, for the axis.
        note: Small print under the title.

    Returns:
        The figure: the curves, then the table.

    Raises:
        EvaluationError: If there is no group, more than five, or one of nobody.
    """
    if not 0 < len(groups) <= len(_GROUP_COLORS):
        raise EvaluationError(f"Survival is drawn for 1 to {len(_GROUP_COLORS)} groups. Got {len(groups)}.")
    for group in groups:
        if not len(group.durations):
            raise EvaluationError(f"Nobody is in the group {group.name!r}, so its survival cannot be drawn.")
    figure = new_figure(6.8, 5.3 + 0.24 * len(groups))
    top, table = figure.subplots(2, 1, sharex=True, height_ratios=(4.3, 0.25 + 0.27 * len(groups)))
    for group, color, dash in zip(groups, _GROUP_COLORS, (*DASHES, "-"), strict=False):
        _draw_group(top, group, color, dash)
    end = max(float(group.durations.max()) for group in groups)
    top.set_xlim(0, end * 1.02 or 1)
    top.set_ylim(-0.02, 1.02)
    top.grid(visible=True)
    top.set_ylabel("Free of the event")
    top.set_xlabel(f"Time ({time_unit})" if time_unit else "Time")
    top.tick_params(labelbottom=True)
    lowest = min(float(group.survival[-1]) for group in groups)  # a legend where no curve can come
    top.legend(
        title=None if p_value is None else show_p(p_value),
        loc="lower left" if lowest > _HIGH else "upper right",
        alignment="left",
        title_fontsize=10.5,
    )
    set_heading(top, title, note)
    _write_at_risk(table, groups, [t for t in top.get_xticks() if 0 <= t <= end * 1.02])
    return figure


def show_p(p_value: float) -> str:
    """A p-value of the log-rank test as people write it.

    Example:
        >>> show_p(0.0312), show_p(0.00002), show_p(float("nan"))
        ('log-rank p = 0.031', 'log-rank p < 0.001', 'log-rank test undefined')
    """
    if np.isnan(p_value):
        return "log-rank test undefined"
    return "log-rank p < 0.001" if p_value < 0.001 else f"log-rank p = {p_value:.3f}"


def _draw_group(axis: "Axes", group: SurvivalCurve, color: str, dash: object) -> None:
    n, n_events = len(group.durations), int(group.events.sum())
    last = float(group.durations.max())  # the curve goes on to the last observation, censored or not
    times = np.append(group.times, max(last, group.times[-1]))
    survival, low, high = (np.append(v, v[-1]) for v in (group.survival, group.low, group.high))
    axis.fill_between(times, low, high, step="post", color=color, alpha=0.15, linewidth=0, zorder=1)
    label = f"{shortened(group.name)}  n = {n:,}, events {n_events:,}"
    axis.plot(times, survival, drawstyle="steps-post", color=color, linewidth=2, linestyle=dash, zorder=3, label=label)
    censored = np.sort(group.durations[~group.events])
    if len(censored):
        at = survival[np.searchsorted(times, censored, side="right") - 1]
        axis.plot(censored, at, color=color, linestyle="", marker="|", markersize=7, zorder=3, label="_censored")


def _write_at_risk(axis: "Axes", groups: Sequence[SurvivalCurve], ticks: Sequence[float]) -> None:
    axis.set_ylim(len(groups) - 0.5, -0.6)
    axis.set_yticks(range(len(groups)), [shortened(group.name, 18) for group in groups])
    for label, color in zip(axis.get_yticklabels(), _GROUP_COLORS, strict=False):
        label.set_color(color)
    for i, group in enumerate(groups):
        for tick in ticks:
            n = int((group.durations >= tick).sum())
            axis.text(tick, i, f"{n:,}", ha="center", va="center", fontsize=9.5, color=INK, clip_on=False)
    axis.set_title("At risk", fontsize=9.5, fontweight="normal", color=SOFT, pad=2)
    axis.tick_params(length=0, labelbottom=False)
    axis.tick_params(axis="y", pad=16)
    for spine in axis.spines.values():
        spine.set_visible(False)
