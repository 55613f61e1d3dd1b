"""Tasks × encoders × models, each cross-validated in a folder of its own, and one table of all.

A cell that cannot be done is told with its reason, and the others are done. Run again, finished cells are not repeated.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from microtome.config import ResultsConfig
from microtome.config.base import resolve
from microtome.config.learning import BenchmarkConfig, CVConfig
from microtome.errors import ConfigError, MicrotomeError, RecipeMismatchError
from microtome.storage import now_utc, safe_name, write_json
from microtome.tasks.mil.cross_validate import cross_validate
from microtome.tasks.mil.nested import Say
from microtome.tasks.mil.run_folder import read_record
from microtome.tasks.results import Results, collect_results

RECORD = "run.json"
_OWN = frozenset({"tasks", "encoders", "models", "layout", "data"})


@dataclass(frozen=True, slots=True)
class Cell:
    """One cross-validation of a benchmark.

    Attributes:
        task: Its name.
        encoder: Its name.
        model: Its name.
        config: Its settings, or why there are none.
    """

    task: str
    encoder: str
    model: str
    config: CVConfig | MicrotomeError


@dataclass(frozen=True, slots=True)
class CellFailure:
    """A cell that could not be done, and why."""

    task: str
    encoder: str
    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What came of a benchmark.

    Attributes:
        out: Its folder.
        results: Table of all finished cells, with paired tests and published values; None where none could be done.
        failed: The cells that could not be done.
    """

    out: Path
    results: Results | None
    failed: tuple[CellFailure, ...]

    def lines(self) -> list[str]:
        """What a person wants to read."""
        lines = [] if self.results is None else [_row_line(row) for row in self.results.table.to_dict("records")]
        lines += [f"failed: {f.task}, {f.encoder}, {f.model}: {f.reason}" for f in self.failed]
        if self.results is not None:
            lines += [*self.results.notes, f"Table:   {self.results.files[0]}"]
        return lines


def run_benchmark(config: BenchmarkConfig, *, say: Say | None = None) -> Benchmark:
    """Cross-validate every task with the features of every encoder and every model.

    Args:
        config: What to run.
        say: Told how far it is.

    Returns:
        The results; the folder ``results`` in ``config.out`` holds the same as tables and figures.

    Raises:
        ConfigError: If there is nothing to do, or a task, encoder or model is described wrongly.
        RecipeMismatchError: If the folder holds results of another verb.
    """
    cells = list_cells(config)
    _check_folder(config.out)
    started = now_utc()
    failed: list[CellFailure] = []
    for number, cell in enumerate(cells, start=1):
        where = f"{cell.task}, {cell.encoder}, {cell.model}"
        _write(config, failed, number - 1, len(cells), started)
        if say is not None:
            say(f"cell {number} of {len(cells)}: {where}")
        try:
            if isinstance(cell.config, MicrotomeError):
                raise cell.config
            cross_validate(cell.config, say=say)
        except MicrotomeError as error:
            failed.append(CellFailure(cell.task, cell.encoder, cell.model, str(error)))
    _write(config, failed, len(cells), len(cells), started)
    if len(failed) == len(cells):
        return Benchmark(config.out, None, tuple(failed))
    shown = ResultsConfig(
        logs=config.out,
        seed=config.seed,
        no_figures=config.no_figures,
        no_tests=config.n_boot == 0,
        n_boot=max(1, config.n_boot),
    )
    return Benchmark(config.out, collect_results(shown), tuple(failed))


def _check_folder(out: Path) -> None:
    found = read_record(out / RECORD)
    if found is not None and found.get("kind") != "benchmark":
        kind = found.get("kind", "run")
        raise RecipeMismatchError(f"'{out}' holds results of `microtome {kind}`. Choose another --out.")


