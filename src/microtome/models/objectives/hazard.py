"""Times to an event: hazards in bins of time."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from jaxtyping import Float
from torch import Tensor

from microtome.cohort.targets import Target
from microtome.errors import ConfigError
from microtome.models.objectives.base import Objective, is_there, widened


class DiscreteHazard(Objective):
    """Likelihood of time in bins: each logit is that of the event in a bin, given that none came before.

    A subject with an event has lived through the bins before that of the event; a censored one through those that
    ended by the time of censoring, and its last, unfinished bin says nothing.

    Args:
        target: What is fitted; values are time and event.
        compat: As everywhere.
        n_bins: How many.
        edges: Times between the bins, rising, one less than bins; :meth:`fitted` finds them: quantiles of the times
            of the events.

    Raises:
        ConfigError: If there are fewer than two bins, or the edges are not rising or not one less.

    References:
        Gensheimer and Narasimhan 2019 (without their credit for half a bin); Zadeh and Schmid 2020.
    """

    name: ClassVar[str] = "discrete_hazard"

    def __init__(
        self, target: Target, *, compat: str | None = None, n_bins: int = 4, edges: Sequence[float] | None = None
    ) -> None:
        super().__init__(target, compat=compat)
        if n_bins < 2:
            raise ConfigError(f"n_bins must be at least 2, got {n_bins}.")
        self.n_bins = n_bins
        self.edges = None if edges is None else tuple(float(edge) for edge in edges)
        if self.edges is not None and (len(self.edges) != n_bins - 1 or not np.all(np.diff(self.edges) >= 0)):
            raise ConfigError(f"edges must be {n_bins - 1} rising times between {n_bins} bins, got {self.edges}.")

    @property
    def n_outputs(self) -> int:
        """One per bin."""
        return self.n_bins

    def bag_losses(self, logits: Float[Tensor, "*m b c"], values: Float[Tensor, "... b k"]) -> Float[Tensor, "*m b"]:
        """Minus the log-likelihood of each subject.

        Raises:
            ConfigError: If the bins were not fitted.
        """
        wide = widened(logits)
        times, events = values[..., :1], values[..., 1:2] > 0
        edges = torch.as_tensor(self._bins(), dtype=times.dtype, device=times.device)
        bins = (times >= edges).sum(-1, keepdim=True)  # the bin that the time is in
        numbers = torch.arange(self.n_bins, device=times.device)
        survived = numbers < bins
        died = (numbers == bins) & events
        losses = torch.where(survived, F.softplus(wide), 0) + torch.where(died, F.softplus(-wide), 0)
        return torch.where(is_there(values), losses.sum(-1), 0)

    def columns(self, logits: Float[np.ndarray, "n c"]) -> dict[str, np.ndarray]:
        """The risk: minus the number of bins that are expected to be lived through."""
        survival = np.exp(-np.logaddexp(0, logits.astype(np.float64)).cumsum(axis=1))
        return {"risk": -survival.sum(axis=1)}

    def fitted(self, values: Float[np.ndarray, "n k"]) -> "DiscreteHazard":
        """With bins that hold equally many of the rows' events.

        Raises:
            ConfigError: If none of the rows has an event.
        """
        times = values[(values[:, 1] > 0) & ~np.isnan(values[:, 0]), 0]
        if len(times) == 0:
            raise ConfigError(
                f"No training row of '{self.target.name}' has an event, so its time cannot be cut into bins. "
                "Use fewer folds, or objective 'cox'."
            )
        edges = np.quantile(times, np.linspace(0, 1, self.n_bins + 1)[1:-1])
        return DiscreteHazard(self.target, compat=self.compat, n_bins=self.n_bins, edges=edges.tolist())

    def _bins(self) -> tuple[float, ...]:
        if self.edges is None:
            raise ConfigError("The bins of time are not known yet: call fitted(values) with the training rows first.")
        return self.edges

    def state(self) -> Mapping[str, Any]:
        """Options and the fitted bins."""
        edges = None if self.edges is None else list(self.edges)
        return {**super().state(), "n_bins": self.n_bins, "edges": edges}
