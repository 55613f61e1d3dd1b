"""Settings of the verbs that learn from labels of slides: `cv`, `benchmark` and `fit`."""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from microtome.config.base import Options
from microtome.errors import ConfigError

TargetKind = Literal["binary", "multiclass", "multilabel", "regression", "ordinal", "survival"]
SearchValue = str | int | float | bool | tuple[int, ...] | None
SEARCHED = {"learning_rate": (1e-3, 1e-4), "weight_decay": (0.0, 1e-4)}
"""What is searched where nothing else is asked for."""

_SEVERAL = re.compile(r"\d+x|\d+(x\d+)+")
_HYPER = ("learning_rate", "weight_decay", "batch_size", "risk_batch")


class CohortOptions(Options):
    """What is learnt from, and what is learnt.

    Attributes:
        features: Folder of features of one encoder.
        encoder: Its name, where the features do not say it.
        cohort: Table (CSV) of slides with patient_id and labels.
        target: What to predict: the name of a label column, or a name for what ``columns`` hold.
        type: Which kind of quantity it is; None to tell binary and multiclass from the labels. The others must be
            said.
        columns: Label columns that hold it, where it is not the one of its name; survival: time,event.
        classes: Classes in order; ordinal: rising grades.
        positive: Which of two labels is the positive one, where that is not plain.
        unit: What gets one prediction: a slide, or all slides of a biopsy or patient as one bag.
        max_instances: Tiles of a slide that take part in an epoch, drawn anew for each; None for all.
    """

    features: Path = Path("features")
    encoder: str | None = None
    cohort: Path = Path("labels.csv")
    target: str = ""
    type: TargetKind | None = None
    columns: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    positive: str | None = None
    unit: Literal["slide", "biopsy", "patient"] = "slide"
    max_instances: int | None = Field(default=None, ge=1)

    @field_validator("columns", "classes", mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        """Names with commas between them, in one text or several."""
        return _split_names(value)


class ModelOptions(Options):
    """The model and how it is trained.

    Attributes:
        model: One of the aggregators: abmil, chowder, clam_mb, clam_sb, dsmil, hiptmil, meanpool, transmil, ...
        model_options: Options of the aggregator's class, NAME=VALUE; several numbers, such as lengths of layers, are
            written 128x64, and one layer 64x.
        objective: Loss; None for the usual one of the type of target.
        learning_rate: Of Adam; None to search it (1e-3 and 1e-4).
        weight_decay: L2; None to search it (0 and 1e-4).
        grid: Further values to search, or others: NAME=VALUE,VALUE; any of learning_rate, weight_decay, batch_size,
            risk_batch, or an option of the model.
        epochs: Passes over the training bags; where there are inner folds, how many of them is chosen.
        batch_size: Bags per step.
        risk_batch: Bags per step for losses that compare bags (Cox, pairwise ranks); None for all training bags.
        device: Where to compute: auto, cpu, cuda, cuda:1, ...
        precision: Of the matrix products: fp32, bf16, or auto (bf16 where the hardware has it).
        together: Train folds and grid points together where the model allows it (auto), always, or never.
        compat: ``histossl`` repeats HistoSSLscaling's choices, its mistakes included.
        seed: Decides folds, initial weights, the order of bags and the bootstrap.
    """

    model: str = "abmil"
    model_options: tuple[str, ...] = ()
    objective: str | None = None
    learning_rate: float | None = Field(default=None, gt=0)
    weight_decay: float | None = Field(default=None, ge=0)
    grid: tuple[str, ...] = ()
    epochs: int = Field(default=50, ge=1)
    batch_size: int = Field(default=16, ge=1)
    risk_batch: int | None = Field(default=None, ge=2)
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    together: Literal["auto", "always", "never"] = "auto"
    compat: Literal["histossl"] | None = None
    seed: int = Field(default=0, ge=0)

    @field_validator("grid", mode="before")
    @classmethod
    def _grid_from_mapping(cls, value: object) -> object:
        """A mapping, as YAML has it, says the same as NAME=VALUE,VALUE."""
        if isinstance(value, Mapping):
            return tuple(f"{name}={_listed(values)}" for name, values in value.items())
        return (value,) if isinstance(value, str) else value

    @field_validator("model_options", mode="before")
    @classmethod
    def _options_from_mapping(cls, value: object) -> object:
        """Likewise; a list of numbers is one value here."""
        if isinstance(value, Mapping):
            return tuple(f"{name}={_written(one)}" for name, one in value.items())
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _settings_are_readable(self) -> "ModelOptions":
        _ = self.points, self.fixed_options
        return self

    @property
    def fixed_options(self) -> dict[str, SearchValue]:
        """Options of the model that are not searched."""
        found = dict(_named_values(text, "model_options") for text in self.model_options)
        return {name: _only(name, values) for name, values in found.items()}

    @property
    def axes(self) -> dict[str, tuple[SearchValue, ...]]:
        """What is searched, and the values of each; a setting that has a value of its own is not searched."""
        given = dict(_named_values(text, "grid") for text in self.grid)
        for name in given:
            if name in _HYPER and getattr(self, name) != type(self).model_fields[name].default:
                raise ConfigError(f"{name} is given both as one value and in the grid. Leave one of them out.")
        usual = {name: values for name, values in SEARCHED.items() if getattr(self, name) is None}
        return {**usual, **given}

    @property
    def points(self) -> tuple[dict[str, SearchValue], ...]:
        """Every point of the grid; the last axis runs fastest."""
        axes = self.axes
        return tuple(dict(zip(axes, values, strict=True)) for values in product(*axes.values()))


class LearningOutput(Options):
    """Where results go.

    Attributes:
        out: Output folder; the same settings in the same folder go on from what is there.
        overwrite: Throw away what is there and was made with other settings.
        no_figures: Draw no figures.
        n_boot: Resamples of patients for the intervals.
        quiet: Print nothing but errors and the results.
    """

    out: Path = Path("out")
    overwrite: bool = False
    no_figures: bool = False
    n_boot: int = Field(default=1000, ge=0)
    quiet: bool = False


class LearningConfig(LearningOutput, ModelOptions, CohortOptions):
    """What learning from one cohort always has.

    Attributes:
        inner: Folds on which grid point and number of epochs are chosen; 0 trains with fixed settings for all epochs.
        group: Column of what must stay on one side of each split (besides the patient), such as site;
            ``tcga-site`` for the site in a TCGA barcode.
        stratify: Spread classes or events evenly over the folds.
    """

    inner: int = Field(default=5, ge=0)
    group: str | None = None
    stratify: bool = True

    @model_validator(mode="after")
    def _has_folds_to_choose_on(self) -> "LearningConfig":
        if self.inner == 1:
            raise ConfigError("inner must be 0 (fixed settings) or at least 2. Got 1.")
        return self


class CVConfig(LearningConfig):
    """Settings of `microtome cv`; there, each outer fold has inner folds of its own.

    Attributes:
        task: What tables of results call this task; None for target and table of labels.
        outer: Outer folds, each of which is once the test set.
        repeats: Times that everything is done, with other folds.
        inner_repeats: Times that inner folds are drawn, within an outer one.
        splits: File of folds to use as they are, instead of drawing them.
        partial: Pass over what a file of folds names and the cohort lacks, and rows that the file does not name.
        leave_one_site_out: Each value of ``group`` is the test set once.
        holdout: COLUMN=VALUE of a fixed test set that takes no part in training: the models of the inner folds
            predict it, and their logits are averaged.
        leaky_slides: Let slides of one patient be on both sides, as some published results did; what comes of it is
            marked.
    """

    out: Path = Path("cv")
    task: str | None = None
    outer: int = Field(default=5, ge=2)
    repeats: int = Field(default=1, ge=1)
    inner_repeats: int = Field(default=1, ge=1)
    splits: Path | None = None
    partial: bool = False
    leave_one_site_out: bool = False
    holdout: str | None = None
    leaky_slides: bool = False

    @model_validator(mode="after")
    def _agrees(self) -> "CVConfig":
        if self.leave_one_site_out and self.group is None:
            raise ConfigError("leave_one_site_out needs the column of the site: pass group.")
        if self.leaky_slides and self.group is not None:
            raise ConfigError("leaky_slides keeps nothing together, group does. Pass one of them.")
        ways = [name for name in ("splits", "leave_one_site_out", "holdout") if getattr(self, name)]
        if len(ways) > 1:
            raise ConfigError(f"{' and '.join(ways)} each decide the test sets. Pass one of them.")
        if ways and self.repeats > 1:
            raise ConfigError(f"With {ways[0]} the test sets are fixed: there is nothing to repeat. Leave repeats out.")
        _ = self.held_out
        return self

    @property
    def held_out(self) -> tuple[str, str] | None:
        """Column and value of the fixed test set."""
        if self.holdout is None:
            return None
        column, equals, value = self.holdout.partition("=")
        if not (column and equals and value):
            raise ConfigError(f"holdout must be COLUMN=VALUE, such as split=test. Got {self.holdout!r}.")
        return column, value


class FitConfig(LearningConfig):
    """Settings of `microtome fit`.

    Attributes:
        calibrate: Fit a calibration on the predictions of the folds that a model was not trained on.
        intended_use: A sentence to keep with the model; None for the usual one.
    """

    out: Path = Path("model")
    calibrate: bool = False
    intended_use: str | None = None

    @model_validator(mode="after")
    def _agrees(self) -> "FitConfig":
        if self.calibrate and self.inner == 0:
            raise ConfigError("A calibration is fitted on predictions of folds: it needs inner of at least 2.")
        return self


class BenchmarkConfig(LearningOutput, ModelOptions):
    """Settings of `microtome benchmark`: tasks × encoders × models, each cross-validated.

    Attributes:
        tasks: Mappings with name, cohort, target and any other setting of `microtome cv` that is the task's own; with
            ``layout``, names of tasks that `microtome tasks` lists (none for all whose files are there).
        encoders: Name → folder of features; ``{task}`` in it stands for the task's name. With ``layout``, names
            alone (none for all that are there).
        models: Names of aggregators, or mappings with name, model and any other setting that is the model's own.
        layout: ``histossl`` reads tables and features from ``data`` as HistoSSLscaling has them.
        data: Folder with HistoSSLscaling's ``preprocessed`` and ``raw``.
        outer: Outer folds.
        inner: Inner folds; 0 trains with fixed settings.
        repeats: Times that everything is done, with other folds.
        max_instances: Tiles of a slide that take part in an epoch.
    """

    out: Path = Path("benchmark")
    tasks: tuple[dict[str, Any] | str, ...] = ()
    encoders: dict[str, Path | None] = Field(default_factory=dict)
    models: tuple[dict[str, Any] | str, ...] = ()
    layout: Literal["histossl"] | None = None
    data: Path | None = None
    outer: int = Field(default=5, ge=2)
    inner: int = Field(default=5, ge=0)
    repeats: int = Field(default=1, ge=1)
    max_instances: int | None = Field(default=None, ge=1)

    @field_validator("encoders", mode="before")
    @classmethod
    def _names_alone(cls, value: object) -> object:
        """A list of names says that their folders are found."""
        return dict.fromkeys(_names(value)) if isinstance(value, list | tuple | str) else value

    @field_validator("tasks", "models", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str | dict) else value

    @model_validator(mode="after")
    def _agrees(self) -> "BenchmarkConfig":
        if (self.layout is None) != (self.data is None):
            raise ConfigError("layout and data belong together: the layout, and the folder that has it.")
        return self


def _split_names(value: object) -> object:
    return _names(value) if isinstance(value, str | list | tuple) else value


def _names(value: str | Sequence[object]) -> tuple[str, ...]:
    parts = (value,) if isinstance(value, str) else value
    return tuple(name.strip() for part in parts for name in str(part).split(",") if name.strip())


def _listed(values: object) -> str:
    return ",".join(map(_written, values)) if isinstance(values, list | tuple) else _written(values)


def _written(value: object) -> str:
    if not isinstance(value, list | tuple):
        return str(value)
    return "x".join(map(str, value)) + ("x" if len(value) == 1 else "")


def _named_values(text: str, what: str) -> tuple[str, tuple[SearchValue, ...]]:
    name, equals, values = text.partition("=")
    name = name.strip().replace("-", "_")
    if not (name and equals and values.strip()):
        raise ConfigError(f"{what} must be NAME=VALUE,VALUE, such as learning_rate=1e-3,1e-4. Got {text!r}.")
    read = tuple(_value(part.strip()) for part in values.split(","))
    if len(set(map(repr, read))) < len(read):
        raise ConfigError(f"{what} has a value of {name} twice: {text!r}.")
    return name, read


def _only(name: str, values: tuple[SearchValue, ...]) -> SearchValue:
    if len(values) > 1:
        raise ConfigError(f"model_options takes one value of {name}. To search several, put them into grid.")
    return values[0]


def _value(text: str) -> SearchValue:
    words: dict[str, SearchValue] = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    if _SEVERAL.fullmatch(text):
        return tuple(int(part) for part in text.split("x") if part)
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if not math.isfinite(number):
            raise ConfigError(f"A value of a setting must be finite. Got {text!r}.")
        return number
    return text
