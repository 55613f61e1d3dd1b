import itertools

import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from microtome.errors import ConfigError, MissingMppError, NoTilesError, TileError
from microtome.geometry import Box, Size
from microtome.storage import digest
from microtome.testing.array_slide import ArraySlide
from microtome.tiles.grid import MAX_CANDIDATES, Grid, Tiles, lay_tiles
from microtome.tiles.slide_tiles import SlideTiles
from tests.tiles.fakes import exact_tissue, noise_slide, tissue


def blank(width, height, *, mpp=0.5, bounds=None, downsamples=()):
    slide = ArraySlide(np.zeros((height, width, 1), np.uint8), mpp=mpp, downsamples=downsamples)
    slide.bounds = bounds or slide.bounds
    return slide


@st.composite
def slides(draw):
    """Arguments of blank: nothing whose types are checked at random is made inside of a strategy."""
    width, height = draw(st.integers(20, 220)), draw(st.integers(20, 220))
    x, y = draw(st.integers(0, 15)), draw(st.integers(0, 15))
    bounds = Box(x, y, draw(st.integers(1, width - x)), draw(st.integers(1, height - y)))
    mpp = draw(st.floats(0.2, 1.1))
    return {"width": width, "height": height, "mpp": mpp, "bounds": draw(st.sampled_from([None, bounds]))}


@st.composite
def grids(draw, /, **fixed):
    tile_px = draw(st.integers(4, 40))
    fields = {
        "tile_px": tile_px,
        "mpp": draw(st.floats(0.3, 2.0)),
        "stride_px": draw(st.one_of(st.none(), st.integers(4, 60))),
        "min_tissue": draw(st.floats(0, 1)),
        "anchor": "slide",
        "bounds": draw(st.sampled_from(["in", "pad"])),
    }
    return fields | fixed


@st.composite
def areas(draw, size):
    boxes = []
    for _ in range(draw(st.integers(1, 3))):
        x, y = draw(st.integers(0, size.width - 2)), draw(st.integers(0, size.height - 2))
        boxes.append(shapely.box(x, y, draw(st.integers(x + 1, size.width)), draw(st.integers(y + 1, size.height))))
    union = shapely.union_all(boxes)
    return shapely.MultiPolygon(list(getattr(union, "geoms", [union])))


def laid(slide, area, grid):
    try:
        return lay_tiles(slide, area, grid).boxes
    except NoTilesError:
        return np.zeros((0, 4), np.int64)


def by_definition(slide, area, grid):
    """Every tile that the definition has, one by one."""
    scale = grid.mpp / slide.mpp
    side = round(grid.tile_px * scale)
    frame = Box(0, 0, slide.bounds.right, slide.bounds.bottom)
    if grid.anchor == "tissue":
        left, top, right, bottom = (int(v) for v in area.polygons.bounds)
        common = Box(left, top, right - left, bottom - top).intersection(slide.bounds)
        if common is None:
            return []
        frame = common
    rows = []
    for j, i in itertools.product(range(400), range(400)):
        box = Box(frame.x + round(i * grid.stride * scale), frame.y + round(j * grid.stride * scale), side, side)
        if box.x >= frame.right or box.y >= frame.bottom:
            if box.x >= frame.right and box.y >= frame.bottom:
                break
            continue
        inside = slide.bounds.contains(box) if grid.bounds == "in" else slide.bounds.intersection(box) is not None
        if not inside:
            continue
        share = 1.0
        if area is not None:
            share = area.polygons.intersection(shapely.box(box.x, box.y, box.right, box.bottom)).area / side**2
        if share >= grid.min_tissue - 1e-4:
            rows.append((box.x, box.y, side, side))
    return rows


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_tiles_are_those_of_the_definition(data):
    slide = blank(**data.draw(slides()))
    area = exact_tissue(data.draw(areas(slide.size)), slide.size)
    anchor = data.draw(st.sampled_from(["slide", "tissue"]))
    grid = Grid(**data.draw(grids(anchor=anchor, tile_px=20, stride_px=15)))
    assert laid(slide, area, grid).tolist() == [list(row) for row in by_definition(slide, area, grid)]


@settings(deadline=None)
@given(slides(), grids())
def test_tiles_are_in_bounds_unique_and_row_major(slide, grid):
    slide, grid = blank(**slide), Grid(**grid)
    boxes = laid(slide, None, grid)
    for row in boxes:
        box = Box.from_row(row)
        assert slide.bounds.contains(box) if grid.bounds == "in" else slide.bounds.intersection(box)
    assert len(np.unique(boxes, axis=0)) == len(boxes)
    assert np.array_equal(np.lexsort((boxes[:, 0], boxes[:, 1])), np.arange(len(boxes)))


