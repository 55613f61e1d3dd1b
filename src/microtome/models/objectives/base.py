"""What every objective does."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from microtome.cohort.targets import Target


class Objective(ABC):
    """A loss between logits and a target's values, and the reading of logits as predictions.

    A row whose values are NaN is as if it were not there: it adds nothing to a loss or its mean. So batches of
    different size can be padded to one.

    Args:
        target: What is fitted.
        compat: Reference whose form is wanted, where it differs.

    Attributes:
        name: Under which it is chosen.
        per_bag: Whether the loss of a batch is the mean of losses of its bags; where not, the bags of a batch are
            compared with each other (Cox, pairwise ranks) and :meth:`bag_losses` does not exist.
    """

    name: ClassVar[str]
    per_bag: ClassVar[bool] = True

    def __init__(self, target: Target, *, compat: str | None = None) -> None:
        self.target = target
        self.compat = compat

    @property
    @abstractmethod
    def n_outputs(self) -> int:
        """How many logits it takes."""

    def loss(self, logits: Float[Tensor, "*m b c"], values: Float[Tensor, "... b k"]) -> Float[Tensor, "*m"]:
        """Loss of a batch, in float32 or wider; values as in :class:`~microtome.cohort.targets.Labels`.

        A pure function of tensors without branches on their values, so that ``torch.func.vmap`` takes it; axes in
        front (one per model) give a loss each. Those of the values may be missing: all models then have the same.
        A batch that says nothing (no row, or none to compare) has loss 0 and no gradient.
        """
        losses = self.bag_losses(logits, values)
        return losses.sum(-1) / is_there(values).sum(-1).clamp(min=1)

    def bag_losses(self, logits: Float[Tensor, "*m b c"], values: Float[Tensor, "... b k"]) -> Float[Tensor, "*m b"]:
        """Loss of each bag, 0 where it has no value; axes in front as in :meth:`loss`."""
        raise NotImplementedError(f"{self.name} compares the bags of a batch: it has no loss of one bag.")

    @abstractmethod
    def columns(self, logits: Float[np.ndarray, "n c"]) -> dict[str, np.ndarray]:
        """Columns of a table of predictions: p_<class>; value; grade and p_ge_<class>; risk.

        Probabilities are float64 from 0 to 1; a grade is the number of the class.
        """

    def fitted(self, values: Float[np.ndarray, "n k"]) -> "Objective":
        """The same with what it must learn from the training rows' values (bins of time, scale of a value)."""
        return self

    def read_from(self, logits: Float[np.ndarray, "n c"], values: Float[np.ndarray, "n k"]) -> "Objective":
        """The same with what :meth:`columns` must learn from the trained model's logits of the training rows.

        Only pairwise ranks need it: their logits have no zero of their own.
        """
        return self

    def state(self) -> Mapping[str, Any]:
        """Plain values from which ``build_objective(target, **state)`` makes the same again."""
        return {"name": self.name, "compat": self.compat}


def is_there(values: Float[Tensor, "... b k"]) -> Bool[Tensor, "... b"]:
    """Which rows have at least one value."""
    return ~values.isnan().all(-1)


def widened(logits: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Logits in float32 or wider."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def sigmoid(logits: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Probabilities, in float64, without overflow."""
    wide = np.asarray(logits, dtype=np.float64)
    return np.exp(-np.logaddexp(0.0, -wide))


def softmax(logits: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
    """Probabilities of the classes, in float64, without overflow."""
    wide = np.asarray(logits, dtype=np.float64)
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def graded(target: Target, above: Float[np.ndarray, "n t"]) -> dict[str, np.ndarray]:
    """Columns of a grade, from the probabilities of being above each threshold."""
    named = {f"p_ge_{name}": above[:, i] for i, name in enumerate(target.classes[1:])}
    return {"grade": (above > 0.5).sum(axis=1), **named}
