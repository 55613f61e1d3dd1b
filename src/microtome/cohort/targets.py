"""What a model fits: a target of a type, read from the label columns of a cohort."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Int64

TargetType = Literal["binary", "multiclass", "multilabel", "regression", "ordinal", "survival"]
Unit = Literal["slide", "biopsy", "patient"]


@dataclass(frozen=True, slots=True)
class Target:
    """A quantity to predict.

    Attributes:
        name: What it is called, also in file names.
        type: Which kind of quantity.
        columns: Label columns of the cohort that hold it: one; several for multilabel (one per class); two for
            survival (time, event).
        classes: binary: (negative, positive); multiclass: in the order of the logits; ordinal: rising grades;
            multilabel: one per column; none for regression and survival.
    """

    name: str
    type: TargetType
    columns: tuple[str, ...]
    classes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values, from which :meth:`from_dict` makes the target again."""
        return {"name": self.name, "type": self.type, "columns": list(self.columns), "classes": list(self.classes)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Target":
        """The target that :meth:`as_dict` wrote."""
        return cls(values["name"], values["type"], tuple(values["columns"]), tuple(values["classes"]))


@dataclass(frozen=True, slots=True)
class Labels:
    """The target's values of the units (slides, biopsies or patients) that have one; rows in one fixed order.

    Attributes:
        target: What the values are of.
        ids: The unit of each row: its slide_id, biopsy_id or patient_id.
        patient_ids: The patient of each row.
        slide_ids: The slides of each row, in the order of the cohort.
        values: (n, k) float64. binary: 0 or 1; multiclass and ordinal: number of the class; multilabel: 0, 1 or NaN
            where it is missing, one column per class; regression: the number; survival: time, and 1 for an event or 0
            for a censored time.
        excluded: Slide → why it is not among the rows.
        unit: What a row is.
    """

    target: Target
    ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    slide_ids: tuple[tuple[str, ...], ...]
    values: Float64[np.ndarray, "n k"]
    excluded: Mapping[str, str] = field(default_factory=dict)
    unit: Unit = "slide"

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Int64[np.ndarray, " m"]) -> "Labels":
        """The same with some of the rows, in their order."""
        return Labels(
            self.target,
            tuple(self.ids[i] for i in rows),
            tuple(self.patient_ids[i] for i in rows),
            tuple(self.slide_ids[i] for i in rows),
            self.values[rows],
            self.excluded,
            self.unit,
        )
