"""Supplied coordinates to features: HistoSSL's layout and ours, isolation, sampling, kills."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from microtome.config import ExtractConfig, RunConfig, resolve
from microtome.encoders.texture import Texture
from microtome.errors import ConfigError, NoTilesError
from microtome.features.plan import sample_rows
from microtome.features.store import FeatureStore
from microtome.slides.open import open_slide
from microtome.storage import QuietProgress
from microtome.tasks.coords import draw_rows
from microtome.tasks.run import run
from microtome.tiles.deepzoom import DeepZoomTiles, lay_deepzoom
from tests.conftest import REPOSITORY, golden_cases, require_case
from tests.features.fakes import Means
from tests.tiles.test_coords_files import write_histoprep, write_patches

NAMES = ("sample-01.svs", "sample-02.tif")
COLLECTION = Path("TCGA") / "TCGA_COAD"


@pytest.fixture
def coords(cohort, tmp_path) -> Path:
    """Folder ``coords_64`` for both slides of the cohort, in an order of its own."""
    root = tmp_path / "preprocessed" / "slides_classification" / "coords" / "coords_64"
    for name in NAMES:
        with open_slide(cohort / name) as slide:
            addresses = lay_deepzoom(slide, None, tile_px=64, mpp=2.0)
        (root / COLLECTION / name).mkdir(parents=True)
        np.save(root / COLLECTION / name / "coords.npy", np.random.default_rng(0).permutation(addresses)[:20])
    return root


def assert_same(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def do(folder, coords, out, /, **values):
    values = {"slides": (str(folder),), "tile_px": 64, "out": out, **values}
    return run(ExtractConfig(coords=coords, quiet=True, **values), progress=QuietProgress())


def features_of(out, name, encoder="texture"):
    return out / "slides_classification" / "features" / encoder / COLLECTION / name / "features.npy"


def contents(out):
    files = [p for p in out.rglob("*") if p.is_file() and p.name not in ("run.json", "slides.csv")]
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in files}


def test_histossl_s_folders_hold_the_supplied_tiles_in_their_order(cohort, coords, tmp_path):
    result = do(cohort, coords, tmp_path / "out", layout="histossl")
    assert result.record.failed == []
    for name in NAMES:
        addresses = np.load(coords / COLLECTION / name / "coords.npy")
        array = np.load(features_of(tmp_path / "out", name))
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array[:, :3], addresses)
        with DeepZoomTiles(open_slide(cohort / name), addresses, tile_px=64) as source:
            assert_same(array[:, 3:], Texture().encode(source.read(np.arange(20)).images))
    assert sorted(contents(tmp_path / "out")) == sorted(
        features_of(Path(), name).with_name(file).as_posix()
        for name in NAMES
        for file in ("features.npy", "extraction_params.json")
    )


def test_our_own_layout_holds_the_same(cohort, coords, tmp_path):
    do(cohort, coords, tmp_path / "a", layout="histossl")
    result = do(cohort, coords, tmp_path / "b")
    assert result.record.failed == []
    store = FeatureStore(tmp_path / "b" / "features" / "texture_64px_coords")
    assert list(store) == ["sample-01", "sample-02"]
    for name in NAMES:
        array = np.load(features_of(tmp_path / "a", name))
        bag = store[Path(name).stem]
        assert_same(bag.features, array[:, 3:])
        np.testing.assert_array_equal(bag.columns["deepzoom_address"], array[:, :3])
        np.testing.assert_array_equal(bag.coords, array[:, 1:3] * 256)  # 64 px at a quarter of the resolution
        assert bag.mpp == 2.0
    assert not (tmp_path / "b" / "tissue").exists()
    assert not (tmp_path / "b" / "tiles").exists()


def test_a_second_run_leaves_what_is_there_and_refuses_other_settings(cohort, coords, tmp_path):
    out = tmp_path / "out"
    do(cohort, coords, out, layout="histossl")
    before = contents(out)
    assert len(do(cohort, coords, out, layout="histossl", batch_size=7, workers=1).record.skipped) == 2
    refused = do(cohort, coords, out, layout="histossl", n_tiles=5)
    assert [f.error for f in refused.record.failed] == ["RecipeMismatchError"] * 2
    assert contents(out) == before
    assert do(cohort, coords, out, layout="histossl", n_tiles=5, overwrite=True).record.failed == []
    assert len(np.load(features_of(out, NAMES[0]))) == 5


def test_other_coordinates_are_another_recipe(cohort, coords, tmp_path):
    do(cohort, coords, tmp_path / "out", layout="histossl")
    path = coords / COLLECTION / NAMES[0] / "coords.npy"
    np.save(path, np.load(path)[::-1])
    (failed,) = do(cohort, coords, tmp_path / "out", layout="histossl").record.failed
    assert failed.slide_id == "sample-01"
    assert "tile_addresses" in failed.reason


def test_a_slide_whose_coordinates_will_not_do_fails_alone(cohort, coords, tmp_path):
    bad, good = (coords / COLLECTION / name / "coords.npy" for name in NAMES)

    def clear():
        bad.unlink()
        shutil.rmtree(coords / "other")

    for spoil, reason in (
        (lambda: np.save(bad, np.load(good).astype(float)), "float64"),
        (lambda: np.save(bad, np.add(np.load(good), [0, 99, 0])), "row 0"),
        (lambda: np.save(bad, np.array([[{}, 1, 2]], object), allow_pickle=True), "pickled objects"),
        (lambda: shutil.copytree(good.parent, coords / "other" / NAMES[0]), "Several"),
        (clear, "holds no coordinates of 'sample-01.svs'"),
    ):
        spoil()
        result = do(cohort, coords, tmp_path / "out", layout="histossl")
        assert [(f.slide_id, f.stage) for f in result.record.failed] == [("sample-01", "coordinates")]
        assert reason in result.record.failed[0].reason
        assert features_of(tmp_path / "out", NAMES[1]).is_file()
        assert not features_of(tmp_path / "out", NAMES[0]).exists()


def test_tiles_of_another_size_than_the_folder_says_are_refused(cohort, coords, tmp_path):
    result = do(cohort, coords, tmp_path / "out", layout="histossl", tile_px=128)
    assert all("is of tiles of 64 px" in f.reason for f in result.record.failed)
    assert len(result.record.failed) == 2
    unsaid = do(cohort, coords, tmp_path / "out", layout="histossl", tile_px=None)  # as the folder says
    assert unsaid.record.failed == []
    assert len(np.load(features_of(tmp_path / "out", NAMES[0]))) == 20


def test_the_folder_above_is_searched_by_the_tiles_size(cohort, coords, tmp_path):
    shutil.copytree(coords, coords.parent / "coords_128")
    assert do(cohort, coords.parent, tmp_path / "out", layout="histossl").record.failed == []


def test_one_file_is_for_one_slide(cohort, coords, tmp_path):
    path = tmp_path / "coords.npy"
    shutil.copy(coords / COLLECTION / NAMES[0] / "coords.npy", path)
    with pytest.raises(ConfigError, match="there are 2"):
        do(cohort, path, tmp_path / "out")
    one = (str(cohort / NAMES[0]),)
    assert do(cohort, path, tmp_path / "out", slides=one, layout="histossl").record.failed == []
    place = tmp_path / "out" / "slides_classification" / "features" / "texture" / NAMES[0] / "features.npy"
    assert len(np.load(place)) == 20


def test_names_of_any_letters(cohort, coords, tmp_path):
    slides = tmp_path / "Objektträger 2"
    slides.mkdir()
    shutil.copy(cohort / NAMES[1], slides / "Prä parat µ.tif")
    shutil.move(coords / COLLECTION / NAMES[1], coords / COLLECTION / "Prä parat µ.tif")
    result = do(cohort, coords, tmp_path / "out", slides=(str(slides),), layout="histossl")
    assert result.record.failed == []
    assert features_of(tmp_path / "out", "Prä parat µ.tif").is_file()


def test_two_slides_of_one_name_do_not_share_coordinates(cohort, coords, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(cohort / NAMES[0], tmp_path / folder / NAMES[0])
    table = tmp_path / "cohort.csv"
    table.write_text(f"slide_id,path\nx,{tmp_path / 'a' / NAMES[0]}\ny,{tmp_path / 'b' / NAMES[0]}\n")
    result = do(cohort, coords, tmp_path / "out", slides=(), cohort=table, layout="histossl")
    assert ["several slides: x, y" in f.reason for f in result.record.failed] == [True, True]


def test_a_folder_without_coordinates_is_refused_at_once(cohort, tmp_path):
    with pytest.raises(NoTilesError, match="holds no coordinates"):
        do(cohort, cohort, tmp_path / "out")


class TestSampling:
    def test_each_slide_by_itself(self, cohort, coords, tmp_path):
        do(cohort, coords, tmp_path / "both", layout="histossl", n_tiles=6, seed=4)
        only = (str(cohort / NAMES[1]),)
        do(cohort, coords, tmp_path / "one", layout="histossl", n_tiles=6, seed=4, slides=only)
        array = np.load(features_of(tmp_path / "both", NAMES[1]))
        assert_same(array, np.load(features_of(tmp_path / "one", NAMES[1])))
        addresses = np.load(coords / COLLECTION / NAMES[1] / "coords.npy")
        np.testing.assert_array_equal(array[:, :3], addresses[sample_rows("sample-02", 20, 6, 4)])

    def test_as_histossl_s_script_draws(self, cohort, coords, tmp_path):
        state = np.random.get_state()  # noqa: NPY002 - the original's own generator is the reference
        try:
            np.random.seed(42)  # noqa: NPY002
            expected = [np.random.permutation(20)[:6] for _ in NAMES]  # noqa: NPY002
        finally:
            np.random.set_state(state)  # noqa: NPY002
        do(cohort, coords, tmp_path / "out", layout="histossl", n_tiles=6, sampling="histossl")
        for name, rows in zip(NAMES, expected, strict=True):
            addresses = np.load(coords / COLLECTION / name / "coords.npy")
            np.testing.assert_array_equal(np.load(features_of(tmp_path / "out", name))[:, :3], addresses[rows])

    def test_the_first_ones(self):
        config = ExtractConfig(coords=Path("c"), sampling="first", n_tiles=3)
        rows = draw_rows(config, {"a": 5, "b": 2})
        assert {name: r.tolist() for name, r in rows.items()} == {"a": [0, 1, 2], "b": [0, 1]}


def test_clam_patches_give_features(cohort, tmp_path):
    for name in NAMES:
        path = tmp_path / "patches" / f"{Path(name).stem}.h5"
        write_patches(path, [[512, 256], [0, 0], [1500, 1500]], patch_size=128, patch_level=0)
    result = do(cohort, tmp_path / "patches", tmp_path / "out", tile_px=None)
    assert result.record.failed == []
    bag = FeatureStore(tmp_path / "out" / "features" / "texture_128px_coords")["sample-01"]
    assert bag.coords.tolist() == [[512, 256], [0, 0], [1500, 1500]]
    assert (bag.attrs["patch_size"], bag.attrs["patch_level"], bag.mpp) == (128, 0, 0.5)
    sized = do(cohort, tmp_path / "patches", tmp_path / "out", tile_px=224)
    assert all("Leave --tile-px out" in f.reason for f in sized.record.failed)
    addressed = do(cohort, tmp_path / "patches", tmp_path / "pre", tile_px=None, layout="histossl")
    assert all("no DeepZoom addresses" in f.reason for f in addressed.record.failed)


def test_slides_with_tiles_of_another_size_fail(cohort, tmp_path):
    for name, size in zip(NAMES, (128, 64), strict=True):
        path = tmp_path / "patches" / f"{Path(name).stem}.h5"
        write_patches(path, [[0, 0]], patch_size=size, patch_level=0)
    (failed,) = do(cohort, tmp_path / "patches", tmp_path / "out", tile_px=None).record.failed
    assert failed.slide_id == "sample-02"
    assert "64 px" in failed.reason


def test_tiles_of_histoprep_are_read_from_the_slide(cohort, tmp_path):
    for name in NAMES:
        write_histoprep(tmp_path / "tiles" / Path(name).stem, [[0, 0, 256, 256], [256, 512, 256, 256]])
    result = do(cohort, tmp_path / "tiles", tmp_path / "out", tile_px=None)
    assert result.record.failed == []
    bag = FeatureStore(tmp_path / "out" / "features" / "texture_256px_coords")["sample-02"]
    assert bag.boxes.tolist() == [[0, 0, 256, 256], [256, 512, 256, 256]]


def test_tiles_of_an_earlier_run_are_coordinates_too(cohort, tmp_path):
    first = ExtractConfig(slides=(str(cohort),), out=tmp_path / "a", quiet=True, tile_px=128, quality_flags=False)
    run(first, progress=QuietProgress())
    do(cohort, tmp_path / "a" / "tiles", tmp_path / "b", tile_px=None)
    laid = FeatureStore(tmp_path / "a" / "features" / "texture_128px_0.5")["sample-01"]
    taken = FeatureStore(tmp_path / "b" / "features" / "texture_128px_coords")["sample-01"]
    assert_same(taken.features, laid.features)


def test_killed_at_each_third_and_run_again_is_as_if_undisturbed(cohort, coords, tmp_path):
    def start(out, last):
        call = [sys.executable, "-m", "tests.tasks.coords_in_process", str(cohort), str(coords), str(out), str(last)]
        return subprocess.run(call, cwd=REPOSITORY, timeout=100, check=False).returncode

    assert start(tmp_path / "whole", 0) == 0
    undisturbed = contents(tmp_path / "whole")
    assert len(undisturbed) == 4
    while (code := start(tmp_path / "killed", 4)) == 9:  # three of ten batches each time
        for path in (tmp_path / "killed").rglob("features.npy"):
            assert path.read_bytes() == undisturbed[path.relative_to(tmp_path / "killed").as_posix()]
    assert code == 0
    assert contents(tmp_path / "killed") == undisturbed


@pytest.mark.parametrize("case", golden_cases("deepzoom"), ids=lambda case: case.name)
def test_golden_tiles_of_the_original_s_coordinates(case, shared, tmp_path, monkeypatch):
    monkeypatch.setattr("microtome.tasks.run.load_encoder", lambda *_, **__: Means())
    tolerance = json.loads((require_case(case) / "case.json").read_text())["tolerance"]
    for table in json.loads((case / "deepzoom.json").read_text()):
        slide = next((shared / "data" / "wsi").rglob(table["slide"]))
        for level in {tile["level"] for tile in table["tiles"]}:
            tiles = [tile for tile in table["tiles"] if tile["level"] == level]
            root = tmp_path / str(level) / f"coords_{table['tile_size']}"
            (root / slide.name).mkdir(parents=True, exist_ok=True)
            np.save(root / slide.name / "coords.npy", [[level, tile["x"], tile["y"]] for tile in tiles])
            values = {"slides": (str(slide),), "tile_px": table["tile_size"], "layout": "histossl"}
            assert do(slide, root, root / "out", **values).record.failed == []
            array = np.load(next((root / "out").rglob("features.npy")))
            full = level == table["level_count"] - 1
            atol = tolerance[f"mean_rgb_atol_{'full_resolution' if full else 'reduced_levels'}"]
            np.testing.assert_allclose(array[:, 3:6], [tile["mean_rgb_padded"] for tile in tiles], atol=atol)


def test_the_tables_tell_of_the_coordinates(cohort, coords, tmp_path):
    do(cohort, coords, tmp_path / "out")
    with (tmp_path / "out" / "slides.csv").open(newline="") as file:
        rows = {row["slide_id"]: row for row in csv.DictReader(file)}
    assert [(row["status"], row["n_tiles"], row["tissue_mm2"]) for row in rows.values()] == [("done", "20", "")] * 2
    assert json.loads((tmp_path / "out" / "run.json").read_text())["config"]["coords"] == str(coords)
    with h5py.File(tmp_path / "out" / "features" / "texture_64px_coords" / "sample-01.h5") as file:
        assert file["columns/deepzoom_address"].shape == (20, 3)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"coords": "c", "tiles": "t"}, "one of them"),
        ({"tiles": "t", "slides": ("a.svs",)}, "without slides"),
        ({"layout": "histossl"}, "needs coords"),
        ({"assume_card_mpp": True, "coords": "c"}, "assume_card_mpp is a setting of tiles"),
        ({"tiles_layout": "nct-crc"}, "tiles_layout is a setting of tiles"),
        ({"sampling": "first"}, "sampling is a setting of coords"),
        ({"coords": "c", "min_tissue": 0.1, "stride_px": 3}, "min_tissue, stride_px decide nothing"),
        ({"coords": "c", "tissue_method": "otsu"}, "tissue_method decide nothing"),
        ({"tiles": "t", "reader": "openslide", "cohort": "c.csv"}, "cohort, reader decide nothing"),
        ({"coords": "c", "sampling": "histossl", "seed": 7}, "seed 42"),
        ({"coords": "c", "layout": "clam"}, "layout"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values, match):
    with pytest.raises(ConfigError, match=match):
        resolve(ExtractConfig, values)


def test_a_saved_configuration_can_be_passed_back():
    config = resolve(ExtractConfig, {"coords": "c", "layout": "histossl", "tile_px": 224, "sampling": "first"})
    assert resolve(ExtractConfig, config.model_dump(mode="json")) == config
    assert "coords" not in RunConfig.model_fields  # a run lays its tiles itself
