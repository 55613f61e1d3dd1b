"""Virtual H&E and maps of stimulated Raman slides."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from microtome.viz.srh_maps import (
    attention_scale,
    draw_map,
    draw_slide,
    few_shot_scale,
    jpeg_bytes,
    lay_mosaic,
    smooth_values,
)
from microtome.viz.srh_stain import EOSIN, HAEMATOXYLIN, StainRange, find_stain_range, virtual_stain

OVER = StainRange(difference=(0, 1000), ch2=(0, 1000))


def channels(ch2, ch3):
    return np.array([ch2, ch3], np.float32).reshape(1, 2, 1, 1)


def test_nothing_absorbs_nothing():
    assert virtual_stain(channels(0, 0), OVER).tolist() == [[[[255, 255, 255]]]]


@pytest.mark.parametrize(("ch2", "ch3", "dye"), [(0, 1000, HAEMATOXYLIN), (1000, 1000, EOSIN)])
def test_each_channel_absorbs_as_its_dye(ch2, ch3, dye):
    rgb = virtual_stain(channels(ch2, ch3), OVER)[0, 0, 0].astype(float)
    absorbed = -np.log(rgb / 255)
    np.testing.assert_allclose(absorbed / np.linalg.norm(absorbed), np.array(dye) / np.linalg.norm(dye), atol=0.02)


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_more_of_a_dye_is_never_brighter(ch2, ch3):
    less, more = virtual_stain(channels(ch2, ch3), OVER), virtual_stain(channels(ch2, ch3 + 100), OVER)
    assert (more <= less).all()


def test_the_range_is_of_the_slide_and_not_of_a_patch():
    rng = np.random.default_rng(0)
    slide = rng.uniform(100, 200, (4, 2, 30, 30)).astype(np.float32)
    slide[3] *= 10
    over = find_stain_range(slide)
    assert over.ch2[1] > 1000
    alone = find_stain_range(slide[:3])
    assert alone.ch2[1] < 250
    constant = find_stain_range(np.full((2, 2, 5, 5), 7, np.float32))
    assert constant.ch2[1] > constant.ch2[0]


def two_by_two(values=(0.0, 0.0, 1.0, 1.0)):
    grid = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    boxes = np.concatenate([grid[:, ::-1] * 300, np.full((4, 2), 300)], axis=1)
    return grid, boxes, np.array(values)


def test_patches_lie_where_their_boxes_say():
    _, boxes, _ = two_by_two()
    boxes[1] = (1000, 0, 300, 300)  # in the next field
    thumbnails = np.stack([np.full((2, 60, 60), v, np.float32) for v in (100, 2000, 4000, 8000)])
    mosaic = lay_mosaic(thumbnails, boxes, mpp=0.5)
    assert mosaic.picture.shape == (120, 260, 3)
    assert (mosaic.picture[:60, 60:200] == 255).all()  # nothing was imaged there
    assert mosaic.cells.tolist() == [[0, 0, 60, 60], [200, 0, 60, 60], [0, 60, 60, 60], [60, 60, 60, 60]]
    means = [mosaic.picture[y : y + h, x : x + w].mean() for x, y, w, h in mosaic.cells.tolist()]
    assert means[0] > means[1] > means[2]


def test_a_map_is_blue_where_normal_and_red_where_tumour():
    grid, boxes, values = two_by_two()
    mosaic = lay_mosaic(None, boxes, mpp=None)
    drawn = draw_map(mosaic, grid, values, few_shot_scale()).astype(int)
    h = mosaic.picture.shape[0]
    assert drawn[4, 4, 2] > drawn[4, 4, 0] + 40
    assert drawn[h - 4, 4, 0] > drawn[h - 4, 4, 2] + 40


def test_smoothing_keeps_a_constant_and_the_order_of_patches():
    grid, _, _ = two_by_two()
    np.testing.assert_allclose(smooth_values(grid, np.full(4, 0.7)), 0.7)
    far = np.array([[0, 0], [0, 9]])
    smooth = smooth_values(far, np.array([0.0, 1.0]))
    assert smooth[:, :4].max() < 1e-6
    assert smooth[:, -4:].min() > 1 - 1e-6
    assert smooth[0, 18] == 0  # far from any


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12, unique=True))
def test_smoothed_values_lie_between_the_least_and_the_most(places):
    values = np.linspace(0.2, 0.9, len(places))
    smooth = smooth_values(np.array(places), values)
    inside = smooth[smooth > 0]
    assert inside.min() >= 0.2 - 1e-9
    assert inside.max() <= 0.9 + 1e-9


@pytest.mark.parametrize("mpp", [None, 0.467, 10.0])
def test_each_picture_has_a_strip_with_a_black_bar(mpp):
    grid, boxes, values = two_by_two()
    mosaic = lay_mosaic(None, boxes, mpp=mpp)
    for picture in (draw_slide(mosaic), draw_map(mosaic, grid, values, attention_scale(values))):
        strip = picture[mosaic.picture.shape[0] :]
        assert (strip[14, 4:8] == 0).all()
        length = int((strip[14, 4:] == 0).all(axis=1).argmin())
        if mpp == 0.467:  # 0.1 mm at 5 px per px of the picture would be 43 px; the largest that fits is taken
            um = length * mosaic.px_per_px * mpp
            assert min(abs(um / nice - 1) for nice in (50, 100, 200, 500)) < 0.03
    assert Image.open(io.BytesIO(jpeg_bytes(picture))).size == picture.shape[1::-1]
