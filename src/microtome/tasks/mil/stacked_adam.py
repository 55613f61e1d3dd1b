"""Adam for many models at once, each with its own learning rate, weight decay and moments of stepping."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor, nn
from torch.optim import Optimizer

_BETAS = (0.9, 0.999)
_EPS = 1e-8


def runs(models: Sequence[int]) -> list[slice]:
    """Rising numbers as slices of those that follow each other.

    Example:
        >>> runs([0, 1, 2, 5])
        [slice(0, 3, None), slice(5, 6, None)]
    """
    found: list[slice] = []
    for model in models:
        if found and found[-1].stop == model:
            found[-1] = slice(found[-1].start, model + 1)
        else:
            found.append(slice(model, model + 1))
    return found


def rows_of(table: Tensor, models: Sequence[int]) -> Tensor:
    """Some rows of a table: a view where they follow each other, a copy elsewhere."""
    found = runs(models)
    return table[found[0]] if len(found) == 1 else torch.cat([table[own] for own in found])


class StackedAdam(Optimizer):
    """``torch.optim.Adam`` (L2 weight decay) on the rows of a table, one model each; those step that are due.

    Gradients are added up in :attr:`gradients` by whoever computes them. :meth:`step`, which the loop of training
    calls after every batch, does nothing: models step in the midst of a batch, each when its own bags are complete.

    Args:
        table: (m, P) parameters.
        learning_rates: Of each model.
        weight_decays: Of each model.
        used: (P,) 1 where a parameter is trained; where it is 0, it stays as it is.

    References:
        https://arxiv.org/abs/1412.6980
    """

    def __init__(
        self,
        table: nn.Parameter,
        learning_rates: Sequence[float],
        weight_decays: Sequence[float],
        used: Float32[Tensor, " p"],
    ) -> None:
        super().__init__([table], {"lr": float(max(learning_rates))})
        self.table = table
        device = table.device
        self.gradients = torch.zeros_like(table, requires_grad=False)
        self._rates = torch.tensor(learning_rates, dtype=torch.float64, device=device)
        self._decays = torch.tensor(weight_decays, dtype=torch.float32, device=device)[:, None]
        self._used = used.to(device)
        self.state[table] = {
            "steps": torch.zeros(len(table), dtype=torch.float64, device=device),
            "mean": torch.zeros_like(table, requires_grad=False),
            "square": torch.zeros_like(table, requires_grad=False),
        }

    def add(self, models: Sequence[int], gradients: Float32[Tensor, "k p"]) -> None:
        """Add a gradient of some models, rising, to what they have."""
        start = 0
        for own in runs(models):
            stop = start + own.stop - own.start
            self.gradients[own] += gradients[start:stop]
            start = stop

    @torch.no_grad()
    def step_models(self, models: Sequence[int]) -> None:
        """Step those models, rising, and begin their next gradient from zero."""
        state = self.state[self.table]
        for own in runs(models):
            steps = state["steps"][own] = state["steps"][own] + 1
            parameters, gradient = self.table.data[own], self.gradients[own]
            mean, square = state["mean"][own], state["square"][own]
            gradient.addcmul_(self._decays[own], parameters).mul_(self._used)
            mean.lerp_(gradient, 1 - _BETAS[0])
            square.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
            correction = (1 - _BETAS[1] ** steps).sqrt().float()[:, None]
            rates = (self._rates[own] / (1 - _BETAS[0] ** steps)).float()[:, None]
            parameters -= (mean * rates).div_(square.sqrt().div_(correction).add_(_EPS))
            gradient.zero_()

    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ANN401 - nothing to be done
        """Nothing: see the class."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back moments and numbers of steps."""
        (saved,) = state_dict["state"].values()
        for name, value in self.state[self.table].items():
            value.copy_(saved[name])
