"""Settings of the training stages for stimulated Raman histology."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from microtome.config.base import Options
from microtome.config.srh import PatchInput
from microtome.errors import ConfigError

LossOfPatches = Literal["hidisc", "simclr"]


class TrainingOptions(Options):
    """What every stage has.

    Attributes:
        data: Root of an OpenSRH data set.
        meta: Name of its metadata under meta/; None for opensrh_withslideclass.json, then opensrh.json.
        train: Patients to learn from: train, val, all, or names with commas.
        valid: Patients to watch, likewise; none for nobody.
        out: Output folder; the same settings in the same folder go on where they stopped.
        n_epochs: Passes over the data.
        optimiser: adamw, adam or sgd (momentum 0.9).
        learning_rate: At its highest; None for the stage's published one.
        weight_decay: None for the library's default: 0.01 for adamw, else 0.
        schedule: cosine with warm-up, step, or constant.
        warmup: Share of the steps in which the rate rises, 0..1.
        clip: Largest norm of the gradient; None for any.
        accumulate: Batches per step of the optimiser.
        validate_every: Epochs between two looks at the patients to watch.
        checkpoint_every: Epochs between two checkpoints.
        device: auto, cpu, cuda, cuda:0, mps.
        precision: fp32, bf16 or fp16 of products and convolutions.
        workers: Threads that read.
        seed: Decides initial weights, order, views.
        quiet: Print nothing but errors and the result.
    """

    data: Path = Path("opensrh")
    meta: str | None = None
    train: str = "train"
    valid: str = "val"
    out: Path = Path("out")
    n_epochs: int = Field(default=100, ge=1)
    optimiser: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float | None = Field(default=None, gt=0)
    weight_decay: float | None = Field(default=None, ge=0)
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    warmup: float = Field(default=0.1, ge=0, le=1)
    clip: float | None = Field(default=None, gt=0)
    accumulate: int = Field(default=1, ge=1)
    validate_every: int = Field(default=1, ge=0)
    checkpoint_every: int = Field(default=1, ge=1)
    device: str = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    workers: int = Field(default=2, ge=1)
    seed: int = Field(default=0, ge=0)
    quiet: bool = False


class HiDiscConfig(TrainingOptions):
    """Settings of `microtome pretrain hidisc`: the patch encoder.

    Attributes:
        patch_input: What the encoder sees.
        loss: hidisc (patient, slide and patch belong together) or simclr (views of a patch alone).
        levels: Weights of patient, slide and patch in the sum.
        temperature: Of the similarities.
        batch_size: Patients per batch and process.
        n_slides: Slides of each patient in a batch.
        n_patches: Patches of each slide.
        n_views: Views of each patch.
        crop_px: Side of a random part of each patch that is seen, pixels; None for all of it.
        augment: Changes of each view: strong (the published ones), none, or names with commas.
        augment_p: Probability of each, 0..1.
        no_balance: Let patients of common diagnoses come more often.
    """

    patch_input: PatchInput = "highres"
    loss: LossOfPatches = "hidisc"
    levels: tuple[float, float, float] = (1.0, 1.0, 1.0)
    temperature: float = Field(default=0.07, gt=0)
    batch_size: int = Field(default=128, ge=1)
    n_slides: int = Field(default=2, ge=1)
    n_patches: int = Field(default=2, ge=1)
    n_views: int = Field(default=2, ge=1)
    crop_px: int | None = Field(default=None, ge=32, le=300)
    augment: str = "strong"
    augment_p: float = Field(default=0.3, ge=0, le=1)
    no_balance: bool = False


class TokenOptions(TrainingOptions):
    """Where the vectors of patches come from.

    Attributes:
        embeddings: Saved vectors: what `microtome score --save-embeddings` or an earlier stage left. None to make them
            with the tokenizer, under out.
        tokenizer: File of the patch encoder: stage 1's, or a published model.
        patch_input: What that encoder sees.
        n_tags: How often patches are encoded, each time changed anew; once means unchanged.
        split: Share of a slide's patches from which one view is drawn; the other has the rest.
        area: Least and greatest area of a view's crop, in patches.
        kept: Least and greatest share of a crop's patches that are kept.
    """

    embeddings: Path | None = None
    tokenizer: Path | None = None
    patch_input: PatchInput = "highres"
    n_tags: int = Field(default=1, ge=1)
    split: float = Field(default=0.7, gt=0, lt=1)
    area: tuple[float, float] = (100.0, 200.0)
    kept: tuple[float, float] = (0.1, 0.8)

    @model_validator(mode="after")
    def _one_source(self) -> "TokenOptions":
        if self.embeddings is not None and self.n_tags > 1:
            raise ConfigError("n_tags says how often patches are encoded; embeddings are there already. Leave it out.")
        return self


class SlideSslConfig(TokenOptions):
    """Settings of `microtome pretrain slide-ssl`: the slide transformer.

    Attributes:
        loss: vicreg or simclr.
        vicreg: Weights of invariance, variance and covariance.
        temperature: Of SimCLR's similarities.
        batch_size: Slides per batch and process.
    """

    loss: Literal["vicreg", "simclr"] = "vicreg"
    vicreg: tuple[float, float, float] = (10.0, 10.0, 1.0)
    temperature: float = Field(default=0.07, gt=0)
    batch_size: int = Field(default=4, ge=2)


class OrdinalConfig(TokenOptions):
    """Settings of `microtome pretrain ordinal`: the score, and its calibration.

    Attributes:
        slide: Weights of the slide transformer, stage 2's; None for one without training.
        cohort: Table with columns slide_id and the target, for degrees that the data set does not say.
        target: Its column of degrees, 0 to 3.
        objective: pairwise (the published one), cumulative_link (CORAL), or cross_entropy, a baseline without a score.
        ties: What pairwise makes of slides of one degree.
        finetune: Train the transformer too, not the head alone.
        whole_slides: Learn from whole slides instead of views of them.
        batch_size: Slides per batch and process.
        calibrate: Place the score's bands by the degrees of the slides to watch: affine, isotonic, or none.
    """

    slide: Path | None = None
    cohort: Path | None = None
    target: str = "grade"
    objective: Literal["pairwise", "cumulative_link", "cross_entropy"] = "pairwise"
    ties: Literal["none", "same", "lower", "upper"] = "none"
    finetune: bool = False
    whole_slides: bool = False
    batch_size: int = Field(default=16, ge=2)
    calibrate: Literal["affine", "isotonic", "none"] = "affine"
