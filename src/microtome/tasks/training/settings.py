"""How a training runs, and what comes of it. Needs no torch to be imported."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from microtome.errors import ConfigError

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How a training runs.

    Attributes:
        n_epochs: Passes over the data.
        precision: Of matrix products and convolutions; weights and the optimiser stay as they are. ``fp16`` needs a
            GPU; its gradients are scaled.
        accumulate: Batches per step of the optimiser; what is left at the end of an epoch makes a smaller step.
        clip: Largest norm of the gradient of all parameters together; None: any.
        validate_every: Epochs between two validations, the last epoch always; 0: never.
        monitor: Name of the metric that tells the best weights; None: none are kept.
        better: Whether the monitored metric is better high or low.
        patience: Validations without a better metric after which training ends early; None: never.
        checkpoint_every: Epochs between two checkpoints, the last epoch always.
        checkpoint_every_steps: Steps between two checkpoints, beside those; None: none.
        log_every: Steps that one line of the log is the mean of; an epoch's last line may have fewer.
        tensorboard: Whether TensorBoard's files are written too.
        seed: Of the generators of torch, numpy and Python while training runs; each process has its own.
    """

    n_epochs: int
    precision: Precision = "fp32"
    accumulate: int = 1
    clip: float | None = None
    validate_every: int = 1
    monitor: str | None = None
    better: Literal["high", "low"] = "high"
    patience: int | None = None
    checkpoint_every: int = 1
    checkpoint_every_steps: int | None = None
    log_every: int = 10
    tensorboard: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_epochs", "accumulate", "checkpoint_every", "log_every"):
            self._check_at_least(name, getattr(self, name), 1)
        for name in ("patience", "checkpoint_every_steps"):
            self._check_at_least(name, getattr(self, name), 1)
        self._check_at_least("validate_every", self.validate_every, 0)
        self._check_at_least("seed", self.seed, 0)
        if self.clip is not None and not self.clip > 0:
            raise ConfigError(f"clip must be above 0, got {self.clip}. Pass None to clip nothing.")
        if self.monitor is not None and self.validate_every == 0:
            raise ConfigError(f"monitor='{self.monitor}' needs validations: pass validate_every=1 or more.")
        if self.patience is not None and self.monitor is None:
            raise ConfigError("patience needs a metric to wait for: pass monitor=.")

    def _check_at_least(self, name: str, value: int | None, least: int) -> None:
        if value is not None and value < least:
            raise ConfigError(f"{name} must be at least {least}, got {value}.")


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What came of a training.

    Attributes:
        n_steps: Steps of the optimiser, those before a resumption included.
        n_epochs: Epochs begun.
        metrics: Of the last validation; empty where there was none.
        best_metrics: Of the validation with the best monitored metric; empty where none is monitored.
        best_epoch: Its epoch, from 0; None where there is none.
        last: Weights at the end (safetensors); None without a folder.
        best: Weights with the best metric; None without a folder, or where none is monitored.
    """

    n_steps: int
    n_epochs: int
    metrics: Mapping[str, float]
    best_metrics: Mapping[str, float]
    best_epoch: int | None
    last: Path | None = None
    best: Path | None = None
