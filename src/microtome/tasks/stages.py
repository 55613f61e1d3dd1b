"""What each stage of the main job does to one slide.

A step returns whether it had to do anything. An output whose recipe is the present one is left alone; one made with
other settings is an error unless ``overwrite``, because it may have taken a night; a tissue outline without a recipe
is a person's and is used as it is.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from microtome.config import TileConfig, TissueConfig
from microtome.encoders.base import Card
from microtome.errors import ConfigError, ModalityError, NoTissueError, RecipeMismatchError
from microtome.slides.base import Slide
from microtome.slides.listing import SlideEntry
from microtome.storage import Claim, digest, recipe_changes, recipe_text
from microtome.tasks.work import Work, open_entry
from microtome.tiles.grid import Grid, lay_tiles
from microtome.tiles.store import read_tiles, read_tiles_recipe, write_tiles
from microtome.tissue.find import TISSUE_METHODS, TissueMethod, find_tissue, tissue_recipe
from microtome.tissue.tissue import Tissue, read_tissue


def tissue_method(config: TissueConfig) -> TissueMethod:
    """The method that the settings name, with its parameters.

    Raises:
        ConfigError: If the method or a parameter is unknown, or a value is not allowed.
    """
    kind = TISSUE_METHODS.get(config.tissue_method)
    if kind is None:
        raise ConfigError(f"tissue_method must be one of {', '.join(TISSUE_METHODS)}. Got {config.tissue_method!r}.")
    return kind.from_parameters(config.tissue_parameters)


def tile_grid(config: TileConfig, card: Card | None) -> Grid:
    """The grid that the settings ask for; what they leave open is what the encoder was made for."""
    default = Grid()
    tile_px = config.tile_px or (card.tile_px if card else default.tile_px)
    mpp = config.tile_mpp or (card.mpp[0] if card and card.mpp else default.mpp)
    return Grid(
        tile_px=tile_px,
        mpp=None if config.level is not None else mpp,
        stride_px=config.stride_px,
        min_tissue=config.min_tissue,
        level=config.level,
        anchor=config.anchor,
        bounds=config.bounds,
    )


def check_recipe(path: Path, stored: str, wanted: Mapping[str, object], *, overwrite: bool) -> bool:
    """Whether what is at ``path`` is what is wanted.

    Raises:
        RecipeMismatchError: If it was made otherwise and may not be redone.
    """
    text = recipe_text(wanted)
    if stored == text:
        return True
    if overwrite:
        return False
    raise RecipeMismatchError(
        f"'{path}' was made with other settings ({'; '.join(recipe_changes(stored, text)[:4])}). Pass --overwrite "
        "to redo it and what depends on it, or another --out."
    )


def inspect_slide(work: Work, entry: SlideEntry, *, needs_mpp: bool, card: Card | None) -> bool:
    """Open the slide, note what it is, and fail now what could only fail later."""
    with open_entry(entry, work.config) as slide:
        row = work.rows[entry.slide_id]
        row.reader, row.width, row.height = slide.reader, slide.size.width, slide.size.height
        row.mpp, row.mpp_source = slide.resolution.mpp, slide.mpp_source
        check_slide(slide, needs_mpp=needs_mpp, card=card)
    return False


def check_slide(slide: Slide, *, needs_mpp: bool, card: Card | None) -> None:
    """Raise now what a later stage would raise: an unknown resolution, pixels that the encoder cannot take."""
    if needs_mpp:
        _ = slide.mpp
    if card is not None and slide.modality != card.modality:
        raise ModalityError(
            f"Slide '{slide.path.name}' is {_kind(slide)}, but encoder '{card.name}' takes {card.modality} RGB. Pass "
            "--channels (and, unless it is 8-bit, --window LOW,HIGH) to say how to see it as bright-field RGB, or "
            "choose an encoder made for it."
        )


def _kind(slide: Slide) -> str:
    if slide.modality == "multichannel":
        return f"{len(slide.channels)} channel(s) of {slide.dtype} ({', '.join(slide.channels)[:120]})"
    return f"{slide.modality} (dark background)"


def outline_tissue(work: Work, entry: SlideEntry, method: TissueMethod) -> bool:
    """Write ``tissue/<slide_id>.geojson``, unless it is there."""
    path, config, row = work.folder.tissue(entry.slide_id), work.config, work.rows[entry.slide_id]
    with open_entry(entry, config) as slide:
        given = given_outline(config.tissue_from, entry.slide_id)
        wanted = tissue_recipe(slide, method) if given is None else imported_recipe(slide, given)
        if path.exists():
            there = read_tissue(path)
            if not there.recipe_text or check_recipe(path, there.recipe_text, wanted, overwrite=config.overwrite):
                row.tissue_mm2 = there.area_mm2
                return False
        with Claim(path):
            if given is None:
                tissue = find_tissue(slide, method=method, allow_empty=config.allow_empty)
            else:
                tissue = import_tissue(slide, given, allow_empty=config.allow_empty)
            tissue.to_geojson(path)
            row.tissue_mm2 = tissue.area_mm2
    return True


def given_outline(source: Path | None, slide_id: str) -> Path | None:
    """The file of ``tissue_from`` that belongs to a slide; None where outlines are to be found.

    Raises:
        NoTissueError: If outlines are to be imported and this slide's is not there.
    """
    if source is None:
        return None
    if source.is_file():
        return source
    for suffix in (".geojson", ".json", ".png"):
        path = source / f"{slide_id}{suffix}"
        if path.is_file():
            return path
    raise NoTissueError(
        f"'{source}' holds no {slide_id}.geojson, .json or .png. Add it, or leave --tissue-from out to find tissue."
    )


def lay_slide(work: Work, entry: SlideEntry, grid: Grid) -> bool:
    """Write ``tiles/<slide_id>.h5``, unless it is there."""
    path, config, row = work.folder.tiles(entry.slide_id), work.config, work.rows[entry.slide_id]
    with open_entry(entry, config) as slide:
        tissue = read_outline(work, entry.slide_id, slide)
        wanted = tiles_recipe(slide, tissue, grid)
        if path.exists() and check_recipe(path, read_tiles_recipe(path), wanted, overwrite=config.overwrite):
            row.n_tiles = len(read_tiles(path))
            return False
        with Claim(path):
            tiles = lay_tiles(slide, tissue, grid, allow_empty=config.allow_empty)
            write_tiles(path, tiles, slide_id=entry.slide_id, recipe=wanted)
            row.n_tiles = len(tiles)
    return True


def read_outline(work: Work, slide_id: str, slide: Slide) -> Tissue:
    """The slide's outline as it is in the folder, a person's included."""
    return read_tissue(work.folder.tissue(slide_id), size=slide.size, mpp=slide.resolution.mpp)


def tiles_recipe(slide: Slide, tissue: Tissue, grid: Grid) -> dict[str, object]:
    """What decides where tiles lie, known before they are laid."""
    return {
        "slide": slide.fingerprint,
        "slide_size": [slide.size.width, slide.size.height],
        "slide_mpp": slide.resolution.mpp,
        "tissue": tissue.digest,
        **{f"grid_{key}": value for key, value in asdict(grid).items()},
    }


def draw_slide(work: Work, entry: SlideEntry, *, with_tiles: bool) -> bool:
    """Write the thumbnails, unless those there show the same."""
    from microtome.storage import write_json
    from microtome.viz.overlay import draw_thumbnail, write_jpeg

    folder, slide_id = work.folder, entry.slide_id
    tiles = read_tiles(folder.tiles(slide_id)) if with_tiles else None
    with open_entry(entry, work.config) as slide:
        tissue = read_outline(work, slide_id, slide)
        shows = digest(
            {
                "slide": slide.fingerprint,
                "tissue": tissue.digest,
                "boxes": None if tiles is None else tiles.boxes,
                "max_px": work.config.thumbnail_px,
            }
        )
        if _frame_shows(folder.thumbnail_frame(slide_id)) == shows and folder.thumbnail(slide_id).exists():
            return False
        image = slide.thumbnail(work.config.thumbnail_px)
        box = slide.bounds
    drawn = draw_thumbnail(image, box, tissue, None if tiles is None else tiles.boxes)
    write_jpeg(folder.plain_thumbnail(slide_id), image)
    write_jpeg(folder.thumbnail(slide_id), drawn)
    size = [image.shape[1], image.shape[0]]
    # last, since it says that the others are whole
    write_json(
        folder.thumbnail_frame(slide_id),
        {"box": [box.x, box.y, box.width, box.height], "size": size, "shows": shows},
    )
    return False


def _frame_shows(path: Path) -> str:
    import json

    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["shows"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # absent or not ours: draw again


def imported_recipe(slide: Slide, path: Path) -> dict[str, object]:
    """What decides an imported outline: the slide and the file's content."""
    from microtome.storage import hash_file

    return {**slide.recipe, "method": "imported", "file_sha256": hash_file(path)}


def import_tissue(slide: Slide, path: Path, *, allow_empty: bool) -> Tissue:
    """Read a person's outline: GeoJSON in level-0 pixels, or a mask image that covers the whole slide.

    Raises:
        NoTissueError: If it outlines nothing.
    """
    from microtome.tissue.find import import_outline

    return import_outline(slide, path, recipe=imported_recipe(slide, path), allow_empty=allow_empty)
