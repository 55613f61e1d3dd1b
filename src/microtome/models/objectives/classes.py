"""Classes: cross-entropies."""

from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from jaxtyping import Float
from torch import Tensor

from microtome.models.objectives.base import Objective, graded, is_there, sigmoid, softmax, widened


class BinaryCrossEntropy(Objective):
    """Cross-entropy of one logit, that of the positive class."""

    name: ClassVar[str] = "bce"

    @property
    def n_outputs(self) -> int:
        """One."""
        return 1

    def bag_losses(self, logits: Float[Tensor, "*m b c"], values: Float[Tensor, "... b k"]) -> Float[Tensor, "*m b"]:
        """Minus the logarithm of the probability of what is so."""
        return present_cross_entropy(logits, values).squeeze(-1)

    def columns(self, logits: Float[np.ndarray, "n c"]) -> dict[str, np.ndarray]:
        """Probabilities of both classes."""
        negative, positive = self.target.classes
        return {f"p_{negative}": sigmoid(-logits[:, 0]), f"p_{positive}": sigmoid(logits[:, 0])}


class MultilabelCrossEntropy(Objective):
    """Cross-entropy of each class by itself; those without a label are left out of a bag's mean."""

    name: ClassVar[str] = "multilabel_bce"

    @property
    def n_outputs(self) -> int:
        """One per class."""
        return len(self.target.classes)

    def bag_losses(self, logits: Float[Tensor, "*m b c"], values: Float[Tensor, "... b k"]) -> Float[Tensor, "*m b"]:
        """Mean over the classes that have a label."""
        n_present = (~values.isnan()).sum(-1).clamp(min=1)
        return present_cross_entropy(logits, values).sum(-1) / n_present

    def columns(self, logits: Float[np.ndarray, "n c"]) -> dict[str, np.ndarray]:
        """Probability of each class."""
        return {f"p_{name}": sigmoid(logits[:, i]) for i, name in enumerate(self.target.classes)}


class CrossEntropy(Objective):
    """Cross-entropy of one logit per class; grades are taken as classes without an order."""

    name: ClassVar[str] = "cross_entropy"

    @property
    def n_outputs(self) -> int:
        """One per class."""
        return len(self.target.classes)

    def bag_losses(self, logits: Float[Tensor, "*m b c"], values: Float[Tensor, "... b k"]) -> Float[Tensor, "*m b"]:
        """Minus the logarithm of the probability of the bag's class."""
        there = is_there(values)
        classes = torch.arange(self.n_outputs, device=values.device)
        chosen = (values == classes) & there[..., None]  # NaN equals no class
        return -torch.where(chosen, widened(logits).log_softmax(-1), 0).sum(-1)

    def columns(self, logits: Float[np.ndarray, "n c"]) -> dict[str, np.ndarray]:
        """Probability of each class; of grades, that of being at or above each."""
        shares = softmax(logits)
        if self.target.type != "ordinal":
            return {f"p_{name}": shares[:, i] for i, name in enumerate(self.target.classes)}
        above = np.cumsum(shares[:, ::-1], axis=1)[:, ::-1].clip(0, 1)
        return graded(self.target, above[:, 1:])


def present_cross_entropy(logits: Float[Tensor, "*m b c"], values: Float[Tensor, "... b c"]) -> Float[Tensor, "*m b c"]:
    """Binary cross-entropy of each logit, 0 where its label is NaN."""
    wide = widened(logits)
    losses = F.softplus(wide) - wide * values.nan_to_num().to(wide.dtype)
    return torch.where(values.isnan(), 0, losses)
