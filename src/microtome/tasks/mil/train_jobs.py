"""Training of many models on the same bags: together where the model can be stacked, one by one where it cannot."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from microtome.cohort.targets import Labels
from microtome.encoders.hardware import resolve_runtime
from microtome.errors import ConfigError
from microtome.models.aggregators.base import Aggregator
from microtome.models.aggregators.clam import Clam
from microtome.models.objectives.base import Objective
from microtome.storage import Progress
from microtome.tasks.mil.bags import BagSet
from microtome.tasks.mil.jobs import JobResult, ModelSpec, TrainJob
from microtome.tasks.mil.stacked import initial_model
from microtome.tasks.mil.stacked_files import JobFiles, job_recipe
from microtome.tasks.mil.stacked_networks import stack_network
from microtome.tasks.mil.stacked_one import OneByOne
from microtome.tasks.mil.stacked_reader import Reader
from microtome.tasks.mil.stacked_training import JobsTask, Material
from microtome.tasks.training import TrainingSettings, train
from microtome.tasks.training.parallel import Ranks, ranks

Precision = Literal["auto", "fp32", "bf16"]

_TABLE_BYTES = 4 << 30
_PER_PARAMETER = 16  # itself, its gradient, and Adam's two
_CHECKPOINT_BYTES = 64 << 20
_INSTANCE_WEIGHT = 0.3
_BY_CLASS = ("binary", "multiclass")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Machine:
    """Where models are trained.

    Attributes:
        device: ``cpu`` or ``cuda:<n>``.
        precision: Of matrix products: ``fp32`` or ``bf16``.
    """

    device: str
    precision: str


def choose_machine(device: str = "auto", precision: Precision | None = "auto") -> Machine:
    """What ``auto`` stands for here: a GPU where there is one, bf16 where the hardware multiplies in it.

    Raises:
        ConfigError: If there is no such device or precision, or it does not serve here.

    Example:
        >>> choose_machine("cpu", "fp32")
        Machine(device='cpu', precision='fp32')
    """
    choice = resolve_runtime(device, precision, "torch")
    if choice.device == "mps" and device == "auto":
        choice = resolve_runtime("cpu", precision, "torch")
    if choice.device == "mps" or choice.precision == "fp16":
        raise ConfigError(
            f"Models on bags are trained on cpu or cuda, in fp32 or bf16. Got device {choice.device!r} and precision "
            f"{choice.precision!r}."
        )
    return Machine(choice.device, choice.precision)


def why_one_by_one(spec: ModelSpec) -> str | None:
    """Why models of this kind are not trained together; None where they are.

    Raises:
        ConfigError: If there is no such model.

    Example:
        >>> why_one_by_one(ModelSpec("abmil")) is None
        True
    """
    if stack_network(initial_model(spec, 64, 1, 0)) is not None:
        return None
    return f"'{spec.name}' has no form for many models at once, so that its models are trained one after the other."


def train_jobs(  # noqa: PLR0913 - what, on what, and how
    jobs: Sequence[TrainJob],
    bags: BagSet,
    labels: Labels,
    spec: ModelSpec,
    objective: Objective,
    *,
    device: str = "auto",
    precision: Precision | None = "auto",
    together: bool | Literal["auto"] = "auto",
    order_seed: int = 0,
    on_epoch: Callable[[int, int], None] | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> list[JobResult]:
    """Train models, each on its own rows, reading every bag once for all of them.

    Every epoch has one permutation of all rows, seeded by ``order_seed`` and the epoch, and each model takes its rows
    in that order; what dropout leaves out hangs on the model's seed, the epoch and the row. So a model comes out the
    same whether it is trained with others or alone, up to rounding.

    A parameter on which the loss of a step does not depend has the gradient zero in that step; those on which no loss
    ever depends stay as they were initialised.

    Args:
        jobs: What to train; keys must differ.
        bags: The features, row by row as in ``labels``.
        labels: The target's values.
        spec: The aggregator.
        objective: Not yet fitted; each job fits its own to its training rows.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<n>``.
        precision: Of matrix products: ``fp32``; ``bf16``, with fp32 weights and sums; ``auto`` (or None) is bf16 where
            the hardware has it and fp32 elsewhere. :func:`choose_machine` says which.
        together: True refuses a model that cannot be stacked; False trains one by one; ``auto`` says so where it must
            (:func:`why_one_by_one`).
        order_seed: Of the order of bags.
        on_epoch: Called after each epoch with the number of epochs done and of all.
        folder: Where finished jobs and checkpoints go. A finished job is not trained again; a killed run goes on from
            its last checkpoint.
        progress: Where notes are shown; nowhere by default.

    Returns:
        A result per job, in their order.

    Raises:
        ConfigError: If keys repeat, a row does not exist, or what was asked cannot be done.
        TrainingError: If a model's loss or logits are no longer finite; the job is named.
        RecipeMismatchError: If the folder holds a job of the same key with other settings.
        ClaimedError: If another process trains in the folder.
    """
    _check(jobs, bags, labels)
    machine = choose_machine(device, precision)
    model = initial_model(spec, bags.n_features, objective.n_outputs, 0)
    stacked = None if together is False else stack_network(model)
    if stacked is None and together is True:
        raise ConfigError(f"together=True cannot be: {why_one_by_one(spec)} Pass together='auto'.")
    if stacked is None and together == "auto" and progress is not None:
        progress.note(str(why_one_by_one(spec)))
    reader = Reader(bags, torch.device(machine.device), _DTYPES[machine.precision])
    material = Material(labels, spec, objective, reader, order_seed, _instance_weight(model, labels))
    network = stacked or OneByOne(model, bf16=machine.precision == "bf16")
    network.instance_loss = material.instance_weight > 0
    files = JobFiles(folder, {job.key: job_recipe(job, material, machine.precision) for job in jobs})
    groups = _groups(jobs, files, 1 if stacked is None else _per_group(model))
    total = sum(_n_epochs(group) for group in groups)
    found: dict[str, JobResult] = {}
    before = 0
    for group in groups:
        task = JobsTask(group, material, network)
        task.on_epoch = _counted(on_epoch, before, total)
        before += _n_epochs(group)
        found |= {result.key: result for result in _train(task, files)}
    return [found[job.key] if job.key in found else files.read(job.key) for job in jobs]


def _n_epochs(group: Sequence[TrainJob]) -> int:
    return max(job.hyper.n_epochs for job in group)


def _counted(on_epoch: Callable[[int, int], None] | None, before: int, total: int) -> Callable[[int], None] | None:
    """``on_epoch`` for a group whose epochs come after those of others."""
    return None if on_epoch is None else lambda epoch: on_epoch(before + epoch + 1, total)


def _groups(jobs: Sequence[TrainJob], files: JobFiles, size: int) -> list[list[TrainJob]]:
    """Jobs to train together: first those that an earlier call began, then the others that are not finished."""
    by_key = {job.key: job for job in jobs}
    done = files.finished()
    begun = files.under_way(done)
    taken = done.union(*begun)
    left = [job for job in jobs if job.key not in taken]
    sets = {job.train.tobytes(): i for i, job in reversed(list(enumerate(left)))}
    left.sort(key=lambda job: sets[job.train.tobytes()])  # those with the same rows are neighbours in the table
    rest = [left[start : start + size] for start in range(0, len(left), size)]
    return [[by_key[key] for key in keys] for keys in begun] + rest


def _per_group(model: Aggregator) -> int:
    """How many models fit into the memory that a table may take."""
    n_parameters = sum(p.numel() for p in model.parameters())
    return max(1, _TABLE_BYTES // (_PER_PARAMETER * n_parameters))


def _train(task: JobsTask, files: JobFiles) -> list[JobResult]:
    """Train a group and store its results."""
    keys = [job.key for job in task.jobs]
    n_bytes = task.table.rows.numel() * _PER_PARAMETER
    settings = TrainingSettings(
        n_epochs=_n_epochs(task.jobs),
        checkpoint_every=1 + n_bytes // _CHECKPOINT_BYTES,
        tensorboard=False,
    )
    train(task, settings, files.checkpoint(keys), place=Ranks())
    results = [task.result(model) for model in range(len(keys))]
    for result in results:
        files.write(result)
    files.close(keys)
    return results


def _instance_weight(model: Aggregator, labels: Labels) -> float:
    """Share of CLAM's instance loss; it asks for classes."""
    if not isinstance(model, Clam):
        return 0.0
    target = labels.target
    classes = target.type in _BY_CLASS and len(target.classes) == model.n_classes
    if model.instance_weight and not classes:
        raise ConfigError(
            f"CLAM's instance loss needs a binary or multiclass target; '{target.name}' is {target.type}. Pass "
            "instance_weight=0."
        )
    if model.instance_weight is None:
        return _INSTANCE_WEIGHT if classes else 0.0
    return model.instance_weight


