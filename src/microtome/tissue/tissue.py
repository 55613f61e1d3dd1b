"""Where tissue is on a slide: polygons in level-0 pixels, with what found them."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from jaxtyping import Bool, Float64, Int

from microtome import storage
from microtome.annotations.geojson import Annotation, Invalid, NonArea, read_geojson, write_polygons
from microtome.annotations.raster import merged, polygons_from_mask, rasterise
from microtome.errors import AnnotationError, TissueError
from microtome.geometry import Box, Size
from microtome.tissue.coverage import CoverageIndex

_MEMBER = "microtome"  # the foreign member under which a GeoJSON file says what found the tissue
_LABEL = "Tissue"
_COLOUR = [0, 158, 115]


@dataclass(frozen=True, eq=False)
class Tissue:
    """Where tissue is on one slide.

    Attributes:
        polygons: Valid polygons that do not overlap, level-0 pixels; holes are not tissue.
        size: Size of the slide's level 0.
        mpp: The slide's resolution, µm per level-0 pixel; None where unknown.
        method: What found it: a method's name, or ``imported``.
        recipe: Every value that decided it; empty where a person drew it.
    """

    polygons: shapely.MultiPolygon
    size: Size
    mpp: float | None
    method: str
    recipe: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def from_mask(
        cls,
        mask: Bool[np.ndarray, "h w"],
        *,
        box: Box,
        size: Size,
        mpp: float | None,
        method: str = "imported",
        recipe: Mapping[str, object] | None = None,
    ) -> "Tissue":
        """Outline a mask along its pixels' edges.

        Args:
            mask: True where tissue is.
            box: What the mask covers, level-0 pixels.
            size: Size of the slide's level 0; what lies outside of it is no tissue.
            mpp: The slide's resolution, µm/px.
            method: What made the mask.
            recipe: Every value that decided it.

        Raises:
            ConfigError: If the mask has no pixels.
        """
        polygons = _within(polygons_from_mask(mask, box=box), size, surely=Box.of(size).contains(box))
        return cls(polygons, size, mpp, method, recipe or {})

    @classmethod
    def from_geojson(
        cls,
        path: str | Path,
        *,
        size: Size,
        mpp: float | None,
        labels: Collection[str] | None = None,
        non_area: NonArea = "error",
        invalid: Invalid = "error",
    ) -> "Tissue":
        """Read a person's outline: polygons in level-0 pixels; where they overlap they are united.

        Args:
            path: GeoJSON as QuPath exports it.
            size: Size of the slide's level 0; parts of a polygon outside of it are no tissue.
            mpp: The slide's resolution, µm/px.
            labels: Only polygons of these classes are tissue; None takes all.
            non_area: What to do with points and lines: ``error`` or ``skip``.
            invalid: What to do with polygons that cross themselves: ``error`` or ``repair``.

        Raises:
            AnnotationError: If the file is not what it should be, all of it lies outside of the slide, or no
                polygon has one of ``labels``.
        """
        found = read_geojson(path, non_area=non_area, invalid=invalid).annotations
        chosen = [a for a in found if labels is None or a.label in labels]
        if found and not chosen:
            raise AnnotationError(
                f"'{path}' has no polygon labelled {' or '.join(sorted(labels or ()))}; it has "
                f"{', '.join(sorted({str(a.label) for a in found}))}. Pass labels= that it has."
            )
        whole = merged([a.polygon for a in chosen])
        inside = _within(whole, size, surely=False)
        if inside.is_empty and not whole.is_empty:
            raise AnnotationError(
                f"'{path}': all polygons lie outside of the slide of {size.width} × {size.height} px (they span "
                f"{', '.join(f'{v:.0f}' for v in whole.bounds)}). Give the outline of this slide, in level-0 pixels."
            )
        return cls(inside, size, mpp, "imported")

    def to_geojson(self, path: str | Path) -> None:
        """Write a GeoJSON file that QuPath opens; :func:`read_tissue` gives the same Tissue back.

        Raises:
            OutputWriteError: If the file cannot be written.
        """
        properties = {"classification": {"name": _LABEL, "color": _COLOUR}}
        annotations = [Annotation(p, _LABEL, properties) for p in self.polygons.geoms]
        member = {
            "method": self.method,
            "mpp": self.mpp,
            "size": [self.size.width, self.size.height],
            "area_mm2": self.area_mm2,
            "recipe": self.recipe_text,
            "recipe_digest": storage.digest(self.recipe) if self.recipe else "",
            "polygons_digest": self.digest,
        }
        write_polygons(path, annotations, members={_MEMBER: member})

    def coverage(self, boxes: Int[np.ndarray, "n 4"]) -> Float64[np.ndarray, " n"]:
        """Share of each box that is tissue.

        Args:
            boxes: x y w h, level-0 pixels; may reach out of the slide.

        Returns:
            Shares, 0..1, exact to 1e-3.
        """
        if len(boxes) and int(boxes[:, 2:].min()) < 1:
            raise TissueError("A box must be at least 1 px wide and high to be covered.")
        return self._index.covered(boxes)

    def mask(self, *, box: Box, size: Size) -> Bool[np.ndarray, "h w"]:
        """Mask of the pixels whose centre is in tissue.

        Args:
            box: What it covers, level-0 pixels.
            size: Size of the mask.
        """
        return rasterise(self.polygons, box=box, size=size, check=False)

    @cached_property
    def _index(self) -> CoverageIndex:
        return CoverageIndex(self.polygons)

    @property
    def is_empty(self) -> bool:
        """Whether there is no tissue."""
        return bool(self.polygons.is_empty)

    @property
    def area_px0(self) -> float:
        """Area, in level-0 pixels."""
        return float(self.polygons.area)

    @property
    def area_mm2(self) -> float | None:
        """Area, in mm²; None where the slide's resolution is unknown."""
        return None if self.mpp is None else self.area_px0 * self.mpp**2 / 1e6

    @property
    def recipe_text(self) -> str:
        """The recipe as text, to compare; empty where a person drew the outline."""
        return storage.recipe_text(self.recipe) if self.recipe else ""

    @cached_property
    def digest(self) -> str:
        """A digest of the polygons' coordinates, whatever their order."""
        binary = shapely.to_wkb(self.polygons.normalize(), byte_order=1, output_dimension=2)
        return hashlib.sha256(binary).hexdigest()[:32]


