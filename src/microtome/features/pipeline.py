"""The streaming loop behind extraction.

Three kinds of threads share the work. One *feeder* walks the slides in order: it claims and opens each, and for
each batch takes a slot of the ring and hands the decoding of its parts to the *decoders*. The caller's thread takes
the batches in the same order, encodes them (or has them encoded by a few *encoder* threads), and commits them in
order. A *sealer* makes the finished file. The ring bounds how far the decoders run ahead, over slides' ends too.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from math import prod
from os import cpu_count
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64

from microtome.encoders.base import Encoder
from microtome.errors import ClaimedError, EncoderOutputError
from microtome.features.opened import Opened, Opener, Part
from microtome.features.outcomes import Extracted, Failure, Job, Timings
from microtome.features.plan import ExtractOptions
from microtome.features.ring import Ring, Slot
from microtome.features.store import FeatureStore
from microtome.slides.direct_cache import TileCache
from microtome.storage import Claim, Progress

_MAX_OPEN = 4  # slides open at once: more would only hold files and claims
_PART_TILES = 16  # tiles that one decoder reads at a time
_CACHE_SHARE = 4  # this part of the memory may hold decoded pixels that neighbouring tiles share
_POLL_S = 0.3  # how often a waiting thread looks whether it is to stop
_CLAIM_POLL_S = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """A batch on its way: its tiles, its slot, and the parts of it that are being decoded."""

    slide: Opened
    rows: Int64[np.ndarray, " n"]
    slot: Slot
    parts: Sequence[Future[Part]]


@dataclass(frozen=True, slots=True, eq=False)
class _Encoded:
    """Features of the readable tiles of a batch, and why the others are not."""

    features: Float32[np.ndarray, "n d"]
    unreadable: dict[int, str]


@dataclass(frozen=True, slots=True, eq=False)
class _End:
    """No further batch of this slide comes."""

    slide: Opened


@dataclass(frozen=True, slots=True, eq=False)
class _Last:
    """No further slide comes; with the error, if that is because the feeder broke."""

    error: BaseException | None = None


_Ticket = _Batch | _End | _Last | Extracted | Failure


class _StoppedError(Exception):
    """A wait ended because the job is to stop."""


@dataclass(frozen=True, slots=True, eq=False)
class _Pending:
    """A ticket that is not settled yet, with its encoding where that is under way in another thread."""

    ticket: _Batch | _End
    encoding: Future[_Encoded | None] | None = None


class Pipeline:
    """Extraction over slides; one object, one :meth:`run`.

    Args:
        encoder: What encodes tiles.
        store: Where features go.
        options: How.
        progress: Told of slides and tiles as they are done.
        stop: Ends the job early when set.
        close_sources: Whether sources are closed once they are done.
    """

    def __init__(
        self,
        encoder: Encoder,
        store: FeatureStore,
        options: ExtractOptions,
        progress: Progress,
        *,
        stop: threading.Event | None = None,
        close_sources: bool = True,
    ) -> None:
        self._store, self._options, self._progress = store, options, progress
        self._stop = threading.Event() if stop is None else stop
        self._halt = threading.Event()
        self._workers = options.workers or cpu_count() or 1
        self._encoder_threads = options.encoder_threads or (self._workers if encoder.concurrent else 1)
        self._cache = TileCache(0)  # its share of the memory is set with each batch
        self._ring = Ring(options.memory_bytes, 2 * self._workers + 2 * self._encoder_threads + 2)
        self._opener = Opener(encoder, store, options, self._ring, close_sources)
        self._places = threading.BoundedSemaphore(_MAX_OPEN)
        self._queue: SimpleQueue[_Ticket] = SimpleQueue()
        self._pending: deque[_Pending] = deque()
        self._sealing: deque[Future[Extracted | Failure]] = deque()
        self._opened: set[Opened] = set()
        self._lock = threading.Lock()
        self._timings = Timings(encoder_threads=self._encoder_threads)
        self._decoders = ThreadPoolExecutor(self._workers, thread_name_prefix="decode")
        self._encoders = ThreadPoolExecutor(self._encoder_threads, thread_name_prefix="encode")
        self._sealer = ThreadPoolExecutor(1, thread_name_prefix="seal")

    def run(self, jobs: Sequence[Job], on_done: Callable[[Extracted | Failure], None]) -> Timings:
        """Do the jobs; arguments and errors as in :func:`microtome.features.extract.extract_all`."""
        began = time.monotonic()
        feeder = threading.Thread(target=self._feed_all, args=(jobs,), name="feed", daemon=True)
        feeder.start()
        try:
            self._consume(on_done)
        except KeyboardInterrupt:
            self._shut_down(feeder)
            self._report(on_done, wait=True)  # files that were being sealed are there now
            raise
        finally:
            self._shut_down(feeder)
        self._timings.seconds = time.monotonic() - began
        self._timings.peak_bytes = self._ring.peak_bytes
        return self._timings

    def _stopping(self) -> bool:
        return self._halt.is_set() or self._stop.is_set()

    def _shut_down(self, feeder: threading.Thread) -> None:
        self._halt.set()
        feeder.join()
        for pool in (self._decoders, self._encoders, self._sealer):
            pool.shutdown(wait=True, cancel_futures=pool is not self._sealer)
        for slide in list(self._opened):  # only where the job ended early
            slide.let_go()

    # -- the feeder's thread ------------------------------------------------------------------------------

    def _feed_all(self, jobs: Sequence[Job]) -> None:
        try:
            waiting = [job for job in jobs if not self._stopping() and not self._feed(job)]
            for job in waiting:
                self._progress.note(f"{job.slide_id}: claimed by another process; waiting for it at the end")
            while waiting and not self._stopping():
                self._halt.wait(_CLAIM_POLL_S)
                waiting = [job for job in waiting if self._is_claimed(job) or not self._feed(job)]
            self._queue.put(_Last())
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            self._queue.put(_Last(error))

    def _is_claimed(self, job: Job) -> bool:
        return Claim(self._store.path(job.slide_id)).is_held()

    def _feed(self, job: Job) -> bool:
        """Open a slide and send its batches off to be decoded; False if another process is making it."""
        while not self._places.acquire(timeout=_POLL_S):
            if self._stopping():
                return True
        try:
            slide = self._opener.open(job)
        except ClaimedError:
            self._places.release()
            return False
        if not isinstance(slide, Opened):
            self._places.release()
            self._progress.expect(0)
            self._queue.put(slide)
            return True
        with self._lock:
            self._opened.add(slide)
        self._progress.expect(len(slide.plan.rows) - slide.writer.n_tiles)
        slide.expect(self._cache)
        for index in range(slide.writer.n_batches, slide.plan.n_batches):
            if slide.failure is not None:
                break
            if not self._feed_batch(slide, index):
                return True
        self._queue.put(_End(slide))
        return True

    def _feed_batch(self, slide: Opened, index: int) -> bool:
        """Send one batch off to be decoded; False if the job is to stop."""
        shape, dtype = slide.batch_shape, slide.source.dtype
        tile_bytes = prod(shape[1:]) * dtype.itemsize
        spare = self._options.memory_bytes - 2 * shape[0] * tile_bytes
        part = max(1, min(_PART_TILES, shape[0], spare // (self._workers * tile_bytes)))
        reserve = self._workers * part * tile_bytes  # what the decoders hold themselves
        self._cache.limit(min(self._options.memory_bytes // _CACHE_SHARE, max(0, spare - reserve)))
        slot = self._ring.acquire(shape, dtype, self._stopping, reserve_bytes=reserve + self._cache.max_bytes)
        if slot is None or self._stopping():
            return False
        rows = slide.plan.batch_rows(index)
        parts = [
            self._decoders.submit(slide.read_part, rows[i : i + part], slot.images[i : min(i + part, len(rows))])
            for i in range(0, len(rows), part)
        ]
        self._queue.put(_Batch(slide, rows, slot, parts))
        return True

    # -- the encoders' threads ----------------------------------------------------------------------------

    def _encode(self, batch: _Batch) -> _Encoded | None:
        """Wait until a batch is decoded, encode it, give its slot back; None where its slide has failed."""
        began = time.monotonic()
        slide = batch.slide
        try:
            self._await(batch.parts)
            decoded = time.monotonic()
            readable, errors = self._join_parts(slide, batch.parts)
            if readable is None:
                return None
            features = self._encode_readable(slide, batch, readable)
        except _StoppedError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one slide, the others go on
            slide.fail("encode", error)
            return None
        finally:
            if all(part.done() for part in batch.parts):  # else a decoder may still write to it
                self._ring.release(batch.slot)
        with self._lock:
            self._timings.decode_wait_s += decoded - began
            self._timings.encode_s += time.monotonic() - decoded
        return _Encoded(features, errors)

    def _await(self, futures: Sequence[Future[Any]]) -> None:
        """Wait for all, in steps, so that Ctrl-C and a stop are heard."""
        while wait_for(futures, timeout=_POLL_S).not_done:
            if self._stopping():
                raise _StoppedError
        if any(future.cancelled() for future in futures):
            raise _StoppedError

    def _join_parts(
        self, slide: Opened, parts: Sequence[Future[Part]]
    ) -> tuple[Bool[np.ndarray, " n"] | None, dict[int, str]]:
        errors: dict[int, str] = {}
        readable = []
        for part in parts:
            try:
                decoded = part.result()
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one slide, the others go on
                slide.fail("decode", error)
                return None, {}
            readable.append(decoded.readable)
            errors.update(decoded.errors)
        return (None if slide.failure is not None else np.concatenate(readable)), errors

    def _encode_readable(
        self, slide: Opened, batch: _Batch, readable: Bool[np.ndarray, " n"]
    ) -> Float32[np.ndarray, "k d"]:
        """Features of the readable tiles; the encoder always sees a whole batch of real tiles."""
        dim = slide.plan.dim
        if not readable.any():
            return np.zeros((0, dim), np.float32)
        images, n = batch.slot.images, len(readable)
        stand_in = images[int(np.flatnonzero(readable)[0])]
        for position in [*np.flatnonzero(~readable), *range(n, len(images))]:
            images[position] = stand_in
        features = _checked(slide.encoder.encode(images), slide.encoder.card.name, (len(images), dim))
        kept: Float32[np.ndarray, "k d"] = features[:n][readable]  # copied: the encoder may reuse its memory
        return kept

    # -- the caller's thread ------------------------------------------------------------------------------

    def _consume(self, on_done: Callable[[Extracted | Failure], None]) -> None:
        try:
            while not self._stopping():
                ticket = self._next_ticket()
                if isinstance(ticket, _Last):
                    if ticket.error is not None:
                        raise ticket.error
                    break
                if isinstance(ticket, Extracted | Failure):
                    self._tell(ticket, on_done)
                elif ticket is not None:
                    self._take(ticket)
                self._report(on_done, wait=False)
            while self._pending:
                self._settle()
        except _StoppedError:
            pass
        self._report(on_done, wait=True)

    def _next_ticket(self) -> _Ticket | None:
        """The next ticket; None if there was better to do, or it is time to look around."""
        try:
            return self._queue.get_nowait()
        except Empty:
            if self._pending:
                self._settle()
                return None
        try:
            return self._queue.get(timeout=_POLL_S)
        except Empty:
            return None

    def _take(self, ticket: _Batch | _End) -> None:
        if isinstance(ticket, _Batch) and self._encoder_threads > 1:
            self._pending.append(_Pending(ticket, self._encoders.submit(self._encode, ticket)))
        else:
            self._pending.append(_Pending(ticket))
        while len(self._pending) > (self._encoder_threads if self._encoder_threads > 1 else 0):
            self._settle()

    def _settle(self) -> None:
        """Finish the oldest ticket: commit its batch, or send its slide to be sealed."""
        pending = self._pending.popleft()
        if isinstance(pending.ticket, _End):
            self._sealing.append(self._sealer.submit(self._seal, pending.ticket.slide))
            return
        slide, encoding = pending.ticket.slide, pending.encoding
        if encoding is None:
            encoded = self._encode(pending.ticket)
        else:
            self._await([encoding])
            encoded = encoding.result()
        if encoded is None or slide.failure is not None:
            return
        began = time.monotonic()
        try:
            slide.commit(encoded.features, encoded.unreadable)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one slide, the others go on
            slide.fail("encode" if isinstance(error, EncoderOutputError) else "write", error)
            return
        with self._lock:
            self._timings.write_s += time.monotonic() - began
            self._timings.n_tiles += len(pending.ticket.rows)
        self._progress.advance(n_tiles=len(pending.ticket.rows))

    def _report(self, on_done: Callable[[Extracted | Failure], None], *, wait: bool) -> None:
        while self._sealing and (wait or self._sealing[0].done()):
            self._tell(self._sealing.popleft().result(), on_done)

    def _tell(self, outcome: Extracted | Failure, on_done: Callable[[Extracted | Failure], None]) -> None:
        self._progress.advance(n_slides=1)
        on_done(outcome)

    # -- the sealer's thread ------------------------------------------------------------------------------

    def _seal(self, slide: Opened) -> Extracted | Failure:
        began = time.monotonic()
        outcome = slide.finish()
        with self._lock:
            self._opened.discard(slide)
            self._timings.write_s += time.monotonic() - began
            self._timings.n_slides += isinstance(outcome, Extracted)
        self._places.release()
        return outcome


def _checked(features: object, encoder: str, shape: tuple[int, int]) -> Float32[np.ndarray, "n d"]:
    """What an encoder gave, if it is what its card says."""
    if isinstance(features, np.ndarray) and features.shape == shape and features.dtype == np.float32:
        return features
    got = f"{features.dtype} {features.shape}" if isinstance(features, np.ndarray) else type(features).__name__
    raise EncoderOutputError(
        f"Encoder '{encoder}' gave {got} for {shape[0]} tiles and not float32 {shape}, the dimension on its card."
    )
