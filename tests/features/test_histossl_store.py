"""HistoSSL's files as a store: whole, known by their params, somebody else's refused."""

import json

import numpy as np
import pytest

from microtome.errors import ConfigError, CorruptOutputError, MissingOutputError, RecipeMismatchError
from microtome.features.extract import ExtractOptions, extract
from microtome.features.formats.histossl import read_features_npy
from microtome.features.formats.tiles_npy import read_tile_features
from microtome.features.histossl_store import HistoSSLStore, slide_features_path, tile_features_path
from microtome.features.store import FeatureStore
from microtome.geometry import Box
from microtome.tiles.deepzoom import DeepZoomTiles, lay_deepzoom
from microtome.tiles.tile_set import TileSet
from tests.features.fakes import ArraySource, Means
from tests.tiles.fakes import noise_slide
from tests.tiles.test_tile_set import IMAGES, imagefolder

OPTIONS = ExtractOptions(batch_size=4, workers=2, min_coverage=0.5)


def tiles_of_a_slide(**options):
    slide = noise_slide(150, 100, **options)
    return DeepZoomTiles(slide, lay_deepzoom(slide, None, tile_px=32, level=8)[::-1], tile_px=32, slide_id="A")


@pytest.fixture
def store(tmp_path):
    paths = {"A": slide_features_path(tmp_path, "org/model:v2", tmp_path.relative_to(tmp_path) / "TCGA" / "A.svs")}
    return HistoSSLStore(tmp_path, {**paths, "set": tile_features_path(tmp_path, "means", "set")})


def test_paths_are_histossl_s(tmp_path, store):
    place = "slides_classification/features/org-model-v2/TCGA/A.svs/features.npy"
    assert store.path("A") == tmp_path / place
    assert store.path("set") == tmp_path / "tiles_classification/features/means/set/tile_features.npy"
    with pytest.raises(ConfigError, match="without a place"):
        store.path("B")


def test_a_slide_s_features_are_level_column_row_then_features(tmp_path, store):
    source = tiles_of_a_slide()
    usual = FeatureStore(tmp_path / "usual")
    extract(source, Means(), usual, OPTIONS)
    extract(source, Means(), store, OPTIONS)
    array = np.load(store.path("A"))
    assert (array.dtype, array.shape) == (np.float32, (20, 9))
    np.testing.assert_array_equal(array[:, :3], source.addresses)
    np.testing.assert_array_equal(array[:, 3:], usual["A"].features)
    np.testing.assert_array_equal(usual["A"].columns["deepzoom_address"], source.addresses)
    features, addresses = read_features_npy(store.path("A"))
    np.testing.assert_array_equal(features, store["A"].features)
    np.testing.assert_array_equal(addresses, source.addresses)
    assert store["A"].attrs["recipe"] == usual["A"].attrs["recipe"]
    assert sorted(p.name for p in store.path("A").parent.iterdir()) == ["extraction_params.json", "features.npy"]
    store.check("A")


def test_unreadable_tiles_have_no_row_and_are_named(store):
    source = tiles_of_a_slide(broken=(Box(0, 0, 2, 2), Box(140, 97, 2, 2)))
    assert extract(source, Means(), store, OPTIONS).n_unreadable == 2
    array = np.load(store.path("A"))
    assert array[:, :3].tolist() == source.addresses[1:-1].tolist()
    params = json.loads((store.path("A").parent / "extraction_params.json").read_text())
    assert [tile["tile"] for tile in params["unreadable"]] == [[8, 4, 3], [8, 0, 0]]
    assert "cannot be decoded" in params["unreadable"][0]["error"]
    assert store["A"].n_unreadable == 2


def test_drawn_tiles_keep_their_addresses(store):
    source = tiles_of_a_slide()
    extract(source, Means(), store, ExtractOptions(batch_size=4, n_tiles=5, seed=3))
    array = np.load(store.path("A"))
    rows = [source.addresses.tolist().index(address) for address in array[:, :3].astype(int).tolist()]
    assert rows == sorted(rows)
    np.testing.assert_array_equal(array[:, 3:], Means().encode(source.read(np.array(rows)).images))


def test_a_set_of_tiles_has_its_names(tmp_path, store):
    root = imagefolder(tmp_path / "images" / "set")
    (root / "b" / "10.png").write_bytes(b"torn")
    extract(TileSet(root, slide_id="set"), Means(), store, OPTIONS)
    folder = store.path("set").parent
    features, names = read_tile_features(folder)
    assert names == ("a/2.png", "a/x/1.png", "b/9.png")
    np.testing.assert_array_equal(features, Means().encode(IMAGES[[3, 2, 1]]))
    assert np.load(folder / "tile_ids.npy").dtype.kind == "U"  # read without allow_pickle
    params = json.loads((folder / "rlbenchmarks_extraction_params.json").read_text())
    assert params["unreadable"][0]["tile"] == "b/10.png"
    assert store["set"].columns["name"].tolist() == list(names)


