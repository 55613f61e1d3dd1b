"""A person's or a program's polygons as GeoJSON, in QuPath's dialects. Coordinates are level-0 pixels, x then y.

QuPath writes a ``Feature``, a ``FeatureCollection``, a bare list of features, or a bare geometry, depending
on its version and on how it was asked; all are read. What it writes nothing of (a resolution, a slide's name)
is not guessed here.
"""

import json
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

import shapely
from shapely.geometry.polygon import orient

from microtome.errors import AnnotationError
from microtome.storage import write_text

NonArea = Literal["error", "skip"]
Invalid = Literal["error", "repair"]

_MAX_DEPTH = 64  # of nested collections; QuPath needs three
_ID_SPACE = uuid.UUID("5d6f5d0e-6a0e-5c8b-9f53-6f1a3f6f7a10")  # of the features' ids: the same polygon, the same id
_COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233))


@dataclass(frozen=True, eq=False)
class Annotation:
    """One polygon, level-0 pixels, with what was said of it.

    Attributes:
        polygon: Valid and not empty; may have holes.
        label: The name of its class (QuPath's ``classification.name``), or None.
        properties: Everything else that its feature said, as it stood.
    """

    polygon: shapely.Polygon
    label: str | None = None
    properties: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class GeoJsonFile:
    """What a GeoJSON file holds.

    Attributes:
        annotations: Its polygons, in the file's order; a MultiPolygon is several.
        skipped: How many geometries without an area were left out, by kind.
        members: Members of the outermost object that GeoJSON does not define.
    """

    annotations: tuple[Annotation, ...]
    skipped: Mapping[str, int]
    members: Mapping[str, Any]


def read_polygons(path: str | Path, *, non_area: NonArea = "error", invalid: Invalid = "error") -> list[Annotation]:
    """Read the polygons of a GeoJSON file, level-0 pixels.

    Args:
        path: The file: a Feature, a FeatureCollection, a list of features, or a bare geometry.
        non_area: What to do with points, lines and features without a geometry: ``error``, or ``skip``
            (:func:`read_geojson` says how many).
        invalid: What to do with a polygon that crosses itself: ``error``, or ``repair`` (its parts are kept
            as separate polygons, by shapely's ``make_valid``, method "structure").

    Returns:
        Polygons in the file's order; a MultiPolygon gives several with the same label. Empty where the file is
        an empty collection.

    Raises:
        AnnotationError: If the file cannot be read, is not GeoJSON, or a polygon is empty, unclosed, crosses
            itself or has a coordinate that is not a finite number.
    """
    return list(read_geojson(path, non_area=non_area, invalid=invalid).annotations)


def read_geojson(path: str | Path, *, non_area: NonArea = "error", invalid: Invalid = "error") -> GeoJsonFile:
    """Read a GeoJSON file: its polygons, what was skipped, and its foreign members.

    Arguments and errors are those of :func:`read_polygons`.
    """
    if non_area not in ("error", "skip") or invalid not in ("error", "repair"):
        raise AnnotationError(
            f"non_area must be error or skip, and invalid error or repair. Got {non_area!r} and {invalid!r}."
        )
    reading = _Reading(Path(path), non_area, invalid)
    content = _parsed(reading.path)
    annotations = tuple(reading.annotations(content))
    members = {}
    if isinstance(content, dict):
        known = ("type", "features", "geometry", "geometries", "coordinates", "properties", "id", "bbox")
        members = {key: value for key, value in content.items() if key not in known}
    return GeoJsonFile(annotations, dict(reading.skipped), members)


