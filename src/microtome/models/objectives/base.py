"""What every objective does."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from microtome.cohort.targets import Target


class Objective(ABC):
    """A loss between logits and a target's values, and the reading of logits as predictions.

    Args:
        target: What is fitted.

    Attributes:
        name: Under which it is chosen.
        per_bag: Whether the loss of a batch is the mean of losses of its bags; where not, the bags of a batch are
            compared with each other (Cox, pairwise ranks) and :meth:`bag_losses` does not exist.
    """

    name: ClassVar[str]
    per_bag: ClassVar[bool] = True

    def __init__(self, target: Target) -> None:
        self.target = target

    @property
    @abstractmethod
    def n_outputs(self) -> int:
        """How many logits it takes."""

    @abstractmethod
    def loss(self, logits: Float[Tensor, "b c"], values: Float[Tensor, "b k"]) -> Float[Tensor, ""]:
        """Loss of a batch, in float32 or wider; values as in :class:`~microtome.cohort.targets.Labels`.

        A pure function of tensors without branches on their values, so that ``torch.func.vmap`` takes it.
        """

    def bag_losses(self, logits: Float[Tensor, "*m b c"], values: Float[Tensor, "b k"]) -> Float[Tensor, "*m b"]:
        """Loss of each bag; logits may have further axes in front (one per model)."""
        raise NotImplementedError(f"{self.name} compares the bags of a batch: it has no loss of one bag.")

    @abstractmethod
    def columns(self, logits: Float[np.ndarray, "n c"]) -> dict[str, np.ndarray]:
        """Columns of a table of predictions: p_<class>; value; grade and p_ge_<class>; risk."""

    def fitted(self, values: Float[np.ndarray, "n k"]) -> "Objective":
        """The same with what it must learn from the training rows' values (bins of time, scale of a value)."""
        return self

    def state(self) -> Mapping[str, Any]:
        """Plain values from which ``build_objective`` makes the same again: options and what was fitted."""
        return {}
