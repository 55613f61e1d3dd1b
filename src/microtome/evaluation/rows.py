"""Predictions beside labels: which rows count, which do not and why, slides pooled to patients where asked."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64

from microtome.cohort.predictions import Predictions, value_columns
from microtome.cohort.table import Cohort
from microtome.cohort.targets import Labels, Target, Unit, read_labels
from microtome.errors import EvaluationError
from microtome.evaluation.metrics import SURVIVAL_PREFIX, Outcomes, survival_columns

Pooling = Literal["mean", "max"]
_IN_TRAINING = "the patient was in training"


@dataclass(frozen=True, slots=True)
class Rows:
    """Predictions that count, with their labels.

    Attributes:
        target: What was predicted.
        unit: What a row is.
        table: id, patient_id, repeat, fold and the prediction columns; sorted by repeat, fold, id.
        values: Labels of the rows, as :class:`~microtome.cohort.targets.Labels` has them.
        columns: Names of the prediction columns.
        excluded: Unit's id → why it does not count.
    """

    target: Target
    unit: Unit
    table: pd.DataFrame
    values: Float64[np.ndarray, "n k"]
    columns: tuple[str, ...]
    excluded: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.table)

    def outcomes(self, rows: Int64[np.ndarray, " m"] | None = None) -> Outcomes:
        """Labels and predictions of some rows; of all if None."""
        keep = np.arange(len(self)) if rows is None else rows
        return Outcomes(self.target, self.values[keep], {c: self.table[c].to_numpy()[keep] for c in self.columns})

    def keep(self, mask: Bool[np.ndarray, " n"]) -> "Rows":
        """The same with some of the rows."""
        table = self.table[mask].reset_index(drop=True)
        return Rows(self.target, self.unit, table, self.values[mask], self.columns, self.excluded)

    def patients(self) -> Int64[np.ndarray, " n"]:
        """Number of each row's patient, in the order of their ids."""
        return np.unique(self.table["patient_id"].to_numpy(str), return_inverse=True)[1].astype(np.int64)

    def groups(self, *by: str) -> dict[tuple[int, ...], Int64[np.ndarray, " m"]]:
        """Rows of each value of integer columns (``repeat``, ``fold``), in order."""
        keys = [tuple(map(int, key)) for key in self.table[list(by)].to_numpy()]
        found: dict[tuple[int, ...], list[int]] = {}
        for row, key in enumerate(keys):
            found.setdefault(key, []).append(row)
        return {key: np.array(found[key], np.int64) for key in sorted(found)}

    def described(self) -> pd.DataFrame:
        """The table with the labels in columns of their own.

        These are ``label`` (class name or number), ``label_<class>`` of multilabel, ``time`` and ``event``.
        """
        front = self.table[["id", "patient_id", "repeat", "fold"]].copy()
        kind, classes = self.target.type, self.target.classes
        if kind == "survival":
            front["time"], front["event"] = self.values[:, 0], self.values[:, 1].astype(np.int64)
        elif kind == "multilabel":
            for j, name in enumerate(classes):
                front[f"label_{name}"] = self.values[:, j]
        elif kind == "regression":
            front["label"] = self.values[:, 0]
        else:
            front["label"] = [classes[int(value)] for value in self.values[:, 0]]
        return pd.concat([front, self.table[list(self.columns)]], axis=1)


def match_rows(
    predictions: Predictions,
    cohort: Cohort | Labels,
    *,
    include_training: bool = False,
    unit: Unit | None = None,
    pool: Pooling = "mean",
) -> Rows:
    """Put predictions beside the labels of the cohort.

    Args:
        predictions: Of slides, biopsies or patients.
        cohort: Whose labels count; or labels that were read already.
        include_training: Let patients that were in training count.
        unit: What a row is to be; None for what the predictions are of. ``patient`` (or ``biopsy``) pools slides.
        pool: How: the mean or the highest value of each column; probabilities of classes are divided by their sum.

    Returns:
        The rows that count, and why others do not: in training, without a label, without a prediction. A slide of the
        cohort that has neither label nor prediction is among them too.

    Raises:
        EvaluationError: If a patient differs from the cohort's, no row is left, or targets or units do not fit.
        CohortError: If the labels cannot be read.
    """
    target = predictions.target
    columns = _prediction_columns(predictions)
    table = _plain(predictions, columns)
    labels = _labels(predictions, cohort, unit)
    excluded: dict[str, str] = {}
    if not include_training:
        excluded.update(dict.fromkeys(table.loc[table["in_training"], "id"], _IN_TRAINING))
        table = table[~table["in_training"]]
    if labels.unit != predictions.unit:
        table = _pooled(table, labels, columns, target, pool)
    row_of = {key: row for row, key in enumerate(labels.ids)}
    known = table["id"].isin(row_of)
    for key in table.loc[~known, "id"].drop_duplicates():
        excluded[key] = labels.excluded.get(key, "no label")
    seen = {*predictions.table["id"].astype(str), *table["id"]}
    excluded.update({key: "no prediction" for key in labels.ids if key not in seen})
    excluded.update({slide: why for slide, why in labels.excluded.items() if slide not in seen})
    table = table[known].sort_values(["repeat", "fold", "id"], kind="stable").reset_index(drop=True)
    if table.empty:
        hint = " Those in training count with include_training." if _IN_TRAINING in excluded.values() else ""
        raise EvaluationError(f"No prediction of {target.name!r} counts. {describe_exclusions(excluded)}{hint}")
    places = np.array([row_of[key] for key in table["id"]], np.int64)
    _check_patients(table, labels, places)
    return Rows(target, labels.unit, table, labels.values[places], columns, dict(sorted(excluded.items())))


