"""Polygons to masks and back, exact on pixel edges.

A mask of ``size`` over a ``box`` of level-0 pixels: mask pixel (r, c) stands for the rectangle from
``box.x + c·sx, box.y + r·sy`` with ``sx = box.width / width`` and ``sy = box.height / height``.
"""

from collections.abc import Iterable
from itertools import chain

import numpy as np
import shapely
from jaxtyping import Bool, Float64, Int64

from microtome.errors import AnnotationError, ConfigError
from microtome.geometry import Box, Size

Areas = shapely.Polygon | shapely.MultiPolygon


def merged(polygons: Areas | Iterable[Areas]) -> shapely.MultiPolygon:
    """Several polygons, level-0 pixels, as one valid MultiPolygon; where they overlap they are united.

    Raises:
        AnnotationError: If one of them is invalid.
    """
    parts = _parts(polygons, check=True)
    whole = _as_multi(parts)
    if whole.is_valid:
        return whole
    united = shapely.get_parts(shapely.union_all(parts))
    return _as_multi(united[shapely.area(united) > 0])


def _as_multi(parts: np.ndarray) -> shapely.MultiPolygon:
    whole = shapely.multipolygons(parts)
    if not isinstance(whole, shapely.MultiPolygon):
        raise TypeError(f"One array of polygons gives one MultiPolygon. Got {type(whole).__name__}.")
    return whole


def _parts(polygons: Areas | Iterable[Areas], *, check: bool) -> np.ndarray:
    """An array of single polygons, none empty."""
    found = [polygons] if isinstance(polygons, Areas) else list(polygons)
    parts = np.asarray(shapely.get_parts(np.array(found, dtype=object)))
    parts = parts[~shapely.is_empty(parts)]
    for part in parts[~shapely.is_valid(parts)] if check else ():
        raise AnnotationError(f"A polygon is invalid: {shapely.is_valid_reason(part)}. Repair or redraw it.")
    return parts


