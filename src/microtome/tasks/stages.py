"""What each stage of the main job does to one slide.

A step returns whether it had to do anything. An output whose recipe is the present one is left alone; one made with
other settings is an error unless ``overwrite``, because it may have taken a night; a tissue outline without a recipe
is a person's and is used as it is.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from microtome.config import TileConfig, TissueConfig
from microtome.encoders.base import Card
from microtome.errors import (
    AnnotationError,
    ConfigError,
    CorruptOutputError,
    ModalityError,
    NoTissueError,
    RecipeMismatchError,
    UnreadableRegionError,
)
from microtome.slides.base import Slide
from microtome.slides.file_slide import FileSlide
from microtome.slides.listing import SlideEntry
from microtome.storage import Claim, recipe_changes, recipe_text
from microtome.tasks.work import Work, set_aside
from microtome.tiles.grid import Grid, Tiles, lay_tiles
from microtome.tiles.store import read_tile_quality, read_tiles, read_tiles_recipe, write_tiles
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
        CorruptOutputError: If the stored text is none of a recipe.
    """
    text = recipe_text(wanted)
    if stored == text:
        return True
    if overwrite:
        return False
    try:
        changes = "; ".join(recipe_changes(stored, text)[:4])
    except ValueError as error:
        raise CorruptOutputError(
            f"'{path}' does not say how it was made: {error}. Delete it, or pass --overwrite, and run again."
        ) from error
    raise RecipeMismatchError(
        f"'{path}' was made with other settings ({changes}). Pass --overwrite to redo it and what depends on it, or "
        "another --out."
    )


def inspect_slide(work: Work, entry: SlideEntry, *, needs_mpp: bool, card: Card | None) -> bool:
    """Open the slide, note what it is, and fail now what could only fail later."""
    with work.open(entry) as slide:
        row = work.rows[entry.slide_id]
        row.reader, row.width, row.height = slide.reader, slide.size.width, slide.size.height
        row.reader_note = slide.reader_note or None
        row.mpp, row.mpp_source = slide.resolution.mpp, slide.mpp_source
        check_slide(slide, needs_mpp=needs_mpp, card=card)
    return False


def check_slide(slide: Slide, *, needs_mpp: bool, card: Card | None) -> None:
    """Raise now what a later stage would raise: an unknown resolution, pixels that the encoder cannot take."""
    if needs_mpp:
        _ = slide.mpp
    if card is not None and slide.modality != card.modality:
        hint = "Choose an encoder made for it."
        if card.modality == "brightfield":
            hint = (
                "Pass --channels (and, unless it is 8-bit, --window LOW,HIGH) to say how to see it as bright-field RGB,"
                " or choose an encoder made for it."
            )
        takes = "brightfield RGB" if card.modality == "brightfield" else f"{card.modality} tiles"
        raise ModalityError(
            f"Slide '{slide.path.name}' is {_kind(slide)}, but encoder '{card.name}' takes {takes}. {hint}"
        )


def _kind(slide: Slide) -> str:
    if slide.modality == "multichannel":
        return f"{len(slide.channels)} channel(s) of {slide.dtype} ({', '.join(slide.channels)[:120]})"
    return slide.modality + " (dark background)" * (slide.modality == "fluorescence")


def outline_tissue(work: Work, entry: SlideEntry, method: TissueMethod) -> bool:
    """Write ``tissue/<slide_id>.geojson``, unless it is there."""
    path, config, row = work.folder.tissue(entry.slide_id), work.config, work.rows[entry.slide_id]
    with work.open(entry) as slide:
        given = given_outline(config.tissue_from, entry.slide_id)
        wanted = tissue_recipe(slide, method) if given is None else imported_recipe(slide, given)
        tissue = _finished_tissue(path, slide, wanted, overwrite=config.overwrite)
        if made := tissue is None:
            with Claim(path):
                tissue = _finished_tissue(path, slide, wanted, overwrite=config.overwrite)  # by another process
                if made := tissue is None:
                    tissue = make_outline(slide, method, given, allow_empty=config.allow_empty)
                    check_unchanged(slide)
                    tissue.to_geojson(path)
        row.tissue_mm2 = tissue.area_mm2
    return made


