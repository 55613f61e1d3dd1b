"""What every tile source must do. Subclass :class:`TileSourceContract` in a test module and say what to open.

Example::

    class TestMySource(TileSourceContract):
        @pytest.fixture
        def case(self, tmp_path):
            return TileSourceCase(open=lambda: MySource(tmp_path), expected=images, others={...})
"""

import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest

from microtome.errors import TileError
from microtome.storage import digest, recipe_text
from microtome.tiles.source import TileBatch, TileSource


@dataclass(frozen=True)
class TileSourceCase:
    """A source under test.

    Attributes:
        open: Opens it anew.
        expected: The exact pixels of every row, where they are known; those of broken rows are not looked at.
        broken: Rows that cannot be decoded.
        others: By the name of what differs, openers of sources that differ from it in just that: recipes
            must differ.
    """

    open: Callable[[], TileSource]
    expected: np.ndarray | None = None
    broken: frozenset[int] = frozenset()
    others: Mapping[str, Callable[[], TileSource]] = field(default_factory=dict)


class TileSourceContract:
    """Tests of one source; ``case`` says which."""

    @pytest.fixture
    def case(self) -> TileSourceCase:
        """The source under test."""
        raise NotImplementedError("a subclass says what to open")

    @pytest.fixture
    def source(self, case: TileSourceCase, request: pytest.FixtureRequest) -> TileSource:
        """It, open."""
        source = case.open()
        request.addfinalizer(source.close)  # noqa: PT021 - a checked generator is no generator function to pytest
        return source

    def test_is_a_tile_source(self, source: TileSource) -> None:
        assert isinstance(source, TileSource)
        assert source.slide_id
        assert source.modality in {"brightfield", "fluorescence", "multichannel", "srh"}
        assert source.mpp is None or source.mpp > 0

    def test_boxes_have_a_size_and_cannot_be_changed(self, source: TileSource) -> None:
        assert len(source) > 0
        assert source.boxes.shape == (len(source), 4)
        assert source.boxes.dtype == np.int64
        assert (source.boxes[:, 2:] > 0).all()
        with pytest.raises(ValueError, match="read-only"):
            source.boxes[0, 0] = 1

    def test_pixels_have_the_declared_dtype_and_shape(self, source: TileSource) -> None:
        batch = source.read(_all(source))
        assert batch.images.dtype == source.dtype
        assert batch.images.shape == (len(source), *source.tile_shape)
        assert batch.readable.shape == (len(source),)

    def test_pixels_are_the_expected_ones(self, case: TileSourceCase, source: TileSource) -> None:
        batch = source.read(_all(source))
        assert batch.readable.any()
        if case.expected is not None:
            np.testing.assert_array_equal(batch.images[batch.readable], case.expected[batch.readable])

    def test_order_is_the_same_each_time(self, case: TileSourceCase, source: TileSource) -> None:
        again = case.open()
        np.testing.assert_array_equal(again.boxes, source.boxes)
        _assert_equal(again.read(_all(source)), source.read(_all(source)))
        again.close()

    def test_rows_in_any_order_and_repeated(self, source: TileSource) -> None:
        whole = source.read(_all(source))
        rows = np.random.default_rng(0).integers(0, len(source), 2 * len(source) + 1)
        before = rows.copy()
        batch = source.read(rows)
        np.testing.assert_array_equal(rows, before)
        np.testing.assert_array_equal(batch.rows, rows)
        np.testing.assert_array_equal(batch.images, whole.images[rows])
        np.testing.assert_array_equal(batch.readable, whole.readable[rows])
        assert batch.errors == {row: whole.errors[row] for row in set(rows.tolist()) & whole.errors.keys()}

    def test_no_rows(self, source: TileSource) -> None:
        batch = source.read(np.zeros(0, np.int64))
        assert batch.images.shape == (0, *source.tile_shape)
        assert batch.images.dtype == source.dtype
        assert batch.readable.shape == (0,)
        assert batch.errors == {}

    @pytest.mark.parametrize("offset", [0, 1, 10**6])
    def test_a_row_after_the_last_is_refused(self, source: TileSource, offset: int) -> None:
        with pytest.raises(TileError, match=str(len(source) + offset)):
            source.read(np.array([0, len(source) + offset]))

    def test_a_negative_row_is_refused(self, source: TileSource) -> None:
        with pytest.raises(TileError, match="-1"):
            source.read(np.array([-1]))

    def test_broken_tiles_are_marked_and_not_painted(self, case: TileSourceCase, source: TileSource) -> None:
        batch = source.read(_all(source))
        assert set(np.flatnonzero(~batch.readable).tolist()) == set(case.broken)
        assert set(batch.errors) == set(case.broken)
        assert all(batch.errors.values())
        assert not batch.images[~batch.readable].any()

    def test_threads_read_what_one_thread_reads(self, source: TileSource) -> None:
        whole = source.read(_all(source))
        orders = [np.random.default_rng(seed).permutation(len(source)) for seed in range(6)]
        with ThreadPoolExecutor(4) as pool:
            for rows, batch in zip(orders, pool.map(source.read, orders), strict=True):
                np.testing.assert_array_equal(batch.images, whole.images[rows])
                np.testing.assert_array_equal(batch.readable, whole.readable[rows])

    def test_another_process_reads_the_same(self, source: TileSource) -> None:
        here = source.read(_all(source))  # files are open when it is pickled
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            recipe, there = pool.submit(_read_elsewhere, source).result()
        _assert_equal(here, there)
        assert recipe == recipe_text(source.recipe)

    def test_recipe_is_the_same_each_time(self, case: TileSourceCase, source: TileSource) -> None:
        again = case.open()
        assert recipe_text(again.recipe) == recipe_text(source.recipe)
        again.close()

    def test_recipe_changes_with_everything_that_decides_pixels_or_order(
        self, case: TileSourceCase, source: TileSource
    ) -> None:
        digests = {"as it is": digest(source.recipe)}
        for name, other in case.others.items():
            changed = other()
            digests[name] = digest(changed.recipe)
            changed.close()
        assert len(case.others) > 0
        assert len(set(digests.values())) == len(digests), digests

    def test_closed_is_closed(self, case: TileSourceCase) -> None:
        source = case.open()
        source.read(np.array([0]))
        source.close()
        source.close()
        with pytest.raises(TileError, match="closed"):
            source.read(np.array([0]))


def _all(source: TileSource) -> np.ndarray:
    return np.arange(len(source))


def _assert_equal(a: TileBatch, b: TileBatch) -> None:
    np.testing.assert_array_equal(a.images, b.images)
    np.testing.assert_array_equal(a.rows, b.rows)
    np.testing.assert_array_equal(a.readable, b.readable)
    assert dict(a.errors) == dict(b.errors)


def _read_elsewhere(source: TileSource) -> tuple[str, TileBatch]:
    """What another process sees of the source that came to it."""
    try:
        return recipe_text(source.recipe), source.read(_all(source))
    finally:
        source.close()
