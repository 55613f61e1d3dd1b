"""The picture of a linear evaluation: portions, classifiers, shots."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from microtome.viz.figure_style import (
    DASHES,
    LINE_COLORS,
    in_house_style,
    new_figure,
    save_figure,
    set_heading,
    show_interval,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_METRICS = {"auc": "AUC", "acc": "accuracy", "f1": "F1"}
_METHODS = {"logistic": "logistic regression", "knn": "nearest neighbours", "centroid": "nearest centroid"}
_SHOWN = {"roc_auc_score": "AUC", "accuracy_score": "accuracy", "f1_score": "F1"}


@in_house_style
def probe_figure(
    reference: pd.DataFrame | None, modern: pd.DataFrame | None, few_shot: pd.DataFrame | None, *, title: str
) -> "Figure":
    """Draw what was found, a panel per table.

    Args:
        reference: ``portion``, ``auc``, ``acc``, ``f1`` and their intervals.
        modern: ``method``, ``metric``, ``class``, ``estimate``, ``low``, ``high``.
        few_shot: ``shots``, ``accuracy_score``, ``low``, ``high``.
        title: What was probed.
    """
    panels = [
        (draw, table)
        for draw, table in ((_portions, reference), (_bars, modern), (_shots, few_shot))
        if table is not None
    ]
    figure = new_figure(4.6 * max(1, len(panels)), 3.9)
    for axis, (draw, table) in zip(np.atleast_1d(figure.subplots(1, max(1, len(panels)))), panels, strict=False):
        draw(axis, table)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def draw_probe(
    reference: pd.DataFrame | None,
    modern: pd.DataFrame | None,
    few_shot: pd.DataFrame | None,
    path: Path,
    *,
    title: str,
) -> Path:
    """Write :func:`probe_figure` as a PNG."""
    return save_figure(probe_figure(reference, modern, few_shot, title=title), path)


def _portions(axis: "Axes", table: pd.DataFrame) -> None:
    for number, (name, label) in enumerate(_METRICS.items()):
        color = LINE_COLORS[number]
        axis.plot(table["portion"], table[name], "o", ls=DASHES[number], color=color, label=label, ms=4)
        axis.fill_between(
            table["portion"], table[f"bt_{name}_low"], table[f"bt_{name}_high"], color=color, alpha=0.15, lw=0
        )
    axis.set_xscale("log")
    axis.set_xticks(table["portion"].tolist(), [f"{portion:g}" for portion in table["portion"]], rotation=45)
    axis.set_xticks([], minor=True)
    axis.set_xlabel("portion of the training tiles")
    axis.set_ylim(0, 1.02)
    axis.grid(visible=True)
    axis.legend(loc="lower right")
    set_heading(axis, "30 SGD classifiers", "HistoSSL's protocol; bands: 95 %, basic bootstrap over tiles")


def _bars(axis: "Axes", table: pd.DataFrame) -> None:
    whole = table[table["class"] == ""]
    rows = [(method, metric) for method in _METHODS for metric in _SHOWN]
    for place, (method, metric) in enumerate(rows):
        row = whole[(whole["method"] == method) & (whole["metric"] == metric)].iloc[0]
        y = -place - 0.7 * (place // len(_SHOWN))
        color = LINE_COLORS[list(_SHOWN).index(metric)]
        axis.plot([row["low"], row["high"]], [y, y], color=color, lw=2)
        axis.plot([row["estimate"]], [y], "o", color=color, ms=5)
        text = show_interval(row["estimate"], row["low"], row["high"])
        axis.annotate(text, (1.03, y), xycoords=("axes fraction", "data"), va="center", fontsize=8.5)
        if metric == "accuracy_score":
            axis.annotate(
                _METHODS[method].replace(" ", "\n"),
                (-0.03, y),
                xycoords=("axes fraction", "data"),
                va="center",
                ha="right",
                fontsize=9.5,
            )
    for number, label in enumerate(_SHOWN.values()):
        axis.plot([], [], "o-", color=LINE_COLORS[number], label=label)
    axis.set_yticks([])
    axis.set_xlim(0, 1.01)
    axis.set_ylim(y - 0.7, 0.7)
    axis.grid(visible=True, axis="x")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3)
    set_heading(axis, "All training tiles", "95 % intervals, bootstrap by patient where patients are known")


def _shots(axis: "Axes", table: pd.DataFrame) -> None:
    known = table[table["accuracy_score"].notna()]
    axis.fill_between(known["shots"], known["low"], known["high"], color=LINE_COLORS[0], alpha=0.2, lw=0)
    axis.plot(known["shots"], known["accuracy_score"], "o-", color=LINE_COLORS[0], ms=4)
    axis.set_xscale("log", base=2)
    axis.set_xticks(known["shots"].tolist(), [str(n) for n in known["shots"]])
    axis.set_xlabel("training tiles per class")
    axis.set_ylabel("accuracy, classes equally often")
    axis.set_ylim(0, 1.02)
    axis.grid(visible=True)
    note = f"nearest centroid, mean of {int(table['n_episodes'].iloc[0])} episodes" if len(table) else ""
    set_heading(axis, "Few shots", note)
