"""`microtome convert` over folders: what is said, what is skipped, what is refused, and killed in the middle."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

import microtome
from microtome.cli import main
from microtome.config import ConvertConfig, resolve
from microtome.errors import ConfigError, DuplicateSlideError, OutputWriteError
from microtome.features.formats import clam_pt
from microtome.features.formats.histossl import write_features_npy
from microtome.features.formats.registry import FORMATS, find_files
from microtome.features.formats.table import ADDRESS, FeatureTable, same_content, table_of
from microtome.features.store import FeatureStore
from microtome.storage import Claim, hash_file
from microtome.tasks.cluster import assign_clusters
from microtome.tasks.convert import Conversion, convert
from microtome.tiles.grid import Grid, lay_tiles
from microtome.tiles.store import write_tiles
from tests.conftest import REPOSITORY

X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
BOXES = np.array([[x, 448, 448, 448] for x in range(0, 4 * 448, 448)])
ATTRS: dict[str, Any] = {
    "mpp": 0.5,
    "slide_mpp": 0.25,
    "encoder": "means",
    "patch_size": 224,
    "slide_size": [9000, 9000],
}


@pytest.fixture
def store(tmp_path) -> FeatureStore:
    store = FeatureStore(tmp_path / "features")
    for index, name in enumerate(["A", "B (2)", "Ü字"]):
        store.write(name, X + index, BOXES, recipe={"tile_px": 224, "n": index}, attrs=ATTRS)
    return store


def run(source: Path, out: Path, to: str = "microtome", **settings) -> Conversion:
    return convert(resolve(ConvertConfig, {"source": source, "out": out, "to": to, "quiet": True, **settings}))


def statuses(result: Conversion) -> dict[str, str]:
    return {slide.slide_id: slide.status for slide in result.slides}


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "convert.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("to", FORMATS)
def test_a_folder_goes_there_and_back(tmp_path, store, to):
    there = run(store.folder, tmp_path / "there", to)
    assert statuses(there) == dict.fromkeys(["A", "B (2)", "Ü字"], "done")
    back = run(tmp_path / "there", tmp_path / "back")
    assert statuses(back) == statuses(there)
    for slide_id in store:
        bag = FeatureStore(tmp_path / "back")[slide_id]
        np.testing.assert_array_equal(bag.features, store[slide_id].features)
        if bag.has_boxes:
            np.testing.assert_array_equal(bag.boxes, store[slide_id].boxes)
        if not there.losses:
            assert same_content(table_of(bag), table_of(store[slide_id]))


def test_losses_are_counted_and_recorded(tmp_path, store):
    result = run(store.folder, tmp_path / "out", "clam-pt", dtype="float16")
    assert result.losses["coordinates"] == 3
    assert result.losses["precision of features (float32 to float16)"] == 3
    record = json.loads((tmp_path / "out" / "convert.json").read_text())
    assert record["losses"] == dict(result.losses)
    assert [slide["slide_id"] for slide in record["slides"]] == list(store)
    assert record["config"]["to"] == "clam-pt"


def test_what_is_imported_says_from_what(tmp_path, store):
    run(store.folder, tmp_path / "pt", "clam-pt")
    run(tmp_path / "pt", tmp_path / "back")
    recipe = json.loads(FeatureStore(tmp_path / "back").recipe_text("A") or "")
    assert recipe["imported_from"] == "clam-pt"
    assert recipe["source_sha256"] == [hash_file(tmp_path / "pt" / "pt_files" / "A.pt")]
    bag = FeatureStore(tmp_path / "back")["A"]
    assert (bag.mpp, bag.encoder, bag.has_coords) == (None, None, False)


def test_rounding_is_another_recipe(tmp_path, store):
    run(store.folder, tmp_path / "half", dtype="float16")
    half = FeatureStore(tmp_path / "half")
    assert half["A"].features.dtype == np.float16
    assert half.recipe_text("A") != store.recipe_text("A")
    assert json.loads(half.recipe_text("A") or "")["source_recipe"] == store.recipe_text("A")
    np.testing.assert_array_equal(half["A"].features, X.astype("f2"))
    assert half["A"].mpp == 0.5


def test_values_that_do_not_fit_are_refused(tmp_path):
    FeatureStore(tmp_path / "f").write("A", X * 1e5, BOXES, recipe={})
    result = run(tmp_path / "f", tmp_path / "out", "clam-pt", dtype="float16")
    assert "do not fit float16" in (result.failed[0].error or "")
    assert contents(tmp_path / "out") == {}


# -- again, and again with something else -----------------------------------------------------------------------


@pytest.mark.parametrize("to", FORMATS)
def test_a_second_call_has_nothing_to_do(tmp_path, store, to):
    run(store.folder, tmp_path / "out", to)
    before = contents(tmp_path / "out")
    dates = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.*") if path.name != "convert.json"}
    assert set(statuses(run(store.folder, tmp_path / "out", to)).values()) == {"skipped"}
    assert contents(tmp_path / "out") == before
    assert {path: path.stat().st_mtime_ns for path in dates} == dates


@pytest.mark.parametrize("source", [name for name in FORMATS if name != "microtome"])
def test_a_second_import_has_nothing_to_do(tmp_path, store, source):
    run(store.folder, tmp_path / "foreign", source)
    run(tmp_path / "foreign", tmp_path / "out")
    assert set(statuses(run(tmp_path / "foreign", tmp_path / "out")).values()) == {"skipped"}


@pytest.mark.parametrize("to", FORMATS)
def test_other_content_is_refused_and_overwritten_only_if_asked(tmp_path, store, to):
    run(store.folder, tmp_path / "out", to)
    before = contents(tmp_path / "out")
    store.write("A", X + 9, BOXES, recipe={"tile_px": 224}, attrs=ATTRS)
    refused = run(store.folder, tmp_path / "out", to)
    assert statuses(refused) == {"A": "failed", "B (2)": "skipped", "Ü字": "skipped"}
    assert "--overwrite" in (refused.failed[0].error or "")
    assert contents(tmp_path / "out") == before
    assert statuses(run(store.folder, tmp_path / "out", to, overwrite=True))["A"] == "done"
    assert contents(tmp_path / "out") != before


def test_a_damaged_output_is_refused_and_mended_only_if_asked(tmp_path, store):
    run(store.folder, tmp_path / "out", "safetensors")
    path = tmp_path / "out" / "A.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    assert "cannot be read" in (run(store.folder, tmp_path / "out", "safetensors").failed[0].error or "")
    assert run(store.folder, tmp_path / "out", "safetensors", overwrite=True).failed == []
    assert path.read_bytes() == whole


def test_a_file_is_not_written_over_itself(tmp_path, store):
    before = contents(store.folder)
    assert len(run(store.folder, store.folder).failed) == 3
    assert contents(store.folder) == before


def test_what_another_process_makes_is_left_to_it(tmp_path, store):
    with Claim(tmp_path / "out" / "A.safetensors"):
        result = run(store.folder, tmp_path / "out", "safetensors")
    assert statuses(result) == {"A": "claimed", "B (2)": "done", "Ü字": "done"}
    assert result.failed == []


# -- bad input --------------------------------------------------------------------------------------------------


def test_one_bad_file_does_not_take_the_others_with_it(tmp_path, store):
    whole = store.path("A").read_bytes()
    store.path("A").write_bytes(whole[: len(whole) // 2])
    (store.folder / "C.h5").write_bytes(b"")
    result = run(store.folder, tmp_path / "out", "clam-pt", from_="microtome")
    assert statuses(result) == {"A": "failed", "B (2)": "done", "C": "failed", "Ü字": "done"}
    assert sorted(p.name for p in (tmp_path / "out" / "pt_files").iterdir()) == ["B (2).pt", "Ü字.pt"]


def test_a_name_that_cannot_be_one_fails_alone(tmp_path, store):
    run(store.folder, tmp_path / "pt", "clam-pt")
    (tmp_path / "pt" / "pt_files" / "A.pt").rename(tmp_path / "pt" / "pt_files" / "a:b.pt")
    result = run(tmp_path / "pt", tmp_path / "out")
    assert statuses(result) == {"B (2)": "done", "a:b": "failed", "Ü字": "done"}


def test_two_files_of_one_slide_stop_everything(tmp_path, store):
    run(store.folder, tmp_path / "out" / "1", "clam-pt")
    run(store.folder, tmp_path / "out" / "2", "clam-pt")
    with pytest.raises(DuplicateSlideError, match=r"A\.pt"):
        run(tmp_path / "out", tmp_path / "x")


def test_a_place_that_cannot_be_written_stops_everything(tmp_path, store):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputWriteError):
        run(store.folder, tmp_path / "file" / "out", "clam-pt")


def test_settings_that_decide_nothing_are_refused(tmp_path, store):
    assert "224 px" in (run(store.folder, tmp_path / "x", "histossl", tile_px=256).failed[0].error or "")
    assert "no DeepZoom addresses" in (
        run(store.folder, tmp_path / "out", "clam-pt", tile_px=224).failed[0].error or ""
    )
    with pytest.raises(ConfigError, match="to"):
        run(store.folder, tmp_path / "out", "clam")


# -- places and slides ------------------------------------------------------------------------------------------


@pytest.fixture
def patches(tmp_path) -> Path:
    """As CLAM writes them."""
    (tmp_path / "patches").mkdir()
    for name in ("A", "B (2)", "Ü字"):
        with h5py.File(tmp_path / "patches" / f"{name}.h5", "w") as file:
            file["coords"] = BOXES[:, :2].astype(np.int32)
            file["coords"].attrs.update({"patch_size": 224, "patch_level": 1, "downsample": (2.0, 2.0)})
    return tmp_path / "patches"


@pytest.mark.parametrize("to", ["clam-pt", "clam-h5"])
def test_coordinates_come_from_clams_patches(tmp_path, store, patches, to):
    run(store.folder, tmp_path / "clam", to)
    assert run(tmp_path / "clam", tmp_path / "out", coords=patches).failed == []
    out = FeatureStore(tmp_path / "out")
    np.testing.assert_array_equal(out["A"].boxes, BOXES)
    assert out["A"].attrs["patch_size"] == 224
    assert json.loads(out.recipe_text("A") or "")["coords_sha256"] == hash_file(patches / "A.h5")


def test_coordinates_of_another_slide_are_refused(tmp_path, store, patches):
    run(store.folder, tmp_path / "pt", "clam-pt")
    run(store.folder, tmp_path / "h5", "clam-h5")
    with h5py.File(patches / "A.h5", "w") as file:
        file["coords"] = BOXES[:3, :2]
    with h5py.File(patches / "B (2).h5", "w") as file:
        file["coords"] = BOXES[::-1, :2]
    (patches / "Ü字.h5").unlink()
    errors = {
        slide.slide_id: slide.error or "" for slide in run(tmp_path / "h5", tmp_path / "x", coords=patches).failed
    }
    assert "3 tiles" in errors["A"]
    assert "other coordinates" in errors["B (2)"]
    assert "no coordinates of" in errors["Ü字"]


def test_coordinates_come_from_our_own_tiles(tmp_path, cohort):
    path = next(iter(sorted(cohort.glob("*.svs"))))
    with microtome.open_slide(path) as slide:
        tiles = lay_tiles(slide, None, Grid(tile_px=128, mpp=1.0))
    write_tiles(tmp_path / "tiles" / "A.h5", tiles, slide_id="A", recipe={})
    features = np.ones((len(tiles), 2), np.float32)
    FeatureStore(tmp_path / "f").write("A", features, tiles.boxes, recipe={})
    run(tmp_path / "f", tmp_path / "pt", "clam-pt")
    run(tmp_path / "pt", tmp_path / "out", coords=tmp_path / "tiles")
    np.testing.assert_array_equal(FeatureStore(tmp_path / "out")["A"].boxes, tiles.boxes)


def test_histossl_addresses_become_places_on_their_slide(tmp_path, cohort):
    path = next(iter(sorted(cohort.glob("*.svs"))))
    with microtome.open_slide(path) as slide:
        size, mpp = slide.size, slide.mpp
    level = (max(size.width, size.height) - 1).bit_length() - 1  # half of full resolution
    addresses = np.array([[level, 0, 0], [level, 1, 0], [level, 1, 2]])
    write_features_npy(tmp_path / "histossl" / path.name / "features.npy", X[:3], addresses)
    result = run(tmp_path / "histossl", tmp_path / "out", slides=(str(path),), tile_px=100)
    assert statuses(result) == {path.stem: "done"}
    bag = FeatureStore(tmp_path / "out")[path.stem]
    assert bag.boxes.tolist() == [[0, 0, 200, 200], [200, 0, 200, 200], [200, 400, 200, 200]]
    assert bag.mpp == pytest.approx(2 * mpp)
    np.testing.assert_array_equal(bag.columns[ADDRESS], addresses)
    back = run(tmp_path / "out", tmp_path / "back", "histossl")
    assert back.failed == []
    kind, files = find_files(tmp_path / "back")
    np.testing.assert_array_equal(kind.read(files[path.stem], path.stem).columns[ADDRESS], addresses)


def test_histossl_addresses_without_slides_are_kept(tmp_path):
    write_features_npy(tmp_path / "x" / "A.svs" / "features.npy", X[:1], np.array([[14, 3, 4]]))
    result = run(tmp_path / "x", tmp_path / "out")
    assert "kept as DeepZoom addresses" in next(iter(result.notes))
    bag = FeatureStore(tmp_path / "out")["A"]
    assert bag.columns[ADDRESS].tolist() == [[14, 3, 4]]
    assert not bag.has_coords


def test_features_without_places_take_those_of_histossl_and_histoprep(tmp_path, store, cohort):
    path = next(iter(sorted(cohort.glob("*.svs"))))
    (tmp_path / "pt_files").mkdir()
    clam_pt.write(tmp_path / "pt_files" / f"{path.stem}.pt", FeatureTable(path.stem, X[:2]))
    coords = tmp_path / "coords_100" / path.name
    coords.mkdir(parents=True)
    np.save(coords / "coords.npy", np.array([[11, 0, 0], [11, 1, 1]]))
    where = {"coords": tmp_path / "coords_100", "slides": (str(path),)}
    assert run(tmp_path / "pt_files", tmp_path / "1", **where).failed == []
    assert FeatureStore(tmp_path / "1")[path.stem].boxes.tolist() == [[0, 0, 100, 100], [100, 100, 100, 100]]
    folder = tmp_path / "histoprep" / path.stem
    folder.mkdir(parents=True)
    pd.DataFrame(BOXES[:2], columns=list("xywh")).to_parquet(folder / "metadata.parquet")
    assert run(tmp_path / "pt_files", tmp_path / "2", coords=tmp_path / "histoprep").failed == []
    np.testing.assert_array_equal(FeatureStore(tmp_path / "2")[path.stem].boxes, BOXES[:2])


@pytest.mark.parametrize("source", ["clam-h5", "histoencoder", "safetensors"])
def test_what_is_imported_can_be_clustered(tmp_path, source):
    rng, store = np.random.default_rng(0), FeatureStore(tmp_path / "f")
    for name in ("A", "B"):
        boxes = np.column_stack([np.arange(50) * 448, np.zeros((50, 1)), np.full((50, 2), 448)]).astype(np.int64)
        store.write(name, rng.normal(size=(50, 4)).astype(np.float32), boxes, recipe={"n": name})
    run(store.folder, tmp_path / "foreign", source)
    run(tmp_path / "foreign", tmp_path / "out")
    found = [microtome.cluster_features(FeatureStore(f), n_clusters=3) for f in (store.folder, tmp_path / "out")]
    np.testing.assert_array_equal(found[0].centroids, found[1].centroids)
    assign_clusters(FeatureStore(tmp_path / "out"), found[1], tmp_path / "clusters")
    assert pd.read_parquet(tmp_path / "clusters" / "A.parquet").x.tolist() == list(range(0, 50 * 448, 448))


def test_a_slide_of_another_size_is_refused(tmp_path, store, cohort):
    path = next(iter(sorted(cohort.glob("*.svs"))))
    FeatureStore(tmp_path / "f").write(path.stem, X, BOXES, recipe={}, attrs=ATTRS)
    result = run(tmp_path / "f", tmp_path / "out", "safetensors", slides=(str(path),))
    assert "It is another one" in (result.failed[0].error or "")


def test_a_published_file_becomes_a_bag(tmp_path, shared):
    result = run(shared / "data" / "features" / "mopadi", tmp_path / "out")
    (slide,) = result.slides
    bag = FeatureStore(tmp_path / "out")[slide.slide_id]
    assert bag.features.shape == (180, 512)
    with h5py.File(slide.source) as file:
        np.testing.assert_array_equal(bag.features, file["features"][:])
    assert (bag.mpp, bag.has_coords) == (None, False)
    FeatureStore(tmp_path / "out").check(slide.slide_id)


def test_boxes_become_addresses_with_a_side_that_is_given(tmp_path):
    FeatureStore(tmp_path / "f").write("A", X, BOXES, recipe={}, attrs={"slide_size": [9000, 9000]})
    assert "tiles' side" in (run(tmp_path / "f", tmp_path / "out", "histossl").failed[0].error or "")
    assert run(tmp_path / "f", tmp_path / "out", "histossl", tile_px=448).failed == []
    array = np.load(tmp_path / "out" / "A" / "features.npy")
    assert array[:, :3].tolist() == [[14, x, 1] for x in range(4)]


# -- the command line -------------------------------------------------------------------------------------------


def test_the_command_says_what_is_lost_and_its_exit_code_what_failed(tmp_path, store, capsys):
    assert main(["convert", str(store.folder), "--to", "clam-pt", "--out", str(tmp_path / "pt"), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "done 3, skipped 0" in said
    assert "clam-pt does not hold: coordinates; encoder's name" in said
    (tmp_path / "pt" / "pt_files" / "A.pt").write_bytes(b"")
    arguments = ["convert", str(tmp_path / "pt"), "--from", "clam-pt", "--out", str(tmp_path / "out"), "--quiet"]
    assert main(arguments) == 1
    assert "A: " in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "no"), "--out", str(tmp_path / "x")]) == 2
    assert main(["convert", str(store.folder), "--to", "nonsense"]) == 2


def test_a_file_of_settings_says_from_as_the_flag_does(tmp_path, store, capsys):
    settings = tmp_path / "convert.yaml"
    settings.write_text(
        f"source: {store.folder}\nfrom: microtome\nto: safetensors\nout: {tmp_path / 'o'}\nquiet: true\n"
    )
    assert main(["convert", "--config", str(settings)]) == 0
    arguments = ["convert", "--config", str(settings), "--print-config"]
    assert main([*arguments, "--from", "clam-pt"]) == 0
    assert "from_: clam-pt" in capsys.readouterr().out  # flags win
    assert main(arguments) == 0
    assert "from_: microtome" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "o").glob("*.safetensors"))[0] == "A.safetensors"


# -- killed -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_and_called_again_is_as_if_undisturbed(tmp_path):
    store = FeatureStore(tmp_path / "features")
    for index in range(24):
        store.write(f"S{index}", np.tile(X, (500, 20)) + index, np.tile(BOXES, (500, 1)), recipe={"n": index})
    run(store.folder, tmp_path / "undisturbed", "clam-h5")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "microtome", "convert", str(store.folder), "--to", "clam-h5", "--out", str(out)]
    for n_files in (1, 8):
        process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while process.poll() is None and len(list(out.glob("h5_files/S*.h5"))) < n_files:
            time.sleep(0.001)
        process.kill()
        process.wait(timeout=60)
        for path in out.glob("h5_files/S*.h5"):
            assert path.read_bytes() == (tmp_path / "undisturbed" / "h5_files" / path.name).read_bytes()
    said = run(store.folder, out, "clam-h5")
    assert set(statuses(said).values()) == {"done", "skipped"}
    assert contents(out) == contents(tmp_path / "undisturbed")
