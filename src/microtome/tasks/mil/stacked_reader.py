"""Bags as packs of tensors on the device, read ahead, and kept there as far as a budget goes."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from microtome.tasks.mil.bags import BagSet
from microtome.tasks.mil.packed import Pack
from microtome.tasks.mil.stacked_order import PackPlan

_CPU_CACHE = 1 << 30
_GPU_SHARE = 0.4


class Reader:
    """Reads the bags of packs, in the precision of matrix products.

    Args:
        bags: What to read.
        device: Where to.
        dtype: Of the products.
        cache_bytes: How much is kept of what was read; None: 1 GiB of memory where that halves the features (bf16), and
            0.4 of what is free on a GPU.
    """

    def __init__(
        self, bags: BagSet, device: torch.device, dtype: torch.dtype, *, cache_bytes: int | None = None
    ) -> None:
        self.bags = bags
        self.device = device
        self.dtype = dtype
        self._left = _budget(device, dtype) if cache_bytes is None else cache_bytes
        self._kept: dict[int, Tensor] = {}

    def lengths(self, *, drawn: bool) -> np.ndarray:
        """Instances of each row, those of an epoch or all."""
        if not drawn:
            return self.bags.lengths
        return np.array([self.bags.drawn_length(row) for row in range(len(self.bags))], np.int64)

    def packs(self, plans: Iterable[PackPlan], epoch: int | None) -> Iterator[tuple[PackPlan, Pack]]:
        """The plans with their bags, each read while the one before is computed."""
        with ThreadPoolExecutor(1, thread_name_prefix="bags") as pool:
            before: tuple[PackPlan, Future[Pack]] | None = None
            for plan in plans:
                now = plan, pool.submit(self._pack, plan, epoch)
                if before is not None:
                    yield before[0], before[1].result()
                before = now
            if before is not None:
                yield before[0], before[1].result()

    def _pack(self, plan: PackPlan, epoch: int | None) -> Pack:
        each = [self._bag(row, epoch) for row in plan.rows]
        features = each[0] if len(each) == 1 else torch.cat(each)
        return Pack(features, plan.rows, tuple(len(bag) for bag in each))

    def _bag(self, row: int, epoch: int | None) -> Float[Tensor, "n d"]:
        if row in self._kept:
            drawn = None if epoch is None else self.bags.drawn(row, epoch)
            return self._kept[row] if drawn is None else self._kept[row][torch.from_numpy(drawn).to(self.device)]
        stored = self.bags.read(row, epoch)
        read = torch.empty(stored.shape, dtype=torch.float32)
        np.copyto(read.numpy(), stored, casting="same_kind")
        features = read.to(self.device, self.dtype)
        size = features.numel() * features.element_size()
        if len(features) == int(self.bags.lengths[row]) and size <= self._left:
            self._kept[row] = features
            self._left -= size
        return features


def _budget(device: torch.device, dtype: torch.dtype) -> int:
    if device.type == "cuda":
        return int(_GPU_SHARE * torch.cuda.mem_get_info(device)[0])
    return _CPU_CACHE if dtype != torch.float32 else 0
