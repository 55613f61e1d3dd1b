"""TIFF in its variety, against what tifffile and Pillow make of the same file."""

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from microtome.errors import ChannelError, MissingCompanionError, UnsupportedFormatError
from microtome.geometry import Box, Size
from microtome.slides.open import open_slide
from microtome.slides.tiff_segments import SegmentCache
from microtome.slides.write import TileCoding, write_ome_tiff
from tests.slides.fakes import canvas_of, noise, write_pages


def whole(path, **options) -> np.ndarray:
    with open_slide(path, reader="tifffile", **options) as slide:
        return slide.read_raw(Box.of(slide.size))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("layout", [{"tile": (32, 48)}, {"rowsperstrip": 10}])
def test_orientation(tmp_path, orientation, layout):
    path, image = tmp_path / "a.tif", noise(90, 130)
    tag = [(274, 3, 1, orientation, True)]
    write_pages(path, image, extratags=tag, compression="deflate", resolution=(100, 200), **layout)
    picture = Image.fromarray(image)
    picture.getexif()[274] = orientation
    expected = np.asarray(ImageOps.exif_transpose(picture))
    with open_slide(path, reader="tifffile") as slide:
        np.testing.assert_array_equal(slide.read(Box.of(slide.size)), expected)
        height, width = expected.shape[:2]
        box = Box(11, 23, width - 30, height - 40)
        np.testing.assert_array_equal(slide.read(box), expected[23 : box.bottom, 11 : box.right])
        found = slide.resolution.metadata
        assert found is not None
        turned = found.mpp_x < found.mpp_y
        assert turned == (orientation >= 5)


def test_orientation_of_a_pyramid(shared):
    path = shared / "data/wsi_odd/large_image_test_orient6.tif"
    with open_slide(path) as slide:
        for level in range(3):
            stored = tifffile.imread(path, level=level)
            expected = np.rot90(stored, -1)
            size = slide.levels[level].size
            np.testing.assert_array_equal(slide.read_native(level, Box.of(size))[:, :, 0], expected)


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "packbits", "zstd", "lzma"])
@pytest.mark.parametrize("layout", [{"tile": (32, 48)}, {"rowsperstrip": 11}, {"rowsperstrip": 100}])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_compressions_and_layouts(tmp_path, compression, layout, byteorder):
    path, image = tmp_path / "a.tif", noise(100, 130, 3, "uint16")
    write_pages(path, image, compression=compression, byteorder=byteorder, bigtiff=byteorder == ">", **layout)
    np.testing.assert_array_equal(whole(path), image)


@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000", "webp"])
def test_lossy_compressions_as_tifffile_decodes_them(tmp_path, compression):
    path = tmp_path / "a.tif"
    write_pages(path, noise(100, 130), compression=compression, tile=(48, 32))
    np.testing.assert_array_equal(whole(path), tifffile.imread(path))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "float16", "float32", "float64"])
def test_kinds_of_samples(tmp_path, dtype):
    path, image = tmp_path / "a.tif", noise(40, 50, 1)[:, :, 0].astype(dtype)
    write_pages(path, image, rowsperstrip=7, compression="deflate")
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_raw(Box.of(slide.size))[:, :, 0], image)
        assert slide.thumbnail(30).shape == (24, 30, 3)
        assert slide.read_raw(slide.bounds, size=Size(20, 20)).dtype == dtype
        if dtype == "uint8":
            assert slide.read(Box(0, 0, 4, 4)).shape == (4, 4, 3)
        else:
            with pytest.raises(ChannelError, match="--window"):
                slide.read(Box(0, 0, 4, 4))
    with open_slide(path, window=(0, 100)) as slide:
        seen = slide.read(Box.of(slide.size))
        expected = np.clip(np.rint(image.astype(np.float32) * 2.55), 0, 255)
        np.testing.assert_allclose(seen[:, :, 0], expected, atol=1)


def test_few_bits(shared):
    for name, largest in (("libvips_1bit.tif", 1), ("libvips_4bit.tif", 15)):
        path = shared / "data/wsi_odd" / name
        with open_slide(path) as slide:
            pixels = slide.read_raw(Box.of(slide.size))
            assert pixels.dtype == np.uint16
            np.testing.assert_array_equal(pixels[:, :, 0], tifffile.imread(path))
            assert pixels.max() == largest


