"""Optimisers and schedules of the published training.

References:
    specs FastGlioma section 3, "Common".
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from microtome.tasks.training.schedules import constant, cosine_warmup, step_lr


@dataclass(frozen=True, slots=True)
class OptimiserSettings:
    """How weights follow gradients.

    Attributes:
        name: ``adamw``, ``adam`` or ``sgd`` (momentum 0.9).
        learning_rate: At its highest.
        weight_decay: None for the library's default: 0.01 for adamw, else 0.
        schedule_name: ``cosine`` with warm-up, ``step``, or ``constant``.
        warmup: Share of the steps in which the rate rises.
        step_epochs: Epochs after which ``step`` multiplies the rate.
        gamma: By which it does.
        accumulate: Batches per step of the optimiser.
    """

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float | None = None
    schedule_name: Literal["cosine", "step", "constant"] = "cosine"
    warmup: float = 0.1
    step_epochs: int = 20
    gamma: float = 0.1
    accumulate: int = 1

    def build(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """A new optimiser of some parameters."""
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        decay = self.weight_decay if self.weight_decay is not None else 0.01 if self.name == "adamw" else 0.0
        if self.name == "sgd":
            return torch.optim.SGD(trained, lr=self.learning_rate, momentum=0.9, weight_decay=decay)
        kind = torch.optim.AdamW if self.name == "adamw" else torch.optim.Adam
        return kind(trained, lr=self.learning_rate, weight_decay=decay)

    def schedule(self, optimizer: Optimizer, n_steps: int, *, n_batches: int) -> LRScheduler:
        """What changes its rate from step to step.

        Args:
            optimizer: Whose rate.
            n_steps: Steps of the whole training.
            n_batches: Batches of an epoch.
        """
        if self.schedule_name == "constant":
            return constant(optimizer)
        if self.schedule_name == "step":
            per_epoch = -(-n_batches // self.accumulate)
            return step_lr(optimizer, step_size=self.step_epochs, gamma=self.gamma, steps_per_epoch=per_epoch)
        return cosine_warmup(optimizer, n_steps, warmup=float(self.warmup))

    def recipe(self) -> Mapping[str, Any]:
        """Plain values of all of it."""
        return {f"optimiser_{name}": value for name, value in asdict(self).items()}
