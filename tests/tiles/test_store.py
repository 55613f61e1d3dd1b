import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.errors import ConfigError, CorruptOutputError
from microtome.geometry import Box, Size
from microtome.storage import digest, recipe_text
from microtome.tiles.clam import ClamGrid, lay_clam
from microtome.tiles.grid import Grid, Tiles, lay_tiles
from microtome.tiles.histoprep import HistoPrepGrid, lay_histoprep
from microtome.tiles.store import read_tile_quality, read_tiles, read_tiles_recipe, write_tiles
from microtome.tissue.saturation import Contour
from tests.tiles.fakes import noise_slide, tissue

SLIDE = noise_slide(900, 700, downsamples=(2, 5), mpp=0.25)
OUTLINE = np.array([(30, 20), (800, 50), (700, 650), (50, 600)], np.int32)


def laid():
    area = tissue(SLIDE.size, (0, 0, 450, 333))
    return {
        "mpp": lay_tiles(SLIDE, area, Grid(tile_px=64, mpp=0.5, stride_px=50)),
        "level": lay_tiles(SLIDE, area, Grid(tile_px=32, mpp=None, level=2, bounds="pad")),
        "no mpp": lay_tiles(noise_slide(300, 300, mpp=None), None, Grid(tile_px=32, mpp=None, level=0)),
        "histoprep": lay_histoprep(SLIDE, np.ones((700, 900)), HistoPrepGrid(width=128, level=1)),
        "clam": lay_clam(SLIDE, [Contour(OUTLINE)], ClamGrid(patch_px=64, step_px=64, level=1)),
    }


def assert_same(a, b):
    np.testing.assert_array_equal(a.boxes, b.boxes)
    np.testing.assert_array_equal(a.coverage, b.coverage)
    for name in a.__dataclass_fields__:
        if name not in ("boxes", "coverage"):
            assert getattr(a, name) == getattr(b, name), name
    assert digest(a.recipe) == digest(b.recipe)


@pytest.mark.parametrize("kind", laid())
def test_what_is_written_is_read(tmp_path, kind):
    tiles = laid()[kind]
    quality = {"blur": np.random.default_rng(0).random(len(tiles), np.float32), "pen": tiles.coverage}
    write_tiles(tmp_path / "a.h5", tiles, slide_id="a", recipe={"b": 1}, quality=quality)
    assert_same(read_tiles(tmp_path / "a.h5"), tiles)
    assert read_tiles_recipe(tmp_path / "a.h5") == recipe_text({"b": 1})
    stored = read_tile_quality(tmp_path / "a.h5")
    assert stored.keys() == quality.keys()
    for name, values in quality.items():
        np.testing.assert_array_equal(stored[name], values)


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_any_tiles_survive(tmp_path_factory, data):
    n = data.draw(st.integers(0, 30))
    boxes = np.array(
        data.draw(st.lists(st.tuples(*[st.integers(-(2**40), 2**40)] * 4), min_size=n, max_size=n)), np.int64
    ).reshape(n, 4)
    shares = np.array(data.draw(st.lists(st.floats(0, 1, width=32), min_size=n, max_size=n)), np.float32)
    tiles = Tiles(boxes, shares, 224, 0.5, None, Grid(), Size(5, 6), 0.25)
    path = tmp_path_factory.mktemp("tiles") / "a.h5"
    write_tiles(path, tiles, slide_id="ä b", recipe={})
    assert_same(read_tiles(path), tiles)
    assert read_tile_quality(path) == {}


@pytest.mark.parametrize("grid", [Grid(tile_px=64, mpp=0.5), Grid(tile_px=64, mpp=None, level=1)])
def test_no_tiles_survive_too(tmp_path, grid):
    tiles = lay_tiles(SLIDE, tissue(SLIDE.size), grid, allow_empty=True)
    write_tiles(tmp_path / "a.h5", tiles, slide_id="a", recipe={})
    assert_same(read_tiles(tmp_path / "a.h5"), tiles)
    with h5py.File(tmp_path / "a.h5", "r") as file:
        assert file["coords"].attrs["patch_size_level0"] == 128


@pytest.mark.parametrize("kind", laid())
def test_a_reader_of_clam_files_reads_the_tiles_regions(tmp_path, kind):
    """What CLAM does with such a file: patch_size pixels of patch_level at each corner."""
    tiles = laid()[kind]
    write_tiles(tmp_path / "a.h5", tiles, slide_id="a", recipe={})
    with h5py.File(tmp_path / "a.h5", "r") as file:
        coords, attrs = file["coords"][:], dict(file["coords"].attrs)
    assert coords.dtype.kind == "i"
    assert coords.shape == (len(tiles), 2)
    level, side = int(attrs["patch_level"]), int(attrs["patch_size"])
    downsample = attrs["downsample"]
    for (x, y), box in zip(coords, tiles.boxes, strict=True):
        ours = Box.from_row(box)
        assert (x, y) == (ours.x, ours.y)
        assert abs(side * downsample[0] - ours.width) <= downsample[0]
    assert attrs["patch_size_level0"] == tiles.boxes[0, 2]
    expected = tiles.slide_size if kind == "no mpp" else SLIDE.levels[level].size
    assert attrs["level_dim"].tolist() == [expected.width, expected.height]
    assert attrs["downsampled_level_dim"].tolist() == [expected.width, expected.height]
    assert attrs["name"] == "a"
    assert attrs["save_path"] == tmp_path.name


def test_a_truncated_file_is_corrupt(tmp_path):
    path = tmp_path / "a.h5"
    write_tiles(path, laid()["mpp"], slide_id="a", recipe={})
    whole = path.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptOutputError, match=r"a\.h5"):
            read_tiles(path)


def test_a_changed_coordinate_is_corrupt(tmp_path):
    path = tmp_path / "a.h5"
    for name in ("boxes", "coverage", "coords"):
        write_tiles(path, laid()["mpp"], slide_id="a", recipe={})
        with h5py.File(path, "r+") as file:
            file[name][3] = 77
        with pytest.raises(CorruptOutputError, match="changed after it was written"):
            read_tiles(path)


@pytest.mark.parametrize("name", ["coords", "boxes", "coverage"])
def test_a_file_without_a_part_is_corrupt(tmp_path, name):
    path = tmp_path / "a.h5"
    write_tiles(path, laid()["mpp"], slide_id="a", recipe={})
    with h5py.File(path, "r+") as file:
        del file[name]
    with pytest.raises(CorruptOutputError):
        read_tiles(path)


def test_another_kind_of_file_is_corrupt(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["coords"] = np.zeros((3, 2))
    (tmp_path / "text.h5").write_text("no HDF5")
    for name in ("other.h5", "text.h5"):
        for read in (read_tiles, read_tiles_recipe, read_tile_quality):
            with pytest.raises(CorruptOutputError, match=name):
                read(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_tiles(tmp_path / "absent.h5")


def test_a_refused_write_leaves_the_old_file(tmp_path):
    path, tiles = tmp_path / "a.h5", laid()["mpp"]
    write_tiles(path, tiles, slide_id="a", recipe={})
    with pytest.raises(ConfigError, match="blur"):
        write_tiles(path, tiles, slide_id="a", recipe={}, quality={"blur": np.zeros(1, np.float32)})
    oblong = lay_histoprep(SLIDE, np.ones((700, 900)), HistoPrepGrid(width=128, height=64))
    with pytest.raises(ConfigError, match="squares"):
        write_tiles(path, oblong, slide_id="a", recipe={})
    assert_same(read_tiles(path), tiles)
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]
