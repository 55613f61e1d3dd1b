"""Times to an event: Cox's partial likelihood, right at any size of batch."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from microtome.cohort.targets import Target
from microtome.errors import ConfigError
from microtome.models.objectives.base import Objective, widened

TIES = ("breslow", "efron")
"""Ways to treat subjects with an event at the same time."""


class Cox(Objective):
    """Minus the partial log-likelihood of proportional hazards, the mean over the events of a batch.

    Subjects are compared with those of their batch who are still at risk, so a batch should hold many, best all of
    them: :func:`~microtome.models.objectives.parts.backward_in_parts` gives the gradient of the whole epoch while it
    holds the memory of one bag. A batch without an event says nothing: loss 0, no gradient.

    Args:
        target: What is fitted; values are time and event.
        compat: ``"histossl"`` for the reference's form: ties in the order of sorting (at equal times censored
            subjects first, of equals the later row first, each event seeing those before it), the mean over all
            subjects, and half an event at time 0. In a batch of one it is identically 0.
        ties: How subjects with an event at the same time are treated.

    Raises:
        ConfigError: If ``ties`` is neither of the two.

    References:
        Cox 1972; Breslow 1974; Efron 1977. specs/histossl_corrections.md, items 1 to 3: here the sorting is stable,
        and sums of exponentials cannot overflow.
    """

    name: ClassVar[str] = "cox"
    per_bag: ClassVar[bool] = False

    def __init__(self, target: Target, *, compat: str | None = None, ties: str = "efron") -> None:
        super().__init__(target, compat=compat)
        if ties not in TIES:
            raise ConfigError(f"ties must be breslow or efron, got '{ties}'.")
        self.ties = ties

    @property
    def n_outputs(self) -> int:
        """One: the logarithm of the relative hazard."""
        return 1

    def loss(self, logits: Float[Tensor, "*m b c"], values: Float[Tensor, "... b k"]) -> Float[Tensor, "*m"]:
        """Mean over the events (compat: over the subjects) of the batch."""
        there = ~values.isnan().any(-1)
        terms = self.terms(logits, values)
        count = there if self.compat == "histossl" else there & (values[..., 1] > 0)
        return terms.sum(-1) / count.sum(-1).clamp(min=1)

    def terms(self, logits: Float[Tensor, "*m b c"], values: Float[Tensor, "... b k"]) -> Float[Tensor, "*m b"]:
        """Each subject's share of the sum, in falling order of time; their sum is minus the log-likelihood."""
        missing = values.isnan().any(-1)
        scores = widened(logits[..., 0]).masked_fill(missing, 0)
        times = values[..., 0].masked_fill(missing, -torch.inf)  # last in the order: at risk for nobody
        events = values[..., 1].masked_fill(missing, 0).to(scores.dtype)
        if self.compat == "histossl":
            return _terms_in_order_of_sorting(scores, times, events)
        order = torch.argsort(times, dim=-1, descending=True, stable=True)
        scores, times, events = (_take(x, order) for x in (scores, times, events))
        return _terms(scores, times, events, ties=self.ties)

    def columns(self, logits: Float[np.ndarray, "n c"]) -> dict[str, np.ndarray]:
        """The risk: the logarithm of the relative hazard."""
        return {"risk": logits[:, 0].astype(np.float64)}

    def state(self) -> Mapping[str, Any]:
        """Options."""
        return {**super().state(), "ties": self.ties}


def _take(values: Float[Tensor, "... b"], order: Tensor) -> Float[Tensor, "... b"]:
    """Values in an order; either may have axes in front that the other lacks."""
    values, order = torch.broadcast_tensors(values, order)  # type: ignore[no-untyped-call]  # torch does not type it
    return values.take_along_dim(order, -1)


def _terms(
    scores: Float[Tensor, "*m b"], times: Float[Tensor, "... b"], events: Float[Tensor, "... b"], *, ties: str
) -> Float[Tensor, "*m b"]:
    """Terms of Breslow or Efron; times fall."""
    last = _last_of_equals(times.expand(scores.shape))
    at_risk = torch.logcumsumexp(scores, -1).take_along_dim(last, -1)
    if ties == "efron":
        # Of d tied events the l-th sees the risk set less l/d of the tied events' own share in it.
        shares = events * (scores - at_risk).exp()  # at most 1: they are part of the sum
        zeros = torch.zeros_like(shares)
        share = zeros.scatter_add(-1, last, shares).take_along_dim(last, -1)
        count = zeros.scatter_add(-1, last, events.expand(scores.shape)).take_along_dim(last, -1)
        upto = events.cumsum(-1)
        before = upto - events - (upto.expand(scores.shape).take_along_dim(last, -1) - count)
        at_risk = at_risk + torch.log1p(-(before / count.clamp(min=1)) * share * events)
    return events * (at_risk - scores)


def _last_of_equals(times: Float[Tensor, "*m b"]) -> Tensor:
    """Position of the last of the run of equal times that each is in."""
    n = times.shape[-1]
    ends = torch.cat([times[..., 1:] != times[..., :-1], torch.ones_like(times[..., :1], dtype=torch.bool)], -1)
    places = torch.where(ends, torch.arange(n, device=times.device), n)
    return places.flip(-1).cummin(-1).values.flip(-1)


def _terms_in_order_of_sorting(
    scores: Float[Tensor, "*m b"], times: Float[Tensor, "... b"], events: Float[Tensor, "... b"]
) -> Float[Tensor, "*m b"]:
    """The reference's terms: no care for ties but the order of sorting."""
    scores, times, events = scores.flip(-1), times.flip(-1), events.flip(-1)
    order = torch.argsort(events, dim=-1, stable=True)
    scores, times, events = (_take(x, order) for x in (scores, times, events))
    order = torch.argsort(times, dim=-1, descending=True, stable=True)
    scores, times, events = (_take(x, order) for x in (scores, times, events))
    weights = torch.where(times == 0, 0.5, events)  # it writes a censored time as a negative one, and 0 has no sign
    return weights * (torch.logcumsumexp(scores, -1) - scores)
