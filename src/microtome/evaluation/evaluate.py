"""Judge a table of predictions against a cohort's labels: metrics with intervals by patient, per fold, curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64

from microtome.cohort.table import Cohort
from microtome.cohort.targets import Labels, Target, Unit
from microtome.errors import ConfigError, EvaluationError
from microtome.evaluation.bootstrap import IntervalKind, interval, resampled
from microtome.evaluation.concordance import default_horizons
from microtome.evaluation.curves import calibration_table, confusion_table, has_classes, threshold_curves
from microtome.evaluation.metrics import (
    Outcomes,
    better_high,
    find_metric,
    list_metrics,
    score,
    survival_columns,
    weighted_metric,
    why_undefined,
)
from microtome.evaluation.reliability import brier_decomposition, calibration_fit, expected_calibration_error
from microtome.evaluation.rows import Pooling, Rows, describe_exclusions, match_rows
from microtome.evaluation.survival import RiskCuts, risk_groups, survival_curves
from microtome.evaluation.weighted import Weighted, pick
from microtome.storage import write_json, written_whole

if TYPE_CHECKING:
    from microtome.cohort.predictions import Predictions

_BAND_ROWS = 20_000  # predictions up to which bands of curves are drawn
_BAND_BOOT = 500  # resamples for a band


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What predictions are worth.

    Attributes:
        target: What was predicted.
        table: One row per metric: metric, better (high, low), estimate (pooled over folds, mean over repeats), low,
            high (patient bootstrap), n (units), n_patients, n_undefined (resamples without a value), fold_mean, fold_sd
            (ddof 0), n_folds (those where it is defined), reason (why the estimate is NaN, or of what it is the mean).
        folds: One row per repeat, fold and metric: repeat, fold, metric, estimate, n, n_patients, reason.
        excluded: Unit's id → why it does not count.
        rows: The predictions that count, one row each: id, patient_id, repeat, fold, label columns (``label``;
            ``label_<class>`` for multilabel; ``time`` and ``event``), prediction columns. Sorted by repeat, fold, id.
        curves: Tables that figures are drawn from, by name. Classes: roc, roc_mean, roc_band, pr, pr_mean, pr_band,
            calibration, confusion. Survival: kaplan_meier, risk_groups, at_risk, subjects (one row per patient: the
            mean risk).
        settings: n_boot, seed, level, interval, unit, pool, include_training; single figures: of binary targets
            calibration (slope, intercept, error, Brier's parts), of survival logrank_p and risk_cuts.
    """

    target: Target
    table: pd.DataFrame
    folds: pd.DataFrame
    excluded: Mapping[str, str]
    rows: pd.DataFrame
    curves: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, metric: str) -> "pd.Series[Any]":
        """The table's row of a metric.

        Raises:
            EvaluationError: If it was not computed.
        """
        base, part = find_metric(metric, self.target)
        found = self.table[self.table["metric"] == (f"{base}:{part}" if part else base)]
        if found.empty:
            raise EvaluationError(f"{metric!r} was not computed. There are: {', '.join(self.table['metric'])}.")
        return found.iloc[0]

    def lines(self) -> list[str]:
        """What a person wants to read: a line per metric, and who does not count."""
        said = []
        for row in self.table.to_dict("records"):
            line = f"{row['metric']}  {row['estimate']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
            if row["n_folds"] > 1:
                line += f"  folds {row['fold_mean']:.3f} ± {row['fold_sd']:.3f}"
            said.append(line + (f"  [{row['reason']}]" if row["reason"] else ""))
        return [*said, *filter(None, [describe_exclusions(self.excluded)])]

    def as_dict(self) -> dict[str, Any]:
        """Plain values: the table, exclusions and settings; what is undefined is None."""
        return {
            "target": self.target.as_dict(),
            "n": int(self.rows["id"].nunique()),
            "n_patients": int(self.rows["patient_id"].nunique()),
            "metrics": [_plain(record) for record in self.table.to_dict("records")],
            "excluded": dict(self.excluded),
            "settings": _plain(self.settings),
        }

    def write(self, folder: str | Path) -> list[Path]:
        """Write evaluation.json and a CSV file per table, each whole or absent; evaluation.json last.

        Args:
            folder: Is made.

        Returns:
            metrics.csv, folds.csv, rows.csv, excluded.csv, ``<curve>.csv``, evaluation.json.

        Raises:
            OutputWriteError: If a file cannot be written.
        """
        folder = Path(folder)
        excluded = pd.DataFrame({"id": list(self.excluded), "reason": list(self.excluded.values())}, dtype=object)
        tables = {"metrics": self.table, "folds": self.folds, "rows": self.rows, "excluded": excluded, **self.curves}
        paths = []
        for name, table in tables.items():
            paths.append(folder / f"{name}.csv")
            with written_whole(paths[-1]) as temporary:
                table.to_csv(temporary, index=False)
        write_json(folder / "evaluation.json", self.as_dict())
        return [*paths, folder / "evaluation.json"]


