"""Every format gives back all that it says it holds, to the bit; what it cannot hold is named."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from microtome.config import FormatName
from microtome.errors import ConfigError, CorruptOutputError, MissingOutputError, OutputError, TileError
from microtome.features.formats.format import Format
from microtome.features.formats.histossl import place
from microtome.features.formats.registry import FORMATS, find_files, formats_table
from microtome.features.formats.table import ADDRESS, NAME, FeatureTable, Part, same_content
from microtome.features.store import FeatureStore
from tests.conftest import REPOSITORY
from tests.features.format_tables import ATTRS, SIDE, SIZE, address_column, assert_same, boxes_of, kept, made, specs

EASY = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
EACH = pytest.mark.parametrize("target", FORMATS.values(), ids=lambda f: f.name)


def example(n: int = 3, **parts: Any) -> FeatureTable:
    features = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    boxes = boxes_of(n, "deepzoom", np.random.default_rng(1))
    return FeatureTable("A", features, **{"boxes": boxes, "attrs": dict(ATTRS), **parts})


def written(table: FeatureTable, target: Format, folder: Path) -> Path:
    path = target.path(folder, table.slide_id)
    target.write(path, kept(table, target))
    return path


@EACH
@EASY
@given(spec=specs())
def test_what_a_format_holds_comes_back_to_the_bit(tmp_path, target, spec):
    table = made(spec)
    try:
        wanted = kept(table, target)
        path = written(table, target, tmp_path)
    except ConfigError:  # the format needs what the table has not
        return
    assert_same(target.read(path, table.slide_id).only(target.holds), wanted)
    assert target.slide_id(path) == table.slide_id


@EACH
@pytest.mark.parametrize("n", [0, 1])
def test_no_tile_and_one_tile(tmp_path, target, n):
    table = example(n)
    found = target.read(written(table, target, tmp_path), "A")
    assert found.features.shape == (n, 4)
    assert_same(found.only(target.holds), kept(table, target))


@pytest.mark.parametrize("first", FORMATS.values(), ids=lambda f: f.name)
@pytest.mark.parametrize("second", FORMATS.values(), ids=lambda f: f.name)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(spec=specs())
def test_from_one_to_another_keeps_what_both_hold(tmp_path, first, second, spec):
    table = made(spec)
    try:
        between = first.read(written(table, first, tmp_path / "1"), table.slide_id)
        found = second.read(written(between, second, tmp_path / "2"), table.slide_id)
    except ConfigError:  # the format needs what the table has not
        return
    np.testing.assert_array_equal(found.features.astype("f4"), table.features.astype("f4"))
    both = first.holds & second.holds
    wanted = second.prepare(first.prepare(table).only(first.holds)).only(both)
    assert_same(replace(found, features=table.features).only(both), wanted)


@EACH
@EASY
@given(spec=specs())
def test_what_is_not_named_as_lost_is_there(tmp_path, target, spec):
    """A list of losses that is empty is a promise: the source's own table comes back."""
    table = made(spec)
    try:
        path = written(table, target, tmp_path)
    except ConfigError:  # the format needs what the table has not
        return
    lost = target.losses(table, target.dtype_for(table, None))
    found = target.read(path, table.slide_id)
    if not lost and not {ADDRESS, NAME} & (set(target.prepare(table).columns) - set(table.columns)):
        assert same_content(replace(found, features=table.features), table)
    for part in Part:
        if part in table.parts and part not in target.holds:
            assert lost


def test_losses_are_named_for_people():
    table = example(unreadable=np.ones((2, 4), np.int64), columns={"blur": np.ones(3)})
    assert FORMATS["clam-pt"].losses(table, "float16") == (
        "precision of features (float32 to float16)",
        "coordinates",
        "tile sizes that differ" if table.side_px0 is None else "tile size",
        "other columns",
        "tile size, level and overlap in the encoder's pixels",
        "mpp",
        "size and mpp of the slide",
        "encoder's name",
        "recipe",
        "2 unreadable tile(s)",
        "attributes modality, n_tiles_total",
    )
    assert FORMATS["microtome"].losses(table, "float32") == ()
    assert FORMATS["safetensors"].losses(table, "float32") == ()


