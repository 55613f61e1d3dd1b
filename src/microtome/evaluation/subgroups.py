"""The same metrics within groups of a cohort, and models' calls at a threshold beside each other."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Bool

from microtome.cohort.table import Cohort
from microtome.cohort.targets import Unit
from microtome.errors import ConfigError, EvaluationError
from microtome.evaluation.evaluate import choose_metrics, metric_table
from microtome.evaluation.metrics import default_metric
from microtome.evaluation.rows import Pooling, Rows, match_rows
from microtome.evaluation.significance import holm, mcnemar_test, operating_point

if TYPE_CHECKING:
    from microtome.cohort.predictions import Predictions

_FEW = 8  # distinct numbers up to which each is a group

MIXED, MISSING = "several values", "missing"


def evaluate_subgroups(  # noqa: PLR0913 - as evaluate
    predictions: "Predictions",
    cohort: Cohort,
    column: str,
    *,
    metrics: Sequence[str] | None = None,
    cuts: Sequence[float] = (),
    n_boot: int = 1000,
    seed: int = 0,
    include_training: bool = False,
    unit: Unit | None = None,
    pool: Pooling = "mean",
) -> pd.DataFrame:
    """Metrics within each group that a column of the cohort makes: subtype, centre, age.

    Args:
        predictions: Of slides, biopsies or patients.
        cohort: Holds the labels and the column.
        column: Its values are the groups. More than eight distinct numbers are cut at ``cuts``, or at their median.
        metrics: Which; None for the default one of the target.
        cuts: Where numbers part; a number at a cut belongs below it.
        n_boot: Resamples of patients within each group.
        seed: Of the draws.
        include_training: Let patients that were in training count.
        unit: As for :func:`~microtome.evaluation.evaluate.evaluate`.
        pool: As for :func:`~microtome.evaluation.evaluate.evaluate`.

    Returns:
        subgroup, then the columns of an evaluation's table; a group for units whose value is missing, and one for
        patients or biopsies whose slides differ. What is undefined within a group is NaN with its reason.

    Raises:
        CohortError: If there is no such column.
        EvaluationError: As :func:`~microtome.evaluation.evaluate.evaluate`.
    """
    rows = match_rows(predictions, cohort, include_training=include_training, unit=unit, pool=pool)
    names = choose_metrics(rows, metrics or [default_metric(rows.target)])
    groups = _group_rows(rows, cohort, column, cuts)
    tables = []
    for name in dict.fromkeys(sorted(set(groups), key=_natural)):
        members = rows.keep(np.array(groups == name, bool))
        table = metric_table(members, names, n_boot=n_boot, seed=seed)
        table.insert(0, "subgroup", name)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def compare_calls(
    positive: Bool[np.ndarray, " n"], calls: Mapping[str, Bool[np.ndarray, " n"]], *, reference: str
) -> pd.DataFrame:
    """Sensitivity and specificity of several ways to call the same rows, each tested against a reference.

    Args:
        positive: What each row is.
        calls: Way (a model at its threshold, a surgeon's adjunct) → which rows it calls positive.
        reference: The way that others are compared with.

    Returns:
        One row per way: name, sensitivity and specificity with their ends (Wilson), ppv, npv, and for all but the
        reference sensitivity_p and specificity_p (McNemar, exact) with Holm's correction. Rows are taken as
        independent: pass one row per patient or specimen.

    Raises:
        ConfigError: If ``reference`` is not among them.
        EvaluationError: If lengths differ.

    Example:
        >>> truth = np.array([True, True, False, False])
        >>> table = compare_calls(truth, {"model": truth, "dye": ~truth}, reference="dye")
        >>> table["sensitivity"].tolist()
        [1.0, 0.0]
    """
    if reference not in calls:
        raise ConfigError(f"The reference must be one of {', '.join(calls)}. Got {reference!r}.")
    found = []
    for name, called in calls.items():
        point = operating_point(positive, called)
        row: dict[str, object] = {"name": name}
        for what, value in (("sensitivity", point.sensitivity), ("specificity", point.specificity)):
            row |= {what: value[0], f"{what}_low": value[1], f"{what}_high": value[2]}
        row |= {"ppv": point.ppv[0], "npv": point.npv[0]}
        for what, side, right in (("sensitivity", positive, True), ("specificity", ~positive, False)):
            mine, theirs = (one[side] == right for one in (called, calls[reference]))
            row[f"{what}_p"] = float("nan") if name == reference else mcnemar_test(theirs, mine).p_value
        found.append(row)
    table = pd.DataFrame(found)
    for what in ("sensitivity", "specificity"):
        table[f"{what}_p_holm"] = holm(table[f"{what}_p"].tolist())
    return table


def _group_rows(rows: Rows, cohort: Cohort, column: str, cuts: Sequence[float]) -> "pd.Series[str]":
    """Group of each row."""
    cohort.labels(column)  # raises where there is no such column
    found: dict[str, set[str | None]] = {}
    for slide in cohort.slides:
        key = {"slide": slide.slide_id, "patient": slide.patient_id}.get(rows.unit, slide.biopsy_id)
        found.setdefault(str(key), set()).add(slide.labels[column])
    said = {key: values - {None} or {None} for key, values in found.items()}  # a missing value takes the others'
    one = {key: next(iter(values)) if len(values) == 1 else MIXED for key, values in said.items()}
    values = rows.table["id"].map(one)
    numbers = pd.to_numeric(values.where(values != MIXED), errors="coerce")
    known = values.notna() & (values != MIXED)
    if not cuts and (numbers[known].isna().any() or numbers.nunique() <= _FEW):
        return values.fillna(MISSING)
    if numbers[known].isna().any():
        raise EvaluationError(f"{column!r} holds text, which cannot be cut at numbers. Leave cuts out.")
    edges = [float(cut) for cut in cuts] or [float(numbers.median())]
    if edges != sorted(set(edges)):
        raise ConfigError(f"cuts must rise. Got {list(cuts)}.")
    names = [f"<= {edges[0]:g}", *(f"{a:g} to {b:g}" for a, b in pairwise(edges)), f"> {edges[-1]:g}"]
    binned = pd.Series([names[i] for i in np.searchsorted(edges, numbers.fillna(0.0))], index=values.index)
    return binned.where(known, values.fillna(MISSING))


def _natural(name: str) -> tuple[int, float, str]:
    """Numbers in their order, then text, then what is missing or mixed."""
    if name in (MISSING, MIXED):
        return 2, 0.0, name
    bare = name.removeprefix("<= ").removeprefix("> ").split(" ")[0]
    try:
        return 0, float(bare) + (0.5 if name.startswith(">") else -0.5 if name.startswith("<=") else 0.0), name
    except ValueError:
        return 1, 0.0, name