def evaluate(  # noqa: PLR0913 - what a person sets when judging; each has a default
    predictions: "Predictions",
    cohort: Cohort | Labels,
    *,
    metrics: Sequence[str] | None = None,
    n_boot: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    interval: IntervalKind = "percentile",
    include_training: bool = False,
    unit: Unit | None = None,
    pool: Pooling = "mean",
    risk_cuts: RiskCuts = "median",
) -> Evaluation:
    """Judge predictions against the cohort's labels.

    Each metric is computed on the predictions of all folds together, per repeat, and averaged over repeats; and on each
    fold alone. Intervals come from drawing patients again, with all their rows.

    Args:
        predictions: Of slides, biopsies or patients.
        cohort: Whose labels count; or labels that were read already.
        metrics: Which; None for all of the target's type.
        n_boot: Resamples of patients; 0 for no intervals.
        seed: Of the draws.
        level: Share that an interval is to cover.
        interval: percentile or basic.
        include_training: Let patients that were in training count.
        unit: What a row is to be; None for what the predictions are of. ``patient`` pools slides.
        pool: How slides are pooled: mean or max.
        risk_cuts: Where survival's risk groups part: median or tertiles of the risks, or the risks themselves.

    Returns:
        Metrics, folds, curves, and what does not count.

    Raises:
        EvaluationError: If predictions are NaN, occur twice, or do not fit the cohort; if nothing is left to judge; if
            there is no such metric.
        CohortError: If the labels cannot be read.
        ConfigError: If a setting is out of range.

    References:
        Patients as clusters: A. C. Davison and D. V. Hinkley, *Bootstrap Methods and their Application*, 1997,
        section 3.8 (resampling whole clusters).
    """
    if n_boot < 0 or not 0 < level < 1 or interval not in ("percentile", "basic"):
        raise ConfigError(
            f"Use n_boot >= 0, 0 < level < 1, interval percentile or basic. Got {n_boot}, {level}, {interval}."
        )
    rows = match_rows(predictions, cohort, include_training=include_training, unit=unit, pool=pool)
    names = choose_metrics(rows, metrics)
    folds = _fold_table(rows, names)
    table = metric_table(rows, names, n_boot=n_boot, seed=seed, level=level, kind=interval)
    table = table.merge(_over_folds(folds), on="metric", how="left")
    settings: dict[str, Any] = {
        "n_boot": n_boot, "seed": seed, "level": level, "interval": interval, "unit": rows.unit, "pool": pool,
        "include_training": include_training,
    }  # fmt: skip
    described, curves = rows.described(), {}
    if has_classes(rows.target):
        curves = _class_curves(rows, n_boot, seed, level)
        if rows.target.type == "binary":
            settings["calibration"] = _calibration_summary(rows)
    elif rows.target.type == "survival":
        curves, found = _survival_tables(described, risk_cuts, level)
        settings |= found
        if curves:
            described = described.merge(curves["subjects"][["patient_id", "risk_group"]], on="patient_id")
    order = [c for c in table.columns if c != "reason"]
    return Evaluation(rows.target, table[[*order, "reason"]], folds, rows.excluded, described, curves, settings)


