"""Masks grown, closed and cleaned, against SciPy's morphology."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from microtome.tissue.shapes import closed, grown, opened, reached, without_small, without_small_holes

masks = hnp.arrays(bool, st.tuples(st.integers(1, 20), st.integers(1, 20)))


@given(mask=masks, radius=st.sampled_from([1, 2, 3]))
def test_grown_is_distance(mask, radius):
    wanted = ndimage.distance_transform_edt(~mask) <= radius if mask.any() else mask
    assert (grown(mask, radius) != wanted).mean() <= 0.1  # OpenCV's distance is approximate off the axes
    assert np.array_equal(grown(mask, 0.9), mask)


@given(mask=masks, radius=st.floats(0, 6))
def test_opening_only_takes_and_closing_only_gives(mask, radius):
    assert not (opened(mask, radius) & ~mask).any()
    assert not (mask & ~closed(mask, radius)).any()
    assert closed(mask, radius).shape == opened(mask, radius).shape == mask.shape


def test_opening_drops_lines_and_keeps_blocks():
    mask = np.zeros((40, 40), bool)
    mask[5, :] = True
    mask[20:32, 10:22] = True
    kept = opened(mask, 2)
    assert not kept[5].any()
    assert kept[22:30, 12:20].all()


def test_closing_bridges_gaps_also_at_the_border():
    mask = np.ones((30, 30), bool)
    mask[:, 14:17] = False
    assert closed(mask, 3).all()
    assert not closed(mask, 1).all()


@given(weak=masks, seed=st.integers(0, 100))
def test_reached_keeps_whole_pieces_with_a_seed(weak, seed):
    strong = np.random.default_rng(seed).random(weak.shape) < 0.1
    pieces, count = ndimage.label(weak, np.ones((3, 3)))
    wanted = np.zeros_like(weak)
    for piece in range(1, count + 1):
        if strong[pieces == piece].any():
            wanted |= pieces == piece
    assert np.array_equal(reached(weak, strong), wanted)


@given(mask=masks, area=st.integers(1, 30))
def test_small_pieces_and_holes(mask, area):
    pieces, count = ndimage.label(mask, np.ones((3, 3)))
    wanted = np.isin(pieces, [i for i in range(1, count + 1) if (pieces == i).sum() >= area])
    assert np.array_equal(without_small(mask, area), wanted)
    gaps, count = ndimage.label(~mask)
    border = set(gaps[0]) | set(gaps[-1]) | set(gaps[:, 0]) | set(gaps[:, -1])
    filled = np.isin(gaps, [i for i in range(1, count + 1) if (gaps == i).sum() < area and i not in border])
    assert np.array_equal(without_small_holes(mask, area), mask | filled)
