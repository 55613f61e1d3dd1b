"""The final model: trained on all labelled slides, with settings that were chosen on folds of them.

The metrics that are kept with the model come from the folds on which settings were chosen, so they are a little too
good; ``microtome cv`` tells what to expect of new patients.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from microtome.cohort.predictions import Predictions, concat_predictions, predictions_table
from microtome.cohort.splits import OuterSplit, Split, nested_splits
from microtome.cohort.targets import Labels
from microtome.config.learning import FitConfig
from microtome.evaluation.evaluate import Evaluation, evaluate
from microtome.storage import QuietProgress
from microtome.tasks.mil.cv_tables import curve_table, selection_table
from microtome.tasks.mil.jobs import JobResult, TrainJob
from microtome.tasks.mil.material import Candidate, Material, check_models, list_candidates, open_material
from microtome.tasks.mil.nested import Inner, Say, Training, inner_key, train_inner, training_precision, weights_seed
from microtome.tasks.mil.run_folder import RunFolder, decisive
from microtome.tasks.output import INTENDED_USE

if TYPE_CHECKING:
    from microtome.evaluation.calibration import Calibration
    from microtome.models.objectives.base import Objective

_OUTPUTS = (
    "jobs", "selection.csv", "curves.csv", "predictions.parquet", "evaluation",
    "model.json", "weights.safetensors", "MODEL_CARD.md",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class FitResult:
    """A model that was trained.

    Attributes:
        folder: The model's folder.
        labels: The rows that it was trained on; ``excluded`` says of every other slide why not.
        chosen: Values of the grid point, and the number of epochs.
        predictions: Of the folds on which settings were chosen; None without such folds.
        evaluation: Of those.
        notes: Warnings.
    """

    folder: Path
    labels: Labels
    chosen: Mapping[str, Any]
    predictions: Predictions | None
    evaluation: Evaluation | None
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """What a person wants to read."""
        chosen = ", ".join(f"{name} {value}" for name, value in self.chosen.items())
        lines = [f"trained on {len(self.labels)} bags of {len(set(self.labels.patient_ids))} patients: {chosen}"]
        if self.evaluation is not None:
            row = self.evaluation.table.iloc[0]
            lines.append(
                f"{row['metric']} {row['estimate']:.3f} on the folds on which settings were chosen (a little too good; "
                "microtome cv tells what to expect of new patients)"
            )
        return [*lines, *self.notes]


def fit(config: FitConfig, *, say: Say | None = None) -> FitResult:
    """Train a model on all labelled slides, and write it as a folder that ``predict`` takes.

    With ``inner`` folds, grid point and number of epochs are chosen on them first, as ``cross_validate`` does within
    each outer fold, and a calibration may be fitted to their predictions.

    Args:
        config: Settings.
        say: Told how far it is.

    Returns:
        What was trained.

    Raises:
        ConfigError: If the settings contradict each other or the model, or targets of this type are not calibrated.
        CohortError: If the cohort cannot be used or split so.
        RecipeMismatchError: If the folder holds a model that was made with other settings.
    """
    began = time.monotonic()
    candidates = list_candidates(config, search=config.inner > 0)
    material = open_material(config)
    objective = _objective(config, material)
    check_models(candidates, material.bags.n_features, objective)
    whole = _whole(material, config)
    folder = RunFolder(config.out, "fit", _OUTPUTS)
    recipe = {**decisive(config), **material.recipe(), "precision": training_precision(config)}
    with folder.claimed(recipe, overwrite=config.overwrite):
        record = folder.begin(_describe(config, material), recipe)
        training = Training.of(config, material, objective, folder.root / "jobs", say or QuietProgress().note)
        inner = train_inner(training, [whole], candidates, compat=config.compat) if whole.inner else None
        point, n_epochs = (0, config.epochs)
        if inner is not None:
            point, n_epochs = inner.selections[0].point, inner.selections[0].n_epochs
        judged = None if inner is None else _judge(training, whole, inner, config)
        calibration = _calibrate(material, whole, inner, config)
        result = _train_whole(training, whole, candidates[point], n_epochs)
        _save(config, material, candidates[point], result, calibration, judged)
        chosen = {**candidates[point].values, "n_epochs": n_epochs}
        if inner is not None and judged is not None:
            _write(folder, [whole], candidates, inner, judged)
        seconds = {"all": round(time.monotonic() - began, 3)}
        folder.end(record, {"chosen": chosen, "seconds": seconds})
    predictions, evaluation = judged or (None, None)
    return FitResult(config.out, material.labels, chosen, predictions, evaluation, tuple(material.notes))


def _whole(material: Material, config: FitConfig) -> OuterSplit:
    """All rows to be trained on, none to be tested, and the folds to choose on."""
    labels = material.labels
    inner: tuple[Split, ...] = ()
    if config.inner:
        folds = nested_splits(
            labels,
            outer=config.inner,
            inner=0,
            seed=config.seed,
            groups=material.groups,
            stratify=config.stratify,
            compat=config.compat,
        )
        inner = tuple(Split(fold.train, fold.test) for fold in folds)
    return OuterSplit(0, 0, np.arange(len(labels)), np.zeros(0, np.int64), inner)


def _objective(config: FitConfig, material: Material) -> "Objective":
    from microtome.models.objectives import build_objective

    return build_objective(material.target, config.objective, compat=config.compat)


def _chosen_results(whole: OuterSplit, inner: Inner) -> list[tuple[Split, JobResult]]:
    point = inner.selections[0].point
    return [(split, inner.results[inner_key(whole, point, i)]) for i, split in enumerate(whole.inner)]


def _judge(training: Training, whole: OuterSplit, inner: Inner, config: FitConfig) -> tuple[Predictions, Evaluation]:
    """Predictions of every row by the model of the fold that did not see it, after the chosen number of epochs."""
    labels, last = training.material.labels, inner.selections[0].n_epochs - 1
    parts = [
        predictions_table(
            labels.take(split.test),
            training.columns(result.logits[last], result.objective),
            fold=fold,
            in_training=[False] * len(split.test),
        )
        for fold, (split, result) in enumerate(_chosen_results(whole, inner))
    ]
    predictions = concat_predictions(parts)
    return predictions, evaluate(predictions, labels, n_boot=config.n_boot, seed=config.seed)


def _calibrate(material: Material, whole: OuterSplit, inner: Inner | None, config: FitConfig) -> "Calibration | None":
    if inner is None or not config.calibrate:
        return None
    from microtome.tasks.mil.calibration import check_calibration, fit_logit_calibration

    last = inner.selections[0].n_epochs - 1
    found = _chosen_results(whole, inner)
    logits = np.concatenate([result.logits[last] for _, result in found]).astype(np.float64)
    rows = np.concatenate([split.test for split, _ in found])
    calibration = fit_logit_calibration(material.target, logits, material.labels.values[rows])
    check_calibration(calibration)
    return calibration


def _train_whole(training: Training, whole: OuterSplit, candidate: Candidate, n_epochs: int) -> JobResult:
    hyper = replace(candidate.hyper, n_epochs=n_epochs, seed=weights_seed(training.seed, whole))
    job = TrainJob("model", whole.train, whole.test, hyper)
    return training.run("final", [(candidate.spec, job)])["model"]


def _save(
    config: FitConfig,
    material: Material,
    candidate: Candidate,
    result: JobResult,
    calibration: "Calibration | None",
    judged: tuple[Predictions, Evaluation] | None,
) -> None:
    from microtome.tasks.mil.digests import Digests
    from microtome.tasks.mil.model_folder import TrainedModel, save_model

    labels = material.labels
    state = dict(result.objective)
    model = TrainedModel(
        spec=candidate.spec,
        target=material.target,
        objective=str(state["name"]),
        objective_state=state,
        members=[result.state],
        features=material.bags.recipe,
        unit=labels.unit,
        training_patients=Digests.of(labels.patient_ids),
        training_slides=Digests.of([slide for slides in labels.slide_ids for slide in slides]),
        mean_features=_mean_features(material),
        calibration=calibration,
        metrics={} if judged is None else _metrics(judged[1]),
        training=_training_record(config, material, candidate, result),
        intended_use=config.intended_use or INTENDED_USE,
    )
    save_model(config.out, model, overwrite=True)  # the folder's record says that it is this very model's


def _mean_features(material: Material) -> Float32[np.ndarray, " d"]:
    """Mean vector of the training tiles; each bag counts the same."""
    total = np.zeros(material.bags.n_features)
    for row in range(len(material.bags)):
        total += material.bags.read(row).mean(axis=0, dtype=np.float64)
    return (total / len(material.bags)).astype(np.float32)


def _metrics(evaluation: Evaluation) -> dict[str, dict[str, float | None]]:
    def known(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    return {
        str(row["metric"]): {name: known(row[name]) for name in ("estimate", "low", "high")}
        for row in evaluation.table.to_dict("records")
        if np.isfinite(row["estimate"])
    }


def _training_record(config: FitConfig, material: Material, candidate: Candidate, result: JobResult) -> dict[str, Any]:
    labels, hyper = material.labels, candidate.hyper
    return {
        "n_bags": len(labels),
        "n_slides": sum(len(slides) for slides in labels.slide_ids),
        "n_patients": len(set(labels.patient_ids)),
        "n_excluded": len(labels.excluded),
        "n_epochs": len(result.train_loss),
        "learning_rate": hyper.learning_rate,
        "weight_decay": hyper.weight_decay,
        "batch_size": hyper.batch_size,
        "max_instances": config.max_instances,
        "seed": config.seed,
        "metrics_from": f"{config.inner} folds on which settings were chosen" if config.inner else "nothing",
        "encoder": dict(material.encoder),
        "notes": list(material.notes),
    }


def _describe(config: FitConfig, material: Material) -> dict[str, Any]:
    labels = material.labels
    return {
        "config": config.model_dump(mode="json"),
        "target": material.target.as_dict(),
        "unit": labels.unit,
        "model": {"name": config.model, "options": dict(config.fixed_options)},
        "metric": material.metric,
        "encoder": dict(material.encoder),
        "features": material.bags.recipe.as_dict(),
        "n_units": len(labels),
        "n_patients": len(set(labels.patient_ids)),
        "excluded": dict(labels.excluded),
        "notes": list(material.notes),
    }


def _write(
    folder: RunFolder,
    splits: Sequence[OuterSplit],
    candidates: Sequence[Candidate],
    inner: Inner,
    judged: tuple[Predictions, Evaluation],
) -> None:
    folder.write_table("selection.csv", selection_table(splits, candidates, inner))
    folder.write_table("curves.csv", curve_table(splits, inner))
    judged[0].write(folder.root / "predictions.parquet")
    judged[1].write(folder.root / "evaluation")
