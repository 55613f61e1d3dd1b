"""A number per tile on the picture of a slide: attention, attributions; with colour bar and scale bar."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jaxtyping import Float, Float64, Int, UInt8

from microtome.errors import ConfigError
from microtome.geometry import Box
from microtome.viz.figure_style import figure_png, house_style, new_figure, set_heading, shortened
from microtome.viz.overlay import pixel_edges

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ALPHA, _OUTSIDE = 0.7, 0.35
_ROBUST = 99.0  # per cent of tiles within the colours; the few beyond have the last colour
_BAR_SHARE = 0.22  # of the picture's width, at most, for the scale bar
_CANVAS_PX = 1024
_PAPER = 246


@dataclass(frozen=True, slots=True)
class Caption:
    """What is written on a picture.

    Attributes:
        title: What it is of.
        note: Small print under the title.
        label: What the colours mean.
    """

    title: str
    note: str
    label: str


def value_map(
    shape: tuple[int, int], frame_box: Box, boxes: Int[np.ndarray, "n 4"], values: Float[np.ndarray, " m"]
) -> Float64[np.ndarray, "h w"]:
    """The mean value of the tiles on each thumbnail pixel; NaN where there is none.

    Args:
        shape: Height and width of the thumbnail.
        frame_box: What it shows, level-0 px.
        boxes: Tiles: x y w h, level-0 px.
        values: One per tile, finite.

    Raises:
        ConfigError: If there are not as many values as boxes, or one is not finite.
    """
    if len(values) != len(boxes):
        raise ConfigError(f"There are {len(values)} values for {len(boxes)} tiles. Give one per tile.")
    if not np.isfinite(values).all():
        raise ConfigError("A tile's value is NaN or infinite, so it has no colour.")
    if not len(boxes):
        return np.full(shape, np.nan)
    edges, seen = pixel_edges(shape, frame_box, boxes)
    left, top, right, bottom = edges[seen].T
    # marks at the corners, summed along both axes: the cost does not depend on the tiles' sizes
    count, total = np.zeros((2, shape[0] + 1, shape[1] + 1))
    for y, x, sign in ((top, left, 1), (top, right, -1), (bottom, left, -1), (bottom, right, 1)):
        np.add.at(count, (y, x), sign)
        np.add.at(total, (y, x), sign * values[seen].astype(np.float64))
    covered, summed = (marks.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] for marks in (count, total))
    mean = np.full(shape, np.nan)
    np.divide(summed, covered, out=mean, where=covered > 0.5)
    return mean


def blank_frame(boxes: Int[np.ndarray, "n 4"]) -> tuple[UInt8[np.ndarray, "h w 3"], Box]:
    """An empty canvas in place of a thumbnail that nobody has: what the tiles span, and a margin.

    Returns:
        The canvas, and what it shows, level-0 px.

    Raises:
        ConfigError: If there are no tiles.
    """
    if not len(boxes):
        raise ConfigError("There are no tiles to draw.")
    low, high = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    margin = int(boxes[:, 2:].max())
    x, y = (int(v) for v in low - margin)
    width, height = (int(v) for v in high - low + 2 * margin)
    scale = _CANVAS_PX / max(width, height)
    shape = (max(1, round(height * scale)), max(1, round(width * scale)), 3)
    return np.full(shape, _PAPER, np.uint8), Box(x, y, width, height)


def color_limits(values: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Ends of the colours: symmetric about 0 where there are values on both sides of it, else from 0.

    One tile in a hundred may lie beyond them.
    """
    if not len(values):
        return 0.0, 1.0
    if values.min() < 0:
        end = float(np.percentile(np.abs(values), _ROBUST)) or float(np.abs(values).max()) or 1.0
        return -end, end
    return 0.0, float(np.percentile(values, _ROBUST)) or float(values.max()) or 1.0


def draw_tile_values(
    thumbnail: UInt8[np.ndarray, "h w 3"],
    frame_box: Box,
    boxes: Int[np.ndarray, "n 4"],
    values: Float[np.ndarray, " m"],
    *,
    caption: Caption,
    mpp: float | None,
) -> bytes:
    """Draw a map of the tiles' values over a pale grey thumbnail, with colour bar and scale bar.

    Values on both sides of 0 get two colours that meet in white at 0 (red above); others one that deepens.

    Args:
        thumbnail: The picture, RGB; not changed.
        frame_box: What it shows, level-0 px.
        boxes: Tiles: x y w h, level-0 px.
        values: One per tile.
        caption: What is written on it.
        mpp: µm per level-0 pixel; None draws no scale bar.

    Returns:
        A PNG.

    Raises:
        ConfigError: As :func:`value_map`.
    """
    low, high = color_limits(values)
    field = value_map((thumbnail.shape[0], thumbnail.shape[1]), frame_box, boxes, values)
    height, width = thumbnail.shape[:2]
    grey = cv2.cvtColor(np.ascontiguousarray(thumbnail), cv2.COLOR_RGB2GRAY)
    with house_style():
        picture_in = 7.0 if width >= height else 7.0 * width / height
        figure = new_figure(max(picture_in, 2.5) + 1.5, picture_in * height / width + 0.7)
        axis = figure.subplots()
        # tissue without tiles is paled as much as colours pale the rest, or it would draw the eye
        grey = np.where(np.isnan(field), 255 - (255 - grey) * _OUTSIDE, grey)
        axis.imshow(grey, cmap="gray", vmin=-90, vmax=255, interpolation="antialiased")
        shown = axis.imshow(
            np.ma.masked_invalid(field),
            cmap="RdBu_r" if low < 0 else "YlGnBu",
            vmin=low,
            vmax=high,
            alpha=_ALPHA,
            interpolation="nearest",
        )
        axis.set_axis_off()
        set_heading(axis, shortened(caption.title, 48), caption.note)
        beyond = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
        extend = beyond[bool((values < low).any()), bool((values > high).any())]
        bar = figure.colorbar(shown, ax=axis, fraction=0.045, pad=0.02, extend=extend)
        bar.set_label(caption.label)
        bar.outline.set_visible(False)
        if mpp is not None:
            _draw_scale_bar(axis, width, height, frame_box.width * mpp)
        return figure_png(figure)


def scale_bar_um(width_um: float) -> float:
    """The largest 1, 2 or 5 times a power of ten, in µm, that is no more than about a fifth of the width.

    Example:
        >>> scale_bar_um(1536.0), scale_bar_um(40_000.0)
        (200.0, 5000.0)
    """
    limit = width_um * _BAR_SHARE
    power = 10.0 ** math.floor(math.log10(limit))
    return max(step * power for step in (1, 2, 5) if step * power <= limit)


def _draw_scale_bar(axis: "Axes", width: int, height: int, width_um: float) -> None:
    from matplotlib import patheffects

    length_um = scale_bar_um(width_um)
    length = width * length_um / width_um
    right, y = width * 0.97, height * 0.965
    halo = [patheffects.withStroke(linewidth=5, foreground="white")]
    axis.plot([right - length, right], [y, y], color="black", linewidth=3, solid_capstyle="butt", path_effects=halo)
    text = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"
    axis.annotate(
        text,
        (right - length / 2, y),
        (0, 5),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=10,
        color="black",
        path_effects=[patheffects.withStroke(linewidth=3, foreground="white")],
    )
