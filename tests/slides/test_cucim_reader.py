"""cuCIM by name: what is said where it is absent, and that it is checked where it is there."""

import sys
import types

import numpy as np
import openslide
import pytest

from microtome.errors import ConfigError, UnreadableRegionError, UnsupportedFormatError
from microtome.geometry import Box
from microtome.slides.open import explain_readers, open_slide
from microtome.testing.slide_contract import SlideCase, SlideContract
from tests.slides.fakes import noise, save_png
from tests.slides.jpeg_tiffs import Made


class FakeImage:
    """As cuCIM's CuImage, through OpenSlide."""

    off_by = 0
    broken: tuple[tuple[int, int], ...] = ()

    def __init__(self, path):
        self._slide = openslide.OpenSlide(path)
        self.resolutions = {"level_dimensions": self._slide.level_dimensions}

    def read_region(self, location, size, level):
        if tuple(location) in self.broken:
            raise RuntimeError("Cannot decode")
        pixels = np.array(self._slide.read_region(location, level, size).convert("RGB"))
        pixels[-1, -1, 0] += self.off_by
        return pixels


@pytest.fixture
def library(monkeypatch):
    module = types.ModuleType("cucim")
    module.__version__ = "26.10"  # type: ignore[attr-defined] # as a library has it
    module.CuImage = type("CuImage", (FakeImage,), {})  # type: ignore[attr-defined] # likewise
    monkeypatch.setitem(sys.modules, "cucim", module)
    return module


@pytest.fixture
def path(tmp_path):
    return Made().write(tmp_path / "a.tif")


def test_where_it_is_not_installed_the_error_says_how_to_install_it(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cucim", None)
    with pytest.raises(ConfigError, match="pip install cucim-cu12"):
        open_slide(path, reader="cucim")


def test_it_is_never_taken_unless_named(path, library):
    with open_slide(path) as slide:
        assert slide.reader == "direct"
    assert "cucim" not in {v.reader for v in explain_readers(path)}


def test_pixels_and_recipe(path, library):
    with open_slide(path, reader="cucim") as slide, open_slide(path, reader="openslide") as reference:
        np.testing.assert_array_equal(slide.read(slide.bounds), reference.read(slide.bounds))
        assert slide.recipe["reader_cucim"] == "26.10"


def test_other_pixels_are_refused(path, library):
    library.CuImage.off_by = 1
    with pytest.raises(UnsupportedFormatError, match="differ from OpenSlide's"):
        open_slide(path, reader="cucim")


def test_other_levels_are_refused(path, library):
    library.CuImage.__init__ = lambda self, _: setattr(self, "resolutions", {"level_dimensions": [(5, 5)]})
    with pytest.raises(UnsupportedFormatError, match="5×5"):
        open_slide(path, reader="cucim")


def test_what_it_cannot_decode_is_unreadable(path, library):
    with open_slide(path, reader="cucim") as slide:
        library.CuImage.broken = ((7, 9),)
        with pytest.raises(UnreadableRegionError, match="Cannot decode"):
            slide.read(Box(7, 9, 20, 20))


def test_what_is_no_tiff_is_declined(tmp_path, library):
    save_png(tmp_path / "a.png", noise(20, 20))
    with pytest.raises(UnsupportedFormatError, match="it is no TIFF"):
        open_slide(tmp_path / "a.png", reader="cucim")


class TestCucim(SlideContract):
    @pytest.fixture
    def case(self, path, library):
        return SlideCase(lambda: open_slide(path, reader="cucim"))
