"""The loop."""

import math
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from microtome.errors import ConfigError, RecipeMismatchError, TrainingError
from microtome.storage import Claim, Progress, QuietProgress, recipe_changes, recipe_text, write_text, written_whole
from microtome.tasks.training.checkpoint import (
    STATE,
    Checkpoints,
    generators,
    plain_state,
    read_weights,
    seeded,
    set_generators,
    write_weights,
)
from microtome.tasks.training.logs import Logs
from microtome.tasks.training.parallel import (
    Ranks,
    all_of,
    any_of,
    average_gradients,
    first_of,
    joined,
    ranks,
    spread_buffers,
    spread_weights,
    wait_for_all,
)
from microtome.tasks.training.settings import TrainingResult, TrainingSettings
from microtome.tasks.training.task import StepResult, TrainingTask

_UNDECIDING = ("checkpoint_every", "checkpoint_every_steps", "tensorboard")  # settings that change no number


class TrainingStoppedError(KeyboardInterrupt):
    """Ctrl-C ended a training after a step, and a checkpoint was written; the same call goes on from there."""


def train(
    task: TrainingTask,
    settings: TrainingSettings,
    folder: Path | None = None,
    *,
    progress: Progress | None = None,
    place: Ranks | None = None,
) -> TrainingResult:
    """Train a task's modules, in place.

    Where the folder holds a checkpoint of the same training, it goes on from that step as if it had never stopped (on
    a CPU in fp32 bit by bit); where it holds a finished one, the modules get its last weights and nothing is trained.
    Started in several processes by ``torchrun``, each goes through its part of every batch, and all end with the same
    weights.

    Args:
        task: What is trained; its modules are on their device.
        settings: How.
        folder: For checkpoints and logs; None: nothing is written, and Ctrl-C ends it at once.
        progress: Where progress is shown; nowhere by default.
        place: This process among several; by default what the environment says.

    Returns:
        What came of it; the modules hold the last weights, in evaluation mode.

    Raises:
        ConfigError: If the settings cannot be honoured on this device, or the task contradicts itself.
        TrainingError: If a loss, a gradient or a weight is no longer finite; says where.
        RecipeMismatchError: If the folder holds another training.
        ClaimedError: If another process trains in the folder.
        CorruptOutputError: If the folder's checkpoint cannot be read.
        OutputWriteError: If the folder cannot be written.
        TrainingStoppedError: After Ctrl-C, with a checkpoint written.
    """
    place = place or ranks()
    device = _device(task)
    with ExitStack() as around:
        around.enter_context(joined(place, device))
        around.enter_context(seeded(settings.seed, place.rank, device))
        if folder is not None and place.rank == 0:
            around.enter_context(Claim(folder / STATE))
        loop = _Loop(task, settings, folder, place, progress if progress and place.rank == 0 else QuietProgress())
        around.callback(loop.close)
        stop = around.enter_context(_ctrl_c_noted()) if folder is not None else threading.Event()
        return loop.run(stop)


def _device(task: TrainingTask) -> torch.device:
    for module in task.modules().values():
        for tensor in [*module.parameters(), *module.buffers()]:
            return tensor.device
    raise ConfigError("There is nothing to train: the task's modules have no parameters.")