def _check(jobs: Sequence[TrainJob], bags: BagSet, labels: Labels) -> None:
    if ranks().world > 1:
        raise ConfigError("Models on bags are trained in one process. Start it without torchrun.")
    if len(bags) != len(labels):
        raise ConfigError(f"There are {len(bags)} bags and {len(labels)} rows of labels. Take both from open_bags.")
    if len({job.key for job in jobs}) < len(jobs):
        raise ConfigError("Two jobs have one key. Give each its own.")
    for job in jobs:
        _check_job(job, len(labels))


def _check_job(job: TrainJob, n_rows: int) -> None:
    hyper = job.hyper
    if len(job.train) == 0:
        raise ConfigError(f"Job '{job.key}' has no row to train on.")
    for rows in (job.train, job.test):
        if len(rows) and not (rows.min() >= 0 and rows.max() < n_rows and len(np.unique(rows)) == len(rows)):
            raise ConfigError(
                f"Job '{job.key}' names a row twice, or one that is not among the {n_rows} of the labels."
            )
    counts = {"n_epochs": hyper.n_epochs, "batch_size": hyper.batch_size, "risk_batch": hyper.risk_batch}
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name} of job '{job.key}' must be at least 1, got {value}.")
    if not (hyper.learning_rate > 0 and hyper.weight_decay >= 0 and hyper.seed >= 0):
        raise ConfigError(f"Job '{job.key}' needs a learning rate above 0, and weight decay and seed of at least 0.")
