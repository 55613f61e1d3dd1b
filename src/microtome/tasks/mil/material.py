"""What is learnt from, opened and checked: cohort, labels, bags, and the candidates of the grid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from microtome.cohort.splits import row_groups, tcga_site
from microtome.cohort.table import Cohort, read_cohort
from microtome.cohort.targets import Labels, Target, find_target, read_labels
from microtome.config.learning import SEARCHED, LearningConfig, ModelOptions, SearchValue
from microtome.errors import ConfigError
from microtome.evaluation.metrics import default_metric
from microtome.storage import digest
from microtome.tasks.mil.bags import BagSet, open_bags
from microtome.tasks.mil.jobs import Hyper, ModelSpec
from microtome.tasks.mil.leakage import card_name, describe_encoder, leakage_notes

if TYPE_CHECKING:
    from microtome.models.objectives.base import Objective

_HYPER = ("learning_rate", "weight_decay", "batch_size", "risk_batch")
TCGA_SITE = "tcga-site"
"""What ``group`` may say instead of a column: the site in a TCGA barcode."""


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """Everything that models are trained on.

    Attributes:
        cohort: The table.
        labels: Rows that have a label and features.
        bags: Their features, row by row.
        groups: What must stay on one side of a split besides the patient, per row; None for nothing.
        metric: Name of the score by which epochs and grid points are chosen.
        encoder: What is known about the encoder.
        notes: Warnings that belong into every record.
    """

    cohort: Cohort
    labels: Labels
    bags: BagSet
    groups: tuple[str, ...] | None
    metric: str
    encoder: Mapping[str, Any]
    notes: list[str] = field(default_factory=list)

    @property
    def target(self) -> Target:
        """What is predicted."""
        return self.labels.target

    def recipe(self) -> dict[str, Any]:
        """What of it decides results: digests of the labels, and what the features say of themselves."""
        labels = self.labels
        rows = {"ids": labels.ids, "patients": labels.patient_ids, "slides": labels.slide_ids, "values": labels.values}
        return {
            "target": self.target.as_dict(),
            "unit": labels.unit,
            "labels": digest(rows),
            "features": self.bags.recipe.as_dict(),
            "bags": digest({"lengths": np.asarray(self.bags.lengths, np.int64)}),
        }


@dataclass(frozen=True, slots=True)
class Candidate:
    """A point of the grid.

    Attributes:
        values: What is particular to it.
        spec: The model.
        hyper: How it is trained.
    """

    values: Mapping[str, SearchValue]
    spec: ModelSpec
    hyper: Hyper


def open_material(config: LearningConfig) -> Material:
    """Read the cohort and open the features.

    Args:
        config: Settings.

    Raises:
        ConfigError: If no target is named, it is in doubt what it is, or the features are of another encoder.
        CohortError: If the table or its labels cannot be used.
    """
    if not config.target:
        raise ConfigError("Say what to predict: target, the name of a label column.")
    cohort = read_cohort(config.cohort)
    target = find_target(
        cohort,
        config.target,
        type=config.type,
        columns=config.columns or None,
        classes=config.classes or None,
        positive=config.positive,
    )
    return material_of(cohort, read_labels(cohort, target, unit=config.unit), config)


def material_of(cohort: Cohort, labels: Labels, config: LearningConfig) -> Material:
    """The same for labels that have been read already."""
    draw: Literal["random", "first"] = "random" if config.compat is None else "first"
    bags, kept = open_bags(config.features, labels, max_instances=config.max_instances, draw=draw, seed=config.seed)
    slide_ids = [slide_id for of_row in kept.slide_ids for slide_id in of_row]
    encoder = describe_encoder(_encoder(bags.recipe.encoder, config.encoder))
    return Material(
        cohort=cohort,
        labels=kept,
        bags=bags,
        groups=None if config.group is None else _groups(cohort, kept, config.group),
        metric=default_metric(labels.target),
        encoder=encoder,
        notes=[*leakage_notes(encoder, slide_ids), *_patient_notes(cohort)],
    )


def _patient_notes(cohort: Cohort) -> list[str]:
    """What has to be said where no two slides are known to be of one patient."""
    if any(slide.patient_id != slide.slide_id for slide in cohort.slides):
        return []
    return [
        "The table of slides names no patients, so each slide counts as a patient of its own. If some are of one "
        "patient, add a column patient_id: else that patient is on both sides of the folds."
    ]


def _encoder(said: str | None, given: str | None) -> str | None:
    """The encoder's name; the features' own word counts."""
    if said is not None and given is not None and card_name(said) != card_name(given):
        raise ConfigError(f"The features say that they are of encoder {said!r}, not {given!r}. Leave encoder out.")
    return said or given


def _groups(cohort: Cohort, labels: Labels, column: str) -> tuple[str, ...]:
    if column == TCGA_SITE:
        return tuple(tcga_site(slides[0]) for slides in labels.slide_ids)
    return row_groups(labels, cohort, column)


def list_candidates(config: ModelOptions, *, search: bool) -> tuple[Candidate, ...]:
    """The points of the grid, as models to train.

    Args:
        config: Settings.
        search: Whether there are inner folds to choose on; without, there must be one point.

    Raises:
        ConfigError: If there are several points and nothing to choose on, or the model has no such option.
    """
    points: Sequence[Mapping[str, SearchValue]] = config.points
    if not search:
        several = [name for name, values in config.axes.items() if len(values) > 1 and name not in _unset(config)]
        if several:
            raise ConfigError(
                f"{several[0]} has several values, but without inner folds there is nothing to choose on. Give it one "
                "value, or pass inner of at least 2."
            )
        usual = Hyper()
        points = [{**config.points[0], **{name: getattr(usual, name) for name in _unset(config)}}]
    base = Hyper(n_epochs=config.epochs, batch_size=config.batch_size, risk_batch=config.risk_batch)
    fixed = {name: getattr(config, name) for name in SEARCHED if getattr(config, name) is not None}
    options = {**_compat_option(config), **config.fixed_options}
    found = []
    for point in points:
        own = {name: value for name, value in point.items() if name not in _HYPER}
        said = {name: value for name, value in point.items() if name in _HYPER}
        hyper = _checked(replace(base, **{**fixed, **said}))
        if config.compat is not None and hyper.risk_batch is None:
            hyper = replace(hyper, risk_batch=hyper.batch_size)  # the reference compares the bags of a batch only
        found.append(Candidate(point, ModelSpec(config.model, {**options, **own}), hyper))
    return tuple(found)


def _unset(config: ModelOptions) -> list[str]:
    """Settings that are searched because nobody said anything about them."""
    named = {text.partition("=")[0].strip().replace("-", "_") for text in config.grid}
    return [name for name in SEARCHED if getattr(config, name) is None and name not in named]


def _compat_option(config: ModelOptions) -> dict[str, str]:
    """Models that differ between us and the reference take the word on."""
    from microtome.models.aggregators.registry import list_options

    takes = config.compat is not None and "compat" in list_options(config.model)
    return {"compat": str(config.compat)} if takes else {}


def _checked(hyper: Hyper) -> Hyper:
    """Refuse what a grid may hold but a training cannot take; single settings were checked when they were read."""
    rate, decay, size, risk = hyper.learning_rate, hyper.weight_decay, hyper.batch_size, hyper.risk_batch
    if not (_is_number(rate) and rate > 0 and _is_number(decay) and decay >= 0):
        raise ConfigError(f"learning_rate must be above 0, weight_decay 0 or more. Got {rate!r} and {decay!r}.")
    for name, value, least in (("batch_size", size, 1), ("risk_batch", 2 if risk is None else risk, 2)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(f"{name} must be a whole number of at least {least}. Got {value!r}.")
    return hyper


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_models(candidates: Sequence[Candidate], n_features: int, objective: "Objective") -> None:
    """Build each different model once, so that a wrong option is told before the work.

    Raises:
        ConfigError: If the model has no such option, or not this value of it.
    """
    from microtome.models.aggregators.registry import build_aggregator

    for spec in distinct_specs(candidates):
        build_aggregator(spec.name, n_features, objective.n_outputs, **spec.options)


def distinct_specs(candidates: Sequence[Candidate]) -> list[ModelSpec]:
    """The different models among candidates, in order."""
    found: list[ModelSpec] = []
    for candidate in candidates:
        if candidate.spec not in found:
            found.append(candidate.spec)
    return found
