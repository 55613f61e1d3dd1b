"""Many models beside each other: an estimate with its interval per row, and what was published."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from microtome.errors import EvaluationError
from microtome.viz.figure_style import (
    LINE_COLORS,
    SOFT,
    in_house_style,
    new_figure,
    set_heading,
    shortened,
    show_interval,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW_IN = 0.3
_NAME_CHARACTERS = 44


@dataclass(frozen=True, slots=True)
class ForestRow:
    """One model on one task.

    Attributes:
        name: Of the model, for example aggregator and encoder.
        estimate: Its metric.
        low: Lower end of the interval; None where there is none.
        high: Upper end of it.
        note: Text at the end of the row, for example a p-value.
        published: Whether the value comes from a publication.
        reference: Whether the others are compared with this one.
    """

    name: str
    estimate: float
    low: float | None = None
    high: float | None = None
    note: str = ""
    published: bool = False
    reference: bool = False


@in_house_style
def draw_forest(
    rows: Sequence[ForestRow], title: str, metric: str, *, chance: float | None = None, note: str = ""
) -> "Figure":
    """Estimates with intervals, one row per model, the numbers beside them.

    Args:
        rows: From top to bottom.
        title: Of the figure.
        metric: Name of the metric, for the axis.
        chance: What a blind guess reaches.
        note: Small print under the title.

    Returns:
        The figure.

    Raises:
        EvaluationError: If no row has a finite estimate.
    """
    values = [v for row in rows for v in (row.estimate, row.low, row.high) if v is not None and np.isfinite(v)]
    if not any(np.isfinite(row.estimate) for row in rows):
        raise EvaluationError("No row has an estimate, so there is nothing to draw. Finish a run first.")
    names = [shortened(row.name, _NAME_CHARACTERS) for row in rows]
    width = 4.4 + 0.082 * max(map(len, names)) + 1.9 + 0.075 * max(len(row.note) for row in rows)
    figure = new_figure(width, 1.5 + _ROW_IN * len(rows))
    axis = figure.subplots()
    for i, row in enumerate(rows):
        if np.isfinite(row.estimate):
            _draw_row(axis, i, row)
    if chance is not None:
        values.append(chance)
        axis.axvline(chance, color=SOFT, linewidth=1, linestyle=(0, (2, 2)), zorder=1, label="_chance")
    for row in rows:
        if row.reference and np.isfinite(row.estimate):
            axis.axvline(row.estimate, color=LINE_COLORS[0], linewidth=1, alpha=0.5, zorder=1, label="_reference")
    pad = 0.05 * (max(values) - min(values)) or 0.05
    axis.set_xlim(min(values) - pad, max(values) + pad)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_yticks(range(len(rows)), names)
    for label, row in zip(axis.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row.reference else "normal")
        label.set_fontstyle("italic" if row.published else "normal")
    for i, row in enumerate(rows):
        text = show_interval(row.estimate, row.low, row.high) + (f"   {row.note}" if row.note else "")
        place: Any = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        axis.annotate(text, (1, i), (10, 0), va="center", fontsize=9.5, **place)
    axis.set_xlabel(metric)
    axis.grid(visible=True, axis="x")
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    set_heading(axis, title, note)
    return figure


def _draw_row(axis: "Axes", i: int, row: ForestRow) -> None:
    color = LINE_COLORS[1] if row.published else LINE_COLORS[0]
    if row.low is not None and row.high is not None and np.isfinite([row.low, row.high]).all():
        axis.plot([row.low, row.high], [i, i], color=color, linewidth=1.8, zorder=2, label="_interval")
    axis.plot(
        [row.estimate],
        [i],
        color=color,
        marker="D" if row.published else "s",
        markerfacecolor="white" if row.published else color,
        markersize=6.5,
        markeredgewidth=1.5,
        linestyle="",
        zorder=3,
        label=row.name,
    )
