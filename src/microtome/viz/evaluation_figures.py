"""Every figure of an evaluation, as fits the type of its target."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64

from microtome.evaluation.evaluate import Evaluation
from microtome.viz.evaluation_confusion import draw_confusion
from microtome.viz.evaluation_curves import (
    Band,
    CalibrationBins,
    Curve,
    draw_calibration,
    draw_precision_recall,
    draw_roc,
)
from microtome.viz.evaluation_scores import draw_regression, draw_scores_per_grade
from microtome.viz.evaluation_survival import SurvivalCurve, draw_survival
from microtome.viz.figure_style import save_figure, shortened, show_interval

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure

CAPTIONS = {
    "roc": "Sensitivity over 1 − specificity at every threshold.",
    "precision_recall": "Precision over recall at every threshold; the dashed line is what a blind guess reaches.",
    "calibration": "How often what was predicted came true, in bins of the prediction; below, how predictions spread.",
    "confusion": "How many of each class were taken for which; shares are of the row.",
    "survival": "Kaplan–Meier curves of patients grouped by predicted risk, with 95 % bands; ticks are censored.",
    "regression": "Predicted over true values; on the dashed line they are equal.",
    "scores": "The score of each grade: median, quartiles, 1.5 interquartile ranges, every case; and its histogram.",
}
"""Figure → what it shows, in the order in which figures are drawn."""


def draw_evaluation(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Draw the figures of an evaluation as PNG files.

    Args:
        evaluation: What predictions are worth.
        folder: Where the files go: ``roc.png``, ``precision_recall.png``, ``calibration.png``, ``confusion.png`` for
            classes; with ``scores.png`` for grades; ``regression.png``; ``survival.png``. What is undefined (a ROC of
            one class) is not drawn.

    Returns:
        Paths of the files, in the order of :data:`CAPTIONS`.

    Raises:
        OutputWriteError: If a file cannot be written.
    """
    return [save_figure(figure, Path(folder) / f"{name}.png") for name, figure in figures_of(evaluation)]


def figures_of(evaluation: Evaluation) -> "Iterator[tuple[str, Figure]]":
    """Names and figures, one after the other: what :func:`draw_evaluation` writes."""
    drawers = {
        "roc": _roc,
        "precision_recall": _precision_recall,
        "calibration": _calibration,
        "confusion": _confusion,
        "survival": _survival,
        "regression": _regression,
        "scores": _scores,
    }
    for name in CAPTIONS:
        figure = drawers[name](evaluation)
        if figure is not None:
            yield name, figure


def describe_rows(evaluation: Evaluation) -> str:
    """How many units and patients count, for the small print of a figure."""
    unit = str(evaluation.settings.get("unit", "slide"))
    n, patients = evaluation.rows["id"].nunique(), evaluation.rows["patient_id"].nunique()
    said = (
        _counted(patients, "patient")
        if unit == "patient"
        else f"{_counted(n, unit)} of {_counted(patients, 'patient')}"
    )
    repeats = evaluation.rows["repeat"].nunique()
    return said + (f", {repeats} repeats" if repeats > 1 else "")


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _score(evaluation: Evaluation, shown: str, *names: str) -> str:
    """What a legend says of a metric: its estimate with the interval; nothing where it was not asked for."""
    for name in names:
        found = evaluation.table[evaluation.table["metric"] == name]
        if len(found):
            row = found.iloc[0]
            return f"{shown} {show_interval(float(row['estimate']), float(row['low']), float(row['high']))}"
    return ""


def _class_name(evaluation: Evaluation, name: str) -> str:
    return f"{evaluation.target.name} ≥ {name}" if evaluation.target.type == "ordinal" else name


