"""Which point of the grid, and how many epochs: chosen from the validation curves of inner folds.

The rule: curves are averaged over the inner folds (of all their repeats), the highest average wins, of equal ones the
first point of the grid, then the fewest epochs. The score after epoch index e is that of a model trained for e + 1
epochs. An average that is not a number never wins.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from microtome.errors import ConfigError, EvaluationError


@dataclass(frozen=True, slots=True)
class Selection:
    """What was chosen.

    Attributes:
        point: Number of the grid point.
        n_epochs: How many epochs to train for.
        score: Average validation score that won.
        curves: (points, epochs) averages over the inner folds that have a score.
        left_out: Inner folds without a score in any epoch at any point (one class only, say), which tell nothing.
        best_epochs: Index of the best epoch of each point; -1 where none has a score.
    """

    point: int
    n_epochs: int
    score: float
    curves: Float64[np.ndarray, "points epochs"]
    left_out: tuple[int, ...]
    best_epochs: tuple[int, ...]


def select(curves: Float64[np.ndarray, "points folds epochs"], *, compat: str | None = None) -> Selection:
    """Choose a grid point and a number of epochs.

    Args:
        curves: Validation score after each epoch, higher is better; NaN where it is not defined.
        compat: ``histossl`` chooses as HistoSSLscaling does: not a number wins over any number, and index e means
            max(e, 1) epochs.

    Returns:
        The choice.

    Raises:
        EvaluationError: If no score is a number at all.
        ConfigError: If ``compat`` is unknown.

    References:
        HistoSSLscaling (73f1d19), specification section 4, "Grid".

    Example:
        >>> chosen = select(np.array([[[0.6, 0.9, 0.7]], [[0.5, 0.6, 0.8]]]))
        >>> chosen.point, chosen.n_epochs, chosen.score
        (0, 2, 0.9)
    """
    if compat not in (None, "histossl"):
        raise ConfigError(f"compat is None or 'histossl'. Got {compat!r}.")
    if 0 in curves.shape:
        raise EvaluationError(f"There are no validation scores to choose from: the curves are {curves.shape}.")
    return _select_as_histossl(curves) if compat else _select(curves)


def _select(curves: Float64[np.ndarray, "points folds epochs"]) -> Selection:
    silent = np.isnan(curves).all(axis=(0, 2))
    if silent.all():
        raise EvaluationError(
            f"None of the {curves.shape[1]} inner folds has a validation score in any epoch: each has one class only, "
            "or no pair of cases that can be compared, or the models gave no numbers. Use fewer inner folds."
        )
    means = curves[:, ~silent].mean(axis=1)  # NaN where a model that could be judged gave no number
    if np.isnan(means).all():
        raise EvaluationError(
            "In every epoch at every grid point a model gave no number in some inner fold. Lower the learning rate."
        )
    ranked = np.where(np.isnan(means), -np.inf, means)
    point, epoch = np.unravel_index(int(np.argmax(ranked)), ranked.shape)
    best = tuple(int(np.argmax(row)) if np.isfinite(row).any() else -1 for row in ranked)
    left_out = tuple(int(i) for i in np.flatnonzero(silent))
    return Selection(int(point), int(epoch) + 1, float(means[point, epoch]), means, left_out, best)


def _select_as_histossl(curves: Float64[np.ndarray, "points folds epochs"]) -> Selection:
    means = curves.mean(axis=1)
    best = means.argmax(axis=1)  # NaN wins
    scores = means[np.arange(len(means)), best]
    point = int(np.argmax(scores))
    epoch = int(best[point])
    return Selection(point, max(epoch, 1), float(scores[point]), means, (), tuple(int(e) for e in best))
