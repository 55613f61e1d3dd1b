"""Tissue and slides for tests of tiles."""

import numpy as np
import shapely

from microtome.testing.array_slide import ArraySlide
from microtome.tissue.tissue import Tissue


class ExactTissue(Tissue):
    """Tissue whose coverage is computed box by box."""

    def coverage(self, boxes):
        x, y, w, h = boxes.T
        return shapely.area(shapely.intersection(shapely.box(x, y, x + w, y + h), self.polygons)) / (w * h)


def exact_tissue(polygons, size):
    return ExactTissue(polygons, size, None, "drawn")


def tissue(size, *boxes):
    """Tissue made of rectangles (x, y, right, bottom)."""
    return Tissue(shapely.MultiPolygon([shapely.box(*box) for box in boxes]), size, None, "drawn")


def noise_slide(width=700, height=500, *, channels=3, dtype=np.uint8, seed=0, **options):
    """A slide of noise: every crop is unlike every other."""
    limits = np.iinfo(dtype)
    image = np.random.default_rng(seed).integers(0, limits.max, (height, width, channels), dtype, endpoint=True)
    return ArraySlide(image, **options)
