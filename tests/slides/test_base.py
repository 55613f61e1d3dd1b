"""The pixel door: which level serves, how pixels shrink, what lies outside; against numpy and scikit-image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.transform import downscale_local_mean

from microtome.errors import ChannelError, ConfigError
from microtome.geometry import Box, Size
from microtome.slides import base
from microtome.slides.base import Level, Slide
from microtome.slides.resample import resample_image, shrink_in_bands
from microtome.slides.view import View, display_image, make_view
from microtome.testing.array_slide import ArraySlide
from tests.slides.fakes import noise


def area_average(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Exact averaging of each target pixel's footprint, axis by axis, in floating point."""

    def weights(n: int, m: int) -> np.ndarray:
        edges = np.linspace(0, n, m + 1)
        pixels = np.arange(n)
        overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
        return np.asarray(np.clip(overlap, 0, 1) / (n / m))

    down, across = weights(image.shape[0], height), weights(image.shape[1], width)
    return np.asarray(np.einsum("ah,hwc,bw->abc", down, image.astype(float), across, optimize=True))


@settings(deadline=None, max_examples=30)
@given(height=st.integers(2, 60), width=st.integers(2, 60), data=st.data())
def test_area_averages_exactly(height, width, data):
    size = Size(data.draw(st.integers(1, width)), data.draw(st.integers(1, height)))
    image = np.random.default_rng(height * width).integers(0, 4000, (height, width, 5)).astype(np.float64)
    got = resample_image(image, size, "area")
    np.testing.assert_allclose(got, area_average(image, size.height, size.width), rtol=1e-4, atol=1e-2)


def test_area_is_the_local_mean_for_whole_factors():
    image = noise(60, 90)
    expected = downscale_local_mean(image, (3, 3, 1))
    assert np.abs(resample_image(image, Size(30, 20), "area") - expected).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("size", [Size(31, 700), Size(100, 100), Size(257, 1023), Size(1, 1)])
def test_bands_give_what_the_whole_gives(size):
    image = noise(1024, 257, 4, "uint16")
    read = lambda box: image[box.y : box.bottom, box.x : box.right]  # noqa: E731 - a reader in one line
    got = shrink_in_bands(read, Box(0, 0, 257, 1024), size)
    assert got.dtype == image.dtype
    np.testing.assert_allclose(got, area_average(image, size.height, size.width), atol=0.6)


def test_large_regions_are_read_in_bands(monkeypatch):
    image = noise(900, 300)
    monkeypatch.setattr(base, "_BAND_PX", 1000)
    sizes = []
    read = ArraySlide.read_native

    def noting(self: ArraySlide, level: int, box: Box) -> np.ndarray:
        sizes.append(box.height)
        return read(self, level, box)

    monkeypatch.setattr(ArraySlide, "read_native", noting)
    got = ArraySlide(image).read(Box(0, 0, 300, 900), size=Size(30, 90))
    np.testing.assert_allclose(got, area_average(image, 90, 30), atol=0.6)
    assert max(sizes) <= 256


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_filters_are_pillows(name):
    image = noise(50, 70)
    expected = Image.fromarray(image).resize((20, 30), Image.Resampling[name.upper()])
    np.testing.assert_array_equal(resample_image(image, Size(20, 30), name), np.asarray(expected))
    wide = resample_image(image.astype(np.uint16) * 16, Size(20, 30), name)
    assert wide.dtype == np.uint16
    np.testing.assert_allclose(wide / 16.0, np.asarray(expected).astype(float), atol=1.0)


def test_what_grows_is_interpolated():
    grown = resample_image(np.array([[[0], [100]]], np.uint8), Size(4, 1), "area")
    assert grown[0, :, 0].tolist() == [0, 25, 75, 100]


