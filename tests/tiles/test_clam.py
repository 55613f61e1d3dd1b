import json
from dataclasses import fields

import numpy as np
import pytest
import shapely

from microtome.errors import ConfigError, NoTilesError, TileError
from microtome.geometry import Size
from microtome.tiles.clam import ClamGrid, lay_clam
from microtome.tissue.saturation import Contour, Saturation
from tests.conftest import golden_cases, require_case
from tests.tiles.fakes import noise_slide
from tests.tiles.real import open_by_name


@pytest.mark.parametrize("case", golden_cases("clam_segmentation"), ids=lambda case: case.name)
def test_golden_coordinates_from_stored_contours(case, shared):
    described = json.loads((require_case(case) / "case.json").read_text())
    data = np.load(case / "data.npz")
    slide = open_by_name(shared, described["inputs"]["slide"]["name"])
    known = {}
    for index, expected in enumerate(described["expected"]):
        key = _segmentation(expected["parameters"])
        if f"out_{index}_contour_points" in data:
            known[key] = _contours(data, index, expected["contours"])
    tested = 0
    for index, (settings, expected) in enumerate(
        zip(described["inputs"]["settings"], described["expected"], strict=True)
    ):
        contours = known.get(_segmentation(expected["parameters"]))
        if contours is not None:
            _check(slide, contours, settings, expected["parameters"], data[f"out_{index}_coords"])
            tested += 1
    assert tested > 0


@pytest.mark.parametrize("case", golden_cases("clam_segmentation"), ids=lambda case: case.name)
def test_golden_coordinates_from_the_slide(case, shared):
    described = json.loads((require_case(case) / "case.json").read_text())
    data = np.load(case / "data.npz")
    slide = open_by_name(shared, described["inputs"]["slide"]["name"])
    names = {field.name for field in fields(Saturation)}
    for index, (settings, expected) in enumerate(
        zip(described["inputs"]["settings"], described["expected"], strict=True)
    ):
        parameters = expected["parameters"]
        assert parameters["keep_ids"] == parameters["exclude_ids"] == "none"
        method = Saturation(**{name: value for name, value in parameters.items() if name in names})
        _check(slide, method.find_contours(slide), settings, parameters, data[f"out_{index}_coords"])


def _segmentation(parameters):
    """What decides the contours: all parameters but those of the grid."""
    return tuple(sorted((k, v) for k, v in parameters.items() if k not in ("contour_fn", "use_padding")))


def _contours(data, index, described):
    points, holes = data[f"out_{index}_contour_points"], data[f"out_{index}_hole_points"]
    ends = np.cumsum([c["points"] for c in described])
    hole_ends = np.cumsum([h["points"] for c in described for h in c["holes"]])
    pieces = iter(np.split(holes, hole_ends)[: len(hole_ends)])
    return [
        Contour(outline, tuple(next(pieces) for _ in contour["holes"]))
        for outline, contour in zip(np.split(points, ends), described, strict=False)
    ]


def _check(slide, contours, settings, parameters, expected):
    grid = ClamGrid(
        patch_px=settings["patch_size"],
        step_px=settings["step_size"],
        level=settings["patch_level"],
        contour_fn=parameters["contour_fn"],
        use_padding=parameters["use_padding"],
    )
    if len(expected) == 0:
        with pytest.raises(NoTilesError):
            lay_clam(slide, contours, grid)
        return
    np.testing.assert_array_equal(lay_clam(slide, contours, grid).boxes[:, :2], expected)


def ring(*corners):
    return np.array(corners, np.int32)


SQUARE = Contour(ring((0, 0), (100, 0), (100, 100), (0, 100)))


def corners(slide, contour, **options):
    tiles = lay_clam(slide, [contour], ClamGrid(patch_px=40, step_px=40, **options))
    return {tuple(row) for row in tiles.boxes[:, :2].tolist()}


def test_contour_tests_differ_as_they_should():
    slide = noise_slide(200, 200)
    # the box has places at 0, 40 and 80; the last column's centre (100) lies on the edge, its far points
    # outside assert corners(slide, SQUARE) == {(x, y) for x in (0, 40, 80) for y in (0, 40, 80)}
    assert corners(slide, SQUARE, contour_fn="four_pt_hard") == {(x, y) for x in (0, 40) for y in (0, 40)}
    assert corners(slide, SQUARE, contour_fn="center") == {(x, y) for x in (0, 40, 80) for y in (0, 40, 80)}
    assert corners(slide, SQUARE, contour_fn="basic") == {(x, y) for x in (0, 40, 80) for y in (0, 40, 80)}


def test_a_centre_in_a_hole_is_left_out():
    hole = ring((50, 50), (70, 50), (70, 70), (50, 70))
    places = corners(noise_slide(200, 200), Contour(SQUARE.outline, (hole,)))
    assert (40, 40) not in places
    assert len(places) == 8
    on_the_edge = ring((60, 60), (75, 60), (75, 75), (60, 75))
    assert (40, 40) in corners(noise_slide(200, 200), Contour(SQUARE.outline, (on_the_edge,)))


def test_without_padding_tiles_stay_on_the_slide():
    slide = noise_slide(100, 80)
    assert max(x for x, _ in corners(slide, SQUARE)) == 80
    kept = corners(slide, SQUARE, use_padding=False)
    assert kept == {(x, y) for x in (0, 40) for y in (0, 40)}  # 40 + 40 ends exactly at the border


def test_order_is_by_contour_then_x_then_y():
    slide = noise_slide(400, 400)
    moved = Contour(SQUARE.outline + 200)
    boxes = lay_clam(slide, [moved, SQUARE], ClamGrid(patch_px=60, step_px=60)).boxes
    assert boxes[:5, :2].tolist() == [[200, 200], [200, 260], [260, 200], [260, 260], [0, 0]]


def test_a_level_multiplies_step_and_side_by_its_whole_downsample():
    slide = noise_slide(403, 403, downsamples=(4,), mpp=0.25)
    tiles = lay_clam(slide, [Contour(SQUARE.outline * 4)], ClamGrid(patch_px=20, step_px=25, level=1))
    assert np.unique(np.diff(np.unique(tiles.boxes[:, 0]))).tolist() == [100]
    assert (tiles.boxes[:, 2:] == 80).all()
    assert tiles.mpp == pytest.approx(1.0)
    assert (tiles.level, tiles.level_size) == (1, Size(100, 100))


def test_coverage_is_the_share_in_the_contour_and_out_of_its_holes():
    slide = noise_slide(1400, 1400)
    outline = ring((100, 100), (900, 150), (1100, 1000), (300, 1200))
    hole = ring((400, 400), (800, 420), (600, 700))
    tiles = lay_clam(slide, [Contour(outline, (hole,))], ClamGrid(patch_px=128, step_px=96))
    x, y, w, h = tiles.boxes.T
    area = shapely.area(shapely.intersection(shapely.box(x, y, x + w, y + h), shapely.Polygon(outline, [hole])))
    assert np.abs(tiles.coverage - area / 128**2).max() < 0.04


def test_what_cannot_be_laid_is_refused():
    slide = noise_slide(200, 200)
    with pytest.raises(NoTilesError, match="0 contours"):
        lay_clam(slide, [], ClamGrid())
    with pytest.raises(NoTilesError, match="four_pt_hard"):
        lay_clam(slide, [SQUARE], ClamGrid(contour_fn="four_pt_hard"))
    with pytest.raises(TileError, match="no level 2"):
        lay_clam(slide, [SQUARE], ClamGrid(level=2))
    with pytest.raises(ConfigError, match="patch_px"):
        ClamGrid(patch_px=0)