def test_inverted(tmp_path):
    path, image = tmp_path / "a.tif", noise(40, 50, 1)[:, :, 0]
    write_pages(path, image, photometric="miniswhite", tile=(16, 16))
    np.testing.assert_array_equal(whole(path)[:, :, 0], 255 - image)
    write_pages(path, image > 100, photometric="miniswhite", compression="packbits")
    np.testing.assert_array_equal(whole(path)[:, :, 0], image <= 100)


def test_palette(tmp_path):
    path, image = tmp_path / "a.tif", noise(40, 50, 1)[:, :, 0]
    colours = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)
    colormap = colours.T.astype(np.uint16) * 257
    write_pages(path, image, photometric="palette", colormap=colormap, tile=(16, 16))
    np.testing.assert_array_equal(whole(path), colours[image])


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_alpha_is_composed_on_white(tmp_path, dtype):
    path, image = tmp_path / "a.tif", noise(40, 50, 4, dtype)
    full = np.iinfo(dtype).max
    image[:10, :, 3] = 0
    image[10:20, :, 3] = full
    write_pages(path, image, extrasamples=["unassalpha"], tile=(16, 16))
    got = whole(path).astype(float)
    share = image[:, :, 3:].astype(float) / full
    np.testing.assert_allclose(got, image[:, :, :3] * share + full * (1 - share), atol=0.51)
    assert (got[:10] == full).all()


def test_unnamed_fourth_sample_is_a_channel(tmp_path):
    path, image = tmp_path / "a.tif", noise(40, 50, 4)
    write_pages(path, image, extrasamples=["unspecified"], tile=(16, 16))
    with open_slide(path) as slide:
        assert slide.channels == ("R", "G", "B", "S3")
        np.testing.assert_array_equal(slide.read_raw(Box.of(slide.size)), image)
        assert not slide.is_rgb


def test_cmyk_is_not_taken_for_rgb(tmp_path):
    path, image = tmp_path / "a.tif", noise(40, 50, 4)
    write_pages(path, image, photometric="separated", tile=(16, 16))
    with open_slide(path) as slide:
        assert slide.channels == ("C", "M", "Y", "K")
        with pytest.raises(ChannelError):
            slide.read(Box(0, 0, 4, 4))


def test_colours_that_are_not_converted_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    write_pages(path, noise(40, 50), photometric="cielab", tile=(16, 16))
    with pytest.raises(UnsupportedFormatError, match="photometric interpretation 8"):
        open_slide(path)


def test_tiles_that_were_never_written_are_blank(tmp_path):
    path, image = tmp_path / "a.tif", noise(64, 64)
    write_pages(path, image, tile=(32, 32), compression="deflate")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        counts = tiff.pages.first.tags[325]
        counts.overwrite((counts.value[0], 0, *counts.value[2:]))
    pixels = whole(path)
    assert (pixels[:32, 32:] == 255).all()
    np.testing.assert_array_equal(pixels[32:], image[32:])


def test_ome_pyramid_channels_and_pixel_size(tmp_path):
    path, image = tmp_path / "a.ome.tif", noise(256, 320, 4, "uint16")
    write_ome_tiff(path, canvas_of(image, mpp=0.325), coding=TileCoding(64, compression="deflate"))
    with open_slide(path) as slide:
        assert slide.channels == ("stain 0", "stain 1", "stain 2", "stain 3")
        assert [level.size for level in slide.levels] == [Size(320, 256), Size(160, 128), Size(80, 64)]
        assert slide.mpp == pytest.approx(0.325)
        assert slide.mpp_source == "metadata:ome.PhysicalSizeX"
        assert slide.modality == "multichannel"
    with open_slide(path, channels=["stain 2"], window=(0, 4000)) as slide:
        grey = slide.read(Box(10, 20, 30, 40))
        np.testing.assert_array_equal(grey[:, :, 0], grey[:, :, 2])
        expected = np.rint(image[20:60, 10:40, 2] * (255 / 4000))
        np.testing.assert_allclose(grey[:, :, 0].astype(int), expected, atol=1)
    with pytest.raises(ChannelError, match="no channel 'stain 9'"):
        open_slide(path, channels=["stain 9"], window=(0, 1))
    with pytest.raises(ChannelError, match="window"):
        open_slide(path, channels=["stain 1"])
    with pytest.raises(ChannelError, match="one or three"):
        open_slide(path, window=(0, 10))


