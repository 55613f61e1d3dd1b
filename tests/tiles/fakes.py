"""Tissue and slides for tests of tiles."""

from dataclasses import dataclass

import numpy as np
import shapely

from microtome.geometry import Size
from microtome.testing.array_slide import ArraySlide


@dataclass(frozen=True)
class FakeTissue:
    """Tissue with an exact coverage, computed box by box."""

    polygons: shapely.MultiPolygon
    size: Size

    @property
    def is_empty(self):
        return self.polygons.is_empty

    def coverage(self, boxes):
        x, y, w, h = boxes.T
        return shapely.area(shapely.intersection(shapely.box(x, y, x + w, y + h), self.polygons)) / (w * h)


def tissue(size, *boxes):
    """Tissue made of rectangles (x, y, right, bottom)."""
    return FakeTissue(shapely.MultiPolygon([shapely.box(*box) for box in boxes]), size)


def noise_slide(width=700, height=500, *, channels=3, dtype=np.uint8, seed=0, **options):
    """A slide of noise: every crop is unlike every other."""
    limits = np.iinfo(dtype)
    image = np.random.default_rng(seed).integers(
        0, limits.max, (height, width, channels), dtype, endpoint=True
    )
    return ArraySlide(image, **options)
