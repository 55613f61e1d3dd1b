"""Do probabilities mean what they say: reliability curve, expected calibration error, Brier decomposition, slope."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64
from scipy.special import expit, logit, ndtri, xlog1py, xlogy

from microtome.errors import ConfigError, EvaluationError

_STEPS = 100
_FLAT = 1e-10  # of the gradient, per row
_STEEPEST = 1e4  # a slope beyond this is that of rows which a threshold separates


@dataclass(frozen=True, slots=True)
class BrierParts:
    """The Brier score of binned probabilities: ``reliability - resolution + uncertainty + within_bins``.

    Attributes:
        score: Mean squared error of the probabilities.
        reliability: Squared distance of the bins' predictions from what came true; 0 is best.
        resolution: Squared distance of what came true from the prevalence; higher is better.
        uncertainty: Prevalence times its complement.
        within_bins: What the binning leaves over.
    """

    score: float
    reliability: float
    resolution: float
    uncertainty: float
    within_bins: float


@dataclass(frozen=True, slots=True)
class CalibrationFit:
    """Logistic regression of the truth on the logit of the prediction.

    Attributes:
        slope: 1 is best; below 1 the predictions are too extreme. NaN where a threshold separates the classes.
        intercept: At that slope.
        in_the_large: Intercept at slope 1; 0 is best, above 0 the predictions are too low.
    """

    slope: float
    intercept: float
    in_the_large: float


def reliability_curve(
    positive: Bool[np.ndarray, " n"],
    probabilities: Float64[np.ndarray, " rows"],
    *,
    n_bins: int = 10,
    strategy: Literal["uniform", "quantile"] = "uniform",
    level: float = 0.95,
) -> pd.DataFrame:
    """How often what was predicted came true, in bins of the prediction.

    Args:
        positive: What came true.
        probabilities: What was predicted, 0..1.
        n_bins: Bins.
        strategy: uniform: of equal width; quantile: of equal numbers (fewer bins where values are tied).
        level: Of the interval of the observed share (Wilson).

    Returns:
        One row per bin that is not empty: predicted (mean), observed (share), low, high, n.

    Raises:
        EvaluationError: If there are no rows or a value is no probability.
        ConfigError: If there is no bin, or the level is out of range.

    References:
        Bins as in scikit-learn's ``calibration_curve``.
    """
    place, n = _bins(positive, probabilities, n_bins, strategy)
    used = n > 0
    predicted = np.bincount(place, probabilities, minlength=len(n))[used] / n[used]
    hits = np.bincount(place, positive.astype(np.float64), minlength=len(n))[used]
    low, high = share_interval(hits, n[used].astype(np.float64), level=level)
    return pd.DataFrame(
        {"predicted": predicted, "observed": hits / n[used], "low": low, "high": high, "n": n[used].astype(np.int64)}
    )


def expected_calibration_error(
    positive: Bool[np.ndarray, " n"],
    probabilities: Float64[np.ndarray, " rows"],
    *,
    n_bins: int = 10,
    strategy: Literal["uniform", "quantile"] = "uniform",
) -> float:
    """Mean distance between predicted and observed share, over bins weighted by their rows; 0..1, 0 is best.

    Args:
        positive: What came true.
        probabilities: What was predicted, 0..1.
        n_bins: Bins.
        strategy: As for :func:`reliability_curve`.

    Raises:
        EvaluationError: As :func:`reliability_curve`.

    References:
        M. P. Naeini et al., *Obtaining well calibrated probabilities using Bayesian binning*, AAAI 2015.

    Example:
        >>> expected_calibration_error(np.array([True, False]), np.array([0.75, 0.25]))
        0.25
    """
    bins = reliability_curve(positive, probabilities, n_bins=n_bins, strategy=strategy)
    return float(np.average(np.abs(bins["predicted"] - bins["observed"]), weights=bins["n"]))


def brier_decomposition(
    positive: Bool[np.ndarray, " n"], probabilities: Float64[np.ndarray, " rows"], *, n_bins: int = 10
) -> BrierParts:
    """Split the Brier score into reliability, resolution and uncertainty.

    Args:
        positive: What came true.
        probabilities: What was predicted, 0..1.
        n_bins: Bins of equal width.

    Returns:
        The parts; they add up to the score.

    Raises:
        EvaluationError: As :func:`reliability_curve`.

    References:
        A. H. Murphy, *A new vector partition of the probability score*, 1973; the rest as in D. B. Stephenson et al.,
        *Two extra components in the Brier score decomposition*, 2008.
    """
    bins = reliability_curve(positive, probabilities, n_bins=n_bins)
    share, n = bins["n"].to_numpy() / len(positive), float(positive.mean())
    predicted, observed = bins["predicted"].to_numpy(), bins["observed"].to_numpy()
    reliability = float((share * np.square(predicted - observed)).sum())
    resolution = float((share * np.square(observed - n)).sum())
    score = float(np.square(probabilities - positive).mean())
    return BrierParts(score, reliability, resolution, n * (1 - n), score - (reliability - resolution + n * (1 - n)))


def calibration_fit(positive: Bool[np.ndarray, " n"], probabilities: Float64[np.ndarray, " rows"]) -> CalibrationFit:
    """Calibration slope, intercept, and intercept at slope 1.

    Args:
        positive: What came true.
        probabilities: What was predicted, 0..1; cut at 1e-12 from both ends.

    Returns:
        The fit; NaN where one class is absent or the fit has no end.

    References:
        D. R. Cox, *Two further applications of a model for binary regression*, 1958; B. Van Calster et al., *A
        calibration hierarchy for risk models was defined*, 2016.
    """
    _check(positive, probabilities)
    if positive.all() or not positive.any():
        return CalibrationFit(float("nan"), float("nan"), float("nan"))
    truth, logits = positive.astype(np.float64), logit(np.clip(probabilities, 1e-12, 1 - 1e-12))
    slope, intercept = fit_line(truth, logits)
    return CalibrationFit(slope, intercept, _fit_shift(truth, logits))


def fit_line(truth: Float64[np.ndarray, " n"], logits: Float64[np.ndarray, " n"]) -> tuple[float, float]:
    """Scale and shift of the logits that make the truth most likely (logistic regression without penalty).

    Args:
        truth: Shares, 0..1.
        logits: What to scale and shift.

    Returns:
        Scale and shift; NaN where the likelihood has no maximum (a threshold separates the classes) or logits are
        constant.
    """
    centre, spread = logits.mean(), logits.std()
    if spread == 0 or not np.isfinite(spread):
        return float("nan"), float("nan")
    design = np.stack([(logits - centre) / spread, np.ones_like(logits)], axis=1)
    found = np.array([0.0, float(logit(np.clip(truth.mean(), 1e-6, 1 - 1e-6)))])
    for _ in range(_STEPS):
        expected = expit(design @ found)
        gradient = design.T @ (truth - expected)
        if np.abs(gradient).max() < _FLAT * len(truth):
            break
        curvature = (design * (expected * (1 - expected))[:, None]).T @ design
        try:
            step = np.linalg.solve(curvature, gradient)
        except np.linalg.LinAlgError:
            return float("nan"), float("nan")
        found = _better(truth, design, found, step)
        if abs(found[0]) > _STEEPEST:
            return float("nan"), float("nan")
    if _separated(truth, design @ found):
        return float("nan"), float("nan")
    scale = float(found[0] / spread)
    return scale, float(found[1] - scale * centre)


def share_interval(
    hits: Float64[np.ndarray, " b"], n: Float64[np.ndarray, " b"], *, level: float = 0.95
) -> tuple[Float64[np.ndarray, " b"], Float64[np.ndarray, " b"]]:
    """Wilson's interval of shares.

    Args:
        hits: How often.
        n: Of how many, at least 1.
        level: Share that the interval is to cover.

    Returns:
        Lower and upper ends, 0..1.

    Raises:
        ConfigError: If the level is out of range.

    References:
        E. B. Wilson, *Probable inference, the law of succession, and statistical inference*, 1927.
    """
    if not 0 < level < 1:
        raise ConfigError(f"level must be between 0 and 1. Got {level}.")
    z = float(ndtri((1 + level) / 2))
    share = hits / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # rounding must not put the share itself outside
    return np.clip(centre - half, 0.0, share), np.clip(centre + half, share, 1.0)


def _separated(truth: Float64[np.ndarray, " n"], logits: Float64[np.ndarray, " n"]) -> bool:
    """Whether whole labels lie on the two sides of a logit, so that a steeper slope is always better."""
    if not np.isin(truth, (0.0, 1.0)).all():
        return False
    ones, zeros = logits[truth == 1], logits[truth == 0]
    return not len(ones) or not len(zeros) or bool(ones.min() >= zeros.max() or zeros.min() >= ones.max())


def _better(
    truth: Float64[np.ndarray, " n"],
    design: Float64[np.ndarray, "n 2"],
    found: Float64[np.ndarray, "2"],
    step: Float64[np.ndarray, "2"],
) -> Float64[np.ndarray, "2"]:
    """A Newton step, halved until the likelihood does not fall."""
    before = _likelihood(truth, design @ found)
    for _ in range(40):
        if _likelihood(truth, design @ (found + step)) >= before - 1e-12 * abs(before):
            break
        step = step / 2
    moved: Float64[np.ndarray, "2"] = found + step
    return moved


def _likelihood(truth: Float64[np.ndarray, " n"], logits: Float64[np.ndarray, " n"]) -> float:
    return float((truth * logits - np.logaddexp(0.0, logits)).sum())


def _fit_shift(truth: Float64[np.ndarray, " n"], logits: Float64[np.ndarray, " n"]) -> float:
    """Shift at which the mean expectation is the mean truth; the expectation rises with it, so it can be bracketed."""
    from scipy.optimize import brentq

    bound = float(np.abs(logits).max()) + abs(float(logit(truth.mean()))) + 1.0
    return float(brentq(lambda shift: float((expit(logits + shift) - truth).mean()), -bound, bound, xtol=1e-12))


def entropy(truth: Float64[np.ndarray, " n"], probabilities: Float64[np.ndarray, " n"]) -> float:
    """Mean cross-entropy of shares and probabilities, nats."""
    return float(-(xlogy(truth, probabilities) + xlog1py(1 - truth, -probabilities)).mean())


def _bins(
    positive: Bool[np.ndarray, " n"], probabilities: Float64[np.ndarray, " rows"], n_bins: int, strategy: str
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " b"]]:
    _check(positive, probabilities)
    if n_bins < 1:
        raise ConfigError(f"n_bins must be at least 1. Got {n_bins}.")
    if strategy == "uniform":
        edges = np.linspace(0.0, 1.0, n_bins + 1)
    else:
        edges = np.quantile(probabilities, np.linspace(0.0, 1.0, n_bins + 1))
    place = np.searchsorted(edges[1:-1], probabilities).astype(np.int64)
    return place, np.bincount(place, minlength=n_bins).astype(np.int64)


def _check(positive: Bool[np.ndarray, " n"], probabilities: Float64[np.ndarray, " rows"]) -> None:
    if len(positive) != len(probabilities) or not len(positive):
        raise EvaluationError(
            f"There are {len(positive)} truths and {len(probabilities)} probabilities. Give one of each per row, and "
            "at least one row."
        )
    if not (probabilities >= 0).all() or not (probabilities <= 1).all():
        raise EvaluationError(
            f"Probabilities must lie between 0 and 1. Got {probabilities.min()} to {probabilities.max()}."
        )
