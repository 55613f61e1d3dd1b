from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from microtome.errors import ConfigError, OutputWriteError
from microtome.geometry import Box, Size
from microtome.slides.open import open_slide
from microtome.tiles.grid import Grid, lay_tiles
from microtome.tissue.tissue import Tissue
from microtome.viz.overlay import OUTLINE_COLOR, draw_clusters, draw_thumbnail, label_map, write_jpeg
from microtome.viz.palette import categorical_colors

WHITE = np.full((80, 100, 3), 255, np.uint8)
FRAME = Box(1000, 2000, 1000, 800)  # ten px0 per thumbnail pixel


def tissue_of(polygons: Any) -> Tissue:
    return Tissue(polygons, Size(5000, 5000), 0.5, "imported")


def changed(image: np.ndarray) -> np.ndarray:
    different: np.ndarray = np.any(image != WHITE, axis=2)
    return different


def test_label_map_paints_tiles_between_their_edges() -> None:
    boxes = np.array([[1000, 2000, 300, 200], [1300, 2000, 300, 200], [1900, 2700, 500, 500]])
    found = label_map((80, 100), FRAME, boxes, np.array([4, 2, 0]))
    expected = np.full((80, 100), -1)
    expected[0:20, 0:30], expected[0:20, 30:60], expected[70:, 90:] = 4, 2, 0
    np.testing.assert_array_equal(found, expected)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_label_map_is_the_commonest_label_of_covering_tiles(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # whole thumbnail pixels, so that edges need no rounding; the frame's own frame is exceeded on all sides
    boxes = 10 * np.stack(
        [rng.integers(90, 210, n), rng.integers(190, 290, n), rng.integers(1, 40, n), rng.integers(1, 40, n)], axis=1
    )
    labels = rng.integers(0, 5, n)
    votes = np.zeros((5, 80, 100), int)
    for (x, y, w, h), label in zip(boxes // 10 - [100, 200, 0, 0], labels, strict=True):
        votes[label, max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)] += 1
    expected = np.where(votes.any(axis=0), votes.argmax(axis=0), -1)
    np.testing.assert_array_equal(label_map((80, 100), FRAME, boxes, labels), expected)


def test_tiles_smaller_than_a_pixel_vote() -> None:
    frame = Box(0, 0, 1000, 800)
    boxes = np.array([[x, y, 2, 2] for y in range(0, 20, 2) for x in range(0, 20, 2)])
    labels = np.where(boxes[:, 0] < 10, 0, np.where(boxes[:, 1] < 14, 1, 2))
    found = label_map((80, 100), frame, boxes, labels)
    np.testing.assert_array_equal(found[:2, :2], [[0, 1], [0, 2]])
    assert (found >= 0).sum() == 4


def test_a_grid_rounded_to_whole_pixels_has_no_seams() -> None:
    starts = np.rint(np.arange(14) * 64.128).astype(int)
    boxes = np.array([[x, y, 64, 64] for y in starts for x in starts])
    for side in (97, 211, 449):
        found = label_map((side, side), Box(0, 0, 898, 898), boxes, np.zeros(len(boxes), int))
        assert (found == 0).all()


def test_clusters_take_their_colours_over_grey() -> None:
    thumbnail = np.full((80, 100, 3), (230, 150, 200), np.uint8)
    boxes = np.array([[1000, 2000, 300, 200], [1500, 2000, 300, 200]])
    solid = draw_clusters(thumbnail, FRAME, boxes, np.array([1, 13]), alpha=1.0)
    np.testing.assert_array_equal(solid[5, 5], categorical_colors(14)[1])
    np.testing.assert_array_equal(solid[5, 55], categorical_colors(14)[13])
    assert np.ptp(solid[5, 40].astype(int)) == 0  # grey where there is no tile
    half = draw_clusters(thumbnail, FRAME, boxes, np.array([1, 13]), alpha=0.5)
    np.testing.assert_allclose(half[5, 5], (solid[5, 5].astype(int) + solid[5, 40]) / 2, atol=1)
    np.testing.assert_array_equal(thumbnail[0, 0], (230, 150, 200))
    assert draw_clusters(thumbnail, FRAME, boxes[:0], np.zeros(0, np.int64)).shape == thumbnail.shape


@pytest.mark.parametrize(
    ("labels", "alpha", "match"),
    [([0], 0.5, "1 labels for 2 tiles"), ([0, -1], 0.5, "at least 0"), ([0, 1], 1.5, "alpha")],
)
def test_bad_clusters_are_refused(labels: list[int], alpha: float, match: str) -> None:
    boxes = np.array([[1000, 2000, 300, 200], [1500, 2000, 300, 200]])
    with pytest.raises(ConfigError, match=match):
        draw_clusters(WHITE, FRAME, boxes, np.array(labels), alpha=alpha)


def test_the_outline_lies_on_the_polygons_edge() -> None:
    square = shapely.box(1200, 2200, 1600, 2600)
    with_hole = square.difference(shapely.box(1300, 2300, 1450, 2450))
    drawn = draw_thumbnail(WHITE, FRAME, tissue_of(shapely.multipolygons([with_hole])))
    marked = changed(drawn)
    y, x = np.nonzero(marked)
    outline = with_hole.boundary
    centres = shapely.points(1000 + 10 * (x + 0.5), 2000 + 10 * (y + 0.5))
    assert shapely.distance(outline, centres).max() <= 20  # two thumbnail pixels
    along = outline.interpolate(np.linspace(0, 1, 200), normalized=True)
    near = shapely.distance(shapely.union_all(centres), along)
    assert near.max() <= 20
    assert not marked[25:28, 25:28].any()
    assert np.abs(drawn[20:60, 20].astype(int) - OUTLINE_COLOR).sum() < np.abs(255 - np.array(OUTLINE_COLOR)).sum() * 40


def test_specks_are_left_out_where_there_is_more() -> None:
    speck, large = shapely.box(1050, 2050, 1070, 2070), shapely.box(1200, 2200, 1600, 2600)
    both = changed(draw_thumbnail(WHITE, FRAME, tissue_of(shapely.MultiPolygon([speck, large]))))
    assert not both[:15, :15].any()
    alone = changed(draw_thumbnail(WHITE, FRAME, tissue_of(shapely.MultiPolygon([speck]))))
    assert alone[:15, :15].any()


def test_tiles_are_outlined_and_share_lines() -> None:
    boxes = np.array([[1000 + 200 * i, 2000 + 200 * j, 200, 200] for j in range(4) for i in range(5)])
    drawn = draw_thumbnail(WHITE, FRAME, None, boxes)
    expected = np.zeros((80, 100), bool)
    expected[[0, 20, 40, 60, 79]] = True
    expected[:, [0, 20, 40, 60, 80, 99]] = True
    np.testing.assert_array_equal(changed(drawn), expected)
    np.testing.assert_array_equal(WHITE, 255)


def test_small_tiles_are_tinted_and_nothing_else_is() -> None:
    boxes = np.array([[1000 + 30 * i, 2000, 30, 30] for i in range(10)])
    expected = np.zeros((80, 100), bool)
    expected[:3, :30] = True
    np.testing.assert_array_equal(changed(draw_thumbnail(WHITE, FRAME, None, boxes)), expected)


def test_nothing_to_draw_leaves_the_picture() -> None:
    empty = tissue_of(shapely.MultiPolygon())
    outside = np.array([[9000, 9000, 300, 300], [0, 0, 300, 300]])
    for drawn in (
        draw_thumbnail(WHITE, FRAME, None),
        draw_thumbnail(WHITE, FRAME, empty, np.zeros((0, 4), np.int64)),
        draw_thumbnail(WHITE, FRAME, empty, outside),
    ):
        np.testing.assert_array_equal(drawn, WHITE)
        assert drawn is not WHITE


def test_tiles_of_a_real_slide_fall_on_its_thumbnail(shared: Path) -> None:
    with open_slide(shared / "data" / "wsi" / "CMU-1-Small-Region.svs") as slide:
        tiles = lay_tiles(slide, None, Grid(tile_px=224, mpp=0.5))
        thumbnail = slide.thumbnail(400)
        drawn = draw_clusters(thumbnail, slide.bounds, tiles.boxes, np.arange(len(tiles)), alpha=1.0)
        for k in (0, len(tiles) // 2, len(tiles) - 1):
            x, y, w, h = tiles.boxes[k]
            at = (
                round((y + h / 2) * thumbnail.shape[0] / slide.size.height),
                round((x + w / 2) * thumbnail.shape[1] / slide.size.width),
            )
            np.testing.assert_array_equal(drawn[at], categorical_colors(k + 1)[k])


def test_jpeg_is_written_whole(tmp_path: Path) -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 30:] = (0, 60, 255)
    write_jpeg(tmp_path / "deep" / "a.jpg", image)
    with Image.open(tmp_path / "deep" / "a.jpg") as file:
        assert file.format == "JPEG"
        np.testing.assert_allclose(np.asarray(file).astype(int), image, atol=8)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.jpg"]
    with pytest.raises(ConfigError, match="quality"):
        write_jpeg(tmp_path / "b.jpg", image, quality=0)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises((OutputWriteError, OSError)):
        write_jpeg(blocked / "c.jpg", image)
