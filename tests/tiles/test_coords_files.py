"""Coordinates of other programs: found, refused with the row, and read as the tiles that were meant."""

import json
import pickle
import shutil
import unicodedata

import h5py
import numpy as np
import pandas as pd
import pytest

from microtome.errors import NoTilesError, TileError
from microtome.geometry import Box, DeepZoomPyramid
from microtome.slides.open import open_slide
from microtome.tiles.coords_files import find_coords, read_addresses, read_histoprep_coords, read_patch_coords
from microtome.tiles.deepzoom import DeepZoomTiles, lay_deepzoom
from microtome.tiles.grid import Grid, lay_tiles
from microtome.tiles.slide_tiles import SlideTiles
from microtome.tiles.store import write_tiles
from tests.conftest import golden_cases, require_case
from tests.tiles.fakes import noise_slide
from tests.tiles.real import open_by_name

SLIDE = noise_slide(150, 100, downsamples=(4,))  # 3 × 2 tiles of 64 px at the highest of 9 levels
GOOD = np.array([[8, 2, 1], [8, 0, 0], [8, 1, 1]])


def save(folder, array, name="coords.npy"):
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / name, array, allow_pickle=array.dtype.kind == "O")
    return folder / name


def write_patches(path, coords, **attrs):
    """A patch file as CLAM's fast pipeline writes it, text attributes included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        coords = np.asarray(coords)
        dataset = file.create_dataset("coords", data=coords, maxshape=(None, *coords.shape[1:]), chunks=True)
        dataset.attrs.update({"name": path.stem, "save_path": str(path.parent), **attrs})
    return path


class TestAddresses:
    @pytest.mark.parametrize("dtype", ["<i8", ">i4", "uint16", "int8"])
    def test_they_come_as_they_are(self, tmp_path, dtype):
        path = save(tmp_path, np.asfortranarray(GOOD.astype(dtype)))
        found = read_addresses(path, SLIDE, 64)
        assert found.dtype == np.int64
        assert found.tolist() == GOOD.tolist()

    @pytest.mark.parametrize(
        ("array", "match"),
        [
            (GOOD.astype(np.float64), r"float64 \(3, 3\)"),
            (GOOD.astype(bool), "bool"),
            (GOOD[:, :2], r"\(3, 2\)"),
            (GOOD[0], r"\(3,\)"),
            (GOOD.astype(object), "pickled objects"),
            (np.array([[8, 2, 1], [8, -1, 0]]), r"row 1: \[8, -1, 0\] is not on the slide"),
            (np.array([[8, 2, 1], [8, 0, 0], [8, 3, 0], [8, 4, 0]]), r"row 2: \[8, 3, 0\].*3 columns.*2 rows in all"),
            (np.array([[8, 0, 2]]), r"row 0.*2 rows of 64 px"),
            (np.array([[8, 0, 0], [7, 0, 0]]), r"row 1: \[7, 0, 0\] is of another level"),
            (np.array([[9, 0, 0]]), "levels 0 to 8"),
            (np.array([[-1, 0, 0]]), "levels 0 to 8"),
            (np.array([[8, 0, 0], [8, 1, 0], [8, 0, 0]]), r"row 2: \[8, 0, 0\] was there before"),
            (np.array([[2**63 + 5, 0, 0]], np.uint64), "too large"),
        ],
        ids=lambda value: None if isinstance(value, np.ndarray) else value[:12],
    )
    def test_what_is_wrong_is_named(self, tmp_path, array, match):
        with pytest.raises(TileError, match=match):
            read_addresses(save(tmp_path, array), SLIDE, 64)

    def test_no_tile_is_said(self, tmp_path):
        with pytest.raises(NoTilesError, match="hold no tile"):
            read_addresses(save(tmp_path, GOOD[:0]), SLIDE, 64)

    def test_nothing_is_unpickled(self, tmp_path):
        class Trap:
            def __reduce__(self):
                return print, ("sprung",)

        path = save(tmp_path, np.array([[Trap(), 1, 2]], object))
        with pytest.raises(TileError, match="not admitted"):
            read_addresses(path, SLIDE, 64)
        path.write_bytes(pickle.dumps(GOOD))
        with pytest.raises(TileError, match="cannot be read"):
            read_addresses(path, SLIDE, 64)

    @pytest.mark.parametrize("keep", [0, 5, 60, -1])
    def test_truncated_files_are_refused(self, tmp_path, keep):
        path = save(tmp_path, GOOD)
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(TileError, match="cannot be read"):
            read_addresses(path, SLIDE, 64)

    def test_an_archive_under_the_name_is_refused(self, tmp_path):
        np.savez(tmp_path / "a.npz", GOOD)
        shutil.move(tmp_path / "a.npz", tmp_path / "coords.npy")
        with pytest.raises(TileError, match="cannot be read"):
            read_addresses(tmp_path / "coords.npy", SLIDE, 64)


class TestFinding:
    def test_sub_folders_are_kept(self, tmp_path):
        path = save(tmp_path / "coords_64" / "TCGA" / "TCGA_COAD" / "A.svs", GOOD)
        save(tmp_path / "coords_224" / "TCGA" / "TCGA_COAD" / "A.svs", GOOD)
        for root in (tmp_path, path.parents[3], path.parents[2], path.parents[1], path.parent, path):
            file = find_coords(root, tile_px=64).find(["A.svs"])
            assert (file.path, file.kind, file.tile_px) == (path, "deepzoom", 64)
            assert file.folder.as_posix() == "TCGA/TCGA_COAD/A.svs"

    def test_each_kind_is_found_by_the_slide_s_name(self, tmp_path):
        save(tmp_path / "npy" / "A.svs", GOOD)
        (tmp_path / "patches").mkdir()
        (tmp_path / "patches" / "B.h5").write_bytes(b"")
        (tmp_path / "patches" / "C_patches.h5").write_bytes(b"")
        (tmp_path / "D").mkdir()
        (tmp_path / "D" / "metadata.parquet").write_bytes(b"")
        folder = find_coords(tmp_path)
        kinds = {name: folder.find([f"{name}.svs", name]).kind for name in "ABCD"}
        assert kinds == {"A": "deepzoom", "B": "patches", "C": "patches", "D": "histoprep"}

    def test_missing_and_ambiguous_slides_are_said(self, tmp_path):
        save(tmp_path / "a" / "A.svs", GOOD)
        save(tmp_path / "b" / "A.svs", GOOD)
        folder = find_coords(tmp_path)
        with pytest.raises(TileError, match=r"Several.*Name the folder"):
            folder.find(["A.svs", "A"])
        with pytest.raises(NoTilesError, match=r"no coordinates of 'B\.svs'.*B\.h5"):
            folder.find(["B.svs", "B"])
        for empty in (tmp_path / "absent", tmp_path / "a" / "A.svs" / "coords.npz"):
            with pytest.raises(NoTilesError):
                find_coords(empty)
        (tmp_path / "empty").mkdir()
        with pytest.raises(NoTilesError, match="holds no coordinates"):
            find_coords(tmp_path / "empty")

    def test_accents_are_the_same_in_either_spelling(self, tmp_path):
        name = "Prä parat 5.svs"
        save(tmp_path / unicodedata.normalize("NFD", name), GOOD)
        assert find_coords(tmp_path).find([unicodedata.normalize("NFC", name)]).kind == "deepzoom"

    def test_a_circle_of_links_ends(self, tmp_path):
        save(tmp_path / "A.svs", GOOD)
        (tmp_path / "A.svs" / "again").symlink_to(tmp_path)
        assert find_coords(tmp_path).find(["A.svs"]).folder.as_posix() == "A.svs"


class TestPatches:
    def test_patches_are_the_level_s_own_pixels_and_black_outside(self, tmp_path):
        path = write_patches(tmp_path / "A.h5", [[100, 60], [0, 0], [0, 0]], patch_size=16, patch_level=1)
        tiles, fill = read_patch_coords(path, SLIDE)
        assert (tiles.level, tiles.tile_px, fill) == (1, 16, "black")
        assert tiles.mpp == pytest.approx(2.0, rel=0.05)
        assert np.isnan(tiles.coverage).all()
        images = SlideTiles(SLIDE, tiles, "A", fill=fill).read(np.arange(3)).images
        level = SLIDE.read_native(1, Box.of(SLIDE.levels[1].size))
        np.testing.assert_array_equal(images[1], level[:16, :16])
        np.testing.assert_array_equal(images[2], images[1])  # repeated as in the file
        assert not images[0][-1].any()

    def test_trident_says_the_side_on_level_0(self, tmp_path):
        path = write_patches(tmp_path / "A_patches.h5", [[10, 20]], patch_size=20, patch_size_level0=40, overlap=0)
        tiles, _ = read_patch_coords(path, SLIDE)
        assert tiles.boxes.tolist() == [[10, 20, 40, 40]]
        assert (tiles.level, tiles.tile_px, tiles.mpp) == (None, 20, 1.0)

    def test_our_own_tile_files_are_read_whole(self, tmp_path):
        laid = lay_tiles(SLIDE, None, Grid(tile_px=32, mpp=0.8))
        write_tiles(tmp_path / "A.h5", laid, slide_id="A", recipe={})
        tiles, fill = read_patch_coords(tmp_path / "A.h5", SLIDE)
        assert fill == "white"
        np.testing.assert_array_equal(tiles.boxes, laid.boxes)
        assert (tiles.tile_px, tiles.mpp) == (32, laid.mpp)
        other = noise_slide(151, 100)
        with pytest.raises(TileError, match="Are they the slide's own"):
            read_patch_coords(tmp_path / "A.h5", other)
        data = bytearray((tmp_path / "A.h5").read_bytes())
        data[300] ^= 255
        (tmp_path / "A.h5").write_bytes(data)
        with pytest.raises(TileError, match="damaged"):
            read_patch_coords(tmp_path / "A.h5", SLIDE)

    @pytest.mark.parametrize(
        ("coords", "attrs", "match"),
        [
            ([[0.0, 1.0]], {"patch_size": 8, "patch_level": 0}, "float64"),
            ([[0, 1, 2]], {"patch_size": 8, "patch_level": 0}, r"\(1, 3\)"),
            ([[0, 1]], {}, "patch_size"),
            ([[0, 1]], {"patch_size": 8}, "patch_size_level0"),
            ([[0, 1]], {"patch_size": 0, "patch_level": 0}, "patch_size"),
            ([[0, 1]], {"patch_size": 8.5, "patch_level": 0}, "patch_size"),
            ([[0, 1]], {"patch_size": 8, "patch_level": 2}, "no level 2"),
            ([[0, 1]], {"patch_size": 8, "patch_level": 0, "level_dim": [999, 100]}, "999 × 100"),
            ([[0, 0], [150, 0]], {"patch_size": 8, "patch_level": 0}, "row 1: .* wholly outside"),
            ([[0, -8]], {"patch_size": 8, "patch_level": 0}, "row 0: .* wholly outside"),
            (np.zeros((0, 2), int), {"patch_size": 8, "patch_level": 0}, "hold no tile"),
        ],
    )
    def test_what_is_wrong_is_named(self, tmp_path, coords, attrs, match):
        with pytest.raises(TileError, match=match):
            read_patch_coords(write_patches(tmp_path / "A.h5", coords, **attrs), SLIDE)

    def test_files_that_are_none_are_refused(self, tmp_path):
        (tmp_path / "A.h5").write_bytes(b"no HDF5")
        with h5py.File(tmp_path / "B.h5", "w") as file:
            file["features"] = np.zeros((2, 3))
        for name in ("A.h5", "B.h5"):
            with pytest.raises(TileError, match="cannot be read"):
                read_patch_coords(tmp_path / name, SLIDE)

    @pytest.mark.parametrize("case", golden_cases("clam_segmentation"), ids=lambda case: case.name)
    def test_golden_clam_coordinates_give_the_pixels_that_clam_reads(self, case, shared, tmp_path):
        import openslide

        record = json.loads((require_case(case) / "case.json").read_text())
        name, data = record["inputs"]["slide"]["name"], np.load(case / "data.npz")
        coords = data["out_2_coords"]
        path = write_patches(tmp_path / "A.h5", coords, patch_size=256, patch_level=0, level_dim=np.array([2220, 2967]))
        with open_by_name(shared, name) as slide:
            tiles, fill = read_patch_coords(path, slide)
            np.testing.assert_array_equal(tiles.boxes[:, :2], coords)
            rows = np.array([0, 7, int(coords[:, 0].argmax()), int(coords[:, 1].argmax())])
            images = SlideTiles(slide, tiles, fill=fill).read(rows).images
        with openslide.OpenSlide(next((shared / "data" / "wsi").rglob(name))) as reference:
            for row, image in zip(rows, images, strict=True):
                corner = (int(coords[row, 0]), int(coords[row, 1]))
                region = reference.read_region(corner, 0, (256, 256)).convert("RGB")
                np.testing.assert_array_equal(image, np.asarray(region))


def write_histoprep(folder, boxes, *, level=0):
    folder.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(np.asarray(boxes).reshape(-1, 4), columns=list("xywh"))
    table["path"] = "somewhere"
    table.to_parquet(folder / "metadata.parquet")
    if level is not None:
        (folder / "properties.json").write_text(json.dumps({"num_tiles": len(table), "level": level}))
    return folder / "metadata.parquet"


class TestHistoPrep:
    def test_tiles_are_read_from_the_level_that_was_used(self, tmp_path):
        boxes = [[64, 0, 64, 32], [0, 0, 64, 32]]
        for level in (1, -1):
            tiles = read_histoprep_coords(write_histoprep(tmp_path / "A", boxes, level=level), SLIDE)
            assert tiles.boxes.tolist() == boxes
            assert (tiles.tile_size.width, tiles.tile_size.height, tiles.level) == (16, 8, 1)
        image = SlideTiles(SLIDE, tiles).read(np.array([1])).images[0]
        np.testing.assert_array_equal(image, SLIDE.read_native(1, Box(0, 0, 16, 8)))

    @pytest.mark.parametrize(
        ("boxes", "level", "match"),
        [
            ([[0, 0, 64, 64], [64, 0, 64, 32]], 0, "several sizes"),
            ([[0, 0, 0, 0]], 0, "several sizes, or of none"),
            ([[0, 0, 64, 64]], None, "properties.json"),
            ([[0, 0, 64, 64]], 5, "no level 5"),
            ([[0, 0, 64, 64]], "0", "whole number"),
            ([[0, 0, 64, 64], [200, 0, 64, 64]], 0, "row 1"),
            ([], 0, "no tile"),
        ],
    )
    def test_what_is_wrong_is_named(self, tmp_path, boxes, level, match):
        with pytest.raises(TileError, match=match):
            read_histoprep_coords(write_histoprep(tmp_path / "A", boxes, level=level), SLIDE)


def test_released_addresses_of_a_real_slide_are_its_own(shared, tmp_path):
    with open_slide(next((shared / "data" / "wsi").rglob("CMU-1-Small-Region.svs"))) as slide:
        addresses = lay_deepzoom(slide, None, tile_px=224, mpp=1.0)
        path = save(tmp_path, addresses)
        np.testing.assert_array_equal(read_addresses(path, slide, 224), addresses)
        with pytest.raises(TileError, match="not on the slide"):
            read_addresses(path, slide, 448)  # a grid of larger tiles has fewer columns


def tiles_of_generator(path, level, tile_px):
    """What HistoSSL makes of each tile: the generator's image, black at the right and below."""
    import openslide
    from openslide.deepzoom import DeepZoomGenerator

    with openslide.OpenSlide(path) as slide:
        generator = DeepZoomGenerator(slide, tile_size=tile_px, overlap=0)
        columns, rows = generator.level_tiles[level]
        for row in range(rows):
            for column in range(columns):
                tile = np.asarray(generator.get_tile(level, (column, row)))
                image = np.zeros((tile_px, tile_px, 3), np.uint8)
                image[: tile.shape[0], : tile.shape[1]] = tile
                yield (level, column, row), image


def assert_same_tiles(path, tile_px, folder):
    with open_slide(path) as slide:
        top = DeepZoomPyramid(slide.size, tile_px).level_count - 1
        for level in range(top, top - 5, -1):
            addresses, images = zip(*tiles_of_generator(path, level, tile_px), strict=True)
            found = read_addresses(save(folder, np.array(addresses)), slide, tile_px)
            batch = DeepZoomTiles(slide, found, tile_px=tile_px).read(np.arange(len(found)))
            np.testing.assert_array_equal(batch.images, images)


def test_tiles_are_those_of_openslide_s_generator(cohort, tmp_path):
    for name in ("sample-01.svs", "sample-02.tif"):
        assert_same_tiles(cohort / name, 224, tmp_path)


def test_tiles_of_a_real_slide_are_those_of_openslide_s_generator(shared, tmp_path):
    assert_same_tiles(next((shared / "data" / "wsi").rglob("CMU-1-Small-Region.svs")), 224, tmp_path)