def choose_metrics(rows: Rows, metrics: Sequence[str] | None) -> list[str]:
    """Full names of the metrics asked for; by default all of the type that the predictions allow.

    Raises:
        EvaluationError: If there is no such metric.
    """
    if metrics is not None:
        found = [find_metric(name, rows.target) for name in metrics]
        return list(dict.fromkeys(f"{base}:{part}" if part else base for base, part in found))
    names = list(list_metrics(rows.target))
    if rows.target.type == "survival":
        time, event = rows.values[:, 0], rows.values[:, 1] > 0.5
        names += [f"time_auc_score:{t:g}" for t in default_horizons(time, event)]
        if sum(t < time.max() for t in survival_columns(dict.fromkeys(rows.columns)).values()) > 1:
            names.append("integrated_brier_loss")
    return names


def repeat_statistics(rows: Rows, names: Sequence[str]) -> "RepeatStatistics":
    """The metrics, averaged over repeats, as a function of weights of the rows."""
    parts = []
    for members in rows.groups("repeat").values():
        outcomes = rows.outcomes(members)
        parts.append((members, [weighted_metric(name, outcomes) for name in names]))
    return RepeatStatistics(tuple(parts))


@dataclass(frozen=True, slots=True)
class RepeatStatistics:
    """Metrics averaged over repeats.

    Attributes:
        parts: Rows of each repeat, and the metrics of those rows.
    """

    parts: tuple[tuple[Int64[np.ndarray, " m"], list[Weighted]], ...]

    def __call__(self, weights: Float64[np.ndarray, "b n"]) -> Float64[np.ndarray, "b m"]:
        """One row per weighting, one column per metric; NaN where one repeat's is."""
        found = []
        for members, statistics in self.parts:
            own = weights if len(members) == weights.shape[1] else pick(weights, members)
            found.append(np.stack([statistic(own) for statistic in statistics], axis=1))
        return np.asarray(np.mean(found, axis=0), np.float64)


def metric_table(
    rows: Rows,
    names: Sequence[str],
    *,
    n_boot: int,
    seed: int,
    level: float = 0.95,
    kind: IntervalKind = "percentile",
) -> pd.DataFrame:
    """Metrics of rows with intervals by patient: :class:`Evaluation`'s table without the columns on folds."""
    statistics, patients = repeat_statistics(rows, names), rows.patients()
    estimates = statistics(np.ones((1, len(rows))))[0]
    n_patients = int(patients.max()) + 1
    draws = resampled(statistics, patients, n_boot, seed) if n_boot and n_patients > 1 else np.zeros((0, len(names)))
    found = []
    for j, name in enumerate(names):
        ends = interval(float(estimates[j]), draws[:, j], level=level, kind=kind)
        found.append(
            {
                "metric": name,
                "better": "high" if better_high(name) else "low",
                "estimate": float(estimates[j]),
                "low": ends.low,
                "high": ends.high,
                "n": int(rows.table["id"].nunique()),
                "n_patients": n_patients,
                "n_undefined": ends.n_undefined,
                "reason": _reason(name, float(estimates[j]), rows),
            }
        )
    return pd.DataFrame(found)


def _reason(name: str, estimate: float, rows: Rows) -> str:
    """Why a pooled metric is undefined, or of how many classes or thresholds it is the mean."""
    if np.isnan(estimate):
        for members in rows.groups("repeat").values():
            outcomes = rows.outcomes(members)
            if np.isnan(weighted_metric(name, outcomes)(np.ones((1, len(members))))[0]):
                return why_undefined(name, outcomes) or "undefined"
    return _partial(name, rows.outcomes()) if name.startswith("mean_roc") else ""


