"""Typical tiles of clusters, in strips: one per cluster for a page to lay out, or all in one picture."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from microtome.errors import ConfigError
from microtome.viz.palette import categorical_colors, ink_on

_PAPER = 255
_ABSENT = 236  # where a cluster has fewer tiles than places
_EDGE = 205
_INK = "#202020"


@dataclass(frozen=True)
class MontageRow:
    """One cluster of a montage.

    Attributes:
        cluster: Its number, 0 and up; it decides the colour of the chip.
        caption: A line of text, such as its share of tiles.
        images: Its tiles, RGB; squares of any size.
    """

    cluster: int
    caption: str
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]]


def draw_strip(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]], *, n_places: int, tile_px: int = 96, gap_px: int = 3
) -> UInt8[np.ndarray, "t w 3"]:
    """Lay tiles side by side.

    Args:
        images: Tiles, RGB; each is brought to ``tile_px``, keeping its shape.
        n_places: Places in the strip; those without a tile are grey.
        tile_px: Side of a place, in pixels.
        gap_px: White between places, in pixels.

    Returns:
        RGB, ``tile_px`` high and ``n_places * tile_px + (n_places - 1) * gap_px`` wide.

    Raises:
        ConfigError: If there are more tiles than places, or a size is out of range.
    """
    if n_places < 1 or tile_px < 1 or gap_px < 0:
        raise ConfigError(f"A strip needs places and pixels. Got n_places={n_places}, {tile_px=}, {gap_px=}.")
    if len(images) > n_places:
        raise ConfigError(f"There are {len(images)} tiles for {n_places} places. Pass fewer, or raise n_places.")
    strip = np.full((tile_px, n_places * (tile_px + gap_px) - gap_px, 3), _PAPER, np.uint8)
    for i in range(n_places):
        x = i * (tile_px + gap_px)
        place = strip[:, x : x + tile_px]
        place[:] = _fitted(images[i], tile_px) if i < len(images) else _ABSENT
        if i < len(images):  # a blank tile is a tile
            place[[0, -1]] = place[:, [0, -1]] = _EDGE
    return strip


def draw_montage(
    rows: Sequence[MontageRow], *, tile_px: int = 96, gap_px: int = 3, n_places: int | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Draw one row per cluster: a chip of its colour with its number, its typical tiles, and a caption below.

    Args:
        rows: The clusters, top to bottom.
        tile_px: Side of a tile, in pixels.
        gap_px: White between tiles, in pixels.
        n_places: Tiles per row; None for as many as the fullest row has.

    Returns:
        RGB.

    Raises:
        ConfigError: If there is no row, or a row has more tiles than places.
    """
    if not rows:
        raise ConfigError("A montage needs at least one cluster.")
    places = max(1, *(len(row.images) for row in rows)) if n_places is None else n_places
    return np.vstack([_draw_row(row, places, tile_px, gap_px) for row in rows])


def draw_chip(cluster: int, size_px: int) -> UInt8[np.ndarray, "s s 3"]:
    """Draw a square of a cluster's colour with its number."""
    color = categorical_colors(cluster + 1)[cluster]
    chip = Image.new("RGB", (size_px, size_px), tuple(int(v) for v in color))
    text = str(cluster)
    font = ImageFont.load_default(size_px * (0.6 if len(text) < 3 else 0.4))
    ImageDraw.Draw(chip).text((size_px / 2, size_px / 2), text, fill=ink_on(color), font=font, anchor="mm")
    return np.asarray(chip)


def _draw_row(row: MontageRow, n_places: int, tile_px: int, gap_px: int) -> UInt8[np.ndarray, "h w 3"]:
    strip = draw_strip(row.images, n_places=n_places, tile_px=tile_px, gap_px=gap_px)
    text_px, margin = max(12, tile_px // 7), max(6, tile_px // 10)
    chip_px = max(20, tile_px // 3)
    font = ImageFont.load_default(text_px)
    width = chip_px + strip.shape[1] + 3 * margin
    width = max(width, chip_px + 3 * margin + round(font.getlength(row.caption)))
    page = np.full((margin + tile_px + round(1.6 * text_px), width, 3), _PAPER, np.uint8)
    left = chip_px + 2 * margin
    page[margin : margin + chip_px, margin : margin + chip_px] = draw_chip(row.cluster, chip_px)
    page[margin : margin + tile_px, left : left + strip.shape[1]] = strip
    drawing = Image.fromarray(page)
    place = (left, margin + tile_px + round(0.2 * text_px))
    ImageDraw.Draw(drawing).text(place, row.caption, fill=_INK, font=font)
    return np.asarray(drawing)


def _fitted(image: UInt8[np.ndarray, "_ _ 3"], side: int) -> UInt8[np.ndarray, "s s 3"]:
    """Bring an image into a square, centred on white."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    # area averaging where it shrinks: no shimmer; a smooth curve where it grows
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = image if (h, w) == (height, width) else cv2.resize(np.ascontiguousarray(image), (w, h), interpolation=how)
    place = np.full((side, side, 3), _PAPER, np.uint8)
    top, left = (side - h) // 2, (side - w) // 2
    place[top : top + h, left : left + w] = small
    return place
