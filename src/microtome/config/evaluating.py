"""Settings of the verbs that judge predictions: `evaluate` and `results`."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from microtome.config.base import Options
from microtome.config.learning import TargetKind


class EvaluateConfig(Options):
    """Settings of `microtome evaluate`.

    Attributes:
        predictions: Table of predictions (parquet or CSV).
        cohort: Table (CSV) of slides with patient_id and labels.
        target: What was predicted, where the table of predictions does not say or another label is to judge it.
        type: Which kind of quantity ``target`` is.
        columns: Label columns that hold ``target``; survival: time,event.
        classes: Classes of ``target`` in order; ordinal: rising grades.
        positive: Which of two labels is the positive one.
        metrics: Metrics to compute; none for all of the type of target.
        n_boot: Resamples of patients for the intervals; 0 for none.
        seed: Decides the resamples.
        unit: What counts as one: slide, biopsy or patient; None for what the predictions are of.
        pool: How predictions of one unit become one, where ``unit`` is coarser: mean or max.
        include_training: Count patients that were in training too.
        subgroups: Columns of the cohort (subtype, centre, age) within whose values the metrics are computed too.
        adjuncts: Columns of the cohort that hold another way to tell the same, as a score in 0..1 that says yes above
            one half (0 and 1 among them) or as a class; sensitivity and specificity are compared with the model's.
        positive_from: Class of an ordinal target from which a row counts as positive there; None for the middle.
        compare: Further tables of predictions of the same target, to be compared on the same patients.
        repeats: Tables of the same model trained with other seeds: metrics are averaged over all, and their spread is
            told.
        no_figures: Draw nothing.
        out: Output folder.
    """

    predictions: Path = Path("predictions.parquet")
    cohort: Path = Path("labels.csv")
    target: str | None = None
    type: TargetKind | None = None
    columns: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    positive: str | None = None
    metrics: tuple[str, ...] = ()
    n_boot: int = Field(default=1000, ge=0)
    seed: int = Field(default=0, ge=0)
    unit: Literal["slide", "biopsy", "patient"] | None = None
    pool: Literal["mean", "max"] = "mean"
    include_training: bool = False
    subgroups: tuple[str, ...] = ()
    adjuncts: tuple[str, ...] = ()
    positive_from: str | None = None
    compare: tuple[Path, ...] = ()
    repeats: tuple[Path, ...] = ()
    no_figures: bool = False
    out: Path = Path("evaluation")

    @field_validator("metrics", "columns", "classes", "subgroups", "adjuncts", mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        """Names with commas between them, in one text or several."""
        parts = (value,) if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            return value
        return tuple(name.strip() for part in parts for name in str(part).split(",") if name.strip())

    @field_validator("compare", "repeats", mode="before")
    @classmethod
    def _one_path(cls, value: object) -> object:
        return (value,) if isinstance(value, str | Path) else value


class ResultsConfig(Options):
    """Settings of `microtome results`.

    Attributes:
        logs: Folder below which runs lie.
        out: Where the tables go; None for the folder ``results`` in ``logs``.
        reference: Run that the others of its task are compared with: ``model``, ``encoder`` or ``model/encoder``; None
            for the first by name.
        metric: Metric of tables and figures; None for the usual one of each type of target.
        no_tests: Do not compare the runs of a task with the reference.
        n_boot: Resamples of patients for these tests.
        seed: Decides the resamples.
        no_figures: Draw no forest plots.
    """

    logs: Path = Path()
    out: Path | None = None
    reference: str | None = None
    metric: str | None = None
    no_tests: bool = False
    n_boot: int = Field(default=1000, ge=1)
    seed: int = Field(default=0, ge=0)
    no_figures: bool = False