def test_the_smallest_level_that_has_the_resolution_serves():
    slide = ArraySlide(noise(512, 512), downsamples=(2, 4, 8))
    box = Box(0, 0, 256, 256)
    sides = {256: 0, 255: 0, 200: 0, 129: 0, 128: 1, 100: 1, 65: 1, 64: 2, 33: 2, 32: 3, 1: 3, 400: 0}
    assert {side: slide.best_level(box, Size(side, side)) for side in sides} == sides
    assert slide.best_level(box, Size(64, 200)) == 0


def test_levels_come_as_they_are():
    slide = ArraySlide(noise(512, 512), downsamples=(2, 4))
    level = slide.read_native(2, Box(0, 0, 128, 128))
    np.testing.assert_array_equal(slide.read(Box(40, 80, 160, 120), size=Size(40, 30)), level[20:50, 10:50])


def test_grey_is_repeated():
    image = noise(40, 40, 1)
    slide = ArraySlide(image)
    assert slide.is_rgb
    np.testing.assert_array_equal(slide.read(Box(0, 0, 40, 40)), np.repeat(image, 3, axis=2))
    assert slide.read_raw(Box(0, 0, 40, 40)).shape == (40, 40, 1)


def test_outside_of_a_window_is_white_or_black_too():
    slide = ArraySlide(noise(40, 40, 2, "uint16"), view=View((1,), 50.0, 2000.0))
    box = Box(-4, 0, 8, 8)
    assert (slide.read(box, fill="white")[:, :4] == 255).all()
    assert (slide.read(box, fill="black")[:, :4] == 0).all()
    assert (slide.read_raw(box, fill="white")[:, :4] == 0).all()
    beyond = ArraySlide(noise(40, 40, 1), view=View((0,), -100.0, 5000.0))
    assert beyond.read(box, fill="white")[0, 0, 0] == round((255 + 100) * 255 / 5100)


def test_channels_need_somebody_to_say_how():
    slide = ArraySlide(noise(40, 40, 2, "uint16"))
    with pytest.raises(ChannelError, match="--channels"):
        slide.read(Box(0, 0, 8, 8))
    assert slide.modality == "multichannel"


def test_modality():
    dark, bright = np.full((64, 64, 3), 5, np.uint8), np.full((64, 64, 3), 240, np.uint8)
    dark[20:30, 20:30] = 120
    assert ArraySlide(dark).modality == "fluorescence"
    assert ArraySlide(bright).modality == "brightfield"


def test_make_view():
    names = ("DAPI", "FITC", "3")
    assert make_view(names, np.dtype("u2"), ("FITC", 0, "2"), (1, 9)) == View((1, 0, 2), 1.0, 9.0)
    assert make_view(names, np.dtype("u1"), ("3",), None) == View((2,), 0.0, 255.0)
    with pytest.raises(ChannelError, match="window"):
        make_view(names, np.dtype("u2"), (0,), None)
    for wrong in ("Cy5", 3, -1, "x"):
        with pytest.raises(ChannelError, match="no channel"):
            make_view(names, np.dtype("u1"), (wrong,), None)
    with pytest.raises(ConfigError, match="one or three"):
        make_view(names, np.dtype("u1"), (0, 1), None)


def test_display():
    pixels = noise(40, 40, 9, "uint16")
    image = display_image(pixels)
    assert image.shape == (40, 40, 3)
    grey = display_image(pixels[:, :, :1])
    assert (grey[:, :, 0] == grey[:, :, 2]).all()
    assert (grey.min(), grey.max()) == (0, 255)
    white = np.full((10, 10, 3), 60_000, np.uint16)
    white[0, 0] = 0
    assert len(np.unique(display_image(white, rgb=True)[5:])) == 1
    assert (display_image(np.zeros((4, 4, 2), np.float32)) == 0).all()


def test_a_reader_implements_a_region_of_a_level_and_no_more():
    """The seam is narrow: forty lines make a slide."""
    assert Slide.__abstractmethods__ == {
        "read_native", "close", "native_recipe", "associated_names", "read_associated", "fingerprint", "__reduce__",
    }  # fmt: skip
    assert Level(Size(10, 5), 2.0, 2.0) == Level(Size(10, 5), 2.0, 2.0)
