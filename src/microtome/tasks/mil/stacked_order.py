"""In which order models meet bags: one permutation of the table per epoch, cut into packs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64

_MOST_BAGS = 64


@dataclass(frozen=True, slots=True)
class Batches:
    """Which bags make up the steps of each model in an epoch.

    Attributes:
        weights: (m, n) share of a bag in the loss of its step; 0 where the model does not see it.
        due: (m, n) whether the model steps after the bag.
    """

    weights: Float32[np.ndarray, "m n"]
    due: Bool[np.ndarray, "m n"]


def batches_of(
    order: Int64[np.ndarray, " n"], members: Bool[np.ndarray, "m n"], sizes: Sequence[int | None]
) -> Batches:
    """Give each model its members in the order of the epoch, in batches.

    Args:
        order: Of the rows.
        members: Rows of each model.
        sizes: Bags per step of each model; None is all. Bags that do not fill a batch are left out, unless there are
            fewer than one batch.
    """
    weights = np.zeros(members.shape, np.float32)
    due = np.zeros(members.shape, bool)
    for model, size in enumerate(sizes):
        own = order[members[model][order]]
        if len(own) == 0:
            continue
        n = len(own) if size is None else min(size, len(own))
        taken = own[: len(own) // n * n]
        weights[model, taken] = 1 / n
        due[model, taken[n - 1 :: n]] = True
    return Batches(weights, due)


@dataclass(frozen=True, slots=True)
class PackPlan:
    """Bags that are computed together.

    Attributes:
        rows: Of the table.
        models: Those that see at least one of them, rising.
        due: Those that step afterwards, rising.
    """

    rows: tuple[int, ...]
    models: tuple[int, ...]
    due: tuple[int, ...]


def plan_packs(
    order: Int64[np.ndarray, " k"],
    seen: Bool[np.ndarray, "m n"],
    due: Bool[np.ndarray, "m n"] | None,
    lengths: Int64[np.ndarray, " n"],
    launch: int,
) -> Iterator[PackPlan]:
    """Cut the order into packs.

    Bags go together where that is less work: in a pack every model sees every bag (what is not its own counts for
    nothing), and each pack costs a start. No model steps in the midst of a pack.

    Args:
        order: Of the rows.
        seen: Which models see which rows.
        due: Which models step after which rows; None where none does.
        lengths: Instances of each row.
        launch: What starting a pack costs, in instances times models.
    """
    steps = np.zeros_like(seen) if due is None else due
    rows: list[int] = []
    models = np.zeros(len(seen), bool)
    stepped = np.zeros(len(seen), bool)
    size = 0

    def pack() -> PackPlan:
        found = tuple(np.flatnonzero(models).tolist())
        return PackPlan(tuple(rows), found, tuple(np.flatnonzero(stepped).tolist()))

    for row in order.tolist():
        own, n = seen[:, row], int(lengths[row])
        if not own.any():
            continue
        joint = (size + n) * int((models | own).sum())
        apart = size * int(models.sum()) + n * int(own.sum()) + launch
        if rows and (joint > apart or len(rows) == _MOST_BAGS or (stepped & own).any()):
            yield pack()
            rows, size = [], 0
            models, stepped = np.zeros(len(seen), bool), np.zeros(len(seen), bool)
        rows.append(row)
        size += n
        models |= own
        stepped |= steps[:, row]
    if rows:
        yield pack()