@settings(deadline=None)
@given(slides(), grids(bounds="pad", stride_px=None, min_tissue=0.0))
def test_padded_tiles_cover_the_scanned_part_once(slide, grid):
    slide, grid = blank(**slide), Grid(**grid)
    boxes = lay_tiles(slide, None, grid).boxes
    exact = grid.tile_px * grid.mpp / slide.mpp
    assume(exact >= 8)
    side = round(exact)
    edges = (
        (boxes[:, 0], slide.bounds.x, slide.bounds.right),
        (boxes[:, 1], slide.bounds.y, slide.bounds.bottom),
    )
    starts = []
    for column, first, end in edges:
        at = np.unique(column)
        starts.append(at)
        assert at[0] <= first + 1
        assert at[-1] + side >= end - 1
        assert np.all(np.abs(np.diff(at) - exact) < 1 + 1e-9)  # every corner is rounded by itself
    assert len(boxes) == len(starts[0]) * len(starts[1])


@settings(deadline=None)
@given(st.data())
def test_padded_overlapping_tiles_cover_all_tissue(data):
    slide = blank(**data.draw(slides()))
    area = exact_tissue(data.draw(areas(slide.size)), slide.size)
    anchor = data.draw(st.sampled_from(["slide", "tissue"]))
    grid = Grid(tile_px=20, mpp=slide.mpp, stride_px=15, min_tissue=0.0, bounds="pad", anchor=anchor)
    boxes = laid(slide, area, grid)
    left = area.polygons.intersection(shapely.box(*_edges(slide.bounds)))
    covered = shapely.union_all([shapely.box(x, y, x + w, y + h) for x, y, w, h in boxes])
    assert left.difference(covered).area == 0


def _edges(box):
    return box.x, box.y, box.right, box.bottom


@settings(deadline=None)
@given(slides(), grids())
def test_achieved_mpp_is_within_rounding(slide, grid):
    slide, grid = blank(**slide), Grid(**grid)
    try:
        tiles = lay_tiles(slide, None, grid)
    except NoTilesError:
        return
    assert tiles.mpp == pytest.approx(tiles.boxes[0, 2] * slide.mpp / grid.tile_px)
    assert abs(tiles.mpp - grid.mpp) <= 0.5 * slide.mpp / grid.tile_px + 1e-9


@settings(deadline=None)
@given(st.data())
def test_more_tissue_asked_for_gives_a_subset(data):
    slide = blank(**data.draw(slides()))
    area = exact_tissue(data.draw(areas(slide.size)), slide.size)
    low, high = sorted(data.draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
    fields = data.draw(grids())
    few = laid(slide, area, Grid(**fields | {"min_tissue": high}))
    many = laid(slide, area, Grid(**fields | {"min_tissue": low}))
    assert {tuple(row) for row in few} <= {tuple(row) for row in many}


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60))
def test_a_grid_anchored_at_tissue_moves_with_it(dx, dy):
    slide = blank(300, 300)
    grid = Grid(tile_px=32, mpp=0.5, stride_px=20, min_tissue=0.3, anchor="tissue", bounds="pad")
    here = lay_tiles(slide, tissue(slide.size, (40, 50, 150, 120)), grid)
    there = lay_tiles(slide, tissue(slide.size, (40 + dx, 50 + dy, 150 + dx, 120 + dy)), grid)
    assert here.boxes[0].tolist() == [40, 50, 32, 32]
    np.testing.assert_array_equal(there.boxes, here.boxes + np.array([dx, dy, 0, 0]))
    np.testing.assert_allclose(there.coverage, here.coverage, atol=1e-6)


def test_a_grid_anchored_at_the_slide_stays_where_it_is():
    slide = blank(300, 300)
    grid = Grid(tile_px=32, mpp=0.5, min_tissue=0.01)
    corners = lay_tiles(slide, tissue(slide.size, (45, 57, 150, 120)), grid).boxes[:, :2]
    assert (corners % 32 == 0).all()


@pytest.mark.parametrize("mpp0", [0.2465, 0.2527, 0.499, 0.121])
def test_positions_do_not_drift(mpp0):
    slide = blank(40000, 2, mpp=mpp0)
    grid = Grid(tile_px=224, mpp=0.5, bounds="pad")
    x = lay_tiles(slide, None, grid).boxes[:, 0]
    assert np.abs(x - np.arange(len(x)) * 224 * 0.5 / mpp0).max() <= 0.5