@contextmanager
def _ctrl_c_noted() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second ends everything at once. Only the main thread hears it."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.getsignal(signal.SIGINT)

    def note(*_: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass
class _Position:
    """How far a training is; all of it is in the checkpoint.

    Attributes:
        epoch: From 0.
        batch: Next batch of the epoch.
        step: Steps of the optimiser so far.
        metrics: Of the last validation.
        best_metrics: Of the best one.
        best_epoch: Its epoch.
        best_step: Its step.
        waited: Validations since.
        sums: Sums of what the steps logged since the last line of the log.
        counts: How many of each.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    best_metrics: dict[str, float] = field(default_factory=dict)
    best_epoch: int | None = None
    best_step: int | None = None
    waited: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


class _Loop:
    def __init__(
        self, task: TrainingTask, settings: TrainingSettings, folder: Path | None, place: Ranks, progress: Progress
    ) -> None:
        self.task, self.settings, self.place, self.progress = task, settings, place, progress
        self.folder = folder
        self.modules = dict(task.modules())
        self.device = _device(task)
        self.n_batches = task.n_batches()
        self.steps_per_epoch = math.ceil(self.n_batches / settings.accumulate)
        self._check()
        spread_weights(self.modules.values(), place)
        self.optimizer = task.optimizer()
        self.optimizer.zero_grad(set_to_none=True)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.scheduler = task.scheduler(self.optimizer, self.steps_per_epoch * settings.n_epochs)
        self.scaler = torch.amp.GradScaler(self.device.type) if settings.precision == "fp16" else None
        self.at = _Position()
        self.pending: list[tuple[str, Mapping[str, Tensor | float]]] = []
        self.finished = False
        self.checkpoints = None if folder is None else Checkpoints(folder)
        self.logs: Logs | None = None

    def _check(self) -> None:
        if self.settings.precision == "fp16" and self.device.type != "cuda":
            raise ConfigError(f"fp16 is for GPUs, and the modules are on '{self.device}'. Choose bf16 or fp32.")
        said = all_of(self.place, self.n_batches)
        if len(set(said)) > 1:
            raise ConfigError(f"Every process must have the same number of batches, got {said}.")
        if self.n_batches < 1:
            raise ConfigError("The task has no batch to train on. Give it more data or a smaller batch.")

    # ---- the course of a training

    def run(self, stop: threading.Event) -> TrainingResult:
        self._resume()
        if not self.finished:
            left = self.steps_per_epoch * self.settings.n_epochs - self.at.step
            self.progress.start("train", left, "steps")
            try:
                while self.at.epoch < self.settings.n_epochs and not self._is_tired():
                    self._train_epoch(stop)
                    self._end_epoch()
                self._finish()
            finally:
                self.progress.finish()
        for module in self.modules.values():
            module.eval()
        at = self.at
        last = best = None
        if self.checkpoints is not None:
            last = self.checkpoints.path("last")
            best = None if at.best_epoch is None else self.checkpoints.path("best")
        return TrainingResult(at.step, at.epoch, at.metrics, at.best_metrics, at.best_epoch, last, best)

    def _train_epoch(self, stop: threading.Event) -> None:
        epoch, accumulate = self.at.epoch, self.settings.accumulate
        number = self.at.batch
        for module in self.modules.values():
            module.train()
        self.task.begin_epoch(epoch)
        for batch in self.task.batches(epoch, number):
            if number == self.n_batches:
                raise ConfigError(f"The task said that an epoch has {self.n_batches} batches, and gives more.")
            first = number - number % accumulate
            size = min(accumulate, self.n_batches - first)
            self._forth_and_back(batch, number, size)
            number += 1
            if number == first + size:
                self._step()
                self.at.batch = number
                self._after_step(stop)
        if number != self.n_batches:
            raise ConfigError(f"The task said that an epoch has {self.n_batches} batches, and gave {number}.")

    def _forth_and_back(self, batch: object, number: int, size: int) -> None:
        """Add a batch's share to the gradient; ``size`` batches make a step."""
        self.task._scaled = self._as_is if size == 1 and self.scaler is None else partial(self._share, size=size)
        with self._cast():
            result = self.task.step(batch)
        where = f"epoch {self.at.epoch}, batch {number} (step {self.at.step})"
        self._note(where, result)
        if result.loss.requires_grad:
            self.task.backward(result.loss)

    @staticmethod
    def _as_is(loss: Tensor) -> Tensor:
        return loss

    def _share(self, loss: Tensor, *, size: int) -> Tensor:
        """A loss as one of those whose mean makes a step, scaled so that fp16 holds its gradient."""
        return loss / size if self.scaler is None else self.scaler.scale(loss / size)

    def _cast(self) -> AbstractContextManager[Any]:
        if self.settings.precision == "fp32":
            return nullcontext()
        kind = torch.bfloat16 if self.settings.precision == "bf16" else torch.float16
        return torch.autocast(self.device.type, kind)

    def _step(self) -> None:
        average_gradients(self.parameters, self.place)
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.settings.clip is not None:
            norm = nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
            if self.scaler is None:  # with fp16 it overflows now and then, and the scaler leaves out the step
                self.pending.append((f"epoch {self.at.epoch} (step {self.at.step})", {"grad_norm": norm}))
                self._drain_if_cheap()
        done = True
        if self.scaler is None:
            self.optimizer.step()
        else:
            scale = self.scaler.get_scale()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            done = self.scaler.get_scale() >= scale
        self.optimizer.zero_grad(set_to_none=True)
        if self.scheduler is not None and done:
            self.scheduler.step()
        self.at.step += 1

    def _after_step(self, stop: threading.Event) -> None:
        """What is due between two steps: logs, progress, checkpoints."""
        self.progress.advance(1)
        if self.folder is None:
            if len(self.pending) >= self.settings.log_every:
                self._drain()
            return
        at, settings = self.at, self.settings
        ends = at.batch == self.n_batches
        if at.step % settings.log_every == 0 or ends:
            self._log_line()
        asked = self.place.world == 1 or at.step % settings.log_every == 0  # several ask each other, which takes time
        if asked and any_of(self.place, flag=stop.is_set()):
            self._checkpoint()
            raise TrainingStoppedError(f"Training was stopped after step {at.step}. The same call goes on from there.")
        every = settings.checkpoint_every_steps
        if every is not None and at.step % every == 0 and not ends:
            self._checkpoint()

    def _end_epoch(self) -> None:
        at, settings = self.at, self.settings
        self._drain()
        last = at.epoch + 1 == settings.n_epochs
        if settings.validate_every and ((at.epoch + 1) % settings.validate_every == 0 or last):
            self._validate()
        at.epoch, at.batch = at.epoch + 1, 0
        if at.epoch % settings.checkpoint_every == 0 and not last:
            self._checkpoint()

    def _validate(self) -> None:
        at, monitor = self.at, self.settings.monitor
        spread_buffers(self.modules.values(), self.place)
        for module in self.modules.values():
            module.eval()
        with torch.no_grad(), self._cast():
            found = {name: float(value) for name, value in self.task.validate(at.epoch).items()}
        at.metrics = first_of(self.place, found)
        if self.logs is not None:
            self.logs.add("validation", at.step, at.epoch, at.metrics)
        if monitor is None:
            return
        if monitor not in at.metrics:
            raise ConfigError(
                f"monitor='{monitor}' is not a metric of this task; it has {', '.join(sorted(at.metrics))}."
            )
        at.waited += 1
        if self._is_better(at.metrics[monitor]):
            at.best_metrics, at.best_epoch, at.best_step, at.waited = dict(at.metrics), at.epoch, at.step, 0
            self._write_weights("best", at.step)

    def _is_better(self, value: float) -> bool:
        """Whether a value beats the best so far; NaN never does."""
        if math.isnan(value):
            return False
        if self.at.best_epoch is None:
            return True
        best = self.at.best_metrics[str(self.settings.monitor)]
        return value > best if self.settings.better == "high" else value < best

    def _is_tired(self) -> bool:
        return self.settings.patience is not None and self.at.waited >= self.settings.patience

    # ---- what the steps say

    def _note(self, where: str, result: StepResult) -> None:
        self.pending.append((where, {"loss": result.loss.detach(), **result.logs}))
        self._drain_if_cheap()

    def _drain_if_cheap(self) -> None:
        """On a CPU numbers are looked at when they come; on a GPU that would wait for the step to end."""
        if self.device.type == "cpu":
            self._drain()

    def _drain(self) -> None:
        """Add up what the steps said since the last time; raise where it is not finite."""
        at, pending = self.at, self.pending
        self.pending = []
        for where, values in pending:
            for name, value in values.items():
                number = float(value)
                if name in ("loss", "grad_norm") and not math.isfinite(number):
                    what = "The loss" if name == "loss" else "The norm of the gradient"
                    raise TrainingError(
                        f"{what} is {number} at {where}. Look at the data of that batch, or pass a smaller learning "
                        "rate, clip=, or fp32 precision."
                    )
                at.sums[name] = at.sums.get(name, 0.0) + number
                at.counts[name] = at.counts.get(name, 0) + 1

    def _log_line(self) -> None:
        self._drain()
        at = self.at
        if self.logs is not None:
            rate = float(self.optimizer.param_groups[0]["lr"])
            means = {name: at.sums[name] / at.counts[name] for name in at.sums}
            self.logs.add("train", at.step, at.epoch, {"learning_rate": rate, **means})
        at.sums, at.counts = {}, {}

    # ---- the folder

    def _recipe(self) -> dict[str, Any]:
        settings = {name: value for name, value in asdict(self.settings).items() if name not in _UNDECIDING}
        shape = {"n_batches": self.n_batches, "processes": self.place.world}
        return {**settings, **shape, "task": dict(self.task.recipe())}

    def _resume(self) -> None:
        if self.folder is None or self.checkpoints is None:
            return
        state = self.checkpoints.read()
        self._check_recipe(self.folder, state)
        wait_for_all(self.place)  # the first process tidies up only when all have read
        if state is not None:
            self._load(self.folder, state)
        if self.place.rank == 0:
            self.checkpoints.tidy(state)
            if not self.finished:
                self.logs = Logs(self.folder, self.at.step, tensorboard=self.settings.tensorboard)

    def _check_recipe(self, folder: Path, state: Mapping[str, Any] | None) -> None:
        """Compare what is there with what is to be done, and write down what is to be done."""
        new = recipe_text(self._recipe())
        if state is not None and state["recipe"] != new:
            changes = "; ".join(recipe_changes(state["recipe"], new))
            raise RecipeMismatchError(f"'{folder}' holds another training ({changes}). Choose another folder.")
        if self.place.rank == 0:
            write_text(folder / "training.json", new + "\n")

    def _load(self, folder: Path, state: Mapping[str, Any]) -> None:
        read_weights(folder / state["last"], self.modules)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        set_generators(state["generators"][self.place.rank], self.device)
        self.task.load_state(state["task"])
        self.at = replace(self.at, **state["position"])
        self.finished = state["finished"]

    def _write_weights(self, kind: str, step: int | None) -> str | None:
        """Write the weights as they are now, unless there is no folder; the name of the file."""
        if self.checkpoints is None:
            return None
        path = self.checkpoints.path(kind, step)
        if self.place.rank == 0:
            self._check_weights()
            write_weights(path, self.modules, {"step": str(self.at.step)})
        return path.name

    def _check_weights(self) -> None:
        for name, module in self.modules.items():
            for key, tensor in module.named_parameters():
                if not torch.isfinite(tensor).all():
                    raise TrainingError(
                        f"The weights '{name}.{key}' are no longer finite after step {self.at.step}; the last "
                        "checkpoint is kept. Pass a smaller learning rate, clip=, or fp32 precision."
                    )

    def _checkpoint(self, *, finished: bool = False) -> None:
        if self.checkpoints is None:
            return
        self._drain()
        at = self.at
        states = all_of(self.place, generators(self.device))  # from every process
        if self.place.rank != 0:
            return
        best = None if at.best_step is None else self.checkpoints.path("best", None if finished else at.best_step).name
        self.checkpoints.commit(
            {
                "recipe": recipe_text(self._recipe()),
                "last": self._write_weights("last", None if finished else at.step),
                "best": best,
                "position": plain_state(asdict(at)),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
                "scaler": None if self.scaler is None else self.scaler.state_dict(),
                "generators": states,
                "task": plain_state(self.task.state()),
                "finished": finished,
            }
        )

    def _finish(self) -> None:
        spread_buffers(self.modules.values(), self.place)
        if self.checkpoints is not None and self.place.rank == 0 and self.at.best_step is not None:
            best = self.checkpoints.path("best", self.at.best_step)
            with written_whole(self.checkpoints.path("best")) as temporary:
                temporary.write_bytes(best.read_bytes())
        self._checkpoint(finished=True)
        wait_for_all(self.place)

    def close(self) -> None:
        if self.logs is not None:
            self.logs.close()
