"""A crop proves its origin; a broken tile is broken and its neighbours are not."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from microtome.errors import ConfigError
from microtome.geometry import Box, Point, Size
from microtome.slides.open import open_slide
from microtome.slides.write import TileCoding, write_ome_tiff, write_svs, write_tiff
from microtome.testing import SyntheticSlide, break_tile, coordinate_slide, decode_origin, encode_origin

PLACE, SIDE, STEP = st.integers(0, 65_000), st.integers(3, 40), st.sampled_from([1, 2, 4, 8, 16, 32, 64])


@given(PLACE, PLACE, SIDE, SIDE, STEP)
def test_every_crop_tells_its_origin(x: int, y: int, width: int, height: int, step: int) -> None:
    width, height = (min(n, (65_536 - at + step - 1) // step) for n, at in ((width, x), (height, y)))
    if min(width, height) < 3:
        return
    x, y = x // step * step, y // step * step
    image = encode_origin(x + step * np.arange(width), y + step * np.arange(height))
    assert decode_origin(image) == Point(x, y)


@given(st.integers(0, 2999), st.integers(0, 1999), st.integers(0, 4), st.integers(0, 4), st.integers(1, 255))
def test_one_wrong_pixel_is_seen(x: int, y: int, row: int, column: int, change: int) -> None:
    image = encode_origin(x + np.arange(5), y + np.arange(5))
    image[row, column, 2] = (int(image[row, column, 2]) + change) % 256
    try:
        origin = decode_origin(image)
    except ConfigError:
        return
    pytest.fail(f"taken for a crop at {origin}")


def test_what_is_no_plain_crop_is_refused() -> None:
    image = encode_origin(np.arange(700, 764), np.arange(300, 364))
    for other in (
        image[:, ::-1], image[::-1], image.transpose(1, 0, 2), image[:2],
        cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA), cv2.resize(image, (128, 128)),
        np.full_like(image, 255), np.zeros_like(image), image[:, :, ::-1], np.roll(image, 1, axis=1),
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            decode_origin(np.ascontiguousarray(other))


@pytest.mark.parametrize("compression", ["deflate", "none"])
def test_a_coordinate_slide_through_openslide(tmp_path: Path, compression: str) -> None:
    path = coordinate_slide(tmp_path / "c.tif", size=Size(1104, 768), compression=compression)
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions == ((1104, 768), (276, 192), (69, 48))
        for level, step in enumerate((1, 4, 16)):
            for x, y in ((0, 0), (5, 30), (41, 17)):
                pixels = slide.read_region((x * step, y * step), level, (20, 12))
                assert decode_origin(np.asarray(pixels)[:, :, :3].copy()) == Point(x * step, y * step)


def test_a_coordinate_slide_as_ome_tiff(tmp_path: Path) -> None:
    path = coordinate_slide(tmp_path / "c.ome.tif", size=Size(900, 600), kind="ome", mpp=0.25)
    with tifffile.TiffFile(path) as tiff:
        for level, step in enumerate((1, 4, 16)):
            image = tiff.series[0].levels[level].asarray()
            assert decode_origin(image[7:, 11:].copy()) == Point(11 * step, 7 * step)


@pytest.mark.parametrize(("kind", "name"), [("tiff", "c.tif"), ("ome", "c.ome.tif")])
def test_a_coordinate_slide_through_our_own_door(tmp_path: Path, kind: str, name: str) -> None:
    path = coordinate_slide(tmp_path / name, size=Size(1104, 768), kind=kind)
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(0.5, rel=1e-6)
        assert [level.size for level in slide.levels] == [Size(1104, 768), Size(276, 192), Size(69, 48)]
        for x, y in ((0, 0), (999, 701), (256, 511)):
            assert decode_origin(slide.read(Box(x, y, 64, 48))) == Point(x, y)
        for step in (4, 16):
            assert decode_origin(slide.read(Box(64, 128, 640, 480), size=Size(640 // step, 480 // step))) == Point(
                64, 128
            )


def test_coordinate_slides_out_of_range(tmp_path: Path) -> None:
    bad = (
        {"size": Size(70_000, 500)},
        {"downsamples": (1, 3)},
        {"downsamples": (1, 128)},
        {"compression": "jpeg"},
        {"kind": "svs"},
    )
    for arguments in bad:
        with pytest.raises((ConfigError, TypeError)):
            coordinate_slide(tmp_path / "c.tif", **{"size": Size(500, 500), **arguments})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["svs", "tif", "deflate.tif", "ome.tif"])
def test_break_tile_breaks_one_tile(tmp_path: Path, suffix: str) -> None:
    path, copy = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    canvas = SyntheticSlide(1, size=600).canvas((1, 2))
    coding = TileCoding(tile_px=128, compression="deflate" if "deflate" in suffix else "jpeg")
    write = write_svs if suffix == "svs" else write_ome_tiff if suffix == "ome.tif" else write_tiff
    write(path, canvas, coding=coding)
    shutil.copyfile(path, copy)
    box = break_tile(copy, 0, 7)
    assert box == Box(256, 128, 128, 128)
    with openslide.OpenSlide(path) as good:
        good.read_region((0, 0), 0, (600, 600))
    with openslide.OpenSlide(copy) as bad:
        bad.read_region((0, 0), 0, (256, 256))
        bad.read_region((384, 128), 0, (216, 256))
        with pytest.raises(openslide.OpenSlideError):
            bad.read_region((250, 130), 0, (10, 10))
    # each codec has an error class of its own
    with tifffile.TiffFile(copy) as tiff, pytest.raises((ValueError, RuntimeError)):
        tiff.pages[0].asarray()
    assert break_tile(copy, 1, 5) == Box(256, 128, 44, 128)


def test_break_tile_refuses_what_it_cannot_break(tmp_path: Path) -> None:
    path = coordinate_slide(tmp_path / "c.tif", size=Size(300, 300), compression="none")
    with pytest.raises(ConfigError, match="compressed"):
        break_tile(path)
    path = coordinate_slide(tmp_path / "d.tif", size=Size(300, 300), tile_px=128)
    for level, index in ((3, 0), (-1, 0), (0, 9), (0, -1)):
        with pytest.raises(ConfigError):
            break_tile(path, level, index)
    assert break_tile(path, 0, 8) == Box(256, 256, 44, 44)
    assert break_tile(path, 1, 0) == Box(0, 0, 75, 75)
