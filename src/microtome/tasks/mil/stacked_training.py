"""Training of a table of models, as a task of the one loop: an epoch is its batch."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor, nn

from microtome.cohort.targets import Labels
from microtome.errors import TrainingError
from microtome.models.objectives.base import Objective
from microtome.tasks.mil.jobs import JobResult, ModelSpec, TrainJob
from microtome.tasks.mil.packed import Pack
from microtome.tasks.mil.stacked import Layout, Noise, StackedNetwork, initial_model
from microtome.tasks.mil.stacked_adam import StackedAdam, rows_of
from microtome.tasks.mil.stacked_order import Batches, PackPlan, batches_of, plan_packs
from microtome.tasks.mil.stacked_reader import Reader
from microtome.tasks.training import StepResult, TrainingTask
from microtome.tasks.training.order import epoch_order

_LAUNCH = {"cpu": 500, "cuda": 200_000}
_SLAB_BYTES = {"cpu": 1 << 26, "cuda": 1 << 32}
"""What the models computed at once may keep for their backward pass."""


@dataclass(frozen=True, slots=True)
class Material:
    """What all trainings of a run share.

    Attributes:
        labels: The target's values.
        spec: The aggregator.
        objective: Not yet fitted.
        reader: Of the bags.
        order_seed: Of the order of bags.
        instance_weight: Share of CLAM's instance loss in the whole; 0 without it.
    """

    labels: Labels
    spec: ModelSpec
    objective: Objective
    reader: Reader
    order_seed: int
    instance_weight: float = 0.0


class Table(nn.Module):
    """Parameters of m models, one row each."""

    def __init__(self, rows: Float32[Tensor, "m p"]) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows)


class JobsTask(TrainingTask):
    """Jobs that are trained together.

    Args:
        jobs: Which.
        material: On what.
        network: Computes their models.
    """

    def __init__(self, jobs: Sequence[TrainJob], material: Material, network: StackedNetwork) -> None:
        self.jobs = list(jobs)
        self.material = material
        self.network = network
        self.device = material.reader.device
        n = len(material.labels)
        self.train_rows, self.test_rows = (_members([getattr(j, side) for j in jobs], n) for side in ("train", "test"))
        self.layout = Layout(network.model)
        seeds = {job.hyper.seed for job in jobs}
        first = {seed: self.layout.row(self._initial(seed)) for seed in seeds}
        self.table = Table(torch.stack([first[job.hyper.seed] for job in jobs]).to(self.device))
        self.fits = [material.objective.fitted(material.labels.values[job.train]) for job in jobs]
        self._fit_keys = [json.dumps(dict(fit.state()), sort_keys=True, default=repr) for fit in self.fits]
        self.values = torch.from_numpy(material.labels.values).float().to(self.device)
        self._adam = self._new_adam()
        self.logits: list[list[np.ndarray]] = [[] for _ in jobs]
        self.losses: list[list[float]] = [[] for _ in jobs]
        self.on_epoch: Callable[[int], None] | None = None

    def _initial(self, seed: int) -> Any:  # noqa: ANN401 - an aggregator
        return initial_model(
            self.material.spec, self.material.reader.bags.n_features, self.material.objective.n_outputs, seed
        )

    # ---- what the loop asks for

    def modules(self) -> Mapping[str, nn.Module]:
        """The table."""
        return {"models": self.table}

    def optimizer(self) -> StackedAdam:
        """Adam, row by row."""
        return self._adam

    def _new_adam(self) -> StackedAdam:
        hypers = [job.hyper for job in self.jobs]
        aside = self.network.model.aside
        if self.network.instance_loss:
            aside = tuple(name for name in aside if name != "instance_classifiers.")
        rates, decays = [h.learning_rate for h in hypers], [h.weight_decay for h in hypers]
        return StackedAdam(self.table.rows, rates, decays, self.layout.used(aside))

    def n_batches(self) -> int:
        """One: models step at different moments, so that an epoch has no batches that all share."""
        return 1

    def batches(self, epoch: int, start: int) -> Iterable[int]:
        """The epoch's number."""
        return [epoch][start:]

    def step(self, batch: int) -> StepResult:
        """Train for an epoch."""
        if self.material.objective.per_bag:
            sums, counts = self._train_by_bags(batch)
        else:
            sums, counts = self._train_by_batches(batch)
        means = sums / np.maximum(counts, 1)
        active = self._active(batch)
        for model in np.flatnonzero(active).tolist():
            self.losses[model].append(float(means[model]))
        return StepResult(torch.tensor(float(means[active].mean()), device=self.device))

    def validate(self, epoch: int) -> Mapping[str, float]:
        """Predict the test rows of every model that was trained in this epoch."""
        active = self._active(epoch)
        seen = self.test_rows & active[:, None]
        found = np.full((*seen.shape, self.material.objective.n_outputs), np.nan, np.float32)
        order = np.lexsort(seen)  # rows that the same models see are neighbours, and go together
        for plan, pack in self._packs(order, seen, None, None):
            for models in self._slabs(plan, pack):
                logits = self._forward(models, pack, None)[0]
                found[np.ix_(models, pack.rows)] = logits.cpu().numpy()
        for model in np.flatnonzero(active).tolist():
            own = found[model, self.jobs[model].test]
            if not np.isfinite(own).all() or not np.isfinite(self.losses[model][-1]):
                raise TrainingError(
                    f"Training of '{self.jobs[model].key}' came to logits or losses that are not finite in epoch "
                    f"{epoch + 1}. Pass a smaller learning rate or fp32 precision, or look at the features."
                )
            self.logits[model].append(own)
        if self.on_epoch is not None:
            self.on_epoch(epoch)
        return {}

    def recipe(self) -> Mapping[str, Any]:
        """What decides the numbers."""
        material = self.material
        return {
            "model": material.spec.name,
            "options": dict(material.spec.options),
            "objective": material.objective.name,
            "order_seed": material.order_seed,
            "products": str(material.reader.dtype),
            "jobs": {job.key: asdict(job.hyper) for job in self.jobs},
        }

    def state(self) -> Mapping[str, Any]:
        """Predictions and losses so far."""
        return {"logits": [np.stack(each) if each else [] for each in self.logits], "losses": self.losses}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self.logits = [[epoch.numpy() for epoch in each] for each in state["logits"]]
        self.losses = [list(each) for each in state["losses"]]

    # ---- what comes of it

    def result(self, model: int) -> JobResult:
        """Of a job whose epochs are done."""
        parameters = self.layout.split(self.table.rows.data[model : model + 1])
        fit = self.fits[model]
        if type(fit).read_from is not Objective.read_from:
            train = self.jobs[model].train
            fit = fit.read_from(self._predict(model, train), self.material.labels.values[train])
        return JobResult(
            key=self.jobs[model].key,
            logits=np.stack(self.logits[model]).astype(np.float32),
            train_loss=np.array(self.losses[model], np.float32),
            state={name: value[0].cpu().clone() for name, value in parameters.items()},
            objective=fit.state(),
        )

    def finished(self, epoch: int) -> list[int]:
        """Jobs whose last epoch this was."""
        return [i for i, job in enumerate(self.jobs) if job.hyper.n_epochs == epoch + 1]

    def _predict(self, model: int, rows: np.ndarray) -> Float32[np.ndarray, "n c"]:
        """Logits of some rows by one model, as it is now."""
        seen = np.zeros((len(self.jobs), len(self.material.labels)), bool)
        seen[model, rows] = True
        logits = self._logits_of(rows, seen, None)
        return logits[model, torch.from_numpy(rows)].cpu().numpy()

    # ---- epochs

    def _active(self, epoch: int) -> Bool[np.ndarray, " m"]:
        return np.array([epoch < job.hyper.n_epochs for job in self.jobs])

    def _plan(self, epoch: int) -> tuple[np.ndarray, Batches]:
        order = epoch_order(len(self.material.labels), seed=self.material.order_seed, epoch=epoch)
        members = self.train_rows & self._active(epoch)[:, None]
        per_bag = self.material.objective.per_bag
        sizes = [job.hyper.batch_size if per_bag else job.hyper.risk_batch for job in self.jobs]
        return order, batches_of(order, members, sizes)

    def _train_by_bags(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Each bag has a loss of its own, so that its gradient is added as soon as it is read."""
        order, batches = self._plan(epoch)
        sums = torch.zeros(len(self.jobs), dtype=torch.float64, device=self.device)
        for plan, pack in self._packs(order, batches.weights > 0, batches.due, epoch):
            for models in self._slabs(plan, pack):
                weights = torch.from_numpy(batches.weights[np.ix_(models, pack.rows)]).to(self.device)
                leaf = rows_of(self.table.rows.data, models).detach().requires_grad_()
                with torch.enable_grad():
                    logits, instance = self._compute(leaf, models, pack, epoch)
                    losses = (self._losses(logits, instance, models, pack) * weights).sum(dim=1)
                    losses.sum().backward()  # type: ignore[no-untyped-call]  # torch does not type it
                self._adam.add(models, _gradient(leaf))
                sums[models] += losses.detach().double()
            self._adam.step_models(plan.due)
        return sums.cpu().numpy(), batches.due.sum(axis=1)

    def _train_by_batches(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Bags of a batch are compared: first all its logits, then the loss, then each bag once more, backward."""
        order, batches = self._plan(epoch)
        sums = np.zeros(len(self.jobs))
        for rows, seen in self._risk_sets(order, batches):
            logits = self._logits_of(rows, seen, epoch)
            gradients = torch.zeros_like(logits)
            due = np.flatnonzero(seen.any(axis=1)).tolist()
            for model in due:
                own = np.flatnonzero(seen[model])
                at = torch.from_numpy(own).to(self.device)
                leaf = logits[model, at].detach().requires_grad_()
                with torch.enable_grad():
                    loss = self.fits[model].loss(leaf, self.values[at])
                    loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
                sums[model] += float(loss.detach())
                gradients[model, at] = _gradient(leaf)
            self._backward(rows, seen, gradients, epoch)
            self._adam.step_models(due)
        return sums, batches.due.sum(axis=1)

    def _risk_sets(self, order: np.ndarray, batches: Batches) -> Iterable[tuple[np.ndarray, Bool[np.ndarray, "m n"]]]:
        """Rows and models of each step, those models together that step at once; those that see all rows at the end."""
        open_rows = np.zeros_like(batches.due)
        whole = batches.due.sum(axis=1) == 1
        for row in order.tolist():
            open_rows[:, row] |= batches.weights[:, row] > 0
            due = batches.due[:, row] & ~whole
            if due.any():
                seen = open_rows & due[:, None]
                yield order[seen.any(axis=0)[order]], seen
                open_rows[due] = False
        seen = open_rows & whole[:, None]
        if seen.any():
            yield order[seen.any(axis=0)[order]], seen

    def _logits_of(self, rows: np.ndarray, seen: np.ndarray, epoch: int | None) -> Float32[Tensor, "m n c"]:
        found = torch.zeros(*seen.shape, self.material.objective.n_outputs, device=self.device)
        for plan, pack in self._packs(rows, seen, None, epoch):
            for models in self._slabs(plan, pack):
                logits = self._forward(models, pack, epoch)[0]
                found[torch.tensor(models)[:, None], torch.tensor(pack.rows)] = logits
        return found

    def _backward(self, rows: np.ndarray, seen: np.ndarray, gradients: Tensor, epoch: int) -> None:
        for plan, pack in self._packs(rows, seen, None, epoch):
            for models in self._slabs(plan, pack):
                leaf = rows_of(self.table.rows.data, models).detach().requires_grad_()
                with torch.enable_grad():
                    logits, _ = self._compute(leaf, models, pack, epoch)
                    wanted = gradients[torch.tensor(models)[:, None], torch.tensor(pack.rows)]
                    logits.backward(wanted)  # type: ignore[no-untyped-call]  # torch does not type it
                self._adam.add(models, _gradient(leaf))

    # ---- one pack

    def _packs(
        self, order: np.ndarray, seen: np.ndarray, due: np.ndarray | None, epoch: int | None
    ) -> Iterable[tuple[PackPlan, Pack]]:
        reader = self.material.reader
        plans = plan_packs(order, seen, due, reader.lengths(drawn=epoch is not None), _LAUNCH[self.device.type])
        return reader.packs(plans, epoch)

    def _slabs(self, plan: PackPlan, pack: Pack) -> Iterable[list[int]]:
        """The models of a pack, as many at a time as memory is meant for."""
        size = self.network.numbers_per_instance * len(pack.features) * pack.features.element_size()
        step = max(1, _SLAB_BYTES[self.device.type] // max(1, size))
        return [list(plan.models[start : start + step]) for start in range(0, len(plan.models), step)]

    def _forward(self, models: list[int], pack: Pack, epoch: int | None) -> tuple[Tensor, Tensor | None]:
        with torch.no_grad():
            return self._compute(rows_of(self.table.rows.data, models), models, pack, epoch)

    def _compute(self, rows: Tensor, models: list[int], pack: Pack, epoch: int | None) -> tuple[Tensor, Tensor | None]:
        noise = None if epoch is None else Noise(tuple(self.jobs[i].hyper.seed for i in models), epoch)
        classes = self.values[list(pack.rows), 0].long() if self.network.instance_loss else self.values[:0, 0].long()
        return self.network(self.layout.split(rows), pack, noise, classes)

    def _losses(self, logits: Tensor, instance: Tensor | None, models: list[int], pack: Pack) -> Float32[Tensor, "m b"]:
        """Loss of each bag by each model; models whose objectives have learnt the same are asked at once."""
        values = self.values[list(pack.rows)]
        groups: dict[str, list[int]] = {}
        for position, model in enumerate(models):
            groups.setdefault(self._fit_keys[model], []).append(position)
        if len(groups) == 1:
            losses = self.fits[models[0]].bag_losses(logits, values)
        else:
            losses = logits.new_zeros(logits.shape[:2])
            for positions in groups.values():
                at = torch.tensor(positions, device=logits.device)
                losses = losses.index_copy(0, at, self.fits[models[positions[0]]].bag_losses(logits[at], values))
        share = self.material.instance_weight
        return losses if instance is None else (1 - share) * losses + share * instance


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _members(rows: Sequence[np.ndarray], n: int) -> Bool[np.ndarray, "m n"]:
    """Which models have which rows."""
    members = np.zeros((len(rows), n), bool)
    for model, own in enumerate(rows):
        members[model, own] = True
    return members
