"""Neighbouring tiles share compressed tiles of the file: each is decoded once, and no pixel changes."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import openslide
import pytest

from microtome.errors import ConfigError, TileError
from microtome.features.extract import ExtractOptions, extract
from microtome.features.store import FeatureStore
from microtome.slides import direct_decode
from microtome.slides.direct_cache import TileCache
from microtome.slides.open import open_slide
from microtome.testing.damage import break_tile
from microtome.testing.tile_source_contract import TileSourceCase, TileSourceContract
from microtome.tiles.grid import Grid, lay_tiles
from microtome.tiles.slide_tiles import SlideTiles
from tests.features.fakes import Means
from tests.slides.jpeg_tiffs import APERIO, Made

SIDE = 1000, 1300
MADE = Made(tile=(64, 64), tables=True, description=APERIO, levels=(SIDE, (500, 650)))  # 16 × 21 tiles, 0.5 µm/px
GRIDS = {
    "half": Grid(tile_px=56, mpp=1.9),  # read from the level of 1.0
    "half of level 0": Grid(tile_px=56, mpp=0.9),
    "whole pixels": Grid(tile_px=112, mpp=0.5),
    "on the file's own tiles": Grid(tile_px=64, mpp=0.5),
    "overlapping": Grid(tile_px=100, mpp=0.5, stride_px=37),
    "reaching out": Grid(tile_px=112, mpp=0.5, bounds="pad"),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return MADE.write(tmp_path_factory.mktemp("blocks") / "a.svs")


@pytest.fixture
def decoded(monkeypatch):
    """How many compressed tiles were decoded; cleared by whoever counts."""
    streams: list[bytes] = []
    decode = direct_decode._decode_jpeg

    def counted(stream, *rest):
        streams.append(stream)
        decode(stream, *rest)

    monkeypatch.setattr(direct_decode, "_decode_jpeg", counted)
    return streams


def opened(path, grid, reader="auto", **options):
    slide = open_slide(path, reader=reader)
    try:
        return SlideTiles(slide, lay_tiles(slide, None, grid), **options)
    except Exception:
        slide.close()
        raise


def touched(source, level=0):
    """How many tiles of the file the boxes of the source meet."""
    cells = set()
    scale = source.slide.levels[level].downsample_x
    last = source.slide.levels[level].size
    for x, y, w, h in source.boxes:
        right, bottom = min(round((x + w) / scale), last.width), min(round((y + h) / scale), last.height)
        columns = range(int(x / scale) // 64, (right - 1) // 64 + 1)
        cells |= {(c, r) for c in columns for r in range(int(y / scale) // 64, (bottom - 1) // 64 + 1)}
    return len(cells)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("expect", [False, True])
def test_tiles_are_those_that_openslide_gives_one_by_one(path, name, expect):
    with opened(path, GRIDS[name]) as source, opened(path, GRIDS[name], "openslide") as reference:
        assert source.slide.reader == "direct"
        rows = np.arange(len(source))
        if expect:
            source.expect(rows)
        np.testing.assert_array_equal(source.read(rows).images, reference.read(rows).images)


def test_tiles_are_openslides_pixels_averaged_by_opencv(path):
    """The same without any code of ours."""
    with opened(path, GRIDS["half of level 0"]) as source:
        images = source.read(np.arange(len(source))).images
        with openslide.OpenSlide(str(path)) as slide:
            for (x, y, w, h), image in zip(source.boxes.tolist(), images, strict=True):
                region = np.asarray(slide.read_region((x, y), 0, (w, h)).convert("RGB"))
                np.testing.assert_array_equal(image, cv2.resize(region, (56, 56), interpolation=cv2.INTER_AREA))


@pytest.mark.parametrize("name", GRIDS)
def test_each_compressed_tile_is_decoded_once(path, decoded, name):
    """With room for little more than one row of the file's tiles, read in parts as a decoder does."""
    with opened(path, GRIDS[name]) as source:
        decoded.clear()
        cache = TileCache(70 * 64 * 64 * 3)
        source.expect(np.arange(len(source)), cache)
        for start in range(0, len(source), 5):
            source.read(np.arange(start, min(start + 5, len(source))))
        assert len(decoded) == touched(source, level=1 if name == "half" else 0) == len(set(decoded))
        assert cache.n_bytes == 0


def test_two_threads_decode_no_tile_twice_and_give_the_same(path, decoded):
    with opened(path, GRIDS["overlapping"]) as source, opened(path, GRIDS["overlapping"], "openslide") as reference:
        expected = reference.read(np.arange(len(reference))).images
        decoded.clear()
        source.expect(np.arange(len(source)))
        parts = [np.arange(i, min(i + 7, len(source))) for i in range(0, len(source), 7)]
        with ThreadPoolExecutor(6) as pool:
            images = np.concatenate([batch.images for batch in pool.map(source.read, parts)])
        np.testing.assert_array_equal(images, expected)
        assert len(decoded) == touched(source)