def write_polygons(
    path: str | Path, annotations: Sequence[Annotation], *, members: Mapping[str, Any] | None = None
) -> None:
    """Write polygons as a GeoJSON FeatureCollection that QuPath opens by drag and drop.

    Args:
        path: Where to; replaced whole.
        annotations: Polygons, level-0 pixels. A label becomes QuPath's classification with a colour of its own.
        members: Foreign members of the collection (QuPath ignores them); plain JSON values.

    Raises:
        AnnotationError: If a polygon is empty or invalid.
        OutputWriteError: If the file cannot be written.
    """
    labels = sorted({a.label for a in annotations if a.label is not None})
    colours = {label: _COLOURS[i % len(_COLOURS)] for i, label in enumerate(labels)}
    collection = {
        "type": "FeatureCollection",
        **(members or {}),
        "features": [_feature(a, colours, Path(path)) for a in annotations],
    }
    write_text(Path(path), json.dumps(collection, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n")


def _feature(annotation: Annotation, colours: Mapping[str, tuple[int, int, int]], path: Path) -> dict[str, Any]:
    polygon = annotation.polygon
    if polygon.is_empty or not polygon.is_valid:
        raise AnnotationError(
            f"'{path}': a polygon cannot be written, it is {shapely.is_valid_reason(polygon)}. Repair it, for example "
            "with shapely.make_valid."
        )
    properties: dict[str, Any] = {"objectType": "annotation", **annotation.properties}
    if annotation.label is not None:
        kept = properties.get("classification")
        colour = kept.get("color") if isinstance(kept, Mapping) and kept.get("name") == annotation.label else None
        properties["classification"] = {
            "name": annotation.label,
            "color": colour or list(colours[annotation.label]),
        }
    turned = orient(polygon, sign=1.0)
    rings = [turned.exterior, *turned.interiors]
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_ID_SPACE, polygon.normalize().wkt)),
        "geometry": {
            "type": "Polygon",
            "coordinates": [[_position(x, y) for x, y, *_ in r.coords] for r in rings],
        },
        "properties": properties,
    }


def _position(x: float, y: float) -> list[float]:
    # whole numbers without ".0": half the file's size
    return [int(v) if v.is_integer() else v for v in (x, y)]


def _parsed(path: Path) -> Any:  # noqa: ANN401 - JSON is anything
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not a number")

    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=refuse)
    except OSError as error:
        raise AnnotationError(f"'{path}' cannot be read: {error.strerror or error}. Check the path.") from error
    except RecursionError as error:
        raise AnnotationError(f"'{path}' is no GeoJSON of polygons: it is nested too deeply.") from error
    except ValueError as error:
        raise AnnotationError(
            f"'{path}' is not valid JSON ({error}). Export the annotations from QuPath as GeoJSON, not compressed."
        ) from error


