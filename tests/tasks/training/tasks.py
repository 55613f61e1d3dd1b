"""A small task for tests of the loop; run as a script it trains into a folder, for tests that kill it."""

import dataclasses
import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from microtome.tasks.training import StepResult, TrainingSettings, TrainingStoppedError, TrainingTask, train
from microtome.tasks.training.order import batch_rows, epoch_order, n_joint_batches
from microtome.tasks.training.parallel import Ranks, ranks
from microtome.tasks.training.schedules import cosine_warmup

N_ROWS, N_FEATURES = 48, 5


class Regression(TrainingTask):
    """A small network with dropout and running statistics, on made-up numbers."""

    def __init__(self, place=None, *, batch_size=4, dropout=0.2, norm=True, spoil=None):
        torch.manual_seed(3)
        layers = [nn.Linear(N_FEATURES, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1)]
        if norm:
            layers.insert(1, nn.BatchNorm1d(8))
        self.net = nn.Sequential(*layers)
        generator = np.random.default_rng(0)
        self.x = torch.from_numpy(generator.normal(size=(N_ROWS, N_FEATURES)).astype(np.float32))
        self.y = self.x.sum(1, keepdim=True).sin() + 0.5
        self.place, self.batch_size, self.spoil = place or Ranks(), batch_size, spoil
        self.seen: list[int] = []
        self.n_steps = 0

    def modules(self):
        return {"net": self.net}

    def optimizer(self):
        return torch.optim.AdamW(self.net.parameters(), lr=0.02)

    def scheduler(self, optimizer, n_steps):
        return cosine_warmup(optimizer, n_steps, warmup=3)

    def n_batches(self):
        return n_joint_batches(N_ROWS, self.batch_size, self.place)

    def batches(self, epoch, start):
        order = epoch_order(N_ROWS, seed=1, epoch=epoch)
        for number in range(start, self.n_batches()):
            yield batch_rows(order, number, self.batch_size, self.place)

    def step(self, batch):
        self.seen += batch.tolist()
        self.n_steps += 1
        x = self.x[batch]
        if self.spoil == self.n_steps:
            x = x * torch.nan
        error = self.net(x) - self.y[batch]
        drawn = float(np.random.rand())  # noqa: NPY002 - the global generator must survive a kill too
        return StepResult((error**2).mean(), {"error": error.detach().abs().mean(), "drawn": drawn})

    def validate(self, epoch):
        error = float(((self.net(self.x) - self.y) ** 2).mean())
        return {"mse": error, "nothing": float("nan")}

    def recipe(self):
        return {"batch_size": self.batch_size}

    def state(self):
        return {"n_steps": self.n_steps, "last": np.arange(3)}

    def load_state(self, state):
        self.n_steps = state["n_steps"]
        assert state["last"].tolist() == [0, 1, 2]


SETTINGS = TrainingSettings(
    n_epochs=4,
    accumulate=5,
    clip=0.5,
    monitor="mse",
    better="low",
    checkpoint_every_steps=2,
    log_every=2,
    tensorboard=False,
    seed=7,
)


def weights(task: TrainingTask) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value.clone()
        for name, module in task.modules().items()
        for key, value in module.state_dict().items()
    }


class Killed(Regression):
    """Dies, as by ``kill -9``, in its ``n``-th step."""

    def __init__(self, n):
        super().__init__()
        self.left = n

    def step(self, batch):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(batch)


def die_before_renaming(n):
    """Make the ``n``-th file that is renamed into its place the last thing that this process does not do."""
    rename, left = Path.replace, [n]

    def replace(self, target):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)

    Path.replace = replace  # type: ignore[method-assign]  # this process is about to die


JOINT = dataclasses.replace(SETTINGS, n_epochs=3, accumulate=2, clip=0.5, checkpoint_every_steps=None)


def joint_task(place=None):
    """Trains to the same weights whether one process or two go through its joint batches of 8."""
    world = 1 if place is None else place.world
    return Regression(place, batch_size=8 // world, dropout=0.0, norm=False)


def one_of_several(folder, stop_at):
    """What each process of a joint training does; may be stopped once, as by Ctrl-C in the first process."""
    place = ranks()
    task = joint_task(place)
    if place.rank == 1:  # the first one's weights count
        torch.nn.init.zeros_(task.net[0].weight)
    if stop_at:
        step = task.step

        def stopping(batch):
            if place.rank == 0 and task.n_steps + 1 == stop_at:
                os.kill(os.getpid(), signal.SIGINT)
            return step(batch)

        task.step = stopping
    try:
        train(task, JOINT, folder)
    except TrainingStoppedError:
        return
    torch.save(weights(task), folder.parent / f"{place.rank}.pt")


if __name__ == "__main__":  # folder, "step" or "rename" and when to die, or "joint" and when to stop
    torch.set_num_threads(1)
    where, what, when = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    if what == "joint":
        one_of_several(where, when)
    else:
        if what == "rename":
            die_before_renaming(when)
        train(Killed(when if what == "step" else 0), SETTINGS, where)
