"""Numbers against numbers and grades: predicted over true values; scores per grade."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64, Int64

from microtome.errors import EvaluationError
from microtome.viz.figure_style import LINE_COLORS, SOFT, in_house_style, new_figure, set_heading, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RAMP = ("#9ccbf5", "#4aa3ec", "#0080e7", "#0a5ea3", "#044a7f", "#062f52")  # grades rise, so they darken
_SEED = 0  # of the jitter of points


@in_house_style
def draw_regression(
    truth: Float64[np.ndarray, " n"],
    predicted: Float64[np.ndarray, " n"],
    title: str,
    *,
    score: str = "",
    note: str = "",
) -> "Figure":
    """Predicted over true values, with the line on which they are equal.

    Args:
        truth: Values of the labels.
        predicted: Values of the model.
        title: Of the figure.
        score: Text in the corner, for example R² with its interval.
        note: Small print under the title.

    Returns:
        The figure.

    Raises:
        EvaluationError: If there are no values, or one is not finite.
    """
    if not len(truth) or not (np.isfinite(truth).all() and np.isfinite(predicted).all()):
        raise EvaluationError("True and predicted values must be there and finite to be drawn.")
    figure = new_figure(5.6, 5.9)
    axis = figure.subplots()
    ends = np.array([min(truth.min(), predicted.min()), max(truth.max(), predicted.max())])
    pad = 0.04 * (ends[1] - ends[0]) or 1.0
    axis.plot(ends, ends, color=SOFT, linewidth=1, linestyle=(0, (2, 2)), zorder=1, label="predicted = true")
    area = float(np.clip(9000 / len(truth), 8, 42))
    look: Any = {"color": LINE_COLORS[0], "alpha": 0.65, "edgecolors": "#0b3a63", "linewidths": 0.4}
    axis.scatter(truth, predicted, s=area, zorder=2, label="_points", **look)
    axis.set_xlim(ends[0] - pad, ends[1] + pad)
    axis.set_ylim(ends[0] - pad, ends[1] + pad)
    axis.set_aspect("equal")
    axis.grid(visible=True)
    axis.set_xlabel("True value")
    axis.set_ylabel("Predicted value")
    axis.legend(loc="lower right")
    if score:
        box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 3}
        axis.text(0.03, 0.97, score, transform=axis.transAxes, va="top", bbox=box)
    set_heading(axis, title, note)
    return figure


@in_house_style
def draw_scores_per_grade(
    scores: Float64[np.ndarray, " n"],
    grades: Int64[np.ndarray, " n"],
    names: Sequence[str],
    title: str,
    *,
    cuts: Sequence[float] = (),
    note: str = "",
    quantity: str = "Predicted grade",
) -> "Figure":
    """Box plot with every point, and histogram, of the score of each grade.

    Args:
        scores: Score of each row.
        grades: Number of its grade, from 0.
        names: Of the grades, rising.
        title: Of the figure.
        cuts: Scores at which one band of predictions ends and the next begins.
        note: Small print under the title.
        quantity: What the scores are, for the axis.

    Returns:
        The figure: boxes, then histograms, one below the other, over the same axis of scores.

    Raises:
        EvaluationError: If there are no rows, a score is not finite, or a grade has no name.
    """
    if not len(scores) or not np.isfinite(scores).all():
        raise EvaluationError("Scores must be there and finite to be drawn.")
    if grades.min() < 0 or grades.max() >= len(names):
        raise EvaluationError(f"Grades must be numbers from 0 to {len(names) - 1}. Got up to {int(grades.max())}.")
    k = len(names)
    colors = [_RAMP[round(i * (len(_RAMP) - 1) / max(k - 1, 1))] for i in range(k)]
    figure = new_figure(7.2, 2.0 + 1.15 * k)
    sides = figure.subplots(k, 2, sharex=True, squeeze=False, width_ratios=(1, 1), gridspec_kw={"hspace": 0.02})
    grid = sides[0, 0].get_gridspec()
    for axis in sides[:, 0]:
        axis.remove()
    boxes = figure.add_subplot(grid[:, 0])
    groups = [scores[grades == i] for i in range(k)]
    drawn = boxes.boxplot(
        groups,
        orientation="horizontal",
        positions=range(k),
        widths=0.55,
        showfliers=False,
        patch_artist=True,
        medianprops={"color": "#000028", "linewidth": 1.8},
        whiskerprops={"color": SOFT},
        capprops={"color": SOFT},
        boxprops={"edgecolor": SOFT},
    )
    generator, area = np.random.default_rng(_SEED), float(np.clip(4000 / len(scores), 1, 9))
    for i, (box, values) in enumerate(zip(drawn["boxes"], groups, strict=True)):
        box.set(facecolor=colors[i], alpha=0.55)
        jitter = generator.uniform(-0.17, 0.17, len(values))
        boxes.scatter(values, i + jitter, s=area, color="#000028", alpha=0.45, linewidths=0, zorder=3)
    boxes.set_yticks(range(k), [f"{shortened(n, 20)}\nn = {len(g):,}" for n, g in zip(names, groups, strict=True)])
    boxes.set_ylim(-0.6, k - 0.4)
    boxes.set_xlabel(quantity)
    boxes.grid(visible=True, axis="x")
    set_heading(boxes, title, note)
    _draw_histograms(list(sides[::-1, 1]), groups, colors, scores)
    sides[-1, 1].set_xlabel(quantity)
    for cut in cuts:
        for axis in (boxes, *sides[:, 1]):
            axis.axvline(cut, color=SOFT, linewidth=1, linestyle=(0, (2, 2)), label="_cut")
    return figure


def _draw_histograms(
    axes: "Sequence[Axes]",
    groups: Sequence[Float64[np.ndarray, " _"]],
    colors: Sequence[str],
    scores: Float64[np.ndarray, " n"],
) -> None:
    """One below the other, the highest grade on top as in the box plot; ``axes`` from below."""
    from matplotlib.ticker import MaxNLocator

    edges = np.histogram_bin_edges(scores, 24).tolist()
    for axis, values, color in zip(axes, groups, colors, strict=True):
        axis.hist(values, edges, color=color, rwidth=0.92)
        axis.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        axis.grid(visible=True, axis="y")
        axis.tick_params(labelbottom=axis is axes[0])
