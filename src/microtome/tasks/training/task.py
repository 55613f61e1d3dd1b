"""What a task brings to the loop: modules, data, a step, a metric."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


@dataclass(slots=True)
class StepResult:
    """What a step found.

    Attributes:
        loss: Mean over the batch, a scalar. One without a gradient says that the step has gone backward itself,
            through :meth:`TrainingTask.backward`.
        logs: Further numbers to log beside it (scalar tensors without a gradient, or floats).
    """

    loss: Tensor
    logs: Mapping[str, Tensor | float] = field(default_factory=dict)


class TrainingTask(ABC):
    """What is trained: modules, optimiser, batches, step, metric.

    The modules are built, and on their device, before training begins. With several processes
    (:func:`~microtome.tasks.training.parallel.ranks`), each takes its part of every joint batch, of the same size as
    the others' (:func:`~microtome.tasks.training.order.batch_rows` does it): gradients are averaged over the processes.
    """

    @abstractmethod
    def modules(self) -> Mapping[str, nn.Module]:
        """The modules that are trained or have state, by name; weights are saved as ``<name>.<key>``."""

    @abstractmethod
    def optimizer(self) -> "Optimizer":
        """A new optimiser of the modules' parameters; asked for once."""

    @abstractmethod
    def n_batches(self) -> int:
        """Batches of one epoch, the same in every epoch and in every process; asked for once."""

    @abstractmethod
    def batches(self, epoch: int, start: int) -> Iterable[Any]:
        """This process's batches of an epoch, from number ``start`` on, without reading those before it.

        What they hold depends on the epoch, their number and the process alone.
        """

    @abstractmethod
    def step(self, batch: Any) -> StepResult:  # noqa: ANN401 - whatever batches() gives
        """Loss of a batch; the loop goes backward and steps the optimiser."""

    def scheduler(self, optimizer: "Optimizer", n_steps: int) -> "LRScheduler | None":
        """What changes the learning rate after every step of the optimiser, of which there will be ``n_steps``.

        :mod:`microtome.tasks.training.schedules` has some; None keeps the rate as it is.
        """
        return None

    def begin_epoch(self, epoch: int) -> None:  # noqa: B027 - a hook that need do nothing
        """Called before an epoch's first batch, or the first after a resumption, the modules in training mode.

        Here a task puts what it keeps frozen back into evaluation mode.
        """

    def validate(self, epoch: int) -> Mapping[str, float]:
        """Metrics after an epoch; called without gradients, the modules in evaluation mode.

        Every process is asked; the numbers of the first count.
        """
        return {}

    def recipe(self) -> Mapping[str, Any]:
        """Plain values that decide what is trained (data, model, options): a folder is resumed only with the same."""
        return {}

    def state(self) -> Mapping[str, Any]:
        """What else must survive a kill: tensors, plain values and containers of them."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - as above
        """Take back what :meth:`state` gave."""

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradient to the parameters, scaled as the loop needs it (accumulation, fp16).

        For steps that go backward in several parts, so that they hold the memory of one; the parts' losses add up to
        that of the batch.
        """
        self._scaled(loss).backward()  # type: ignore[no-untyped-call]  # torch does not type it

    _scaled: Callable[[Tensor], Tensor] = staticmethod(lambda loss: loss)  # the loop puts its own here
