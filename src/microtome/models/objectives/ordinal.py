"""Grades: cumulative thresholds, and pairs of bags."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from jaxtyping import Float, Int
from torch import Tensor, nn

from microtome.cohort.targets import Target
from microtome.errors import ConfigError
from microtome.models.objectives.base import Objective, graded, is_there, sigmoid, widened

_TIED = {"same": 0.5, "lower": 0.0, "upper": 1.0}
_STEEPEST, _WIDEST = 5.0, 10.0  # logarithms of slope and gaps: grades that are told apart perfectly have no best ones


class CumulativeLink(Objective):
    """A cross-entropy for each threshold between grades, whose probabilities fall from one to the next.

    The mean over the thresholds; CORAL takes the sum. Where the logits come from :class:`CoralHead` this is CORAL;
    an aggregator without it may move the thresholds from bag to bag, but never past each other.

    Args:
        target: What is fitted.
        compat: As everywhere.
        ordered: Whether each logit after the first says by how much the next threshold is harder than the one before
            (through softplus), which puts them in order; if not, they are those of the thresholds, as
            :class:`CoralHead` gives them.

    References:
        Cao, Mirjalili and Raschka 2020 (CORAL), with the deviation above.
    """

    name: ClassVar[str] = "cumulative_link"

    def __init__(self, target: Target, *, compat: str | None = None, ordered: bool = True) -> None:
        super().__init__(target, compat=compat)
        self.ordered = ordered

    @property
    def n_outputs(self) -> int:
        """One per threshold."""
        return len(self.target.classes) - 1

    def bag_losses(self, logits: Float[Tensor, "*m b c"], values: Float[Tensor, "... b k"]) -> Float[Tensor, "*m b"]:
        """Mean over the thresholds."""
        wide = widened(logits)
        if self.ordered:
            wide = wide[..., :1] - F.pad(F.softplus(wide[..., 1:]).cumsum(-1), (1, 0))
        passed = (values > torch.arange(self.n_outputs, device=values.device)).to(wide.dtype)
        losses = (F.softplus(wide) - wide * passed).mean(-1)
        return torch.where(is_there(values), losses, 0)

    def columns(self, logits: Float[np.ndarray, "n c"]) -> dict[str, np.ndarray]:
        """Probability of being at or above each grade, and the highest grade that is likelier reached than not."""
        wide = np.asarray(logits, dtype=np.float64)
        if self.ordered:
            gaps = np.logaddexp(0, wide[:, 1:]).cumsum(axis=1)
            wide = wide[:, :1] - np.concatenate([np.zeros((len(wide), 1)), gaps], axis=1)
        return graded(self.target, np.minimum.accumulate(sigmoid(wide), axis=1))

    def state(self) -> Mapping[str, Any]:
        """Options."""
        return {**super().state(), "ordered": self.ordered}


class CoralHead(nn.Module):
    """One score to the logits of thresholds that all bags share: for models that end in a score of their own.

    Goes with ``build_objective(target, "cumulative_link", ordered=False)``.

    Args:
        n_classes: Grades.

    References:
        Cao, Mirjalili and Raschka 2020. The thresholds start in order, evenly around 0.
    """

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.biases = nn.Parameter(torch.linspace(1, -1, n_classes - 1))

    def forward(self, scores: Float[Tensor, "*b 1"]) -> Float[Tensor, "*b t"]:
        """Logit of being above each threshold."""
        return scores + self.biases


class Pairwise(Objective):
    """Which of two bags has the higher grade: cross-entropy of the difference of their scores.

    A batch whose bags all have one grade says nothing with ``ties="none"``: loss 0, no gradient.

    A score says which grade is higher, not which grade it is: until :meth:`read_from` has found the cut-points on the
    logits of training rows, :meth:`columns` ranks but does not grade (every threshold is at 0).

    Args:
        target: What is fitted.
        compat: As everywhere.
        ties: What is made of pairs of one grade: ``none`` leaves them out; ``same`` wants equal scores, ``lower`` and
            ``upper`` call each the lower or the higher one, which comes to the same, as each pair counts both ways.
        slope: Steepness of the probabilities of grades in the score; :meth:`read_from` finds it.
        cuts: Cut-points on the steepened score; likewise.

    Raises:
        ConfigError: If ``ties`` is no such mode, or the cut-points are not rising or too few.

    References:
        specs/fastglioma.md section 3, stage 3; Burges et al. 2005 (RankNet).
    """

    name: ClassVar[str] = "pairwise"
    per_bag: ClassVar[bool] = False

    def __init__(
        self,
        target: Target,
        *,
        compat: str | None = None,
        ties: str = "none",
        slope: float = 1.0,
        cuts: Sequence[float] | None = None,
    ) -> None:
        super().__init__(target, compat=compat)
        if ties != "none" and ties not in _TIED:
            raise ConfigError(f"ties must be none, same, lower or upper, got '{ties}'.")
        self.ties = ties
        self.slope = float(slope)
        self.cuts = None if cuts is None else tuple(float(cut) for cut in cuts)
        if self.cuts is not None and (len(self.cuts) != len(target.classes) - 1 or not np.all(np.diff(self.cuts) >= 0)):
            raise ConfigError(f"cuts must be {len(target.classes) - 1} rising numbers, got {self.cuts}.")

    @property
    def n_outputs(self) -> int:
        """One: the score."""
        return 1

    def loss(self, logits: Float[Tensor, "*m b c"], values: Float[Tensor, "... b k"]) -> Float[Tensor, "*m"]:
        """Mean over each bag's pairs, then over the bags that have any."""
        scores, grades = widened(logits[..., 0]), values[..., 0]
        there = ~grades.isnan()
        scores = scores.masked_fill(~there, 0)
        difference = scores[..., :, None] - scores[..., None, :]
        higher = (grades[..., :, None] > grades[..., None, :]).to(scores.dtype)
        equal = grades[..., :, None] == grades[..., None, :]
        itself = torch.eye(grades.shape[-1], dtype=torch.bool, device=grades.device)
        counted = there[..., :, None] & there[..., None, :] & ~itself
        if self.ties == "none":
            counted = counted & ~equal
        else:
            higher = torch.where(equal, _TIED[self.ties], higher)
        losses = torch.where(counted, F.softplus(difference) - difference * higher, 0)
        n_pairs = counted.sum(-1)
        return (losses.sum(-1) / n_pairs.clamp(min=1)).sum(-1) / (n_pairs > 0).sum(-1).clamp(min=1)

    def columns(self, logits: Float[np.ndarray, "n c"]) -> dict[str, np.ndarray]:
        """Grade, and probability of being at or above each; for ranking only before :meth:`read_from`."""
        scores = np.asarray(logits[:, :1], dtype=np.float64) * self.slope
        if self.cuts is None:
            above = np.repeat(sigmoid(scores), len(self.target.classes) - 1, axis=1)
            return {**graded(self.target, above), "grade": above.sum(axis=1)}
        return graded(self.target, sigmoid(scores - np.asarray(self.cuts)))

    def read_from(self, logits: Float[np.ndarray, "n c"], values: Float[np.ndarray, "n k"]) -> "Pairwise":
        """With the slope and the cut-points under which the rows' grades are likeliest.

        Args:
            logits: The trained model's, of the training rows.
            values: Their grades; rows with NaN are left out.
        """
        known = ~np.isnan(values[:, 0])
        grades = values[known, 0].astype(np.int64)
        slope, cuts = fit_proportional_odds(
            logits[known, 0].astype(np.float64), grades, n_classes=len(self.target.classes)
        )
        return Pairwise(self.target, compat=self.compat, ties=self.ties, slope=slope, cuts=cuts)

    def state(self) -> Mapping[str, Any]:
        """Options and what was fitted."""
        cuts = None if self.cuts is None else list(self.cuts)
        return {**super().state(), "ties": self.ties, "slope": self.slope, "cuts": cuts}


