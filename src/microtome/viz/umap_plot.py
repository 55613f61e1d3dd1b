"""The UMAP of tiles as a picture, coloured by cluster or by slide."""

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float, Int, Int64

from microtome.errors import ConfigError
from microtome.viz.palette import colors_of, hex_color

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEGEND_ROWS = 16
_NAME_CHARACTERS = 28
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "svg.hashsalt": "microtome",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name with dollars is a name
}
_SEED = 0  # of the order in which points are drawn, so that none lies on top because of its name


def draw_umap(
    xy: Float[np.ndarray, "n 2"],
    clusters: Int[np.ndarray, " m"],
    slide_ids: Sequence[str] | None = None,
    *,
    image_format: Literal["png", "svg"] = "png",
    width_px: int = 1500,
    cluster_names: Mapping[int, str] | None = None,
) -> bytes:
    """Draw tiles on the plane, coloured by cluster and, where slides are given, once more by slide.

    Args:
        xy: Positions.
        clusters: Cluster of each tile, 0 and up; its colour is that of the cluster maps.
        slide_ids: Slide of each tile; None for one picture, coloured by cluster.
        image_format: ``png`` or ``svg``; in an SVG the points are one embedded picture, text stays text.
        width_px: Width of the picture, in pixels.
        cluster_names: Cluster → what the legend calls it; its number where it is not there.

    Returns:
        The file's bytes, the same each time for the same points.

    Raises:
        ConfigError: If there are no points, lengths differ, a position is not finite, or the format is
            another.
    """
    names = {} if cluster_names is None else cluster_names
    _check(xy, clusters, slide_ids, image_format)
    panels = [("by cluster", clusters, [names.get(k, str(k)) for k in range(int(clusters.max()) + 1)])]
    if slide_ids is not None:
        known, codes = np.unique(np.array(slide_ids), return_inverse=True)
        panels.append(("by slide", codes.astype(np.int64), [str(name) for name in known]))
    return _draw(xy, panels, image_format, width_px)


def _draw(
    xy: Float[np.ndarray, "n 2"],
    panels: Sequence[tuple[str, Int[np.ndarray, " n"], Sequence[str]]],
    image_format: str,
    width_px: int,
) -> bytes:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # no pyplot: it keeps figures, and a backend, for the whole process
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # a name in a script that the font lacks: boxes in a PNG, the name itself in an SVG
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        width_in = 7.5 * len(panels)
        figure = Figure(figsize=(width_in, 5.4), dpi=width_px / width_in, layout="constrained")
        FigureCanvasAgg(figure)
        axes = np.atleast_1d(figure.subplots(1, len(panels)))
        for axis, (title, codes, names) in zip(axes, panels, strict=True):
            _draw_panel(axis, xy, codes, names, title)
        buffer = io.BytesIO()
        metadata: Any = {"Date": None, "Creator": None} if image_format == "svg" else {"Software": None}
        figure.savefig(buffer, format=image_format, metadata=metadata)
    return buffer.getvalue()


def _draw_panel(
    axis: "Axes",
    xy: Float[np.ndarray, "n 2"],
    codes: Int64[np.ndarray, " n"],
    names: Sequence[str],
    title: str,
) -> None:
    colors = colors_of(codes) / 255.0
    order = np.random.default_rng(_SEED).permutation(len(xy))
    area = float(np.clip(14000 / len(xy), 5, 60))
    x, y = xy[order].T
    axis.scatter(x, y, s=area, c=colors[order], edgecolors="#30303080", linewidths=0.25, rasterized=True, zorder=2)
    axis.set_title(f"UMAP of {len(xy):,} tiles, {title}", fontsize=13)
    axis.set_xlabel("UMAP 1", fontsize=11)
    axis.set_ylabel("UMAP 2", fontsize=11)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_aspect("equal", adjustable="datalim")
    axis.margins(0.04)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color("#909090")
    _draw_legend(axis, codes, names)


def _draw_legend(axis: "Axes", codes: Int64[np.ndarray, " n"], names: Sequence[str]) -> None:
    """Name the categories that occur, the commonest where there are too many."""
    from matplotlib.lines import Line2D

    counts = np.bincount(codes, minlength=len(names))
    present = np.flatnonzero(counts)
    shown = present
    if len(present) > _LEGEND_ROWS:
        shown = np.sort(present[np.argsort(-counts[present], kind="stable")][: _LEGEND_ROWS - 1])
    colors = colors_of(np.arange(len(names)))
    handles = [
        Line2D(
            [],
            [],
            color=hex_color(colors[i]),
            label=_shortened(names[int(i)]),
            marker="o",
            linestyle="",
            markersize=8,
            markeredgecolor="#303030",
            markeredgewidth=0.4,
        )
        for i in shown
    ]
    if len(shown) < len(present):
        handles.append(Line2D([], [], linestyle="", label=f"and {len(present) - len(shown)} more"))
    axis.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        fontsize=10,
        frameon=False,
        borderaxespad=0.2,
    )


def _shortened(name: str) -> str:
    """The name, its middle left out where it is long; slide names differ at both ends."""
    if len(name) <= _NAME_CHARACTERS:
        return name
    half = (_NAME_CHARACTERS - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def _check(
    xy: Float[np.ndarray, "n 2"],
    clusters: Int[np.ndarray, " m"],
    slide_ids: Sequence[str] | None,
    image_format: str,
) -> None:
    if image_format not in ("png", "svg"):
        raise ConfigError(f"image_format must be png or svg. Got {image_format!r}.")
    if not len(xy) == len(clusters) == len(xy if slide_ids is None else slide_ids):
        raise ConfigError(
            f"There are {len(xy)} positions, {len(clusters)} clusters and "
            f"{'no' if slide_ids is None else len(slide_ids)} slide ids. Give one of each per tile."
        )
    if not len(xy):
        raise ConfigError("There are no tiles to draw.")
    if not np.isfinite(xy).all():
        raise ConfigError("A position is NaN or infinite, so the tiles cannot be drawn.")
