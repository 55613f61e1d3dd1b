"""Tiles by rule, in whole numbers: the same bytes on every machine, for comparing what encoders give."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Int64, Shaped

Grid = Int64[np.ndarray, "h w"]
Pixels = Int64[np.ndarray, "h w 3"]
Colour = tuple[int, int, int]
Draw = Callable[[Grid, Grid, Grid, Grid], Pixels]

TILES_RULE = "check-tiles-1"
"""Name of the rule; another rule gets another name."""

TILE_NAMES = ("glass", "stroma", "nuclei", "gradient", "noise", "brown nuclei")
"""What the tiles look like, in order."""

_UNITS = 1024  # a tile's side, in units that do not hang on its pixels
_CELL = 96  # units between nuclei
_MASK = 0xFFFFFFFF


def check_tiles(side: int, channels: int = 3, dtype: str = "uint8") -> Shaped[np.ndarray, "6 side side channels"]:
    """Six tiles: empty glass, stripes of pink, purple discs on pink, a gradient, noise, brown discs on blue.

    Args:
        side: In pixels.
        channels: Those after the third repeat the first ones.
        dtype: An unsigned integer, whose whole range is used.

    Returns:
        (6, side, side, channels).
    """
    y, x = np.mgrid[:side, :side].astype(np.int64)
    u, v = x * _UNITS // side, y * _UNITS // side
    scale, order = int(np.iinfo(np.dtype(dtype)).max) // 255, np.arange(channels) % 3
    images = np.empty((len(TILE_NAMES), side, side, channels), dtype)
    for image, draw in zip(images, _DRAWN, strict=True):  # one at a time: tiles may be of 4096 px
        image[:] = (np.clip(draw(x, y, u, v), 0, 255) * scale)[..., order]
    return images


def _coloured(level: Grid, colour: Colour) -> Pixels:
    found: Pixels = level[..., None] + np.array(colour, dtype=np.int64)
    return found


def _discs(u: Grid, v: Grid) -> Bool[np.ndarray, "h w"]:
    """One disc per cell of a lattice, moved and sized by the cell's own number."""
    column, row = u // _CELL, v // _CELL
    dx = u % _CELL - 30 - _hashed(column, row, 5) % 36
    dy = v % _CELL - 30 - _hashed(column, row, 6) % 36
    radius = 12 + _hashed(column, row, 7) % 14
    found: Bool[np.ndarray, "h w"] = dx * dx + dy * dy < radius * radius
    return found


def _hashed(x: Grid, y: Grid, seed: int) -> Grid:
    """A number from 0 to 255 that looks drawn by lot."""
    mixed = (x * 374761393 + y * 668265263 + seed * 362437) & _MASK
    mixed = ((mixed ^ (mixed >> 13)) * 1274126177) & _MASK
    found: Grid = (mixed ^ (mixed >> 16)) & 255
    return found


def _glass(x: Grid, y: Grid, u: Grid, v: Grid) -> Pixels:
    del u, v
    return _coloured(240 + _hashed(x, y, 1) // 32, (0, 0, 0))


def _stroma(x: Grid, y: Grid, u: Grid, v: Grid) -> Pixels:
    stripes = (u * 5 + v * 3 + (v * v) // 700) // 48 % 4
    return _coloured(stripes * 9 + _hashed(x, y, 1) // 16, (200, 130, 165))


def _gradient(x: Grid, y: Grid, u: Grid, v: Grid) -> Pixels:
    del x, y
    return np.stack([u // 4, v // 4, (u + v) // 8], axis=-1)


def _noise(x: Grid, y: Grid, u: Grid, v: Grid) -> Pixels:
    del u, v
    return np.stack([_hashed(x, y, seed) for seed in (2, 3, 4)], axis=-1)


def _nuclei(disc: Colour, ground: Colour) -> Draw:
    def draw(x: Grid, y: Grid, u: Grid, v: Grid) -> Pixels:
        fine = _hashed(x, y, 1)
        found: Pixels = np.where(_discs(u, v)[..., None], _coloured(fine // 8, disc), _coloured(fine // 12, ground))
        return found

    return draw


_DRAWN: tuple[Draw, ...] = (
    _glass,
    _stroma,
    _nuclei((75, 45, 120), (220, 165, 195)),
    _gradient,
    _noise,
    _nuclei((110, 70, 40), (205, 210, 225)),
)