@pytest.mark.parametrize("level", [0, 1, 2])
def test_tiles_of_a_level_are_crops_of_it(level):
    slide = noise_slide(1003, 777, downsamples=(3, 7), mpp=None)
    grid = Grid(tile_px=40, mpp=None, level=level, stride_px=30, min_tissue=0.0)
    tiles = lay_tiles(slide, None, grid)
    assert tiles.mpp is None
    where = slide.levels[level]
    image = slide.read_native(level, Box.of(where.size))
    images = SlideTiles(slide, tiles).read(np.arange(len(tiles))).images
    columns = (where.size.width - 40) // 30 + 1
    assert len(tiles) == columns * ((where.size.height - 40) // 30 + 1)
    for row, pixels in enumerate(images):
        x, y = row % columns * 30, row // columns * 30
        np.testing.assert_array_equal(pixels, image[y : y + 40, x : x + 40])


def test_a_level_has_the_mpp_of_the_slide_times_its_downsample():
    tiles = lay_tiles(noise_slide(800, 800, downsamples=(4,), mpp=0.25), None, Grid(tile_px=32, mpp=None, level=1))
    assert tiles.mpp == pytest.approx(1.0)
    assert tiles.level_size == Size(200, 200)


def test_touching_pixels_come_at_the_slides_own_resolution():
    slide = noise_slide(300, 200, mpp=0.5)
    tiles = lay_tiles(slide, None, Grid(tile_px=100, mpp=0.5))
    images = SlideTiles(slide, tiles).read(np.arange(6)).images
    whole = slide.read(Box(0, 0, 300, 200))
    np.testing.assert_array_equal(np.block([[[images[0]], [images[1]], [images[2]]]]), whole[:100])


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"tile_px": 0}, "tile_px"),
        ({"stride_px": 0}, "stride_px"),
        ({"mpp": 0.0}, "mpp"),
        ({"mpp": float("nan")}, "mpp"),
        ({"mpp": float("inf")}, "mpp"),
        ({"mpp": None}, "exactly one"),
        ({"level": 1}, "exactly one"),
        ({"mpp": None, "level": -1}, "level"),
        ({"min_tissue": 1.5}, "min_tissue"),
        ({"min_tissue": float("nan")}, "min_tissue"),
    ],
)
def test_impossible_grids_are_refused(fields, match):
    with pytest.raises(ConfigError, match=match):
        Grid(**fields)


def test_reasons_for_no_tiles():
    slide = blank(100, 100)
    with pytest.raises(NoTilesError, match="no tissue"):
        lay_tiles(slide, tissue(slide.size), Grid(tile_px=10))
    with pytest.raises(NoTilesError, match="lies on the grid"):
        lay_tiles(slide, None, Grid(tile_px=101))
    with pytest.raises(NoTilesError, match=r"the best is 0\.25"):
        lay_tiles(slide, tissue(slide.size, (0, 0, 10, 10)), Grid(tile_px=20, min_tissue=0.5))
    slide.bounds = Box(50, 50, 20, 20)
    with pytest.raises(NoTilesError, match="outside of the scanned part"):
        lay_tiles(slide, tissue(slide.size, (0, 0, 10, 10)), Grid(tile_px=2, anchor="tissue"))


@pytest.mark.parametrize("anchor", ["slide", "tissue"])
def test_no_tiles_may_be_allowed(anchor):
    slide = blank(100, 100)
    tiles = lay_tiles(slide, tissue(slide.size), Grid(tile_px=10, mpp=0.5, anchor=anchor), allow_empty=True)
    assert len(tiles) == 0
    assert tiles.boxes.shape == (0, 4)
    assert tiles.mpp == 0.5


def test_what_cannot_be_laid_is_refused():
    slide = blank(100, 100)
    with pytest.raises(TileError, match="tissue found on this slide"):
        lay_tiles(slide, tissue(Size(101, 100), (0, 0, 10, 10)), Grid(tile_px=10))
    with pytest.raises(TileError, match="needs tissue"):
        lay_tiles(slide, None, Grid(tile_px=10, anchor="tissue"))
    with pytest.raises(TileError, match="less than one pixel"):
        lay_tiles(slide, None, Grid(tile_px=10, mpp=0.1, stride_px=2))
    with pytest.raises(TileError, match="no level 3"):
        lay_tiles(slide, None, Grid(tile_px=10, mpp=None, level=3))
    with pytest.raises(MissingMppError):
        lay_tiles(blank(100, 100, mpp=None), None, Grid(tile_px=10))


def test_a_grid_too_fine_to_hold_is_refused():
    slide = blank(10, 10)
    slide.bounds = Box(0, 0, 100_000, 100_000)
    with pytest.raises(TileError, match=str(MAX_CANDIDATES)):
        lay_tiles(slide, None, Grid(tile_px=10, stride_px=1, mpp=0.5))


def test_the_recipe_is_of_values():
    slide = blank(300, 300)
    area = tissue(slide.size, (0, 0, 200, 200))
    tiles = lay_tiles(slide, area, Grid(tile_px=50, mpp=0.5, min_tissue=0.5))
    same = lay_tiles(slide, area, Grid(tile_px=50, mpp=0.5, min_tissue=0.6))
    assert digest(tiles.recipe) == digest(same.recipe)

    def with_(**changes):
        return digest(Tiles(**{name: getattr(tiles, name) for name in tiles.__dataclass_fields__} | changes).recipe)

    changed = [
        with_(boxes=tiles.boxes[::-1]),
        with_(boxes=tiles.boxes + 1),
        with_(tile_px=51),
        with_(tile_height_px=49),
        with_(mpp=0.25),
        with_(level=0, level_size=Size(300, 300)),
        with_(slide_size=Size(300, 301)),
        with_(slide_mpp=0.51),
    ]
    assert len({*changed, digest(tiles.recipe)}) == len(changed) + 1


def test_tiles_cannot_be_changed():
    boxes = np.array([[0, 0, 10, 10]])
    tiles = Tiles(boxes, np.ones(1, np.float32), 10, None, None, Grid(), Size(10, 10), None)
    boxes[0, 0] = 5
    assert tiles.boxes[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        tiles.boxes[0, 0] = 5
