"""The folder of a run of jobs: a file per finished job, a checkpoint per group of jobs that is under way."""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from microtome.errors import CorruptOutputError, MissingOutputError, RecipeMismatchError
from microtome.storage import digest, recipe_changes, recipe_text, safe_name, write_text, written_whole
from microtome.tasks.mil.jobs import JobResult, TrainJob
from microtome.tasks.mil.stacked_training import Material

_STATE = "state."
_JOBS = "jobs.json"


def job_recipe(job: TrainJob, material: Material, precision: str) -> dict[str, Any]:
    """What decides the result of a job, flat."""
    labels, bags, objective = material.labels, material.reader.bags, material.objective
    ids = np.array(labels.ids, np.str_)
    return {
        **{f"hyper_{name}": value for name, value in asdict(job.hyper).items()},
        "train": digest({"ids": ids[job.train].tolist(), "values": labels.values[job.train]}),
        "test": digest({"ids": ids[job.test].tolist()}),
        "table": digest({"ids": ids.tolist()}),
        "target": labels.target.as_dict(),
        "model": material.spec.name,
        "options": dict(material.spec.options),
        "instance_weight": material.instance_weight,
        "objective": objective.name,
        "objective_state": dict(objective.state()),
        "order_seed": material.order_seed,
        "precision": precision,
        "device": material.reader.device.type,
        "features": bags.recipe.as_dict(),
        "bags": digest({"lengths": bags.lengths, "slides": [bags.slides(row) for row in range(len(bags))]}),
        "max_instances": bags.max_instances,
        "draw": bags.draw,
        "draw_seed": bags.seed if bags.max_instances is not None else None,
    }


@dataclass(frozen=True, slots=True)
class JobFiles:
    """Finished jobs and checkpoints of a run.

    Attributes:
        folder: Where; None: nothing is kept.
        recipes: Of each job, by key.
    """

    folder: Path | None
    recipes: Mapping[str, Mapping[str, Any]]

    def path(self, key: str) -> Path | None:
        """Where the result of a job is, or will be."""
        return None if self.folder is None else self.folder / f"{safe_name(key, what='key of a job')}.safetensors"

    def finished(self) -> set[str]:
        """Keys of the jobs whose results are there.

        Raises:
            RecipeMismatchError: If a result was made with other settings.
            CorruptOutputError: If it cannot be read.
        """
        found = set()
        for key, recipe in self.recipes.items():
            path = self.path(key)
            if path is None or not path.is_file():
                continue
            stored = _metadata(path)["recipe"]
            if stored != recipe_text(recipe):
                changes = "; ".join(recipe_changes(stored, recipe_text(recipe))[:6])
                raise RecipeMismatchError(
                    f"'{path}' holds a job that was trained with other settings ({changes}). Choose another folder."
                )
            found.add(key)
        return found

    def read(self, key: str) -> JobResult:
        """The result of a finished job.

        Raises:
            CorruptOutputError: If it cannot be read.
        """
        path = self.path(key)
        if path is None:
            raise MissingOutputError(f"There is no folder with the result of job '{key}'.")
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (OSError, SafetensorError) as error:
            raise _corrupt(path, error) from error
        return JobResult(
            key=key,
            logits=tensors.pop("logits").numpy(),
            train_loss=tensors.pop("train_loss").numpy(),
            state={name.removeprefix(_STATE): tensor for name, tensor in tensors.items()},
            objective=json.loads(_metadata(path)["objective"]),
        )

    def write(self, result: JobResult) -> None:
        """Write the result of a finished job, whole.

        Raises:
            OutputWriteError: If it cannot be written.
        """
        path = self.path(result.key)
        if path is None:
            return
        tensors = {f"{_STATE}{name}": tensor.contiguous() for name, tensor in result.state.items()}
        tensors["logits"] = torch.from_numpy(np.ascontiguousarray(result.logits))
        tensors["train_loss"] = torch.from_numpy(np.ascontiguousarray(result.train_loss))
        metadata = {
            "key": result.key,
            "recipe": recipe_text(self.recipes[result.key]),
            "objective": json.dumps(dict(result.objective)),
        }
        with written_whole(path) as temporary:
            save_file(tensors, temporary, metadata)

    def checkpoint(self, keys: Sequence[str]) -> Path | None:
        """Folder of the checkpoint of jobs that are trained together; it says which they are."""
        if self.folder is None:
            return None
        digests = {key: digest(self.recipes[key]) for key in keys}
        folder = self.folder / "under_way" / digest(digests)[:16]
        write_text(folder / _JOBS, json.dumps(digests) + "\n")
        return folder

    def under_way(self, finished: set[str]) -> list[list[str]]:
        """Keys of jobs that an earlier call began together and did not finish, group by group."""
        if self.folder is None:
            return []
        digests = {key: digest(recipe) for key, recipe in self.recipes.items()}
        groups: list[list[str]] = []
        for path in sorted((self.folder / "under_way").glob(f"*/{_JOBS}")):
            with suppress(OSError, ValueError):
                began = json.loads(path.read_text(encoding="utf-8"))
                ours = all(digests.get(key) == value for key, value in began.items())
                if ours and set(began) <= finished:
                    shutil.rmtree(path.parent, ignore_errors=True)
                elif ours:
                    groups.append(list(began))
        return groups

    def close(self, keys: Sequence[str]) -> None:
        """Remove the checkpoint of jobs that are finished."""
        folder = self.checkpoint(keys)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):
                folder.parent.rmdir()


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            found = dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise _corrupt(path, error) from error
    if not {"recipe", "objective"} <= found.keys():
        raise _corrupt(path, "it does not say what decided it")
    return found


def _corrupt(path: Path, error: object) -> CorruptOutputError:
    return CorruptOutputError(f"'{path}' cannot be read as the result of a job: {error}. Delete it and run again.")
