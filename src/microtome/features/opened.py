"""One slide while its features are made: opened, claimed, decoded part by part, sealed."""

import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64, Shaped

from microtome.encoders.base import Encoder
from microtome.errors import (
    ClaimedError,
    CorruptOutputError,
    CoverageError,
    OutputWriteError,
    RecipeMismatchError,
    SlideChangedError,
    TileError,
)
from microtome.features.bag import Bag
from microtome.features.outcomes import Extracted, Failure, Job, Stage
from microtome.features.plan import ExtractOptions, FileWatch, plan_bag
from microtome.features.ring import Ring
from microtome.features.store import FeatureStore
from microtome.features.writer import BagPlan, BagWriter, partial_path
from microtome.slides.direct_cache import TileCache
from microtome.storage import Claim, recipe_changes, recipe_text
from microtome.tiles.random_access import RandomAccessTiles
from microtome.tiles.slide_tiles import SlideTiles
from microtome.tiles.source import TileBatch, TileSource


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Which tiles of a part of a batch could be decoded, and why the others could not."""

    readable: Bool[np.ndarray, " n"]
    errors: dict[int, str]


@dataclass(eq=False)
class Opened:
    """A slide that is being done.

    Attributes:
        slide_id: Name of the output.
        source: Its tiles.
        encoder: What encodes them.
        plan: What is to be written.
        writer: Takes what is encoded.
        path: The file to be.
        min_coverage: Least share of tiles that must be readable.
        failure: Why it cannot be finished; the first reason stays.
    """

    slide_id: str
    source: TileSource
    encoder: Encoder
    plan: BagPlan
    writer: BagWriter
    path: Path
    min_coverage: float
    began: float
    failure: Failure | None = None
    _claim: Claim = field(kw_only=True)
    _watch: FileWatch = field(kw_only=True)
    _resources: ExitStack = field(kw_only=True)

    @property
    def batch_shape(self) -> tuple[int, int, int, int]:
        """Shape of a batch of its tiles."""
        return (self.plan.batch_size, *self.source.tile_shape)

    def fail(self, stage: Stage, error: Exception) -> None:
        """Give up on the slide."""
        if self.failure is None:
            self.failure = Failure(self.slide_id, stage, error)

    def read_part(self, rows: Int64[np.ndarray, " n"], images: Shaped[np.ndarray, "n h w c"]) -> Part:
        """Decode some tiles into their place in a batch.

        Raises:
            TileError: If they do not come as their source says that they are.
            SlideError: If the slide as a whole can no longer be read.
        """
        if self.failure is not None:  # nobody will look
            return Part(np.zeros(len(rows), bool), {})
        if isinstance(self.source, RandomAccessTiles):
            batch = self.source.read_into(rows, images)
        else:
            batch = self._copied(rows, images)
        lost = [int(row) for row in rows[~batch.readable]]
        return Part(batch.readable, {row: batch.errors.get(row, "cannot be decoded") for row in lost})

    def _copied(self, rows: Int64[np.ndarray, " n"], images: Shaped[np.ndarray, "n h w c"]) -> TileBatch:
        batch = self.source.read(rows)
        if batch.images.shape != images.shape or batch.images.dtype != images.dtype:
            raise TileError(
                f"The tiles of '{self.slide_id}' came as {batch.images.dtype} {batch.images.shape} and not as "
                f"{images.dtype} {images.shape}, as their source says that they are."
            )
        images[...] = batch.images
        return batch

    def expect(self, cache: TileCache) -> None:
        """Tell the source which tiles are still to come.

        Args:
            cache: Where it may keep what neighbouring tiles share.
        """
        if isinstance(self.source, SlideTiles):
            self.source.expect(self.plan.rows[self.writer.n_tiles :], cache)

    def commit(self, features: Shaped[np.ndarray, "n d"], unreadable: Mapping[int, str]) -> None:
        """Append the next batch.

        Raises:
            ClaimedError: If another process has taken over meanwhile.
            EncoderOutputError: If a feature is not finite.
            OutputWriteError: If it cannot be written.
        """
        self._claim.check()
        self.writer.append(features, unreadable)

    def finish(self) -> Extracted | Failure:
        """Seal what was committed unless the slide has failed, and let go of everything."""
        try:
            with self._resources:
                if self.failure is None:
                    self._seal()
                if self.failure is not None and isinstance(self.failure.error, SlideChangedError | CoverageError):
                    self.writer.discard()  # another file, or perhaps a better moment: nothing to go on with
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one slide, the others go on
            self.fail("write", error)
        if self.failure is not None:
            return self.failure
        n_unreadable, seconds = self.writer.n_unreadable, time.monotonic() - self.began
        return Extracted(self.slide_id, self.path, len(self.plan.rows), n_unreadable, seconds, "done")

    def let_go(self) -> None:
        """Stop in the middle: what is committed is kept, the claim is given up."""
        self._resources.close()

    def _seal(self) -> None:
        try:
            self._watch.check()
            check_coverage(self.slide_id, self.writer.n_tiles, self.writer.n_unreadable, self.min_coverage)
        except (SlideChangedError, CoverageError) as error:
            self.fail("decode", error)
            return
        self._claim.check()
        self.writer.seal()


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens slides to be done.

    Attributes:
        encoder: What will encode their tiles.
        store: Where the features will go.
        options: How.
        ring: Must hold two batches of each.
        close_sources: Whether a source is closed once it is done.
    """

    encoder: Encoder
    store: FeatureStore
    options: ExtractOptions
    ring: Ring
    close_sources: bool

    def open(self, job: Job) -> Opened | Extracted | Failure:
        """Open, plan and claim a slide.

        Returns:
            The slide, ready to be done; or that its features are there already; or why it cannot be done.

        Raises:
            ClaimedError: If another process is making it.
        """
        began = time.monotonic()
        try:
            path = self.store.path(job.slide_id)
            source = job.open()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one slide, the others go on
            return Failure(job.slide_id, "open", error)
        try:
            with ExitStack() as undo:
                if self.close_sources:
                    undo.callback(source.close)
                watch = FileWatch(source)
                plan, recipe = plan_bag(job.slide_id, source, self.encoder, self.options)
                self.ring.check_fits((plan.batch_size, *source.tile_shape), source.dtype)
                wanted = recipe_text(recipe)
                if (there := self._finished(job.slide_id, wanted)) is None:
                    claim = undo.enter_context(Claim(path))
                    there = self._finished(job.slide_id, wanted)  # in the meantime
                if there is None:
                    encoder = self.encoder.for_slide(source)
                    plan = replace(plan, attrs={**plan.attrs, **encoder.measured})
                    writer = undo.enter_context(self.store.create(job.slide_id, plan))
                    held = undo.pop_all()
            if there is not None:
                self._tidy(job.slide_id)
                n_tiles, seconds = len(there) + there.n_unreadable, time.monotonic() - began
                return Extracted(job.slide_id, path, n_tiles, there.n_unreadable, seconds, "skipped")
        except ClaimedError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one slide, the others go on
            return Failure(job.slide_id, "plan", error)
        least = self.options.min_coverage
        return Opened(
            job.slide_id,
            source,
            encoder,
            plan,
            writer,
            path,
            least,
            began,
            _claim=claim,
            _watch=watch,
            _resources=held,
        )

    def _tidy(self, slide_id: str) -> None:
        """Remove what a process left that was killed when the file was there already."""
        path = self.store.path(slide_id)
        Claim(path).remove_if_dead()
        if partial_path(path).exists():
            with suppress(ClaimedError, OutputWriteError, OSError), Claim(path):
                partial_path(path).unlink(missing_ok=True)

    def _finished(self, slide_id: str, wanted: str) -> Bag | None:
        """The features that are there already; None if there are none or they are to be replaced."""
        if slide_id not in self.store:
            return None
        try:
            bag = self.store[slide_id]
        except CorruptOutputError:
            if self.options.overwrite:
                return None
            raise
        stored = bag.attrs.get("recipe")
        if stored == wanted:
            check_coverage(slide_id, len(bag) + bag.n_unreadable, bag.n_unreadable, self.options.min_coverage)
            return bag
        if self.options.overwrite:
            return None
        raise RecipeMismatchError(_mismatch(self.store.path(slide_id), stored, wanted))


def check_coverage(slide_id: str, n_tiles: int, n_unreadable: int, least: float) -> None:
    """Make sure that enough tiles could be decoded.

    Raises:
        CoverageError: If the readable share is less than ``least``.
    """
    coverage = (n_tiles - n_unreadable) / n_tiles if n_tiles else 1.0
    if coverage < least:
        raise CoverageError(
            f"Slide '{slide_id}': {n_unreadable} of {n_tiles} tiles cannot be decoded; {100 * coverage:.1f} % are "
            f"readable and {100 * least:g} % are asked for. Replace the file, or pass a lower --min-coverage to go "
            "on without those tiles."
        )


def _mismatch(path: Path, stored: object, wanted: str) -> str:
    """Say what changed since the features that are there were made."""
    try:
        changes = None if stored is None else "; ".join(recipe_changes(str(stored), wanted)[:6])
    except ValueError:
        changes = None
    made = "was not made by microtome" if changes is None else f"was made with other settings ({changes})"
    return f"'{path}' {made}. Pass --overwrite to replace it, or choose another --out."
