"""Features of tiles that somebody else laid on slides: HistoSSL's, CLAM's, Trident's and HistoPrep's coordinates."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from microtome.config import ExtractConfig
from microtome.encoders.base import Encoder
from microtome.errors import ConfigError, TileError
from microtome.features.histossl_store import HistoSSLStore, slide_features_path
from microtome.features.outcomes import Job
from microtome.features.store import FeatureStore, features_folder_name
from microtome.slides.base import Slide
from microtome.slides.listing import SlideEntry
from microtome.tasks import stages
from microtome.tasks.extraction import extract_jobs, extract_options
from microtome.tasks.work import Work
from microtome.tiles.coords_files import (
    CoordsFile,
    CoordsFolder,
    chosen_tiles,
    find_coords,
    read_addresses,
    read_supplied_tiles,
)
from microtome.tiles.deepzoom import DeepZoomTiles
from microtome.tiles.random_access import RandomAccessTiles
from microtome.tiles.slide_tiles import SlideTiles

HISTOSSL_SEED = 42
"""What HistoSSL's script seeds its generator with, whatever seed it is told."""


@dataclass(frozen=True, slots=True)
class Placed:
    """The coordinates of a slide, once they are found to be its own: the file, how many tiles, of which side."""

    file: CoordsFile
    n_tiles: int
    tile_px: int


@dataclass
class _Coords:
    """What is known of the slides' coordinates while they are worked on."""

    folder: CoordsFolder
    config: ExtractConfig
    default_px: int
    placed: dict[str, Placed] = field(default_factory=dict)

    def note(self, work: Work, entry: SlideEntry) -> bool:
        """Find and check the coordinates of a slide."""
        file = self.folder.find((entry.path.name, entry.path.stem, entry.slide_id))
        with work.open(entry) as slide, self.open(slide, file, entry.slide_id) as source:
            self.placed[entry.slide_id] = Placed(file, len(source), source.tile_shape[1])
        work.rows[entry.slide_id].n_tiles = len(source)
        return False

    def open(
        self, slide: Slide, file: CoordsFile, slide_id: str, rows: Int64[np.ndarray, " k"] | None = None
    ) -> RandomAccessTiles:
        """The tiles of a slide, or some of them in the order given."""
        if file.kind == "deepzoom":
            tile_px = self._side(file)
            addresses = read_addresses(file.path, slide, tile_px)
            self._check_count(file, slide_id, len(addresses))
            return DeepZoomTiles(
                slide, addresses if rows is None else addresses[rows], tile_px=tile_px, slide_id=slide_id
            )
        if self.config.layout == "histossl":
            raise TileError(
                f"'{file.path}' has no DeepZoom addresses, which layout histossl stores. Use the layout microtome."
            )
        tiles, fill = read_supplied_tiles(file, slide)
        self._check_count(file, slide_id, len(tiles))
        if self.config.tile_px not in (None, tiles.tile_px):
            raise TileError(
                f"'{file.path}' has tiles of {tiles.tile_px} px; {self.config.tile_px} were asked for. Leave --tile-px "
                "out: an encoder that takes another size resizes them, if its card says so."
            )
        return SlideTiles(slide, tiles if rows is None else chosen_tiles(tiles, rows), slide_id, fill=fill)

    def _check_count(self, file: CoordsFile, slide_id: str, n: int) -> None:
        if slide_id in self.placed and self.placed[slide_id].n_tiles != n:
            raise TileError(f"Coordinates '{file.path}' were changed while the run was under way. Run again.")

    def _side(self, file: CoordsFile) -> int:
        """Side of DeepZoom tiles: as asked for, or as the folder says, or as the encoder wants it."""
        asked = self.config.tile_px
        if asked is not None and file.tile_px not in (None, asked):
            raise TileError(
                f"'{file.path}' is of tiles of {file.tile_px} px, as its folder says; {asked} were asked for. Pass "
                f"--tile-px {file.tile_px}, or the folder coords_{asked}."
            )
        return asked or file.tile_px or self.default_px


