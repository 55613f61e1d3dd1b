"""Numbers: errors of the standardised value."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from jaxtyping import Float
from torch import Tensor

from microtome.cohort.targets import Target
from microtome.errors import ConfigError
from microtome.models.objectives.base import Objective, widened


class SquaredError(Objective):
    """Half the squared difference between the logit and the standardised value.

    Args:
        target: What is fitted.
        compat: As everywhere.
        mean: Value at which the logit is 0; :meth:`fitted` finds it.
        scale: Difference of values that moves the logit by 1; likewise.

    Raises:
        ConfigError: If the scale is not above 0.
    """

    name: ClassVar[str] = "mse"

    def __init__(self, target: Target, *, compat: str | None = None, mean: float = 0.0, scale: float = 1.0) -> None:
        super().__init__(target, compat=compat)
        if not scale > 0:
            raise ConfigError(f"scale must be above 0, got {scale}.")
        self.mean, self.scale = float(mean), float(scale)

    @property
    def n_outputs(self) -> int:
        """One."""
        return 1

    def bag_losses(self, logits: Float[Tensor, "*m b c"], values: Float[Tensor, "... b k"]) -> Float[Tensor, "*m b"]:
        """Error of each bag."""
        aim = (values - self.mean) / self.scale
        errors = self.error(widened(logits) - aim.nan_to_num().to(widened(logits).dtype))
        return torch.where(values.isnan(), 0, errors).squeeze(-1)

    def error(self, difference: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """What a difference costs, in standardised units."""
        return 0.5 * difference**2

    def columns(self, logits: Float[np.ndarray, "n c"]) -> dict[str, np.ndarray]:
        """The value, in its own unit."""
        return {"value": logits[:, 0].astype(np.float64) * self.scale + self.mean}

    def fitted(self, values: Float[np.ndarray, "n k"]) -> "SquaredError":
        """With the mean and the standard deviation of the rows."""
        known = values[~np.isnan(values)]
        if len(known) == 0:
            raise ConfigError(f"No training row has a value of '{self.target.name}'. Leave such folds out.")
        options = {**self.state(), "mean": float(known.mean()), "scale": float(known.std()) or 1.0}
        del options["name"]
        return type(self)(self.target, **options)

    def state(self) -> Mapping[str, Any]:
        """Options and what was fitted."""
        return {**super().state(), "mean": self.mean, "scale": self.scale}


class HuberError(SquaredError):
    """The same, growing only linearly where the difference is large.

    Args:
        target: What is fitted.
        compat: As everywhere.
        mean: As above.
        scale: As above.
        delta: From which difference on, in standard deviations.

    Raises:
        ConfigError: If ``delta`` is not above 0.
    """

    name: ClassVar[str] = "huber"

    def __init__(
        self, target: Target, *, compat: str | None = None, mean: float = 0.0, scale: float = 1.0, delta: float = 1.0
    ) -> None:
        super().__init__(target, compat=compat, mean=mean, scale=scale)
        if not delta > 0:
            raise ConfigError(f"delta must be above 0, got {delta}.")
        self.delta = float(delta)

    def error(self, difference: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """What a difference costs."""
        return F.huber_loss(difference, torch.zeros_like(difference), reduction="none", delta=self.delta)

    def state(self) -> Mapping[str, Any]:
        """Options and what was fitted."""
        return {**super().state(), "delta": self.delta}