def test_the_configuration_names_all_formats():
    assert set(FormatName.__args__) == set(FORMATS)  # type: ignore[attr-defined]  # of a Literal


# -- numbers ----------------------------------------------------------------------------------------------------


@EACH
def test_float64_is_rounded_only_if_asked(target):
    table = replace(example(), features=np.ones((3, 4)))
    with pytest.raises(ConfigError, match=r"float64.*--dtype"):
        target.dtype_for(table, None)
    assert target.dtype_for(table, "float32") == "float32"


def test_float16_only_where_it_is_held():
    with pytest.raises(ConfigError, match="float32 features"):
        FORMATS["histossl"].dtype_for(example(), "float16")
    half = replace(example(), features=np.ones((3, 4), np.float16))
    assert FORMATS["microtome"].dtype_for(half, None) == "float16"
    assert FORMATS["clam-pt"].dtype_for(half, None) == "float32"


@pytest.mark.parametrize("corner", [2**31, -(2**31) - 1])
def test_coordinates_that_do_not_fit_raise(tmp_path, corner):
    boxes = np.array([[0, corner, 8, 8]])
    table = FeatureTable("A", np.ones((1, 2), np.float32), boxes=boxes)
    with pytest.raises(ConfigError, match="int32"):
        FORMATS["clam-h5"].write(tmp_path / "A.h5", table)
    assert list(tmp_path.iterdir()) == []


def test_text_that_a_format_would_cut_raises():
    for name in ("a\0b", "\ud800"):
        with pytest.raises(ConfigError, match="NUL"):
            FeatureTable("A", np.ones((1, 2), np.float32), columns={NAME: np.array([name], object)}).check()


# -- DeepZoom ---------------------------------------------------------------------------------------------------


def test_addresses_of_the_reference_become_its_boxes_and_back(shared):
    checked = 0
    for case in json.loads((shared / "golden" / "deepzoom" / "deepzoom.json").read_text()):
        tiles = case["tiles"] if "tiles" in case else case["addresses"]
        width, height = case["dimensions"]
        for tile in tiles:
            address = np.array([tile.get("address") or [tile["level"], tile["x"], tile["y"]]])
            table = FeatureTable("A", np.ones((1, 2), np.float32), columns={ADDRESS: address})
            sized = replace(table, attrs={"slide_size": [width, height], "slide_mpp": 0.25})
            placed = place(sized, case["tile_size"])
            assert placed.boxes is not None
            assert placed.boxes[0].tolist() == tile["level0_rect_nominal"]
            back = FORMATS["histossl"].prepare(replace(placed, columns={}))
            assert address_column(back).tolist() == address.tolist()
            checked += 1
    assert checked > 20


def test_addresses_without_a_slide_are_kept_and_said():
    table = FeatureTable("A", np.ones((1, 2), np.float32), columns={ADDRESS: np.array([[12, 3, 4]])})
    assert "--slides" in place(table, 224).notes[0]
    assert "--tile-px" in place(replace(table, attrs={"slide_size": [5000, 5000]}), None).notes[0]
    assert place(table, 224).boxes is None


def test_addresses_of_another_slide_raise():
    table = FeatureTable(
        "A",
        np.ones((1, 2), np.float32),
        columns={ADDRESS: np.array([[12, 300, 4]])},
        attrs={"slide_size": [5000, 5000]},
    )
    with pytest.raises(TileError, match="no DeepZoom tile at column 300"):
        place(table, 224)


def test_resolution_follows_from_the_slide():
    level = 13 - 2  # of 14 levels
    table = FeatureTable(
        "A",
        np.ones((1, 2), np.float32),
        columns={ADDRESS: np.array([[level, 0, 0]])},
        attrs={"slide_size": [5000, 3000], "slide_mpp": 0.25},
    )
    assert place(table, SIDE).attrs["mpp"] == 1.0
    assert place(table, SIDE).boxes is not None


