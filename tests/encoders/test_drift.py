import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microtome.encoders.drift import cosines, measure_drift, random_tiles
from microtome.errors import EncoderOutputError


def vectors(*rows):
    return np.array(rows, np.float32)


def test_cosines_of_known_angles():
    a = vectors([1, 0], [1, 0], [1, 0], [3, 4])
    b = vectors([5, 0], [0, 2], [-1, 0], [4, 3])
    np.testing.assert_allclose(cosines(a, b), [1, 0, -1, 0.96], atol=1e-7)


def test_nothing_agrees_with_nothing_alone():
    assert cosines(vectors([0, 0], [0, 0]), vectors([0, 0], [0, 1])).tolist() == [1, 0]


@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_scale_does_not_matter_but_order_does(seed, scale):
    a = np.random.default_rng(seed).normal(size=(4, 16)).astype(np.float32)
    np.testing.assert_allclose(cosines(a, (a * np.float32(scale))), 1, atol=1e-6)
    assert cosines(a, a[::-1].copy()).min() < 0.99


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_no_agreement(bad):
    with pytest.raises(EncoderOutputError, match="finite"):
        cosines(vectors([1, bad]), vectors([1, 1]))
    with pytest.raises(EncoderOutputError, match="finite"):
        cosines(vectors([1, 1]), vectors([bad, 1]))


def test_shapes_must_be_the_same():
    with pytest.raises(EncoderOutputError, match="one shape"):
        cosines(vectors([1, 2]), vectors([1, 2, 3]))
    with pytest.raises(EncoderOutputError, match="one shape"):
        cosines(np.zeros(3, np.float32), np.zeros(3, np.float32))


def test_drift_is_that_of_the_worst_tile_and_the_mean():
    images = random_tiles(2, (8, 8, 3))
    drift = measure_drift(lambda x: vectors([1, 0], [3, 4]), lambda x: vectors([2, 0], [4, 3]), images)
    assert drift.min_cosine == pytest.approx(0.96)
    assert drift.mean_cosine == pytest.approx(0.98)
    with pytest.raises(ValueError, match="at least one"):
        measure_drift(lambda x: x, lambda x: x, images[:0])


@pytest.mark.parametrize("shape", [(1, 1, 3), (13, 40, 3), (96, 96, 2), (30, 15, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_random_tiles_are_distinct_and_use_the_range(shape, dtype):
    tiles = random_tiles(3, shape, np.dtype(dtype))
    assert tiles.shape == (3, *shape)
    assert tiles.dtype == dtype
    np.testing.assert_array_equal(tiles, random_tiles(3, shape, np.dtype(dtype)))
    assert (tiles[0] != tiles[1]).any()
    if min(shape[:2]) > 20:
        assert tiles.max() > 0.8 * np.iinfo(dtype).max
        assert tiles.std() > 0.05 * np.iinfo(dtype).max