def extract_coords(work: Work, config: ExtractConfig, encoder: Encoder) -> FeatureStore:
    """Extract the features of supplied tiles of all slides; a slide whose coordinates will not do fails alone.

    Args:
        work: The job.
        config: Its settings; ``coords`` is given.
        encoder: What encodes tiles.

    Returns:
        The store that holds the features.

    Raises:
        NoTilesError: If the folder holds no coordinates at all.
        ConfigError: If one file is named for several slides.
    """
    if config.coords is None:
        raise ConfigError("Pass coords.")
    default_px = encoder.card.tile_px
    coords = _Coords(find_coords(config.coords, tile_px=config.tile_px or default_px), config, default_px)
    if config.coords.is_file() and len(work.entries) > 1:
        raise ConfigError(f"'{config.coords}' is of one slide; there are {len(work.entries)}. Name a folder.")
    work.each("inspect", partial(stages.inspect_slide, work, needs_mpp=False, card=encoder.card))
    work.each("coordinates", partial(coords.note, work))
    _refuse_shared(work, coords.placed)
    tile_px = common_side(work, {name: place.tile_px for name, place in coords.placed.items()}, config.tile_px)
    counts = {entry.slide_id: coords.placed[entry.slide_id].n_tiles for entry in work.alive}
    rows = draw_rows(config, counts)

    def open_job(entry: SlideEntry) -> RandomAccessTiles:
        place = coords.placed[entry.slide_id]
        slide = work.open(entry)
        try:
            source = coords.open(slide, place.file, entry.slide_id, rows.get(entry.slide_id))
        except BaseException:
            slide.close()
            raise
        return source

    jobs = [Job(entry.slide_id, partial(open_job, entry)) for entry in work.alive]
    store = _store(work, config, encoder, coords, tile_px)
    options = extract_options(config)
    extract_jobs(work, encoder, store, jobs, replace(options, n_tiles=None) if rows else options)
    return store


def draw_rows(config: ExtractConfig, counts: Mapping[str, int]) -> dict[str, Int64[np.ndarray, " k"]]:
    """Which tiles of each slide are taken, where that is not for the extraction loop to draw.

    Args:
        config: Its ``sampling`` and ``n_tiles``.
        counts: Number of tiles of each slide, in the order of the slides.

    Returns:
        Rows of each slide's tiles, in the order in which they are encoded; empty where the loop draws.

    References:
        HistoSSL (73f1d19), specification section 2: for each slide in turn, the first n of
        ``numpy.random.permutation(N)`` of one generator seeded with 42, also where all N are taken. Slides are drawn
        for in the order given, those that are finished included; the original leaves these out, so that a resumed
        run of it draws other tiles than one that was never stopped.
    """
    if config.sampling == "slide":
        return {}
    generator = np.random.RandomState(HISTOSSL_SEED)
    rows = {}
    for slide_id, count in counts.items():
        order = generator.permutation(count) if config.sampling == "histossl" else np.arange(count)
        rows[slide_id] = order[: config.n_tiles].astype(np.int64)
    return rows


def common_side(work: Work, sides: Mapping[str, int], asked: int | None) -> int:
    """The one size that tiles have in a folder of features; slides whose tiles have another one fail.

    Args:
        work: The job.
        sides: Side of the tiles of each slide, in output pixels.
        asked: The side that was asked for; None for that of the first slide.
    """
    side = asked or next((sides[entry.slide_id] for entry in work.alive), 0)
    for entry in work.alive:
        if sides[entry.slide_id] != side:
            reason = f"Its tiles have {sides[entry.slide_id]} px, those of the first slide {side} px. Do it by itself."
            work.fail(entry.slide_id, "tiles", TileError(reason))
    return side


def _refuse_shared(work: Work, placed: Mapping[str, Placed]) -> None:
    """A file of coordinates is of one slide."""
    users: dict[Path, list[str]] = {}
    for entry in work.alive:
        users.setdefault(placed[entry.slide_id].file.path, []).append(entry.slide_id)
    for path, slide_ids in users.items():
        for slide_id in slide_ids if len(slide_ids) > 1 else ():
            reason = f"'{path}' is taken for the coordinates of several slides: {', '.join(slide_ids)}. Rename them."
            work.fail(slide_id, "coordinates", TileError(reason))


def _store(work: Work, config: ExtractConfig, encoder: Encoder, coords: _Coords, tile_px: int) -> FeatureStore:
    name = encoder.card.name
    if config.layout == "microtome":
        return FeatureStore(work.folder.features(features_folder_name(name, tile_px, None, laid="coords")))
    paths = {}
    for entry in work.alive:
        folder = coords.placed[entry.slide_id].file.folder
        if coords.folder.root.is_file() and folder.name not in (entry.path.name, entry.slide_id):
            folder = Path(entry.path.name)  # one file, wherever it lay
        paths[entry.slide_id] = slide_features_path(work.folder.root, name, folder)
    return HistoSSLStore(work.folder.root, paths)
