"""Curves over thresholds: ROC, precision and recall, calibration; with bands, and one line per fold."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64, Int64

from microtome.errors import EvaluationError
from microtome.viz.figure_style import (
    DASHES,
    LINE_COLORS,
    SOFT,
    in_house_style,
    new_figure,
    set_heading,
    shortened,
    unit_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Band = tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, " m"], Float64[np.ndarray, " m"]]
Line = tuple[Float64[np.ndarray, " _"], Float64[np.ndarray, " _"]]
_ROW_IN = 0.21  # of a legend
_MARGINALIA = ("blind guess", "prevalence", "folds (", "95 % band")
_BANDED_LINES = 3  # with more lines on one figure, bands hide each other


@dataclass(frozen=True, slots=True)
class Curve:
    """A curve in the unit square, with what is known of how sure it is.

    Attributes:
        name: What the legend calls it, for example the class.
        x: Positions, rising.
        y: Values at ``x``.
        score: What the legend says of it, for example its area with the interval.
        band: x, low and high of its interval; None where there is none.
        folds: One line per fold and repeat.
        prevalence: Share of positives: the precision of a blind guess; only precision and recall show it.
    """

    name: str
    x: Float64[np.ndarray, " n"]
    y: Float64[np.ndarray, " n"]
    score: str = ""
    band: Band | None = None
    folds: tuple[Line, ...] = ()
    prevalence: float | None = None


@in_house_style
def draw_roc(curves: Sequence[Curve], title: str, *, note: str = "") -> "Figure":
    """Sensitivity over 1 − specificity, with the line of a blind guess.

    Args:
        curves: One per class or threshold; folds are drawn where there is one curve, bands where there are three at
            most.
        title: Of the figure.
        note: Small print under the title.

    Returns:
        The figure.

    Raises:
        EvaluationError: If there is no curve, or one has a value outside 0 to 1.
    """
    figure, axis = _square(curves, title, note)
    axis.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=(0, (2, 2)), zorder=1, label="blind guess")
    _draw_lines(axis, curves, steps=False)
    unit_axes(axis, "1 − specificity", "Sensitivity")
    _legend_below(axis)
    return figure


@in_house_style
def draw_precision_recall(curves: Sequence[Curve], title: str, *, note: str = "") -> "Figure":
    """Precision over recall, with the prevalence: what a blind guess reaches.

    Args:
        curves: One per class or threshold, x the recall, rising.
        title: Of the figure.
        note: Small print under the title.

    Returns:
        The figure.

    Raises:
        EvaluationError: If there is no curve, or one has a value outside 0 to 1.
    """
    figure, axis = _square(curves, title, note)
    for i, curve in enumerate(curves):
        if curve.prevalence is not None:
            alone = len(curves) == 1
            axis.axhline(
                curve.prevalence,
                color=SOFT if alone else LINE_COLORS[i % len(LINE_COLORS)],
                linewidth=1,
                linestyle=(0, (2, 2)),
                zorder=1,
                label=f"prevalence {curve.prevalence:.2f}" if alone else "_prevalence",
            )
    _draw_lines(axis, curves, steps=True)
    unit_axes(axis, "Recall (sensitivity)", "Precision (positive predictive value)")
    _legend_below(axis, extra=len(curves) > 1 and any(c.prevalence is not None for c in curves))
    return figure


@dataclass(frozen=True, slots=True)
class CalibrationBins:
    """Predicted probabilities in bins, and how often what was predicted came true.

    Attributes:
        name: What the legend calls it, for example the class.
        predicted: Mean prediction of each bin that is not empty.
        observed: Share of positives in it.
        low: Lower end of the share's interval.
        high: Upper end of it.
        counts: Predictions in the bin.
        score: What the legend says of it, for example the Brier score.
        probabilities: All predictions, for the histogram.
    """

    name: str
    predicted: Float64[np.ndarray, " b"]
    observed: Float64[np.ndarray, " b"]
    low: Float64[np.ndarray, " b"]
    high: Float64[np.ndarray, " b"]
    counts: Int64[np.ndarray, " b"]
    probabilities: Float64[np.ndarray, " n"]
    score: str = ""


@in_house_style
def draw_calibration(sets: Sequence[CalibrationBins], title: str, *, note: str = "") -> "Figure":
    """Observed share over predicted probability, and below it how the predictions are spread.

    Args:
        sets: One per class.
        title: Of the figure.
        note: Small print under the title.

    Returns:
        The figure: the curve, then the histogram.

    Raises:
        EvaluationError: If there is no set, or a value outside 0 to 1.
    """
    if not sets:
        raise EvaluationError("There is no calibration to draw.")
    _check_unit(*(v for s in sets for v in (s.predicted, s.observed, s.low, s.high, s.probabilities)))
    figure = new_figure(5.6, 7.3 + _ROW_IN * (len(sets) + 1))
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1.1))
    top.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=(0, (2, 2)), zorder=1, label="perfectly calibrated")
    for i, one in enumerate(sets):
        color = LINE_COLORS[i % len(LINE_COLORS)]
        label = _label(one.name, one.score)
        if len(sets) <= _BANDED_LINES:
            top.vlines(one.predicted, one.low, one.high, color=color, linewidth=1.6, alpha=0.55, zorder=2)
        look: Any = {"color": color, "linewidth": 1.6, "marker": "o", "markersize": 5.5}
        top.plot(one.predicted, one.observed, zorder=3, label=label, **look)
    unit_axes(top, "", "Observed share", square=False)
    top.tick_params(labelbottom=False)
    bins = np.linspace(0, 1, 21)
    for i, one in enumerate(sets):
        color = LINE_COLORS[i % len(LINE_COLORS)]
        alone = len(sets) == 1
        bottom.hist(
            one.probabilities,
            bins.tolist(),
            color=color,
            histtype="bar" if alone else "step",
            rwidth=0.9 if alone else None,
            linewidth=0 if alone else 1.6,
        )
    bottom.set_xlabel("Predicted probability")
    bottom.set_ylabel("Predictions")
    bottom.grid(visible=True, axis="y")
    bottom.yaxis.get_major_locator().set_params(integer=True, nbins=4)
    set_heading(top, title, note)
    handles, labels = top.get_legend_handles_labels()
    figure.legend(handles[1:] + handles[:1], labels[1:] + labels[:1], loc="outside lower left")
    return figure


def _square(curves: Sequence[Curve], title: str, note: str) -> tuple["Figure", "Axes"]:
    if not curves:
        raise EvaluationError("There is no curve to draw.")
    _check_unit(*(v for c in curves for v in (c.x, c.y)))
    rows = len(curves) + (3 if len(curves) == 1 else 1)
    figure = new_figure(5.6, 6.05 + _ROW_IN * rows)
    axis = figure.subplots()
    set_heading(axis, title, note)
    return figure, axis


def _check_unit(*arrays: Float64[np.ndarray, " _"]) -> None:
    for values in arrays:
        if not len(values) or not (np.isfinite(values).all() and values.min() >= -1e-9 and values.max() <= 1 + 1e-9):
            raise EvaluationError("A curve of shares must have points, all within 0 to 1. Check the predictions.")


def _draw_lines(axis: "Axes", curves: Sequence[Curve], *, steps: bool) -> None:
    """Bands lowest, then folds, then the curves themselves."""
    drawstyle = "steps-pre" if steps else "default"  # between two recalls nothing may be read off a slope
    banded = len(curves) <= _BANDED_LINES
    for i, curve in enumerate(curves):
        color = LINE_COLORS[i % len(LINE_COLORS)]
        if banded and curve.band is not None:
            x, low, high = curve.band
            label = "95 % band (bootstrap over patients)" if len(curves) == 1 else "_band"
            axis.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0, zorder=1.5, label=label)
        if len(curves) == 1:
            for k, (x, y) in enumerate(curve.folds):
                label = f"folds ({len(curve.folds)})" if k == 0 else "_fold"
                axis.plot(x, y, color="#8a95a0", alpha=0.75, linewidth=0.9, zorder=2, label=label, drawstyle=drawstyle)
        axis.plot(
            curve.x,
            curve.y,
            color=color,
            linewidth=2.2,
            linestyle=DASHES[i // 2 % len(DASHES)] if len(curves) > 1 else "-",
            zorder=3,
            label=_label(curve.name, curve.score),
            drawstyle=drawstyle,
        )


def _label(name: str, score: str) -> str:
    return "  ".join(part for part in (shortened(name), score) if part)


def _legend_below(axis: "Axes", *, extra: bool = False) -> None:
    """The legend under the axes, curves first: inside, it would lie on the curves of a poor model."""
    from matplotlib.lines import Line2D

    handles, labels = axis.get_legend_handles_labels()
    if extra:
        handles.append(Line2D([], [], color=SOFT, linewidth=1, linestyle=(0, (2, 2))))
        labels.append("prevalence, in the colour of the class")
    order = sorted(range(len(labels)), key=lambda k: (labels[k].startswith(_MARGINALIA), k))
    axis.legend(
        [handles[k] for k in order],
        [labels[k] for k in order],
        loc="upper left",
        bbox_to_anchor=(-0.02, -0.13),
        borderaxespad=0,
    )
