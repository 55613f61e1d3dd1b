"""Pyramidal TIFFs as other readers see them: OpenSlide, and tifffile for what OpenSlide does not follow."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import openslide
import pytest
import tifffile

from microtome.errors import ConfigError
from microtome.geometry import Box, Size
from microtome.slides.pyramid import Canvas, TilePyramid
from microtome.slides.write import TileCoding, write_ome_tiff, write_svs, write_tiff

SIZE = Size(1500, 1100)  # no multiple of a tile, of 4 or of 16


def picture(size: Size = SIZE, channels: int = 3) -> np.ndarray:
    """Smooth colours, so that JPEG is close."""
    rng = np.random.default_rng(3)
    small = rng.integers(0, 256, (12, 16, channels), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (size.width, size.height), interpolation=cv2.INTER_CUBIC))


IMAGE = picture()


def canvas_of(image: np.ndarray = IMAGE, **settings: Any) -> Canvas:
    size = Size(image.shape[1], image.shape[0])
    settings = {"mpp": 0.5, **settings}
    return Canvas(lambda box: image[box.y : box.bottom, box.x : box.right], size, **settings)


def shrunk(image: np.ndarray, ratio: int) -> np.ndarray:
    """Area average by reshaping, apart from the writer's own way."""
    h, w = image.shape[0] // ratio, image.shape[1] // ratio
    blocks = image[: h * ratio, : w * ratio].reshape(h, ratio, w, ratio, image.shape[2])
    return np.asarray(blocks.mean(axis=(1, 3)))


def luminance_error(a: np.ndarray, b: np.ndarray) -> float:
    """Mean difference in brightness, which JPEG keeps at full resolution, unlike hue."""
    return float(abs((a - b) @ np.array([0.299, 0.587, 0.114])).mean())


def region(slide: openslide.OpenSlide, level: int, box: Box | None = None) -> np.ndarray:
    box = box or Box(0, 0, *slide.level_dimensions[level])
    down = round(slide.level_downsamples[level])
    pixels = slide.read_region((box.x * down, box.y * down), level, (box.width, box.height))
    return np.asarray(pixels)[:, :, :3].astype(int)


