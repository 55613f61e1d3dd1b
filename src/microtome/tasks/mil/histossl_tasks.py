"""Tasks and features of a benchmark, from folders that HistoSSL's users have."""

from collections.abc import Iterator, Mapping
from typing import Any

from microtome.cohort.table import write_cohort
from microtome.config.learning import BenchmarkConfig
from microtome.errors import CohortError, ConfigError, MicrotomeError
from microtome.storage import safe_name
from microtome.tasks.catalogue import Task, list_tasks, read_task, task_definition
from microtome.tasks.histossl_layout import find_histossl

REFERENCE_TILES = 1000
"""Tiles of a slide that HistoSSLscaling takes, whatever its settings say."""


def list_materials(config: BenchmarkConfig) -> Iterator[tuple[str, str, dict[str, Any] | MicrotomeError]]:
    """Each task with the features of each encoder.

    The table of slides of each is written below ``config.out``, where ``microtome cv`` and ``results`` read it.

    Args:
        config: With ``layout`` and ``data``. Tasks and encoders that it names must be there; where it names none, those
            that are there are taken.

    Yields:
        Task, encoder, and the settings of its cross-validation, or why there are none.

    Raises:
        ConfigError: If there is no such folder, task or encoder, or nothing at all.
    """
    if config.data is None:
        raise ConfigError("layout needs data, the folder that has this layout.")
    folder = find_histossl(config.data)
    asked = [_named(task) for task in config.tasks] or [(name, {}) for name in list_tasks()]
    found = 0
    for name, own in asked:
        definition = task_definition(name)
        for encoder in tuple(config.encoders) or folder.encoders():
            try:
                task = read_task(definition.name, config.data, encoder=encoder, with_test="holdout" in own)
                settings = _settings(config, task, encoder)
            except MicrotomeError as error:
                if not config.tasks and isinstance(error, CohortError):
                    continue  # nobody asked for this one
                yield definition.name, encoder, error
            else:
                yield definition.name, encoder, {**settings, "features": folder.features_folder(encoder), **own}
            found += 1
    if not found:
        raise ConfigError(
            f"'{config.data}' holds no task whole: features of slides below preprocessed/, clinical tables below "
            "raw/. `microtome inspect --layout histossl` says what is missing."
        )


def _named(task: Mapping[str, Any] | str) -> tuple[str, dict[str, Any]]:
    if isinstance(task, str):
        return task, {}
    if "name" not in task:
        raise ConfigError(f"With a layout, tasks are named as `microtome tasks` lists them. Got {dict(task)!r}.")
    return str(task["name"]), {key: value for key, value in task.items() if key != "name"}


def _settings(config: BenchmarkConfig, task: Task, encoder: str) -> dict[str, Any]:
    target = task.target
    table = config.out / "cohorts" / safe_name(f"{task.definition.name}-{encoder}.csv", what="Name of a table")
    write_cohort(table, task.cohort)
    return {
        "cohort": table,
        "encoder": encoder,
        "target": target.name,
        "type": target.type,
        "columns": target.columns,
        "classes": target.classes,
        "max_instances": REFERENCE_TILES if config.max_instances is None else config.max_instances,
    }
