"""Sources over slides that readers opened."""

import numpy as np
import pytest

from microtome.geometry import Box
from microtome.slides.open import open_slide
from microtome.testing.tile_source_contract import TileSourceCase, TileSourceContract
from microtome.tiles.grid import Grid, lay_tiles
from microtome.tiles.slide_tiles import SlideTiles


class TestSvs(TileSourceContract):
    @pytest.fixture
    def case(self, shared):
        path = shared / "data" / "wsi" / "CMU-1-Small-Region.svs"

        def open_tiles(mpp=0.499):
            slide = open_slide(path)
            return SlideTiles(slide, lay_tiles(slide, None, Grid(tile_px=700, mpp=mpp)))

        with open_tiles() as tiles:
            expected = np.stack([tiles.slide.read(Box.from_row(row)) for row in tiles.boxes])
        return TileSourceCase(open=open_tiles, expected=expected, others={"mpp": lambda: open_tiles(0.998)})


class TestMultichannel(TileSourceContract):
    @pytest.fixture
    def case(self, shared):
        path = shared / "data" / "wsi" / "small_vectra.qptiff"

        def open_tiles(level=0):
            slide = open_slide(path)
            return SlideTiles(slide, lay_tiles(slide, None, Grid(tile_px=400, mpp=None, level=level)))

        with open_tiles() as tiles:
            expected = np.stack([tiles.slide.read_raw(Box.from_row(row)) for row in tiles.boxes])
        return TileSourceCase(open=open_tiles, expected=expected, others={"size": lambda: _first_tiles(open_tiles())})

    def test_channels_come_raw(self, source):
        assert source.modality == "multichannel"
        assert source.dtype == source.slide.dtype
        assert source.tile_shape[2] == len(source.slide.channels)


def _first_tiles(source):
    return SlideTiles(source.slide, lay_tiles(source.slide, None, Grid(tile_px=300, mpp=None, level=0)))
