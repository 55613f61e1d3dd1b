"""The store, its file as other programs read it, and files that are wrong."""

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from microtome.errors import CorruptOutputError, MissingOutputError, OutputError, OutputWriteError
from microtome.features.extract import ExtractOptions, extract
from microtome.features.store import Bag, FeatureStore, features_folder_name
from microtome.testing.store_contract import RECIPE, StoreContract, example_boxes, example_features
from tests.features.fakes import ArraySource, Means


class TestFeatureStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> FeatureStore:
        return FeatureStore(tmp_path / "features" / "means_8px_0.5")


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(0, 40),
    dim=st.integers(1, 9),
    dtype=st.sampled_from(["float32", "float16"]),
    seed=st.integers(0, 2**32 - 1),
    name=st.text("abcÄ字 .-_()1", min_size=1, max_size=20).filter(
        lambda s: not s.startswith(".") and s == s.rstrip(". ")
    ),
)
def test_round_trip_of_any_features(tmp_path: Path, n: int, dim: int, dtype: str, seed: int, name: str) -> None:
    store = FeatureStore(tmp_path)
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, dim)).astype(dtype)
    boxes = rng.integers(-(2**40), 2**40, (n, 4))
    boxes[:, 2:] = rng.integers(1, 2**40, (n, 2))
    store.write(name, features, boxes, recipe={"seed": seed})
    bag = store[name]
    assert bag.features.tobytes() == features.tobytes()
    np.testing.assert_array_equal(bag.boxes, boxes)
    assert name in list(store)


def test_features_are_memory_mapped(store: FeatureStore) -> None:
    store.write("A", example_features(10), example_boxes(10), recipe=RECIPE)
    assert isinstance(store["A"].features, np.memmap)


def test_an_absent_folder_holds_nothing(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "no")
    assert list(store) == []
    assert len(store) == 0
    assert "A" not in store
    assert not store.folder.exists()


def test_hidden_and_other_files_are_no_slides(store: FeatureStore) -> None:
    store.write("A", example_features(2), example_boxes(2), recipe=RECIPE)
    for name in (".B.h5.1-12345678.tmp", ".C.h5", "D.txt", "E.h5.claim", ".F.h5.partial"):
        (store.folder / name).write_bytes(b"x")
    (store.folder / "G.h5").mkdir()
    assert list(store) == ["A"]


# -- as other programs read it --------------------------------------------------------------------------------


def test_readers_of_clam_and_trident_take_the_file_as_it_is(store: FeatureStore) -> None:
    source = ArraySource("A", 9)
    extract(source, Means(), store, ExtractOptions(batch_size=4))
    with h5py.File(store.path("A"), "r") as file:
        features, coords = file["features"][:], file["coords"][:]
        attributes = dict(file["coords"].attrs)
        assert file["features"].chunks is None
        assert file["features"].compression is None
        assert file["features"].id.get_offset() is not None
    assert features.dtype == np.float32
    assert features.shape == (9, 6)
    assert coords.dtype == np.int64
    np.testing.assert_array_equal(coords, source.boxes[:, :2])
    assert attributes["patch_size"] == 8
    assert attributes["patch_size_level0"] == 16
    assert attributes["name"] == "A"
    assert "patch_level" not in attributes  # 8 px of no level: a reader that believed in one would draw wrong tiles
    assert not any("magnification" in name for name in attributes)


def test_attributes_say_what_decided_the_file(store: FeatureStore) -> None:
    extract(ArraySource("A", 9), Means(), store, ExtractOptions(n_tiles=4, seed=7))
    attrs = store["A"].attrs
    assert attrs["encoder"] == "means"
    assert (attrs["mpp"], attrs["slide_mpp"], attrs["slide_mpp_source"]) == (0.5, 0.25, "metadata")
    assert attrs["slide_size"] == [1000, 2000]
    assert (attrs["n_tiles_total"], attrs["sample_n_tiles"], attrs["sample_seed"]) == (9, 4, 7)
    assert attrs["recipe_digest"]
    assert attrs["microtome_version"]
    assert '"card_name":"means"' in attrs["recipe"]