@pytest.mark.parametrize(
    ("size", "unit", "mpp"),
    [(0.25, "µm", 0.25), (250.0, "nm", 0.25), (0.00025, "mm", 0.25), (1.0, "pixel", None)],
)
def test_units_of_ome(tmp_path, size, unit, mpp):
    path = tmp_path / "a.ome.tif"
    fields = {"PhysicalSizeX": size, "PhysicalSizeXUnit": unit, "PhysicalSizeY": size, "PhysicalSizeYUnit": unit}
    tifffile.imwrite(path, noise(32, 32), metadata={"axes": "YXS", **fields}, resolutionunit="none", photometric="rgb")
    with open_slide(path) as slide:
        assert slide.resolution.mpp == (None if mpp is None else pytest.approx(mpp))


@pytest.mark.parametrize(
    ("tags", "mpp"),
    [
        ({"resolution": (20_000, 20_000), "resolutionunit": "centimeter"}, 0.5),
        ({"resolution": (50_800, 50_800), "resolutionunit": "inch"}, 0.5),
        ({"resolution": (20_000, 20_000), "resolutionunit": "none"}, None),
        ({}, None),
    ],
)
def test_resolution_tags(tmp_path, tags, mpp):
    path = tmp_path / "a.tif"
    write_pages(path, noise(32, 32), **tags)
    with open_slide(path) as slide:
        assert slide.resolution.mpp == (None if mpp is None else pytest.approx(mpp))


def test_imagej(tmp_path):
    path, stack = tmp_path / "a.tif", np.arange(3 * 2 * 40 * 50, dtype=np.uint16).reshape(3, 2, 40, 50)
    tifffile.imwrite(path, stack, imagej=True, resolution=(4, 4), metadata={"axes": "ZCYX", "unit": "um"})
    with open_slide(path) as slide:
        assert slide.channels == ("Z0 C0", "Z0 C1", "Z1 C0", "Z1 C1", "Z2 C0", "Z2 C1")
        np.testing.assert_array_equal(slide.read_raw(Box.of(slide.size)), stack.reshape(6, 40, 50).transpose(1, 2, 0))
        assert (slide.mpp, slide.mpp_source) == (0.25, "metadata:imagej.unit")


def test_pages_of_stacks_can_be_picked(shared):
    path = shared / "data/wsi/4D-series.ome.tiff"
    stack = tifffile.imread(path)
    with open_slide(path, channels=["T3 Z2"], window=(-128, 127)) as slide:
        expected = stack[3, 2].astype(int) + 128
        np.testing.assert_array_equal(slide.read(Box.of(slide.size))[:, :, 1], expected)


def test_pages_of_one_size_are_channels(tmp_path):
    path, images = tmp_path / "a.tif", noise(40, 50, 3)
    with tifffile.TiffWriter(path) as tiff:
        for page in images.transpose(2, 0, 1):
            tiff.write(page, photometric="minisblack", metadata=None)
    with open_slide(path) as slide:
        assert len(slide.channels) == 3
        assert not slide.is_rgb
        np.testing.assert_array_equal(slide.read_raw(Box.of(slide.size)), images)


def test_the_largest_image_is_the_slide_and_others_are_associated(tmp_path):
    path, large, small = tmp_path / "a.tif", noise(80, 90), noise(20, 70)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(small, photometric="rgb", metadata=None)
        tiff.write(large, photometric="rgb", metadata=None)
    with open_slide(path) as slide:
        assert slide.size == Size(90, 80)
        (name,) = slide.associated_names
        np.testing.assert_array_equal(slide.read_associated(name), small)


