"""What every aggregator takes and gives."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from microtome.errors import ConfigError


class AggregatorOutput(NamedTuple):
    """What an aggregator gives for b bags of n instances.

    Attributes:
        logits: (b, c), before sigmoid, softmax or risk.
        attention: (b, n, m), float32 or wider: m maps over the instances, 0 where there is none. How many maps there
            are, and what they mean, each model's class says.
    """

    logits: Float[Tensor, "b c"]
    attention: Float[Tensor, "b n m"]


class Aggregator(nn.Module, ABC):
    """A bag of vectors to logits; a subclass implements :meth:`aggregate` and need not look at its input again.

    Rows that the mask leaves out may hold anything, NaN included: they are set to zero before a model sees them.

    Args:
        n_features: Length of an instance's vector.
        n_outputs: Number of logits.

    Attributes:
        positional: Whether the order of the instances matters.
        sums_to_one: Whether each map of the attention is a distribution over the instances that are there.
        aside: Beginnings of the names of parameters on which the logits do not depend.

    Raises:
        ConfigError: If one of the two is below 1.
    """

    positional: ClassVar[bool] = False
    sums_to_one: bool = True
    aside: tuple[str, ...] = ()

    def __init__(self, n_features: int, n_outputs: int) -> None:
        super().__init__()
        if n_features < 1 or n_outputs < 1:
            raise ConfigError(
                f"An aggregator needs at least one feature and one output, got {n_features} and {n_outputs}."
            )
        self.n_features = n_features
        self.n_outputs = n_outputs

    def forward(self, features: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"] | None = None) -> AggregatorOutput:
        """Aggregate bags.

        Args:
            features: Vectors, padded to one length.
            mask: True where there is an instance; None where all are.

        Returns:
            Logits (b, n_outputs) and attention (b, n, m).

        Raises:
            ConfigError: If a bag has no instance, the vectors are of another length, or the mask of another shape.
        """
        features, mask = self.clean(features, mask)
        return self.aggregate(features, mask)

    def clean(self, features: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Checked features with zeros where there is no instance, and the mask.

        Raises:
            ConfigError: As :meth:`forward`.
        """
        if features.shape[-1] != self.n_features:
            raise ConfigError(
                f"{type(self).__name__} was built for {self.n_features} features per instance, got "
                f"{features.shape[-1]}. Pass features of the encoder that it was trained on."
            )
        if mask is None:
            mask = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
        if mask.shape != features.shape[:2]:
            raise ConfigError(f"A mask is {tuple(features.shape[:2])} for these features, got {tuple(mask.shape)}.")
        empty = (~mask.any(dim=1)).nonzero().flatten().tolist()
        if empty or len(features) == 0:
            raise ConfigError(f"Bags without an instance have no logits; in this batch: {empty}. Leave them out.")
        return features.masked_fill(~mask[(..., *(None,) * (features.ndim - 2))], 0), mask

    def holding(self, features: Float[Tensor, "n d"]) -> AbstractContextManager[None]:
        """A context in which the model chooses the instances that it would choose in this bag, for bags of its length.

        For models that look up the instance of the highest score, which moves by a jump; most choose none.
        """
        return nullcontext()

    @abstractmethod
    def aggregate(self, features: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> AggregatorOutput:
        """What :meth:`forward` gives, for input that has been checked and cleaned."""


def weigh(scores: Float[Tensor, "b n m"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b n m"]:
    """Softmax over the instances that are there, 0 elsewhere; in float32 or wider, whatever the scores are in."""
    wide = torch.promote_types(scores.dtype, torch.float32)
    return scores.to(wide).masked_fill(~mask[..., None], -torch.inf).softmax(dim=1)


def pool(weights: Float[Tensor, "b n m"], values: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
    """Weighted sums of the instances' vectors, one per map, in the vectors' own precision."""
    return weights.to(values.dtype).transpose(1, 2) @ values
