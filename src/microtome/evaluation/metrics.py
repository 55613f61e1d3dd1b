"""Metrics by type of target, under scikit-learn's names where it has one.

A name that ends in ``_score`` is better high, one in ``_loss`` or ``_error`` better low. A name may have a part after a
colon: a class (``roc_auc_score:LUAD``), a threshold (``roc_auc_score:>=high``), a time (``time_auc_score:365``).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int64, Shaped

from microtome.cohort.targets import Target, TargetType
from microtome.errors import EvaluationError
from microtome.evaluation import concordance, weighted
from microtome.evaluation.weighted import Weighted

ALIASES = {
    "auc": "roc_auc_score",
    "auroc": "roc_auc_score",
    "cindex": "cindex_score",
    "concordance_index": "cindex_score",
}
"""Short names of the field; for targets of several classes the AUC is the mean one."""

SURVIVAL_PREFIX = "s_"
"""Columns of predicted survival: ``s_<time>``, the probability of living beyond that time."""

_DEFAULT: dict[TargetType, str] = {
    "binary": "roc_auc_score",
    "multiclass": "mean_roc_auc_score",
    "multilabel": "mean_roc_auc_score",
    "ordinal": "mean_roc_auc_score",
    "regression": "r2_score",
    "survival": "cindex_score",
}


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Labels and predictions of the same rows.

    Attributes:
        target: What was predicted.
        values: (n, k) as :class:`~microtome.cohort.targets.Labels` has them.
        columns: Prediction columns by name.
    """

    target: Target
    values: Float64[np.ndarray, "n k"]
    columns: Mapping[str, Shaped[np.ndarray, " n"]]
    _shared: dict[str, weighted.Confusion] = field(default_factory=dict, init=False, repr=False, compare=False)

    def column(self, name: str) -> Float64[np.ndarray, " n"]:
        """One column as numbers.

        Raises:
            EvaluationError: If it is absent, not of numbers, or of another length.
        """
        if name not in self.columns:
            raise EvaluationError(
                f"Predictions of {self.target.name!r} ({self.target.type}) lack the column {name!r}. They have: "
                f"{', '.join(self.columns) or 'none'}."
            )
        try:
            found = np.asarray(self.columns[name], np.float64)
        except (TypeError, ValueError) as error:
            raise EvaluationError(f"The column {name!r} must hold numbers. Got: {error}.") from error
        if found.shape != (len(self.values),):
            raise EvaluationError(f"The column {name!r} has shape {found.shape} for {len(self.values)} labels.")
        return found

    def probabilities(self) -> Float64[np.ndarray, "n c"]:
        """``p_<class>`` of every class, in order."""
        return np.stack([self.column(f"p_{name}") for name in self.target.classes], axis=1)

    def at_least(self, k: int) -> Float64[np.ndarray, " n"]:
        """``p_ge_<class>`` of the class number ``k`` (at least 1)."""
        return self.column(f"p_ge_{self.target.classes[k]}")

    def truth(self) -> Int64[np.ndarray, " n"]:
        """Class numbers."""
        return self.values[:, 0].astype(np.int64)

    def called(self) -> Int64[np.ndarray, " n"]:
        """Predicted class numbers: binary over one half, multiclass the most probable, ordinal nearest to ``grade``."""
        if self.target.type == "binary":
            return np.array(self.column(f"p_{self.target.classes[1]}") > 0.5, np.int64)
        if self.target.type == "multiclass":
            return np.array(self.probabilities().argmax(axis=1), np.int64)
        grades, highest = self.column("grade"), len(self.target.classes) - 1
        if len(grades) and not 0 <= grades.min() <= grades.max() <= highest:
            raise EvaluationError(f"grade must lie between 0 and {highest}. Got {grades.min()} to {grades.max()}.")
        nearest: Int64[np.ndarray, " n"] = np.floor(grades + 0.5).astype(np.int64)
        return nearest

    def confusion(self) -> weighted.Confusion:
        """Of :meth:`truth` and :meth:`called`, one for all metrics of it."""
        if "confusion" not in self._shared:
            self._shared["confusion"] = weighted.Confusion(self.truth(), self.called(), len(self.target.classes))
        return self._shared["confusion"]

    def survival(self) -> tuple[Float64[np.ndarray, " n"], Shaped[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        """Time, event and risk."""
        return self.values[:, 0], self.values[:, 1] > 0.5, self.column("risk")


Maker = Callable[[Outcomes, str], Weighted]


def default_metric(target: Target) -> str:
    """The metric that chooses epochs and models; always better high.

    Args:
        target: What is predicted.

    Returns:
        binary: roc_auc_score; multiclass, multilabel, ordinal: mean_roc_auc_score; regression: r2_score; survival:
        cindex_score.
    """
    return _DEFAULT[target.type]


def list_metrics(target: Target) -> tuple[str, ...]:
    """Every metric of the target's type, with one for each class or threshold where there are several.

    Args:
        target: What is predicted.

    Returns:
        Names, the default one first. ``time_auc_score:<time>`` and ``integrated_brier_loss`` (which needs columns
        ``s_<time>``) are not among them, but :func:`score` takes them.

    Example:
        >>> list_metrics(Target("age", "regression", ("age",)))[:2]
        ('r2_score', 'mean_absolute_error')
    """
    names = list(_MAKERS[target.type])
    hidden = {"time_auc_score", "integrated_brier_loss"}
    parts = {"class": target.classes, "threshold": tuple(f">={name}" for name in target.classes[1:])}
    per_part = _PER_PART[target.type]
    plain = [name for name in names if name not in per_part and name not in hidden]
    return (*plain, *(f"{name}:{part}" for name, kind in per_part.items() for part in parts[kind]))


def better_high(metric: str) -> bool:
    """Whether more of the metric is better: not so for losses and errors.

    Example:
        >>> better_high("roc_auc_score"), better_high("brier_score_loss"), better_high("mean_absolute_error")
        (True, False, False)
    """
    return not metric.partition(":")[0].endswith(("_loss", "_error"))


def score(
    metric: str, target: Target, values: Float64[np.ndarray, "n k"], columns: Mapping[str, Shaped[np.ndarray, " n"]]
) -> float:
    """One metric of some rows.

    Args:
        metric: One of :func:`list_metrics`, or a short name of the field (``auroc``, ``cindex``).
        target: What was predicted.
        values: Labels, (n, k) as :class:`~microtome.cohort.targets.Labels` has them.
        columns: Predictions by column: ``p_<class>``; ``value``; ``grade`` and ``p_ge_<class>``; ``risk``. Ranking
            metrics take logits in their place as well.

    Returns:
        The metric; NaN where it is undefined (one class, no comparable pair, no row, NaN among the predictions):
        :func:`why_undefined` says why.

    Raises:
        EvaluationError: If there is no such metric for this type, or a column is absent or of another length.

    Example:
        >>> binary = Target("msi", "binary", ("msi",), ("MSS", "MSI"))
        >>> score("roc_auc_score", binary, np.array([[0.0], [1.0], [1.0]]), {"p_MSI": np.array([0.1, 0.1, 0.9])})
        0.75
    """
    outcomes = Outcomes(target, values, columns)
    find_metric(metric, target)
    if _missing(outcomes):
        return float("nan")
    return float(weighted_metric(metric, outcomes)(np.ones((1, len(values))))[0])


def why_undefined(metric: str, outcomes: Outcomes) -> str:
    """Why a metric of these rows is NaN, in words; empty where none of the known reasons holds."""
    if reason := _missing(outcomes):
        return reason
    kind, values = outcomes.target.type, outcomes.values
    if kind == "survival":
        time, event, risk = outcomes.survival()
        if not event.any():
            return "no event: all times are censored"
        if concordance.count_pairs(time, event, risk).comparable == 0:
            return "no comparable pair: nobody is known to live longer than one with an event"
        return "nobody is left uncensored at the time of an event" if metric.startswith("cindex") else "no such pair"
    if kind == "regression":
        return "fewer than two rows" if len(values) < 2 else "labels or predictions are constant"
    part = metric.partition(":")[2]
    if kind == "multilabel":
        return "one label only" + (f" of {part!r}" if part else " of every class")
    if metric.startswith("recall") and not (outcomes.truth() == _class_number(outcomes.target, part)).any():
        return f"no row of class {part!r}"
    if len(np.unique(values[:, 0])) < 2:
        return f"one class only: {outcomes.target.classes[int(values[0, 0])]!r}"
    return f"one class only at {part!r}" if part else "no row of a class that it divides by"


def find_metric(metric: str, target: Target) -> tuple[str, str]:
    """Base name and part of a metric, its short name resolved.

    Raises:
        EvaluationError: If there is no such metric for the target's type.
    """
    base, _, part = metric.partition(":")
    base = ALIASES.get(base, base)
    makers = _MAKERS[target.type]
    if base == "roc_auc_score" and not part and base in _PER_PART[target.type]:
        base = "mean_roc_auc_score"
    if base == "mean_auroc":
        base = "mean_roc_auc_score"
    if base not in makers:
        raise EvaluationError(
            f"There is no metric {metric!r} for {target.type} targets. Choose from: {', '.join(makers)}."
        )
    needs_part = base in _PER_PART[target.type] or base == "time_auc_score"
    if needs_part != bool(part):
        raise EvaluationError(
            f"{metric!r} {'needs a class, threshold or time after a colon' if needs_part else 'has no parts'}."
        )
    return base, part


def weighted_metric(metric: str, outcomes: Outcomes) -> Weighted:
    """The metric as a function of weights of the rows, for resampling.

    Args:
        metric: As for :func:`score`.
        outcomes: Labels and predictions, at least one row, no NaN among predictions.

    Returns:
        From (b, n) weights to (b,) values, NaN where undefined.

    Raises:
        EvaluationError: As :func:`score`.
    """
    base, part = find_metric(metric, outcomes.target)
    return _MAKERS[outcomes.target.type][base](outcomes, part)


def _missing(outcomes: Outcomes) -> str:
    if not len(outcomes.values):
        return "no rows"
    for name, column in outcomes.columns.items():
        if np.asarray(column).dtype.kind == "f" and np.isnan(column).any():
            return f"NaN in {name!r}"
    if outcomes.target.type != "multilabel" and np.isnan(outcomes.values).any():
        raise EvaluationError("Labels are NaN. Leave those rows out.")
    return ""


# -- classes ------------------------------------------------------------------------------------------------


def _binary(statistic: Callable[..., Weighted]) -> Maker:
    def make(outcomes: Outcomes, _: str) -> Weighted:
        return statistic(outcomes.truth() == 1, outcomes.column(f"p_{outcomes.target.classes[1]}"))

    return make


def _of_table(statistic: Callable[[Float64[np.ndarray, "b c c"]], Float64[np.ndarray, " b"]]) -> Maker:
    def make(outcomes: Outcomes, _: str) -> Weighted:
        confusion = outcomes.confusion()
        return lambda weights: statistic(confusion(weights))

    return make


def _recall_of(k: int) -> Maker:
    return _of_table(lambda table: weighted.ratio(table[:, k, k], table[:, k].sum(axis=1)))


def _recall(outcomes: Outcomes, part: str) -> Weighted:
    """Share of a class's rows that are called so."""
    return _recall_of(_class_number(outcomes.target, part))(outcomes, "")


def _one_against_rest(outcomes: Outcomes, part: str) -> Weighted:
    k = _class_number(outcomes.target, part)
    return weighted.auroc(outcomes.truth() == k, outcomes.column(f"p_{part}"))


def _mean_against_rest(outcomes: Outcomes, _: str) -> Weighted:
    """Over the classes that occur."""
    truth = outcomes.truth()
    parts = [_one_against_rest(outcomes, outcomes.target.classes[k]) for k in np.unique(truth)]
    return lambda weights: weighted.mean_of_defined(np.stack([part(weights) for part in parts], axis=1))


def _brier(outcomes: Outcomes, _: str) -> Weighted:
    return weighted.mean(np.square(outcomes.values[:, 0] - outcomes.column(f"p_{outcomes.target.classes[1]}")))


def _log_loss(outcomes: Outcomes, _: str) -> Weighted:
    given = outcomes.probabilities()[np.arange(len(outcomes.values)), outcomes.truth()]
    eps = float(np.finfo(np.float64).eps)
    return weighted.mean(-np.log(np.clip(given, eps, 1 - eps)))


def _per_label(statistic: Callable[..., Weighted]) -> Maker:
    """Of one class, over the rows whose label of it is known."""

    def make(outcomes: Outcomes, part: str) -> Weighted:
        labels = outcomes.values[:, _class_number(outcomes.target, part)]
        known = np.flatnonzero(~np.isnan(labels))
        if not len(known):
            return lambda weights: np.full(len(weights), np.nan)
        inner = statistic(labels[known] == 1, outcomes.column(f"p_{part}")[known])
        return lambda weights: inner(weighted.pick(weights, known))

    return make


def _mean_label(statistic: Callable[..., Weighted]) -> Maker:
    per_label = _per_label(statistic)

    def make(outcomes: Outcomes, _: str) -> Weighted:
        parts = [per_label(outcomes, name) for name in outcomes.target.classes]
        return lambda weights: weighted.mean_of_defined(np.stack([part(weights) for part in parts], axis=1))

    return make


def _label_f1(positive: Shaped[np.ndarray, " n"], scores: Float64[np.ndarray, " n"]) -> Weighted:
    confusion = weighted.Confusion(positive.astype(np.int64), (scores > 0.5).astype(np.int64), 2)
    return lambda weights: weighted.f1_per_class(confusion(weights))[:, 1]


def _at_threshold(outcomes: Outcomes, part: str) -> Weighted:
    k = _class_number(outcomes.target, part.removeprefix(">="))
    if k == 0:
        raise EvaluationError(f"Every row is at least {part!r}: there is no threshold at the lowest grade.")
    return weighted.auroc(outcomes.truth() >= k, outcomes.at_least(k))


def _mean_threshold(outcomes: Outcomes, _: str) -> Weighted:
    """Over the thresholds that have rows on both sides."""
    parts = [_at_threshold(outcomes, f">={name}") for name in outcomes.target.classes[1:]]
    return lambda weights: weighted.mean_of_defined(np.stack([part(weights) for part in parts], axis=1))


def ordinal_score(outcomes: Outcomes) -> Float64[np.ndarray, " n"]:
    """One number per row that rises with the grade: the sum of ``p_ge_<class>``, the expected class number."""
    found = sum(outcomes.at_least(k) for k in range(1, len(outcomes.target.classes)))
    return np.asarray(found, np.float64)


def _class_number(target: Target, name: str) -> int:
    if name not in target.classes:
        raise EvaluationError(f"{target.name!r} has no class {name!r}. Choose from: {', '.join(target.classes)}.")
    return target.classes.index(name)


# -- numbers and times --------------------------------------------------------------------------------------


def _of_values(statistic: Callable[[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]], Weighted]) -> Maker:
    return lambda outcomes, _: statistic(outcomes.values[:, 0], outcomes.column("value"))


def _absolute(truth: Float64[np.ndarray, " n"], predicted: Float64[np.ndarray, " n"]) -> Weighted:
    return weighted.mean(np.abs(truth - predicted))


def _root_squared(truth: Float64[np.ndarray, " n"], predicted: Float64[np.ndarray, " n"]) -> Weighted:
    inner = weighted.mean(np.square(truth - predicted))
    return lambda weights: np.sqrt(inner(weights))


def _time_auc(outcomes: Outcomes, part: str) -> Weighted:
    try:
        horizon = float(part)
    except ValueError as error:
        raise EvaluationError(f"time_auc_score needs a time after the colon. Got {part!r}.") from error
    return concordance.time_auc(*outcomes.survival(), horizon)


def _mean_time_auc(outcomes: Outcomes, _: str) -> Weighted:
    time, event, risk = outcomes.survival()
    horizons = concordance.default_horizons(time, event)
    if not horizons:
        return lambda weights: np.full(len(weights), np.nan)
    return concordance.mean_time_auc(time, event, risk, horizons)


def survival_columns(columns: Mapping[str, object]) -> dict[str, float]:
    """Columns ``s_<time>`` and their times, rising."""
    found = {}
    for name in columns:
        if name.startswith(SURVIVAL_PREFIX):
            try:
                found[name] = float(name.removeprefix(SURVIVAL_PREFIX))
            except ValueError:
                continue
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _integrated_brier(outcomes: Outcomes, _: str) -> Weighted:
    time, event, _risk = outcomes.survival()
    known = {name: t for name, t in survival_columns(outcomes.columns).items() if t < time.max()}
    if len(known) < 2:
        raise EvaluationError(
            "integrated_brier_loss needs predicted survival at two times or more within the observed ones: columns "
            f"'{SURVIVAL_PREFIX}<time>'. A risk alone (Cox) has none."
        )
    survival = np.stack([outcomes.column(name) for name in known], axis=1)
    return concordance.integrated_brier(time, event, survival, np.array(list(known.values())))


_MAKERS: dict[TargetType, dict[str, Maker]] = {
    "binary": {
        "roc_auc_score": _binary(weighted.auroc),
        "average_precision_score": _binary(weighted.average_precision),
        "accuracy_score": _of_table(weighted.accuracy),
        "balanced_accuracy_score": _of_table(weighted.balanced_accuracy),
        "f1_score": _of_table(lambda table: weighted.f1_per_class(table)[:, 1]),
        "sensitivity_score": _recall_of(1),
        "specificity_score": _recall_of(0),
        "brier_score_loss": _brier,
        "log_loss": _log_loss,
    },
    "multiclass": {
        "mean_roc_auc_score": _mean_against_rest,
        "accuracy_score": _of_table(weighted.accuracy),
        "balanced_accuracy_score": _of_table(weighted.balanced_accuracy),
        "mean_f1_score": _of_table(lambda table: weighted.mean_of_defined(weighted.f1_per_class(table))),
        "quadratic_kappa_score": _of_table(weighted.quadratic_kappa),
        "log_loss": _log_loss,
        "roc_auc_score": _one_against_rest,
        "recall_score": _recall,
    },
    "multilabel": {
        "mean_roc_auc_score": _mean_label(weighted.auroc),
        "mean_average_precision_score": _mean_label(weighted.average_precision),
        "mean_f1_score": _mean_label(_label_f1),
        "roc_auc_score": _per_label(weighted.auroc),
        "average_precision_score": _per_label(weighted.average_precision),
    },
    "regression": {
        "r2_score": _of_values(weighted.r2),
        "mean_absolute_error": _of_values(_absolute),
        "root_mean_squared_error": _of_values(_root_squared),
        "pearson_score": _of_values(weighted.pearson),
        "spearman_score": _of_values(weighted.spearman),
    },
    "ordinal": {
        "mean_roc_auc_score": _mean_threshold,
        "spearman_score": lambda outcomes, _: weighted.spearman(outcomes.values[:, 0], ordinal_score(outcomes)),
        "quadratic_kappa_score": _of_table(weighted.quadratic_kappa),
        "accuracy_score": _of_table(weighted.accuracy),
        "balanced_accuracy_score": _of_table(weighted.balanced_accuracy),
        "roc_auc_score": _at_threshold,
        "recall_score": _recall,
    },
    "survival": {
        "cindex_score": lambda outcomes, _: concordance.harrell(*outcomes.survival()),
        "uno_cindex_score": lambda outcomes, _: concordance.uno(*outcomes.survival()),
        "mean_time_auc_score": _mean_time_auc,
        "time_auc_score": _time_auc,
        "integrated_brier_loss": _integrated_brier,
    },
}

_PER_PART: dict[TargetType, dict[str, str]] = {  # metrics that need a part, and what it is
    "binary": {},
    "multiclass": {"roc_auc_score": "class", "recall_score": "class"},
    "multilabel": {"roc_auc_score": "class", "average_precision_score": "class"},
    "regression": {},
    "ordinal": {"roc_auc_score": "threshold", "recall_score": "class"},
    "survival": {},
}
