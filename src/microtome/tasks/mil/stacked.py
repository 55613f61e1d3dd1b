"""Many models of one kind as one: their parameters are the rows of a table, and a network takes them all at once.

Axes: m models, P parameters of one, b bags, n instances, c outputs.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from microtome.models.aggregators.base import Aggregator
from microtome.models.aggregators.registry import build_aggregator
from microtome.tasks.mil.jobs import ModelSpec
from microtome.tasks.mil.packed import Pack

_KEPT = 3
"""Values that a backward pass keeps for each output of a layer, about."""


class StackOutput(NamedTuple):
    """What networks give for a pack.

    Attributes:
        logits: (m, b, c) float32.
        instance_loss: (m, b) of CLAM, where it was asked for.
    """

    logits: Float32[Tensor, "m b c"]
    instance_loss: Float32[Tensor, "m b"] | None


def initial_model(spec: ModelSpec, n_features: int, n_outputs: int, seed: int) -> Aggregator:
    """A new aggregator, its weights drawn from a seed; torch's own generator stays where it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_aggregator(spec.name, n_features, n_outputs, **spec.options)


class Layout:
    """Where each parameter of a model lies in its row.

    Args:
        model: One of the models.
    """

    def __init__(self, model: Aggregator) -> None:
        named = dict(model.named_parameters())
        self.names = list(named)
        self.shapes = [p.shape for p in named.values()]
        self.sizes = [p.numel() for p in named.values()]

    def row(self, model: Aggregator) -> Float32[Tensor, " p"]:
        """A model's parameters, end to end."""
        named = dict(model.named_parameters())
        return torch.cat([named[name].detach().float().flatten() for name in self.names])

    def split(self, rows: Float[Tensor, "m p"]) -> dict[str, Tensor]:
        """Rows as parameters by name, each (m, ...)."""
        parts = torch.split(rows, self.sizes, dim=1)
        return {
            name: part.reshape(len(rows), *shape)
            for name, part, shape in zip(self.names, parts, self.shapes, strict=True)
        }

    def used(self, aside: Sequence[str]) -> Float32[Tensor, " p"]:
        """1 where a parameter is trained, 0 where its name says that the loss does not depend on it."""
        marks = [torch.full((size,), 0.0 if name.startswith(tuple(aside)) else 1.0) for name, size in self._sized()]
        return torch.cat(marks)

    def _sized(self) -> list[tuple[str, int]]:
        return list(zip(self.names, self.sizes, strict=True))


@dataclass(frozen=True, slots=True)
class Noise:
    """What dropout leaves out: decided by seed, epoch, row and layer alone, for models alone as for models together.

    Models with one seed share it, as they do when they are trained one after the other from that seed.

    Attributes:
        seeds: Of the models.
        epoch: Of the training.
    """

    seeds: tuple[int, ...]
    epoch: int

    def mask(self, layer: str, pack: Pack, width: int, share: float) -> Float[Tensor, "m n w"]:
        """0 where a value is left out, 1 / (1 - share) elsewhere; one for all models where they have one seed."""
        seeds = self.seeds[:1] if len(set(self.seeds)) == 1 else self.seeds
        drawn: dict[int, Tensor] = {}
        for seed in dict.fromkeys(seeds):
            each = [
                self.of_bag(layer, seed, row, (n, width), share, pack.features)
                for row, n in zip(pack.rows, pack.lengths, strict=True)
            ]
            drawn[seed] = torch.cat(each)
        return torch.stack([drawn[seed] for seed in seeds])

    def of_bag(
        self, layer: str, seed: int, row: int, shape: tuple[int, int], share: float, like: Tensor
    ) -> Float[Tensor, "n w"]:
        """The mask of one bag and one model."""
        generator = torch.Generator(like.device)
        generator.manual_seed(self.key(layer, seed, row))
        kept = torch.empty(shape, device=like.device).bernoulli_(1 - share, generator=generator)
        return (kept / (1 - share)).to(like.dtype)

    def key(self, layer: str, seed: int, row: int) -> int:
        """A seed for one layer, model and bag."""
        digest = hashlib.sha256(f"{seed}\0{self.epoch}\0{row}\0{layer}".encode()).digest()
        return int.from_bytes(digest[:8], "little") >> 1


class StackedNetwork(ABC):
    """A kind of aggregator, computed for many models at once; made from one of them, whose options it has.

    Args:
        model: Says which options; its weights do not matter.

    Attributes:
        instance_loss: Whether the instance loss of CLAM is wanted.
    """

    instance_loss: bool = False

    def __init__(self, model: Aggregator) -> None:
        self.model = model

    @property
    def numbers_per_instance(self) -> int:
        """What one model keeps of one instance for its backward pass, about."""
        linear = [layer for layer in self.model.modules() if isinstance(layer, nn.Linear | nn.Conv1d)]
        return _KEPT * sum(layer.weight.shape[0] for layer in linear)

    @abstractmethod
    def __call__(
        self, p: Mapping[str, Tensor], pack: Pack, noise: Noise | None, classes: Int64[Tensor, " b"]
    ) -> StackOutput:
        """Logits of every bag by every model.

        Args:
            p: Parameters by name, (m, ...).
            pack: The bags.
            noise: Of dropout; None where nothing is left out.
            classes: Of each bag, for the instance loss.
        """
