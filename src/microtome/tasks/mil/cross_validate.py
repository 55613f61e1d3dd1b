"""Nested cross-validation of a model on bags of features: choose on inner folds, judge on outer ones.

Grid point and number of epochs are chosen in each outer fold on its own inner folds; a model is then trained on all of
the fold's development rows and predicts its test rows, which took no part in any of that.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from microtome.cohort.predictions import Predictions, concat_predictions, predictions_table
from microtome.cohort.splits import OuterSplit, write_splits
from microtome.cohort.targets import Labels
from microtome.config.learning import CVConfig
from microtome.evaluation.evaluate import Evaluation, evaluate
from microtome.storage import QuietProgress, digest
from microtome.tasks.evaluate import write_evaluation
from microtome.tasks.mil.cv_tables import curve_table, fold_lines, fold_table, selection_table, summarise, summary_lines
from microtome.tasks.mil.folds import lay_splits, leaky_notes
from microtome.tasks.mil.material import Candidate, Material, check_models, list_candidates, open_material
from microtome.tasks.mil.nested import (
    Inner,
    Outcome,
    Say,
    Training,
    average_inner,
    count_trainings,
    train_final,
    train_inner,
    training_precision,
)
from microtome.tasks.mil.run_folder import RunFolder, decisive

if TYPE_CHECKING:
    from microtome.models.objectives.base import Objective

OUTPUTS = (
    "splits.json", "jobs", "selection.csv", "curves.csv", "folds.csv", "predictions.parquet", "predictions.csv",
    "evaluation",
)  # fmt: skip
"""What a run writes beside run.json."""


@dataclass(frozen=True, slots=True, eq=False)
class CrossValidation:
    """What came of a cross-validation.

    Attributes:
        out: Its folder.
        labels: The rows that took part; ``excluded`` says of every other slide why not.
        splits: The folds.
        selection: One row per fold and grid point: epochs and score on the inner folds, and which was chosen; empty
            without inner folds.
        curves: One row per fold, grid point and number of epochs: the average score on the inner folds; likewise empty.
        folds: One row per fold: sizes, what was chosen, the score on the test rows.
        predictions: Of the test rows of every fold.
        evaluation: Metrics with intervals.
        summary: metric, mean and sd (ddof 0) over folds, pooled estimate with interval, number of folds.
        notes: Warnings.
    """

    out: Path
    labels: Labels
    splits: tuple[OuterSplit, ...]
    selection: pd.DataFrame
    curves: pd.DataFrame
    folds: pd.DataFrame
    predictions: Predictions
    evaluation: Evaluation
    summary: Mapping[str, Any]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """What a person wants to read: a line per fold, the average, the pooled figure, warnings."""
        return [*fold_lines(self.folds, str(self.summary["metric"])), *summary_lines(self.summary), *self.notes]


def cross_validate(config: CVConfig, *, say: Say | None = None) -> CrossValidation:
    """Cross-validate a model, and write folds, choices, predictions, metrics and figures into a folder.

    Run again with the same settings, it goes on from what is there: no finished training is repeated.

    Args:
        config: Settings.
        say: Told how far it is.

    Returns:
        The results, which are in ``config.out`` too.

    Raises:
        ConfigError: If the settings contradict each other or the model.
        CohortError: If the cohort cannot be used or split so.
        RecipeMismatchError: If the folder holds a run with other settings.
        EvaluationError: If no inner fold can be judged.

    References:
        HistoSSLscaling (73f1d19), specification section 4. Deviations: see ``compat`` in the settings; test
        predictions are kept and judged with intervals by patient.
    """
    began = time.monotonic()
    candidates = list_candidates(config, search=config.inner > 0)
    material = open_material(config)
    objective = _objective(config, material)
    check_models(candidates, material.bags.n_features, objective)
    splits = lay_splits(material, config)
    precision = training_precision(config)
    recipe = {**decisive(config), **material.recipe(), "folds": _folds_digest(splits), "precision": precision}
    folder = RunFolder(config.out, "cv", OUTPUTS)
    with folder.claimed(recipe, overwrite=config.overwrite):
        record = folder.begin(_describe(config, material, splits, candidates), recipe)
        write_splits(folder.root / "splits.json", material.labels, splits)
        training = Training.of(config, material, objective, folder.root / "jobs", say or QuietProgress().note)
        inner, outcomes = _train(training, splits, candidates, config)
        trained = time.monotonic()
        result = _judge(config, material, splits, candidates, inner, outcomes)
        _write(folder, result, config)
        seconds = {"training": round(trained - began, 3), "judging": round(time.monotonic() - trained, 3)}
        folder.end(record, {"notes": list(result.notes), "summary": dict(result.summary), "seconds": seconds})
    return result


def _objective(config: CVConfig, material: Material) -> "Objective":
    from microtome.models.objectives import build_objective

    return build_objective(material.target, config.objective, compat=config.compat)


def _folds_digest(splits: Sequence[OuterSplit]) -> str:
    """Of the rows on each side; whose rows they are the digest of the labels says."""
    return digest({f"{split.repeat} {split.fold}": [split.train, split.test, *_sides(split)] for split in splits})


def _sides(split: OuterSplit) -> list[object]:
    return [side for inner in split.inner for side in (inner.train, inner.test)]


def _train(
    training: Training, splits: Sequence[OuterSplit], candidates: Sequence[Candidate], config: CVConfig
) -> tuple[Inner | None, list[Outcome]]:
    if not config.inner:
        return None, train_final(training, splits, candidates, [(0, config.epochs)] * len(splits))
    averaged = config.held_out is not None
    inner = train_inner(training, splits, candidates, compat=config.compat, also_test=averaged)
    if averaged:
        pairs = zip(splits, inner.selections, strict=True)
        return inner, [average_inner(training, split, inner, chosen) for split, chosen in pairs]
    chosen = [(selection.point, selection.n_epochs) for selection in inner.selections]
    return inner, train_final(training, splits, candidates, chosen)


def _judge(
    config: CVConfig,
    material: Material,
    splits: tuple[OuterSplit, ...],
    candidates: Sequence[Candidate],
    inner: Inner | None,
    outcomes: Sequence[Outcome],
) -> CrossValidation:
    labels = material.labels
    attrs = {"model": config.model, "encoder": material.encoder["name"], "features": material.bags.recipe.as_dict()}
    parts = [
        predictions_table(
            labels.take(outcome.split.test),
            outcome.columns,
            fold=outcome.split.fold,
            repeat=outcome.split.repeat,
            in_training=[False] * len(outcome.split.test),
            attrs=attrs,
        )
        for outcome in outcomes
    ]
    predictions = concat_predictions(parts)
    evaluation = evaluate(predictions, labels, n_boot=config.n_boot, seed=config.seed)
    folds = fold_table(material, candidates, outcomes)
    left_out = [] if inner is None else _left_out_notes(splits, inner)
    return CrossValidation(
        out=config.out,
        labels=labels,
        splits=splits,
        selection=pd.DataFrame() if inner is None else selection_table(splits, candidates, inner),
        curves=pd.DataFrame() if inner is None else curve_table(splits, inner),
        folds=folds,
        predictions=predictions,
        evaluation=evaluation,
        summary=summarise(material.metric, folds, evaluation),
        notes=(*leaky_notes(splits), *material.notes, *left_out),
    )


def _left_out_notes(splits: Sequence[OuterSplit], inner: Inner) -> list[str]:
    return [
        f"Fold {split.fold} of repeat {split.repeat} was chosen without {len(chosen.left_out)} of "
        f"{len(split.inner)} inner folds, in which the score is not defined (one class only, or no comparable pair)."
        for split, chosen in zip(splits, inner.selections, strict=True)
        if chosen.left_out
    ]


def _describe(
    config: CVConfig, material: Material, splits: Sequence[OuterSplit], candidates: Sequence[Candidate]
) -> dict[str, Any]:
    labels = material.labels
    return {
        "config": config.model_dump(mode="json"),
        "task": config.task,
        "target": material.target.as_dict(),
        "unit": labels.unit,
        "model": {"name": config.model, "options": dict(config.fixed_options)},
        "objective": config.objective,
        "metric": material.metric,
        "compat": config.compat,
        "encoder": dict(material.encoder),
        "features": material.bags.recipe.as_dict(),
        "n_units": len(labels),
        "n_slides": sum(len(slides) for slides in labels.slide_ids),
        "n_patients": len(set(labels.patient_ids)),
        "n_excluded": len(labels.excluded),
        "excluded": dict(labels.excluded),
        "trainings": count_trainings(splits, candidates) if config.inner else {"inner": 0, "final": len(splits)},
        "notes": [*leaky_notes(splits), *material.notes],
    }


def _write(folder: RunFolder, result: CrossValidation, config: CVConfig) -> None:
    if len(result.selection):
        folder.write_table("selection.csv", result.selection)
        folder.write_table("curves.csv", result.curves)
    folder.write_table("folds.csv", result.folds)
    result.predictions.write(folder.root / "predictions.parquet")
    result.predictions.write(folder.root / "predictions.csv")
    facts = {
        "Model": config.model,
        "Encoder": str(result.predictions.attrs["encoder"]),
        "Folds": f"{len(result.splits)}",
        **({"Mind": " ".join(result.notes)} if result.notes else {}),
    }
    write_evaluation(
        result.evaluation,
        folder.root / "evaluation",
        predictions=result.predictions,
        figures=not config.no_figures,
        facts=facts,
    )
