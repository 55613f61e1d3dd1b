"""Memory for batches in flight: a few buffers that are used again and again, never more than a budget."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

from microtome.errors import ConfigError

_POLL_S = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """A batch's place: ``images`` (n, h, w, c) lies in ``buffer``."""

    images: Shaped[np.ndarray, "n h w c"]
    buffer: UInt8[np.ndarray, " b"]


class Ring:
    """Buffers for batches.

    A buffer is allocated when none is free and the budget allows it; buffers of another size are let go first. Who
    asks for one too many waits until one is given back.

    Args:
        budget_bytes: All buffers together never take more.
        max_slots: Never more buffers than this, whatever the budget.

    Attributes:
        held_bytes: What all buffers take now, in use or free.
        peak_bytes: The most that they ever took.
    """

    def __init__(self, budget_bytes: int, max_slots: int) -> None:
        self.budget_bytes, self._max_slots = budget_bytes, max_slots
        self._free: list[UInt8[np.ndarray, " b"]] = []
        self._n_slots = 0
        self._changed = threading.Condition()
        self.held_bytes = self.peak_bytes = 0

    def check_fits(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Make sure that the budget holds two batches: one to decode into while the other is encoded.

        Raises:
            ConfigError: If it does not.
        """
        n_bytes = prod(shape) * dtype.itemsize
        if 2 * n_bytes > self.budget_bytes:
            raise ConfigError(
                f"Two batches of {shape[0]} tiles ({' × '.join(str(n) for n in shape[1:])}, {dtype}) take "
                f"{_mib(2 * n_bytes)}, more than the {_mib(self.budget_bytes)} of memory for tiles in flight. Pass a "
                "smaller batch_size or more memory."
            )

    def acquire(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        stopping: Callable[[], bool],
        *,
        reserve_bytes: int = 0,
    ) -> Slot | None:
        """Take a slot for a batch, waiting for one if need be.

        Args:
            shape: Of the batch.
            dtype: Of its pixels.
            stopping: Asked while waiting; once it says True the wait ends.
            reserve_bytes: Part of the budget that others use; a third and further buffer is not made of it.

        Returns:
            A slot whose content is arbitrary; None if the wait was ended.

        Raises:
            ConfigError: If the budget does not hold two such batches.
        """
        n_bytes = prod(shape) * dtype.itemsize
        self.check_fits(shape, dtype)
        with self._changed:
            while (buffer := self._take(n_bytes, reserve_bytes)) is None:
                if stopping():
                    return None
                self._changed.wait(_POLL_S)
        return Slot(buffer.view(dtype).reshape(shape), buffer)

    def release(self, slot: Slot) -> None:
        """Give a slot back."""
        with self._changed:
            self._free.append(slot.buffer)
            self._changed.notify_all()

    def _take(self, n_bytes: int, reserve_bytes: int) -> UInt8[np.ndarray, " b"] | None:
        for index, buffer in enumerate(self._free):
            if buffer.nbytes == n_bytes:
                return self._free.pop(index)
        while self._free and not self._has_room(n_bytes, reserve_bytes):
            self._n_slots -= 1
            self.held_bytes -= self._free.pop().nbytes
        if not self._has_room(n_bytes, reserve_bytes):
            return None
        self._n_slots += 1
        self.held_bytes += n_bytes
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)
        return np.empty(n_bytes, np.uint8)

    def _has_room(self, n_bytes: int, reserve_bytes: int) -> bool:
        if self._n_slots >= self._max_slots:
            return False
        wanted = self.held_bytes + n_bytes + (reserve_bytes if self._n_slots >= 2 else 0)
        return wanted <= self.budget_bytes


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / (1024 * 1024):.1f} MiB"
