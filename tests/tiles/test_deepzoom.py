import json

import numpy as np
import pytest

from microtome.errors import ChannelError, ConfigError, NoTilesError, TileError
from microtome.geometry import Box, DeepZoomAddress, DeepZoomPyramid, Size
from microtome.slides.view import View
from microtome.testing.tile_source_contract import TileSourceCase, TileSourceContract
from microtome.tiles.deepzoom import DeepZoomTiles, address_boxes, lay_deepzoom, locate_tile
from tests.conftest import golden_cases, require_case
from tests.tiles.fakes import noise_slide, tissue
from tests.tiles.real import open_by_name


@pytest.mark.parametrize("case", golden_cases("deepzoom"), ids=lambda case: case.name)
def test_golden_tables_and_places(case, shared):
    for table in _tables(case):
        slide = open_by_name(shared, table["slide"])
        pyramid = DeepZoomPyramid(slide.size, table["tile_size"])
        levels = range(pyramid.level_count)
        assert [slide.size.width, slide.size.height] == table["dimensions"]
        assert pyramid.level_count == table["level_count"]
        assert [_pair(pyramid.level_size(level)) for level in levels] == table["level_dimensions"]
        assert [list(pyramid.grid(level)) for level in levels] == table["level_tiles"]
        assert pyramid.tile_count == table["tile_count"]
        for tile in table["tiles"]:
            address = DeepZoomAddress(tile["level"], tile["x"], tile["y"])
            region, box = locate_tile(slide, pyramid, address), pyramid.box(address)
            assert [region.x0, region.y0] == tile["level0_location"]
            assert region.slide_level == tile["slide_level"]
            assert _pair(region.slide_level_size) == tile["slide_level_size"]
            assert _pair(region.tile_size) == tile["tile_size"]
            assert _pair(region.returned_size) == tile["returned_size"]
            assert [box.x, box.y, box.width, box.height] == tile["level0_rect_nominal"]
            assert pyramid.address(box, level=tile["level"]) == address


@pytest.mark.parametrize("case", golden_cases("deepzoom"), ids=lambda case: case.name)
def test_golden_pixels(case, shared):
    tolerance = json.loads((require_case(case) / "case.json").read_text())["tolerance"]
    for table in _tables(case):
        slide = open_by_name(shared, table["slide"])
        for tile in table["tiles"]:
            full = tile["level"] == table["level_count"] - 1
            atol = tolerance[f"mean_rgb_atol_{'full_resolution' if full else 'reduced_levels'}"]
            addresses = np.array([[tile["level"], tile["x"], tile["y"]]])
            source = DeepZoomTiles(slide, addresses, tile_px=table["tile_size"])
            image = source.read(np.array([0])).images[0]
            width, height = tile["returned_size"]
            np.testing.assert_allclose(image.mean((0, 1)), tile["mean_rgb_padded"], atol=atol)
            np.testing.assert_allclose(image[:height, :width].mean((0, 1)), tile["mean_rgb"], atol=atol)
            np.testing.assert_allclose(image[:height, :width].std((0, 1)), tile["std_rgb"], atol=atol)
            assert not image[height:].any()
            assert not image[:, width:].any()


def _tables(case):
    tables = json.loads((require_case(case) / "deepzoom.json").read_text())
    assert all(table["overlap"] == 0 and not table["limit_bounds"] for table in tables)
    return tables


def _pair(size):
    return [size.width, size.height]


def at_full_resolution(seed=0, **options):
    slide = noise_slide(150, 100, seed=seed, **options)
    return slide, lay_deepzoom(slide, None, tile_px=64, mpp=0.5)


def padded(slide):
    image = np.zeros((128, 192, 3), np.uint8)
    image[:100, :150] = slide.read(Box.of(slide.size))
    return image.reshape(2, 64, 3, 64, 3).swapaxes(1, 2).reshape(6, 64, 64, 3)


