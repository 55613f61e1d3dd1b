"""Nuclei, glands and vessels of a synthetic slide: points on jittered endless grids, and shapes drawn around them.

Each thing is decided by the cell of the grid it lies in, so any region can list its own without knowing another's.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from microtome.geometry import Box
from microtome.testing.synthetic_layout import Layout, unit_cells

_SHIFT = 4  # binary digits of a pixel's fraction, for drawing
_CORNERS = 14


@dataclass(frozen=True, slots=True)
class Cells:
    """Filled cells of one grid: where, in level-0 pixels, and a source of random numbers for each."""

    xy: Float[np.ndarray, "n 2"]
    ix: np.ndarray
    iy: np.ndarray
    seed: int
    salt: int

    def __len__(self) -> int:
        return len(self.xy)

    def draw(self, index: int, low: float = 0.0, high: float = 1.0) -> Float32[np.ndarray, " n"]:
        """The ``index``-th random number of each cell, uniform in [low, high)."""
        unit = unit_cells(self.ix, self.iy, self.seed, self.salt * 64 + index + 3)
        return unit * np.float32(high - low) + np.float32(low)

    def kept(self, keep: np.ndarray) -> "Cells":
        """Those for which ``keep`` is true."""
        return Cells(self.xy[keep], self.ix[keep], self.iy[keep], self.seed, self.salt)


def scatter(box: Box, spacing_px0: float, seed: int, salt: int, *, jitter: float = 0.75) -> Cells:
    """The points in a box of a jittered grid, row by row."""
    first_x, last_x = int(np.floor(box.x / spacing_px0)) - 1, int(np.floor(box.right / spacing_px0)) + 1
    first_y, last_y = int(np.floor(box.y / spacing_px0)) - 1, int(np.floor(box.bottom / spacing_px0)) + 1
    ix, iy = (a.ravel() for a in np.meshgrid(np.arange(first_x, last_x + 1), np.arange(first_y, last_y + 1)))
    x = (ix + 0.5 * (iy & 1) + 0.5 + jitter * (unit_cells(ix, iy, seed, salt * 64 + 1) - 0.5)) * spacing_px0
    y = (iy + 0.5 + jitter * (unit_cells(ix, iy, seed, salt * 64 + 2) - 0.5)) * spacing_px0
    inside = (x >= box.x) & (x < box.right) & (y >= box.y) & (y < box.bottom)
    return Cells(np.stack([x[inside], y[inside]], axis=1), ix[inside], iy[inside], seed, salt)


@dataclass(frozen=True, slots=True)
class Nuclei:
    """Wobbly ellipses: centre (level-0 px), half axes (px), direction of the long one (rad), ink 0..2."""

    xy: Float[np.ndarray, "n 2"]
    long: Float[np.ndarray, " n"]
    short: Float[np.ndarray, " n"]
    angle: Float[np.ndarray, " n"]
    ink: Float[np.ndarray, " n"]
    wobble: Float[np.ndarray, " n"]
    phase: Float[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.xy)

    def drawn(self, layer: UInt8[np.ndarray, "h w"], origin: tuple[int, int]) -> None:
        """Draw them, antialiased, into a layer whose 255 means ink 2."""
        if not len(self):
            return
        t = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)[None, :]
        swell = 1 + self.wobble[:, None] * (
            np.cos(2 * t + self.phase[:, None]) * 0.5 + np.cos(3 * t + 2.3 * self.phase[:, None])
        )
        u, v = self.long[:, None] * np.cos(t) * swell, self.short[:, None] * np.sin(t) * swell
        cos, sin = np.cos(self.angle)[:, None], np.sin(self.angle)[:, None]
        # -0.5: a coordinate counts from a pixel's corner, OpenCV from its centre
        x = self.xy[:, :1] - origin[0] - 0.5 + u * cos - v * sin
        y = self.xy[:, 1:] - origin[1] - 0.5 + u * sin + v * cos
        corners = np.round(np.stack([x, y], axis=2) * 2**_SHIFT).astype(np.int32)
        inks = np.clip(self.ink * 127.5, 0, 255).astype(int).tolist()
        for polygon, ink in zip(corners, inks, strict=True):
            cv2.fillConvexPoly(layer, polygon, ink, cv2.LINE_AA, _SHIFT)


@dataclass(frozen=True, slots=True)
class Rings:
    """Glands or vessels: centre and radius (level-0 px), and how each is out of round."""

    cells: Cells
    radius: Float32[np.ndarray, " n"]
    lumen: Float32[np.ndarray, " n"]  # share of the radius

    def __len__(self) -> int:
        return len(self.radius)

    def outline(self, share: Float[np.ndarray, " n"], angles: Float[np.ndarray, " k"]) -> Float[np.ndarray, "n k 2"]:
        """Points (level-0 px) at a share of the radius in each direction."""
        cells = self.cells
        turn, stretch = cells.draw(10, 0, np.pi)[:, None], cells.draw(11, 0.72, 1.0)[:, None]
        bumps = 0.09 * np.cos(3 * angles + cells.draw(12, 0, 6.28)[:, None])
        bumps = bumps + 0.05 * np.cos(5 * angles + cells.draw(13, 0, 6.28)[:, None])
        r = (self.radius * share)[:, None] * (1 + bumps)
        u, v = r * np.cos(angles), r * stretch * np.sin(angles)
        x, y = u * np.cos(turn) - v * np.sin(turn), u * np.sin(turn) + v * np.cos(turn)
        return np.asarray(cells.xy[:, None, :] + np.stack([x, y], axis=2))

    def filled(self, layer: UInt8[np.ndarray, "h w"], origin: tuple[int, int], share: np.ndarray) -> None:
        """Fill them out to a share of the radius."""
        if not len(self):
            return
        points = self.outline(share, np.linspace(0, 2 * np.pi, 44, endpoint=False)) - np.array(origin) - 0.5
        for polygon in np.round(points * 2**_SHIFT).astype(np.int32):
            cv2.fillPoly(layer, [polygon], 255, cv2.LINE_AA, _SHIFT)

    def along(self, share: float, spacing_px0: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points spaced along each at a share of the radius: places, outward directions, which ring."""
        places, directions, owners = [], [], []
        for index in range(len(self)):
            count = max(6, int(2 * np.pi * self.radius[index] * share / spacing_px0))
            one = Rings(self.cells.kept(np.arange(len(self)) == index), self.radius[[index]], self.lumen[[index]])
            jitter = unit_cells(
                np.arange(count), np.full(count, int(one.cells.ix[0]) * 7919 + int(one.cells.iy[0])), 5, 5
            )
            angles = (np.arange(count) + 0.6 * jitter) * 2 * np.pi / count
            points = one.outline(np.array([share]), angles)[0]
            places.append(points)
            away = points - one.cells.xy[0]
            directions.append(np.arctan2(away[:, 1], away[:, 0]))
            owners.append(np.full(count, index))
        if not places:
            return np.zeros((0, 2)), np.zeros(0), np.zeros(0, int)
        return np.concatenate(places), np.concatenate(directions), np.concatenate(owners)