class _Reading:
    """One file being read: where, under which rules, and what was skipped so far."""

    def __init__(self, path: Path, non_area: NonArea, invalid: Invalid) -> None:
        self.path = path
        self.non_area = non_area
        self.invalid = invalid
        self.skipped: Counter[str] = Counter()

    def fail(self, what: str, do: str) -> NoReturn:
        raise AnnotationError(f"'{self.path}': {what}. {do}")

    def annotations(self, content: Any, depth: int = 0) -> Iterator[Annotation]:  # noqa: ANN401 - JSON is anything
        if depth > _MAX_DEPTH:
            self.fail(
                f"collections are nested more than {_MAX_DEPTH} deep",
                "Export the annotations as a flat list.",
            )
        if isinstance(content, list):
            for item in content:
                yield from self.annotations(item, depth + 1)
        elif not isinstance(content, dict):
            self.fail(f"expected a GeoJSON object, got {_shown(content)}", "Export the annotations as GeoJSON.")
        elif content.get("type") == "FeatureCollection":
            features = content.get("features")
            if not isinstance(features, list):
                self.fail(f"its features are {_shown(features)}, not a list", "Export the annotations again.")
            yield from self.annotations(features, depth + 1)
        elif content.get("type") == "Feature":
            yield from self._feature(content)
        else:
            yield from (Annotation(polygon) for polygon in self._polygons(content, "the geometry"))

    def _feature(self, feature: dict[str, Any]) -> Iterator[Annotation]:
        properties = feature.get("properties") or {}
        if not isinstance(properties, dict):
            self.fail(f"a feature's properties are {_shown(properties)}", "Export the annotations again.")
        name = properties.get("name") or feature.get("id")
        where = "a feature" if name is None else f"feature {str(name)[:60]!r}"
        label = _label(properties)
        for polygon in self._polygons(feature.get("geometry"), where):
            yield Annotation(polygon, label, properties)

    def _polygons(self, geometry: Any, where: str, depth: int = 0) -> Iterator[shapely.Polygon]:  # noqa: ANN401
        kind = geometry.get("type") if isinstance(geometry, dict) else None
        if kind == "Polygon":
            yield from self._polygon(geometry.get("coordinates"), where)
        elif kind == "MultiPolygon":
            for rings in self._list(geometry.get("coordinates"), where, "polygon"):
                yield from self._polygon(rings, where)
        elif kind == "GeometryCollection":
            if depth > _MAX_DEPTH:
                self.fail(f"{where} is nested more than {_MAX_DEPTH} deep", "Export the annotations as a flat list.")
            for part in self._list(geometry.get("geometries"), where, "geometry"):
                yield from self._polygons(part, where, depth + 1)
        elif geometry is None or kind in ("Point", "MultiPoint", "LineString", "MultiLineString"):
            self._without_area("null" if geometry is None else str(kind), where)
        else:
            self.fail(
                f"{where} is of type {_shown(kind)}, which is no GeoJSON geometry",
                "Export the annotations from QuPath as GeoJSON; other formats are not read here.",
            )

    def _without_area(self, kind: str, where: str) -> None:
        if self.non_area == "error":
            self.fail(
                f"{where} is a {kind}, which has no area",
                "Remove it, or pass non_area='skip' to read the polygons only.",
            )
        self.skipped[kind] += 1

    def _polygon(self, rings: Any, where: str) -> Iterator[shapely.Polygon]:  # noqa: ANN401 - JSON is anything
        shell, *holes = [self._ring(ring, where) for ring in self._list(rings, where, "ring")]
        polygon = shapely.Polygon(shell, holes)
        if polygon.is_valid and polygon.area > 0:
            yield polygon
            return
        parts = []
        if self.invalid == "repair":
            mended = shapely.make_valid(polygon, method="structure", keep_collapsed=False)
            parts = [p for p in shapely.get_parts(mended) if isinstance(p, shapely.Polygon) and p.area > 0]
        if not parts:
            self.fail(
                f"a polygon of {where} is not valid ({shapely.is_valid_reason(polygon)}, area {polygon.area:g})",
                "Redraw it, or pass invalid='repair'.",
            )
        yield from parts

    def _ring(self, ring: Any, where: str) -> list[tuple[float, float]]:  # noqa: ANN401 - JSON is anything
        points = [self._point(point, where) for point in self._list(ring, where, "point")]
        if len(points) < 4 or points[0] != points[-1]:
            self.fail(
                f"a ring of {where} has {len(points)} points and "
                f"{'ends' if points[0] == points[-1] else 'does not end'} where it starts",
                "A ring needs at least 4 points, the last equal to the first; export the annotations again.",
            )
        return points

    def _point(self, point: Any, where: str) -> tuple[float, float]:  # noqa: ANN401 - JSON is anything
        if not (isinstance(point, list) and len(point) >= 2 and _is_number(point[0]) and _is_number(point[1])):
            self.fail(
                f"a point of {where} is {_shown(point)}, not two finite numbers",
                "Export the annotations again.",
            )
        return float(point[0]), float(point[1])

    def _list(self, value: Any, where: str, what: str) -> list[Any]:  # noqa: ANN401 - JSON is anything
        if not isinstance(value, list) or not value:
            self.fail(f"{where} has no {what} ({_shown(value)})", "Remove it or draw it again.")
        return value


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e12  # neither infinite nor NaN, nor a whole number too large for a float


def _label(properties: Mapping[str, Any]) -> str | None:
    """QuPath's class: an object with a name, in older versions with names, or a bare string."""
    found = properties.get("classification")
    if isinstance(found, dict):
        names = found.get("names")
        found = found.get("name") or (": ".join(map(str, names)) if isinstance(names, list) and names else None)
    return found if isinstance(found, str) and found else None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
