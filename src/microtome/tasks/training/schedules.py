"""How the learning rate changes from step to step."""

import math
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from microtome.errors import ConfigError


def cosine_warmup(optimizer: Optimizer, n_steps: int, *, warmup: int | float = 0.1, n_cycles: float = 0.5) -> LambdaLR:
    """Rising linearly from 0, then falling along a cosine.

    Args:
        optimizer: Its rates are multiplied.
        n_steps: Steps of the whole training.
        warmup: Steps of the rise: a whole number (``int``), or a fraction of all (``float``).
        n_cycles: Waves of the cosine: by 0.5 it ends at 0.

    Raises:
        ConfigError: If the rise is negative, or a fraction above 1.

    References:
        specs/fastglioma.md section 3, "Common".
    """
    if warmup < 0 or (isinstance(warmup, float) and warmup > 1):
        raise ConfigError(f"warmup must be a number of steps, or a fraction from 0 to 1, got {warmup}.")
    rise = warmup if isinstance(warmup, int) else int(warmup * n_steps)

    def factor(step: int) -> float:
        if step < rise:
            return step / max(1, rise)
        progress = (step - rise) / max(1, n_steps - rise)
        return max(0.0, 0.5 * (1 + math.cos(2 * math.pi * n_cycles * progress)))

    return LambdaLR(optimizer, factor)


def step_lr(
    optimizer: Optimizer,
    *,
    step_size: int,
    gamma: float = 0.1,
    unit: Literal["epoch", "step"] = "epoch",
    steps_per_epoch: int = 1,
) -> LambdaLR:
    """Multiplied by ``gamma`` after every ``step_size`` epochs or steps.

    Args:
        optimizer: Its rates are multiplied.
        step_size: Epochs, or steps of the optimiser.
        gamma: The factor.
        unit: Which of the two.
        steps_per_epoch: Steps of the optimiser in an epoch; used for epochs only.

    Raises:
        ConfigError: If ``step_size`` is below 1.
    """
    if step_size < 1:
        raise ConfigError(f"step_size must be at least 1, got {step_size}.")
    every = step_size * (steps_per_epoch if unit == "epoch" else 1)
    return LambdaLR(optimizer, lambda step: gamma ** (step // every))


def constant(optimizer: Optimizer) -> LambdaLR:
    """As the optimiser has it."""
    return LambdaLR(optimizer, lambda _: 1.0)
