"""A model's calls beside those of other ways to tell the same, which columns of the cohort hold."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float64

from microtome.cohort.table import Cohort
from microtome.cohort.targets import Target, Unit
from microtome.errors import ConfigError, EvaluationError
from microtome.evaluation.rows import Pooling, Rows, match_rows
from microtome.evaluation.subgroups import compare_calls

if TYPE_CHECKING:
    from microtome.cohort.predictions import Predictions

MODEL = "model"


def compare_adjuncts(
    predictions: "Predictions",
    cohort: Cohort,
    columns: Sequence[str],
    *,
    positive_from: str | None = None,
    include_training: bool = False,
    unit: Unit | None = None,
    pool: Pooling = "mean",
) -> pd.DataFrame:
    """Sensitivity and specificity of the model at one half and of adjuncts, on the rows that each adjunct has.

    Args:
        predictions: Of a binary or an ordinal target.
        cohort: Holds labels and adjuncts.
        columns: Adjuncts: numbers in 0..1 that call above one half (0 and 1 among them), or classes of the target.
        positive_from: Class of an ordinal target from which a row is positive; None for the upper half of the classes.
        include_training: Let patients that were in training count.
        unit: As for :func:`~microtome.evaluation.evaluate.evaluate`; tests take rows as independent, so that
            ``patient`` suits cohorts with several slides of each.
        pool: Likewise.

    Returns:
        adjunct, n, then the columns of :func:`~microtome.evaluation.subgroups.compare_calls`; two rows per adjunct, the
        model's and its own, with p-values against the adjunct.

    Raises:
        ConfigError: If the target has no two sides, or there is no such class.
        CohortError: If there is no such column.
        EvaluationError: If a column cannot be read as calls, or no row has it.
    """
    rows = match_rows(predictions, cohort, include_training=include_training, unit=unit, pool=pool)
    if rows.table.duplicated("id").any():
        raise EvaluationError("Calls are compared of one model: these predictions hold several of a row. Pass one.")
    cut = _cut(rows.target, positive_from)
    positive = rows.values[:, 0] >= cut
    column = f"p_ge_{rows.target.classes[cut]}" if rows.target.type == "ordinal" else f"p_{rows.target.classes[1]}"
    called = rows.table[column].to_numpy(np.float64) > 0.5
    tables = []
    for name in columns:
        calls = _calls(rows, cohort, name, cut)
        known = ~np.isnan(calls)
        if not known.any():
            raise EvaluationError(f"No row that counts has a value of {name!r}.")
        ways = {MODEL: called[known], name: calls[known] > 0.5}
        table = compare_calls(positive[known], ways, reference=name)
        table.insert(0, "adjunct", name)
        table.insert(1, "n", int(known.sum()))
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _cut(target: Target, positive_from: str | None) -> int:
    """Number of the class from which a row is positive."""
    if target.type not in ("binary", "ordinal"):
        raise ConfigError(f"Calls have two sides; the target {target.name!r} is {target.type}.")
    if positive_from is None:
        return len(target.classes) // 2
    if positive_from not in target.classes[1:]:
        raise ConfigError(f"positive_from must be one of {', '.join(target.classes[1:])}. Got {positive_from!r}.")
    return target.classes.index(positive_from)


def _calls(rows: Rows, cohort: Cohort, name: str, cut: int) -> Float64[np.ndarray, " n"]:
    """The adjunct of each row as a number, positive above one half; NaN where it is missing."""
    known = cohort.labels(name)  # raises where there is no such column
    numbers = _numbers(set(known.values()), name, rows.target, cut)
    found: dict[str, list[float]] = {}
    for slide in cohort.slides:
        key = {"slide": slide.slide_id, "patient": slide.patient_id}.get(rows.unit, slide.biopsy_id)
        said = slide.labels[name]
        if said is not None:
            found.setdefault(str(key), []).append(numbers[said])
    # of several slides of a patient the highest: an adjunct that calls one calls the patient
    return np.array([max(found.get(key, [np.nan])) for key in rows.table["id"]], np.float64)


def _numbers(said: set[str], name: str, target: Target, cut: int) -> dict[str, float]:
    """Each value of a column as a number: a score if all are, otherwise a class."""
    try:
        scores = {text: float(text) for text in said}
    except ValueError:
        scores = {text: float("nan") for text in said}
    if all(0 <= value <= 1 for value in scores.values()):
        return scores
    if said <= set(target.classes):
        return {text: float(target.classes.index(text) >= cut) for text in said}
    strange = min(said - set(target.classes))
    raise EvaluationError(
        f"{name!r} holds {strange!r}: an adjunct is 0 or 1, a score between, or a class ({', '.join(target.classes)})."
    )