def glands_in(layout: Layout, box: Box, mpp: float, seed: int) -> Rings:
    """The glands that may touch a box."""
    reach = round(62 / mpp)
    wide = Box(box.x - reach, box.y - reach, box.width + 2 * reach, box.height + 2 * reach)
    cells = scatter(wide, 104 / mpp, seed, 101, jitter=0.4)
    xy = cells.xy
    keep = (layout.at("gland", xy) > 0) & (layout.at("tissue", xy) > 55) & (layout.at("tumour", xy) < -45)
    keep &= (layout.at("fat", xy) < -0.1) & (layout.at("lymph", xy) < 1.0) & (cells.draw(0) < 0.93)
    cells = cells.kept(keep)
    return Rings(cells, cells.draw(1, 34, 47) / np.float32(mpp), cells.draw(2, 0.26, 0.5))


def vessels_in(layout: Layout, box: Box, mpp: float, seed: int) -> Rings:
    """The blood vessels that may touch a box; they lie in stroma."""
    reach = round(50 / mpp)
    wide = Box(box.x - reach, box.y - reach, box.width + 2 * reach, box.height + 2 * reach)
    cells = scatter(wide, 190 / mpp, seed, 102, jitter=0.9)
    xy = cells.xy
    keep = (layout.at("vessel", xy) > -0.1) & (layout.at("tissue", xy) > 45) & (layout.at("tumour", xy) < -50)
    keep &= (layout.at("gland", xy) < -0.15) & (layout.at("fat", xy) < -0.1) & (layout.at("lymph", xy) < 0.9)
    cells = cells.kept(keep)
    return Rings(cells, cells.draw(1, 9, 34) / np.float32(mpp), cells.draw(2, 0.7, 0.84))