def read_tissue(path: str | Path, *, size: Size | None = None, mpp: float | None = None) -> Tissue:
    """Read tissue from the GeoJSON file that :meth:`Tissue.to_geojson` wrote, or that a person put in its place.

    Args:
        path: The file.
        size: Size of the slide's level 0. Needed only where the file does not say it, as one edited and exported by
            QuPath; where it does, the two must be equal.
        mpp: The slide's resolution, for a file that does not say it.

    Returns:
        The Tissue. If the polygons are not those that were written, a person edited them: the recipe is empty and
        the method ``imported``.

    Raises:
        AnnotationError: If the file cannot be read, or its size is unknown or not ``size``.
    """
    content = read_geojson(path)
    said = content.members.get(_MEMBER)
    if said is None:
        if size is None:
            raise AnnotationError(
                f"'{path}' does not say how large its slide is, so it was not written by microtome. Pass size= of the "
                "slide, or import it (--tissue-from)."
            )
        return Tissue.from_geojson(path, size=size, mpp=mpp)
    method, written_size, written_mpp, recipe, written = _said(said, Path(path))
    if size is not None and size != written_size:
        raise AnnotationError(
            f"'{path}' outlines a slide of {written_size.width} × {written_size.height} px, but this one has "
            f"{size.width} × {size.height} px. Give the outline of this slide."
        )
    as_written = Tissue(
        shapely.MultiPolygon([a.polygon for a in content.annotations]),
        written_size,
        written_mpp,
        method,
        recipe,
    )
    if as_written.digest == written:
        return as_written
    return Tissue.from_geojson(path, size=written_size, mpp=written_mpp)


def _said(said: Any, path: Path) -> tuple[str, Size, float | None, dict[str, object], str]:  # noqa: ANN401 - JSON
    try:
        width, height = said["size"]
        mpp = None if said["mpp"] is None else float(said["mpp"])
        recipe = json.loads(said["recipe"]) if said["recipe"] else {}
        return (
            str(said["method"]),
            Size(int(width), int(height)),
            mpp,
            dict(recipe),
            str(said["polygons_digest"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise AnnotationError(
            f"'{path}': what it says of how it was made cannot be read ({type(error).__name__}: {error}). Find tissue "
            f"again, or remove the member {_MEMBER!r} and import the file."
        ) from error


def _within(polygons: shapely.MultiPolygon, size: Size, *, surely: bool) -> shapely.MultiPolygon:
    """The part of the polygons on the slide's canvas."""
    if surely or polygons.is_empty:
        return polygons
    left, top, right, bottom = polygons.bounds
    if left >= 0 and top >= 0 and right <= size.width and bottom <= size.height:
        return polygons
    parts = shapely.get_parts(shapely.intersection(polygons, shapely.box(0, 0, size.width, size.height)))
    return merged(parts[shapely.area(parts) > 0])
