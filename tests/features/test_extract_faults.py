"""The extraction loop: slides that fail alone, memory and threads, stopping, claims."""

import errno
import threading
from collections.abc import Callable
from functools import partial
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
    CoverageError,
    DuplicateSlideError,
    EncoderOutputError,
    ModalityError,
    OutputWriteError,
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
)
from microtome.features.store import FeatureStore
from microtome.storage import Claim
from microtome.testing.array_slide import ArraySlide
from microtome.tiles.grid import Grid, lay_tiles
from microtome.tiles.slide_tiles import SlideTiles
from microtome.tiles.source import TileBatch
from tests.features.fakes import ArraySource, Means, job_of
from tests.features.running import SMALL, expected, run_all

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
        jobs.append(job_of(good[-1]))
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
        def encode(self, images: np.ndarray) -> Any:
            return output(len(images))

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
        from microtome.features.bag import write_bag_file as plain_write

        def write_file(path: Path, *rest: Any, **named: Any) -> None:
            plain_write(path, *rest, **named)
            if path.name.startswith(".B."):
                raise full

        monkeypatch.setattr("microtome.features.writer.write_bag_file", write_file)
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
def test_options_are_checked(wrong: dict[str, Any]) -> None:
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
    jobs = [Job(name, partial(ArraySource, name, 40)) for name in "AB"]
    timings = extract_all(jobs, Means(), store, options, on_done=lambda o: None)
    assert 0 < timings.peak_bytes <= budget
    assert sorted(store) == ["A", "B"]


def test_memory_does_not_grow_with_the_slide(store: FeatureStore) -> None:
    slow = Means(delay_s=0.002)  # decoding is far ahead
    options = ExtractOptions(batch_size=4, workers=2, memory_bytes=10 * 4 * 8 * 8 * 3)
    peaks = [
        extract_all(
            [Job(f"S{n}", partial(ArraySource, f"S{n}", n))], slow, store, options, on_done=lambda o: None
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

    def spy(rows: np.ndarray) -> TileBatch:
        read_b.set()
        return plain(rows)

    second.read = spy  # type: ignore[method-assign] # a spy
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
            [job_of(s) for s in sources],
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
            [Job(name, partial(ArraySource, name, 9)) for name in "AB"],
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
        def start(self, stage: str, total: int, unit: str = "slides") -> None: ...
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