def test_what_is_there_is_left_or_refused(store):
    source = tiles_of_a_slide()
    extract(source, Means(), store, OPTIONS)
    before = store.path("A").stat().st_mtime_ns
    assert extract(source, Means(), store, OPTIONS).status == "skipped"
    assert store.path("A").stat().st_mtime_ns == before
    with pytest.raises(RecipeMismatchError, match="card_name"):
        extract(source, Means(name="other"), store, OPTIONS)
    other = ExtractOptions(batch_size=4, overwrite=True)
    assert extract(source, Means(name="other"), store, other).status == "done"
    assert store["A"].attrs["encoder"] == "other"


def test_a_file_of_the_original_is_refused(store):
    store.path("A").parent.mkdir(parents=True)
    np.save(store.path("A"), np.zeros((20, 9), np.float32))
    (store.path("A").parent / "extraction_params.json").write_text('{"feature_extractor": "iBOTViTBasePANCAN"}')
    with pytest.raises(RecipeMismatchError, match="not made by microtome"):
        extract(tiles_of_a_slide(), Means(), store, OPTIONS)


@pytest.mark.parametrize("damage", ["cut", "shorter", "another array", "params", "params cut", "recipe"])
def test_damage_is_noticed(store, damage):
    extract(tiles_of_a_slide(), Means(), store, OPTIONS)
    path = store.path("A")
    params = path.parent / "extraction_params.json"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "shorter":
        np.save(path, np.load(path)[:-1])
    elif damage == "another array":
        np.save(path, np.load(path).astype(np.float64))
    elif damage == "params":
        params.write_text(params.read_text().replace('"rows": 20', '"rows": 21'))
    elif damage == "params cut":
        params.write_text(params.read_text()[:-20])
    else:
        params.write_text(params.read_text().replace('"recipe": "{', '"recipe": "{\\"a\\": 1,'))
    with pytest.raises(CorruptOutputError, match="overwrite"):
        extract(tiles_of_a_slide(), Means(), store, OPTIONS)
    again = ExtractOptions(batch_size=4, overwrite=True)
    assert extract(tiles_of_a_slide(), Means(), store, again).status == "done"
    store.check("A")


def test_a_changed_number_is_found_by_check(store):
    extract(tiles_of_a_slide(), Means(), store, OPTIONS)
    data = bytearray(store.path("A").read_bytes())
    data[-2] ^= 1
    store.path("A").write_bytes(data)
    with pytest.raises(CorruptOutputError, match="not what was written"):
        store.check("A")


def test_names_of_another_length_are_noticed(tmp_path, store):
    extract(TileSet(imagefolder(tmp_path / "images" / "set"), slide_id="set"), Means(), store, OPTIONS)
    np.save(store.path("set").with_name("tile_ids.npy"), np.array(["a"]))
    with pytest.raises(CorruptOutputError, match="another length"):
        _ = store["set"]


def test_tiles_without_address_are_refused(store):
    with pytest.raises(ConfigError, match="deepzoom_address"):
        extract(ArraySource("A"), Means(), store, OPTIONS)
    with pytest.raises(ConfigError, match="float32"):
        extract(tiles_of_a_slide(), Means(), store, ExtractOptions(dtype="float16"))
    with pytest.raises(ConfigError, match="convert"):
        store.write("A", np.zeros((1, 2), np.float32), np.zeros((1, 4), np.int64), recipe={})


def test_an_empty_store_says_so(store):
    assert list(store) == []
    assert "A" not in store
    with pytest.raises(MissingOutputError, match="no features"):
        _ = store["A"]
    extract(tiles_of_a_slide(), Means(), store, OPTIONS)
    assert list(store) == ["A"]


def test_killed_between_params_and_features_nothing_stands_half(store, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    source = tiles_of_a_slide()
    with monkeypatch.context() as patch:
        patch.setattr("microtome.features.histossl_store.write_json", fail)
        with pytest.raises(OSError, match="No space"):
            extract(source, Means(), store, OPTIONS)
    assert "A" not in store
    encoder = Means()
    assert extract(source, encoder, store, OPTIONS).status == "done"
    assert encoder.shapes == []  # all batches were kept
    assert sorted(p.name for p in store.path("A").parent.iterdir()) == ["extraction_params.json", "features.npy"]
