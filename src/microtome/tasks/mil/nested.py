"""Nested cross-validation as jobs: every inner training of every fold at once, the choice, the final trainings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64

from microtome.cohort.splits import OuterSplit
from microtome.config.learning import LearningConfig
from microtome.evaluation.metrics import score
from microtome.tasks.mil.jobs import JobResult, ModelSpec, TrainJob
from microtome.tasks.mil.material import Candidate, Material, distinct_specs
from microtome.tasks.mil.selection import Selection, select

if TYPE_CHECKING:
    from microtome.models.objectives.base import Objective

_FINAL = -1  # stands for the number of the inner fold in a seed
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """How jobs are trained, the same for all.

    Attributes:
        material: On what.
        objective: Not yet fitted.
        folder: Where jobs are kept; None keeps nothing.
        seed: Decides initial weights and the order of bags.
        device: As ``train_jobs``.
        precision: As ``train_jobs``.
        together: As ``train_jobs``.
        say: Told how far it is.
    """

    material: Material
    objective: "Objective"
    folder: Path | None
    seed: int
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    together: bool | Literal["auto"] = "auto"
    say: Say = lambda _: None

    @classmethod
    def of(
        cls, config: LearningConfig, material: Material, objective: "Objective", folder: Path, say: Say
    ) -> "Training":
        """The training that a configuration asks for."""
        together: bool | Literal["auto"] = "auto" if config.together == "auto" else config.together == "always"
        return cls(material, objective, folder, config.seed, config.device, config.precision, together, say)

    def run(self, stage: str, jobs: Sequence[tuple[ModelSpec, TrainJob]]) -> dict[str, JobResult]:
        """Train jobs, those of the same model together.

        Args:
            stage: Names the folder.
            jobs: Model and job.

        Returns:
            Results by key.
        """
        from microtome.tasks.mil.train_jobs import train_jobs, why_one_by_one

        specs: list[ModelSpec] = []
        for spec, _ in jobs:
            if spec not in specs:
                specs.append(spec)
        found: dict[str, JobResult] = {}
        for number, spec in enumerate(specs):
            mine = [job for of, job in jobs if of == spec]
            name = stage if len(specs) == 1 else f"{stage}-{number}"
            self.say(f"{stage}: {len(mine)} trainings of {spec.name}")
            if self.together == "auto" and (why := why_one_by_one(spec)) is not None:
                self.say(why)
            results = train_jobs(
                mine,
                self.material.bags,
                self.material.labels,
                spec,
                self.objective,
                device=self.device,
                precision=self.precision,
                together=self.together,
                order_seed=self.seed,
                on_epoch=lambda done, of, name=name: self.say(f"{name}: epoch {done} of {of}"),  # type: ignore[misc]  # default binds the loop's value
                folder=None if self.folder is None else self.folder / name,
            )
            found.update((result.key, result) for result in results)
        return found

    def columns(self, logits: Float32[np.ndarray, "n c"], state: Mapping[str, object]) -> dict[str, np.ndarray]:
        """What logits say, in terms of the target; ``state`` is that of the job's objective."""
        from microtome.models.objectives import build_objective

        return build_objective(self.material.target, **state).columns(logits)  # type: ignore[arg-type]  # plain values

    def scores(
        self, logits: Float32[np.ndarray, "epochs n c"], state: Mapping[str, object], rows: Int64[np.ndarray, " n"]
    ) -> Float64[np.ndarray, " epochs"]:
        """The score of some rows after each epoch."""
        from microtome.models.objectives import build_objective

        target = self.material.target
        objective = build_objective(target, **state)  # type: ignore[arg-type]  # plain values
        values = self.material.labels.values[rows]
        return np.array([score(self.material.metric, target, values, objective.columns(of)) for of in logits])


def training_precision(config: LearningConfig) -> str:
    """The precision that ``auto`` comes to on this machine."""
    from microtome.tasks.mil.train_jobs import choose_machine

    return choose_machine(config.device, config.precision).precision


class Inner(NamedTuple):
    """What inner folds showed.

    Attributes:
        selections: The choice for each outer fold.
        results: Results of the inner jobs by key, as :func:`inner_key` names them; without weights.
    """

    selections: list[Selection]
    results: Mapping[str, JobResult]


def inner_key(split: OuterSplit, point: int, inner: int) -> str:
    """Name of an inner training.

    Example:
        >>> nothing = np.zeros(0, np.int64)
        >>> inner_key(OuterSplit(0, 2, nothing, nothing), 1, 4)
        'r0-f2-g1-i4'
    """
    return f"r{split.repeat}-f{split.fold}-g{point}-i{inner}"