def _partial(name: str, outcomes: Outcomes) -> str:
    """Says so where a mean leaves classes or thresholds out, for want of rows on both sides."""
    target = outcomes.target
    if target.type == "ordinal":
        sides = [outcomes.truth() >= k for k in range(1, len(target.classes))]
        what = "thresholds"
    elif target.type == "multilabel":
        sides = [column[~np.isnan(column)] == 1 for column in outcomes.values.T]
        what = "classes"
    else:
        sides = [outcomes.truth() == k for k in range(len(target.classes))]
        what = "classes"
    n = sum(bool(side.any() and not side.all()) for side in sides)
    return "" if n == len(sides) else f"mean over {n} of {len(sides)} {what}: the others have rows on one side only"


def _fold_table(rows: Rows, names: Sequence[str]) -> pd.DataFrame:
    found = []
    for (repeat, fold), members in rows.groups("repeat", "fold").items():
        outcomes = rows.outcomes(members)
        n_patients = int(rows.table["patient_id"].iloc[members].nunique())
        for name in names:
            value = score(name, rows.target, outcomes.values, outcomes.columns)
            if np.isnan(value):
                reason = why_undefined(name, outcomes) or "undefined"
            else:
                reason = _partial(name, outcomes) if name.startswith("mean_roc") else ""
            found.append((repeat, fold, name, value, len(members), n_patients, reason))
    return pd.DataFrame(found, columns=["repeat", "fold", "metric", "estimate", "n", "n_patients", "reason"])


def _over_folds(folds: pd.DataFrame) -> pd.DataFrame:
    grouped = folds.groupby("metric", sort=False)["estimate"]
    found = pd.DataFrame({"fold_mean": grouped.mean(), "fold_sd": grouped.std(ddof=0), "n_folds": grouped.count()})
    return found.reset_index()


def _class_curves(rows: Rows, n_boot: int, seed: int, level: float) -> dict[str, pd.DataFrame]:
    several = n_boot and rows.table["patient_id"].nunique() > 1 and len(rows) <= _BAND_ROWS
    found = threshold_curves(rows, n_boot=min(n_boot, _BAND_BOOT) if several else 0, seed=seed, level=level)
    found["calibration"] = calibration_table(rows)
    if rows.target.type != "multilabel":
        found["confusion"] = confusion_table(rows)
    return found


def _calibration_summary(rows: Rows) -> dict[str, float]:
    outcomes = rows.outcomes()
    positive, given = outcomes.truth() == 1, np.clip(outcomes.column(f"p_{rows.target.classes[1]}"), 0.0, 1.0)
    fit, parts = calibration_fit(positive, given), brier_decomposition(positive, given)
    return {
        "slope": fit.slope,
        "intercept": fit.intercept,
        "in_the_large": fit.in_the_large,
        "expected_calibration_error": expected_calibration_error(positive, given),
        "brier_reliability": parts.reliability,
        "brier_resolution": parts.resolution,
        "brier_uncertainty": parts.uncertainty,
        "brier_within_bins": parts.within_bins,
    }


def _survival_tables(
    described: pd.DataFrame, cuts: RiskCuts, level: float
) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Kaplan–Meier tables of patients, each once: a log-rank test takes its subjects as independent."""
    grouped = described.groupby("patient_id", sort=True)
    if (grouped[["time", "event"]].nunique() > 1).to_numpy().any():
        return {}, {"logrank_p": None, "logrank_reason": "units of one patient differ in time or event"}
    subjects = grouped[["time", "event"]].first().assign(risk=grouped["risk"].mean()).reset_index()
    groups = risk_groups(subjects["risk"].to_numpy(np.float64), cuts)
    time, event = subjects["time"].to_numpy(np.float64), subjects["event"].to_numpy() > 0
    found = survival_curves(time, event, groups, level=level)
    subjects["risk_group"] = groups.labels()
    tables = {
        "kaplan_meier": found.curves, "risk_groups": found.groups, "at_risk": found.at_risk, "subjects": subjects,
    }  # fmt: skip
    p_value = None if np.isnan(found.logrank_p) else found.logrank_p
    return tables, {"risk_cuts": list(groups.cuts), "logrank_p": p_value, "logrank_reason": found.reason}


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
