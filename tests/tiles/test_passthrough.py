"""Tiles that are the slide's own compressed bytes."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import simplejpeg
import tifffile
from PIL import Image

from microtome.geometry import Box, Size
from microtome.slides.open import open_slide
from microtome.testing.big_slides import write_svs_like
from microtome.tiles.coding import ImageCoding
from microtome.tiles.folder import TileFolder
from microtome.tiles.grid import Grid, lay_tiles
from microtome.tiles.save import save_tiles
from microtome.tiles.slide_tiles import SlideTiles

TILE = 128
NEVER = ImageCoding(passthrough="never")


@pytest.fixture
def picture():
    """Smooth structure and some noise, so that JPEG has something to lose; 5 × 4 tiles and a part of one."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(60, 250, (20, 24, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((700, 540), Image.Resampling.BICUBIC), np.int16)
    return np.clip(smooth + rng.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8)


def write(path, picture, *, photometric="ycbcr", subsampling=(2, 2)):
    """A generic tiled TIFF of JPEG; photometric "rgb" is JPEG without a change of colours."""
    colours = {"outcolorspace": "rgb"} if photometric == "rgb" else {}
    tifffile.imwrite(
        path,
        picture,
        tile=(TILE, TILE),
        compression="jpeg",
        compressionargs={"level": 75, **colours},
        photometric="rgb" if photometric == "rgb" else "ycbcr",
        subsampling=None if photometric == "rgb" else subsampling,
        resolution=(20_000, 20_000),
        resolutionunit="centimeter",
        metadata=None,
    )
    return path


def source(path, grid=None, reader="direct"):
    slide = open_slide(path, reader=reader)
    return SlideTiles(slide, lay_tiles(slide, None, grid or Grid(tile_px=TILE, mpp=None, level=0)))


def saved_pixels(folder):
    table = pd.read_parquet(folder / "metadata.parquet")
    images = {}
    for row in table.itertuples():
        with Image.open(str(row.path)) as image:
            images[row.x, row.y] = np.asarray(image), bool(row.passthrough), image.mode
    return images


