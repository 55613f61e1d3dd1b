"""How much of each of many boxes a MultiPolygon covers, exactly."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import shapely
from jaxtyping import Float64, Int

from microtome.annotations.raster import edges_of

_SHIFT = 1.3172e-4  # px0; moves all boxes off the whole numbers on which outlines of masks have their corners
_PAIRS = 2_000_000  # pairs of box and edge that are looked at together


@dataclass(frozen=True, eq=False)
class CoverageIndex:
    """The edges of valid polygons that do not overlap, indexed for :meth:`covered`.

    Attributes:
        polygons: Level-0 pixels.
    """

    polygons: shapely.MultiPolygon

    def covered(self, boxes: Int[np.ndarray, "n 4"]) -> Float64[np.ndarray, " n"]:
        """Share of each box that lies inside of the polygons.

        Whether a box's corner is inside is asked of GEOS; every edge that passes through the box changes the
        winding number on its right. So only edges that touch a box are looked at, and the area is exact (to
        1e-3 px0 of a side).

        Args:
            boxes: x y w h, level-0 pixels.

        Returns:
            Shares, 0..1.
        """
        shares = np.zeros(len(boxes))
        if len(boxes) == 0 or self.polygons.is_empty:
            return shares
        places = boxes.astype(np.float64)
        places[:, :2] += _SHIFT
        for chunk in np.array_split(np.arange(len(boxes)), self._n_chunks(places)):
            if len(chunk):
                shares[chunk] = self._covered(places[chunk])
        return np.clip(shares, 0.0, 1.0)

    @cached_property
    def _edges(self) -> tuple[Float64[np.ndarray, "n 2"], Float64[np.ndarray, "n 2"]]:
        return edges_of(shapely.get_parts(self.polygons))

    @cached_property
    def _tree(self) -> shapely.STRtree:
        starts, ends = self._edges
        return shapely.STRtree(np.asarray(shapely.linestrings(np.stack([starts, ends], axis=1))))

    def _n_chunks(self, places: Float64[np.ndarray, "n 4"]) -> int:
        """Chunks of a bounded number of pairs, were edges spread evenly (four times that is allowed for)."""
        left, top, right, bottom = self.polygons.bounds
        share = np.minimum(1.0, places[:, 2] * places[:, 3] / max((right - left) * (bottom - top), 1.0))
        pairs = 4.0 * float(share.sum()) * len(self._edges[0]) + 16.0 * len(places)
        return min(len(places), int(pairs / _PAIRS) + 1)

    def _covered(self, places: Float64[np.ndarray, "n 4"]) -> Float64[np.ndarray, " n"]:
        x, y, w, h = places.T
        shapely.prepare(self.polygons)
        corner = shapely.contains_xy(self.polygons, x, y).astype(np.float64)
        area = corner * w * h
        box, edge = self._tree.query(shapely.box(x, y, x + w, y + h))
        starts, ends = self._edges
        origin = places[box, :2]
        a, b = starts[edge] - origin, ends[edge] - origin
        width, height = w[box], h[box]
        change = _through(a, b, width, height) + _left_side(a, b, width, height)
        return np.asarray((area + np.bincount(box, weights=change, minlength=len(places))) / (w * h))


def _through(a: np.ndarray, b: np.ndarray, width: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Area to the right of each edge's part in a box at the origin, signed by the edge's direction."""
    delta = b - a
    enter, leave = np.zeros(len(a)), np.ones(len(a))
    for axis, side in ((0, width), (1, height)):
        step = delta[:, axis]
        still = step == 0
        safe = np.where(still, 1.0, step)
        first, second = -a[:, axis] / safe, (side - a[:, axis]) / safe
        inside = (a[:, axis] > 0) & (a[:, axis] < side)
        low = np.where(still, np.where(inside, -np.inf, np.inf), np.minimum(first, second))
        high = np.where(still, np.inf, np.maximum(first, second))
        enter, leave = np.maximum(enter, low), np.minimum(leave, high)
    length = np.where(leave > enter, leave - enter, 0.0)
    middle = np.where(leave > enter, (enter + leave) / 2, 0.0)
    return np.asarray((width - (a[:, 0] + middle * delta[:, 0])) * -delta[:, 1] * length)


def _left_side(a: np.ndarray, b: np.ndarray, width: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Area of the part of a box below each crossing of its left side, signed by the edge's direction."""
    crosses = (a[:, 0] <= 0) != (b[:, 0] <= 0)
    run = np.where(crosses, b[:, 0] - a[:, 0], 1.0)
    y = a[:, 1] - a[:, 0] * (b[:, 1] - a[:, 1]) / run
    below = np.where(crosses & (y > 0) & (y < height), height - y, 0.0)
    return np.asarray(width * below * np.sign(run))
