"""Results that HistoSSLscaling left behind: its folders of pickles, and the table that it made of them.

Its metrics are those of the test folds after the last epoch; predictions were not kept, so there are no intervals and
no tests.
"""

import csv
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from microtome.errors import CorruptOutputError, MicrotomeError
from microtome.storage.pickles import load_plain
from microtome.tasks.result_runs import REFERENCE_COLUMNS, Problem

TABLE = "nested_cross_validation_results.csv"
STATUS, PARAMS, METRICS = "status.pkl", "params.pkl", "test_metrics.pkl"
_SCORES = ("auc", "accuracy", "cindex")


def find_reference_results(logs: Path) -> tuple[list[dict[str, Any]], list[Problem]]:
    """Rows of HistoSSLscaling's runs below a folder.

    Args:
        logs: The folder.

    Returns:
        Rows with the reference's columns, and of ours what follows from them: task, kind (``histossl``), type, metric,
        mean, sd, n_folds. Settings are those that ``params.pkl`` holds under the column's name. Then runs that are
        unfinished or cannot be read.

    References:
        HistoSSLscaling (73f1d19), specification section 4, "Results".
    """
    rows, problems = [], []
    for place, folders, files in os.walk(logs):
        folders.sort()
        here = Path(place)
        name = here.relative_to(logs).as_posix()
        if STATUS in files or METRICS in files:
            try:
                rows.append(_row_of_pickles(here, name))
            except (MicrotomeError, OSError, ValueError, TypeError, AttributeError) as error:
                problems.append(Problem(name, str(error)))
        if TABLE in files:
            try:
                rows += [row | {"source": name} for row in _rows_of_table(here / TABLE)]
            except (MicrotomeError, OSError, ValueError, csv.Error) as error:
                problems.append(Problem(f"{name}/{TABLE}", str(error)))
    pickled = {Path(str(row["log_path"])).name for row in rows if "source" not in row}
    kept = [row for row in rows if "source" not in row or Path(str(row["log_path"])).name not in pickled]
    return [_described({k: v for k, v in row.items() if k != "source"}) for row in kept], problems


def _row_of_pickles(folder: Path, name: str) -> dict[str, Any]:
    if not (folder / STATUS).is_file() or not _completed(load_plain(folder / STATUS)):
        raise CorruptOutputError("unfinished: HistoSSLscaling did not complete it")
    metrics = load_plain(folder / METRICS)
    if not isinstance(metrics, Mapping) or not set(_SCORES) & set(metrics):
        raise CorruptOutputError(f"{METRICS} holds none of the metrics {', '.join(_SCORES)}")
    row: dict[str, Any] = {"log_path": name}
    for score in set(_SCORES) & set(metrics):
        last = np.array([_last(values) for values in metrics[score].values()], np.float64)
        known = last[~np.isnan(last)]
        row |= {
            f"mean_{score}": known.mean() if len(known) else math.nan,
            f"std_{score}": known.std() if len(known) else math.nan,
        }
        row["n_folds"] = max(len(known), row.get("n_folds", 0))
    if (folder / PARAMS).is_file():
        found = dict(_leaves(load_plain(folder / PARAMS)))
        row |= {column: found[column] for column in REFERENCE_COLUMNS if column in found and column not in row}
    return row


def _last(values: Any) -> float:  # noqa: ANN401 - what a pickle holds
    """The value after the last epoch."""
    if isinstance(values, list | tuple | np.ndarray):
        if not len(values):
            return math.nan
        values = values[-1]
    return float(values)


def _completed(status: object) -> bool:
    if isinstance(status, Mapping):
        return bool(status.get("completed")) or "completed" in map(str, status.values())
    if isinstance(status, str):
        return status == "completed"
    return "completed" in status if isinstance(status, set | frozenset | list | tuple) else status is True


def _leaves(values: object) -> Iterator[tuple[str, Any]]:
    """Names and plain values of nested settings; the outermost of a name wins."""
    if isinstance(values, Mapping):
        inner: list[Mapping[Any, Any]] = []
        found: dict[str, Any] = {}
        for name, value in values.items():
            if isinstance(value, Mapping):
                inner.append(value)
            elif isinstance(value, str | int | float | bool):
                found[str(name)] = value
        for below in inner:
            found = {**dict(_leaves(below)), **found}
        yield from found.items()


def _rows_of_table(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        absent = {"model", "features", "log_path"} - set(reader.fieldnames or ())
        if absent:
            raise CorruptOutputError(f"the table lacks the column {sorted(absent)[0]!r}")
        return [{name: _cell(row[name]) for name in REFERENCE_COLUMNS if row.get(name)} for row in reader]


def _cell(text: str) -> str | int | float | bool:
    """The value that was written: a number, True or False, otherwise the text."""
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _described(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with our columns that follow from the reference's."""
    survival = not math.isnan(float(row.get("mean_cindex", math.nan)))
    score = "cindex" if survival else "auc"
    label, cohort = str(row.get("label", "")), str(row.get("cohort", ""))
    return {
        **row,
        "task": f"{label} ({cohort})" if label and cohort else label or cohort or "HistoSSLscaling",
        "kind": "histossl",
        "type": "survival" if survival else "binary or multiclass",
        "model": str(row.get("model", "")),
        "features": str(row.get("features", "")),
        "metric": "cindex_score" if survival else "roc_auc_score",
        "mean": row.get(f"mean_{score}", math.nan),
        "sd": row.get(f"std_{score}", math.nan),
        "estimate": math.nan,
        "low": math.nan,
        "high": math.nan,
    }
