"""The three stages as jobs: from a data set to weights in the published layouts, and to a model that scores."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from microtome.cohort import read_cohort
from microtome.config.pretraining import HiDiscConfig, OrdinalConfig, SlideSslConfig, TokenOptions, TrainingOptions
from microtome.encoders.hardware import resolve_runtime
from microtome.encoders.srh_model import load_patch_network, load_slide_transformer
from microtome.errors import CohortError, ConfigError
from microtome.models.srh import SRH_MODES
from microtome.storage import Progress, QuietProgress, hash_file, open_progress, write_json
from microtome.tasks.output import software_versions
from microtome.tasks.pretrain.augment import STRONG, Augment
from microtome.tasks.pretrain.hidisc import HiDiscSettings, HiDiscTask
from microtome.tasks.pretrain.optimisers import OptimiserSettings
from microtome.tasks.pretrain.ordinal import OrdinalSettings, OrdinalTask
from microtome.tasks.pretrain.ordinal_outputs import with_grades, write_outputs
from microtome.tasks.pretrain.patches import PatchViews, count_labels, list_patients
from microtome.tasks.pretrain.slide_ssl import SlideSslSettings, SlideSslTask
from microtome.tasks.pretrain.tokens import PatchEncoder, TokenSlide, find_tokens, save_tokens
from microtome.tasks.pretrain.views import SlideViews
from microtome.tasks.training import TrainingResult, TrainingSettings, train
from microtome.tasks.training.checkpoint import write_weights
from microtome.tasks.training.parallel import joined, ranks, wait_for_all
from microtome.tiles.opensrh import OpenSrh, SrhSlide, read_opensrh

TRAINING = "training"
TOKENS = "embeddings"


@dataclass(frozen=True, slots=True)
class StageResult:
    """What came of a stage.

    Attributes:
        weights: The file with the weights, in the stage's published layout.
        metrics: Of the last validation.
        training: How the training went.
        model: The whole model, for `microtome score`; None where there is none.
    """

    weights: Path
    metrics: Mapping[str, float]
    training: TrainingResult
    model: Path | None = None


def pretrain_hidisc(config: HiDiscConfig, *, progress: Progress | None = None) -> StageResult:
    """Stage 1: train the patch encoder.

    Returns:
        ``hidisc.safetensors``, to pass as ``tokenizer`` to the stages that follow.

    Raises:
        CohortError: If the data set lacks what the stage needs.
        ConfigError: If a setting cannot be honoured.
        MicrotomeError: If patches cannot be read or files not written.
    """
    with _together(config):
        found = read_opensrh(config.data, meta=config.meta)
        patients, without = list_patients(found.choose(_names(config.train)))
        watched = _chosen(found, config.valid)
        valid = list_patients(watched)[0] if watched else []
        _check_apart([p.patient_id for p in patients], [p.patient_id for p in valid])
        settings = HiDiscSettings(
            loss=config.loss,
            levels=config.levels,
            temperature=config.temperature,
            batch_size=config.batch_size,
            balance=not config.no_balance,
            optimiser=_optimiser(config, 1e-3),
            seed=config.seed,
            workers=config.workers,
        )
        views = replace(
            _views(config.patch_input),
            n_slides=config.n_slides,
            n_patches=config.n_patches,
            n_views=config.n_views,
            crop_px=config.crop_px,
            augment=_augment(config.augment, config.augment_p),
        )
        task = HiDiscTask(patients, views, settings, valid=valid, device=_device(config))
        training = _train(task, config, progress, monitor="knn_accuracy" if valid else None)
        path = config.out / "hidisc.safetensors"
        _write_weights(path, {"model.bb": task.encoder, "model.proj": task.projection}, patch_input=config.patch_input)
        counted = {"patients": count_labels(patients), "without_patches": without}
        return _finish(config, StageResult(path, training.metrics, training), counted)


def pretrain_slide_ssl(config: SlideSslConfig, *, progress: Progress | None = None) -> StageResult:
    """Stage 2: train the slide transformer.

    Returns:
        ``slide_ssl.safetensors``, to pass as ``slide`` to the stage that follows.

    Raises:
        CohortError: If the data set lacks what the stage needs.
        ConfigError: If a setting cannot be honoured.
        MicrotomeError: If vectors cannot be made or read, or files not written.
    """
    with _together(config):
        found = read_opensrh(config.data, meta=config.meta)
        slides, valid = _tokens(config, found, progress)
        settings = SlideSslSettings(
            loss=config.loss,
            weights=config.vicreg,
            temperature=config.temperature,
            views=_slide_views(config),
            batch_size=config.batch_size,
            optimiser=_optimiser(config, 3e-4),
            seed=config.seed,
        )
        task = SlideSslTask(slides, settings, valid=valid, device=_device(config))
        training = _train(task, config, progress, monitor=None)
        path = config.out / "slide_ssl.safetensors"
        _write_weights(path, {"model.bb.mil": task.transformer, "model.proj": task.projection})
        return _finish(config, StageResult(path, training.metrics, training), {"slides": len(slides)})


def fit_ordinal(config: OrdinalConfig, *, progress: Progress | None = None) -> StageResult:
    """Stage 3: train the score, and calibrate it on the patients to watch.

    Returns:
        ``scorer.safetensors`` (``baseline.safetensors`` of cross-entropy, which gives no score); and
        ``model.safetensors`` with patch encoder, calibration and the slides that the out-of-distribution flag compares
        with, where a tokenizer is given: `microtome score --model` takes it.

    Raises:
        CohortError: If the data set lacks what the stage needs.
        ConfigError: If a setting cannot be honoured.
        MicrotomeError: If vectors cannot be made or read, or files not written.
    """
    with _together(config):
        slides, valid = _tokens(config, read_opensrh(config.data, meta=config.meta), progress)
        if config.cohort is not None:
            labels = read_cohort(config.cohort).labels(config.target)
            slides, valid = with_grades(slides, labels), with_grades(valid, labels)
        return fit_ordinal_slides(config, slides, valid, progress=progress)


def fit_ordinal_slides(
    config: OrdinalConfig,
    slides: Sequence[TokenSlide],
    valid: Sequence[TokenSlide],
    *,
    progress: Progress | None = None,
) -> StageResult:
    """Stage 3 on slides that were chosen already; see :func:`fit_ordinal`.

    Args:
        config: Settings; those that say which slides are not looked at.
        slides: To learn from, each with a degree.
        valid: To watch and to calibrate on, likewise.
        progress: Shown how far training is.
    """
    _check_apart([slide.patient_id for slide in slides], [slide.patient_id for slide in valid])
    if config.calibrate != "none" and config.objective != "cross_entropy" and not valid:
        raise CohortError("A calibration is fitted on patients that were not learned from: name some (valid).")
    settings = OrdinalSettings(
        objective=config.objective,
        ties=config.ties,
        finetune=config.finetune,
        views=None if config.whole_slides else _slide_views(config),
        batch_size=config.batch_size,
        optimiser=_optimiser(config, 1.875e-5),
        seed=config.seed,
    )
    transformer = None if config.slide is None else load_slide_transformer(config.slide)
    task = OrdinalTask(slides, settings, transformer=transformer, valid=valid, device=_device(config))
    training = _train(task, config, progress, monitor="mean_auroc" if valid else None)
    name = "baseline" if config.objective == "cross_entropy" else "scorer"
    path = config.out / f"{name}.safetensors"
    _write_weights(path, {"model.bb.mil": task.scorer.slide, "model.head": task.scorer.head})
    model = write_outputs(config, task, slides, valid) if ranks().rank == 0 else None
    return _finish(config, StageResult(path, training.metrics, training, model), {"slides": len(slides)})


def _tokens(
    config: TokenOptions, found: OpenSrh, progress: Progress | None
) -> tuple[list[TokenSlide], list[TokenSlide]]:
    train, valid = found.choose(_names(config.train)), _chosen(found, config.valid)
    _check_apart([slide.patient_id for slide in train], [slide.patient_id for slide in valid])
    if config.embeddings is not None:
        return find_tokens(config.embeddings, train), find_tokens(config.embeddings, valid) if valid else []
    if config.tokenizer is None:
        raise ConfigError("Vectors of patches must come from somewhere: pass --embeddings, or a --tokenizer.")
    network = load_patch_network(config.tokenizer, config.patch_input)
    sha256 = hash_file(config.tokenizer)
    encoder = PatchEncoder(network, _views(config.patch_input), sha256, _device(config), config.workers)
    place, folder = ranks(), config.out / TOKENS
    own = [*train, *valid][place.rank :: place.world]
    shown = (progress or open_progress(quiet=config.quiet)) if place.rank == 0 else QuietProgress()
    shown.start("embeddings", len(own))
    save_tokens(
        folder, own, encoder, n_tags=config.n_tags, seed=config.seed, on_slide=lambda _: shown.advance(n_slides=1)
    )
    shown.finish()
    wait_for_all(place)
    return find_tokens(folder, train), find_tokens(folder, valid) if valid else []


def _train(
    task: HiDiscTask | SlideSslTask | OrdinalTask,
    config: TrainingOptions,
    progress: Progress | None,
    *,
    monitor: str | None,
) -> TrainingResult:
    settings = TrainingSettings(
        n_epochs=config.n_epochs,
        precision=config.precision,
        accumulate=config.accumulate,
        clip=config.clip,
        validate_every=config.validate_every,
        monitor=monitor if config.validate_every else None,
        checkpoint_every=config.checkpoint_every,
        seed=config.seed,
    )
    return train(task, settings, config.out / TRAINING, progress=progress or open_progress(quiet=config.quiet))


def _finish(config: TrainingOptions, result: StageResult, counted: Mapping[str, object]) -> StageResult:
    record = {
        "settings": config.model_dump(mode="json"),
        "metrics": dict(result.metrics),
        "n_steps": result.training.n_steps,
        "versions": software_versions(),
        **counted,
    }
    if ranks().rank == 0:
        write_json(config.out / "stage.json", record)
    return result


def _write_weights(path: Path, modules: Mapping[str, nn.Module], **said: str) -> None:
    """Write modules under the published names; the first of several processes does."""
    if ranks().rank == 0:
        write_weights(path, modules, said)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _chosen(found: OpenSrh, text: str) -> tuple[SrhSlide, ...]:
    return () if text.strip() in ("", "none") else found.choose(_names(text))


def _check_apart(train: Sequence[str], valid: Sequence[str]) -> None:
    both = sorted(set(train) & set(valid))
    if both:
        raise CohortError(f"Patient {both[0]!r} (and {len(both) - 1} more) is to learn from and to watch. Part them.")


def _views(patch_input: str) -> PatchViews:
    """Whole patches, as a network of this input sees them."""
    if patch_input == "lowres":
        return PatchViews("ch2_only", low_resolution=True)
    return PatchViews(patch_input if patch_input in SRH_MODES else "three_channels")


def _augment(text: str, p: float) -> Augment:
    if text == "none":
        return Augment((), 0.0)
    return Augment(STRONG if text == "strong" else _names(text), p)


def _slide_views(config: TokenOptions) -> SlideViews:
    return SlideViews(split=config.split, area=config.area, kept=config.kept)


def _optimiser(config: TrainingOptions, usual_rate: float) -> OptimiserSettings:
    return OptimiserSettings(
        name=config.optimiser,
        learning_rate=config.learning_rate or usual_rate,
        weight_decay=config.weight_decay,
        schedule_name=config.schedule,
        warmup=config.warmup,
        accumulate=config.accumulate,
    )


def _together(config: TrainingOptions) -> AbstractContextManager[None]:
    """Let several processes of ``torchrun`` talk from the beginning: one makes the vectors that all read."""
    return joined(ranks(), torch.device(_device(config)))


def _device(config: TrainingOptions) -> str:
    device = resolve_runtime(config.device, "fp32", "torch").device
    return f"cuda:{ranks().local}" if device.startswith("cuda") and config.device in ("auto", "cuda") else device
