"""The memory of batches in flight."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microtome.errors import ConfigError
from microtome.features.ring import Ring, Slot

U8, U16 = np.dtype(np.uint8), np.dtype(np.uint16)


def _never() -> bool:
    return False


def _always() -> bool:
    return True


def test_slots_are_used_again() -> None:
    ring = Ring(100, max_slots=9)
    first = ring.acquire((4, 2, 2, 1), U8, _never)
    assert first is not None
    assert first.images.shape == (4, 2, 2, 1)
    ring.release(first)
    second = ring.acquire((4, 2, 2, 1), U8, _never)
    assert second is not None
    assert second.buffer is first.buffer
    assert ring.held_bytes == 16


@given(
    st.integers(40, 200),
    st.integers(2, 5),
    st.lists(st.tuples(st.integers(1, 5), st.sampled_from([U8, U16]), st.booleans()), max_size=40),
)
def test_never_more_than_the_budget_nor_the_slots(
    budget: int, max_slots: int, requests: list[tuple[int, np.dtype, bool]]
) -> None:
    ring = Ring(budget, max_slots)
    taken: list[Slot] = []
    for n, dtype, give_back in requests:
        slot = ring.acquire((n, 2, 1, 1), dtype, _always)
        if slot is not None:
            assert slot.images.dtype == dtype
            taken.append(slot)
        if give_back and taken:
            ring.release(taken.pop(0))
        assert sum(s.buffer.nbytes for s in taken) <= ring.held_bytes <= ring.peak_bytes <= budget
        assert len(taken) <= max_slots
    if not taken:
        assert ring.acquire((1, 2, 1, 1), U8, _always) is not None


def test_a_third_slot_is_not_made_of_what_others_use() -> None:
    ring = Ring(50, max_slots=9)
    taken = [ring.acquire((10, 1, 1, 1), U8, _always, reserve_bytes=25) for _ in range(3)]
    assert [slot is not None for slot in taken] == [True, True, False]


def test_who_asks_for_one_too_many_waits() -> None:
    ring = Ring(20, max_slots=9)
    first = ring.acquire((10, 1, 1, 1), U8, _never)
    assert ring.acquire((10, 1, 1, 1), U8, _never) is not None
    assert first is not None
    got: list[Slot | None] = []
    waiting = threading.Thread(target=lambda: got.append(ring.acquire((10, 1, 1, 1), U8, _never)))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    ring.release(first)
    waiting.join(10)
    assert got[0] is not None
    assert got[0].buffer is first.buffer


def test_two_must_fit() -> None:
    Ring(20, max_slots=9).check_fits((10, 1, 1, 1), U8)
    with pytest.raises(ConfigError, match="Two batches of 11 tiles"):
        Ring(20, max_slots=9).acquire((11, 1, 1, 1), U8, _never)
    with pytest.raises(ConfigError, match="uint16"):
        Ring(20, max_slots=9).check_fits((10, 1, 1, 1), U16)
