"""Tiles to features for every slide of a job, and tile images where they are asked for."""

from contextlib import ExitStack
from functools import partial
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, Int64

from microtome.config import FeatureConfig, TileConfig
from microtome.encoders.base import Encoder
from microtome.errors import ConfigError, MicrotomeError
from microtome.features.bag import Bag
from microtome.features.extract import extract_all
from microtome.features.outcomes import Extracted, Failure, Job
from microtome.features.plan import ExtractOptions
from microtome.features.store import FeatureStore, features_folder_name
from microtome.slides.listing import SlideEntry
from microtome.storage import Claim
from microtome.tasks.quality import MeasuredTiles, keep_quality, measure_rows, unmeasured
from microtome.tasks.work import Work, held
from microtome.tiles.coding import ImageCoding
from microtome.tiles.grid import Grid
from microtome.tiles.save import save_tiles
from microtome.tiles.slide_tiles import SlideTiles
from microtome.tiles.store import read_tiles

_Source = TypeVar("_Source", bound=SlideTiles)


def open_source(work: Work, entry: SlideEntry) -> SlideTiles:
    """Open the laid tiles of a slide; closing the source closes the slide."""
    return _open_as(SlideTiles, work, entry)


def open_measured(work: Work, entry: SlideEntry) -> MeasuredTiles:
    """The same, measuring quality flags of what is read."""
    return _open_as(MeasuredTiles, work, entry)


def _open_as(kind: type[_Source], work: Work, entry: SlideEntry) -> _Source:
    tiles = read_tiles(work.folder.tiles(entry.slide_id))
    decode = work.config.decode if isinstance(work.config, TileConfig) else "exact"
    with ExitStack() as undo:
        slide = undo.enter_context(work.open(entry))
        source = kind(slide, tiles, entry.slide_id, decode=decode)
        undo.pop_all()  # the source closes the slide
    return source


def extract_options(config: FeatureConfig) -> ExtractOptions:
    """The settings of the extraction loop."""
    return ExtractOptions(
        batch_size=config.batch_size,
        workers=config.workers,
        memory_bytes=config.memory_bytes,
        n_tiles=config.n_tiles,
        seed=config.seed,
        min_coverage=config.min_coverage,
        overwrite=config.overwrite,
        allow_mpp_mismatch=config.allow_mpp_mismatch,
    )


def extract_slides(work: Work, config: FeatureConfig, encoder: Encoder, grid: Grid) -> FeatureStore:
    """Extract the features of all slides still in the job.

    Returns:
        The store that holds them.
    """
    name = features_folder_name(encoder.card.name, grid.tile_px, grid.mpp, level=grid.level)
    store = FeatureStore(work.folder.features(name))
    opened: dict[str, MeasuredTiles] = {}

    def open_job(entry: SlideEntry) -> SlideTiles:
        if not config.quality_flags:
            return open_source(work, entry)
        opened[entry.slide_id] = source = open_measured(work, entry)
        return source

    def settle(outcome: Extracted | Failure) -> None:
        note_outcome(work, outcome)
        source = opened.pop(outcome.slide_id, None)
        if source is not None and isinstance(outcome, Extracted):
            try:
                keep_flags(work, outcome, source.quality, store[outcome.slide_id])
            except (MicrotomeError, OSError) as error:
                work.fail(outcome.slide_id, "quality flags", error)

    jobs = [Job(entry.slide_id, partial(open_job, entry)) for entry in work.alive]
    with work.stage("features", len(jobs)):
        extract_all(
            jobs, encoder, store, extract_options(config), on_done=settle, progress=work.progress, stop=work.stop
        )
    return store


def extract_jobs(work: Work, encoder: Encoder, store: FeatureStore, jobs: list[Job], options: ExtractOptions) -> None:
    """Extract features of tiles that were not laid here, and enter the outcomes in the books."""
    with work.stage("features", len(jobs)):
        note = partial(note_outcome, work)
        extract_all(jobs, encoder, store, options, on_done=note, progress=work.progress, stop=work.stop)


def note_outcome(work: Work, outcome: Extracted | Failure) -> None:
    """Enter one slide's outcome in the books."""
    if isinstance(outcome, Failure):
        work.fail(outcome.slide_id, f"features ({outcome.stage})", outcome.error)
        return
    row = work.rows[outcome.slide_id]
    row.n_tiles, row.n_unreadable = outcome.n_tiles, outcome.n_unreadable
    row.seconds += outcome.seconds
    work.finished.add(outcome.slide_id)
    if outcome.status == "done":
        work.worked.add(outcome.slide_id)


def keep_flags(work: Work, outcome: Extracted, measured: dict[str, Float32[np.ndarray, " n"]], bag: Bag) -> None:
    """Store a slide's quality flags; tiles that an earlier, broken-off run had read are read again for them."""
    path = work.folder.tiles(outcome.slide_id)
    rows = np.arange(len(next(iter(measured.values())))) if bag.rows is None else bag.rows
    if len(unmeasured(path, rows)):
        with held(path):  # another process may be at the same
            _add_flags(work, outcome, measured, rows)


def _add_flags(
    work: Work, outcome: Extracted, measured: dict[str, Float32[np.ndarray, " n"]], rows: Int64[np.ndarray, " k"]
) -> None:
    path = work.folder.tiles(outcome.slide_id)
    missing = unmeasured(path, rows)
    if len(missing) == 0:
        return
    still = missing[np.isnan(next(iter(measured.values()))[missing])]
    if len(still):
        entry = next(e for e in work.entries if e.slide_id == outcome.slide_id)
        with open_measured(work, entry) as source:
            measure_rows(source, still)
            measured = {
                name: np.where(np.isnan(values), source.quality[name], values) for name, values in measured.items()
            }
    keep_quality(path, outcome.slide_id, measured)


def measure_slide(work: Work, entry: SlideEntry) -> bool:
    """Measure the quality flags of all tiles of a slide, without features; those that are there are kept."""
    path = work.folder.tiles(entry.slide_id)
    with open_measured(work, entry) as source, Claim(path):
        missing = unmeasured(path, np.arange(len(source)))
        if len(missing) == 0:
            return False
        measure_rows(source, missing)
        keep_quality(path, entry.slide_id, source.quality)
    return True


def save_tile_images(work: Work, entry: SlideEntry) -> bool:
    """Write the tile images of a slide; those that are there already are kept."""
    config = work.config
    if not isinstance(config, TileConfig):
        raise ConfigError("Tile images need the settings of tiles.")
    with open_source(work, entry) as source:
        saved = save_tiles(
            source,
            work.folder.tile_images(entry.slide_id),
            coding=ImageCoding(config.tile_format, config.tile_quality, config.tile_passthrough),
            workers=1,  # slides are worked on at once
            overwrite=config.overwrite,
            progress=lambda n: work.progress.advance(n_tiles=n),
        )
    work.rows[entry.slide_id].n_unreadable = saved.n_unreadable
    return saved.status == "done"
