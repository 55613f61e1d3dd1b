"""The page of an evaluation: one HTML file with every number, figure and exclusion, to look at and to send."""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from jinja2 import Environment

import microtome
from microtome.evaluation.evaluate import Evaluation
from microtome.evaluation.metrics import default_metric
from microtome.storage import write_text
from microtome.viz.evaluation_figures import CAPTIONS
from microtome.viz.figure_style import show_interval
from microtome.viz.page import page_environment
from microtome.viz.report_format import ABSENT, show_count

if TYPE_CHECKING:
    from microtome.evaluation.compare import Comparison

PAGE_FILE = "evaluation.html"
_LISTED = 500  # exclusions named one by one
_INTENDED_USE = "For research use only. Not a medical device; not for diagnosis or treatment decisions."


@dataclass(frozen=True, slots=True)
class PageFacts:
    """What the page says beside the evaluation's own numbers.

    Attributes:
        facts: Name → value, in their order: model, encoder, files, ...
        n_training_rows: Predictions of patients that were in training; None where that is not known.
        n_training_patients: Those patients.
        training_counted: Whether they count in the numbers.
        notes: Sentences that the reader must see.
    """

    facts: Mapping[str, str] = field(default_factory=dict)
    n_training_rows: int | None = None
    n_training_patients: int | None = None
    training_counted: bool = False
    notes: Sequence[str] = ()


def write_evaluation_page(
    evaluation: Evaluation,
    path: Path,
    figures: Sequence[Path] = (),
    *,
    facts: PageFacts | None = None,
    comparison: "Comparison | None" = None,
) -> Path:
    """Write the page; pictures are inside it, nothing is fetched, no script runs.

    Args:
        evaluation: What predictions are worth.
        path: Where.
        figures: PNG files that :func:`~microtome.viz.evaluation_figures.draw_evaluation` wrote.
        facts: What else to say.
        comparison: With other models.

    Returns:
        ``path``.

    Raises:
        OutputWriteError: If it cannot be written.
    """
    said = PageFacts() if facts is None else facts
    contents = {
        "version": microtome.__version__,
        "intended_use": _INTENDED_USE,
        "target": evaluation.target,
        "settings": evaluation.settings,
        "figures": key_figures(evaluation, said),
        "notes": list(said.notes),
        "metrics": [_metric_row(row) for row in evaluation.table.to_dict("records")],
        "pictures": [_picture(figure) for figure in figures],
        "reasons": Counter(evaluation.excluded.values()).most_common(),
        "excluded": sorted(evaluation.excluded.items())[:_LISTED],
        "n_excluded": len(evaluation.excluded),
        "facts": dict(said.facts),
        "comparison": [] if comparison is None else [_pair_row(row) for row in comparison.table.to_dict("records")],
        "unpaired": {} if comparison is None else dict(comparison.unpaired),
        **_fold_table(evaluation),
    }
    write_text(path, _environment().get_template(PAGE_FILE).render(contents))
    return path


def key_figures(evaluation: Evaluation, facts: PageFacts) -> list[dict[str, str]]:
    """The numbers at the head of the page: chief metric, units, patients, exclusions, patients in training."""
    unit = str(evaluation.settings.get("unit", "slide"))
    shown = []
    chief = default_metric(evaluation.target)
    rows = evaluation.table[evaluation.table["metric"] == chief].to_dict("records")
    if rows:
        row = _metric_row(rows[0])
        detail = f"95 % interval {row['interval']}" if row["interval"] != ABSENT else row["reason"]
        shown.append(_figure(chief, row["estimate"], chief.replace("_", " "), detail))
    n, n_patients = evaluation.rows["id"].nunique(), evaluation.rows["patient_id"].nunique()
    if unit != "patient":
        shown.append(_figure("n", show_count(str(n)), f"{unit}s", "count in the numbers"))
    shown.append(_figure("n_patients", show_count(str(n_patients)), "patients", "resampled for the intervals"))
    excluded = len(evaluation.excluded)
    detail = "listed below, with the reason" if excluded else "nothing was left out"
    shown.append(
        _figure("n_excluded", show_count(str(excluded)), "excluded", detail, mood="warned" if excluded else "")
    )
    if facts.n_training_patients is not None:
        detail = "counted, as asked for" if facts.training_counted else "left out of the numbers"
        mood = "warned" if facts.training_counted and facts.n_training_patients else ""
        label = f"patient{'' if facts.n_training_patients == 1 else 's'} of the training set"
        shown.append(
            _figure("n_training_patients", show_count(str(facts.n_training_patients)), label, detail, mood=mood)
        )
    return shown