def rasterise(
    polygons: Areas | Iterable[Areas], *, box: Box, size: Size, check: bool = True
) -> Bool[np.ndarray, "h w"]:
    """Mask of the pixels whose centre lies inside of the polygons.

    Args:
        polygons: Valid polygons, level-0 pixels; holes count as outside.
        box: What the mask covers, level-0 pixels.
        size: Size of the mask.
        check: Whether to check that the polygons are valid; pass False only where that is known, since checking a
            noisy outline takes longer than filling it.

    Returns:
        Mask of shape (size.height, size.width).

    Raises:
        AnnotationError: If a polygon is invalid.
        ConfigError: If the size is empty.

    Example:
        >>> rasterise(shapely.box(0, 0, 20, 10), box=Box(0, 0, 40, 20), size=Size(4, 2)).astype(int)
        array([[1, 1, 0, 0],
               [0, 0, 0, 0]])
    """
    if size.area == 0:
        raise ConfigError(f"A mask must be at least 1 × 1 px. Got {size.width} × {size.height}.")
    starts, ends = edges_of(_parts(polygons, check=check))
    scale = np.array([size.width / box.width, size.height / box.height])
    origin = np.array([box.x, box.y])
    starts, ends = (starts - origin) * scale, (ends - origin) * scale
    # rows whose centre line an edge crosses; half-open, so that a vertex on a centre line counts once
    first = np.clip(np.ceil(starts[:, 1] - 0.5), 0, size.height).astype(np.int64)
    last = np.clip(np.ceil(ends[:, 1] - 0.5), 0, size.height).astype(np.int64)
    count = np.abs(last - first)
    edge = np.repeat(np.arange(len(count)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + np.minimum(first, last)[edge]
    slope = (ends[edge, 0] - starts[edge, 0]) / (ends[edge, 1] - starts[edge, 1])
    x = starts[edge, 0] + (row + 0.5 - starts[edge, 1]) * slope
    column = np.clip(np.ceil(x - 0.5), 0, size.width).astype(np.int64)
    # winding numbers: overlapping polygons count twice, and are inside all the same
    turns = np.where(first > last, 1.0, -1.0)[edge]
    at = row * (size.width + 1) + column
    winding = np.bincount(at, weights=turns, minlength=size.height * (size.width + 1))
    winding = winding.reshape(size.height, size.width + 1)[:, : size.width]
    return np.asarray(np.cumsum(winding, axis=1) > 0.5)


def edges_of(parts: np.ndarray) -> tuple[Float64[np.ndarray, "n 2"], Float64[np.ndarray, "n 2"]]:
    """Starts and ends of every edge of an array of polygons.

    Shells run so that their winding number is +1 in a frame with y up, holes the other way.
    """
    rings = shapely.get_rings(shapely.orient_polygons(parts))
    points, ring = shapely.get_coordinates(rings, return_index=True)
    same = ring[1:] == ring[:-1]
    return points[:-1][same], points[1:][same]


def polygons_from_mask(mask: Bool[np.ndarray, "h w"], *, box: Box, simplify_px: float = 0.0) -> shapely.MultiPolygon:
    """Outline a mask along its pixels' edges, level-0 pixels, holes kept.

    Each polygon is one 4-connected piece of the mask; pieces that meet at a corner stay two polygons. Without
    simplification :func:`rasterise` gives the mask back and the area is that of the mask's pixels, exactly.

    Args:
        mask: Mask over ``box``.
        box: What it covers, level-0 pixels.
        simplify_px: Tolerance of simplification (Douglas-Peucker), in *mask* pixels; 0 keeps every corner.

    Returns:
        A valid MultiPolygon, empty where the mask is.

    Raises:
        ConfigError: If the mask has no pixels or the tolerance is negative.

    Example:
        >>> polygons_from_mask(np.array([[False, True]]), box=Box(0, 0, 8, 4)).wkt
        'MULTIPOLYGON (((4 0, 8 0, 8 4, 4 4, 4 0)))'
    """
    if mask.size == 0 or not simplify_px >= 0:
        raise ConfigError(
            f"A mask must have pixels and simplify_px must be at least 0. Got {mask.shape} and {simplify_px}."
        )
    if not mask.any():
        return shapely.MultiPolygon()
    corners, ring, piece = _rings(mask)
    starts = np.flatnonzero(np.diff(ring, prepend=-1))
    ring_piece = piece[starts]
    # the shell of each piece first, then its holes
    order = np.lexsort((_clockwise(corners, starts) <= 0, ring_piece))
    # multiplied before divided, so that the mask's outer edges are those of the box to the last bit
    places = corners * [box.width, box.height] / [mask.shape[1], mask.shape[0]] + [box.x, box.y]
    rings = np.asarray(shapely.linearrings(places, indices=ring))
    polygons = shapely.polygons(rings[order], indices=ring_piece[order] - 1)
    outlined = _as_multi(np.asarray(polygons))
    if simplify_px == 0:
        return outlined
    return _simplified(outlined, simplify_px * max(box.width / mask.shape[1], box.height / mask.shape[0]))


def _clockwise(corners: Int64[np.ndarray, "n 2"], starts: Int64[np.ndarray, " rings"]) -> Int64[np.ndarray, " rings"]:
    """Twice the signed area of each ring, positive if it goes clockwise as seen (y down), as shells do here."""
    following = np.arange(1, len(corners) + 1)
    following[np.append(starts[1:], len(corners)) - 1] = starts
    x, y = corners[:, 0], corners[:, 1]
    return np.asarray(np.add.reduceat(x * y[following] - x[following] * y, starts))


def _simplified(polygons: shapely.MultiPolygon, tolerance: float) -> shapely.MultiPolygon:
    simple = shapely.make_valid(shapely.simplify(polygons, tolerance), method="structure", keep_collapsed=False)
    parts = shapely.get_parts(simple)
    return merged(parts[shapely.area(parts) > 0])


# A pixel's sides are numbered clockwise as seen: 0 top (walked to the right), 1 right (down), 2 bottom (to the
# left), 3 left (up); a boundary side is walked with the mask on the right.
_AHEAD = ((0, 1), (1, 0), (0, -1), (-1, 0))  # (row, column) of the pixel ahead, for each side
_STARTS = ((0, 0), (1, 0), (1, 1), (0, 1))  # (x, y) of a side's first corner within its pixel


def _rings(
    mask: Bool[np.ndarray, "h w"],
) -> tuple[Int64[np.ndarray, "n 2"], Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Simple closed rings around a mask: corners (x, y in mask pixels), the ring and the piece of each."""
    from scipy import ndimage

    padded = np.pad(mask, 1)
    width = padded.shape[1]
    flat = padded.ravel()
    pixels = np.flatnonzero(flat)
    steps = [dy * width + dx for dy, dx in _AHEAD]
    codes, following = [], []
    for side in range(4):
        outward = steps[side - 1]  # the pixel across side 0 (top) is the one ahead of side 3 (up)
        at = pixels[~flat[pixels + outward]]
        ahead, diagonal = at + steps[side], at + steps[side] + outward
        # turn around the own pixel; else go straight along the next; else turn outward along the diagonal one.
        # A diagonal neighbour across a corner is never joined: pieces are 4-connected.
        turn, straight = ~flat[ahead], ~flat[diagonal]
        pixel = np.where(turn, at, np.where(straight, ahead, diagonal))
        new_side = np.where(turn, (side + 1) % 4, np.where(straight, side, (side - 1) % 4))
        codes.append(at * 4 + side)
        following.append(pixel * 4 + new_side)
    code, after = np.concatenate(codes), np.concatenate(following)
    order = np.argsort(code)
    code, after = code[order], after[order]
    pixel, sides = code // 4, code % 4
    offsets = np.array(_STARTS)[sides]
    corner = np.stack([pixel % width - 1 + offsets[:, 0], pixel // width - 1 + offsets[:, 1]], axis=1)
    edge, ring = _simple_loops(np.searchsorted(code, after), corner)
    turns = sides[edge] != sides[_previous(edge, ring)]
    pieces = np.pad(ndimage.label(mask)[0], 1).ravel()
    return corner[edge[turns]], ring[turns], pieces[pixel[edge[turns]]].astype(np.int64)


def _previous(edge: Int64[np.ndarray, " n"], ring: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """The edge before each edge of its ring."""
    before = np.roll(edge, 1)
    starts = np.flatnonzero(np.diff(ring, prepend=-1))
    before[starts] = edge[np.append(starts[1:], len(edge)) - 1]
    return before


def _simple_loops(
    successor: Int64[np.ndarray, " n"], corner: Int64[np.ndarray, "n 2"]
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Edges in walking order and the ring of each; a walk is cut where it passes a corner twice.

    So no ring touches itself, as a valid polygon's may not.
    """
    keys = corner[:, 0] + corner[:, 1] * (int(corner[:, 0].max()) + 1)
    by_key = np.sort(keys)
    crossings = by_key[1:][by_key[1:] == by_key[:-1]]  # corners where two diagonal pixels meet
    is_crossing = np.isin(keys, crossings).tolist()
    step: list[int] = successor.tolist()
    key: list[int] = keys.tolist()
    seen = bytearray(len(step))
    loops: list[list[int]] = []
    for start in range(len(step)):
        if seen[start]:
            continue
        walk: list[int] = []
        place: dict[int, int] = {}  # where the open part of the walk passed each crossing, in walking order
        at = start
        while not seen[at]:
            seen[at] = 1
            if is_crossing[at]:
                if key[at] in place:
                    cut = place[key[at]]
                    loops.append(walk[cut:])
                    del walk[cut:]
                    while place.popitem()[1] > cut:
                        pass
                place[key[at]] = len(walk)
            walk.append(at)
            at = step[at]
        loops.append(walk)
    lengths = [len(loop) for loop in loops]
    return np.fromiter(chain.from_iterable(loops), np.int64, sum(lengths)), np.repeat(np.arange(len(loops)), lengths)
