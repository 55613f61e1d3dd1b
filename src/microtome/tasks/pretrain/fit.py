"""`microtome fit --model fastglioma-slide`: stage 3 on saved embeddings and a table of degrees alone."""

from dataclasses import replace

import numpy as np

from microtome.cohort import read_cohort
from microtome.cohort.splits import nested_splits
from microtome.cohort.targets import find_target, read_labels
from microtome.config.learning import FitConfig
from microtome.config.pretraining import OrdinalConfig
from microtome.errors import CohortError, ConfigError
from microtome.storage import Progress
from microtome.tasks.pretrain.ordinal import GRADES
from microtome.tasks.pretrain.stages import StageResult, fit_ordinal_slides
from microtome.tasks.pretrain.tokens import list_tokens

SLIDE_MODEL = "fastglioma-slide"
"""Name under which ``fit`` knows the slide transformer with its score."""

_OPTIONS = (
    "slide", "tokenizer", "patch_input", "ties", "finetune", "whole_slides", "calibrate", "split", "area", "kept",
    "warmup", "schedule", "clip", "workers",
)  # fmt: skip
_UNUSED = ("grid", "compat", "max_instances", "group", "risk_batch", "overwrite", "positive")


def fit_slide_model(config: FitConfig, *, progress: Progress | None = None) -> StageResult:
    """Train the score of FastGlioma's slide transformer on saved embeddings.

    The first of ``inner`` folds, by patient and alike in degrees, is not learned from: it is watched, and the score is
    calibrated on it. With ``inner`` of 0 all slides are learned from, and the score is not calibrated.

    Args:
        config: Settings; ``features`` is the folder of embeddings. ``model_options`` may name slide, tokenizer, ties,
            finetune and other settings of `microtome pretrain ordinal`.
        progress: Shown how far training is.

    Returns:
        As :func:`~microtome.tasks.pretrain.stages.fit_ordinal`.

    Raises:
        ConfigError: If a setting is not one of this model.
        CohortError: If the cohort has no degrees 0 to 3 of these slides.
        MicrotomeError: If embeddings cannot be read or files not written.
    """
    settings = _settings(config)
    cohort = read_cohort(config.cohort)
    target = find_target(
        cohort,
        config.target,
        type="ordinal",
        columns=config.columns or None,
        classes=config.classes or GRADES,
    )
    labels = read_labels(cohort, target)
    tokens = {name: slide for slide in list_tokens(config.features) for name in (slide.slide_id, slide.name)}
    rows = np.flatnonzero([name in tokens for name in labels.ids])
    if not len(rows):
        raise CohortError(
            f"None of the {len(labels)} labelled slides of '{config.cohort}' has embeddings in '{config.features}', "
            f"which has such as '{next(iter(tokens.values())).name}'. Its slide_id must be PATIENT.SLIDE."
        )
    known = labels.take(rows)
    slides = [
        replace(tokens[name], patient_id=patient, grade=GRADES[int(value)])
        for name, patient, value in zip(known.ids, known.patient_ids, known.values[:, 0], strict=True)
    ]
    if not config.inner:
        return fit_ordinal_slides(settings, slides, [], progress=progress)
    first = nested_splits(known, outer=config.inner, inner=0, seed=config.seed, stratify=config.stratify)[0]
    learned, watched = ([slides[int(row)] for row in side] for side in (first.train, first.test))
    return fit_ordinal_slides(settings, learned, watched, progress=progress)


def _settings(config: FitConfig) -> OrdinalConfig:
    if config.type not in (None, "ordinal") or config.unit != "slide":
        raise ConfigError(f"{SLIDE_MODEL} scores degrees of slides: pass type=ordinal and unit=slide.")
    if config.classes not in ((), GRADES):
        raise ConfigError(f"{SLIDE_MODEL} has the degrees {', '.join(GRADES)}. Got {', '.join(config.classes)}.")
    for name in _UNUSED:
        if getattr(config, name) != type(config).model_fields[name].default:
            raise ConfigError(f"{SLIDE_MODEL} is trained with fixed settings, on slides: leave {name} out.")
    options = dict(config.fixed_options)
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        raise ConfigError(f"{SLIDE_MODEL} has no option {unknown[0]!r}. It has {', '.join(_OPTIONS)}.")
    options.setdefault("calibrate", "affine" if config.inner else "none")
    return OrdinalConfig.model_validate(
        {
            "embeddings": config.features,
            "target": config.target,
            "out": config.out,
            "objective": config.objective or "pairwise",
            "n_epochs": config.epochs,
            "batch_size": config.batch_size,
            "learning_rate": config.learning_rate,
            "weight_decay": config.weight_decay,
            "device": config.device,
            "precision": "fp32" if config.precision == "auto" else config.precision,
            "seed": config.seed,
            "quiet": config.quiet,
            **options,
        }
    )
