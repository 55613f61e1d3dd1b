"""What each of several processes does in a joint training: run by ``torchrun``, folder of embeddings and of results."""

import sys
from pathlib import Path

import torch

from microtome.tasks.pretrain.optimisers import OptimiserSettings
from microtome.tasks.pretrain.ordinal import OrdinalSettings, OrdinalTask
from microtome.tasks.pretrain.slide_ssl import SlideSslSettings, SlideSslTask
from microtome.tasks.training import TrainingSettings, train
from microtome.tasks.training.parallel import joined, ranks
from tests.tasks.pretrain.material import weights, write_tokens

LOOP = TrainingSettings(n_epochs=2, tensorboard=False)
SLOW = OptimiserSettings(name="sgd", learning_rate=1e-3, schedule_name="constant")


def tasks(slides, world: int):
    """Tasks whose joint batches are of eight slides, however many processes there are."""
    return {
        "ssl": SlideSslTask(slides, SlideSslSettings(batch_size=8 // world, optimiser=SLOW)),
        "simclr": SlideSslTask(slides, SlideSslSettings(loss="simclr", batch_size=8 // world, optimiser=SLOW)),
        "ordinal": OrdinalTask(slides, OrdinalSettings(batch_size=8 // world, finetune=True, optimiser=SLOW)),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    place, out = ranks(), Path(sys.argv[2])
    with joined(place, torch.device("cpu")):
        made = tasks(write_tokens(Path(sys.argv[1]) / str(place.rank), n_patients=4), place.world)
        for name, task in made.items():
            train(task, LOOP)
            torch.save(weights(task), out / f"{name}-{place.rank}.pt")
