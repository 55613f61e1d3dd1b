"""Features of tile images: published sets of labelled tiles, and slides as HistoPrep cut them."""

import csv
import io
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from microtome.config import ExtractConfig
from microtome.encoders.base import Card, Encoder
from microtome.errors import ConfigError, MissingMppError, NoTilesError, TileError
from microtome.features.histossl_store import HistoSSLStore, tile_features_path
from microtome.features.outcomes import Job
from microtome.features.store import FeatureStore, features_folder_name
from microtome.slides.listing import SlideEntry
from microtome.storage import safe_name, write_text
from microtome.tasks.coords import common_side
from microtome.tasks.extraction import extract_jobs, extract_options
from microtome.tasks.work import Work
from microtome.tiles.folder import METADATA, ImageFiles, TileFolder
from microtome.tiles.tile_set import TileSet, is_histoprep

HISTOSSL_TILE_PX = 224
"""The side to which HistoSSL resizes every tile image."""


def list_tile_sets(config: ExtractConfig) -> list[SlideEntry]:
    """The sets of tiles that the settings name: the folder, or each slide of a folder of HistoPrep's.

    Raises:
        NoTilesError: If there is no such folder, or no slide in it.
        ConfigError: If its name cannot be a file name, or the layouts do not go together.
    """
    if config.tiles is None:
        raise ConfigError("Pass tiles.")
    root = config.tiles.absolute()
    if not root.is_dir():
        raise NoTilesError(f"'{root}' is not a folder of tiles.")
    if not _of_slides(config, root):
        return [SlideEntry(safe_name(root.name, what=f"The name of '{root}',"), root)]
    if config.layout == "histossl":
        raise ConfigError("Tiles of HistoPrep have no place in the layout histossl. Use the layout microtome.")
    folders = [root] if _is_slide(root) else [folder for folder in sorted(root.iterdir()) if _is_slide(folder)]
    if not folders:
        raise NoTilesError(f"'{root}' holds no slide of HistoPrep: no folder with {METADATA} or tiles/ in it.")
    return [SlideEntry(safe_name(folder.name, what=f"The name of '{folder}',"), folder) for folder in folders]


def tile_mpp(config: ExtractConfig, card: Card) -> tuple[float | None, str]:
    """The resolution of tile images, which they do not say themselves, and who said it.

    Raises:
        MissingMppError: If nobody does and the encoder was made for one.
        ConfigError: If the card is to say it and says none, or several.
    """
    if config.assume_card_mpp:
        if config.mpp is not None or len(card.mpp) != 1:
            made = ", ".join(f"{mpp:g}" for mpp in card.mpp) or "any resolution"
            raise ConfigError(
                f"assume_card_mpp needs an encoder made for one resolution, and no mpp beside it. Encoder "
                f"'{card.name}' was made for {made}; got mpp {config.mpp}. Pass --mpp alone."
            )
        return card.mpp[0], "assumed: card"
    if config.mpp is None and card.mpp:
        raise MissingMppError(
            f"Tile images do not say their resolution, and encoder '{card.name}' was made for "
            f"{', '.join(f'{mpp:g}' for mpp in card.mpp)} µm/px. Pass --mpp, or --assume-card-mpp."
        )
    return config.mpp, "unknown" if config.mpp is None else "--mpp"


@dataclass
class _Sets:
    """The sets of tiles while they are worked on."""

    config: ExtractConfig
    mpp: tuple[float | None, str]
    sides: dict[str, int] = field(default_factory=dict)
    opened: dict[str, ImageFiles] = field(default_factory=dict)

    def note(self, work: Work, entry: SlideEntry) -> bool:
        """Look at a set, and write its table."""
        source = self.open(entry)
        row = work.rows[entry.slide_id]
        row.reader, row.n_tiles = "tile images", len(source)
        row.mpp, row.mpp_source = self.mpp
        if isinstance(source, TileSet):
            _write_table(work.folder.tile_table(entry.slide_id), source)
        self.sides[entry.slide_id] = source.tile_shape[1]
        self.opened[entry.slide_id] = source
        return False

    def open(self, entry: SlideEntry) -> ImageFiles:
        """The tiles; those that were looked at are not listed a second time."""
        if entry.slide_id in self.opened:
            return self.opened.pop(entry.slide_id)
        layout, tile_px = self.config.tiles_layout, self.config.tile_px
        mpp, source = self.mpp
        if layout == "histoprep" or (layout == "auto" and is_histoprep(entry.path)):
            tiles = TileFolder(entry.path, slide_id=entry.slide_id, mpp=mpp)
            if tile_px not in (None, tiles.tile_shape[1]):
                raise TileError(f"The tiles of '{entry.path}' have {tiles.tile_shape[1]} px. Leave --tile-px out.")
            return tiles
        if self.config.layout == "histossl" and tile_px is None:
            tile_px = HISTOSSL_TILE_PX
        return TileSet(entry.path, layout, slide_id=entry.slide_id, tile_px=tile_px, mpp=mpp, mpp_source=source)


def extract_tile_sets(work: Work, config: ExtractConfig, encoder: Encoder) -> FeatureStore:
    """Extract the features of tile images.

    Args:
        work: The job; its entries are those of :func:`list_tile_sets`.
        config: Its settings; ``tiles`` is given.
        encoder: What encodes tiles.

    Returns:
        The store that holds the features.

    Raises:
        MissingMppError: If nobody says the images' resolution and the encoder was made for one.
        ConfigError: If the encoder's card is to say it and cannot.
    """
    mpp, _ = sets_mpp = tile_mpp(config, encoder.card)
    sets = _Sets(config, sets_mpp)
    work.each("tiles", partial(sets.note, work))
    tile_px = common_side(work, sets.sides, None)
    name = encoder.card.name
    if config.layout == "histossl":
        paths = {e.slide_id: tile_features_path(work.folder.root, name, e.slide_id) for e in work.alive}
        store: FeatureStore = HistoSSLStore(work.folder.root, paths)
    else:
        laid = "tiles" if mpp is None else None
        store = FeatureStore(work.folder.features(features_folder_name(name, tile_px, mpp, laid=laid)))
    jobs = [Job(entry.slide_id, partial(sets.open, entry)) for entry in work.alive]
    extract_jobs(work, encoder, store, jobs, extract_options(config))
    return store


def _of_slides(config: ExtractConfig, root: Path) -> bool:
    return config.tiles_layout == "histoprep" or (config.tiles_layout == "auto" and is_histoprep(root))


def _is_slide(folder: Path) -> bool:
    return folder.is_dir() and ((folder / METADATA).is_file() or (folder / "tiles").is_dir())


def _write_table(path: Path, tiles: TileSet) -> None:
    """Write the table of a set, unless it is there as it is."""
    columns, rows = tiles.table
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("row", *columns))
    writer.writerows((index, *row) for index, row in enumerate(rows))
    if not path.is_file() or path.read_bytes() != text.getvalue().encode():
        write_text(path, text.getvalue())