def weights_seed(seed: int, split: OuterSplit, inner: int = _FINAL) -> int:
    """Seed of a training's initial weights: the same at each grid point, another in each fold."""
    parts = np.random.SeedSequence([seed, split.repeat, split.fold, inner + 1])
    return int(parts.generate_state(1)[0] >> 1)


def train_inner(
    training: Training,
    splits: Sequence[OuterSplit],
    candidates: Sequence[Candidate],
    *,
    compat: str | None = None,
    also_test: bool = False,
) -> Inner:
    """Train every candidate on every inner fold of every outer one, and choose for each outer fold.

    Args:
        training: How.
        splits: Outer folds with inner ones.
        candidates: Points of the grid.
        compat: As :func:`~microtome.tasks.mil.selection.select`.
        also_test: Let each inner model predict the outer test rows too; their logits stand after the validation rows.

    Returns:
        The choices, and the results that they are based on.
    """
    jobs = []
    for split in splits:
        for g, candidate in enumerate(candidates):
            for i, inner in enumerate(split.inner):
                rows = np.concatenate([inner.test, split.test]) if also_test else inner.test
                hyper = replace(candidate.hyper, seed=weights_seed(training.seed, split, i))
                jobs.append((candidate.spec, TrainJob(inner_key(split, g, i), inner.train, rows, hyper)))
    results = {key: replace(result, state={}) for key, result in training.run("inner", jobs).items()}
    selections = []
    for split in splits:
        curves = np.array(
            [
                [
                    _validation(training, results[inner_key(split, g, i)], inner.test)
                    for i, inner in enumerate(split.inner)
                ]
                for g in range(len(candidates))
            ]
        )
        selections.append(select(curves, compat=compat))
    return Inner(selections, results)


def _validation(training: Training, result: JobResult, rows: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, " epochs"]:
    return training.scores(result.logits[:, : len(rows)], result.objective, rows)


class Outcome(NamedTuple):
    """What is said of an outer fold's test rows.

    Attributes:
        split: The fold.
        point: Number of the grid point.
        n_epochs: Trained for so many.
        columns: Columns of predictions, one value per test row.
    """

    split: OuterSplit
    point: int
    n_epochs: int
    columns: Mapping[str, np.ndarray]


def train_final(
    training: Training,
    splits: Sequence[OuterSplit],
    candidates: Sequence[Candidate],
    chosen: Sequence[tuple[int, int]],
) -> list[Outcome]:
    """Train on all development rows of each outer fold as was chosen, and predict its test rows.

    Args:
        training: How.
        splits: Outer folds.
        candidates: Points of the grid.
        chosen: For each fold the number of the point, and of epochs.
    """
    jobs = []
    for split, (point, n_epochs) in zip(splits, chosen, strict=True):
        candidate = candidates[point]
        hyper = replace(candidate.hyper, n_epochs=n_epochs, seed=weights_seed(training.seed, split))
        jobs.append((candidate.spec, TrainJob(f"r{split.repeat}-f{split.fold}", split.train, split.test, hyper)))
    results = training.run("final", jobs)
    outcomes = []
    for split, (_, job), (point, n_epochs) in zip(splits, jobs, chosen, strict=True):
        result = results[job.key]
        outcomes.append(Outcome(split, point, n_epochs, training.columns(result.logits[-1], result.objective)))
    return outcomes


def average_inner(training: Training, split: OuterSplit, inner: Inner, selection: Selection) -> Outcome:
    """Predict the test rows by the models of the inner folds: their logits are averaged.

    Where what the folds' objectives learnt from the labels differs (the scale of a value, bins of time), logits are
    not of one scale, and what they say is averaged instead.
    """
    results = [inner.results[inner_key(split, selection.point, i)] for i in range(len(split.inner))]
    of_test = [result.logits[selection.n_epochs - 1, -len(split.test) :] for result in results]
    states = [dict(result.objective) for result in results]
    if all(state == states[0] for state in states):
        mean = np.stack(of_test).mean(axis=0, dtype=np.float64)
        columns = training.columns(mean.astype(np.float32), states[0])
    else:
        said = [training.columns(logits, state) for logits, state in zip(of_test, states, strict=True)]
        columns = {name: np.mean([one[name] for one in said], axis=0) for name in said[0]}
    return Outcome(split, selection.point, selection.n_epochs, columns)


def count_trainings(splits: Sequence[OuterSplit], candidates: Sequence[Candidate]) -> dict[str, int]:
    """How much is trained: jobs of inner folds, jobs after the choice, different models."""
    n_inner = sum(len(split.inner) for split in splits) * len(candidates)
    return {"inner": n_inner, "final": len(splits), "models": len(distinct_specs(candidates))}