@pytest.mark.parametrize(
    "boxes",
    [
        [[1, 0, 64, 64]],
        [[0, 0, 64, 63]],
        [[0, 0, 64, 64], [0, 0, 128, 128]],
        [[4992, 0, 64, 64]],  # the last column is 8 px wide: a padded tile is another one
        [[-64, 0, 64, 64]],
    ],
)
def test_tiles_off_the_grid_are_refused(boxes):
    n = len(boxes)
    attrs: dict[str, Any] = {"slide_size": [SIZE.width, SIZE.height], "patch_size": SIDE}
    table = FeatureTable("A", np.ones((n, 2), np.float32), boxes=np.array(boxes), attrs=attrs)
    with pytest.raises(ConfigError, match="no DeepZoom tiles"):
        FORMATS["histossl"].prepare(table)


@pytest.mark.parametrize("missing", ["slide_size", "patch_size", "boxes"])
def test_what_addresses_need_is_named(missing):
    table = example()
    attrs = dict(table.attrs)
    attrs.pop(missing, None)
    table = replace(table, attrs=attrs, boxes=None if missing == "boxes" else table.boxes)
    with pytest.raises(ConfigError, match="is not known"):
        FORMATS["histossl"].prepare(table)


# -- files that are wrong, and names ----------------------------------------------------------------------------


@EACH
def test_truncated_and_empty_files_raise_our_error(tmp_path, target):
    path = written(example(50), target, tmp_path)
    whole = path.read_bytes()
    for share in (0, 0.1, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(CorruptOutputError, match=r"A|features"):
            target.read(path, "A")
    path.unlink()
    with pytest.raises(MissingOutputError):
        target.read(path, "A")


@EACH
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300))
def test_other_bytes_raise_our_error(tmp_path, target, data):
    path = target.path(tmp_path, "A")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    with pytest.raises((CorruptOutputError, MissingOutputError)):
        target.read(path, "A")


@EACH
@pytest.mark.parametrize("bad", ["../A", "a/b", "", ".hidden", "trailing."])
def test_names_cannot_leave_the_folder(tmp_path, target, bad):
    with pytest.raises(ConfigError):
        target.path(tmp_path, bad)


def test_a_name_that_would_come_back_as_another_is_refused(tmp_path):
    assert FORMATS["clam-h5"].path(tmp_path, "A.svs").name == "A.svs.h5"
    with pytest.raises(ConfigError, match="read back"):
        FORMATS["histossl"].path(tmp_path, "A.svs")
    assert FORMATS["histossl"].slide_id(tmp_path / "A.svs" / "features.npy") == "A"


@EACH
def test_a_folder_says_what_it_holds(tmp_path, target):
    path = written(example(), target, tmp_path)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    assert find_files(tmp_path) == (target, {"A": path})
    assert find_files(path) == (target, {"A": path})


def test_our_own_files_are_those_of_the_store(tmp_path):
    table = example(columns={NAME: np.array(["a", "b", "ü"], object)}, rows=np.array([1, 4, 5]))
    written(table, FORMATS["microtome"], tmp_path)
    bag = FeatureStore(tmp_path)["A"]
    np.testing.assert_array_equal(bag.boxes, table.boxes)
    assert (bag.mpp, bag.encoder, bag.columns[NAME].tolist()) == (0.5, ATTRS["encoder"], ["a", "b", "ü"])
    FeatureStore(tmp_path).check("A")


def test_a_bag_without_places_says_so(tmp_path):
    written(FeatureTable("A", np.ones((2, 3), np.float32)), FORMATS["microtome"], tmp_path)
    bag = FeatureStore(tmp_path)["A"]
    assert not bag.has_coords
    for ask in ("coords", "boxes"):
        with pytest.raises(OutputError, match=r"without coordinates.*--coords"):
            getattr(bag, ask)


def test_the_page_holds_the_table_as_it_is_now():
    page = (REPOSITORY / "docs" / "formats.md").read_text(encoding="utf-8")
    assert f"\n{formats_table()}\n" in page, "run: python docs/write_formats.py"
