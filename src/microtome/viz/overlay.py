"""Pictures of a slide with what was found on it: tissue outline, tiles, clusters.

All are drawn on a thumbnail array; ``frame_box`` says which part of the slide it shows, in level-0 px, and a
slide's pixel edge at ``x`` lies on the thumbnail at ``(x - frame_box.x) * thumbnail_width /
frame_box.width``.
"""

from pathlib import Path

import cv2
import numpy as np
import shapely
from jaxtyping import Bool, Float64, Int, Int64, UInt8
from PIL import Image

from microtome.errors import ConfigError
from microtome.geometry import Box
from microtome.storage import written_whole
from microtome.tissue.tissue import Tissue
from microtome.viz.palette import categorical_colors

OUTLINE_COLOR = (0, 100, 0)
TILE_COLOR = (0, 60, 255)
_SHIFT = 4  # sub-pixel bits of cv2's coordinates
_GRID_MIN_PX = 4.0  # below this, lines of the grid would hide the tissue
_SPECK_PX = 4.0  # outlines of less than the square of this are dots, and hundreds of them hide the tissue


def draw_thumbnail(
    thumbnail: UInt8[np.ndarray, "h w 3"],
    frame_box: Box,
    tissue: Tissue | None,
    boxes: Int[np.ndarray, "n 4"] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Draw the tissue outline and the tiles on a thumbnail.

    Tiles are outlined; where they are smaller than 4 thumbnail pixels they are tinted instead. Specks of
    tissue and holes of less than 16 square thumbnail pixels are not drawn, unless there is nothing larger.

    Args:
        thumbnail: The picture, RGB; not changed.
        frame_box: What it shows, level-0 px.
        tissue: Outlines to draw, or None.
        boxes: Tiles to draw: x y w h, level-0 px; or None.

    Returns:
        A new picture of the same size.
    """
    drawn = np.ascontiguousarray(thumbnail).copy()
    if boxes is not None and len(boxes):
        _draw_tiles(drawn, frame_box, boxes)
    if tissue is not None:
        _draw_outline(drawn, frame_box, tissue.polygons)
    return drawn


def draw_clusters(
    thumbnail: UInt8[np.ndarray, "h w 3"],
    frame_box: Box,
    boxes: Int[np.ndarray, "n 4"],
    labels: Int[np.ndarray, " m"],
    *,
    alpha: float = 0.55,
) -> UInt8[np.ndarray, "h w 3"]:
    """Draw a map of the tiles' clusters over a greyed thumbnail.

    Where tiles overlap, or several fall on one pixel, the commonest cluster wins.

    Args:
        thumbnail: The picture, RGB; not changed.
        frame_box: What it shows, level-0 px.
        boxes: Tiles: x y w h, level-0 px.
        labels: Cluster of each tile, 0 and up; its colour is that of :func:`categorical_colors`.
        alpha: Strength of the colour, 0..1.

    Returns:
        A new picture of the same size.

    Raises:
        ConfigError: If ``alpha`` is out of range, there are not as many labels as boxes, or one is negative.
    """
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha must be in 0..1. Got {alpha}.")
    # half grey: tissue stays recognisable, and its pink does not tint the colours
    grey = cv2.cvtColor(np.ascontiguousarray(thumbnail), cv2.COLOR_RGB2GRAY)
    drawn = np.repeat(grey[:, :, None], 3, axis=2)
    cluster = label_map(thumbnail.shape[:2], frame_box, boxes, labels)
    inside = cluster >= 0
    if inside.any():
        color = categorical_colors(int(labels.max()) + 1)[cluster[inside]]
        drawn[inside] = np.rint(alpha * color + (1 - alpha) * drawn[inside]).astype(np.uint8)
    return drawn


def label_map(
    shape: tuple[int, int], frame_box: Box, boxes: Int[np.ndarray, "n 4"], labels: Int[np.ndarray, " m"]
) -> Int64[np.ndarray, "h w"]:
    """The commonest label of the tiles on each thumbnail pixel; -1 where there is none.

    Args:
        shape: Height and width of the thumbnail.
        frame_box: What it shows, level-0 px.
        boxes: Tiles: x y w h, level-0 px. A tile covers the pixels between its rounded edges, at least one.
        labels: One per tile, 0 and up.

    Returns:
        Label of each pixel; of equally common ones the lowest.

    Raises:
        ConfigError: If there are not as many labels as boxes, or one is negative.
    """
    if len(labels) != len(boxes):
        raise ConfigError(f"There are {len(labels)} labels for {len(boxes)} tiles. Give one per tile.")
    best = np.zeros(shape, np.int64)
    winner = np.full(shape, -1, np.int64)
    if not len(boxes):
        return winner
    if labels.min() < 0:
        raise ConfigError(f"A label must be at least 0. Got {int(labels.min())}.")
    edges, seen = pixel_edges(shape, frame_box, boxes)
    for label in np.unique(labels[seen]):
        votes = _count_cover(shape, edges[seen & (labels == label)])
        more = votes > best
        best[more], winner[more] = votes[more], label
    return winner


def _count_cover(shape: tuple[int, int], edges: Int64[np.ndarray, "n 4"]) -> Int64[np.ndarray, "h w"]:
    """How many of the rectangles (left, top, right, bottom) cover each pixel."""
    # marks at the corners, summed along both axes: the cost does not depend on the sizes
    marks = np.zeros((shape[0] + 1, shape[1] + 1), np.int64)
    left, top, right, bottom = edges.T
    for y, x, sign in ((top, left, 1), (top, right, -1), (bottom, left, -1), (bottom, right, 1)):
        np.add.at(marks, (y, x), sign)
    cover: Int64[np.ndarray, "h w"] = marks.cumsum(axis=0).cumsum(axis=1)[:-1, :-1]
    return cover


def _scale(shape: tuple[int, int], frame_box: Box) -> Float64[np.ndarray, " 2"]:
    """Thumbnail pixels per level-0 pixel, along x and y."""
    return np.array([shape[1] / frame_box.width, shape[0] / frame_box.height])


def pixel_edges(
    shape: tuple[int, int], frame_box: Box, boxes: Int[np.ndarray, "n 4"]
) -> tuple[Int64[np.ndarray, "n 4"], Bool[np.ndarray, " n"]]:
    """Left, top, right and bottom pixel edges of each tile, clipped; and whether it is in the frame."""
    scale, origin = _scale(shape, frame_box), np.array([frame_box.x, frame_box.y])
    start = (boxes[:, :2] - origin) * scale
    stop = (_closed_ends(boxes) - origin) * scale
    first, last = np.rint(start).astype(np.int64), np.rint(stop).astype(np.int64)
    # smaller than a pixel: the pixel of its centre
    centre = np.floor((start + stop) / 2).astype(np.int64)
    thin = last <= first
    first[thin], last[thin] = centre[thin], centre[thin] + 1
    limit = np.array([shape[1], shape[0]])
    first, last = np.clip(first, 0, limit), np.clip(last, 0, limit)
    return np.hstack([first, last]), (last > first).all(axis=1)


def _closed_ends(boxes: Int[np.ndarray, "n 4"]) -> Int64[np.ndarray, "n 2"]:
    """Right and lower ends of tiles, without the seams of one px0 that a grid rounded to whole pixels has."""
    ends: Int64[np.ndarray, "n 2"] = (boxes[:, :2] + boxes[:, 2:]).astype(np.int64)
    for axis in (0, 1):
        starts = np.unique(boxes[:, axis])
        seam = ~np.isin(ends[:, axis], starts) & np.isin(ends[:, axis] + 1, starts)
        ends[seam, axis] += 1
    return ends


def _draw_tiles(image: UInt8[np.ndarray, "h w 3"], frame_box: Box, boxes: Int[np.ndarray, "n 4"]) -> None:
    """Outline tiles in place; tint them where lines would leave nothing between."""
    shape = (image.shape[0], image.shape[1])
    edges, seen = pixel_edges(shape, frame_box, boxes)
    color = np.array(TILE_COLOR)
    if float((boxes[:, 2:] * _scale(shape, frame_box)).min()) < _GRID_MIN_PX:
        inside = _count_cover(shape, edges[seen]) > 0
        image[inside] = np.rint(0.75 * image[inside] + 0.25 * color).astype(np.uint8)
        return
    lines = np.zeros(shape, bool)
    for left, top, right, bottom in edges[seen]:
        # neighbours share the line at their common edge
        right, bottom = min(right, shape[1] - 1), min(bottom, shape[0] - 1)  # noqa: PLW2901 - the last pixel
        lines[[top, bottom], left : right + 1] = True
        lines[top : bottom + 1, [left, right]] = True
    image[lines] = np.rint(0.2 * image[lines] + 0.8 * color).astype(np.uint8)


def _draw_outline(image: UInt8[np.ndarray, "h w 3"], frame_box: Box, polygons: shapely.MultiPolygon) -> None:
    """Draw the outlines of polygons and of their holes in place."""
    shape = (image.shape[0], image.shape[1])
    scale, origin = _scale(shape, frame_box), np.array([frame_box.x, frame_box.y])
    rings = np.array([ring for p in polygons.geoms for ring in (p.exterior, *p.interiors)], dtype=object)
    large = shapely.area(shapely.polygons(rings)) * scale.prod() >= _SPECK_PX**2
    rings = rings[large] if large.any() else rings
    # cv2 puts a pixel's centre, not its edge, on whole numbers
    lines = [
        np.rint(((np.asarray(ring.coords)[:, :2] - origin) * scale - 0.5) * 2**_SHIFT).astype(np.int32)
        for ring in rings
    ]
    thickness = max(1, round(max(shape) / 700))
    if lines:
        closed = True
        cv2.polylines(image, lines, closed, OUTLINE_COLOR, thickness, cv2.LINE_AA, _SHIFT)


def write_jpeg(path: Path, image: UInt8[np.ndarray, "h w 3"], *, quality: int = 88) -> None:
    """Write a picture as JPEG, whole.

    Args:
        path: Where.
        image: RGB.
        quality: 1..95.

    Raises:
        ConfigError: If ``quality`` is out of range.
        OutputWriteError: If it cannot be written.
    """
    if not 1 <= quality <= 95:
        raise ConfigError(f"JPEG quality must be in 1..95. Got {quality}.")
    with written_whole(path) as temporary:
        # full colour resolution: thin coloured lines on tissue would smear otherwise; not optimised, since Pillow
        # then reserves a byte per pixel and fails on pictures that need more
        Image.fromarray(image).save(temporary, format="JPEG", quality=quality, subsampling=0)
