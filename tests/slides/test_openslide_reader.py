"""What OpenSlide's reader adds to OpenSlide, and which files it leaves to others."""

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from microtome.geometry import Box, Size
from microtome.slides import openslide_reader
from microtome.slides.open import explain_readers, open_slide
from microtome.slides.openslide_reader import OpenSlideSlide
from microtome.slides.write import TileCoding, write_ome_tiff, write_svs, write_tiff
from microtome.testing.dicom import write_dicom
from tests.slides.fakes import canvas_of, coordinates, noise, write_pages


def declined(path) -> str:
    (verdict,) = [v for v in explain_readers(path) if v.reader == "openslide"]
    assert not verdict.took
    return verdict.reason


def test_pixels_are_openslides(shared):
    path = shared / "data/wsi/CMU-1-Small-Region.svs"
    with open_slide(path) as slide, openslide.OpenSlide(str(path)) as reference:
        for x, y in [(0, 0), (777, 1501), (2000, 2800)]:
            expected = np.asarray(reference.read_region((x, y), 0, (200, 150)).convert("RGB"))
            np.testing.assert_array_equal(slide.read(Box(x, y, 200, 150))[:100], expected[:100])
        assert slide.properties["openslide.vendor"] == "aperio"
        for name, image in reference.associated_images.items():
            np.testing.assert_array_equal(slide.read_associated(name), np.asarray(image.convert("RGB")))


def test_levels_are_openslides(shared):
    path = shared / "data/wsi/test3-DAPI-2-(387).ndpi"
    with open_slide(path) as slide, openslide.OpenSlide(str(path)) as reference:
        assert tuple((s.size.width, s.size.height) for s in slide.levels) == reference.level_dimensions
        for level, downsample in enumerate(reference.level_downsamples):
            box = Box(20, 10, 40, 30)
            at = (round(20 * downsample), round(10 * downsample))
            expected = np.asarray(reference.read_region(at, level, (40, 30)).convert("RGB"))
            np.testing.assert_array_equal(slide.read_native(level, box), expected)
        assert slide.modality == "fluorescence"


def test_a_level_is_placed_by_openslides_downsample(tmp_path):
    """A downsample that is no whole number: within an interpolation of the level's own pixels."""
    path = tmp_path / "a.tif"
    small = coordinates(299, 333)
    with tifffile.TiffWriter(path) as tiff:
        for kind, image in ((0, coordinates(900, 1000)), (1, small)):
            tiff.write(image, subfiletype=kind, tile=(64, 64), photometric="rgb", compression="deflate")
    with open_slide(path, reader="openslide") as slide:
        for x, y in [(0, 0), (64, 64), (101, 7), (250, 200)]:
            got = slide.read_native(1, Box(x, y, 60, 60)).astype(int)
            assert np.abs(got - small[y : y + 60, x : x + 60]).max() <= 2


def test_transparency_is_white():
    rgba = np.zeros((1, 4, 4), np.uint8)
    rgba[0, :, 0] = 100
    rgba[0, :, 3] = [255, 0, 128, 1]
    composed = openslide_reader._on_white(rgba)
    reference = Image.new("RGBA", (4, 1), "white")
    reference.alpha_composite(Image.fromarray(rgba))
    np.testing.assert_allclose(composed.astype(int), np.asarray(reference.convert("RGB")).astype(int), atol=1)
    assert composed[0, 1].tolist() == [255, 255, 255]


def test_bounds_are_honoured():
    size = Size(1000, 800)
    properties = dict.fromkeys(("openslide.bounds-x", "openslide.bounds-y"), "100") | {
        "openslide.bounds-width": "300",
        "openslide.bounds-height": "9000",
    }
    assert openslide_reader._bounds(properties, size) == Box(100, 100, 300, 700)
    assert openslide_reader._bounds({}, size) == Box(0, 0, 1000, 800)
    assert openslide_reader._bounds(properties | {"openslide.bounds-width": "0"}, size) == Box(0, 0, 1000, 800)


def test_what_lies_outside_of_the_bounds_is_fill(tmp_path, monkeypatch):
    path, image = tmp_path / "a.tif", noise(256, 256)
    write_tiff(path, canvas_of(image, downsamples=(1, 2)), coding=TileCoding(64, compression="deflate"))
    monkeypatch.setattr(openslide_reader, "_bounds", lambda *_: Box(40, 60, 100, 90))
    with open_slide(path, reader="openslide") as slide:
        assert slide.thumbnail(1000).shape == (90, 100, 3)
        whole = slide.read(Box(0, 0, 256, 256), fill="black")
        inside = np.zeros((256, 256), bool)
        inside[60:150, 40:140] = True
        np.testing.assert_array_equal(whole[inside], image[inside])
        assert not whole[~inside].any()
        half = slide.read(Box(0, 0, 256, 256), size=Size(128, 128), fill="white")
        assert (half[:30] == 255).all()
        assert (half[75:] == 255).all()
        np.testing.assert_array_equal(half[30:75, 20:70], slide.read_native(1, Box(20, 30, 50, 45)))


