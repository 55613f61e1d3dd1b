"""A tissue outline as the path of an SVG in thumbnail pixels."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import shapely
from jaxtyping import Float64

from microtome.annotations.geojson import read_polygons
from microtome.viz.report_inputs import Frame

TOLERANCE_PX = 0.75
"""Detail of less than this many thumbnail pixels is left out; where a ring starts it may be half as much again."""


def outline_path(path: Path, frame: Frame) -> str:
    """Read the polygons of a GeoJSON file as SVG path data.

    Detail of less than :data:`TOLERANCE_PX` is left out, so that outlines of full-resolution masks stay light.

    Args:
        path: Polygons with holes, level-0 pixels.
        frame: What the thumbnail shows.

    Returns:
        Path data in thumbnail pixels, one subpath per ring (to be filled, if at all, by the even-odd rule); empty
        where there are no polygons.

    Raises:
        AnnotationError: If the file cannot be read as polygons.
    """
    polygons = [a.polygon for a in read_polygons(path, non_area="skip", invalid="repair")]
    drawn = shapely.transform(shapely.MultiPolygon(polygons), lambda xy: _to_thumbnail(xy, frame))
    simple = shapely.simplify(drawn, TOLERANCE_PX, preserve_topology=True)
    return "".join(_subpath(ring) for ring in _rings(simple))


def _to_thumbnail(xy: Float64[np.ndarray, "n 2"], frame: Frame) -> Float64[np.ndarray, "n 2"]:
    placed: Float64[np.ndarray, "n 2"] = (xy - np.asarray(frame.box[:2])) * np.asarray(frame.scale)
    return placed


def _rings(geometry: shapely.Geometry) -> Iterator[Float64[np.ndarray, "n 2"]]:
    for part in shapely.get_parts(geometry):
        if isinstance(part, shapely.Polygon) and not part.is_empty:
            for ring in (part.exterior, *part.interiors):
                yield np.asarray(ring.coords, np.float64)[:-1, :2]


def _subpath(ring: Float64[np.ndarray, "n 2"]) -> str:
    return "M" + " ".join(f"{_short(x)} {_short(y)}" for x, y in ring) + "Z"


def _short(value: float) -> str:
    """One decimal, none where it is zero: a tenth of a thumbnail pixel is not seen."""
    text = f"{value:.1f}"
    text = text.removesuffix(".0")
    return "0" if text == "-0" else text
