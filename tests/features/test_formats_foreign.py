"""Files as other programs write and read them."""

import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from microtome.errors import ConfigError, CorruptOutputError, DuplicateSlideError, EncoderOutputError
from microtome.features.formats import clam_pt
from microtome.features.formats.histossl import read_features_npy, side_in, write_features_npy
from microtome.features.formats.registry import FORMATS, find_files
from microtome.features.formats.table import ADDRESS, NAME, FeatureTable
from microtome.features.formats.tiles_npy import read_tile_features, write_tile_features

X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
BOXES = np.array([[x, 10, 256, 256] for x in range(0, 5 * 256, 256)])


def table(**parts) -> FeatureTable:
    return FeatureTable("A", X, **{"boxes": BOXES, **parts})


# -- HDF5 -------------------------------------------------------------------------------------------------------


def test_clam_reads_what_is_written(tmp_path):
    attrs = {"patch_size": 224, "slide_size": [9000, 8000], "mpp": 0.5, "encoder": "x", "overlap": 0}
    FORMATS["clam-h5"].write(tmp_path / "A.h5", table(attrs=attrs))
    with h5py.File(tmp_path / "A.h5") as file:
        assert set(file) == {"features", "coords"}
        assert (file["features"].dtype, file["features"].shape) == (np.float32, (5, 3))
        np.testing.assert_array_equal(file["features"][:], X)
        assert file["coords"].dtype == np.int32
        np.testing.assert_array_equal(file["coords"][:], BOXES[:, :2])
        said = {name: value.item() for name, value in file["coords"].attrs.items()}
    assert said == {
        "patch_size": 224, "patch_size_level0": 256, "level0_width": 9000, "level0_height": 8000, "overlap": 0,
        "mpp": 0.5, "encoder": b"x", "name": b"A",
    }  # fmt: skip


def test_a_file_of_clam_itself(tmp_path):
    """Chunks of 32, int32, not an attribute."""
    with h5py.File(tmp_path / "A.h5", "w") as file:
        file.create_dataset("features", data=X, chunks=(1, 3), maxshape=(None, 3))
        file.create_dataset("coords", data=BOXES[:, :2].astype(np.int32), chunks=(1, 2), maxshape=(None, 2))
    found = FORMATS["clam-h5"].read(tmp_path / "A.h5", "A")
    np.testing.assert_array_equal(found.features, X)
    np.testing.assert_array_equal(found.corners, BOXES[:, :2])
    assert (found.boxes, dict(found.attrs), found.notes) == (None, {}, ())


def test_a_file_of_trident_itself(tmp_path):
    with h5py.File(tmp_path / "A.h5", "w") as file:
        file["features"], file["coords"] = X[None], BOXES[None, :, :2]
        file["coords"].attrs.update(
            {"patch_size": 224, "patch_size_level0": 256, "level0_width": 9000, "level0_height": 8000,
             "target_magnification": 20, "overlap": 0, "name": "A", "savetodir": "/x"}
        )  # fmt: skip
    found = FORMATS["clam-h5"].read(tmp_path / "A.h5", "A")
    np.testing.assert_array_equal(found.boxes, BOXES)
    assert found.attrs["slide_size"] == [9000, 8000]
    assert found.attrs["patch_size"] == 224
    assert "mpp" not in found.attrs  # a magnification is no resolution


def test_a_file_of_stamp(tmp_path):
    with h5py.File(tmp_path / "A.h5", "w") as file:
        file["feats"], file["coords"] = X.astype("f2"), BOXES[:, :2] * 0.5
        file.attrs["unit"] = "um"
    found = FORMATS["clam-h5"].read(tmp_path / "A.h5", "A")
    np.testing.assert_array_equal(found.features, X.astype("f2"))
    assert found.corners is None
    assert "µm" in found.notes[0]