@cache
def _environment() -> Environment:
    return page_environment({"count": lambda value: show_count(str(value))})


def _figure(name: str, shown: str, label: str, detail: str, *, mood: str = "") -> dict[str, str]:
    return {"name": name, "shown": shown, "label": label, "detail": detail, "mood": mood}


def _metric_row(row: Mapping[Any, Any]) -> dict[str, str]:
    interval = show_interval(float(row["estimate"]), float(row["low"]), float(row["high"]))
    estimate, _, ends = interval.partition(" (")
    return {
        "metric": str(row["metric"]),
        "estimate": estimate,
        "raw": repr(float(row["estimate"])),
        "interval": ends.removesuffix(")") or ABSENT,
        "n": show_count(str(row["n"])),
        "n_patients": show_count(str(row["n_patients"])),
        "n_undefined": str(row.get("n_undefined") or ""),
        "better": str(row.get("better", "")),
        "reason": _text(row.get("reason")),
    }


def _pair_row(row: Mapping[Any, Any]) -> dict[str, str]:
    shown = {name: str(row[name]) for name in ("a", "b", "metric", "n", "n_patients")}
    shown["difference"] = show_interval(float(row["difference"]), float(row["low"]), float(row["high"]))
    for name in ("estimate_a", "estimate_b"):
        shown[name] = show_interval(float(row[name]), None, None)
    for name in ("p_value", "p_holm", "delong_p", "delong_p_holm"):
        shown[name] = show_p_value(row.get(name))
    return shown


def show_p_value(value: float | None) -> str:
    """A p-value as people write it.

    Example:
        >>> show_p_value(0.0421), show_p_value(0.0004), show_p_value(None)
        ('0.042', '< 0.001', '–')
    """
    if value is None or pd.isna(value):
        return ABSENT
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _fold_table(evaluation: Evaluation) -> dict[str, Any]:
    """Rows of folds, one column per metric, and their mean and standard deviation (over defined folds)."""
    folds = evaluation.folds
    keys = folds[["repeat", "fold"]].drop_duplicates().sort_values(["repeat", "fold"])
    if len(keys) < 2:
        return {"fold_metrics": [], "folds": [], "fold_summary": []}
    names = [name for name in folds["metric"].drop_duplicates() if ":" not in name]
    wide = folds.pivot_table(index=["repeat", "fold"], columns="metric", values="estimate", dropna=False, sort=True)
    wide = wide.reindex(columns=names)
    sizes = folds.groupby(["repeat", "fold"])["n"].max()
    rows = [
        {
            "repeat": repeat,
            "fold": fold,
            "n": show_count(str(int(sizes.loc[(repeat, fold)]))),
            "values": [show_interval(float(v), None, None) for v in wide.loc[(repeat, fold)]]
            if (repeat, fold) in wide.index
            else ["undefined"] * len(names),
        }
        for repeat, fold in keys.itertuples(index=False)
    ]
    summary = [
        ABSENT if wide[name].isna().all() else f"{wide[name].mean():.3f} ± {wide[name].std(ddof=0):.3f}"
        for name in names
    ]
    return {"fold_metrics": names, "folds": rows, "fold_summary": summary}


def _mean_and_sd(values: "pd.Series[float]") -> str:
    return ABSENT if values.isna().all() else f"{values.mean():.3f} ± {values.std(ddof=0):.3f}"


def _picture(path: Path) -> dict[str, str]:
    data = base64.b64encode(path.read_bytes()).decode()
    return {"name": path.stem, "data": f"data:image/png;base64,{data}", "caption": CAPTIONS.get(path.stem, "")}


def _text(value: object) -> str:
    return "" if value is None or value != value else str(value)  # NaN, as pandas has it, is no text
