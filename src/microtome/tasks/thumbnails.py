"""The pictures of a slide: plain, and with tissue outline and tiles. For eyes only: nothing computes from them.

So a part that cannot be decoded does not cost the slide its features: it is striped, counted and noted.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress

import numpy as np
from jaxtyping import Bool, UInt8

from microtome.config import SlideOptions
from microtome.errors import MicrotomeError, UnreadableRegionError
from microtome.geometry import Box, Size
from microtome.slides.base import Slide
from microtome.slides.listing import SlideEntry
from microtome.slides.view import display_image
from microtome.storage import Claim, digest, remove_leftovers, write_json
from microtome.tasks.output import OutputFolder
from microtome.tasks.stages import check_unchanged, read_outline
from microtome.tasks.work import Work, open_entry
from microtome.tiles.store import read_tiles

_PART_PX = 32
_STRIPE_PX = 8
_STRIPES = np.array([[0, 0, 0], [255, 220, 0]], np.uint8)


def draw_slide(work: Work, entry: SlideEntry, *, with_tiles: bool) -> bool:
    """Write the thumbnails, unless those there show the same."""
    from microtome.viz.overlay import draw_thumbnail

    folder, slide_id = work.folder, entry.slide_id
    tiles = read_tiles(folder.tiles(slide_id)) if with_tiles else None
    with work.open(entry) as slide:
        tissue = read_outline(work, slide_id, slide)
        shows = digest(
            {
                "slide": slide.fingerprint,
                "tissue": tissue.digest,
                "boxes": None if tiles is None else tiles.boxes,
                "max_px": work.config.thumbnail_px,
            }
        )
        frame = folder.thumbnail_frame(slide_id)
        if _drawn(folder, slide_id, shows) is None:
            with Claim(frame):
                if _drawn(folder, slide_id, shows) is None:  # nor by another process meanwhile
                    plain, n_lost = readable_thumbnail(slide, work.config.thumbnail_px)
                    check_unchanged(slide)
                    box = [slide.bounds.x, slide.bounds.y, slide.bounds.width, slide.bounds.height]
                    drawn = draw_thumbnail(plain, slide.bounds, tissue, None if tiles is None else tiles.boxes)
                    _write(folder, slide_id, plain, drawn, {"box": box, "shows": shows, "unreadable_parts": n_lost})
        Claim(frame).remove_if_dead()
    n_lost = _drawn(folder, slide_id, shows) or 0
    if n_lost:
        work.record.notes.append(
            f"The thumbnail of slide {slide_id} has {n_lost} striped part(s) of {_PART_PX} px that cannot be decoded."
        )
    return False


def draw_failed(work: Work) -> None:
    """Write the plain picture of slides that failed but can be opened, so that one can see why they did."""
    alive = {entry.slide_id for entry in work.alive}
    for entry in work.entries:
        path = work.folder.thumbnail_frame(entry.slide_id)
        if entry.slide_id in alive or work.stop.is_set():
            continue
        if path.exists():
            Claim(path).remove_if_dead()
            continue
        # without the given mpp, which may be what it failed for; a picture needs none
        with suppress(MicrotomeError, OSError), open_entry(entry, SlideOptions(reader=work.config.reader)) as slide:
            plain, n_lost = readable_thumbnail(slide, work.config.thumbnail_px)
            shows = digest({"slide": slide.fingerprint, "failed": True})
            box = [slide.bounds.x, slide.bounds.y, slide.bounds.width, slide.bounds.height]
            frame = {"box": box, "shows": shows, "unreadable_parts": n_lost}
            with Claim(path):
                _write(work.folder, entry.slide_id, plain, plain, frame)


def readable_thumbnail(slide: Slide, max_px: int) -> tuple[UInt8[np.ndarray, "h w 3"], int]:
    """The scanned part of a slide, to look at; black and yellow stripes where it cannot be decoded.

    Args:
        slide: The slide.
        max_px: Longest side.

    Returns:
        The picture, and how many of its parts (squares of 32 px) are striped.
    """
    with suppress(UnreadableRegionError):
        return slide.thumbnail(max_px), 0
    size, raw = slide.bounds.size.fitted(max_px), slide.view is None and not slide.is_rgb
    n_channels, dtype = (len(slide.channels), slide.dtype) if raw else (3, np.dtype(np.uint8))
    pixels = np.zeros((size.height, size.width, n_channels), dtype)
    lost = np.zeros((size.height, size.width), bool)
    n_lost = 0
    for part, box in _parts(slide.bounds, size):
        place = np.s_[part.y : part.bottom, part.x : part.right]
        try:
            pixels[place] = (slide.read_raw if raw else slide.read)(box, size=part.size)
        except UnreadableRegionError:
            n_lost, lost[place] = n_lost + 1, True
    image = display_image(pixels, rgb=slide.channels == ("R", "G", "B")) if raw else pixels
    return _striped(image, lost), n_lost


def _parts(bounds: Box, size: Size) -> Iterator[tuple[Box, Box]]:
    """Squares of a picture of ``bounds``, each with its box in level-0 pixels."""
    for y in range(0, size.height, _PART_PX):
        for x in range(0, size.width, _PART_PX):
            part = Box(x, y, min(_PART_PX, size.width - x), min(_PART_PX, size.height - y))
            left, right = (round(v * bounds.width / size.width) for v in (part.x, part.right))
            top, bottom = (round(v * bounds.height / size.height) for v in (part.y, part.bottom))
            yield part, Box(bounds.x + left, bounds.y + top, max(1, right - left), max(1, bottom - top))


def _striped(image: UInt8[np.ndarray, "h w 3"], where: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    y, x = np.indices(where.shape)
    stripes = _STRIPES[(x + y) // _STRIPE_PX % 2]
    return np.where(where[:, :, None], stripes, image)


def _write(
    folder: OutputFolder,
    slide_id: str,
    plain: UInt8[np.ndarray, "h w 3"],
    drawn: UInt8[np.ndarray, "h w 3"],
    frame: Mapping[str, object],
) -> None:
    """Write both pictures, then the frame, which says that they are whole."""
    from microtome.viz.overlay import write_jpeg

    files = {folder.plain_thumbnail(slide_id): plain, folder.thumbnail(slide_id): drawn}
    for path, image in files.items():
        remove_leftovers(path)
        write_jpeg(path, image)
    sizes = {path.name: path.stat().st_size for path in files}
    size = [plain.shape[1], plain.shape[0]]
    write_json(folder.thumbnail_frame(slide_id), {**frame, "size": size, "bytes": sizes})


def _drawn(folder: OutputFolder, slide_id: str, shows: str) -> int | None:
    """How many parts of the pictures that are there are striped; None if they are to be drawn (again)."""
    files = folder.plain_thumbnail(slide_id), folder.thumbnail(slide_id)
    try:
        frame = json.loads(folder.thumbnail_frame(slide_id).read_text(encoding="utf-8"))
        whole = frame["bytes"] == {path.name: path.stat().st_size for path in files}
        return int(frame["unreadable_parts"]) if whole and frame["shows"] == shows else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # absent or not ours