def test_a_published_file_without_coordinates(shared):
    kind, files = find_files(shared / "data" / "features" / "mopadi")
    ((slide_id, path),) = files.items()
    found = kind.read(path, slide_id)
    assert (kind.name, found.features.shape, found.corners) == ("clam-h5", (180, 512), None)
    assert found.notes == ("'metadata' was not read", "it has no coordinates")


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"coords": BOXES[:, :2]}, "missing"),
        ({"features": X[:, 0], "coords": BOXES[:, :2]}, "shape"),
        ({"features": X.astype("i4"), "coords": BOXES[:, :2]}, "floating-point"),
        ({"features": X * np.nan, "coords": BOXES[:, :2]}, "NaN"),
        ({"features": X, "coords": BOXES[:4, :2]}, "coords"),
    ],
)
def test_wrong_hdf5_is_refused(tmp_path, parts, reason):
    with h5py.File(tmp_path / "A.h5", "w") as file:
        for name, value in parts.items():
            file[name] = value
    with pytest.raises(CorruptOutputError, match=reason):
        FORMATS["clam-h5"].read(tmp_path / "A.h5", "A")


def test_what_is_not_sealed_is_not_ours(tmp_path):
    FORMATS["clam-h5"].write(tmp_path / "A.h5", table())
    with pytest.raises(ConfigError, match="--from clam-h5"):
        FORMATS["microtome"].read(tmp_path / "A.h5", "A")


def test_changed_features_of_ours_are_noticed(tmp_path):
    path = tmp_path / "A.h5"
    FORMATS["microtome"].write(path, table())
    with h5py.File(path) as file:
        offset = file["features"].id.get_offset()
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CorruptOutputError, match="checksum"):
        FORMATS["microtome"].read(path, "A")


# -- torch ------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n=st.integers(0, 300), d=st.integers(1, 9), dtype=st.sampled_from(["float32", "float16"]))
def test_torch_reads_what_is_written(tmp_path, n, d, dtype):
    features = np.random.default_rng(n).normal(size=(n, d)).astype(dtype)
    clam_pt.write(tmp_path / "A.pt", FeatureTable("A", features))
    tensor = torch.load(tmp_path / "A.pt", weights_only=True)
    assert tensor.dtype == getattr(torch, dtype)
    assert tensor.is_contiguous()
    assert not tensor.requires_grad
    np.testing.assert_array_equal(tensor.numpy(), features)
    assert torch.equal(tensor, torch.load(tmp_path / "A.pt", weights_only=True, mmap=True))


def test_the_pickle_says_what_torch_says(tmp_path):
    torch.save(torch.from_numpy(X), tmp_path / "torch.pt")
    with zipfile.ZipFile(tmp_path / "torch.pt") as archive:
        theirs = archive.read("torch/data.pkl")
    import pickletools

    def meaning(data: bytes) -> list[Any]:
        named = {"BININT", "BININT1", "BININT2", "LONG1"}
        opcodes = [(o.name, a) for o, a, _ in pickletools.genops(data) if not o.name.startswith(("BINPUT", "PROTO"))]
        short = {"TUPLE1", "TUPLE2", "TUPLE3", "TUPLE", "MARK", "EMPTY_TUPLE"}
        return [("int" if name in named else name, a) for name, a in opcodes if name not in short]

    assert meaning(clam_pt.tensor_pickle((5, 3), "FloatStorage")) == meaning(theirs)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).reshape(2, 3),
        torch.arange(6.0).reshape(3, 2).T,
        torch.arange(20.0).reshape(4, 5)[1:3, ::2],
        torch.arange(6.0).double().reshape(2, 3),
        torch.arange(6.0).half().reshape(2, 3),
        torch.tensor([[1.5, -2.25, 3e38]]).bfloat16(),
        torch.nn.Parameter(torch.ones(2, 3)).data,
        torch.nn.Parameter(torch.ones(2, 3)),
        torch.ones(1, 2, 3),
        torch.zeros(0, 3),
        torch.ones(1, 1).expand(4, 3),
    ],
    ids=str,
)
def test_what_torch_writes_is_read(tmp_path, tensor):
    torch.save(tensor, tmp_path / "A.pt")
    found = clam_pt.read(tmp_path / "A.pt", "A").features
    wanted = tensor.detach().reshape(tensor.shape[-2:])
    np.testing.assert_array_equal(found, wanted.float().numpy() if wanted.dtype == torch.bfloat16 else wanted.numpy())