def describe_exclusions(excluded: Mapping[str, str]) -> str:
    """How many do not count, by reason, in one sentence; empty where all count."""
    counts = Counter(excluded.values())
    said = "; ".join(f"{n} {reason}" for reason, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    return f"Excluded: {said}." if said else ""


def _prediction_columns(predictions: Predictions) -> tuple[str, ...]:
    names = dict.fromkeys(predictions.table.columns)
    curve = survival_columns(names) if predictions.target.type == "survival" else ()
    return (*value_columns(predictions.target), *curve)


def _plain(predictions: Predictions, columns: Sequence[str]) -> pd.DataFrame:
    """id, patient_id, repeat, fold, in_training and the prediction columns as float64."""
    found = predictions.table[["id", "patient_id", "repeat", "fold"]].astype({"id": str, "patient_id": str})
    for name in columns:
        found[name] = predictions.table[name].to_numpy(np.float64)
        if name.startswith(SURVIVAL_PREFIX) and not found[name].between(0, 1).all():
            raise EvaluationError(f"{name!r} must hold probabilities of living beyond that time, 0 to 1, no NaN.")
    trained = predictions.table.get("in_training")
    found["in_training"] = False if trained is None else trained.fillna(value=False).astype(bool)
    return found


def _labels(predictions: Predictions, cohort: Cohort | Labels, unit: Unit | None) -> Labels:
    unit = unit or predictions.unit
    if isinstance(cohort, Cohort):
        labels = read_labels(cohort, predictions.target, unit=unit)
    else:
        labels = cohort
        if labels.unit != unit:
            raise EvaluationError(f"The labels are of {labels.unit}s, not of {unit}s. Read them with unit={unit!r}.")
        if labels.target != predictions.target:
            raise EvaluationError(f"The labels are of {labels.target}, the predictions of {predictions.target}.")
    if unit != predictions.unit and predictions.unit != "slide":
        raise EvaluationError(f"Predictions of {predictions.unit}s cannot become ones of {unit}s. Start from slides.")
    return labels


def _pooled(table: pd.DataFrame, labels: Labels, columns: Sequence[str], target: Target, pool: Pooling) -> pd.DataFrame:
    """One row per patient (biopsy), repeat and fold; slides of none keep their own id, and count as without a label."""
    owner = {slide: key for key, slides in zip(labels.ids, labels.slide_ids, strict=True) for slide in slides}
    keyed = table.assign(id=[owner.get(key, key) for key in table["id"]])
    grouped = keyed.groupby(["repeat", "fold", "id"], sort=True)
    found = grouped[list(columns)].agg(pool)
    found.insert(0, "patient_id", grouped["patient_id"].first())
    if target.type == "binary":
        found[columns[0]] = 1 - found[columns[1]]
    elif target.type == "multiclass":
        found[list(columns)] = found[list(columns)].div(found[list(columns)].sum(axis=1), axis=0)
    return found.reset_index()


def _check_patients(table: pd.DataFrame, labels: Labels, places: Int64[np.ndarray, " n"]) -> None:
    for key, said, place in zip(table["id"], table["patient_id"], places, strict=True):
        if said != labels.patient_ids[place]:
            raise EvaluationError(
                f"{key!r} belongs to patient {said!r} in the predictions and to {labels.patient_ids[place]!r} in the "
                "cohort. Patients in training are told by it, and intervals draw patients, so the two must agree: "
                "predict with the same table as --cohort."
            )