@pytest.mark.parametrize(
    ("name", "source"),
    [("svs", "metadata:aperio.MPP"), ("tif", "metadata:tiff.XResolution"), ("dicom", "metadata:dicom.PixelSpacing")],
)
def test_the_source_of_mpp(tmp_path, name, source):
    path, canvas = tmp_path / f"a.{name}", canvas_of(coordinates(256, 256), mpp=0.37)
    if name == "svs":
        write_svs(path, canvas, coding=TileCoding(64))
    elif name == "tif":
        write_tiff(path, canvas, coding=TileCoding(64))
    else:
        write_dicom(path, canvas, coding=TileCoding(64))
    with open_slide(path, reader="openslide") as slide:
        assert slide.mpp == pytest.approx(0.37, rel=1e-3)
        assert slide.mpp_source == source


def test_a_dicom_folder_is_one_slide(tmp_path):
    folder = tmp_path / "case 7"
    write_dicom(folder, canvas_of(coordinates(256, 256)), coding=TileCoding(64))
    with open_slide(folder) as slide, open_slide(folder / "level-1.dcm") as same:
        assert [level.size.width for level in slide.levels] == [256, 128, 64]
        assert slide.size == same.size
        assert len(slide.companions) == 2  # type: ignore[attr-defined] # every file slide has them
        fingerprint = slide.fingerprint
    (folder / "level-2.dcm").unlink()
    with open_slide(folder) as slide:
        assert slide.fingerprint != fingerprint


def test_associated_images_are_not_read_unasked(tmp_path, monkeypatch):
    path = tmp_path / "a.svs"
    label = np.zeros((20, 30, 3), np.uint8)
    write_svs(path, canvas_of(coordinates(256, 256)), coding=TileCoding(64), associated={"label": label})

    def refuse(*_):
        raise AssertionError("an associated image was read")

    monkeypatch.setattr(openslide.lowlevel, "read_associated_image", refuse)
    with open_slide(path) as slide:
        slide.thumbnail()
        slide.read(slide.bounds)
        _ = slide.recipe, slide.modality, repr(slide), slide.properties
        assert "label" in slide.associated_names
        with pytest.raises(AssertionError, match="was read"):
            slide.read_associated("label")


def test_left_to_tifffile(tmp_path):
    path, image = tmp_path / "a.tif", noise(96, 128)
    write_pages(path, image, tile=(32, 32), extratags=[(274, 3, 1, 6, True)])
    assert "orientation tag is 6" in declined(path)
    write_pages(path, image, rowsperstrip=7)
    assert "striped" in declined(path)
    write_pages(path, noise(96, 128, 1, "uint16"), tile=(32, 32))
    assert "16 bits" in declined(path)
    write_pages(path, noise(96, 128, 1)[:, :, 0], tile=(32, 32), photometric="miniswhite")
    assert "photometric interpretation 0" in declined(path)
    write_pages(path, noise(96, 128, 4), tile=(32, 32), extrasamples=["unassalpha"])
    assert "4 samples" in declined(path)
    write_ome_tiff(path, canvas_of(image), coding=TileCoding(32, compression="deflate"))
    assert "OME-TIFF" in declined(path)
    with tifffile.TiffWriter(path) as tiff:
        for _ in range(3):
            tiff.write(image, tile=(32, 32), photometric="rgb")
    assert "several pages of the same size" in declined(path)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(image, tile=(32, 32), photometric="rgb", subifds=1)
        tiff.write(image[::2, ::2], tile=(32, 32), photometric="rgb", subfiletype=1)
    assert "SubIFDs" in declined(path)
    with open_slide(path) as slide:
        assert slide.reader == "tifffile"
        assert len(slide.levels) == 2


def test_versions_are_in_the_recipe(tmp_path):
    path = tmp_path / "a.svs"
    write_svs(path, canvas_of(coordinates(256, 256)), coding=TileCoding(64))
    with open_slide(path, reader="openslide") as slide:
        assert isinstance(slide, OpenSlideSlide)
        assert slide.recipe["reader_openslide"] == openslide.__library_version__
        assert slide.recipe["reader_format"] == "aperio"
        assert str(slide.recipe["reader_openslide_build"])
