"""Extraction: tiles of many slides to features, each slide's in one file.

Tiles are decoded ahead in threads while the encoder works, across slides and within a memory budget; see
:mod:`microtome.features.pipeline`. Nothing here imports a deep-learning framework: the encoder does, if it needs one.
"""

import threading
from collections.abc import Callable, Iterable

from microtome.encoders.base import Encoder
from microtome.errors import DuplicateSlideError
from microtome.features.outcomes import Extracted, Failure, Job, Timings
from microtome.features.pipeline import Pipeline
from microtome.features.plan import ExtractOptions, sample_rows
from microtome.features.store import FeatureStore
from microtome.storage import Progress, QuietProgress
from microtome.tiles.source import TileSource

__all__ = [
    "ExtractOptions",
    "Extracted",
    "Failure",
    "Job",
    "Timings",
    "extract",
    "extract_all",
    "sample_rows",
]


def extract(
    source: TileSource,
    encoder: Encoder,
    store: FeatureStore,
    options: ExtractOptions | None = None,
    progress: Progress | None = None,
) -> Extracted:
    """Encode the tiles of one slide and store the features under its slide_id.

    Interrupted by Ctrl-C or killed, it goes on where it was when called again. Features that are there already,
    made with the same settings, are left as they are.

    Args:
        source: Tiles of one slide; stays open.
        encoder: What encodes them.
        store: Where the features go.
        options: How; the defaults of :class:`ExtractOptions` if None.
        progress: Where progress is shown; nowhere if None.

    Returns:
        Where the features are and how many there are.

    Raises:
        ModalityError: If the encoder was made for another kind of image.
        CoverageError: If too many tiles are unreadable.
        EncoderOutputError: If the encoder gives a wrong shape or dtype, NaN or infinity.
        RecipeMismatchError: If features are there that were made with other settings.
        CorruptOutputError: If features are there that cannot be read.
        OutputWriteError: If the features cannot be written.
        SlideError: If the slide cannot be read.
    """
    outcomes: list[Extracted | Failure] = []
    pipeline = Pipeline(encoder, store, options or ExtractOptions(), progress or QuietProgress(), close_sources=False)
    pipeline.run([Job(source.slide_id, lambda: source)], outcomes.append)
    (outcome,) = outcomes
    if isinstance(outcome, Failure):
        raise outcome.error
    return outcome


def extract_all(
    jobs: Iterable[Job],
    encoder: Encoder,
    store: FeatureStore,
    options: ExtractOptions | None = None,
    *,
    on_done: Callable[[Extracted | Failure], None],
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> Timings:
    """Encode the tiles of many slides; a slide that fails is reported and the others go on.

    While one slide's last tiles are encoded, the next one's are decoded. A slide that another process is making is
    left to it and looked at again at the end, until it is there. The result for a slide depends neither on the others
    nor on the number of threads.

    Args:
        jobs: One per slide, each with its own slide_id.
        encoder: What encodes tiles; called from this thread, or from several where it says that it gains by it.
        store: Where the features go.
        options: How; the defaults of :class:`ExtractOptions` if None.
        on_done: Called in this thread with each slide's outcome as soon as it is known. What it raises ends the job.
        progress: Told of slides and tiles as they are done; stages are the caller's to start and finish.
        stop: Set it to end early. What is committed is kept; slides that were not finished are not reported.

    Returns:
        How long it took and who waited for whom.

    Raises:
        DuplicateSlideError: If two jobs have one slide_id.
        KeyboardInterrupt: After Ctrl-C, once threads have ended; what is committed is kept.
    """
    listed = list(jobs)
    seen: set[str] = set()
    for job in listed:
        if job.slide_id in seen:
            raise DuplicateSlideError(f"Two jobs are called '{job.slide_id}'. Give each slide its own slide_id.")
        seen.add(job.slide_id)
    pipeline = Pipeline(encoder, store, options or ExtractOptions(), progress or QuietProgress(), stop=stop)
    return pipeline.run(listed, on_done)