def test_openslide_takes_an_svs_as_aperio(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    images = {"label": IMAGE[:200, :150].copy(), "macro": IMAGE[:300, :900].copy()}
    write_svs(path, canvas_of(), associated=images, properties={"ScanScope ID": "SS7"})
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert slide.level_dimensions == ((1500, 1100), (375, 275), (93, 68))
        assert float(slide.properties["openslide.mpp-x"]) == float(slide.properties["openslide.mpp-y"]) == 0.5
        assert slide.properties["openslide.objective-power"] == "20"
        assert slide.properties["aperio.ScanScope ID"] == "SS7"
        assert set(slide.associated_images) == {"label", "macro", "thumbnail"}
        assert slide.associated_images["label"].size == (150, 200)
        label = np.asarray(slide.associated_images["label"])[:, :, :3].astype(int)
        assert abs(label - images["label"]).mean() < 3
        assert slide.associated_images["thumbnail"].size == (375, 275)
        for level, ratio in enumerate((1, 4, 16)):
            assert luminance_error(region(slide, level), shrunk(IMAGE, ratio)) < 2, f"level {level}"


def test_an_svs_is_stored_as_subsampled_ycbcr(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    write_svs(path, canvas_of())
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_svs
        pages = [page.aspage() for page in tiff.pages]
        assert pages[0].photometric == tifffile.PHOTOMETRIC.YCBCR
        assert pages[0].subsampling == (2, 2)
        assert [page.is_tiled for page in pages] == [True, False, True, True]
        assert "AppMag = 20|MPP = 0.5" in pages[0].description


@pytest.mark.parametrize("compression", ["jpeg", "deflate", "none"])
def test_openslide_takes_a_generic_tiff_with_its_levels(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "a.tif"
    write_tiff(path, canvas_of(mpp=0.2525), coding=TileCoding(compression=compression), description="of a test")  # type: ignore[arg-type] # parametrised
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert slide.level_dimensions == ((1500, 1100), (375, 275), (93, 68))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.2525, rel=1e-6)
        assert slide.properties["tiff.ImageDescription"] == "of a test"
        if compression == "jpeg":
            assert abs(region(slide, 0) - IMAGE).mean() < 3
        else:
            np.testing.assert_array_equal(region(slide, 0), IMAGE)
            np.testing.assert_allclose(region(slide, 1), shrunk(IMAGE, 4), atol=0.5)
            np.testing.assert_allclose(region(slide, 2), shrunk(IMAGE, 16), atol=1.01)  # rounded twice


def test_an_ome_tiff_has_subifds_and_pixel_sizes(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    write_ome_tiff(path, canvas_of(), coding=TileCoding(compression="deflate"))
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        (series,) = tiff.series
        assert [level.shape for level in series.levels] == [(1100, 1500, 3), (275, 375, 3), (68, 93, 3)]
        np.testing.assert_array_equal(series.asarray(), IMAGE)
        np.testing.assert_allclose(series.levels[1].asarray(), shrunk(IMAGE, 4), atol=0.5)
        pixels = ElementTree.fromstring(tiff.ome_metadata or "").find(".//{*}Pixels")  # noqa: S314 - our own text
    assert pixels is not None
    assert (pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeXUnit")) == ("0.5", "µm")
    with openslide.OpenSlide(path) as slide:  # not refused, but seen without its pyramid
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert slide.level_count == 1
        np.testing.assert_array_equal(region(slide, 0), IMAGE)


def test_an_ome_tiff_keeps_channels_of_sixteen_bits(tmp_path: Path) -> None:
    path = tmp_path / "f.ome.tif"
    counts = picture(channels=2).astype(np.uint16) * 257
    canvas = canvas_of(counts, channels=("DAPI", 'anti-"CK" <1>'), dtype="uint16", downsamples=(1, 2, 8))
    write_ome_tiff(path, canvas, coding=TileCoding(tile_px=128, compression="deflate"))
    with tifffile.TiffFile(path) as tiff:
        (series,) = tiff.series
        assert series.axes == "CYX"
        np.testing.assert_array_equal(series.asarray(), np.moveaxis(counts, 2, 0))
        np.testing.assert_allclose(series.levels[1].asarray(), np.moveaxis(shrunk(counts, 2), 2, 0), atol=0.5)
        names = [c.get("Name") for c in ElementTree.fromstring(tiff.ome_metadata or "").iterfind(".//{*}Channel")]  # noqa: S314 - our own text
    assert names == ["DAPI", 'anti-"CK" <1>']


def test_a_file_need_not_say_its_mpp(tmp_path: Path) -> None:
    write_svs(tmp_path / "a.svs", canvas_of(mpp=None))
    write_tiff(tmp_path / "a.tif", canvas_of(mpp=None))
    for name in ("a.svs", "a.tif"):
        with openslide.OpenSlide(tmp_path / name) as slide:
            assert "openslide.mpp-x" not in slide.properties, name


def test_levels_may_be_one_or_many(tmp_path: Path) -> None:
    for downsamples in ((1,), (1, 2, 4, 8, 16, 32), (1, 3)):
        path = tmp_path / f"{len(downsamples)}.svs"
        write_svs(path, canvas_of(downsamples=downsamples), coding=TileCoding(tile_px=64))
        with openslide.OpenSlide(path) as slide:
            assert slide.level_dimensions == tuple((1500 // d, 1100 // d) for d in downsamples)
            assert luminance_error(region(slide, len(downsamples) - 1), shrunk(IMAGE, downsamples[-1])) < 3
            assert max(slide.associated_images["thumbnail"].size) <= 1024


def test_a_slide_smaller_than_a_tile(tmp_path: Path) -> None:
    tiny = IMAGE[:37, :50].copy()
    write_svs(tmp_path / "a.svs", canvas_of(tiny, downsamples=(1,)))
    write_tiff(tmp_path / "a.tif", canvas_of(tiny, downsamples=(1, 37)), coding=TileCoding(compression="none"))
    with openslide.OpenSlide(tmp_path / "a.svs") as slide:
        assert slide.dimensions == (50, 37)
        assert slide.associated_images["thumbnail"].size == (50, 37)
    with openslide.OpenSlide(tmp_path / "a.tif") as slide:
        np.testing.assert_array_equal(region(slide, 0), tiny)


def test_the_same_canvas_gives_the_same_bytes(tmp_path: Path) -> None:
    writers: list[tuple[str, Callable[..., None]]] = [
        ("svs", write_svs),
        ("tif", write_tiff),
        ("ome.tif", write_ome_tiff),
    ]
    for suffix, write in writers:
        contents = set()
        for workers in (1, 3):
            path = tmp_path / f"{workers}" / f"a.{suffix}"
            write(path, canvas_of(), coding=TileCoding(workers=workers))
            contents.add(path.read_bytes())
        assert len(contents) == 1, suffix


def test_memory_does_not_grow_with_the_slide(tmp_path: Path) -> None:
    size = Size(4096, 9000)  # 110 MB of pixels
    seen: list[Box] = []

    def read(box: Box) -> np.ndarray:
        seen.append(box)
        return np.full((box.height, box.width, 3), 200, np.uint8)

    tracemalloc.start()
    try:
        write_tiff(tmp_path / "a.tif", Canvas(read, size, 0.5), coding=TileCoding(workers=1))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 60e6
    covered = np.zeros((size.height, size.width), np.uint8)
    for box in seen:
        covered[box.y : box.bottom, box.x : box.right] += 1
    assert (covered == 1).all()  # each pixel was asked for once


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def read(box: Box) -> np.ndarray:
        if box.y > 500:
            raise RuntimeError("the scanner caught fire")
        return np.zeros((box.height, box.width, 3), np.uint8)

    with pytest.raises(RuntimeError, match="caught fire"):
        write_svs(tmp_path / "a.svs", Canvas(read, Size(600, 9000), 0.5))
    assert list(tmp_path.iterdir()) == []


def test_bigtiff_is_chosen_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiff(tmp_path / "small.tif", canvas_of())
    monkeypatch.setattr("microtome.slides.write._CLASSIC_BYTES", 1_000_000)
    write_tiff(tmp_path / "big.tif", canvas_of())
    for name, big in (("small.tif", False), ("big.tif", True)):
        with tifffile.TiffFile(tmp_path / name) as tiff, openslide.OpenSlide(tmp_path / name) as slide:
            assert tiff.is_bigtiff is big
            assert slide.level_count == 3


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"downsamples": (4, 16)}, "start with 1"),
        ({"downsamples": (1, 4, 6)}, "multiple"),
        ({"downsamples": ()}, "start with 1"),
        ({"downsamples": (1, 2048)}, "nothing left"),
        ({"mpp": 0.0}, "mpp"),
        ({"mpp": float("nan")}, "mpp"),
        ({"channels": ()}, "channel"),
    ],
)
def test_a_canvas_that_cannot_be_written(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        canvas_of(**settings)


@pytest.mark.parametrize(
    "settings", [{"tile_px": 100}, {"tile_px": 0}, {"compression": "lzw"}, {"quality": 0}, {"workers": 0}]
)
def test_a_coding_that_cannot_be_written(settings: dict[str, object]) -> None:
    with pytest.raises((ConfigError, TypeError)):  # a word that is none of the literals meets the tests' type checker
        TileCoding(**settings)  # type: ignore[arg-type] # bad on purpose


def test_what_a_format_does_not_hold_is_refused(tmp_path: Path) -> None:
    two = canvas_of(picture(channels=2).astype(np.uint16), channels=("a", "b"), dtype="uint16")
    with pytest.raises(ConfigError, match="8-bit RGB"):
        write_svs(tmp_path / "a.svs", two)
    with pytest.raises(ConfigError, match="8-bit RGB as JPEG"):
        write_svs(tmp_path / "a.svs", canvas_of(), coding=TileCoding(compression="deflate"))
    with pytest.raises(ConfigError, match="one channel"):
        write_tiff(tmp_path / "a.tif", two)
    with pytest.raises(ConfigError, match="JPEG holds 8-bit"):
        write_ome_tiff(tmp_path / "a.ome.tif", two)
    with pytest.raises(ConfigError, match="label and macro"):
        write_svs(tmp_path / "a.svs", canvas_of(), associated={"thumbnail": IMAGE[:9, :9].copy()})
    for bad in ({"Key": "a|b"}, {"Ke=y": "a"}, {"Key": "µ"}, {"Key": "a\nb"}):
        with pytest.raises(ConfigError, match="one ASCII line"):
            write_svs(tmp_path / "a.svs", canvas_of(), properties=bad)
    with pytest.raises(ConfigError, match="ASCII"):
        write_tiff(tmp_path / "a.tif", canvas_of(), description="0.5 µm")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_gives_the_wrong_pixels_is_told(tmp_path: Path) -> None:
    canvas = Canvas(lambda box: IMAGE[: box.height, : box.width - 1], SIZE, 0.5)
    with pytest.raises(ConfigError, match="must give"):
        write_tiff(tmp_path / "a.tif", canvas)


def test_levels_are_made_in_order(tmp_path: Path) -> None:
    with TilePyramid(canvas_of(), 256, spool=tmp_path) as pyramid, pytest.raises(ConfigError, match="0 is next"):
        next(pyramid.tiles(1))
