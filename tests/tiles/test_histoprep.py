import json

import numpy as np
import pytest

from microtome.errors import ConfigError, NoTilesError, TileError
from microtome.geometry import Box, Size
from microtome.tiles.histoprep import HistoPrepGrid, lay_histoprep
from microtome.tiles.slide_tiles import SlideTiles
from tests.conftest import golden_cases, require_case
from tests.tiles.fakes import noise_slide
from tests.tiles.real import open_by_name


@pytest.mark.parametrize("case", golden_cases("histoprep_slide"), ids=lambda case: case.name)
def test_golden_coordinates(case, shared):
    inputs = json.loads((require_case(case) / "case.json").read_text())["inputs"]
    data = np.load(case / "data.npz")
    slide = open_by_name(shared, inputs["slide"]["name"])
    for index, settings in enumerate(inputs["settings"]):
        tiles = settings["tiles"]
        grid = HistoPrepGrid(
            width=tiles["width"],
            height=tiles["height"],
            overlap=tiles["overlap"],
            max_background=tiles["max_background"],
            in_bounds=not tiles["out_of_bounds"],
        )
        laid = lay_histoprep(slide, _mask(data, index), grid)
        np.testing.assert_array_equal(laid.boxes, data[f"out_{index}_coordinates"])


@pytest.mark.parametrize("case", golden_cases("histoprep_slide"), ids=lambda case: case.name)
def test_golden_overhang_is_white(case, shared):
    inputs = json.loads((require_case(case) / "case.json").read_text())["inputs"]
    slide = open_by_name(shared, inputs["slide"]["name"])
    region = slide.read(Box(slide.size.width - 200, slide.size.height - 150, 300, 256))
    expected = np.load(case / "data.npz")["out_region_overhang"]
    assert np.abs(region.astype(int) - expected).max() <= 1


def _mask(data, index):
    shape = data[f"out_{index}_mask_shape"]
    return np.unpackbits(data[f"out_{index}_mask_packed"])[: shape.prod()].reshape(shape)


def share_by_definition(mask, scale, box, slide):
    """Share of non-zero mask pixels of the window, slide pixel by slide pixel."""
    x, y, w, h = box
    inside = [
        mask[yy // scale, xx // scale] if yy < slide.height and xx < slide.width else 0
        for yy in range(y, y + h)
        for xx in range(x, x + w)
    ]
    return np.mean(np.array(inside) != 0)


@pytest.mark.parametrize("scale", [1, 4])
def test_background_is_the_share_of_the_window(scale):
    slide = noise_slide(96, 64)
    mask = np.random.default_rng(0).integers(0, 2, (64 // scale, 96 // scale), np.uint8) * 255
    laid = lay_histoprep(slide, mask, HistoPrepGrid(width=20, overlap=0.2, max_background=1.0))
    expected = [share_by_definition(mask, scale, box, slide.size) for box in laid.boxes]
    np.testing.assert_allclose(laid.coverage, expected, atol=1e-6)


def test_in_bounds_drops_the_last_row_and_column_only():
    slide = noise_slide(100, 100)
    mask = np.ones((100, 100), np.uint8)
    laid = lay_histoprep(slide, mask, HistoPrepGrid(width=40, overlap=0.5, max_background=1.0, in_bounds=True))
    assert np.unique(laid.boxes[:, 0]).tolist() == [0, 20, 40, 60]
    laid = lay_histoprep(slide, mask, HistoPrepGrid(width=40, overlap=0.75, max_background=1.0, in_bounds=True))
    assert np.unique(laid.boxes[:, 0]).tolist() == [0, 10, 20, 30, 40, 50, 60, 70, 80]  # 70 and 80 reach out
    laid = lay_histoprep(slide, mask, HistoPrepGrid(width=50, max_background=1.0, in_bounds=True))
    assert np.unique(laid.boxes[:, 0]).tolist() == [0, 50]


def test_tiles_of_a_reduced_level_have_its_size():
    slide = noise_slide(200, 160, downsamples=(4,), mpp=0.25)
    laid = lay_histoprep(slide, np.ones((160, 200)), HistoPrepGrid(width=80, height=40, level=1))
    assert laid.tile_size == Size(20, 10)
    assert laid.mpp == pytest.approx(1.0)
    images = SlideTiles(slide, laid).read(np.array([1])).images
    np.testing.assert_array_equal(images[0], slide.read_native(1, Box(20, 0, 20, 10)))


def test_what_cannot_be_laid_is_refused():
    slide = noise_slide(100, 100)
    with pytest.raises(TileError, match="larger than the slide"):
        lay_histoprep(slide, np.ones((10, 10)), HistoPrepGrid(width=101))
    with pytest.raises(NoTilesError, match="background"):
        lay_histoprep(slide, np.zeros((10, 10)), HistoPrepGrid(width=10))
    with pytest.raises(TileError, match="no level 1"):
        lay_histoprep(slide, np.ones((10, 10)), HistoPrepGrid(width=10, level=1))


@pytest.mark.parametrize(
    "fields",
    [
        {"width": 0},
        {"height": 0},
        {"overlap": 1.0},
        {"overlap": -0.1},
        {"max_background": 1.1},
        {"level": -1},
    ],
)
def test_impossible_grids_are_refused(fields):
    with pytest.raises(ConfigError):
        HistoPrepGrid(**fields)