@pytest.mark.parametrize(
    "layout",
    [{"chunks": (32, 6), "maxshape": (None, 6)}, {"chunks": (8, 6), "compression": "gzip"}, {}],
    ids=["clam", "gzip", "contiguous"],
)
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
def test_files_of_other_programs_are_read(store: FeatureStore, layout: dict[str, Any], dtype: str) -> None:
    features = example_features(40, 6).astype(dtype)
    with h5py.File(store.path("A"), "w") as file:
        file.create_dataset("features", data=features, **layout)
        file.create_dataset("coords", data=np.arange(80, dtype=np.int32).reshape(40, 2))
    bag = store["A"]
    np.testing.assert_array_equal(bag.features, features)
    assert bag.features.dtype.isnative
    assert bag.coords.dtype == np.int64
    assert bag.attrs == {}
    assert store.recipe_text("A") is None
    assert bag.mpp is None
    assert bag.encoder is None
    with pytest.raises(OutputError, match="how large a tile is"):
        _ = bag.boxes
    store.check("A")


def test_tile_size_of_other_programs_files(store: FeatureStore) -> None:
    attributes: dict[str, dict[str, int]] = {
        "T": {"patch_size_level0": 512, "patch_size": 256},
        "C": {"patch_size": 512, "patch_level": 0},
    }
    for slide_id, attrs in attributes.items():
        with h5py.File(store.path(slide_id), "w") as file:
            file["features"], file["coords"] = example_features(2)[None], np.array([[[0, 0], [512, 0]]])
            file["coords"].attrs.update(attrs)
        np.testing.assert_array_equal(store[slide_id].boxes, [[0, 0, 512, 512], [512, 0, 512, 512]])


def test_a_published_feature_file_without_coordinates_is_refused_by_name(shared: Path) -> None:
    store = FeatureStore(shared / "data" / "features" / "mopadi")
    (slide_id,) = store
    with pytest.raises(CorruptOutputError, match="coords"):
        _ = store[slide_id]


# -- files that are wrong -------------------------------------------------------------------------------------


def _write_raw(path: Path, **parts: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        for name, value in parts.items():
            file[name] = value


_COORDS = np.zeros((3, 2), np.int64)
_BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no features": ({"coords": _COORDS}, "missing"),
    "no coords": ({"features": np.zeros((3, 4), "f4")}, "missing"),
    "one dimension": ({"features": np.zeros(3, "f4"), "coords": _COORDS}, "shape"),
    "three dimensions": ({"features": np.zeros((2, 3, 4), "f4"), "coords": _COORDS}, "shape"),
    "no length": ({"features": np.zeros((3, 0), "f4"), "coords": _COORDS}, "shape"),
    "scalar": ({"features": np.float32(3), "coords": _COORDS}, "shape"),
    "integers": ({"features": np.zeros((3, 4), "i4"), "coords": _COORDS}, "floating-point"),
    "other number of coords": ({"features": np.zeros((4, 4), "f4"), "coords": _COORDS}, "coords"),
    "float coords": ({"features": np.zeros((3, 4), "f4"), "coords": _COORDS.astype("f8")}, "whole numbers"),
    "NaN": ({"features": np.full((3, 4), np.nan, "f4"), "coords": _COORDS}, "NaN"),
    "infinity": ({"features": np.full((3, 4), np.inf, "f2"), "coords": _COORDS}, "infinity"),
    "text": ({"features": np.array([b"a", b"b", b"c"]), "coords": _COORDS}, "shape|floating"),
}


@pytest.mark.parametrize("case", _BAD)
def test_wrong_files_are_refused_with_the_reason(store: FeatureStore, case: str) -> None:
    parts, reason = _BAD[case]
    _write_raw(store.path("A"), **parts)
    with pytest.raises(CorruptOutputError, match=reason) as caught:
        _ = store["A"]
    assert str(store.path("A")) in str(caught.value)
    assert "--overwrite" in str(caught.value)


def test_features_that_are_a_group_are_refused(store: FeatureStore) -> None:
    with h5py.File(store.path("A"), "w") as file:
        file.create_group("features")
        file["coords"] = _COORDS
    with pytest.raises(CorruptOutputError, match="group"):
        _ = store["A"]


def test_every_truncation_is_noticed(store: FeatureStore) -> None:
    store.write("A", example_features(50), example_boxes(50), recipe=RECIPE)
    path = store.path("A")
    whole = path.read_bytes()
    for share in (0, 0.01, 0.1, 0.5, 0.9, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(CorruptOutputError):
            _ = store["A"]
    path.write_bytes(whole[:-1])
    with pytest.raises(CorruptOutputError):
        _ = store["A"]


def test_bytes_that_are_no_hdf5_are_refused(store: FeatureStore) -> None:
    store.path("A").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CorruptOutputError, match="no HDF5"):
        _ = store["A"]


