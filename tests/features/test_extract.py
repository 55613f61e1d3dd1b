"""The extraction loop: what it makes, from which tiles, and what it does with what is there already."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microtome.errors import (
    CorruptOutputError,
    CoverageError,
    RecipeMismatchError,
)
from microtome.features.extract import (
    Extracted,
    ExtractOptions,
    Failure,
    extract,
    sample_rows,
)
from microtome.features.store import FeatureStore
from microtome.geometry import Box, Size
from microtome.testing.array_slide import ArraySlide
from microtome.tiles.grid import Grid, lay_tiles
from microtome.tiles.slide_tiles import SlideTiles
from tests.features.fakes import ArraySource, Means
from tests.features.running import SMALL, expected, run_all

# -- what it makes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 8, 23])
@pytest.mark.parametrize("concurrent", [False, True])
def test_features_are_those_of_each_tile(store: FeatureStore, n: int, concurrent: bool) -> None:
    source, encoder = ArraySource("A", n), Means(concurrent=concurrent)
    result = extract(source, encoder, store, SMALL)
    bag = store["A"]
    np.testing.assert_array_equal(bag.features, expected(source))
    np.testing.assert_array_equal(bag.boxes, source.boxes)
    assert result == Extracted("A", store.path("A"), n, 0, result.seconds, "done")
    assert not source.closed
    assert [p.name for p in store.folder.iterdir()] == ["A.h5"]


def test_every_batch_has_one_shape_and_real_tiles(store: FeatureStore) -> None:
    encoder = Means()
    seen: list[np.ndarray] = []
    plain = encoder.encode

    def spy(images: np.ndarray) -> np.ndarray:
        seen.append(images.copy())
        return plain(images)

    encoder.encode = spy  # type: ignore[method-assign] # a spy
    source = ArraySource("A", 10, broken={1: "torn", 9: "torn"})
    extract(source, encoder, store, ExtractOptions(batch_size=4, min_coverage=0.5))
    assert {batch.shape for batch in seen} == {(4, 8, 8, 3)}
    real = {image.tobytes() for image in source.images}
    assert all(image.tobytes() in real for batch in seen for image in batch)


def test_batches_never_mix_slides(store: FeatureStore) -> None:
    encoder = Means()
    owner = {}
    sources = [ArraySource(name, 5) for name in "ABC"]
    for source in sources:
        owner.update({image.tobytes(): source.slide_id for image in source.images})
    mixed = []
    plain = encoder.encode

    def spy(images: np.ndarray) -> np.ndarray:
        mixed.append(len({owner[image.tobytes()] for image in images}))
        return plain(images)

    encoder.encode = spy  # type: ignore[method-assign] # a spy
    run_all(sources, store, encoder=encoder)
    assert mixed == [1] * 6


@pytest.mark.parametrize("options", [
    ExtractOptions(batch_size=4, workers=1),
    ExtractOptions(batch_size=4, workers=7),
    ExtractOptions(batch_size=4, workers=3, encoder_threads=4),
    ExtractOptions(batch_size=4, workers=2, memory_bytes=2 * 4 * 8 * 8 * 3),
])  # fmt: skip
def test_files_do_not_depend_on_threads_memory_or_order(tmp_path: Path, options: ExtractOptions) -> None:
    def sources() -> list[ArraySource]:
        return [ArraySource(f"S{i}", 3 * i + 1, broken={i: "torn"} if i > 2 else None) for i in range(8)]

    one, other = FeatureStore(tmp_path / "one"), FeatureStore(tmp_path / "other")
    run_all(sources(), one, ExtractOptions(batch_size=4, workers=2, min_coverage=0.5))
    changed = ExtractOptions(**{**{f: getattr(options, f) for f in options.__slots__}, "min_coverage": 0.5})
    run_all(sources()[::-1], other, changed)
    for slide_id in one:
        assert one.path(slide_id).read_bytes() == other.path(slide_id).read_bytes()
    assert list(one) == list(other)


def test_float16_is_the_rounded_float32(store: FeatureStore) -> None:
    source = ArraySource("A", 9)
    extract(source, Means(), store, ExtractOptions(dtype="float16"))
    assert store["A"].features.dtype == np.float16
    np.testing.assert_array_equal(store["A"].features, expected(source).astype(np.float16))


def test_two_channels_of_16_bit(store: FeatureStore) -> None:
    source = ArraySource("A", 9, shape=(8, 8, 2), dtype=np.uint16, modality="srh")
    encoder = Means(channels=2, dtype=np.uint16, modality="srh")
    extract(source, encoder, store, SMALL)
    np.testing.assert_array_equal(store["A"].features, encoder.encode(source.images))
    assert store["A"].attrs["modality"] == "srh"


def test_slides_of_different_shapes_share_the_memory(store: FeatureStore) -> None:
    sources = [ArraySource(f"S{i}", 20, shape=(4 + 4 * (i % 3), 8, 3)) for i in range(6)]
    budget = 2 * 4 * 12 * 8 * 3
    outcomes = run_all(sources, store, ExtractOptions(batch_size=4, workers=2, memory_bytes=budget))
    assert all(isinstance(o, Extracted) for o in outcomes.values())
    for source in sources:
        np.testing.assert_array_equal(store[source.slide_id].features, expected(source))


def test_a_slide_of_a_real_grid(store: FeatureStore) -> None:
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    slide = ArraySlide(image, mpp=0.5, name="A", broken=(Box(70, 10, 5, 5),))
    tiles = lay_tiles(slide, None, Grid(tile_px=32, mpp=1.0, stride_px=24))
    source = SlideTiles(slide, tiles)
    extract(source, Means(), store, ExtractOptions(batch_size=4, min_coverage=0.5))
    bag = store["A"]
    lost = [i for i, box in enumerate(tiles.boxes) if Box.from_row(box).intersection(Box(70, 10, 5, 5))]
    assert lost
    np.testing.assert_array_equal(bag.unreadable, tiles.boxes[lost])
    assert all("cannot be decoded" in error for error in bag.unreadable_errors)
    kept = np.setdiff1d(np.arange(len(tiles)), lost)
    np.testing.assert_array_equal(bag.boxes, tiles.boxes[kept])
    first = slide.read(Box.from_row(tiles.boxes[kept[0]]), size=Size(32, 32))
    np.testing.assert_array_equal(bag.features[0], Means().encode(first[None])[0])
    assert bag.attrs["overlap"] == 8
    assert bag.attrs["patch_size"] == 32
    assert bag.attrs["patch_size_level0"] == 64
    assert bag.attrs["slide_size"] == [300, 200]


def test_patch_level_where_tiles_are_of_a_level(store: FeatureStore) -> None:
    image = np.full((128, 128, 3), 200, np.uint8)
    for name, grid, level in (
        ("level", Grid(tile_px=16, mpp=None, level=1), 1),
        ("same", Grid(tile_px=16, mpp=0.5), 0),
        ("other", Grid(tile_px=16, mpp=0.75), None),
    ):
        slide = ArraySlide(image, mpp=0.5, name=name, downsamples=(2,))
        source = SlideTiles(slide, lay_tiles(slide, None, grid))
        extract(source, Means(), store)
        assert store[name].attrs.get("patch_level") == level


# -- sampling -------------------------------------------------------------------------------------------------


def test_a_sample_depends_on_seed_and_slide_alone(tmp_path: Path) -> None:
    options = ExtractOptions(batch_size=4, n_tiles=5, seed=3)
    alone, among = FeatureStore(tmp_path / "alone"), FeatureStore(tmp_path / "among")
    run_all([ArraySource("B", 50)], alone, options)
    run_all([ArraySource(name, 50) for name in "ZAB"], among, options)
    assert alone.path("B").read_bytes() == among.path("B").read_bytes()
    rows = among["B"].rows
    assert rows is not None
    np.testing.assert_array_equal(rows, sample_rows("B", 50, 5, 3))
    assert not np.array_equal(rows, sample_rows("A", 50, 5, 3))
    assert not np.array_equal(rows, sample_rows("B", 50, 5, 4))
    np.testing.assert_array_equal(among["B"].boxes, ArraySource("B", 50).boxes[rows])


@given(n=st.integers(0, 200), k=st.integers(1, 250), seed=st.integers(0, 2**40))
def test_samples_are_rows_without_repetition(n: int, k: int, seed: int) -> None:
    rows = sample_rows("A", n, k, seed)
    assert len(rows) == min(n, k)
    assert (np.diff(rows) > 0).all()
    assert rows.size == 0 or (rows[0] >= 0 and rows[-1] < n)


def test_drawing_more_tiles_than_there_are_is_drawing_all(store: FeatureStore) -> None:
    extract(ArraySource("A", 9), Means(), store)
    assert extract(ArraySource("A", 9), Means(), store, ExtractOptions(n_tiles=9, seed=5)).status == "skipped"
    with pytest.raises(RecipeMismatchError, match="sample_n_tiles: null → 8"):
        extract(ArraySource("A", 9), Means(), store, ExtractOptions(n_tiles=8))


# -- unreadable tiles -----------------------------------------------------------------------------------------


def test_unreadable_tiles_have_no_row_and_a_reason(store: FeatureStore) -> None:
    source = ArraySource("A", 30, broken={0: "torn at 0", 17: "lost", 29: "last"})
    result = extract(source, Means(), store, SMALL)
    bag = store["A"]
    assert (result.n_tiles, result.n_unreadable) == (30, 3)
    np.testing.assert_array_equal(bag.features, expected(source))
    np.testing.assert_array_equal(bag.unreadable, source.boxes[[0, 17, 29]])
    assert bag.unreadable_errors == ("torn at 0", "lost", "last")
    assert bag.rows is not None
    np.testing.assert_array_equal(bag.rows, np.setdiff1d(np.arange(30), [0, 17, 29]))


def test_a_whole_batch_may_be_unreadable(store: FeatureStore) -> None:
    source = ArraySource("A", 12, broken=dict.fromkeys(range(4, 8), "torn"))
    encoder = Means()
    extract(source, encoder, store, ExtractOptions(batch_size=4, min_coverage=0.5))
    assert len(encoder.shapes) == 2
    np.testing.assert_array_equal(store["A"].features, expected(source))


@pytest.mark.parametrize(("n_broken", "stands"), [(0, True), (2, True), (3, False), (20, False)])
def test_coverage_decides_whether_the_slide_stands(store: FeatureStore, n_broken: int, stands: bool) -> None:
    options = ExtractOptions(batch_size=4, min_coverage=0.9)
    source = ArraySource("A", 20, broken=dict.fromkeys(range(n_broken), "torn"))
    if stands:
        assert extract(source, Means(), store, options).n_unreadable == n_broken
        return
    with pytest.raises(CoverageError, match=rf"{n_broken} of 20 tiles .* 90 % are asked for"):
        extract(source, Means(), store, options)
    assert list(store.folder.iterdir()) == []  # nothing is left: perhaps it can be read another time
    source.broken.clear()
    extract(source, Means(), store, options)
    np.testing.assert_array_equal(store["A"].features, expected(source))


def test_a_finished_slide_must_meet_a_raised_coverage(store: FeatureStore) -> None:
    source = ArraySource("A", 20, broken={0: "torn"})
    extract(source, Means(), store, ExtractOptions(min_coverage=0.9))
    with pytest.raises(CoverageError):
        extract(source, Means(), store, ExtractOptions(min_coverage=0.99))
    assert "A" in store


# -- what is there already ------------------------------------------------------------------------------------


def test_what_is_there_is_left_alone(store: FeatureStore) -> None:
    extract(ArraySource("A", 9), Means(), store)
    before = store.path("A").stat()
    source, encoder = ArraySource("A", 9), Means()
    result = extract(source, encoder, store, ExtractOptions(batch_size=3, overwrite=True))
    assert (result.status, result.n_tiles) == ("skipped", 9)
    assert (source.n_read, encoder.shapes) == (0, [])
    after = store.path("A").stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_size) == (before.st_ino, before.st_mtime_ns, before.st_size)


@pytest.mark.parametrize(
    ("source", "encoder", "options", "named"),
    [
        (ArraySource("A", 9, note="fill black"), Means(), ExtractOptions(), "note"),
        (ArraySource("A", 9, seed=1), Means(), ExtractOptions(), "slide: "),
        (ArraySource("A", 8), Means(), ExtractOptions(), "tile_boxes"),
        (ArraySource("A", 9), Means(name="other"), ExtractOptions(), 'card_name: "means" → "other"'),
        (ArraySource("A", 9), Means(), ExtractOptions(dtype="float16"), "features_dtype"),
    ],
)
def test_other_settings_are_refused_by_name_unless_overwritten(
    store: FeatureStore, source: ArraySource, encoder: Means, options: ExtractOptions, named: str
) -> None:
    extract(ArraySource("A", 9), Means(), store)
    before = store.path("A").read_bytes()
    with pytest.raises(RecipeMismatchError) as caught:
        extract(source, encoder, store, options)
    assert named in str(caught.value)
    assert "--overwrite" in str(caught.value)
    assert store.path("A").read_bytes() == before
    again = ExtractOptions(dtype=options.dtype, overwrite=True)
    assert extract(source, encoder, store, again).status == "done"
    assert len(store["A"]) == len(source)


def test_precision_and_weights_are_part_of_the_recipe(store: FeatureStore) -> None:
    extract(ArraySource("A", 9), Means(), store)
    for name in ("precision", "weights_hash"):
        encoder = Means()
        setattr(encoder, name, "else")
        with pytest.raises(RecipeMismatchError, match="else"):
            extract(ArraySource("A", 9), encoder, store)


def test_threads_memory_and_batches_are_not(store: FeatureStore) -> None:
    extract(ArraySource("A", 9), Means(), store)
    options = ExtractOptions(batch_size=7, workers=1, encoder_threads=2, memory_bytes=10**6, min_coverage=0.1, seed=9)
    assert extract(ArraySource("A", 9), Means(), store, options).status == "skipped"


def test_a_damaged_file_is_an_error_unless_overwritten(store: FeatureStore) -> None:
    extract(ArraySource("A", 9), Means(), store)
    path = store.path("A")
    path.write_bytes(path.read_bytes()[:500])
    outcomes = run_all([ArraySource("A", 9), ArraySource("B", 9)], store)
    assert isinstance(outcomes["A"], Failure)
    assert isinstance(outcomes["A"].error, CorruptOutputError)
    assert isinstance(outcomes["B"], Extracted)
    extract(ArraySource("A", 9), Means(), store, ExtractOptions(overwrite=True))
    store.check("A")


def test_a_file_of_another_program_is_not_taken_for_ours(store: FeatureStore) -> None:
    h5py = pytest.importorskip("h5py")
    store.folder.mkdir()
    with h5py.File(store.path("A"), "w") as file:
        file["features"], file["coords"] = np.zeros((9, 6), "f4"), np.zeros((9, 2), np.int64)
    with pytest.raises(RecipeMismatchError, match="not made by microtome"):
        extract(ArraySource("A", 9), Means(), store)
