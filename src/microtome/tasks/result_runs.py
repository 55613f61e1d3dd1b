"""Finished runs below a folder, each as one row of numbers; what is unfinished or damaged, by name."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from microtome.cohort.predictions import Predictions, read_predictions
from microtome.cohort.targets import Target
from microtome.config import CVConfig, resolve
from microtome.errors import ConfigError, CorruptOutputError, MicrotomeError

RECORD, TABLE, FOLDS = "run.json", "metrics.csv", "folds.csv"
_PREDICTED = "predict.json"  # predictions of a model that nobody has judged yet
_KINDS = ("cv", "evaluate")
_INNARDS = frozenset({"jobs", "figures", "evaluation", "checkpoints"})
"""Folders within a run that hold no run of their own, unless they have a record."""

REFERENCE_COLUMNS = (
    "model", "features", "n_tiles", "cohort", "label", "gs_params", "n_repeats", "n_splits", "stratified", "split_mode",
    "batch_size", "num_epochs", "learning_rate", "weight_decay", "mean_auc", "mean_accuracy", "mean_cindex", "std_auc",
    "std_accuracy", "std_cindex", "log_path",
)  # fmt: skip
"""Columns that HistoSSLscaling's table of results has, with its meaning: mean and population s.d. over folds."""

_OF_REFERENCE = {
    "auc": ("roc_auc_score", "mean_roc_auc_score"),
    "accuracy": ("accuracy_score",),
    "cindex": ("cindex_score",),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """A run that is not in the table.

    Attributes:
        path: Its folder, below the folder of logs.
        reason: Why not.
    """

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run.

    Attributes:
        path: Its folder.
        name: The folder, as it is below the folder of logs.
        record: What ``run.json`` says.
        metrics: One row per metric: metric, estimate, low, high, n, n_patients.
        folds: One row per repeat, fold and metric: repeat, fold, metric, estimate.
        row: Settings and the reference's columns.
    """

    path: Path
    name: str
    record: Mapping[str, Any]
    metrics: pd.DataFrame
    folds: pd.DataFrame
    row: Mapping[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> Target:
        """What was predicted."""
        return Target.from_dict(self.record["target"])

    @property
    def task(self) -> str:
        """Runs of one task are compared with each other."""
        return str(self.row["task"])

    def predictions(self) -> Predictions:
        """The predictions that the run's numbers are of.

        Raises:
            CorruptOutputError: If they cannot be read.
            MicrotomeError: If they are no predictions.
        """
        own = self.path / "predictions.parquet"
        given = str(self.record.get("config", {}).get("predictions") or own)
        path = own if own.is_file() else Path(given)
        if not path.is_file():
            raise CorruptOutputError(f"The predictions '{path}' are not there any more.")
        return read_predictions(path)


def find_runs(logs: Path, *, leave_out: Path | None = None) -> tuple[list[Run], list[Problem]]:
    """Every run of ``cv``, ``benchmark`` and ``evaluate`` below a folder.

    Args:
        logs: The folder.
        leave_out: A folder not to look into: that of the results.

    Returns:
        Finished runs, and those that are unfinished or damaged, both by name.

    Raises:
        ConfigError: If ``logs`` is no folder.
    """
    if not logs.is_dir():
        raise ConfigError(f"There is no folder '{logs}'. Pass the folder below which runs lie.")
    runs, problems = [], []
    for folder in sorted(_run_folders(logs, leave_out)):
        name = folder.relative_to(logs).as_posix()
        try:
            run = _read_run(folder, name)
        except (MicrotomeError, ValueError, KeyError, TypeError, OSError) as error:
            problems.append(Problem(name, str(error) or type(error).__name__))
            continue
        if isinstance(run, Run):
            runs.append(run)
        else:
            problems += run
    return runs, problems


def _run_folders(logs: Path, leave_out: Path | None) -> Iterator[Path]:
    """Folders that hold a run or what is left of one."""
    kept_out = None if leave_out is None else leave_out.resolve()
    for place, folders, files in os.walk(logs):
        here = Path(place)
        if kept_out is not None and here.resolve() == kept_out:
            folders.clear()
            continue
        is_run = RECORD in files
        if is_run or (_PREDICTED not in files and {"predictions.parquet", "evaluation.json"} & set(files)):
            yield here
        if is_run:
            folders[:] = [name for name in folders if name not in _INNARDS or (here / name / RECORD).is_file()]


def _read_run(folder: Path, name: str) -> Run | list[Problem]:
    """The run, or why there is none; nothing of what is of another kind (runs on slides, models)."""
    if not (folder / RECORD).is_file():
        return [Problem(name, f"there are results without {RECORD}: the run was stopped, or files were moved away")]
    record = _read_record(folder / RECORD)
    kind = record.get("kind")
    if kind == "benchmark":
        failed = record.get("failed", [])
        return [Problem(_cell(name, cell), f"failed: {cell['reason']}") for cell in failed]
    if kind not in _KINDS:
        return []
    if record.get("status") != "done":
        reason = f"unfinished: its status is {record.get('status')!r}; the same command goes on from there"
        return [Problem(name, reason)]
    numbers = folder if (folder / TABLE).is_file() and kind == "evaluate" else folder / "evaluation"
    metrics = _read_table(numbers / TABLE, ("metric", "estimate", "low", "high", "n", "n_patients"))
    folds = _read_table(numbers / FOLDS, ("repeat", "fold", "metric", "estimate"))
    return Run(folder, name, record, metrics, folds, _describe(record, folds, name))


def _cell(name: str, cell: Mapping[str, Any]) -> str:
    return f"{name}: {cell['task']}, {cell['encoder']}, {cell['model']}"


def _read_record(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptOutputError(f"{RECORD} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise CorruptOutputError(f"{RECORD} is no record of a run")
    return found


def _read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype={"metric": str})
    except (OSError, ValueError) as error:  # pandas' errors are ValueErrors
        raise CorruptOutputError(f"{path.name} cannot be read: {error}") from error
    if absent := [column for column in columns if column not in table.columns]:
        raise CorruptOutputError(f"{path.name} lacks the column {absent[0]!r}")
    return table


def _describe(record: Mapping[str, Any], folds: pd.DataFrame, name: str) -> dict[str, Any]:
    """Settings of a run and the reference's columns of it."""
    config = record.get("config", {})
    target = Target.from_dict(record["target"])
    attrs = record.get("predictions", {})
    model = _name_of(record.get("model")) or _name_of(attrs.get("model"))
    encoder = _name_of(record.get("encoder")) or _name_of(attrs.get("encoder"))
    cohort = Path(str(config.get("cohort", ""))).stem
    row: dict[str, Any] = {
        "task": _task_of(record, target, cohort),
        "kind": record["kind"],
        "type": target.type,
        "model": model,
        "features": encoder,
        "cohort": cohort,
        "label": target.name,
        "log_path": name,
        "n_excluded": len(record.get("excluded", {})),
        "compat": record.get("compat"),
        "ended": record.get("ended"),
    }
    if record["kind"] == "cv":
        row |= _protocol(config)
    for short, names in _OF_REFERENCE.items():
        values = folds.loc[folds["metric"].isin(names), "estimate"].astype(float)
        row[f"mean_{short}"] = values.mean()  # over the folds in which it is defined
        row[f"std_{short}"] = values.std(ddof=0)
    return row


def _task_of(record: Mapping[str, Any], target: Target, cohort: str) -> str:
    """The benchmark's name for it, otherwise target and table of labels."""
    return _name_of(record.get("task")) or (f"{target.name} ({cohort})" if cohort else target.name)


def _name_of(value: object) -> str:
    if isinstance(value, Mapping):
        value = value.get("name")
    return "" if value is None else str(value)


def _protocol(config: Mapping[str, Any]) -> dict[str, Any]:
    """How folds were made and what was searched."""
    settings = resolve(CVConfig, config)
    axes = settings.axes
    return {
        "n_tiles": settings.max_instances,
        "gs_params": json.dumps(axes) if settings.inner and any(len(v) > 1 for v in axes.values()) else "",
        "n_repeats": settings.repeats,
        "n_splits": f"{settings.inner} x {settings.outer}",
        "stratified": settings.stratify,
        "split_mode": _split_mode(settings),
        "batch_size": settings.batch_size,
        "num_epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "weight_decay": settings.weight_decay,
    }


def _split_mode(settings: CVConfig) -> str:
    if settings.splits is not None:
        return f"file {settings.splits.name}"
    if settings.holdout is not None:
        return f"held out {settings.holdout}"
    if settings.group is None:
        return "patient"
    return f"leave one {settings.group} out" if settings.leave_one_site_out else f"group {settings.group}"
