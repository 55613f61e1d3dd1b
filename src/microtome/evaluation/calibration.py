"""Make outputs mean what they say: affine, temperature and isotonic calibration, and cut points of grades."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float64, Int
from scipy.special import expit, log_softmax, softmax

from microtome.errors import ConfigError, EvaluationError
from microtome.evaluation.reliability import fit_line

CalibrationKind = Literal["affine", "temperature", "isotonic"]

_LOG_SCALES = (-10.0, 10.0)  # between which the logarithm of a temperature's scale is sought


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted map from logits to probabilities.

    Attributes:
        kind: affine: sigmoid(scale · logit + shift); temperature: softmax (one column: sigmoid) of logits × scale;
            isotonic: a rising line through knots.
        scale: Of affine and temperature.
        shift: Of affine.
        knots: Of isotonic: (logit, probability) pairs, rising.

    Example:
        >>> Calibration("affine", scale=2.0).apply(np.array([0.0])).tolist()
        [0.5]
    """

    kind: CalibrationKind
    scale: float = 1.0
    shift: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()

    def apply(self, outputs: Float[np.ndarray, " n *c"]) -> Float64[np.ndarray, " n *c"]:
        """Probabilities of logits.

        Args:
            outputs: (n,), (n, 1), or for temperature (n, c).

        Returns:
            0..1, in the shape of ``outputs``; isotonic: constant beyond the first and last knot.

        Raises:
            EvaluationError: If an output is NaN, or affine or isotonic get several columns.
        """
        logits = _checked_outputs(outputs)
        if logits.ndim == 2 and logits.shape[1] > 1:
            if self.kind != "temperature":
                raise EvaluationError(f"{self.kind} calibration takes one column. Got {logits.shape[1]}.")
            return np.asarray(softmax(logits * self.scale, axis=1), np.float64)
        if self.kind == "isotonic":
            x, y = np.array(self.knots).T
            return np.asarray(np.interp(logits, x, y), np.float64)
        return np.asarray(expit(logits * self.scale + self.shift), np.float64)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, from which :meth:`from_dict` makes the same again."""
        return {
            "kind": self.kind, "scale": self.scale, "shift": self.shift, "knots": [list(knot) for knot in self.knots],
        }  # fmt: skip

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Calibration":
        """What :meth:`as_dict` wrote.

        Raises:
            ConfigError: If it is no such thing.
        """
        kind = values.get("kind")
        if kind not in ("affine", "temperature", "isotonic"):
            raise ConfigError(f"A calibration is affine, temperature or isotonic. Got {kind!r}.")
        knots = tuple((float(x), float(y)) for x, y in values.get("knots", ()))
        if (kind == "isotonic") != bool(knots):
            raise ConfigError(f"An isotonic calibration, and no other, has knots. Got {kind} with {len(knots)}.")
        return cls(kind, float(values.get("scale", 1.0)), float(values.get("shift", 0.0)), knots)


def fit_calibration(
    kind: CalibrationKind, values: Float[np.ndarray, " n"], outputs: Float[np.ndarray, " m *c"]
) -> Calibration:
    """Fit on rows that the model was not trained on.

    Args:
        kind: affine (scale and shift), temperature (scale only) or isotonic.
        values: 0..1: binary labels, or for grades their share of the highest one; for temperature with several
            columns the number of the class.
        outputs: Logits, (n,) or (n, 1), or for temperature (n, c).

    Returns:
        The map. For affine and temperature the labels are drawn in a little as Platt does, (n₁+1)/(n₁+2) for 1 and
        1/(n₀+2) for 0, so that separated classes give a finite scale.

    Raises:
        EvaluationError: If there are fewer than two rows, all values are equal, values are out of range, outputs are
            NaN, infinite or constant, or the shapes do not fit.

    References:
        J. Platt, *Probabilistic outputs for support vector machines*, 1999; C. Guo et al., *On calibration of modern
        neural networks*, 2017 (temperature; there without drawing labels in); B. Zadrozny and C. Elkan, *Transforming
        classifier scores into accurate multiclass probability estimates*, 2002 (isotonic).
    """
    logits, truth = _checked_outputs(outputs), np.asarray(values, np.float64)
    if truth.ndim != 1 or len(truth) != len(logits) or len(truth) < 2:
        raise EvaluationError(f"Calibration needs two rows or more. Got values {truth.shape}, outputs {logits.shape}.")
    if not np.isfinite(truth).all() or len(np.unique(truth)) < 2:
        raise EvaluationError("Calibration needs rows of two classes or more, and no NaN among the values.")
    if logits.ndim == 2 and logits.shape[1] > 1:
        if kind != "temperature":
            raise EvaluationError(f"{kind} calibration takes one column. Got {logits.shape[1]}; use temperature.")
        return Calibration("temperature", scale=_fit_temperature(_one_hot(truth, logits.shape[1]), logits))
    logits = logits.reshape(len(logits))
    if truth.min() < 0 or truth.max() > 1:
        raise EvaluationError(f"Values must lie between 0 and 1. Got {truth.min()} to {truth.max()}.")
    if np.ptp(logits) == 0:
        raise EvaluationError(f"All outputs are {logits[0]}: there is nothing to calibrate.")
    if kind == "isotonic":
        return Calibration("isotonic", knots=_fit_isotonic(truth, logits))
    drawn_in = _drawn_in(truth)
    if kind == "temperature":
        both = np.stack([np.zeros_like(logits), logits], axis=1)
        return Calibration("temperature", scale=_fit_temperature(np.stack([1 - drawn_in, drawn_in], axis=1), both))
    scale, shift = fit_line(drawn_in, logits)
    return Calibration("affine", scale=scale, shift=shift)


def fit_cut_points(grades: Int[np.ndarray, " n"], scores: Float[np.ndarray, " n"], n_grades: int) -> tuple[float, ...]:
    """Scores at which one grade gives way to the next: the mean recall of the grades is as high as it can be.

    Args:
        grades: 0 to ``n_grades`` - 1; each occurs.
        scores: Higher means a higher grade.
        n_grades: Grades, at least 2.

    Returns:
        ``n_grades`` - 1 rising cut points, midway between neighbouring scores; a row is of grade k if its score
        reaches k of them.

    Raises:
        EvaluationError: If a grade does not occur, the scores are NaN, or there are fewer distinct scores than grades.

    Example:
        >>> fit_cut_points(np.array([0, 0, 1, 2]), np.array([0.1, 0.2, 0.4, 0.9]), 3)
        (0.30000000000000004, 0.65)
    """
    counts = np.bincount(grades, minlength=n_grades)
    if n_grades < 2 or len(counts) != n_grades or not counts.all():
        raise EvaluationError(f"Cut points need rows of each of the {n_grades} grades. Got {counts.tolist()} of them.")
    levels, place = np.unique(_checked_outputs(np.asarray(scores)), return_inverse=True)
    if len(levels) < n_grades:
        raise EvaluationError(f"{n_grades} grades need as many distinct scores. Got {len(levels)}.")
    recall = np.zeros((n_grades, len(levels) + 1))  # of each grade up to each level
    for k in range(n_grades):
        recall[k, 1:] = np.cumsum(np.bincount(place[grades == k], minlength=len(levels))) / counts[k]
    # best[j]: highest sum of recalls when grades up to k end before level j; each grade gets a level at least
    best = np.where(np.arange(len(levels) + 1) >= 1, recall[0], -np.inf)
    ends = []
    for k in range(1, n_grades):
        gain = np.maximum.accumulate(best - recall[k])
        came = np.zeros(len(gain), np.int64)
        fresh = np.append(True, (best - recall[k])[1:] > gain[:-1])
        came[fresh] = np.flatnonzero(fresh)
        came = np.maximum.accumulate(came)
        ends.append(came[:-1])  # grade k covers levels came..j, with came < j
        best = np.append(-np.inf, gain[:-1] + recall[k, 1:])
    cuts, end = [], len(levels)
    for came in reversed(ends):
        end = int(came[end - 1])
        cuts.append(float((levels[end - 1] + levels[end]) / 2))
    return tuple(reversed(cuts))


def _drawn_in(truth: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    n_one = truth.sum()
    low, high = 1 / (len(truth) - n_one + 2), (n_one + 1) / (n_one + 2)
    return np.asarray(low + truth * (high - low), np.float64)


def _one_hot(truth: Float64[np.ndarray, " n"], n_classes: int) -> Float64[np.ndarray, "n c"]:
    """Classes as probabilities, drawn in by how often each occurs."""
    number = truth.astype(np.int64)
    if (number != truth).any() or number.min() < 0 or number.max() >= n_classes:
        raise EvaluationError(
            f"Values must be class numbers, 0 to {n_classes - 1}. Got {np.unique(truth)[:5].tolist()}."
        )
    counts = np.bincount(number, minlength=n_classes)
    sure = ((counts + 1) / (counts + 2))[number]
    found = np.repeat(((1 - sure) / (n_classes - 1))[:, None], n_classes, axis=1)
    found[np.arange(len(number)), number] = sure
    return found


def _fit_temperature(truth: Float64[np.ndarray, "n c"], logits: Float64[np.ndarray, "n c"]) -> float:
    from scipy.optimize import minimize_scalar

    def loss(log_scale: float) -> float:
        return -float((truth * log_softmax(logits * np.exp(log_scale), axis=1)).sum())

    found = minimize_scalar(loss, bounds=_LOG_SCALES, method="bounded", options={"xatol": 1e-10})
    return float(np.exp(found.x))


def _fit_isotonic(
    truth: Float64[np.ndarray, " n"], logits: Float64[np.ndarray, " n"]
) -> tuple[tuple[float, float], ...]:
    """Knots at both ends of each run of equal fitted values; tied outputs count as one."""
    from scipy.optimize import isotonic_regression

    x, place = np.unique(logits, return_inverse=True)
    n = np.bincount(place).astype(np.float64)
    y = isotonic_regression(np.bincount(place, truth) / n, weights=n).x
    change = np.diff(y) != 0
    keep = np.append(True, change) | np.append(change, True)
    return tuple((float(a), float(b)) for a, b in zip(x[keep], y[keep], strict=True))


def _checked_outputs(outputs: Float[np.ndarray, " n *c"]) -> Float64[np.ndarray, " n *c"]:
    found = np.asarray(outputs, np.float64)
    if found.ndim not in (1, 2) or not np.isfinite(found).all():
        raise EvaluationError(f"Outputs must be finite numbers, (n,) or (n, c). Got shape {found.shape}.")
    return found
