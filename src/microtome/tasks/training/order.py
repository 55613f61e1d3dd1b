"""Which rows make which batch: a function of the seed, the epoch and the batch's number alone."""

import numpy as np
from jaxtyping import Int64

from microtome.errors import ConfigError
from microtome.tasks.training.parallel import Ranks


def epoch_order(n: int, *, seed: int, epoch: int) -> Int64[np.ndarray, " n"]:
    """The order in which an epoch goes through ``n`` rows.

    Example:
        >>> sorted(epoch_order(5, seed=0, epoch=3).tolist())
        [0, 1, 2, 3, 4]
    """
    return np.random.default_rng((seed, epoch)).permutation(n)


def n_joint_batches(n: int, batch_size: int, place: Ranks | None = None) -> int:
    """Full joint batches in ``n`` rows: ``batch_size`` rows for each process; the rows left over are not used.

    Raises:
        ConfigError: If there is not one.
    """
    world = 1 if place is None else place.world
    if batch_size < 1 or n < batch_size * world:
        raise ConfigError(
            f"{n} rows do not fill a batch of {batch_size} for each of {world} processes. Pass a smaller batch."
        )
    return n // (batch_size * world)


def batch_rows(
    order: Int64[np.ndarray, " n"], number: int, batch_size: int, place: Ranks | None = None
) -> Int64[np.ndarray, " b"]:
    """This process's rows of a joint batch: those of one process with the joint size, dealt in runs.

    Args:
        order: The epoch's order.
        number: Of the joint batch, from 0.
        batch_size: Rows for each process.
        place: Which process; alone where None.
    """
    place = place or Ranks()
    start = (number * place.world + place.rank) * batch_size
    return order[start : start + batch_size]
