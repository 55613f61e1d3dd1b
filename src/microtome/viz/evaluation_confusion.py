"""The confusion matrix: how many of each class were taken for which."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64

from microtome.errors import EvaluationError
from microtome.viz.figure_style import in_house_style, new_figure, set_heading, shortened
from microtome.viz.palette import ink_on

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CELL_IN = 0.92
_LEAST_IN = 5.2  # of width, for the title


@in_house_style
def draw_confusion(
    counts: Int64[np.ndarray, " _ _"],
    classes: Sequence[str],
    title: str,
    *,
    note: str = "",
    axis_names: tuple[str, str] = ("Label", "Prediction"),
) -> "Figure":
    """Counts and, under each, the share of its row; the colour is the share.

    Args:
        counts: (k, k), rows are labels, columns predictions.
        classes: Names of rows and columns.
        title: Of the figure.
        note: Small print under the title.
        axis_names: What rows and columns are.

    Returns:
        The figure.

    Raises:
        EvaluationError: If the matrix is not square, does not fit the names, is negative, or holds nothing.
    """
    k = len(classes)
    if counts.shape != (k, k) or not k or counts.min() < 0 or not counts.sum():
        raise EvaluationError(
            f"A confusion matrix of {k} classes must be {k} × {k} counts, not all zero. Got shape {counts.shape}, "
            f"{int(counts.sum()) if counts.size else 0} in all."
        )
    from matplotlib.colors import LinearSegmentedColormap

    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    names = [shortened(name, 20) for name in classes]
    longest = max(map(len, names))
    width, height = 1.9 + _CELL_IN * k + 0.075 * longest, 1.75 + _CELL_IN * k
    figure = new_figure(max(width, _LEAST_IN), height + (0.06 * longest if k > 3 else 0))
    axis = figure.subplots()
    ramp = LinearSegmentedColormap.from_list("house", ["#ffffff", "#cfe3f7", "#0080e7", "#044a7f"])
    axis.imshow(shares, cmap=ramp, vmin=0, vmax=1)
    for i in range(k):
        for j in range(k):
            share = f"\n{100 * shares[i, j]:.0f} %" if totals[i, 0] else ""
            color = ink_on(np.array(ramp(shares[i, j], bytes=True)[:3], np.uint8))
            axis.text(j, i, f"{counts[i, j]:,}{share}", ha="center", va="center", color=color, linespacing=1.4)
    rows = [f"{name}\nn = {int(n):,}" for name, n in zip(names, totals[:, 0], strict=True)]
    axis.set_xticks(range(k), names, rotation=35 if k > 3 else 0, ha="right" if k > 3 else "center")
    axis.set_yticks(range(k), rows)
    axis.set_ylabel(axis_names[0])
    axis.set_xlabel(axis_names[1])
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.set_xticks(np.arange(k + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(k + 1) - 0.5, minor=True)
    axis.grid(visible=True, which="minor", color="#e3e8ec", linewidth=1)
    axis.tick_params(which="minor", length=0)
    set_heading(axis, title, note)
    return figure
