"""Tables and sentences of a cross-validation."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from microtome.cohort.splits import OuterSplit
from microtome.evaluation.evaluate import Evaluation
from microtome.evaluation.metrics import score
from microtome.tasks.mil.material import Candidate, Material
from microtome.tasks.mil.nested import Inner, Outcome


def fold_table(material: Material, candidates: Sequence[Candidate], outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """One row per fold: sizes, what was chosen, the score on the test rows."""
    labels, rows = material.labels, []
    for split, point, n_epochs, columns in outcomes:
        reached = score(material.metric, labels.target, labels.values[split.test], columns)
        sizes = {"n_train": len(split.train), "n_test": len(split.test)}
        chosen = {**candidates[point].values, "n_epochs": n_epochs}
        rows.append({"repeat": split.repeat, "fold": split.fold, **sizes, **chosen, material.metric: reached})
    return pd.DataFrame(rows)


def selection_table(splits: Sequence[OuterSplit], candidates: Sequence[Candidate], inner: Inner) -> pd.DataFrame:
    """One row per fold and grid point: epochs and score on the inner folds, and which was chosen."""
    rows = []
    for split, chosen in zip(splits, inner.selections, strict=True):
        for point, candidate in enumerate(candidates):
            best = chosen.best_epochs[point]
            rows.append(
                {
                    "repeat": split.repeat,
                    "fold": split.fold,
                    "point": point,
                    **candidate.values,
                    "n_epochs": chosen.n_epochs if point == chosen.point else best + 1,
                    "score": float(chosen.curves[point, best]) if best >= 0 else np.nan,
                    "selected": point == chosen.point,
                }
            )
    return pd.DataFrame(rows)


def curve_table(splits: Sequence[OuterSplit], inner: Inner) -> pd.DataFrame:
    """One row per fold, grid point and number of epochs: the average score on the inner folds."""
    parts = []
    for split, chosen in zip(splits, inner.selections, strict=True):
        n_points, n_epochs = chosen.curves.shape
        point, epoch = np.divmod(np.arange(n_points * n_epochs), n_epochs)
        where = {"repeat": split.repeat, "fold": split.fold, "point": point, "epoch": epoch + 1}
        parts.append(pd.DataFrame({**where, "score": chosen.curves.ravel()}))
    return pd.concat(parts, ignore_index=True)


def summarise(metric: str, folds: pd.DataFrame, evaluation: Evaluation) -> dict[str, Any]:
    """The figures that a run is told by: over folds, and pooled.

    Args:
        metric: Which.
        folds: Table with a column of its name.
        evaluation: Of all test predictions.

    Returns:
        metric, mean and sd (ddof 0; folds without a value left out), n_folds, n_undefined, folds, estimate, low, high;
        None where there is no number.
    """
    values = folds[metric].to_numpy(float)
    known = values[np.isfinite(values)]
    row = evaluation[metric]
    return {
        "metric": metric,
        "mean": float(known.mean()) if len(known) else None,
        "sd": float(known.std()) if len(known) else None,
        "n_folds": len(values),
        "n_undefined": len(values) - len(known),
        "folds": [_finite(value) for value in values],
        **{name: _finite(float(row[name])) for name in ("estimate", "low", "high")},
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def fold_lines(folds: pd.DataFrame, metric: str) -> list[str]:
    """A sentence per fold; they are numbered from 0, as in the tables."""
    lines = []
    several = folds["repeat"].nunique() > 1
    for row in folds.to_dict("records"):
        repeat = f" of repeat {row['repeat']}" if several else ""
        own = [k for k in row if k not in ("repeat", "fold", "n_train", "n_test", "n_epochs", metric)]
        chosen = ", ".join([*(f"{k} {row[k]:g}" if isinstance(row[k], float) else f"{k} {row[k]}" for k in own)])
        value = f"{row[metric]:.3f}" if np.isfinite(row[metric]) else "not defined"
        lines.append(
            f"fold {row['fold']}{repeat}: {metric} {value} ({row['n_train']} trained, {row['n_test']} tested; "
            f"{chosen + ', ' if chosen else ''}{row['n_epochs']} epoch{'s' if row['n_epochs'] > 1 else ''})"
        )
    return lines


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """The average over folds, and the pooled figure."""
    metric, lines = summary["metric"], []
    if summary["mean"] is not None and summary["n_folds"] > 1:
        left = f", {summary['n_undefined']} of them without a value" if summary["n_undefined"] else ""
        lines.append(f"{metric} {summary['mean']:.3f} ± {summary['sd']:.3f} over {summary['n_folds']} folds{left}")
    if summary["estimate"] is not None:
        interval = "" if summary["low"] is None else f" (95 % interval {summary['low']:.3f} to {summary['high']:.3f})"
        lines.append(f"pooled {metric} {summary['estimate']:.3f}{interval}, resampled by patient")
    return lines
