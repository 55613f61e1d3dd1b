"""What is to be trained, and what comes of it. Needs no torch to be imported."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Int64

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """An aggregator by name, with its options.

    Attributes:
        name: One of ``list_aggregators()``.
        options: What its class takes beyond the number of features and outputs.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hyper:
    """How one model is trained.

    Attributes:
        learning_rate: Of Adam.
        weight_decay: Added to the gradient (L2), as Adam has it.
        n_epochs: Passes over the training rows.
        batch_size: Bags per step of the optimiser; bags that do not fill a batch are left out at the end of an epoch
            (every epoch has its own order), unless there are fewer than one batch.
        risk_batch: Bags per step for objectives that compare bags; None for all training rows.
        seed: Of the initial weights; the order of bags has the seed of the run.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    n_epochs: int = 50
    batch_size: int = 16
    risk_batch: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TrainJob:
    """One model to train.

    Attributes:
        key: Its name within the run, for files and messages.
        train: Rows of the labels to train on.
        test: Rows to predict after every epoch; may be none.
        hyper: How.
    """

    key: str
    train: Int64[np.ndarray, " n"]
    test: Int64[np.ndarray, " m"]
    hyper: Hyper = field(default_factory=Hyper)


@dataclass(frozen=True, slots=True)
class JobResult:
    """What came of a job.

    Attributes:
        key: The job's.
        logits: (epochs, m, c) of the test rows after each epoch, in the order of ``job.test``.
        train_loss: (epochs,) mean loss over the steps of an epoch.
        state: The weights after the last epoch, under the aggregator's own names, on the CPU.
        objective: ``state()`` of the fitted objective.
    """

    key: str
    logits: Float32[np.ndarray, "epochs m c"]
    train_loss: Float32[np.ndarray, " epochs"]
    state: "Mapping[str, Tensor]"
    objective: Mapping[str, Any]