def test_qptiff(shared):
    path = shared / "data/wsi/small_vectra.qptiff"
    with tifffile.TiffFile(path) as tiff:
        expected = tiff.series[0].asarray()
    with open_slide(path) as slide:
        assert slide.channels == ("DAPI", "FITC", "Cy3")
        np.testing.assert_array_equal(slide.read_raw(Box.of(slide.size)), expected.transpose(1, 2, 0))
        assert slide.mpp_source == "metadata:tiff.XResolution"
    with open_slide(path, channels=["Cy3", "FITC", "DAPI"]) as slide:
        np.testing.assert_array_equal(slide.read(Box.of(slide.size)), expected[::-1].transpose(1, 2, 0))


def test_real_files_as_tifffile_reads_them(shared):
    for name in ("wsi/kidney-48-5.tif", "wsi/qupath_cells/cells.tif", "wsi_odd/large_image_rgb_geotiff.tiff"):
        path = shared / "data" / name
        np.testing.assert_array_equal(whole(path), tifffile.imread(path))
    path = shared / "data/wsi/CMU-1-Small-Region.svs"
    with open_slide(path, reader="tifffile") as slide:
        assert (slide.mpp, slide.mpp_source) == (0.499, "metadata:aperio.MPP")
        assert slide.associated_names == ("label", "macro", "thumbnail")
        with open_slide(path) as openslides:
            np.testing.assert_array_equal(slide.read(slide.bounds), openslides.read(slide.bounds))


def test_only_openslide_places_vendors_layouts(shared):
    with pytest.raises(UnsupportedFormatError, match="ndpi layout"):
        open_slide(shared / "data/wsi/test3-DAPI-2-(387).ndpi", reader="tifffile")


def test_ome_in_several_files(tmp_path):
    """A plane whose file is absent is not painted black."""
    parts = [noise(32, 40, 1)[:, :, 0], noise(40, 32, 1)[:, :, 0].T.copy()]
    uuids = [f"urn:uuid:0000000{i}-0000-0000-0000-000000000000" for i in range(2)]
    data = "".join(
        f'<TiffData FirstC="{i}" IFD="0" PlaneCount="1"><UUID FileName="{i}.ome.tif">{uuids[i]}</UUID></TiffData>'
        for i in range(2)
    )
    for i in range(2):
        xml = (
            f'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{uuids[i]}">'
            '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="40" SizeY="32" '
            'SizeC="2" SizeZ="1" SizeT="1"><Channel ID="Channel:0:0" Name="DAPI"/>'
            '<Channel ID="Channel:0:1" Name="Cy3"/>'
            f"{data}</Pixels></Image></OME>"
        )
        tifffile.imwrite(tmp_path / f"{i}.ome.tif", parts[i], description=xml, metadata=None, photometric="minisblack")
    path = tmp_path / "0.ome.tif"
    with open_slide(path) as slide:
        assert slide.channels == ("DAPI", "Cy3")
        np.testing.assert_array_equal(slide.read_raw(Box.of(slide.size)), np.stack(parts, axis=2))
        assert [p.name for p in slide.companions] == ["1.ome.tif"]  # type: ignore[attr-defined] # every file slide has them
    (tmp_path / "1.ome.tif").unlink()
    with pytest.raises(MissingCompanionError, match="1 of its planes"):
        open_slide(path)


def test_only_what_a_region_needs_is_decoded(tmp_path, monkeypatch):
    path, image = tmp_path / "a.tif", noise(512, 512)
    write_pages(path, image, tile=(64, 64), compression="deflate")
    kept: list[tuple[int, int]] = []
    keep = SegmentCache.keep

    def noting(self: SegmentCache, key: tuple[int, int], segment: np.ndarray) -> None:
        kept.append(key)
        keep(self, key, segment)

    monkeypatch.setattr(SegmentCache, "keep", noting)
    with open_slide(path, reader="tifffile") as slide:
        kept.clear()
        slide.read(Box(70, 70, 50, 50))
        assert [index for _, index in kept] == [9]
        slide.read(Box(70, 70, 60, 50))
        assert [index for _, index in kept] == [9, 10]


def test_the_cache_is_bounded():
    cache = SegmentCache(max_bytes=1000)
    for index in range(10):
        cache.keep((0, index), np.zeros(300, np.uint8))
    assert [cache.find((0, i)) is not None for i in range(10)] == [False] * 7 + [True] * 3
    cache.keep((0, 99), np.zeros(5000, np.uint8))
    assert cache.find((0, 99)) is not None
    assert cache.find((0, 9)) is None