def fit_proportional_odds(
    scores: Float[np.ndarray, " n"], grades: Int[np.ndarray, " n"], *, n_classes: int
) -> tuple[float, tuple[float, ...]]:
    """Slope a and rising cut-points c under which ``P(grade > k) = sigmoid(a * score - c_k)`` fits best.

    By maximum likelihood. The slope is kept above 0 and, in units of the scores' standard deviation, below e^5, where
    grades are told apart perfectly.

    Args:
        scores: Higher for higher grades.
        grades: 0 to ``n_classes`` - 1.
        n_classes: How many there are.

    Raises:
        ConfigError: If no score is given, or one is not finite.
    """
    from scipy.optimize import minimize

    if len(scores) == 0 or not np.isfinite(scores).all():
        raise ConfigError("Cut-points of grades need scores of training rows, all of them finite numbers.")
    centre, spread = float(scores.mean()), float(scores.std()) or 1.0
    standard = (scores - centre) / spread

    def unpack(parameters: Float[np.ndarray, " p"]) -> tuple[float, Float[np.ndarray, " t"]]:
        return float(np.exp(parameters[0])), np.cumsum([parameters[1], *np.exp(parameters[2:])])

    def misfit(parameters: Float[np.ndarray, " p"]) -> float:
        slope, cuts = unpack(parameters)
        above = sigmoid(slope * standard[:, None] - cuts)
        bounds = np.concatenate([np.ones((len(above), 1)), above, np.zeros((len(above), 1))], axis=1)
        rows = np.arange(len(grades))
        likelihood = bounds[rows, grades] - bounds[rows, grades + 1]
        return float(-np.log(likelihood.clip(1e-12)).mean())

    shares = (np.bincount(grades, minlength=n_classes)[::-1].cumsum()[::-1][1:] + 0.5) / (len(grades) + 1)
    cuts = -np.log(shares / (1 - shares))
    start = np.array([0.0, cuts[0], *np.log(np.diff(cuts).clip(1e-3))])
    limits = [(-_STEEPEST, _STEEPEST), (None, None), *[(-_WIDEST, _STEEPEST)] * (n_classes - 2)]
    found = minimize(misfit, start, method="L-BFGS-B", bounds=limits)
    slope, cuts = unpack(found.x)
    return slope / spread, tuple(float(cut) for cut in cuts + slope * centre / spread)