def test_a_dictionary_of_tensors_is_read(tmp_path):
    torch.save(
        {"features": torch.from_numpy(X), "coords": torch.from_numpy(BOXES[:, :2].copy()), "label": 3},
        tmp_path / "A.pt",
    )
    found = clam_pt.read(tmp_path / "A.pt", "A")
    np.testing.assert_array_equal(found.features, X)
    np.testing.assert_array_equal(found.corners, BOXES[:, :2])
    assert found.notes == ("'label' was not read",)


class _Runs:
    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.flag}",)


def test_a_malicious_pt_raises_and_calls_nothing(tmp_path):
    torch.save({"features": torch.from_numpy(X), "x": _Runs(tmp_path / "flag")}, tmp_path / "A.pt")
    with pytest.raises(CorruptOutputError, match="not admitted"):
        clam_pt.read(tmp_path / "A.pt", "A")
    assert not (tmp_path / "flag").exists()


def _archive(path: Path, content: bytes, data: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", content)
        archive.writestr("a/data/0", data)


@pytest.mark.parametrize(("shape", "n_bytes"), [((5, 3), 59), ((5, 3), 64), ((10**9, 3), 60)])
def test_a_pt_that_lies_about_its_size_raises(tmp_path, shape, n_bytes):
    _archive(tmp_path / "A.pt", clam_pt.tensor_pickle(shape, "FloatStorage"), bytes(n_bytes))
    with pytest.raises(CorruptOutputError, match="bytes"):
        clam_pt.read(tmp_path / "A.pt", "A")


def test_a_pt_that_points_beyond_its_values_raises(tmp_path):
    good = clam_pt.tensor_pickle((5, 3), "FloatStorage")
    _archive(tmp_path / "A.pt", good.replace(b"\x8a\x01\x05\x8a\x01\x03t", b"\x8a\x01\x06\x8a\x01\x03t"), bytes(60))
    with pytest.raises(CorruptOutputError, match="larger than its values"):
        clam_pt.read(tmp_path / "A.pt", "A")


@pytest.mark.parametrize(
    ("thing", "reason"),
    [
        (torch.ones(3), "shape"),
        (torch.ones(2, 3, dtype=torch.int64), "no tensor of features"),
        (torch.full((2, 3), torch.nan), "NaN"),
        ([torch.ones(2, 3)], "no tensor"),
        ({"features": torch.ones(2, 3), "coords": torch.ones(3, 2, dtype=torch.int64)}, "coords"),
    ],
    ids=["vector", "whole numbers", "nan", "list", "coords"],
)
def test_a_pt_of_something_else_is_refused(tmp_path, thing, reason):
    torch.save(thing, tmp_path / "A.pt")
    with pytest.raises(CorruptOutputError, match=reason):
        clam_pt.read(tmp_path / "A.pt", "A")


def test_a_pt_of_old_torch_says_what_to_do(tmp_path):
    torch.save(torch.ones(2, 3), tmp_path / "A.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CorruptOutputError, match="weights_only=True"):
        clam_pt.read(tmp_path / "A.pt", "A")


def test_no_format_needs_torch():
    code = (
        "import sys; import microtome.features.formats.registry, microtome.tasks.convert; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# -- HistoSSL ---------------------------------------------------------------------------------------------------

ADDRESSES = np.array([[16, x, 7] for x in range(5)])


def test_histossl_reads_what_is_written(tmp_path):
    write_features_npy(tmp_path / "features.npy", X, ADDRESSES)
    loaded = np.load(tmp_path / "features.npy", allow_pickle=False)
    assert (loaded.dtype, loaded.shape) == (np.float32, (5, 6))
    np.testing.assert_array_equal(loaded[:, 3:], X)
    np.testing.assert_array_equal(loaded[:, :3], ADDRESSES)
    features, addresses = read_features_npy(tmp_path / "features.npy")
    assert isinstance(features.base, np.memmap | np.ndarray)
    np.testing.assert_array_equal(features, X)
    np.testing.assert_array_equal(addresses, ADDRESSES)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (X, "float32 .tiles, 3"),
        (np.ones((5, 6)), "float64"),
        (np.full((5, 6), np.nan, np.float32), "no DeepZoom addresses"),
        (np.full((5, 6), 0.5, np.float32), "no DeepZoom addresses"),
        (np.full((5, 6), -1, np.float32), "no DeepZoom addresses"),
        (np.concatenate([ADDRESSES, X * np.inf], axis=1).astype("f4"), "NaN or infinity"),
        (np.ones(6, np.float32), "float32 .6,."),
    ],
)
def test_other_arrays_are_no_histossl_features(tmp_path, array, reason):
    np.save(tmp_path / "features.npy", array)
    with pytest.raises(CorruptOutputError, match=reason):
        read_features_npy(tmp_path / "features.npy")


@pytest.mark.parametrize(
    ("features", "addresses", "kind"),
    [
        (X, ADDRESSES[:4], ConfigError),
        (X, -ADDRESSES, ConfigError),
        (X, ADDRESSES + 2**24, ConfigError),
        (X.astype("f8"), ADDRESSES, ConfigError),
        (X * np.nan, ADDRESSES, EncoderOutputError),
    ],
)
def test_histossl_writes_only_what_it_can_hold(tmp_path, features, addresses, kind):
    with pytest.raises(kind):
        write_features_npy(tmp_path / "features.npy", features, addresses)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "side"),
    [
        ("features/coords_224/A/features.npy", 224),
        ("features/ibot_256px_0.5/A/features.npy", 256),
        ("features/x/features.npy", None),
        ("coords_4096/coords_224/features.npy", 224),
    ],
)
def test_folders_may_say_the_side_of_a_tile(tmp_path, path, side):
    assert side_in(tmp_path / path) == side