KINDS: dict[str, dict[str, Any]] = {
    "4:2:0": {"subsampling": (2, 2)},
    "4:2:2": {"subsampling": (2, 1)},
    "4:4:4": {"subsampling": (1, 1)},
    "RGB": {"photometric": "rgb"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_whole_tiles_of_the_file_lose_nothing(tmp_path, picture, kind):
    tiles = source(write(tmp_path / "a.tif", picture, **KINDS[kind]))
    saved = save_tiles(tiles, tmp_path / "A12", workers=2)
    assert (saved.n_tiles, saved.n_passthrough, saved.n_written) == (20, 20, 20)
    with open_slide(tmp_path / "a.tif", reader="openslide") as reference:
        for (x, y), (pixels, passed, mode) in saved_pixels(tmp_path / "A12").items():
            assert passed
            assert mode == "RGB"
            np.testing.assert_array_equal(pixels, reference.read(Box(x, y, TILE, TILE)))
    np.testing.assert_array_equal(
        TileFolder(tmp_path / "A12").read(np.arange(20)).images, tiles.read(np.arange(20)).images
    )


def test_each_file_has_the_tables_that_all_tiles_share(tmp_path):
    """The stream in the slide is abbreviated: it does not decode by itself."""
    write_svs_like(tmp_path / "a.svs", 2048)
    with tifffile.TiffFile(tmp_path / "a.svs") as tiff:
        page = tiff.pages[0]
        assert page.jpegtables is not None
        stored = (tmp_path / "a.svs").read_bytes()[page.dataoffsets[9] :][: page.databytecounts[9]]
    with pytest.raises(ValueError, match="table"):
        simplejpeg.decode_jpeg(stored)
    tiles = source(tmp_path / "a.svs", Grid(tile_px=256, mpp=None, level=0))
    data = tiles.compressed(9)
    assert data is not None
    assert data.endswith(stored[stored.index(b"\xff\xda") :])
    np.testing.assert_array_equal(simplejpeg.decode_jpeg(data), tiles.read(np.array([9])).images[0])


def test_what_is_not_one_whole_tile_is_encoded(tmp_path, picture):
    """Every second tile of a grid of half a tile's stride starts on a tile of the file; those at the edge reach out."""
    path = write(tmp_path / "a.tif", picture)
    grid = Grid(tile_px=TILE, stride_px=TILE // 2, mpp=None, level=0, bounds="pad")
    saved = save_tiles(source(path, grid), tmp_path / "A12")
    images = saved_pixels(tmp_path / "A12")
    assert {xy for xy, (_, passed, _) in images.items() if passed} == {
        (x, y) for x in range(0, 640, TILE) for y in range(0, 512, TILE)
    }
    assert saved.n_passthrough == 20 < saved.n_tiles
    save_tiles(source(path, grid), tmp_path / "never", coding=NEVER)
    uniform = saved_pixels(tmp_path / "never")
    for xy, (pixels, passed, _) in images.items():
        assert not uniform[xy][1]
        assert passed != np.array_equal(pixels, uniform[xy][0])
    properties = json.loads((tmp_path / "A12" / "properties.json").read_text())
    expected = {"num_passthrough": 20, "passthrough": "auto", "quality": 80, "subsampling": "4:2:0"}
    assert properties.items() >= expected.items()


@pytest.mark.parametrize(
    "grid",
    [
        Grid(tile_px=TILE, mpp=1.0),  # resampled
        Grid(tile_px=2 * TILE, mpp=None, level=0),  # four tiles
        Grid(tile_px=TILE // 2, mpp=None, level=0),  # a part of one
    ],
)
def test_other_grids_are_encoded(tmp_path, picture, grid):
    tiles = source(write(tmp_path / "a.tif", picture), grid)
    assert save_tiles(tiles, tmp_path / "A12").n_passthrough == 0


def test_lower_levels_pass_through_at_their_own_resolution(tmp_path):
    write_svs_like(tmp_path / "a.svs", 4096)
    tiles = source(tmp_path / "a.svs", Grid(tile_px=256, mpp=1.0))
    saved = save_tiles(tiles, tmp_path / "A12")
    assert saved.n_passthrough == saved.n_tiles == 16
    with open_slide(tmp_path / "a.svs", reader="openslide") as reference:
        for (x, y), (pixels, _, _) in saved_pixels(tmp_path / "A12").items():
            np.testing.assert_array_equal(pixels, reference.read(Box(x, y, 1024, 1024), size=Size(256, 256)))


def test_openslide_and_png_encode_everything(tmp_path, picture):
    path = write(tmp_path / "a.tif", picture)
    assert save_tiles(source(path, reader="openslide"), tmp_path / "openslide").n_passthrough == 0
    assert save_tiles(source(path), tmp_path / "png", coding=ImageCoding("png")).n_passthrough == 0
    slide = open_slide(path, reader="direct", channels=["R", "G", "B"], window=(10, 200))
    windowed = SlideTiles(slide, lay_tiles(slide, None, Grid(tile_px=TILE, mpp=None, level=0)))
    assert windowed.compressed(0) is None


def test_a_damaged_tile_is_listed_and_not_copied(tmp_path, picture):
    path = write(tmp_path / "a.tif", picture)
    with tifffile.TiffFile(path) as tiff:
        at, n_bytes = tiff.pages[0].dataoffsets[7], tiff.pages[0].databytecounts[7]
    with path.open("r+b") as file:  # the tile still begins and ends as it should
        file.seek(at + n_bytes // 2)
        file.write(bytes(n_bytes // 4))
    tiles = source(path)
    saved = save_tiles(tiles, tmp_path / "A12")
    assert (saved.n_passthrough, saved.n_unreadable) == (19, 1)
    lost = pd.read_parquet(tmp_path / "A12" / "unreadable.parquet")
    assert lost[["x", "y"]].to_numpy().tolist() == [[TILE, TILE]]
    assert not list((tmp_path / "A12" / "tiles").glob(f"x{TILE}_y{TILE}_*"))


def test_a_missing_tile_is_what_reading_makes_of_it(tmp_path, picture):
    path = write(tmp_path / "a.tif", picture)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tag = tiff.pages.first.tags["TileByteCounts"]
        tag.overwrite([0 if index == 7 else count for index, count in enumerate(tag.value)])
    tiles = source(path)
    assert tiles.compressed(6) is None  # the file has 6 tiles in a row, the grid 5
    saved = save_tiles(tiles, tmp_path / "A12")
    assert saved.n_passthrough == 19
    assert saved.n_unreadable == int((~tiles.read(np.arange(20)).readable).sum())


def test_an_unfinished_folder_is_finished_with_the_same_bytes(tmp_path, picture):
    path = write(tmp_path / "a.tif", picture)
    save_tiles(source(path), tmp_path / "A12")
    before = {file.name: file.read_bytes() for file in (tmp_path / "A12" / "tiles").iterdir()}
    (tmp_path / "A12" / "metadata.parquet").unlink()
    names = sorted(before)
    (tmp_path / "A12" / "tiles" / names[0]).unlink()
    other = save_tiles(source(path), tmp_path / "other", coding=NEVER)
    assert other.n_passthrough == 0
    # a picture that decodes but is not the slide's own: somebody's, and not what was asked for
    (tmp_path / "A12" / "tiles" / names[1]).write_bytes((tmp_path / "other" / "tiles" / names[1]).read_bytes())
    saved = save_tiles(source(path), tmp_path / "A12")
    assert (saved.n_written, saved.n_passthrough) == (2, 20)
    assert {file.name: file.read_bytes() for file in (tmp_path / "A12" / "tiles").iterdir()} == before
    assert save_tiles(source(path), tmp_path / "A12").n_passthrough == 20  # and that is remembered


def test_real_scan_in_rgb_passes_through(shared, tmp_path):
    """Tiles of 240 px whose JPEG holds RGB: without its marker a decoder would take it for YCbCr."""
    path = shared / "data" / "wsi" / "CMU-1-Small-Region.svs"
    saved = save_tiles(source(path, Grid(tile_px=240, mpp=None, level=0)), tmp_path / "A12")
    assert saved.n_passthrough == saved.n_tiles == 9 * 12
    with open_slide(path, reader="openslide") as reference:
        for (x, y), (pixels, _, _) in list(saved_pixels(tmp_path / "A12").items())[::7]:
            np.testing.assert_array_equal(pixels, reference.read(Box(x, y, 240, 240)))