def test_expectations_that_do_not_come_true_change_nothing(path):
    with opened(path, GRIDS["overlapping"]) as source, opened(path, GRIDS["overlapping"], "openslide") as reference:
        expected = reference.read(np.arange(len(reference))).images
        source.expect(np.arange(0, len(source), 3))
        rows = np.random.default_rng(0).permutation(len(source))
        np.testing.assert_array_equal(source.read(rows).images, expected[rows])
        np.testing.assert_array_equal(source.read(rows).images, expected[rows])


@pytest.mark.parametrize("memory", [2**19, 2**20, 2**26])
def test_extraction_keeps_what_its_memory_allows(path, decoded, tmp_path, memory):
    """The features are the same; with enough memory each compressed tile is decoded once."""
    stored = {}
    for reader in ("openslide", "auto"):
        with opened(path, GRIDS["half of level 0"], reader) as source:
            assert source.modality == "brightfield"  # looks at the whole slide, once
            decoded.clear()
            store = FeatureStore(tmp_path / reader)
            options = ExtractOptions(batch_size=8, workers=2, memory_bytes=memory)
            extract(source, Means(), store, options)
            stored[reader] = store[source.slide_id].features
            least = touched(source)
    np.testing.assert_array_equal(stored["auto"], stored["openslide"])
    held = source.slide.cache
    assert held.max_bytes <= memory // 4
    assert held.n_bytes == 0
    if memory == 2**26:
        assert len(decoded) == least


def test_a_damaged_tile_costs_only_those_that_need_it(tmp_path):
    path = MADE.write(tmp_path / "a.svs")
    broken = break_tile(path, index=30)
    with opened(path, GRIDS["half of level 0"]) as source:
        source.expect(np.arange(len(source)))
        batch = source.read(np.arange(len(source)))
        x, y, w, h = source.boxes.T
        meets = (x < broken.right) & (x + w > broken.x) & (y < broken.bottom) & (y + h > broken.y)
        np.testing.assert_array_equal(batch.readable, ~meets)
        assert not batch.images[meets].any()
        assert set(batch.errors) == set(np.flatnonzero(meets).tolist())


def test_memory_of_the_callers_is_filled_whatever_it_held(path):
    with opened(path, GRIDS["half"]) as source:
        rows = np.array([3, 0, 3])
        images = np.full((3, 56, 56, 3), 77, np.uint8)
        batch = source.read_into(rows, images)
        assert batch.images is images
        np.testing.assert_array_equal(images, source.read(rows).images)
        for wrong in (np.zeros((3, 55, 56, 3), np.uint8), np.zeros((3, 56, 56, 3), np.uint16)):
            with pytest.raises(TileError, match="Got memory"):
                source.read_into(rows, wrong)


class TestDct(TileSourceContract):
    @pytest.fixture
    def case(self, path):
        grid = Grid(tile_px=56, mpp=2.0, bounds="pad")  # half of level 1
        return TileSourceCase(
            open=lambda: opened(path, grid, decode="dct"),
            others={
                "exact": lambda: opened(path, grid),
                "scale": lambda: opened(path, Grid(tile_px=28, mpp=4.0, bounds="pad"), decode="dct"),
            },
        )


def test_dct_decodes_smaller_and_comes_near(path, decoded):
    grid = Grid(tile_px=56, mpp=2.0)
    with opened(path, grid, decode="dct") as source, opened(path, grid) as exact:
        assert source.recipe["tile_decode"] == "dct 1/2"
        assert "tile_decode" not in exact.recipe
        rows = np.arange(len(source))
        decoded.clear()
        source.expect(rows)
        images = source.read(rows).images.astype(int)
        assert len(decoded) == touched(source, level=1)
        difference = np.abs(images - exact.read(rows).images)
        assert 0 < difference.mean() < 3


def test_dct_is_refused_where_it_cannot_be_done(path):
    with pytest.raises(ConfigError, match="--decode dct"):
        opened(path, GRIDS["half"], "openslide", decode="dct")
    with pytest.raises(ConfigError, match="--decode dct"):
        opened(path, GRIDS["half"], "tifffile", decode="dct")


def test_dct_shrinks_nothing_that_is_not_to_shrink_to_a_half(path):
    grid = Grid(tile_px=112, mpp=0.7)
    with opened(path, grid, decode="dct") as source, opened(path, grid) as exact:
        assert source.recipe["tile_decode"] == "dct 1/1"
        rows = np.arange(len(source))
        np.testing.assert_array_equal(source.read(rows).images, exact.read(rows).images)
