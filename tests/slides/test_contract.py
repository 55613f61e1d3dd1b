"""The contract of slides, over every reader and the kinds of files it takes."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from microtome.slides.open import open_slide
from microtome.slides.view import View
from microtome.slides.write import TileCoding, write_ome_tiff, write_svs, write_tiff
from microtome.testing.array_slide import ArraySlide
from microtome.testing.slide_contract import SlideCase, SlideContract
from tests.slides.fakes import canvas_of, coordinates, noise, save_png, write_pages

_LOSSLESS = TileCoding(tile_px=64, compression="deflate")


class TestArraySlide(SlideContract):
    @pytest.fixture
    def case(self):
        image = noise(200, 312)
        return SlideCase(lambda: ArraySlide(image, downsamples=(2, 4)), image)


class TestArraySlideOfChannelsSeenThroughAWindow(SlideContract):
    @pytest.fixture
    def case(self):
        image = noise(100, 90, 4, "uint16")
        return SlideCase(lambda: ArraySlide(image, view=View((2, 0, 1), 100.0, 3000.0)), image)


class TestOpenSlideOnSvs(SlideContract):
    @pytest.fixture
    def case(self, tmp_path):
        path = tmp_path / "a.svs"
        label = np.full((40, 60, 3), 200, np.uint8)
        write_svs(path, canvas_of(coordinates(512, 768)), coding=TileCoding(64), associated={"label": label})
        return SlideCase(lambda: open_slide(path, reader="openslide"), associated=("label", "thumbnail"))


class TestOpenSlideOnTiledTiff(SlideContract):
    @pytest.fixture
    def case(self, tmp_path):
        path, image = tmp_path / "a.tif", noise(384, 448)
        write_tiff(path, canvas_of(image), coding=_LOSSLESS)
        return SlideCase(lambda: open_slide(path, reader="openslide"), image)


class TestOpenSlideOnRealSvs(SlideContract):
    @pytest.fixture
    def case(self, shared):
        path = shared / "data/wsi/CMU-1-Small-Region.svs"
        return SlideCase(lambda: open_slide(path, reader="openslide"), associated=("label", "macro", "thumbnail"))


class TestOpenSlideOnRealFluorescenceNdpi(SlideContract):
    @pytest.fixture
    def case(self, shared):
        path = shared / "data/wsi/test3-DAPI-2-(387).ndpi"
        return SlideCase(lambda: open_slide(path), associated=("macro",))


class TestTifffileOnOmePyramid(SlideContract):
    @pytest.fixture
    def case(self, tmp_path):
        path, image = tmp_path / "a.ome.tif", noise(320, 448)
        write_ome_tiff(path, canvas_of(image), coding=_LOSSLESS)
        return SlideCase(lambda: open_slide(path), image)


class TestTifffileOnOmeChannels(SlideContract):
    @pytest.fixture
    def case(self, tmp_path):
        path, image = tmp_path / "a.ome.tif", noise(192, 256, 5, "uint16")
        write_ome_tiff(path, canvas_of(image), coding=_LOSSLESS)
        return SlideCase(lambda: open_slide(path), image)


class TestTifffileOnOmeChannelsSeenThroughAWindow(SlideContract):
    @pytest.fixture
    def case(self, tmp_path):
        path, image = tmp_path / "a.ome.tif", noise(192, 256, 5, "uint16")
        write_ome_tiff(path, canvas_of(image), coding=_LOSSLESS)
        return SlideCase(lambda: open_slide(path, channels=["stain 3", 0, 1], window=(10, 3000)), image)


class TestTifffileOnStrips(SlideContract):
    @pytest.fixture
    def case(self, tmp_path):
        path, image = tmp_path / "a.tif", noise(211, 173)
        write_pages(path, image, compression="lzw", rowsperstrip=13, predictor=True)
        return SlideCase(lambda: open_slide(path), image)


class TestTifffileOnOneRawStrip(SlideContract):
    @pytest.fixture
    def case(self, tmp_path):
        path, image = tmp_path / "a.tif", noise(700, 500)
        write_pages(path, image, rowsperstrip=700)
        return SlideCase(lambda: open_slide(path), image)


class TestTifffileOnSeparatePlanesOfFloats(SlideContract):
    @pytest.fixture
    def case(self, tmp_path):
        path, image = tmp_path / "a.tif", noise(130, 140, 3).astype(np.float32) / 7
        write_pages(path, image.transpose(2, 0, 1), planarconfig="separate", photometric="rgb", tile=(32, 48))
        return SlideCase(lambda: open_slide(path), image)


class TestTifffileOnOrientedTiles(SlideContract):
    @pytest.fixture
    def case(self, tmp_path):
        path, image = tmp_path / "a.tif", noise(250, 330)
        write_pages(path, image, tile=(64, 80), compression="deflate", extratags=[(274, 3, 1, 6, True)])
        return SlideCase(lambda: open_slide(path), np.rot90(image, -1))


class TestTifffileOnImageJStack(SlideContract):
    @pytest.fixture
    def case(self, tmp_path):
        path, image = tmp_path / "a.tif", noise(90, 110, 12, "uint16")
        stack = image.transpose(2, 0, 1).reshape(3, 2, 2, 90, 110)
        tifffile.imwrite(path, stack, imagej=True, metadata={"axes": "TZCYX"})
        return SlideCase(lambda: open_slide(path), image)


class TestTifffileOnRealQptiff(SlideContract):
    @pytest.fixture
    def case(self, shared):
        path = shared / "data/wsi/small_vectra.qptiff"
        return SlideCase(lambda: open_slide(path), associated=("thumbnail",))


class TestTifffileOnRealStacks(SlideContract):
    @pytest.fixture
    def case(self, shared):
        path: Path = shared / "data/wsi/4D-series.ome.tiff"
        stack = tifffile.imread(path).reshape(35, 167, 439).transpose(1, 2, 0)
        return SlideCase(lambda: open_slide(path), stack)


class TestImageOnPng(SlideContract):
    @pytest.fixture
    def case(self, tmp_path):
        path, image = tmp_path / "a.png", noise(120, 100)
        save_png(path, image)
        return SlideCase(lambda: open_slide(path), image)


class TestImageOnGreyOf16Bits(SlideContract):
    @pytest.fixture
    def case(self, tmp_path):
        path, image = tmp_path / "a.png", noise(120, 100, 1, "uint16")
        save_png(path, image)
        return SlideCase(lambda: open_slide(path), image)