def test_histossl_folders_carry_the_slides_suffix(tmp_path):
    for name in ("TCGA/A.svs", "CAMELYON/B.tif", "C"):
        (tmp_path / name).mkdir(parents=True)
        write_features_npy(tmp_path / name / "features.npy", X, ADDRESSES)
    kind, files = find_files(tmp_path)
    assert (kind.name, list(files)) == ("histossl", ["A", "B", "C"])


def test_two_files_of_one_slide_are_named(tmp_path):
    for name in ("A.svs", "A.tif"):
        write_features_npy(tmp_path / name / "features.npy", X, ADDRESSES)
    with pytest.raises(DuplicateSlideError, match=r"A\.svs.*A\.tif"):
        find_files(tmp_path)


@pytest.mark.parametrize("allow_pickle", [False, True])
def test_the_reference_reads_tile_ids(tmp_path, allow_pickle):
    ids = ["a/b.png", "ü", "", "字" * 30, "last"]
    write_tile_features(tmp_path, X, ids)
    loaded = np.load(tmp_path / "tile_ids.npy", allow_pickle=allow_pickle)
    assert (loaded.shape, loaded.tolist()) == ((5,), ids)
    assert {name: i for i, name in enumerate(loaded)}["ü"] == 1
    np.testing.assert_array_equal(np.load(tmp_path / "tile_features.npy"), X)
    assert read_tile_features(tmp_path)[1] == tuple(ids)