def test_changed_features_fail_the_check(store: FeatureStore) -> None:
    path = store.write("A", example_features(50), example_boxes(50), recipe=RECIPE)
    store.check("A")
    with h5py.File(path, "r") as file:
        offset = file["features"].id.get_offset()
    data = bytearray(path.read_bytes())
    data[offset + 100] ^= 1
    path.write_bytes(bytes(data))
    assert store["A"].features.shape == (50, 4)  # too large to be read whenever a file is opened
    with pytest.raises(CorruptOutputError, match="checksum"):
        store.check("A")


def test_a_file_that_was_changed_with_another_program_is_refused(store: FeatureStore) -> None:
    path = store.write("A", example_features(5), example_boxes(5), recipe=RECIPE)
    with h5py.File(path, "r+") as file:
        file.attrs["mpp"] = 9.0
    with pytest.raises(CorruptOutputError, match="changed after it was written"):
        _ = store["A"]


def test_text_of_other_programs_is_not_followed(store: FeatureStore) -> None:
    with h5py.File(store.path("A"), "w") as file:
        file["features"], file["coords"] = example_features(3), _COORDS
        file["coords"].attrs.update({"name": "variable", "fixed": np.bytes_(b"x"), "patch_size_level0": 9})
    assert store["A"].attrs == {"fixed": "x", "patch_size_level0": 9}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), n_bytes=st.integers(1, 6))
def test_damaged_bytes_never_break_more_than_our_own_error(tmp_path: Path, seed: int, n_bytes: int) -> None:
    store = FeatureStore(tmp_path)
    path = store.write("A", example_features(8), example_boxes(8), recipe=RECIPE)
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for where in rng.integers(0, len(data), n_bytes):
        data[where] = rng.integers(0, 256)
    path.write_bytes(bytes(data))
    with contextlib.suppress(CorruptOutputError):
        store.check("A")


def test_a_missing_slide_reads_as_a_sentence(store: FeatureStore) -> None:
    with pytest.raises(MissingOutputError) as caught:
        store.check("A")
    assert str(caught.value).startswith("There are no features at '")


# -- writing that fails ---------------------------------------------------------------------------------------


def test_a_read_only_place_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    store = FeatureStore(tmp_path / "file" / "features")
    with pytest.raises(OutputWriteError, match="cannot be written"):
        store.write("A", example_features(1), example_boxes(1), recipe=RECIPE)


_FILL = """
import resource, sys
import numpy as np
from microtome.errors import OutputWriteError
from microtome.features.store import FeatureStore
store = FeatureStore(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
boxes = np.ones((1000, 4), np.int64)
try:
    store.write("A", np.ones((1000, 100), np.float32), boxes, recipe={})
except OutputWriteError as error:
    print("explained:", error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
@pytest.mark.parametrize("limit", [1, 3000, 200_000, 401_000])
def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, limit: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FILL, str(tmp_path), str(limit)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("explained:"), done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


# -- names and imports ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("texture", 224, 0.5), "texture_224px_0.5"),
        (("hf-hub:org/model", 256, 1.0), "hf-hub-org-model_256px_1"),
        (("texture", 512, 0.2525), "texture_512px_0.2525"),
        (("texture", 512, None), "texture_512px_lvl0"),
    ],
)
def test_folder_names(arguments: tuple[Any, ...], name: str) -> None:
    assert features_folder_name(*arguments) == name


def test_the_store_needs_neither_torch_nor_the_loop() -> None:
    code = (
        "import sys; from microtome.features.store import FeatureStore; "
        "bad = {'torch', 'microtome.features.pipeline', 'microtome.encoders.base', 'microtome.slides.base', 'cv2',"
        " 'rich', 'pandas'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_loop_needs_no_torch() -> None:
    code = (
        "import sys; import microtome.features.extract; "
        "bad = {'torch', 'timm', 'umap', 'sklearn'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_bag_says_what_it_is() -> None:
    nothing = np.zeros((0, 4), np.int64)
    bag = Bag("A", example_features(3), np.zeros((3, 2), np.int64), example_boxes(3), nothing, {})
    assert repr(bag) == "<Bag 'A' 3×4 float32>"
