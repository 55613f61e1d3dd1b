"""Pictures that travel inside of the report: as small as they can be, in a budget for all of them together."""

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt16
from PIL import Image

from microtome.errors import CorruptOutputError
from microtome.viz.overlay import TILE_COLOR
from microtome.viz.report_inputs import Frame

_OVERLAY_PX = (256, 1600)  # least and most of an overlay's longest side
_TILE_OVERLAY_PX = 6  # pixels of an overlay that a tile should have across
_LEAST_SIDE_PX = 48
_JPEG_QUALITY = 82
_LEAST_BORDERED_PX = 4  # tiles below this have no border, but a tint
_CLEAR = (0, 0, 0, 0)
_PALETTE_SIZE = 256


def data_uri(content: bytes) -> str:
    """Bytes of a JPEG or PNG as a URI that holds them."""
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def read_picture(path: Path) -> bytes:
    """The bytes of a whole JPEG or PNG file.

    Raises:
        CorruptOutputError: If it is neither, or is truncated.
    """
    try:
        content = path.read_bytes()
        with _opened(content) as image:
            image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise CorruptOutputError(f"'{path}' is not a whole picture ({error}). Delete it and run again.") from error
    return content


def fit_pictures(pictures: Sequence[bytes], *, budget: int) -> list[bytes]:
    """Make pictures fit a budget together; where they do already, they stay byte for byte.

    Pictures below their even share are left alone; what they leave is shared among the others, which are shrunk and
    coded as JPEG again.

    Args:
        pictures: JPEG or PNG files.
        budget: Bytes for all of them.

    Returns:
        As many pictures, in the same order.
    """
    if sum(map(len, pictures)) <= budget:
        return list(pictures)
    allowed = _even_share(sorted(map(len, pictures)), budget)
    return [p if len(p) <= allowed else _shrink(p, allowed) for p in pictures]


def _even_share(sizes: Sequence[int], budget: int) -> int:
    """The cap under which all sizes together meet the budget."""
    left = budget
    for done, size in enumerate(sizes):
        share = left // (len(sizes) - done)
        if size > share:
            return share
        left -= size
    return budget


def _shrink(picture: bytes, allowed: int) -> bytes:
    with _opened(picture) as opened:
        image = opened.convert("RGB")
    side, content = max(image.size), picture
    while len(content) > allowed and side > _LEAST_SIDE_PX:
        # bytes go with the area; a little below, so that it takes few turns
        side = max(_LEAST_SIDE_PX, math.floor(side * min(0.95, math.sqrt(allowed / len(content)))))
        content = _jpeg(image, side)
    return content


def _jpeg(image: Image.Image, side: int) -> bytes:
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.BOX).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _opened(content: bytes) -> Image.Image:

    return Image.open(io.BytesIO(content), formats=("JPEG", "PNG"))


def cluster_overlay(
    frame: Frame,
    boxes: Int64[np.ndarray, "n 4"],
    clusters: Int64[np.ndarray, " n"],
    colours: Sequence[tuple[int, int, int]],
) -> bytes:
    """A transparent PNG over the thumbnail with each tile in its cluster's colour.

    Tiles that overlap are shown by their middle, as wide as they are apart, so that each is seen.

    Args:
        frame: What the thumbnail shows.
        boxes: Tiles, x, y, w, h, level-0 pixels.
        clusters: Each tile's cluster.
        colours: RGB of each cluster.

    Returns:
        The file's bytes.

    Raises:
        CorruptOutputError: If a tile's cluster has no colour.
    """
    if len(clusters) and not 0 <= int(clusters.min()) <= int(clusters.max()) < len(colours):
        raise CorruptOutputError(
            f"Tiles are in clusters {int(clusters.min())} to {int(clusters.max())}, but the summary has "
            f"{len(colours)}. Delete the folder 'clusters' and run again."
        )
    edges, size = _overlay_edges(frame, _apart(boxes))
    indices = np.zeros(size, np.uint16)
    for (left, top, right, bottom), cluster in zip(edges.tolist(), clusters.tolist(), strict=True):
        indices[top:bottom, left:right] = cluster + 1
    return _flat_png(indices, [_CLEAR, *((*colour, 255) for colour in colours)])


def tile_overlay(frame: Frame, boxes: Int64[np.ndarray, "n 4"]) -> bytes:
    """A transparent PNG over the thumbnail with the border of each tile; tiles too small for one are tinted.

    Args:
        frame: What the thumbnail shows.
        boxes: Tiles, x, y, w, h, level-0 pixels.

    Returns:
        The file's bytes.
    """
    edges, size = _overlay_edges(frame, boxes)
    indices = np.zeros(size, np.uint16)
    for left, top, right, bottom in edges.tolist():
        if min(right - left, bottom - top) < _LEAST_BORDERED_PX:
            indices[top:bottom, left:right] = 2
            continue
        indices[top:bottom, left] = indices[top:bottom, right - 1] = 1
        indices[top, left:right] = indices[bottom - 1, left:right] = 1
    return _flat_png(indices, [_CLEAR, (*TILE_COLOR, 230), (*TILE_COLOR, 110)])


def _apart(boxes: Int64[np.ndarray, "n 4"]) -> Int64[np.ndarray, "n 4"]:
    """Boxes cut down about their middles to the least distance between two columns or rows of tiles.

    Seams of one level-0 pixel, which a grid rounded to whole pixels has, are closed.
    """
    cut = boxes.copy()
    for axis in (0, 1):
        starts = np.unique(boxes[:, axis])
        if len(starts) < 2:
            continue
        side = np.minimum(boxes[:, axis + 2], np.diff(starts).min())
        cut[:, axis] += (boxes[:, axis + 2] - side) // 2
        cut[:, axis + 2] = side + np.isin(boxes[:, axis] + side + 1, starts)
    return cut


def _overlay_edges(frame: Frame, boxes: Int64[np.ndarray, "n 4"]) -> tuple[Int64[np.ndarray, "n 4"], tuple[int, int]]:
    """Left, top, right and bottom of each box in an overlay, inside of it and never empty; its height and width."""
    x, y, w, h = frame.box
    longest = max(w, h)
    wanted = max(*frame.size, _TILE_OVERLAY_PX * longest / max(float(boxes[:, 2].min(initial=2**31)), 1.0))
    scale = min(max(wanted, _OVERLAY_PX[0]), _OVERLAY_PX[1]) / longest
    width, height = max(1, round(w * scale)), max(1, round(h * scale))
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1) - np.array([x, y, x, y])
    edges = np.rint(corners * np.array([width / w, height / h] * 2)).astype(np.int64)
    edges[:, :2] = edges[:, :2].clip(0, (width - 1, height - 1))
    edges[:, 2:] = np.maximum(edges[:, 2:], edges[:, :2] + 1).clip(1, (width, height))
    return edges, (height, width)


def _flat_png(indices: UInt16[np.ndarray, "h w"], colours: Sequence[tuple[int, int, int, int]]) -> bytes:
    """Indices into RGBA colours as a PNG: with a palette, unless there are too many colours for one."""
    palette, buffer = np.array(colours, np.uint8), io.BytesIO()
    if len(palette) > _PALETTE_SIZE:
        Image.fromarray(palette[indices]).save(buffer, "PNG")
        return buffer.getvalue()
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette(palette[:, :3].tobytes())
    image.save(buffer, "PNG", transparency=palette[:, 3].tobytes())
    return buffer.getvalue()
