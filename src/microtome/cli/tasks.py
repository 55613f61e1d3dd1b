"""`microtome tasks`: the named tasks, and what a download of HistoSSL's data has of them."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from microtome.cli.app import EXIT_FAILED, MAIN_JOB, app, configured, print_yaml
from microtome.cli.show import say
from microtome.config import InspectConfig, TasksConfig
from microtome.errors import ConfigError

if TYPE_CHECKING:
    from microtome.tasks.task_definitions import TaskDefinition

_LIST_WIDTH = 200  # narrower, names break
_MARKS = {True: "ok", False: "FAILED", None: "-"}


@app.command(group=MAIN_JOB)
def tasks(
    *,
    options: Annotated[TasksConfig, Parameter(name="*")] = TasksConfig(),
    config: Path | None = None,
    print_config: bool = False,
) -> int:
    """List the named tasks of published studies, or show one; with --data, who has a label.

    Args:
        options: Settings.
        config: YAML file with the same settings as the flags; flags win.
        print_config: Print the resolved settings and do nothing.
    """
    settings = configured(TasksConfig, options, config, ())
    if print_config:
        print_yaml(settings)
        return 0
    from microtome.tasks.catalogue import list_tasks, task_definition

    chosen = [task_definition(name) for name in ([settings.name] if settings.name else list_tasks())]
    if settings.name is None:
        _show_tasks(chosen)
    else:
        _show_task(chosen[0])
    if settings.data is None:
        return 0
    failed = [task for task in chosen if not _show_labels(task, settings.data, settings.encoder, settings.out)]
    return EXIT_FAILED if failed else 0


def _show_tasks(definitions: Sequence["TaskDefinition"]) -> None:
    rows = []
    for d in definitions:
        published = "; ".join(f"{encoder} {mean} ± {sd}" for encoder, (mean, sd) in d.published.items())
        kind = d.target.type if d.target.type == "survival" else f"{d.target.type}: {', '.join(d.target.classes)}"
        rows.append((d.name, d.title, kind, d.objective, f"{d.metric}: {published}"))
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("name", "what", "target", "loss", "published, percent"):
        table.add_column(column)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(highlight=False, width=_LIST_WIDTH).print(table)


def _show_task(d: "TaskDefinition") -> None:
    from microtome.tasks.task_definitions import PUBLISHED_SOURCE

    read = {
        "none": "no table: the cohort is the label",
        "camelyon16": "raw/slides_classification/CAMELYON16_FULL/clinical/*.csv (slide in the unnamed first column)",
        "msi": "raw/slides_classification/TCGA/clinical/msi, no header: patient, label",
    }.get(d.table, f"raw/slides_classification/TCGA/clinical/{d.table}")
    cells = [f"{cell!r} is {name}" for cell, name in d.mapping.items()]
    cells += [] if d.otherwise is None else [f"any other is {d.otherwise}"]
    cells += [f"{cell!r} is left out" for cell in sorted(d.dropped)]
    named = " or ".join(" and ".join(group) for group in d.table_names)
    facts = {
        "name": d.name,
        "what": d.title,
        "slides": ", ".join(d.cohorts),
        "target": f"{d.target.name} ({d.target.type}{': ' if d.target.classes else ''}{', '.join(d.target.classes)})",
        "table": read + (f", a file with {named} in its name" if named else ""),
        "columns": ", ".join(d.columns) or "-",
        "cells": "; ".join(cells) or "as they are",
        "loss": d.objective,
        **{
            f"published, {encoder}": f"{d.metric} {mean} ± {sd} percent ({PUBLISHED_SOURCE})"
            for encoder, (mean, sd) in d.published.items()
        },
    }
    for name, value in facts.items():
        say(f"{name:22} {value}")


def _show_labels(definition: "TaskDefinition", data: Path, encoder: str | None, out: Path | None) -> bool:
    """Say who has a label, or why the task cannot be read; whether it can."""
    from microtome.cohort.table import write_cohort
    from microtome.cohort.targets import read_labels
    from microtome.errors import CohortError, MissingOutputError
    from microtome.tasks.catalogue import read_task

    try:
        task = read_task(definition.name, data, encoder=encoder)
        labels = read_labels(task.cohort, task.target)
    except (CohortError, MissingOutputError) as error:
        say(f"FAILED  {definition.name}: {error}")
        return False
    reasons = Counter(labels.excluded.values()).most_common()
    left_out = "".join(f"; {n} without: {reason}" for reason, n in reasons)
    say(f"ok      {definition.name}: {len(labels)} slides of {len(set(labels.patient_ids))} patients{left_out}")
    if out is not None:
        write_cohort(out, task.cohort)
        say(f"Table:  {out}")
    return True


def inspect_download(settings: InspectConfig) -> int:
    """Check a download of HistoSSL's data and print what was found, each failure by itself; the exit code.

    Raises:
        ConfigError: If not one folder is named, or a setting is given that decides nothing here.
    """
    from microtome.tasks.histossl_checks import inspect_histossl, write_findings

    idle = sorted(settings.model_fields_set - {"slides", "layout", "csv", "quiet"})
    if len(settings.slides) != 1 or idle:
        got = f"the settings {', '.join(idle)}" if idle else f"{len(settings.slides)} folders"
        raise ConfigError(f"inspect with layout histossl takes one folder, and csv. Got {got}.")
    findings = inspect_histossl(settings.slides[0])
    for finding in findings:
        say(f"{_MARKS[finding.passed]:7} {finding.part}, {finding.check}: {finding.text}")
        for failure in finding.failures:
            say(f"          {failure}")
    if settings.csv is not None:
        write_findings(settings.csv, findings)
    n_failures = sum(len(finding.failures) for finding in findings)
    say(f"\n{len(findings)} checks, {n_failures} failure(s), {sum(f.absent for f in findings)} part(s) not there")
    return EXIT_FAILED if n_failures else 0