def list_cells(config: BenchmarkConfig) -> list[Cell]:
    """The cross-validations of a benchmark, in order: task by task, encoder by encoder, model by model.

    Raises:
        ConfigError: If there is nothing to do, two cells have one name, or a description is wrong.
    """
    models = list(_models(config))
    cells = []
    for task, encoder, own in _materials(config):
        for model, settings in models:
            out = config.out / _slug(task) / _slug(encoder) / _slug(model)
            if isinstance(own, MicrotomeError):
                cells.append(Cell(task, encoder, model, own))
                continue
            layers = (_shared(config), own, settings, {"out": out, "task": task})
            cells.append(Cell(task, encoder, model, resolve(CVConfig, *layers)))
    if not cells:
        raise ConfigError("There is nothing to do: name tasks and encoders, or a layout with its data.")
    twice = _first_repeated([cell.config.out for cell in cells if isinstance(cell.config, CVConfig)])
    if twice is not None:
        raise ConfigError(f"Two cells of the benchmark would share '{twice}'. Give tasks, encoders and models names.")
    return cells


def _shared(config: BenchmarkConfig) -> dict[str, Any]:
    """Settings that every cell has; those that were not given keep the default of ``cv``."""
    return {name: getattr(config, name) for name in config.model_fields_set - _OWN - {"out", "model"}}


def _models(config: BenchmarkConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    for model in config.models or (config.model,):
        if isinstance(model, str):
            yield model, {"model": model}
        elif "model" in model:
            settings = {name: value for name, value in model.items() if name != "name"}
            yield str(model.get("name", model["model"])), settings
        else:
            raise ConfigError(f"A model of a benchmark needs its aggregator under 'model'. Got {dict(model)!r}.")


def _materials(config: BenchmarkConfig) -> Iterator[tuple[str, str, dict[str, Any] | MicrotomeError]]:
    """Task, encoder, and the settings that say what is learnt from, or why there are none."""
    if config.layout is not None:
        from microtome.tasks.mil.histossl_tasks import list_materials

        yield from list_materials(config)
        return
    for task in config.tasks:
        if isinstance(task, str) or "target" not in task or "cohort" not in task:
            raise ConfigError(f"A task of a benchmark needs cohort and target (and a name). Got {task!r}.")
        name = str(task.get("name", task["target"]))
        settings = {key: value for key, value in task.items() if key != "name"}
        for encoder, folder in config.encoders.items():
            if folder is None:
                raise ConfigError(f"Encoder {encoder!r} of a benchmark needs its folder of features.")
            features = Path(str(folder).replace("{task}", name))
            yield name, encoder, {**settings, "features": features}


def _slug(name: str) -> str:
    return safe_name(name.replace("/", "-").replace(":", "-").replace(" ", "_"), what="Name in a benchmark")


def _first_repeated(paths: Sequence[Path]) -> Path | None:
    seen: set[Path] = set()
    for path in paths:
        if path in seen:
            return path
        seen.add(path)
    return None


def _row_line(row: Mapping[Any, Any]) -> str:
    interval = "" if pd.isna(row["low"]) else f" ({row['low']:.3f} to {row['high']:.3f})"
    tested = "" if pd.isna(row["p_holm"]) else f", p {row['p_holm']:.3g} against {row['reference']}"
    published = ""
    if not pd.isna(row["published_mean"]):
        sd = "" if pd.isna(row["published_sd"]) else f" ± {row['published_sd']:.3f}"
        published = f"; published {row['published_mean']:.3f}{sd}"
    own = Path(str(row["log_path"])).name  # what the benchmark calls the model
    model = row["model"] if own == row["model"] else f"{row['model']} ({own})"
    return (
        f"{row['task']}, {row['features']}, {model}: {row['metric']} {row['mean']:.3f} ± {row['sd']:.3f} over "
        f"{row['n_folds']} folds, pooled {row['estimate']:.3f}{interval}{tested}{published}"
    )


def _write(config: BenchmarkConfig, failed: Sequence[CellFailure], n_tried: int, n_cells: int, started: str) -> None:
    finished = n_tried == n_cells
    record = {
        "kind": "benchmark",
        "status": "done" if finished else "running",
        "started": started,
        "ended": now_utc() if finished else None,
        "config": config.model_dump(mode="json"),
        "n_cells": n_cells,
        "n_done": n_tried - len(failed),
        "failed": [asdict(failure) for failure in failed],
    }
    write_json(config.out / RECORD, record)