def test_tile_ids_of_the_reference_are_read(tmp_path):
    np.save(tmp_path / "tile_features.npy", X)
    np.save(tmp_path / "tile_ids.npy", np.array(["a", "b", "c", "d", "ü"], object), allow_pickle=True)
    assert read_tile_features(tmp_path)[1] == ("a", "b", "c", "d", "ü")


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        (np.array(["a", "b"], object), "2 ids for 5"),
        (np.array(["a", "b", "c", "d", "a"], object), "'a' comes twice"),
        (np.array(["a", "b", "c", "d", 5], object), "int among"),
        (np.arange(5), "not text"),
        (np.array([["a"] * 5]), "not text"),
    ],
)
def test_wrong_tile_ids_are_refused(tmp_path, ids, reason):
    np.save(tmp_path / "tile_features.npy", X)
    np.save(tmp_path / "tile_ids.npy", ids, allow_pickle=True)
    with pytest.raises(CorruptOutputError, match=reason):
        read_tile_features(tmp_path)


@pytest.mark.parametrize("ids", [["a"] * 5, list("abcd"), ["a", "b", "c", "d", "e\0"]])
def test_ids_that_would_be_lost_are_not_written(tmp_path, ids):
    with pytest.raises(ConfigError):
        write_tile_features(tmp_path, X, ids)
    assert list(tmp_path.iterdir()) == []


def test_malicious_tile_ids_call_nothing(tmp_path):
    np.save(tmp_path / "tile_features.npy", X)
    np.save(tmp_path / "tile_ids.npy", np.array([_Runs(tmp_path / "flag")] * 5, object), allow_pickle=True)
    with pytest.raises(CorruptOutputError, match="not admitted"):
        read_tile_features(tmp_path)
    assert not (tmp_path / "flag").exists()


# -- HistoEncoder -----------------------------------------------------------------------------------------------


def test_histoencoder_reads_what_is_written(tmp_path):
    names = np.array([f"/x/A/tiles/x{x}_y10_w256_h256.jpeg" for x in BOXES[:, 0]], object)
    FORMATS["histoencoder"].write(tmp_path / "A" / "features.parquet", table(columns={NAME: names}))
    frame = pd.read_parquet(tmp_path / "A" / "features.parquet")
    assert list(frame.columns) == ["path", "x", "y", "w", "h", "feat1", "feat2", "feat3"]
    assert {str(frame[name].dtype) for name in "xywh"} == {"int64"}
    assert {str(frame[f"feat{i}"].dtype) for i in (1, 2, 3)} == {"float32"}
    np.testing.assert_array_equal(frame[["feat1", "feat2", "feat3"]], X)
    np.testing.assert_array_equal(frame[list("xywh")], BOXES)


def frame_of(rows: slice, **columns) -> pd.DataFrame:
    feats = {f"feat{i + 1}": X[rows, i] for i in range(3)}
    return pd.DataFrame({**{name: BOXES[rows, i] for i, name in enumerate("xywh")}, **feats, **columns})


def test_tables_in_parts_are_read_in_the_order_of_their_numbers(tmp_path):
    for number in range(1, 6):
        frame_of(slice(number - 1, number)).to_parquet(tmp_path / f"features_{number}.parquet")
    kind, files = find_files(tmp_path)
    ((slide_id, path),) = files.items()
    assert path.name == "features_1.parquet"
    found = kind.read(path, slide_id)
    np.testing.assert_array_equal(found.features, X)
    np.testing.assert_array_equal(found.boxes, BOXES)
    (tmp_path / "features_3.parquet").unlink()
    with pytest.raises(CorruptOutputError, match="one is missing"):
        kind.read(path, slide_id)


