"""Coverage of boxes against exact areas by GEOS."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from microtome.annotations.raster import polygons_from_mask
from microtome.errors import TissueError
from microtome.geometry import Box, Size
from microtome.tissue.coverage import CoverageIndex
from microtome.tissue.tissue import Tissue


def exact(polygons, boxes):
    x, y, w, h = boxes.T.astype(float)
    return shapely.area(shapely.intersection(shapely.box(x, y, x + w, y + h), polygons)) / (w * h)


box_rows = hnp.arrays(np.int64, st.tuples(st.integers(1, 30), st.just(4)), elements=st.integers(1, 150)).map(
    lambda a: a - [60, 60, 0, 0]
)


@settings(max_examples=60)
@given(
    mask=hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))),
    frame=st.builds(Box, st.integers(-20, 20), st.integers(-20, 20), st.integers(1, 90), st.integers(1, 90)),
    boxes=box_rows,
)
def test_equals_exact_area_for_outlines_of_masks(mask, frame, boxes):
    polygons = polygons_from_mask(mask, box=frame)
    assert CoverageIndex(polygons).covered(boxes) == pytest.approx(exact(polygons, boxes), abs=1e-3)


@settings(max_examples=60)
@given(radii=st.lists(st.floats(3, 60), min_size=3, max_size=20), hole=st.floats(0.1, 0.8), boxes=box_rows)
def test_equals_exact_area_for_any_polygon(radii, hole, boxes):
    angles = np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    shell = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.array(radii)[:, None]
    polygons = shapely.MultiPolygon([shapely.Polygon(shell, [shell * hole])])
    assert CoverageIndex(polygons).covered(boxes) == pytest.approx(exact(polygons, boxes), abs=1e-3)


def test_many_boxes_in_several_chunks(monkeypatch):
    noise = np.random.default_rng(1).normal(size=(200, 200))
    polygons = polygons_from_mask(ndimage.gaussian_filter(noise, 3) > 0, box=Box(0, 0, 6400, 6400))
    corners = np.random.default_rng(2).integers(-300, 6400, (5000, 2))
    boxes = np.concatenate([corners, np.full((5000, 2), 256)], axis=1)
    whole = CoverageIndex(polygons).covered(boxes)
    monkeypatch.setattr("microtome.tissue.coverage._PAIRS", 5_000)
    assert np.array_equal(CoverageIndex(polygons).covered(boxes), whole)
    assert whole[:300] == pytest.approx(exact(polygons, boxes[:300]), abs=1e-3)


def test_whole_empty_and_no_boxes():
    everything = Tissue.from_mask(np.ones((3, 3), bool), box=Box(0, 0, 90, 90), size=Size(90, 90), mpp=None)
    boxes = np.array([[0, 0, 90, 90], [30, 30, 1, 1], [-90, 0, 90, 90], [45, 0, 90, 90], [1000, 0, 5, 5]])
    assert everything.coverage(boxes) == pytest.approx([1, 1, 0, 0.5, 0], abs=1e-5)
    nothing = Tissue.from_mask(np.zeros((3, 3), bool), box=Box(0, 0, 90, 90), size=Size(90, 90), mpp=None)
    assert nothing.coverage(boxes).tolist() == [0, 0, 0, 0, 0]
    assert everything.coverage(np.zeros((0, 4), np.int64)).shape == (0,)
    with pytest.raises(TissueError, match="at least 1 px"):
        everything.coverage(np.array([[0, 0, 0, 5]]))
