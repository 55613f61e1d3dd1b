"""Tiles to features for every slide of a job, and tile images where they are asked for."""

from functools import partial

from microtome.config import ExtractConfig, TileConfig
from microtome.encoders.base import Encoder
from microtome.errors import ConfigError
from microtome.features.extract import extract_all
from microtome.features.outcomes import Extracted, Failure, Job
from microtome.features.plan import ExtractOptions
from microtome.features.store import FeatureStore, features_folder_name
from microtome.slides.listing import SlideEntry
from microtome.tasks.work import Work, open_entry
from microtome.tiles.grid import Grid
from microtome.tiles.save import save_tiles
from microtome.tiles.slide_tiles import SlideTiles
from microtome.tiles.store import read_tiles


def open_source(work: Work, entry: SlideEntry) -> SlideTiles:
    """Open the laid tiles of a slide; closing the source closes the slide."""
    tiles = read_tiles(work.folder.tiles(entry.slide_id))
    return SlideTiles(open_entry(entry, work.config), tiles, entry.slide_id)


def extract_options(config: ExtractConfig) -> ExtractOptions:
    """The settings of the extraction loop."""
    return ExtractOptions(
        batch_size=config.batch_size,
        workers=config.workers,
        memory_bytes=config.memory_bytes,
        n_tiles=config.n_tiles,
        seed=config.seed,
        min_coverage=config.min_coverage,
        overwrite=config.overwrite,
    )


def extract_slides(work: Work, config: ExtractConfig, encoder: Encoder, grid: Grid) -> FeatureStore:
    """Extract the features of all slides still in the job.

    Returns:
        The store that holds them.
    """
    name = features_folder_name(encoder.card.name, grid.tile_px, grid.mpp, level=grid.level)
    store = FeatureStore(work.folder.features(name))
    jobs = [Job(entry.slide_id, partial(open_source, work, entry)) for entry in work.alive]
    with work.stage("features", len(jobs)):
        extract_all(
            jobs, encoder, store, extract_options(config), on_done=partial(_note, work), progress=work.progress, stop=work.stop
        )
    return store


def _note(work: Work, outcome: Extracted | Failure) -> None:
    """Enter one slide's outcome in the books."""
    if isinstance(outcome, Failure):
        work.fail(outcome.slide_id, f"features ({outcome.stage})", outcome.error)
        return
    row = work.rows[outcome.slide_id]
    row.n_tiles, row.n_unreadable = outcome.n_tiles, outcome.n_unreadable
    row.seconds += outcome.seconds
    if outcome.status == "done":
        work.worked.add(outcome.slide_id)


def save_tile_images(work: Work, entry: SlideEntry) -> bool:
    """Write the tile images of a slide; those that are there already are kept."""
    config = work.config
    if not isinstance(config, TileConfig):
        raise ConfigError("Tile images need the settings of tiles.")
    with open_source(work, entry) as source:
        saved = save_tiles(
            source,
            work.folder.tile_images(entry.slide_id),
            image_format=config.tile_format,
            quality=config.tile_quality,
            workers=1,
        )
    work.rows[entry.slide_id].n_unreadable = saved.n_unreadable
    return saved.n_written > 0
