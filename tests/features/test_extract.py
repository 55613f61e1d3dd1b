"""The extraction loop: what it makes, what it survives, and what it never does."""

import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import microtome.features.opened
import microtome.features.pipeline
from microtome.errors import (
    ConfigError,
    CorruptOutputError,
    CoverageError,
    DuplicateSlideError,
    EncoderOutputError,
    ModalityError,
    OutputWriteError,
    RecipeMismatchError,
    SlideChangedError,
    SlideOpenError,
    TileError,
)
from microtome.features.extract import (
    Extracted,
    ExtractOptions,
    Failure,
    Job,
    extract,
    extract_all,
    sample_rows,
)
from microtome.features.store import FeatureStore
from microtome.geometry import Box, Size
from microtome.storage import Claim
from microtome.testing.array_slide import ArraySlide
from microtome.tiles.grid import Grid, lay_tiles
from microtome.tiles.slide_tiles import SlideTiles
from tests.features.fakes import ArraySource, Means


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "features")


SMALL = ExtractOptions(batch_size=4, workers=2)


def run_all(
    sources: list[ArraySource],
    store: FeatureStore,
    options: ExtractOptions = SMALL,
    encoder: Any = None,
    **rest: Any,
) -> dict[str, Extracted | Failure]:
    outcomes: dict[str, Extracted | Failure] = {}

    def note(outcome: Extracted | Failure) -> None:
        assert outcome.slide_id not in outcomes
        outcomes[outcome.slide_id] = outcome

    jobs = [Job(s.slide_id, lambda s=s: s) for s in sources]
    extract_all(jobs, encoder or Means(), store, options, on_done=note, **rest)
    return outcomes


def expected(source: ArraySource, encoder: Means | None = None) -> np.ndarray:
    rows = [r for r in range(len(source)) if r not in source.broken]
    return (encoder or Means()).encode(source.images[rows])


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
    encoder.encode = lambda images: (seen.append(images.copy()), plain(images))[1]  # type: ignore[method-assign, func-returns-value] # a spy
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
    source = ArraySource("A", 30, broken={0: "torn at 0", 17: "lost", 29: "ende"})
    result = extract(source, Means(), store, SMALL)
    bag = store["A"]
    assert (result.n_tiles, result.n_unreadable) == (30, 3)
    np.testing.assert_array_equal(bag.features, expected(source))
    np.testing.assert_array_equal(bag.unreadable, source.boxes[[0, 17, 29]])
    assert bag.unreadable_errors == ("torn at 0", "lost", "ende")
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
    assert store.path("A").stat() == before


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


# -- slides that fail alone -----------------------------------------------------------------------------------


