"""Big slides: what OpenSlide and tifffile make of them, the tissue that was planted, and their entropy."""

import numpy as np
import openslide
import pytest
import shapely
import tifffile

from microtome.errors import ConfigError
from microtome.slides.open import open_slide
from microtome.testing import big_slides
from microtome.testing.big_slides import write_svs_like
from microtome.tissue.find import find_tissue

SIDE = 6000
OUTLINE = 0.07  # what a finder may add around the tissue of a slide of 1 to 1.5 mm


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_svs_like(tmp_path_factory.mktemp("big") / "plain.svs", SIDE, seed=3)


@pytest.fixture(scope="module")
def repeated(tmp_path_factory):
    return write_svs_like(tmp_path_factory.mktemp("big") / "repeated.svs", SIDE, seed=3, repeat_tiles=True)


def found_share(path) -> float:
    with open_slide(path) as slide:
        size = slide.size.fitted(2000)
        return float(find_tissue(slide).mask(box=slide.bounds, size=size).mean())


def pixels(path, level, origin, side):
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region(origin, level, (side, side)).convert("RGB"))


def test_openslide_takes_it_for_aperio(plain):
    with openslide.OpenSlide(plain.path) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert float(slide.properties["openslide.mpp-x"]) == plain.mpp == 0.25
        assert slide.level_dimensions == ((SIDE, SIDE), (SIDE // 4,) * 2, (SIDE // 16,) * 2)
        assert list(slide.associated_images) == ["thumbnail"]
        assert np.asarray(slide.associated_images["thumbnail"]).shape[2] == 4


def test_every_tile_of_every_level_decodes_as_openslide_decodes_it(plain):
    with tifffile.TiffFile(plain.path) as tiff:
        assert tiff.is_svs
        assert tiff.is_bigtiff
        for level, page in enumerate(tiff.series[0].levels):
            image, side = page.asarray(), SIDE // 4**level
            assert np.array_equal(image, pixels(plain.path, level, (0, 0), side))


def test_the_tables_are_kept_once_per_level(plain):
    with tifffile.TiffFile(plain.path) as tiff:
        page = tiff.pages.first
        assert page.jpegtables is not None
        assert len(page.jpegtables) > 100
        file = plain.path.read_bytes()
        first = file[page.dataoffsets[0] : page.dataoffsets[0] + page.databytecounts[0]]
        assert b"\xff\xdb" not in first[:20]
        assert page.jpegtables not in first


def test_lower_levels_show_the_same(plain):
    origin, side = (1024, 2048), 2048
    fine = pixels(plain.path, 0, origin, side).reshape(512, 4, 512, 4, 3).mean(axis=(1, 3))
    coarse = pixels(plain.path, 1, origin, 512).astype(float)
    assert np.abs(fine - coarse).mean() < 4
    assert np.corrcoef(fine.ravel(), coarse.ravel())[0, 1] > 0.95


def test_tissue_is_what_was_planted(plain):
    assert plain.tissue_share == pytest.approx(0.35, abs=0.01)
    assert plain.tissue_share < found_share(plain.path) < plain.tissue_share + OUTLINE


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_another_share_is_planted_and_found(tmp_path, share):
    slide = write_svs_like(tmp_path / "a.svs", 4096, tissue_share=share, seed=1)
    assert slide.tissue_share == pytest.approx(share, abs=0.02)
    assert share < found_share(slide.path) < share + OUTLINE


def test_tissue_tiles_have_the_entropy_of_a_scan(plain):
    with tifffile.TiffFile(plain.path) as tiff:
        counts = np.array(tiff.pages.first.databytecounts)
    whole = np.sort(counts)[-plain.n_tissue_tiles :]
    assert 2.0 < whole.mean() * 8 / 256**2 < 2.5
    assert counts.min() * 8 / 256**2 < 0.5  # glass


def test_repeated_tiles_give_the_same_pixels_in_a_smaller_file(plain, repeated):
    assert repeated.path.stat().st_size < 0.9 * plain.path.stat().st_size
    with tifffile.TiffFile(repeated.path) as tiff, tifffile.TiffFile(plain.path) as other:
        offsets = tiff.pages.first.dataoffsets
        assert len(set(offsets)) < len(offsets) / 2
        assert len(set(other.pages.first.dataoffsets)) == len(offsets)
        for level, page in zip(tiff.series[0].levels, other.series[0].levels, strict=True):
            assert np.array_equal(level.asarray(), page.asarray())


def test_the_same_arguments_give_the_same_bytes_and_another_seed_others(plain, tmp_path):
    again = write_svs_like(tmp_path / "again.svs", SIDE, seed=3)
    other = write_svs_like(tmp_path / "other.svs", SIDE, seed=4)
    assert again.path.read_bytes() == plain.path.read_bytes()
    assert other.path.read_bytes() != plain.path.read_bytes()


def test_the_painted_piece_is_tissue_throughout():
    piece = big_slides._PIECE
    assert big_slides._section().tissue.contains(shapely.box(piece.x, piece.y, piece.right, piece.bottom))


@pytest.mark.parametrize(
    "settings",
    [
        {"size_px": 2047},
        {"tissue_share": 0.0},
        {"tissue_share": 0.95},
        {"seed": -1},
        {"mpp": 0.0},
        {"mpp": float("nan")},
    ],
)
def test_a_number_out_of_range_is_refused(tmp_path, settings):
    with pytest.raises(ConfigError, match="Got"):
        write_svs_like(tmp_path / "a.svs", **settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_hundred_thousand_pixels_fit_into_a_small_file(tmp_path):
    slide = write_svs_like(tmp_path / "huge.svs", 100_000, repeat_tiles=True)
    assert slide.path.stat().st_size < 60e6
    with openslide.OpenSlide(slide.path) as reader:
        assert reader.level_dimensions == ((100_000,) * 2, (25_000,) * 2, (6250,) * 2)
    assert found_share(slide.path) == pytest.approx(slide.tissue_share, abs=0.01)