def test_bare_features_have_no_place(tmp_path):
    frame_of(slice(None))[["feat1", "feat2", "feat3"]].to_parquet(tmp_path / "features.parquet")
    assert FORMATS["histoencoder"].read(tmp_path / "features.parquet", "A").boxes is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: f.drop(columns="feat2"), "without a gap"),
        (lambda f: f.drop(columns=["feat1", "feat2", "feat3"]), "without a gap"),
        (lambda f: f.drop(columns="w"), "only x, y, h"),
        (lambda f: f.assign(feat2=[1, 2, 3, 4, np.nan]), "empty cells|NaN"),
        (lambda f: f.assign(feat2=list("abcde")), "feat2 holds"),
        (lambda f: f.assign(x=f.x + 0.5), "x holds"),
    ],
)
def test_wrong_tables_are_refused(tmp_path, change, reason):
    change(frame_of(slice(None))).to_parquet(tmp_path / "features.parquet")
    with pytest.raises(CorruptOutputError, match=reason):
        FORMATS["histoencoder"].read(tmp_path / "features.parquet", "A")


def test_other_columns_are_named(tmp_path):
    frame_of(slice(None), label=1).to_parquet(tmp_path / "features.parquet")
    assert FORMATS["histoencoder"].read(tmp_path / "features.parquet", "A").notes == ("column label was not read",)


# -- safetensors, and folders -----------------------------------------------------------------------------------


def test_safetensors_of_another_program(tmp_path):
    save_file({"embeddings": X, "coords": BOXES[:, :2].astype("i4"), "y": np.ones(3)}, tmp_path / "A.safetensors")
    found = FORMATS["safetensors"].read(tmp_path / "A.safetensors", "A")
    np.testing.assert_array_equal(found.features, X)
    np.testing.assert_array_equal(found.corners, BOXES[:, :2])
    assert found.notes == ("'y' was not read",)


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": X, "b": X},
        {"features": X[0]},
        {"features": X * np.nan},
        {"features": X, "coords": BOXES[:4, :2].copy()},
        {"features": X, "boxes": BOXES[:, :3].copy()},
        {"y": np.ones(3)},
    ],
)
def test_wrong_safetensors_are_refused(tmp_path, tensors):
    save_file(tensors, tmp_path / "A.safetensors")
    with pytest.raises((CorruptOutputError, ConfigError)):
        FORMATS["safetensors"].read(tmp_path / "A.safetensors", "A")


def test_safetensors_that_were_changed_are_noticed(tmp_path):
    path = tmp_path / "A.safetensors"
    FORMATS["safetensors"].write(path, table(attrs={"recipe": "{}"}))
    data = bytearray(path.read_bytes())
    data[data.index(X.tobytes())] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CorruptOutputError, match="checksum"):
        FORMATS["safetensors"].read(path, "A")


def test_folders_that_do_not_say_what_they_are(tmp_path):
    with pytest.raises(ConfigError, match="holds no features"):
        find_files(tmp_path)
    with pytest.raises(ConfigError, match="neither"):
        find_files(tmp_path / "no")
    FORMATS["clam-h5"].write(tmp_path / "h5_files" / "A.h5", table())
    clam_pt.write(tmp_path / "pt_files" / "A.pt", table())
    with pytest.raises(ConfigError, match=r"clam-h5 \(1\), clam-pt \(1\).*--from"):
        find_files(tmp_path)
    assert find_files(tmp_path, FORMATS["clam-pt"])[1] == {"A": tmp_path / "pt_files" / "A.pt"}
    with pytest.raises(ConfigError, match="of histossl"):
        find_files(tmp_path, FORMATS["histossl"])
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(ConfigError, match="--from"):
        find_files(tmp_path / "x.bin")


def test_pickles_are_not_features(tmp_path):
    buffer = io.BytesIO()
    pickle.dump({"features": X}, buffer)
    (tmp_path / "A.pt").write_bytes(buffer.getvalue())
    with pytest.raises(CorruptOutputError, match="no archive of torch"):
        clam_pt.read(tmp_path / "A.pt", "A")


def test_an_address_is_kept_beside_the_boxes(tmp_path):
    with_addresses = table(columns={ADDRESS: ADDRESSES})
    FORMATS["microtome"].write(tmp_path / "A.h5", with_addresses)
    np.testing.assert_array_equal(FORMATS["microtome"].read(tmp_path / "A.h5", "A").columns[ADDRESS], ADDRESSES)
