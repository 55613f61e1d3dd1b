"""All runs of a study in one table: numbers with intervals, paired tests within a task, published values beside."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from microtome.cohort import read_cohort
from microtome.config import ResultsConfig
from microtome.errors import ConfigError, MicrotomeError
from microtome.evaluation.compare import compare_predictions
from microtome.evaluation.metrics import default_metric
from microtome.evaluation.significance import holm
from microtome.tasks.histossl_results import find_reference_results
from microtome.tasks.result_runs import REFERENCE_COLUMNS, Problem, Run, find_runs
from microtome.tasks.result_tables import write_tables

COLUMNS = (
    "task", "kind", "type", *REFERENCE_COLUMNS[:-1], "metric", "estimate", "low", "high", "mean", "sd", "n_folds", "n",
    "n_patients", "n_excluded", "reference", "difference", "difference_low", "difference_high", "p_value", "p_holm",
    "p_holm_all", "delong_p", "n_compared", "published_mean", "published_sd", "published_source", "compat", "ended",
    "log_path",
)  # fmt: skip
"""Columns of the table, in their order."""


@dataclass(frozen=True, slots=True)
class Results:
    """Every finished run below a folder.

    Attributes:
        table: One row per run, sorted by task, model and features: settings, the reference's columns (mean and
            population s.d. over folds), the chief metric pooled with its interval, the paired test against the
            reference run of its task (Holm-corrected within the task, and over the whole table), published values.
        problems: Runs that are not in the table.
        notes: What else the reader must know, such as comparisons that could not be made.
        files: What was written.
    """

    table: pd.DataFrame
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    files: tuple[Path, ...] = ()


def collect_results(settings: ResultsConfig) -> Results:
    """Collect every run of ``cv``, ``benchmark`` and ``evaluate`` below a folder, and write tables and forest plots.

    Finished runs of HistoSSLscaling, and its own table of results, are collected too, without intervals or tests.

    Args:
        settings: Where to look, and what to compare with.

    Returns:
        The table, and what is not in it. The files: ``results.csv``, ``results.parquet``, ``results.md``,
        ``forest_<task>.png``.

    Raises:
        ConfigError: If there is no such folder, no finished run, or the reference fits several runs of a task.
        OutputWriteError: If a file cannot be written.
    """
    out = settings.logs / "results" if settings.out is None else settings.out
    runs, problems = find_runs(settings.logs, leave_out=out)
    earlier, unread = find_reference_results(settings.logs)
    problems += unread
    if not runs and not earlier:
        reasons = "; ".join(f"{problem.path}: {problem.reason}" for problem in problems)
        raise ConfigError(f"There is no finished run below '{settings.logs}'.{f' {reasons}.' if reasons else ''}")
    runs = sorted(runs, key=lambda run: (run.task, str(run.row["model"]), str(run.row["features"]), run.name))
    rows = [_numbers(run, settings.metric) for run in runs]
    notes: list[str] = []
    for task in dict.fromkeys(run.task for run in runs):
        places = [i for i, run in enumerate(runs) if run.task == task]
        reference = _reference([runs[i] for i in places], settings.reference, notes)
        if reference is None or len(places) < 2:
            continue
        for i in places:
            rows[i]["reference"] = reference.name
        if not settings.no_tests:
            _compare([runs[i] for i in places], [rows[i] for i in places], reference, settings, notes)
    _correct_over_table(rows)
    rows = sorted([*rows, *earlier], key=lambda row: tuple(str(row[name]) for name in ("task", "model", "features")))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    files = write_tables(table, out, problems=problems, notes=notes, draw=not settings.no_figures)
    return Results(table, tuple(problems), tuple(notes), tuple(files))


def _numbers(run: Run, metric: str | None) -> dict[str, Any]:
    """The row of a run, without comparisons."""
    chief = default_metric(run.target) if metric is None else metric
    found = run.metrics[run.metrics["metric"] == chief]
    if not len(found):
        raise ConfigError(
            f"The run '{run.name}' has no metric {chief!r}. It has: {', '.join(run.metrics['metric'])}. Choose one of "
            "these, or evaluate it again."
        )
    values = run.folds.loc[run.folds["metric"] == chief, "estimate"].astype(float)
    numbers = {name: found.iloc[0][name] for name in ("estimate", "low", "high", "n", "n_patients")}
    over_folds = {"mean": values.mean(), "sd": values.std(ddof=0), "n_folds": int(values.notna().sum())}
    return {**run.row, "metric": chief, **numbers, **over_folds, **_published(run)}


def _published(run: Run) -> dict[str, Any]:
    """What was published of this task with this encoder; nothing where nothing is known."""
    from microtome.tasks.catalogue import find_published

    value = find_published(run.task, str(run.row["features"]))
    if value is None:
        return {}
    return {"published_mean": value.mean, "published_sd": value.sd, "published_source": value.source}


def _reference(runs: Sequence[Run], wanted: str | None, notes: list[str]) -> Run | None:
    """The run of a task that the others are compared with."""
    if wanted is None:
        return runs[0]
    parts = [part.strip() for part in wanted.split("/", 1)]
    fits = [run for run in runs if _fits(run, parts)] or [run for run in runs if run.name == wanted]
    if len(fits) > 1:
        raise ConfigError(
            f"reference {wanted!r} fits {len(fits)} runs of {runs[0].task}: {', '.join(run.name for run in fits)}. Say "
            "model/encoder, or the folder of the run."
        )
    if not fits:
        notes.append(f"{runs[0].task}: no run fits the reference {wanted!r}, so nothing is compared.")
        return None
    return fits[0]


def _fits(run: Run, parts: Sequence[str]) -> bool:
    model, encoder = str(run.row["model"]), str(run.row["features"])
    return [model, encoder] == list(parts) if len(parts) == 2 else parts[0] in (model, encoder)


def _compare(
    runs: Sequence[Run], rows: Sequence[dict[str, Any]], reference: Run, settings: ResultsConfig, notes: list[str]
) -> None:
    """Put the paired tests of a task's runs against its reference into their rows."""
    try:
        tables = {run.name: run.predictions() for run in runs}
        cohort = read_cohort(Path(str(reference.record["config"]["cohort"])))
        comparison = compare_predictions(
            tables,
            cohort,
            metrics=[str(rows[0]["metric"])],
            n_boot=settings.n_boot,
            seed=settings.seed,
            reference=reference.name,
        )
    except (MicrotomeError, OSError) as error:
        notes.append(f"{reference.task}: the runs were not compared. {error}")
        return
    if comparison.unpaired:
        notes.append(
            f"{reference.task}: {len(comparison.unpaired)} cases were left out of the tests because a run lacks them."
        )
    by_name = {run.name: row for run, row in zip(runs, rows, strict=True)}
    for pair in comparison.table.to_dict("records"):  # a is the reference in all of them
        by_name[str(pair["b"])].update(
            difference=pair["difference"],
            difference_low=pair["low"],
            difference_high=pair["high"],
            p_value=pair["p_value"],
            p_holm=pair["p_holm"],
            delong_p=pair["delong_p"],
            n_compared=pair["n"],
        )


def _correct_over_table(rows: Sequence[dict[str, Any]]) -> None:
    """Holm's correction over every test in the table."""
    tested = [row for row in rows if not pd.isna(row.get("p_value"))]
    if tested:
        for row, p_value in zip(tested, holm([float(row["p_value"]) for row in tested]), strict=True):
            row["p_holm_all"] = p_value
