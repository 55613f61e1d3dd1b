import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from microtome.errors import ConfigError, TileError
from microtome.geometry import Box, DeepZoomAddress, DeepZoomPyramid, Point, Size, px0_from_um, um_from_px0

small = st.integers(-50, 50)
side = st.integers(1, 60)
boxes = st.builds(Box, small, small, side, side)
pyramids = st.builds(DeepZoomPyramid, st.builds(Size, st.integers(1, 5000), st.integers(1, 5000)), st.integers(1, 512))


def pixels(box):
    return {(x, y) for x in range(box.x, box.right) for y in range(box.y, box.bottom)}


@given(boxes, boxes)
def test_intersection_is_that_of_the_pixels(a, b):
    common = a.intersection(b)
    assert (set() if common is None else pixels(common)) == pixels(a) & pixels(b)
    assert a.contains(b) == (pixels(b) <= pixels(a))


@given(boxes, small, small)
def test_shifting_back_and_forth(box, dx, dy):
    assert box.shifted(dx, dy).shifted(-dx, -dy) == box
    assert box.shifted(dx, dy).size == box.size


@given(st.floats(0.01, 1e6), st.floats(0.05, 50))
def test_um_and_px0_are_inverse(length, mpp):
    assert um_from_px0(px0_from_um(length, mpp=mpp), mpp=mpp) == pytest.approx(length)


@given(st.builds(Size, st.integers(1, 10**6), st.integers(1, 10**6)), st.integers(1, 4096))
def test_fitted_never_enlarges_and_keeps_the_shape(size, max_px):
    fitted = size.fitted(max_px)
    assert max(fitted.width, fitted.height) <= max(1, min(max_px, max(size.width, size.height)))
    scale = max(fitted.width, fitted.height) / max(size.width, size.height)
    assert abs(fitted.width - size.width * scale) <= 1
    assert abs(fitted.height - size.height * scale) <= 1


@pytest.mark.parametrize("bad", [lambda: Box(0, 0, 0, 1), lambda: Box(0, 0, 1, -1), lambda: Size(-1, 0)])
def test_impossible_sizes_are_refused(bad):
    with pytest.raises(ConfigError):
        bad()


@pytest.mark.parametrize("mpp", [0.0, -1.0, float("nan")])
def test_impossible_mpp_is_refused(mpp):
    with pytest.raises(ConfigError):
        px0_from_um(1.0, mpp=mpp)


def test_points_are_values():
    assert Point(1, 2) == Point(1.0, 2.0)


def halvings(length):
    """Sizes of all levels, by halving (rounding up) until nothing is left to halve."""
    sizes = [length]
    while length > 1:
        length = (length + 1) // 2
        sizes.append(length)
    return sizes


@given(pyramids)
def test_deepzoom_levels_are_halvings(pyramid):
    widths, heights = halvings(pyramid.size.width), halvings(pyramid.size.height)
    count = max(len(widths), len(heights))
    assert pyramid.level_count == count
    for level in range(count):
        step = count - 1 - level
        expected = Size(widths[min(step, len(widths) - 1)], heights[min(step, len(heights) - 1)])
        assert pyramid.level_size(level) == expected


def one_at(pyramid, box):
    """The tile of a level that has this box, looked for among all of its column's and row's."""

    def find(level):
        columns, rows = pyramid.grid(level)
        for column in range(columns):
            if pyramid.box(DeepZoomAddress(level, column, 0)).x == box.x:
                for row in range(rows):
                    if pyramid.box(DeepZoomAddress(level, column, row)) == box:
                        return DeepZoomAddress(level, column, row)
        return None

    return find


@settings(deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(pyramids, st.data())
def test_deepzoom_addresses_and_boxes_are_inverse(pyramid, data):
    level = data.draw(st.integers(0, pyramid.level_count - 1))
    columns, rows = pyramid.grid(level)
    assume(sum(pyramid.grid(pyramid.level_count - 1)) < 200)
    address = DeepZoomAddress(level, data.draw(st.integers(0, columns - 1)), data.draw(st.integers(0, rows - 1)))
    box = pyramid.box(address)
    assert Box.of(pyramid.size).contains(box)
    assert pyramid.address(box, level=level) == address
    same = [a for a in map(one_at(pyramid, box), range(pyramid.level_count)) if a is not None]
    if same == [address]:
        assert pyramid.address(box) == address
    else:  # clipped at the border, tiles of several levels can have one box
        with pytest.raises(TileError, match="Pass level="):
            pyramid.address(box)


@settings(deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(pyramids)
def test_deepzoom_tiles_of_a_level_cover_the_image_once(pyramid):
    for level in range(pyramid.level_count):
        columns, rows = pyramid.grid(level)
        assume(columns + rows < 200)
        across = [pyramid.box(DeepZoomAddress(level, column, 0)) for column in range(columns)]
        down = [pyramid.box(DeepZoomAddress(level, 0, row)) for row in range(rows)]
        assert [b.x for b in across] == [0, *(b.right for b in across[:-1])]
        assert [b.y for b in down] == [0, *(b.bottom for b in down[:-1])]
        assert (across[-1].right, down[-1].bottom) == (pyramid.size.width, pyramid.size.height)


def test_a_box_of_several_levels_needs_the_level():
    pyramid = DeepZoomPyramid(Size(100, 80), 224)
    with pytest.raises(TileError, match="Pass level="):
        pyramid.address(Box(0, 0, 100, 80))
    assert pyramid.address(Box(0, 0, 100, 80), level=6) == (6, 0, 0)


@pytest.mark.parametrize("address", [(13, 0, 0), (-1, 0, 0), (12, 10, 0), (12, 0, 14), (12, -1, 0)])
def test_addresses_that_do_not_exist_are_refused(address):
    pyramid = DeepZoomPyramid(Size(2220, 2967), 224)
    with pytest.raises(TileError):
        pyramid.box(DeepZoomAddress(*address))


@pytest.mark.parametrize("box", [Box(1, 0, 224, 224), Box(0, 0, 223, 224), Box(0, 0, 300, 300), Box(-224, 0, 224, 224)])
def test_a_box_that_is_no_tile_is_refused(box):
    with pytest.raises(TileError):
        DeepZoomPyramid(Size(2220, 2967), 224).address(box)


@pytest.mark.parametrize(
    ("mpp", "slide_mpp", "level"),
    [(0.5, 0.5, 12), (0.5, 0.25, 11), (0.5, 0.2498, 11), (2.0, 0.25, 9), (0.4, 0.25, 11)],
)
def test_level_for_mpp(mpp, slide_mpp, level):
    assert DeepZoomPyramid(Size(2220, 2967), 224).level_for_mpp(mpp=mpp, slide_mpp=slide_mpp) == level


def test_a_level_finer_than_the_slide_is_refused():
    with pytest.raises(TileError, match="no DeepZoom level"):
        DeepZoomPyramid(Size(2220, 2967), 224).level_for_mpp(mpp=0.1, slide_mpp=0.5)


@pytest.mark.parametrize(("size", "tile_px"), [(Size(0, 5), 224), (Size(5, 5), 0)])
def test_an_impossible_pyramid_is_refused(size, tile_px):
    with pytest.raises(ConfigError):
        DeepZoomPyramid(size, tile_px)