def _finished_tissue(path: Path, slide: Slide, wanted: Mapping[str, object], *, overwrite: bool) -> Tissue | None:
    """The outline that is there, if it is what is wanted or a person's; None if it is to be made."""
    if not path.exists():
        return None
    try:
        there = _read_own_or_drawn(path, slide)
    except AnnotationError as error:
        if not overwrite:
            raise AnnotationError(
                f"{error} '{path}' is in the way: mend or delete it, or pass --overwrite to make it anew (what is "
                f"there is kept as '{path.name}.damaged')."
            ) from error
        set_aside(path)  # a person's work may be in it
        return None
    if there.recipe_text and not check_recipe(path, there.recipe_text, wanted, overwrite=overwrite):
        return None
    Claim(path).remove_if_dead()
    return there


def _read_own_or_drawn(path: Path, slide: Slide) -> Tissue:
    try:
        return read_tissue(path, size=slide.size, mpp=slide.resolution.mpp)
    except AnnotationError:
        with suppress(AnnotationError):
            return read_tissue(path)  # ours, of a slide of another size: the recipe will say so
        raise


def make_outline(slide: Slide, method: TissueMethod, given: Path | None, *, allow_empty: bool) -> Tissue:
    """Find tissue, or take a person's outline.

    Raises:
        NoTissueError: If there is none.
        UnreadableRegionError: If what the method looks at cannot be decoded.
    """
    if given is not None:
        return import_tissue(slide, given, allow_empty=allow_empty)
    try:
        return find_tissue(slide, method=method, allow_empty=allow_empty)
    except UnreadableRegionError as error:
        raise UnreadableRegionError(
            f"{error} Tissue is not looked for with a part missing; an outline given with --tissue-from needs no "
            "pixels."
        ) from error


def check_unchanged(slide: Slide) -> None:
    """Make sure, before writing what was made of a slide's pixels, that its file was not changed meanwhile.

    Raises:
        SlideChangedError: If it was.
    """
    if isinstance(slide, FileSlide):
        slide.check_unchanged()


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
    with work.open(entry) as slide:
        tissue = read_outline(work, entry.slide_id, slide)
        wanted = tiles_recipe(slide, tissue, grid)
        tiles = _finished_tiles(path, wanted, overwrite=config.overwrite)
        if made := tiles is None:
            with Claim(path):
                tiles = _finished_tiles(path, wanted, overwrite=config.overwrite)  # by another process
                if made := tiles is None:
                    tiles = lay_tiles(slide, tissue, grid, allow_empty=config.allow_empty)
                    write_tiles(path, tiles, slide_id=entry.slide_id, recipe=wanted)
        row.n_tiles = len(tiles)
    return made


def _finished_tiles(path: Path, wanted: Mapping[str, object], *, overwrite: bool) -> Tiles | None:
    """The tiles that are there, if they are what is wanted; None if they are to be laid."""
    if not path.exists():
        return None
    try:
        if not check_recipe(path, read_tiles_recipe(path), wanted, overwrite=overwrite):
            return None
        tiles = read_tiles(path)
        read_tile_quality(path)
    except CorruptOutputError:
        if not overwrite:
            raise
        return None
    Claim(path).remove_if_dead()
    return tiles


def read_outline(work: Work, slide_id: str, slide: Slide) -> Tissue:
    """The slide's outline as it is in the folder, a person's included."""
    return read_tissue(work.folder.tissue(slide_id), size=slide.size, mpp=slide.resolution.mpp)


def tiles_recipe(slide: Slide, tissue: Tissue, grid: Grid) -> dict[str, object]:
    """What decides where tiles lie, known before they are laid."""
    return {
        "slide": slide.fingerprint,
        "slide_size": [slide.size.width, slide.size.height],
        "slide_bounds": [slide.bounds.x, slide.bounds.y, slide.bounds.width, slide.bounds.height],
        "slide_mpp": slide.resolution.mpp,
        "tissue": tissue.digest,
        **{f"grid_{key}": value for key, value in asdict(grid).items()},
    }


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
