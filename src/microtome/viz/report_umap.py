"""A scatter of tiles as SVG paths: one per group, each point a dot of the stroke. Light, sharp, and prints."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

SIDE = 1000
"""Longest side of the scatter, in units of its own frame."""
_MARGIN = 24
_TURNS = 8


@dataclass(frozen=True, slots=True)
class Scatter:
    """A scatter in its own frame.

    Attributes:
        width: Of the frame.
        height: Of the frame.
        paths: Group and path data, in drawing order. A group has several paths that take turns with those of the
            others, so that none hides the rest.
        n_points: Number of points.
    """

    width: int
    height: int
    paths: tuple[tuple[str, str], ...]
    n_points: int


def scatter_paths(xy: Float32[np.ndarray, "n 2"], groups: Sequence[str], order: Sequence[str]) -> Scatter:
    """Lay points out in a frame, both axes on one scale, y up.

    Args:
        xy: Positions, finite.
        groups: Each point's group.
        order: The groups to draw; points of others are left out.

    Returns:
        The scatter; groups without points are not in it.
    """
    placed, width, height = _place(xy.astype(np.float64))
    members: dict[str, list[int]] = {group: [] for group in order}
    for row, group in enumerate(groups):
        if group in members:
            members[group].append(row)
    paths = tuple(
        (group, "".join(f"M{x} {y}h0" for x, y in placed[rows[turn::_TURNS]].tolist()))
        for turn in range(_TURNS)
        for group, rows in members.items()
        if rows[turn::_TURNS]
    )
    return Scatter(width, height, paths, sum(map(len, members.values())))


def _place(xy: Float64[np.ndarray, "n 2"]) -> tuple[np.ndarray, int, int]:
    low, high = xy.min(axis=0), xy.max(axis=0)
    extent = high - low
    scale = (SIDE - 2 * _MARGIN) / max(float(extent.max()), 1e-12)
    # no frame flatter than half its width: a line of points would be unreadable
    frame = np.maximum(extent * scale, SIDE / 2 - 2 * _MARGIN) + 2 * _MARGIN
    centred = (xy - (low + high) / 2) * scale * (1, -1) + frame / 2
    width, height = (round(float(side)) for side in frame)
    return np.rint(centred).astype(np.int64), width, height