def _raise(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def _broken_source(slide_id: str, kind: str) -> Job:
    source = ArraySource(slide_id, 30)
    if kind == "open":
        return Job(slide_id, _raise(SlideOpenError("no slide")))
    if kind == "bug":
        return Job(slide_id, _raise(ZeroDivisionError("a bug")))
    if kind == "modality":
        source.modality = "fluorescence"
    if kind == "coverage":
        source.broken = dict.fromkeys(range(20), "torn")
    if kind == "read":
        source.read = _raise(SlideChangedError("gone"))  # type: ignore[method-assign] # a slide that breaks
    if kind == "shape":
        source.tile_shape = (9, 8, 3)
    if kind == "memory":
        source.tile_shape = (10**5, 10**5, 3)
    if kind == "encode":
        source.images[13] = 255  # see _Picky
    if kind == "name":
        return Job("../" + slide_id, lambda: source)
    return Job(slide_id, lambda: source)


class _Picky(Means):
    def encode(self, images: np.ndarray) -> np.ndarray:
        vectors = super().encode(images)
        vectors[vectors[:, 0] == 255] = np.nan
        return vectors


_FAILURES = {
    "open": ("open", SlideOpenError),
    "bug": ("open", ZeroDivisionError),
    "modality": ("plan", ModalityError),
    "memory": ("plan", ConfigError),
    "coverage": ("decode", CoverageError),
    "read": ("decode", SlideChangedError),
    "shape": ("decode", TileError),
    "encode": ("encode", EncoderOutputError),
    "name": ("open", ConfigError),
}


@pytest.mark.parametrize("concurrent", [False, True])
def test_bad_slides_fail_alone_with_stage_and_class(store: FeatureStore, concurrent: bool) -> None:
    jobs: list[Job] = []
    good = []
    for kind in _FAILURES:
        jobs.append(_broken_source(f"bad-{kind}", kind))
        good.append(ArraySource(f"good-{kind}", 13))
        jobs.append(Job(good[-1].slide_id, lambda s=good[-1]: s))
    outcomes: dict[str, Extracted | Failure] = {}
    timings = extract_all(
        jobs,
        _Picky(concurrent=concurrent),
        store,
        SMALL,
        on_done=lambda o: outcomes.__setitem__(o.slide_id, o),
    )
    assert len(outcomes) == len(jobs)
    for kind, (stage, error) in _FAILURES.items():
        failure = outcomes[("../" if kind == "name" else "") + f"bad-{kind}"]
        assert isinstance(failure, Failure), kind
        assert (failure.stage, type(failure.error)) == (stage, error), failure
    for source in good:
        assert isinstance(outcomes[source.slide_id], Extracted)
        np.testing.assert_array_equal(store[source.slide_id].features, expected(source))
        assert source.closed
    assert timings.n_slides == len(good)
    assert not list(store.folder.glob("*.claim"))


@pytest.mark.parametrize(
    "output",
    [
        lambda n: np.zeros((n, 5), np.float32),
        lambda n: np.zeros((n - 1, 6), np.float32),
        lambda n: np.zeros((n, 6), np.float64),
        lambda n: np.zeros((n, 6), np.float16),
        lambda n: np.full((n, 6), np.inf, np.float32),
        lambda n: [[0.0] * 6] * n,
        lambda n: None,
    ],
)
def test_wrong_encoder_output_is_refused(store: FeatureStore, output: Callable[[int], Any]) -> None:
    class Wrong(Means):
        encode = lambda self, images: output(len(images))  # type: ignore[assignment] # noqa: E731 - wrong on purpose

    with pytest.raises(EncoderOutputError):
        extract(ArraySource("A", 9), Wrong(), store, SMALL)
    assert "A" not in store


def test_features_too_large_for_float16_say_so(store: FeatureStore) -> None:
    class Large(Means):
        def encode(self, images: np.ndarray) -> np.ndarray:
            return super().encode(images) * np.float32(1e6)

    with pytest.raises(EncoderOutputError, match="float32"):
        extract(ArraySource("A", 9), Large(), store, ExtractOptions(dtype="float16"))


def test_encoder_may_reuse_its_memory(store: FeatureStore) -> None:
    class Reusing(Means):
        def encode(self, images: np.ndarray) -> np.ndarray:
            if not hasattr(self, "out"):
                self.out = np.zeros((len(images), 6), np.float32)
            self.out[:] = super().encode(images)
            return self.out

    source = ArraySource("A", 23)
    extract(source, Reusing(), store, SMALL)
    np.testing.assert_array_equal(store["A"].features, expected(source))


def test_a_slide_replaced_while_it_runs_fails(store: FeatureStore, tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    path.write_bytes(b"first")
    slide = ArraySlide(np.full((64, 64, 3), 200, np.uint8), name="A")
    slide.path = path

    class Replacing(Means):
        def encode(self, images: np.ndarray) -> np.ndarray:
            path.write_bytes(b"another")
            return super().encode(images)

    source = SlideTiles(slide, lay_tiles(slide, None, Grid(tile_px=16, mpp=0.5)))
    with pytest.raises(SlideChangedError, match=r"slide\.tif"):
        extract(source, Replacing(), store)
    assert list(store.folder.iterdir()) == []


@pytest.mark.parametrize("moment", ["append", "seal"])
def test_a_full_disk_fails_that_slide_alone(store: FeatureStore, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    if moment == "append":
        from microtome.features.journal import Journal

        plain = Journal._write

        def write(self: Journal, data: bytes) -> None:
            if self.path.name.startswith(".B.") and self.n_batches == 3:
                plain(self, data[:10])
                raise full
            plain(self, data)

        monkeypatch.setattr(Journal, "_write", write)
    else:
        import microtome.features.writer as module

        plain_write = module.write_bag_file

        def write_file(path: Path, *rest: Any, **named: Any) -> None:
            plain_write(path, *rest, **named)
            if path.name.startswith(".B."):
                raise full

        monkeypatch.setattr(module, "write_bag_file", write_file)
    outcomes = run_all([ArraySource(name, 30) for name in "ABC"], store)
    assert [type(o) for _, o in sorted(outcomes.items())] == [Extracted, Failure, Extracted]
    failure = outcomes["B"]
    assert isinstance(failure, Failure)
    assert failure.stage == "write"
    assert isinstance(failure.error, OutputWriteError)
    assert "Free space" in str(failure.error)
    assert sorted(p.name for p in store.folder.iterdir()) == [".B.h5.partial", "A.h5", "C.h5"]
    monkeypatch.undo()
    source = ArraySource("B", 30)
    extract(source, Means(), store, SMALL)
    assert source.n_read == (18 if moment == "append" else 0)  # it goes on where it was
    np.testing.assert_array_equal(store["B"].features, expected(source))


def test_two_jobs_of_one_name_are_refused(store: FeatureStore) -> None:
    with pytest.raises(DuplicateSlideError, match="'A'"):
        run_all([ArraySource("A", 3), ArraySource("A", 3)], store)


def test_values_of_one_name_in_tiles_and_encoder_are_refused(store: FeatureStore) -> None:
    class Clashing(Means):
        @property
        def recipe(self) -> dict[str, object]:
            return {**super().recipe, "note": 1}

    with pytest.raises(ConfigError, match="note"):
        extract(ArraySource("A", 3), Clashing(), store)


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0}, {"workers": 0}, {"memory_bytes": 0}, {"n_tiles": 0}, {"seed": -1}, {"min_coverage": 1.1},
        {"min_coverage": -0.1}, {"encoder_threads": 0},
    ],
)  # fmt: skip
def test_options_are_checked(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ExtractOptions(**wrong)


# -- memory and threads ---------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(extra=st.integers(0, 8), workers=st.integers(1, 5), encoder_threads=st.integers(1, 3))
def test_memory_stays_within_the_budget(
    tmp_path_factory: pytest.TempPathFactory, extra: int, workers: int, encoder_threads: int
) -> None:
    batch = 4 * 8 * 8 * 3
    budget = 2 * batch + extra * batch // 2
    options = ExtractOptions(batch_size=4, workers=workers, encoder_threads=encoder_threads, memory_bytes=budget)
    store = FeatureStore(tmp_path_factory.mktemp("features"))
    jobs = [Job(name, lambda name=name: ArraySource(name, 40)) for name in "AB"]
    timings = extract_all(jobs, Means(), store, options, on_done=lambda o: None)
    assert 0 < timings.peak_bytes <= budget
    assert sorted(store) == ["A", "B"]


def test_memory_does_not_grow_with_the_slide(store: FeatureStore) -> None:
    slow = Means(delay_s=0.002)  # decoding is far ahead
    options = ExtractOptions(batch_size=4, workers=2, memory_bytes=10 * 4 * 8 * 8 * 3)
    peaks = [
        extract_all(
            [Job(f"S{n}", lambda n=n: ArraySource(f"S{n}", n))], slow, store, options, on_done=lambda o: None
        ).peak_bytes
        for n in (200, 800)
    ]
    assert peaks[0] == peaks[1] <= options.memory_bytes


def test_a_budget_below_two_batches_is_refused(store: FeatureStore) -> None:
    enough = 2 * 4 * 8 * 8 * 3
    extract(ArraySource("A", 9), Means(), store, ExtractOptions(batch_size=4, memory_bytes=enough))
    with pytest.raises(ConfigError, match="smaller batch_size or more memory"):
        extract(ArraySource("B", 9), Means(), store, ExtractOptions(batch_size=4, memory_bytes=enough - 1))


def test_an_encoder_is_called_by_one_thread_unless_it_says_otherwise(store: FeatureStore) -> None:
    plain, many = Means(), Means(concurrent=True, delay_s=0.005)
    extract(ArraySource("A", 40), plain, store, SMALL)
    extract(ArraySource("B", 40), many, store, SMALL)
    assert plain.threads == {threading.get_ident()}
    assert threading.get_ident() not in many.threads
    assert len(many.threads) == 2


def test_the_next_slide_is_decoded_while_the_last_one_is_encoded(store: FeatureStore) -> None:
    """The encoder stands in A's only batch until a tile of B has been read."""
    read_b = threading.Event()

    class Waiting(Means):
        def encode(self, images: np.ndarray) -> np.ndarray:
            assert read_b.wait(20), "B was not read ahead"
            return super().encode(images)

    first, second = ArraySource("A", 4), ArraySource("B", 4)
    plain = second.read
    second.read = lambda rows: (read_b.set(), plain(rows))[1]  # type: ignore[method-assign] # a spy
    assert len(run_all([first, second], store, encoder=Waiting())) == 2


def test_timings_add_up(store: FeatureStore) -> None:
    jobs = [Job("A", lambda: ArraySource("A", 40, delay_s=0.01))]
    timings = extract_all(jobs, Means(delay_s=0.01), store, SMALL, on_done=lambda o: None)
    assert (timings.n_tiles, timings.n_slides) == (40, 1)
    assert timings.encode_s >= 0.1
    assert timings.seconds >= timings.encode_s
    assert timings.tiles_per_s == 40 / timings.seconds


# -- stopping -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrent", [False, True])
def test_stop_keeps_what_is_committed(tmp_path: Path, concurrent: bool) -> None:
    stop, store, undisturbed = threading.Event(), FeatureStore(tmp_path / "a"), FeatureStore(tmp_path / "b")

    class Stopping(Means):
        def encode(self, images: np.ndarray) -> np.ndarray:
            if len(self.shapes) == 5:
                stop.set()
            return super().encode(images)

    sources = [ArraySource(name, 30) for name in "ABC"]
    outcomes = run_all(sources, store, encoder=Stopping(concurrent=concurrent), stop=stop)
    assert outcomes == {}
    assert sources[0].closed
    assert list(store) == []
    assert [p.name for p in store.folder.iterdir()] == [".A.h5.partial"]
    again = [ArraySource(name, 30) for name in "ABC"]
    run_all(again, store)
    assert again[0].n_read <= 30 - 4 * 4
    run_all([ArraySource(name, 30) for name in "ABC"], undisturbed)
    for name in "ABC":
        assert store.path(name).read_bytes() == undisturbed.path(name).read_bytes()


def test_ctrl_c_ends_cleanly_and_is_passed_on(store: FeatureStore) -> None:
    class Interrupted(Means):
        def encode(self, images: np.ndarray) -> np.ndarray:
            if len(self.shapes) == 9:
                raise KeyboardInterrupt
            return super().encode(images)

    done: list[Extracted | Failure] = []
    sources = [ArraySource(name, 24) for name in "AB"]
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        extract_all(
            [Job(s.slide_id, lambda s=s: s) for s in sources],
            Interrupted(),
            store,
            SMALL,
            on_done=done.append,
        )
    assert threading.active_count() == before
    assert [o.slide_id for o in done] == ["A"]
    assert all(s.closed for s in sources)
    assert not list(store.folder.glob("*.claim"))
    again = ArraySource("B", 24)
    extract(again, Means(), store, SMALL)
    assert again.n_read == 12


def test_what_on_done_raises_ends_the_job(store: FeatureStore) -> None:
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        extract_all(
            [Job(name, lambda name=name: ArraySource(name, 9)) for name in "AB"],
            Means(),
            store,
            on_done=_raise(ZeroDivisionError()),
        )
    assert threading.active_count() == before


# -- claims ---------------------------------------------------------------------------------------------------


def test_a_claimed_slide_is_waited_for_and_then_skipped(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(microtome.features.pipeline, "_CLAIM_POLL_S", 0.02)
    claim = Claim(store.path("A"))
    claim.__enter__()
    notes: list[str] = []

    class Notes:
        def start(self, stage: str, total: int) -> None: ...
        def expect(self, n_tiles: int) -> None: ...
        def finish(self) -> None: ...
        def advance(self, n_slides: int = 0, n_tiles: int = 0) -> None: ...
        def note(self, text: str) -> None:
            notes.append(text)

    source, outcomes = ArraySource("B", 9), {}

    def finish_a(outcome: Extracted | Failure) -> None:
        outcomes[outcome.slide_id] = outcome
        if outcome.slide_id == "B":  # the other process is done with A only now
            other = ArraySource("A", 9)
            features = Means().encode(other.images)
            from microtome.features.plan import plan_bag

            plan, _ = plan_bag("A", other, Means(), ExtractOptions(batch_size=9))
            with store.create("A", plan) as writer:
                writer.append(features, {})
                writer.seal()
            claim.__exit__()

    jobs = [Job("A", lambda: ArraySource("A", 9)), Job("B", lambda: source)]
    extract_all(jobs, Means(), store, SMALL, on_done=finish_a, progress=Notes())
    assert [o.status for o in outcomes.values() if isinstance(o, Extracted)] == ["done", "skipped"]
    assert list(outcomes) == ["B", "A"]
    assert notes == ["A: claimed by another process; waiting for it at the end"]


def test_a_claimed_slide_that_the_other_gave_up_is_done_here(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(microtome.features.pipeline, "_CLAIM_POLL_S", 0.02)
    claim = Claim(store.path("A"))
    claim.__enter__()
    timer = threading.Timer(0.2, claim.__exit__)
    timer.start()
    assert extract(ArraySource("A", 9), Means(), store).status == "done"
    timer.join()


def test_a_claim_lost_meanwhile_ends_that_slide(store: FeatureStore) -> None:
    class Losing(Means):
        def encode(self, images: np.ndarray) -> np.ndarray:
            if len(self.shapes) == 2:
                (store.folder / "A.h5.claim").write_text("another's")
            return super().encode(images)

    outcomes = run_all([ArraySource("A", 30), ArraySource("B", 9)], store, encoder=Losing())
    assert isinstance(outcomes["A"], Failure)
    assert isinstance(outcomes["B"], Extracted)
    assert "A" not in store
    assert (store.folder / "A.h5.claim").read_text() == "another's"