class TestDeepZoomTiles(TileSourceContract):
    @pytest.fixture
    def case(self):
        slide, addresses = at_full_resolution()
        return TileSourceCase(
            open=lambda: DeepZoomTiles(at_full_resolution()[0], addresses, tile_px=64),
            expected=padded(slide),
            others={
                "pixels": lambda: DeepZoomTiles(at_full_resolution(seed=1)[0], addresses, tile_px=64),
                "order": lambda: DeepZoomTiles(slide, addresses[::-1], tile_px=64),
                "level": lambda: DeepZoomTiles(slide, lay_deepzoom(slide, None, tile_px=64, level=7), tile_px=64),
                "tile size": lambda: DeepZoomTiles(slide, addresses[:4], tile_px=32),
                "fill": lambda: DeepZoomTiles(slide, addresses, tile_px=64, fill="black"),
                "mpp": lambda: DeepZoomTiles(at_full_resolution(mpp=0.6)[0], addresses, tile_px=64),
            },
        )


class TestBrokenDeepZoomTiles(TileSourceContract):
    @pytest.fixture
    def case(self):
        slide, addresses = at_full_resolution()
        hole = (Box(140, 90, 2, 2),)
        return TileSourceCase(
            open=lambda: DeepZoomTiles(at_full_resolution(broken=hole)[0], addresses, tile_px=64),
            expected=padded(slide),
            broken=frozenset({5}),
            others={"fewer": lambda: DeepZoomTiles(slide, addresses[:5], tile_px=64)},
        )


def test_levels_that_are_not_whole_downsamples():
    slide = noise_slide(1001, 703, downsamples=(3, 7))
    pyramid = DeepZoomPyramid(slide.size, 50)
    for level in range(pyramid.level_count):
        addresses = lay_deepzoom(slide, None, tile_px=50, level=level)[-3:]
        source = DeepZoomTiles(slide, addresses, tile_px=50)
        batch = source.read(np.arange(len(addresses)))
        for address, image in zip(addresses, batch.images, strict=True):
            region = locate_tile(slide, pyramid, DeepZoomAddress(*map(int, address)))
            # the actual image may be a little smaller than its tile should be; nothing is painted beyond it
            assert 0 <= region.tile_size.width - region.returned_size.width <= 2
            assert 0 <= region.tile_size.height - region.returned_size.height <= 2
            assert image[: region.returned_size.height, : region.returned_size.width].any()
            assert not image[region.returned_size.height :].any()
            assert not image[:, region.returned_size.width :].any()


def test_laying_by_tissue_counts_the_part_on_the_slide():
    slide = noise_slide(150, 100)
    area = tissue(slide.size, (128, 64, 150, 100))
    assert lay_deepzoom(slide, area, tile_px=64, mpp=0.5, min_tissue=1.0).tolist() == [[8, 2, 1]]
    with pytest.raises(NoTilesError):
        lay_deepzoom(slide, tissue(slide.size, (0, 0, 1, 1)), tile_px=64, mpp=0.5)


def test_boxes_of_addresses():
    pyramid = DeepZoomPyramid(Size(150, 100), 64)
    boxes = address_boxes(pyramid, np.array([[8, 2, 1], [7, 0, 0]]))
    assert boxes.tolist() == [[128, 64, 22, 36], [0, 0, 128, 100]]
    assert address_boxes(pyramid, np.zeros((0, 3), np.int64)).shape == (0, 4)


def test_what_cannot_be_read_is_refused():
    slide, addresses = at_full_resolution()
    with pytest.raises(TileError, match="one level"):
        DeepZoomTiles(slide, np.array([[8, 0, 0], [7, 0, 0]]), tile_px=64)
    with pytest.raises(TileError, match="no DeepZoom tile"):
        DeepZoomTiles(slide, np.array([[8, 3, 0]]), tile_px=64)
    with pytest.raises(ConfigError, match="exactly one"):
        lay_deepzoom(slide, None)
    deep = {"channels": 2, "dtype": np.uint16}
    with pytest.raises(ChannelError):
        DeepZoomTiles(noise_slide(150, 100, **deep), addresses, tile_px=64)
    seen = DeepZoomTiles(noise_slide(150, 100, **deep, view=View((0,), 0.0, 65535.0)), addresses, tile_px=64)
    assert seen.read(np.array([0])).images.shape == (1, 64, 64, 3)
