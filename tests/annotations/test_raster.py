"""Masks and polygons: exact on pixel edges, in both directions."""

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from microtome.annotations.raster import merged, polygons_from_mask, rasterise
from microtome.errors import AnnotationError, ConfigError
from microtome.geometry import Box, Size

masks = hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))
boxes = st.builds(Box, st.integers(-50, 50), st.integers(-50, 50), st.integers(1, 300), st.integers(1, 300))


def size_of(mask):
    return Size(mask.shape[1], mask.shape[0])


@given(mask=masks, box=boxes)
def test_mask_to_polygons_and_back(mask, box):
    polygons = polygons_from_mask(mask, box=box)
    assert polygons.is_valid
    assert polygons.area == pytest.approx(mask.mean() * box.width * box.height)
    assert np.array_equal(rasterise(polygons, box=box, size=size_of(mask)), mask)
    pieces = ndimage.label(mask)[1]
    holes = sum(len(p.interiors) for p in polygons.geoms)
    assert len(polygons.geoms) == pieces
    # holes: 8-connected parts of the background that do not reach the border, joined ones touching at corners apart
    background = ndimage.label(np.pad(~mask, 1, constant_values=True))[1] - 1
    assert holes >= ndimage.label(np.pad(~mask, 1, constant_values=True), np.ones((3, 3)))[1] - 1
    assert holes <= background


def test_pieces_that_meet_at_a_corner_stay_two():
    polygons = polygons_from_mask(np.eye(2, dtype=bool), box=Box(0, 0, 2, 2))
    assert sorted(p.wkt for p in polygons.geoms) == [
        "POLYGON ((0 0, 1 0, 1 1, 0 1, 0 0))",
        "POLYGON ((1 1, 2 1, 2 2, 1 2, 1 1))",
    ]


def test_ring_that_touches_itself_becomes_a_hole():
    mask = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], bool)
    (polygon,) = polygons_from_mask(mask, box=Box(0, 0, 3, 3)).geoms
    assert polygon.is_valid
    assert polygon.area == 7
    assert len(polygon.interiors) == 1


def test_only_corners_are_kept():
    polygons = polygons_from_mask(np.ones((50, 70), bool), box=Box(0, 0, 700, 500))
    assert shapely.get_num_coordinates(polygons) == 5


@given(
    points=st.lists(st.tuples(st.floats(0, 20), st.floats(0, 20)), min_size=3, max_size=8),
    box=st.builds(Box, st.integers(-3, 3), st.integers(-3, 3), st.integers(5, 30), st.integers(5, 30)),
)
def test_rasterise_is_a_test_of_pixel_centres(points, box):
    polygon = shapely.convex_hull(shapely.MultiPoint(points))
    if not isinstance(polygon, shapely.Polygon) or polygon.area < 1e-3:
        return
    ring = shapely.Polygon(polygon.exterior, [polygon.centroid.buffer(0.1).exterior]) if polygon.area > 40 else polygon
    if not ring.is_valid:
        return
    size = Size(17, 13)
    mask = rasterise(ring, box=box, size=size)
    x = box.x + (np.arange(17) + 0.5) * box.width / 17
    y = box.y + (np.arange(13) + 0.5) * box.height / 13
    xs, ys = np.meshgrid(x, y)
    clear = np.asarray(shapely.distance(np.asarray(shapely.points(xs, ys)), ring.boundary)) > 1e-6
    assert np.array_equal(mask[clear], np.asarray(shapely.contains_xy(ring, xs, ys))[clear])


def test_overlapping_polygons_are_united():
    pair = [shapely.box(0, 0, 6, 4), shapely.box(4, 0, 8, 4)]
    whole = merged(pair)
    assert whole.is_valid
    assert whole.area == 32
    assert rasterise(pair, box=Box(0, 0, 8, 4), size=Size(8, 4)).all()
    hole = shapely.Polygon([(0, 0), (9, 0), (9, 9), (0, 9)], [[(3, 3), (6, 3), (6, 6), (3, 6)]])
    mask = rasterise([hole, shapely.box(3, 3, 6, 4)], box=Box(0, 0, 9, 9), size=Size(9, 9))
    assert mask.sum() == 72 + 3


def test_nothing_to_rasterise():
    assert not rasterise(shapely.MultiPolygon(), box=Box(0, 0, 4, 4), size=Size(2, 2)).any()
    assert not rasterise([], box=Box(0, 0, 4, 4), size=Size(2, 2)).any()
    assert merged([]).is_empty
    assert polygons_from_mask(np.zeros((3, 3), bool), box=Box(0, 0, 3, 3)).is_empty


def test_far_outside_of_the_box():
    assert not rasterise(shapely.box(100, 100, 200, 200), box=Box(0, 0, 4, 4), size=Size(2, 2)).any()
    assert rasterise(shapely.box(-1e6, -1e6, 1e6, 1e6), box=Box(0, 0, 4, 4), size=Size(2, 2)).all()


def test_bad_input():
    bow_tie = shapely.Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])
    with pytest.raises(AnnotationError, match="invalid"):
        rasterise(bow_tie, box=Box(0, 0, 4, 4), size=Size(2, 2))
    with pytest.raises(ConfigError, match="at least 1"):
        rasterise(shapely.box(0, 0, 1, 1), box=Box(0, 0, 4, 4), size=Size(0, 2))
    with pytest.raises(ConfigError, match="must have pixels"):
        polygons_from_mask(np.zeros((0, 3), bool), box=Box(0, 0, 4, 4))
    with pytest.raises(ConfigError, match="simplify_px"):
        polygons_from_mask(np.ones((3, 3), bool), box=Box(0, 0, 4, 4), simplify_px=-1)


def test_simplification_only_when_asked_stays_close():
    y, x = np.mgrid[:200, :200]
    mask = (np.hypot(x - 100, y - 100) < 80) & (np.hypot(x - 90, y - 100) > 20)
    box = Box(0, 0, 2000, 2000)
    exact, simple = polygons_from_mask(mask, box=box), polygons_from_mask(mask, box=box, simplify_px=1.0)
    assert simple.is_valid
    assert shapely.get_num_coordinates(simple) < shapely.get_num_coordinates(exact) / 4
    assert simple.hausdorff_distance(exact) <= 10.01
    assert simple.area == pytest.approx(exact.area, rel=0.01)


def test_noise_is_outlined():
    mask = np.random.default_rng(0).random((300, 400)) < 0.6
    box = Box(7, 9, 4000, 3000)
    polygons = polygons_from_mask(mask, box=box)
    assert polygons.is_valid
    assert np.array_equal(rasterise(polygons, box=box, size=Size(400, 300), check=False), mask)
