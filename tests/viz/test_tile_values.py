import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from microtome.errors import ConfigError
from microtome.geometry import Box
from microtome.viz.tile_values import (
    Caption,
    blank_frame,
    color_limits,
    draw_tile_values,
    scale_bar_um,
    value_map,
)

FRAME = Box(0, 0, 400, 200)


def test_each_pixel_has_the_value_of_its_tile_and_none_where_there_is_no_tile():
    boxes = np.array([[0, 0, 100, 100], [100, 100, 100, 100]])
    drawn = value_map((20, 40), FRAME, boxes, np.array([1.5, -2.0]))
    assert np.nanmax(np.abs(drawn[:10, :10] - 1.5)) < 1e-12
    assert np.nanmax(np.abs(drawn[10:, 10:20] + 2)) < 1e-12
    assert np.isnan(drawn[:, 20:]).all()
    assert np.isfinite(drawn).sum() == 200


def test_overlapping_tiles_are_averaged():
    boxes = np.array([[0, 0, 200, 100], [100, 0, 200, 100]])
    drawn = value_map((20, 40), FRAME, boxes, np.array([1.0, 3.0]))
    assert drawn[0].tolist()[:30] == pytest.approx([1.0] * 10 + [2.0] * 10 + [3.0] * 10)


@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_no_pixel_lies_beyond_the_values(seed, n):
    rng = np.random.default_rng(seed)
    boxes = np.column_stack([rng.integers(-50, 420, (n, 2)), rng.integers(1, 120, (n, 2))])
    values = rng.normal(size=n)
    drawn = value_map((25, 50), FRAME, boxes, values)
    if np.isfinite(drawn).any():
        assert values.min() - 1e-9 <= np.nanmin(drawn) <= np.nanmax(drawn) <= values.max() + 1e-9


@pytest.mark.parametrize(("values", "said"), [([1.0], "1 values for 2"), ([1.0, np.nan], "NaN")])
def test_values_without_a_tile_or_a_colour_are_refused(values, said):
    with pytest.raises(ConfigError, match=said):
        value_map((20, 40), FRAME, np.zeros((2, 4), int), np.array(values))


def test_colours_are_symmetric_only_where_signs_differ():
    assert color_limits(np.array([0.0, 1.0])) == pytest.approx((0, 0.99))
    low, high = color_limits(np.array([-1.0, 4.0]))
    assert (low, high) == pytest.approx((-3.97, 3.97))
    assert color_limits(np.zeros(5)) == (0, 1)
    assert color_limits(np.zeros(0)) == (0, 1)


@given(st.floats(1, 1e6))
def test_a_scale_bar_is_round_and_fits(width_um):
    length = scale_bar_um(width_um)
    assert length <= 0.22 * width_um < length * 2.5000001
    assert f"{length:.0e}"[0] in "125"


def drawn(values, *, mpp=0.5):
    boxes = np.array([[0, 0, 200, 200], [200, 0, 200, 200]])
    data = draw_tile_values(
        np.full((100, 200, 3), 250, np.uint8), FRAME, boxes, np.array(values), caption=Caption("a$b", "c", "d"), mpp=mpp
    )
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_what_adds_is_red_and_what_takes_away_blue():
    image = drawn([-1.0, 1.0])
    y, width = image.shape[0] // 2, image.shape[1]
    left, right = image[y, width // 4], image[y, width // 2]
    assert left[2] > left[0] + 40
    assert right[0] > right[2] + 40


def test_only_a_known_resolution_gets_a_scale_bar():
    with_bar, without = drawn([0.5, 1.0]), drawn([0.5, 1.0], mpp=None)
    assert (with_bar != without).any()
    assert (with_bar.sum(axis=2) < 60).sum() > (without.sum(axis=2) < 60).sum() + 50


def test_an_empty_canvas_shows_all_tiles_with_a_margin():
    boxes = np.array([[1000, 2000, 100, 100], [3000, 2500, 100, 100]])
    canvas, frame = blank_frame(boxes)
    assert (frame.x, frame.y, frame.width, frame.height) == (900, 1900, 2300, 800)
    assert canvas.shape == (356, 1024, 3)
    with pytest.raises(ConfigError, match="no tiles"):
        blank_frame(np.zeros((0, 4), int))
