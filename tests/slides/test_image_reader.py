"""Plain images: orientation, opacity, depth, resolution, bounds of size."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from microtome.errors import ChannelError, ImplausibleMppError, UnsupportedFormatError
from microtome.geometry import Box, Size
from microtome.slides import image_reader
from microtome.slides.open import open_slide
from tests.slides.fakes import noise, save_png


def whole(path, **options) -> np.ndarray:
    with open_slide(path, **options) as slide:
        assert slide.reader == "image"
        return slide.read_raw(Box.of(slide.size))


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.gif", "a.ppm", "a.jp2", "a.webp", "a.jpg"])
def test_formats_as_pillow_reads_them(tmp_path, name):
    path = tmp_path / name
    options = {"lossless": True} if name == "a.webp" else {}
    save_png(path, noise(50, 70), **options)
    with Image.open(path) as image:
        np.testing.assert_array_equal(whole(path), np.asarray(image.convert("RGB")))


def test_content_decides_not_suffix(tmp_path):
    path, image = tmp_path / "a.svs", noise(50, 70)
    Image.fromarray(image).save(path, format="PNG")
    np.testing.assert_array_equal(whole(path), image)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[274] = orientation
    save_png(path, noise(40, 60), exif=exif, quality=95)
    with Image.open(path) as image:
        np.testing.assert_array_equal(whole(path), np.asarray(ImageOps.exif_transpose(image)))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_opacity_is_composed_on_white(tmp_path, mode):
    path, image = tmp_path / "a.png", noise(40, 60, 4)
    picture = Image.fromarray(image).convert("LA" if mode != "RGBA" else mode)
    picture.save(path)
    on_white = Image.new("RGBA", picture.size, "white")
    on_white.alpha_composite(picture.convert("RGBA"))
    expected = np.asarray(on_white.convert("RGB")).astype(int)
    np.testing.assert_allclose(whole(path).astype(int), expected, atol=1)


def test_palette_with_a_transparent_colour(tmp_path):
    path = tmp_path / "a.png"
    picture = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("P")
    picture.save(path, transparency=0)
    pixels = whole(path)
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[15, 15].tolist() == [255, 255, 255]
    assert pixels[0, 1].tolist() == [1, 1, 1]


def test_16_bits_stay_16_bits(tmp_path, shared):
    path, image = tmp_path / "a.png", noise(40, 60, 1, "uint16")
    save_png(path, image)
    np.testing.assert_array_equal(whole(path), image)
    with open_slide(path) as slide, pytest.raises(ChannelError, match="uint16"):
        slide.read(Box(0, 0, 4, 4))
    with open_slide(path, window=(0, 65535)) as slide:
        np.testing.assert_allclose(slide.read(Box.of(slide.size))[:, :, 0], image[:, :, 0] / 257, atol=0.51)
    colour = whole(shared / "data/wsi_odd/large_image_test_RGBA_16.png")
    assert colour.dtype == np.uint16
    assert (colour % 257 != 0).any()  # more than 8 bits widened


def test_resolution(tmp_path):
    path = tmp_path / "a.png"
    save_png(path, noise(40, 60), dpi=(50_800, 50_800))
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(0.5, rel=1e-3)
        assert slide.mpp_source == "metadata:png.pHYs"
    save_png(tmp_path / "b.jpg", noise(40, 60), dpi=(72, 72))
    with open_slide(tmp_path / "b.jpg") as slide, pytest.raises(ImplausibleMppError, match=r"352\.8"):
        _ = slide.mpp


def test_images_too_large_to_hold_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    save_png(path, noise(40, 60))
    monkeypatch.setattr(image_reader, "MAX_PIXELS", 2399)
    with pytest.raises(UnsupportedFormatError, match="60×40 px, more than"):
        open_slide(path)


def test_images_that_pillow_alone_would_refuse(tmp_path, monkeypatch):
    """Pillow's own bound on pixels, a guard for web servers, does not hold for slides."""
    path = tmp_path / "a.png"
    save_png(path, noise(40, 60))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert whole(path).shape == (40, 60, 3)


def test_films_are_refused(tmp_path):
    path = tmp_path / "a.gif"
    frames = [Image.fromarray(noise(20, 20)[:, :, i]) for i in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(UnsupportedFormatError, match="3 images"):
        open_slide(path)


def test_old_style_jpeg_in_tiff(shared):
    path = shared / "data/wsi_odd/libvips_ojpeg-strip.tif"
    with Image.open(path) as image:
        np.testing.assert_array_equal(whole(path), np.asarray(image.convert("RGB")))


def test_there_is_one_level(tmp_path):
    path = tmp_path / "a.png"
    save_png(path, noise(40, 60))
    with open_slide(path) as slide:
        assert [level.size for level in slide.levels] == [Size(60, 40)]
        assert slide.associated_names == ()
