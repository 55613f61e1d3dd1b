"""The cache of decoded tiles: how much, how long, and who decodes."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.slides.direct_cache import TileCache

TILE_BYTES = 4 * 4 * 3


class Decoder:
    """Decodes tile ``i`` to pixels of value ``i`` and counts."""

    def __init__(self):
        self.decoded = []

    def __call__(self, index):
        self.decoded.append(index)
        return np.full((4, 4, 3), index, np.uint8)


def fetch(cache, indices, decode, uses=None, plane="a"):
    for index in indices:
        tile = cache.fetch(plane, index, uses, decode)
        assert (tile == index).all()


def test_the_tiles_used_last_stay():
    cache, decode = TileCache(3 * TILE_BYTES), Decoder()
    fetch(cache, [0, 1, 2, 0, 3, 0, 2, 1], decode)
    assert decode.decoded == [0, 1, 2, 3, 1]
    assert cache.n_bytes == 3 * TILE_BYTES


def test_an_expected_tile_stays_until_it_was_read_as_often_as_expected():
    cache, decode = TileCache(100 * TILE_BYTES), Decoder()
    uses = np.array([2, 1, 3])
    fetch(cache, [0, 1, 2, 2, 0], decode, uses)
    assert decode.decoded == [0, 1, 2]
    assert cache.n_bytes == TILE_BYTES  # tile 2, once more
    fetch(cache, [2], decode, uses)
    assert cache.n_bytes == 0
    assert uses.tolist() == [0, 0, 0]
    fetch(cache, [2], decode, uses)  # more often than expected: decoded again, and right
    assert decode.decoded == [0, 1, 2, 2]


def test_where_there_is_no_room_some_stay_and_the_others_are_decoded_again():
    """In the order of a grid, forgetting the oldest would lose each just before it is wanted."""
    cache, decode = TileCache(4 * TILE_BYTES), Decoder()
    fetch(cache, [*range(8), *range(8)], decode, np.full(8, 2))
    assert len(decode.decoded) == 12
    assert cache.n_bytes == 0


def test_what_is_expected_displaces_what_only_was_used():
    cache, decode = TileCache(2 * TILE_BYTES), Decoder()
    fetch(cache, [0, 1], decode)
    fetch(cache, [5, 6, 5, 6], decode, np.full(8, 2), plane="b")
    assert decode.decoded == [0, 1, 5, 6]


def test_a_limit_holds_at_once():
    cache, decode = TileCache(8 * TILE_BYTES), Decoder()
    fetch(cache, range(4), decode)
    fetch(cache, range(4), decode, np.full(4, 2), plane="b")
    assert cache.n_bytes == 8 * TILE_BYTES
    cache.limit(3 * TILE_BYTES)
    assert cache.n_bytes == 3 * TILE_BYTES
    cache.limit(0)
    assert cache.n_bytes == 0
    fetch(cache, range(4), decode)
    assert cache.n_bytes == 0


def test_planes_are_apart_and_forgotten_alone():
    cache, decode = TileCache(8 * TILE_BYTES), Decoder()
    fetch(cache, [1], decode)
    fetch(cache, [1], decode, plane="b")
    assert decode.decoded == [1, 1]
    cache.forget("a")
    assert cache.n_bytes == TILE_BYTES
    fetch(cache, [1], decode, plane="b")
    assert decode.decoded == [1, 1]


def test_two_threads_that_want_the_same_tile_decode_it_once():
    cache, n_decoded, entered, go = TileCache(8 * TILE_BYTES), [], threading.Event(), threading.Event()

    def decode(index):
        n_decoded.append(index)
        entered.set()
        assert go.wait(30)
        return np.full((4, 4, 3), index, np.uint8)

    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(cache.fetch, "a", 7, None, decode)
        assert entered.wait(30)
        others = [pool.submit(cache.fetch, "a", 7, None, decode) for _ in range(4)]
        go.set()
        assert all((f.result() == 7).all() for f in (first, *others))
    assert n_decoded == [7]


def test_a_tile_that_cannot_be_decoded_says_so_to_each_and_blocks_nobody():
    cache, entered, go = TileCache(8 * TILE_BYTES), threading.Event(), threading.Event()

    def fail(index):
        entered.set()
        assert go.wait(30)
        raise ValueError("damaged")

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(cache.fetch, "a", 1, np.full(3, 5), fail) for _ in range(3)]
        assert entered.wait(30)
        fetch(cache, [2], Decoder())  # another tile is not waited for
        go.set()
        for future in futures:
            with pytest.raises(ValueError, match="damaged"):
                future.result(timeout=30)
    fetch(cache, [1], Decoder())


@settings(max_examples=60, deadline=None)
@given(
    order=st.lists(st.integers(0, 9), max_size=60),
    room=st.integers(0, 12),
    expected=st.booleans(),
    threads=st.sampled_from([1, 4]),
)
def test_never_more_than_allowed_and_always_the_right_tile(order, room, expected, threads):
    cache, decode = TileCache(room * TILE_BYTES), Decoder()
    uses = np.bincount(np.array(order, np.int64), minlength=10) if expected else None
    most = []

    def read(index):
        fetch(cache, [index], decode, uses)
        most.append(cache.n_bytes)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, order))
    assert max(most, default=0) <= room * TILE_BYTES
    assert cache.n_bytes == 0 or not expected
    if room >= 10:
        assert len(decode.decoded) == len(set(order))


@pytest.mark.parametrize("n_threads", [2, 5])
def test_whoever_waits_for_a_tile_gets_it_though_nobody_wants_it_afterwards(n_threads):
    """All have counted their use before the first has decoded, so there is nothing left to keep the tile for."""
    cache, uses = TileCache(100 * TILE_BYTES), np.array([n_threads])
    decode = Decoder()

    def slow(index):
        while uses[0]:  # until everybody has asked
            threading.Event().wait(0.001)
        return decode(index)

    with ThreadPoolExecutor(n_threads) as pool:
        tiles = list(pool.map(lambda _: cache.fetch("a", 0, uses, slow), range(n_threads)))
    assert decode.decoded == [0]
    assert all((tile == 0).all() for tile in tiles)
    assert cache.n_bytes == 0


def test_a_failure_of_one_thread_is_not_that_of_another():
    cache, uses, calls = TileCache(100 * TILE_BYTES), np.array([2]), []

    def first_fails(index):
        calls.append(index)
        while uses[0]:
            threading.Event().wait(0.001)
        if len(calls) == 1:
            raise OSError("gone")
        return np.full((4, 4, 3), index, np.uint8)

    with ThreadPoolExecutor(2) as pool:
        results = [pool.submit(cache.fetch, "a", 0, uses, first_fails) for _ in range(2)]
    errors = [r.exception() for r in results]
    assert sorted(type(e).__name__ for e in errors) == ["NoneType", "OSError"]
