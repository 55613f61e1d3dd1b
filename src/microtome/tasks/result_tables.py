"""The table of results as files: CSV, parquet, Markdown, and a forest plot per task."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from microtome.storage import safe_name, write_text, written_whole
from microtome.tasks.result_runs import Problem
from microtome.viz.figure_style import save_figure, show_interval
from microtome.viz.forest_plot import ForestRow, draw_forest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CHANCE = {
    "roc_auc_score": 0.5,
    "mean_roc_auc_score": 0.5,
    "cindex_score": 0.5,
    "uno_cindex_score": 0.5,
    "mean_time_auc_score": 0.5,
    "r2_score": 0.0,
}
_ENDS = ("estimate", "low", "high")
_HEADER = (
    "model",
    "features",
    "estimate (95 %)",
    "mean ± s.d. of folds",
    "patients",
    "difference",
    "p (Holm)",
    "published",
)


def write_tables(
    table: pd.DataFrame, out: Path, *, problems: Sequence[Problem], notes: Sequence[str], draw: bool
) -> list[Path]:
    """Write the table of results.

    Args:
        table: As :class:`~microtome.tasks.results.Results` has it.
        out: Folder.
        problems: Runs that are not in the table.
        notes: Sentences for the Markdown.
        draw: Whether to draw a forest plot per task.

    Returns:
        The files: ``results.csv``, ``results.parquet``, ``results.md``, ``forest_<task>.png``.

    Raises:
        OutputWriteError: If one cannot be written.
    """
    files = [out / "results.csv", out / "results.parquet", out / "results.md"]
    with written_whole(files[0]) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")
    with written_whole(files[1]) as temporary:
        _one_type_each(table).to_parquet(temporary, index=False)
    write_text(files[2], as_markdown(table, problems, notes))
    if draw:
        for task, rows in table.groupby("task", sort=True):
            if rows[["estimate", "mean"]].notna().to_numpy().any():
                path = out / f"forest_{_file_name(str(task))}.png"
                files.append(save_figure(draw_task(str(task), rows), path))
    return files


def draw_task(task: str, rows: pd.DataFrame) -> "Figure":
    """The forest plot of a task: its runs, and below them what was published with their encoders."""
    drawn, published = [], {}
    twice = rows.duplicated(["model", "features"], keep=False)
    for row, ambiguous in zip(rows.to_dict("records"), twice, strict=True):
        name = _name(row, with_path=bool(ambiguous))
        if row["kind"] == "histossl":
            drawn.append(_over_folds(f"{name} (HistoSSL, ± s.d.)", row["mean"], row["sd"]))
            continue
        is_reference = row["reference"] == row["log_path"]
        note = "reference" if is_reference else "" if pd.isna(row["p_holm"]) else _equals(row["p_holm"])
        low, high = (None if pd.isna(row[end]) else float(row[end]) for end in ("low", "high"))
        drawn.append(ForestRow(name, float(row["estimate"]), low, high, note=note, reference=is_reference))
        if not pd.isna(row["published_mean"]):
            shown = f"published, {row['features']} (± s.d.)"
            published[shown] = _over_folds(shown, row["published_mean"], row["published_sd"])
    metric = str(rows["metric"].iloc[0])
    note = ""
    if rows["n_patients"].notna().any():
        note = f"{int(rows['n_patients'].max()):,} patients; bars: 95 % intervals over patients"
    if rows["p_holm"].notna().any():
        note += "; p against the reference, Holm"
    return draw_forest([*drawn, *published.values()], task, metric, chance=_CHANCE.get(metric), note=note)


def _over_folds(name: str, mean: float, sd: float | None) -> ForestRow:
    """A value that is a mean over folds, with their standard deviation in place of an interval."""
    low, high = (None, None) if sd is None or pd.isna(sd) else (float(mean - sd), float(mean + sd))
    return ForestRow(name, float(mean), low, high, published=True)


def _one_type_each(table: pd.DataFrame) -> pd.DataFrame:
    """The table with text where a column mixes text and numbers, as settings of other programs may."""
    kinds = {name: {isinstance(v, str) for v in table[name].dropna()} for name in table.columns}
    mixed = [name for name, found in kinds.items() if len(found) > 1]
    as_text = {name: table[name].map(str, na_action="ignore") for name in mixed}
    return table.assign(**as_text).convert_dtypes()


def as_markdown(table: pd.DataFrame, problems: Sequence[Problem] = (), notes: Sequence[str] = ()) -> str:
    """The table for people, one section per task; then what is not in it."""
    lines = ["# Results", ""]
    for task, rows in table.groupby("task", sort=True):
        first = rows.iloc[0]
        said = f"{first['metric']}, {first['type']}."
        if rows["p_value"].notna().any():
            reference = rows.loc[rows["log_path"] == rows["reference"].dropna().iloc[0]].to_dict("records")[0]
            alike = (rows["model"] == reference["model"]) & (rows["features"] == reference["features"])
            against = _name(reference, with_path=int(alike.sum()) > 1)
            said += f" p: paired bootstrap over patients against {against}, Holm within the task."
        lines += [f"## {_cell(task)}", "", said, "", _line(_HEADER), _line(["---"] * len(_HEADER))]
        twice = rows.duplicated(["model", "features"], keep=False)
        shown = zip(rows.to_dict("records"), twice, strict=True)
        lines += [_line(_markdown_row(row, with_path=bool(ambiguous))) for row, ambiguous in shown] + [""]
    if problems:
        lines += ["## Not in the table", "", *(f"- `{problem.path}`: {problem.reason}" for problem in problems), ""]
    if notes:
        lines += ["## Notes", "", *(f"- {note}" for note in notes), ""]
    return "\n".join(lines)


def show_row(row: Mapping[Any, Any]) -> dict[str, str]:
    """A row as people read it: task, model, features, metric, estimate, p, published."""
    published = "" if pd.isna(row["published_mean"]) else f"{row['published_mean']:.3f}"
    if not pd.isna(row["published_sd"]):
        published += f" ± {row['published_sd']:.3f}"
    return {
        "task": str(row["task"]),
        "model": str(row["model"]),
        "features": str(row["features"]),
        "metric": str(row["metric"]),
        "estimate": "" if row["kind"] == "histossl" else show_interval(*(float(row[name]) for name in _ENDS)),
        "p (Holm)": "" if pd.isna(row["p_holm"]) else _shown_p(row["p_holm"]),
        "published": published,
    }


def _markdown_row(row: Mapping[Any, Any], *, with_path: bool) -> list[str]:
    shown = show_row(row)
    model = f"{shown['model']} ({row['log_path']})" if with_path else shown["model"]
    over_folds = "" if pd.isna(row["mean"]) else f"{row['mean']:.3f} ± {row['sd']:.3f}"
    difference = ""
    if not pd.isna(row["difference"]):
        difference = show_interval(row["difference"], row["difference_low"], row["difference_high"])
    patients = "" if pd.isna(row["n_patients"]) else str(int(row["n_patients"]))
    front = [model, shown["features"], shown["estimate"], over_folds, patients, difference]
    return [*front, shown["p (Holm)"], shown["published"]]


def _name(row: Mapping[Any, Any], *, with_path: bool = False) -> str:
    parts = [str(row["model"]), str(row["features"])]
    named = " · ".join(part for part in parts if part)
    return f"{named} ({row['log_path']})" if with_path and named else named or str(row["log_path"])


def _equals(p_value: float) -> str:
    return f"p {_shown_p(p_value)}" if p_value < 0.001 else f"p = {_shown_p(p_value)}"


def _shown_p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(value: object) -> str:
    """Text that does not break out of a cell of a Markdown table."""
    return str(value).replace("|", "\\|").replace("\n", " ")


def _file_name(task: str) -> str:
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in task).strip("._")
    return safe_name(plain or "task", what="task")