def _curves(evaluation: Evaluation, kind: str, x: str, y: str, score: tuple[str, str]) -> list[Curve]:
    """The curves of a table: one per class, with its folds and its band."""
    table = evaluation.curves.get(kind)
    if table is None or not len(table):
        return []
    bands = evaluation.curves.get(f"{kind}_band")
    curves = []
    for name in table["class"].drop_duplicates():
        of_class = table[table["class"] == name]
        pooled = of_class[of_class["repeat"] < 0]
        if not len(pooled):
            continue
        folds = of_class[of_class["repeat"] >= 0].groupby(["repeat", "fold"], sort=True)
        curves.append(
            Curve(
                name=_class_name(evaluation, str(name)),
                x=_floats(pooled[x]),
                y=_floats(pooled[y]),
                score=_score(evaluation, score[1], *_parts(score[0], str(name))),
                band=_band(bands, str(name), x),
                folds=tuple((_floats(part[x]), _floats(part[y])) for _, part in folds) if len(folds) > 1 else (),
                prevalence=_prevalence(evaluation, str(name)) if kind == "pr" else None,
            )
        )
    return curves


def _parts(metric: str, name: str) -> tuple[str, str, str]:
    """What the metric of a class may be called: of a class, of a threshold, of the positive class alone."""
    return f"{metric}:{name}", f"{metric}:>={name}", metric


def _band(bands: pd.DataFrame | None, name: str, x: str) -> Band | None:
    if bands is None or not len(band := bands[bands["class"] == name]):
        return None
    return _floats(band[x]), _floats(band["low"]), _floats(band["high"])


def _floats(column: "pd.Series[float]") -> Float64[np.ndarray, " n"]:
    return column.to_numpy(np.float64)


def _numbers(evaluation: Evaluation) -> Int64[np.ndarray, " n"]:
    """Number of the class of each row."""
    labels = evaluation.rows["label"]
    if pd.api.types.is_numeric_dtype(labels):
        return labels.to_numpy(np.int64)
    return labels.map({name: k for k, name in enumerate(evaluation.target.classes)}).to_numpy(np.int64)


def _positives(evaluation: Evaluation, name: str) -> Float64[np.ndarray, " n"]:
    """Whether each row is of the class (ordinal: of it or a higher one); NaN where it is not known."""
    target = evaluation.target
    if target.type == "multilabel":
        return evaluation.rows[f"label_{name}"].to_numpy(np.float64)
    numbers, k = _numbers(evaluation), target.classes.index(name)
    return (numbers >= k if target.type == "ordinal" else numbers == k).astype(np.float64)


def _prevalence(evaluation: Evaluation, name: str) -> float:
    return float(np.nanmean(_positives(evaluation, name)))


def _heading(evaluation: Evaluation, what: str) -> tuple[str, str]:
    return f"{what} of {shortened(evaluation.target.name, 24)}", describe_rows(evaluation)


def _roc(evaluation: Evaluation) -> "Figure | None":
    curves = _curves(evaluation, "roc", "fpr", "tpr", ("roc_auc_score", "AUROC"))
    title, note = _heading(evaluation, "ROC")
    return draw_roc(curves, title, note=note) if curves else None


def _precision_recall(evaluation: Evaluation) -> "Figure | None":
    curves = _curves(evaluation, "pr", "recall", "precision", ("average_precision_score", "AP"))
    title, note = _heading(evaluation, "Precision and recall")
    return draw_precision_recall(curves, title, note=note) if curves else None


def _calibration(evaluation: Evaluation) -> "Figure | None":
    table = evaluation.curves.get("calibration")
    if table is None or not len(table):
        return None
    prefix = "p_ge_" if evaluation.target.type == "ordinal" else "p_"
    sets = []
    for name in table["class"].drop_duplicates():
        bins = table[table["class"] == name]
        probabilities = _floats(evaluation.rows[f"{prefix}{name}"])
        sets.append(
            CalibrationBins(
                name=_class_name(evaluation, str(name)),
                predicted=_floats(bins["predicted"]),
                observed=_floats(bins["observed"]),
                low=_floats(bins["low"]),
                high=_floats(bins["high"]),
                counts=bins["n"].to_numpy(np.int64),
                probabilities=probabilities[np.isfinite(probabilities)],
                score=_score(evaluation, "Brier", *_parts("brier_score_loss", str(name))),
            )
        )
    title, note = _heading(evaluation, "Calibration")
    return draw_calibration(sets, title, note=note)


