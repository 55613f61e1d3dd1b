"""One loop trains everything that is trained by gradient.

A task brings its modules, its data, its step and its metric (:class:`TrainingTask`); :func:`train` brings the rest:
precision, accumulation, clipping, several processes (``torchrun``), validation, best and last weights, resumption at
the very step, logs, progress. Files of a training::

    training.json         settings and the task's recipe
    last.safetensors      weights at the end, as <module>.<key>
    best.safetensors      weights with the best monitored metric
    train.csv             step, epoch, learning rate, loss and what else the steps log
    validation.csv        step, epoch, metrics
    tensorboard/          the same, for TensorBoard
    state.pt              optimiser, schedule, generators, position; names the weights that go with it
    last-00000123.safetensors, best-00000100.safetensors   those weights, while training is under way
"""

from microtome.tasks.training.loop import TrainingStoppedError, train
from microtome.tasks.training.settings import Precision, TrainingResult, TrainingSettings
from microtome.tasks.training.task import StepResult, TrainingTask

__all__ = [
    "Precision",
    "StepResult",
    "TrainingResult",
    "TrainingSettings",
    "TrainingStoppedError",
    "TrainingTask",
    "train",
]
