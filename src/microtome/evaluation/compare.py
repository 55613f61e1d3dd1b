"""Compare models on the same patients: paired bootstrap, DeLong, Holm's correction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float64

from microtome.cohort.table import Cohort
from microtome.cohort.targets import Labels
from microtome.errors import ConfigError, EvaluationError
from microtome.evaluation.bootstrap import interval, resampled
from microtome.evaluation.evaluate import choose_metrics, repeat_statistics
from microtome.evaluation.metrics import default_metric
from microtome.evaluation.rows import Rows, match_rows
from microtome.evaluation.significance import delong_test, holm
from microtome.storage import write_json, written_whole

if TYPE_CHECKING:
    from microtome.cohort.predictions import Predictions


@dataclass(frozen=True, slots=True)
class Comparison:
    """Differences of metrics between models on the units that all of them predicted.

    Attributes:
        table: One row per pair and metric: a, b, metric, estimate_a, estimate_b, difference (b − a), low, high, n,
            n_patients, n_undefined, p_value (paired patient bootstrap), p_holm (over the pairs, per metric); for
            roc_auc_score also delong_p and delong_p_holm (patients as clusters), NaN where a model has several
            predictions of a unit.
        unpaired: Unit's id → which models lack it.
        settings: n_boot, seed, level, reference.
    """

    table: pd.DataFrame
    unpaired: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: str | Path) -> list[Path]:
        """Write comparison.csv and comparison.json (settings and what is unpaired), each whole or absent."""
        folder = Path(folder)
        with written_whole(folder / "comparison.csv") as temporary:
            self.table.to_csv(temporary, index=False)
        write_json(folder / "comparison.json", {"settings": dict(self.settings), "unpaired": dict(self.unpaired)})
        return [folder / "comparison.csv", folder / "comparison.json"]


def compare_predictions(
    predictions: "Mapping[str, Predictions]",
    cohort: Cohort | Labels,
    *,
    metrics: Sequence[str] | None = None,
    n_boot: int = 1000,
    seed: int = 0,
    include_training: bool = False,
    reference: str | None = None,
) -> Comparison:
    """Compare models, each pair of them or each with a reference.

    Args:
        predictions: Name of the model → its predictions, of the same target and units.
        cohort: Whose labels count; or labels that were read already.
        metrics: Which; None for the default one of the target.
        n_boot: Resamples of patients, drawn alike for all models.
        seed: Of the draws.
        include_training: Let patients that were in training count.
        reference: Model that all others are compared with; None for all pairs.

    Returns:
        Differences with 95 % intervals and p-values.

    Raises:
        EvaluationError: If there are fewer than two models, targets differ, nothing is common to all models, or as
            :func:`~microtome.evaluation.evaluate.evaluate`.
        ConfigError: If ``reference`` is no model, or ``n_boot`` is below 1.

    References:
        Bootstrap p-value: twice the smaller share of resampled differences on one side of 0, with one added to both
        counts (A. C. Davison and D. V. Hinkley, 1997, section 4.4).
    """
    if len(predictions) < 2 or len({str(p.target.as_dict()) for p in predictions.values()}) > 1:
        raise EvaluationError("A comparison needs two models or more, of one target.")
    if n_boot < 1 or (reference is not None and reference not in predictions):
        raise ConfigError(
            f"Use n_boot of 1 or more, and a reference among {', '.join(predictions)}. Got {n_boot}, {reference!r}."
        )
    rows, unpaired = _common(
        {n: match_rows(p, cohort, include_training=include_training) for n, p in predictions.items()}
    )
    names = choose_metrics(next(iter(rows.values())), metrics or [default_metric(next(iter(rows.values())).target)])
    statistics = {model: repeat_statistics(own, names) for model, own in rows.items()}
    estimates = {model: statistics[model](np.ones((1, len(own))))[0] for model, own in rows.items()}
    # one seed and one number of patients: the same patients are drawn for every model
    draws = {model: resampled(statistics[model], own.patients(), n_boot, seed) for model, own in rows.items()}
    pairs = combinations(rows, 2) if reference is None else ((reference, b) for b in rows if b != reference)
    found = []
    for a, b in pairs:
        for j, name in enumerate(names):
            difference = float(estimates[b][j] - estimates[a][j])
            apart = draws[b][:, j] - draws[a][:, j]
            ends = interval(difference, apart)
            found.append(
                {
                    "a": a, "b": b, "metric": name, "estimate_a": float(estimates[a][j]),
                    "estimate_b": float(estimates[b][j]), "difference": difference, "low": ends.low, "high": ends.high,
                    "n": int(rows[a].table["id"].nunique()), "n_patients": int(rows[a].patients().max()) + 1,
                    "n_undefined": ends.n_undefined, "p_value": bootstrap_p_value(apart),
                    "delong_p": _delong(rows[a], rows[b]) if name == "roc_auc_score" else float("nan"),
                }
            )  # fmt: skip
    table = pd.DataFrame(found)
    for column, corrected in (("p_value", "p_holm"), ("delong_p", "delong_p_holm")):
        table[corrected] = table.groupby("metric")[column].transform(lambda p: holm(p.tolist()))
    settings = {"n_boot": n_boot, "seed": seed, "level": 0.95, "reference": reference}
    return Comparison(table, unpaired, settings)


def bootstrap_p_value(differences: Float64[np.ndarray, " b"]) -> float:
    """Two-sided p-value of resampled differences; NaN where all are undefined.

    Example:
        >>> bootstrap_p_value(np.array([0.1, 0.2, 0.3, 0.1, 0.2, 0.1, 0.2]))
        0.25
    """
    known = differences[~np.isnan(differences)]
    if not len(known):
        return float("nan")
    tail = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (len(known) + 1))


def _common(rows: Mapping[str, Rows]) -> tuple[dict[str, Rows], dict[str, str]]:
    """Rows of the units that all models have, and which models lack the others."""
    ids = {model: set(own.table["id"]) for model, own in rows.items()}
    shared, seen = set.intersection(*ids.values()), set.union(*ids.values())
    if not shared:
        raise EvaluationError(f"The models {', '.join(rows)} have no unit in common. Compare models of one cohort.")
    unpaired = {
        key: "not predicted by " + ", ".join(model for model in rows if key not in ids[model])
        for key in sorted(seen - shared)
    }
    return {model: own.keep(own.table["id"].isin(shared).to_numpy(bool)) for model, own in rows.items()}, unpaired


def _delong(a: Rows, b: Rows) -> float:
    if a.table["id"].duplicated().any() or b.table["id"].duplicated().any():
        return float("nan")
    column = f"p_{a.target.classes[1]}"
    second = b.table.set_index("id")[column].loc[a.table["id"]].to_numpy(np.float64)
    positive, first = a.values[:, 0] == 1, a.table[column].to_numpy(np.float64)
    patients = a.patients()
    clusters = patients if len(np.unique(patients)) < len(patients) else None
    try:
        return delong_test(positive, first, second, clusters=clusters).p_value
    except EvaluationError:  # a class of fewer than two patients has no variance: the bootstrap's p-value stands alone
        return float("nan")