def _confusion(evaluation: Evaluation) -> "Figure | None":
    table = evaluation.curves.get("confusion")
    if table is None or not len(table):
        return None
    classes = evaluation.target.classes
    wide = table.pivot_table(index="label", columns="prediction", values="n", aggfunc="sum", fill_value=0)
    counts = wide.reindex(index=list(classes), columns=list(classes), fill_value=0).to_numpy(np.int64)
    if not counts.sum():
        return None
    title, note = _heading(evaluation, "Confusion")
    names = ("Grade", "Predicted band") if evaluation.target.type == "ordinal" else ("Label", "Prediction")
    return draw_confusion(counts, classes, title, note=note, axis_names=names)


def _survival(evaluation: Evaluation) -> "Figure | None":
    table = evaluation.curves.get("kaplan_meier")
    if table is None or not len(table):
        return None
    subjects = evaluation.curves["subjects"]  # patients, each once
    groups = []
    for name in table["group"].drop_duplicates():
        steps, members = table[table["group"] == name], subjects[subjects["risk_group"] == name]
        groups.append(
            SurvivalCurve(
                name=str(name),
                times=_floats(steps["time"]),
                survival=_floats(steps["survival"]),
                low=_floats(steps["low"]),
                high=_floats(steps["high"]),
                durations=_floats(members["time"]),
                events=members["event"].to_numpy(np.float64) > 0,
            )
        )
    title, note = _heading(evaluation, "Survival by predicted risk")
    score = _score(evaluation, "C-index", "cindex_score")
    p_value = evaluation.settings.get("logrank_p")
    return draw_survival(
        groups, title, p_value=None if p_value is None else float(p_value), note="; ".join(filter(None, (note, score)))
    )


def _first_repeat(evaluation: Evaluation) -> pd.DataFrame:
    """Rows of one repeat: a case is one point."""
    rows = evaluation.rows
    return pd.DataFrame(rows[rows["repeat"] == rows["repeat"].min()])


def _regression(evaluation: Evaluation) -> "Figure | None":
    if evaluation.target.type != "regression" or not len(evaluation.rows):
        return None
    rows = _first_repeat(evaluation)
    scores = (("R²", "r2_score"), ("MAE", "mean_absolute_error"), ("Pearson r", "pearson_score"))
    text = "\n".join(filter(None, (_score(evaluation, shown, name) for shown, name in scores)))
    title, note = _heading(evaluation, "Predicted and true values")
    return draw_regression(_floats(rows["label"]), _floats(rows["value"]), title, score=text, note=note)


def _scores(evaluation: Evaluation) -> "Figure | None":
    if evaluation.target.type != "ordinal" or not len(evaluation.rows):
        return None
    rows, names = _first_repeat(evaluation), evaluation.target.classes
    of_rows = evaluation.rows["repeat"].to_numpy() == rows["repeat"].iloc[0]
    grade = _floats(rows["grade"])
    title, note = _heading(evaluation, "Scores")
    note = "; ".join(filter(None, (note, _score(evaluation, "Spearman ρ", "spearman_score"))))
    if np.array_equal(grade, np.round(grade)):  # bands only: what lies between them is in the probabilities
        grade = np.sum([_floats(rows[f"p_ge_{name}"]) for name in names[1:]], axis=0)
        return draw_scores_per_grade(grade, _numbers(evaluation)[of_rows], names, title, note=note)
    cuts = [k + 0.5 for k in range(len(names) - 1)]
    return draw_scores_per_grade(grade, _numbers(evaluation)[of_rows], names, title, cuts=cuts, note=note)
