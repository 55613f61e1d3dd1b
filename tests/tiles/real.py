"""Real slides of the reference data, by the name that a reference case gives."""

import numpy as np
import openslide

from microtome.testing.array_slide import ArraySlide


def open_by_name(shared, name):
    with openslide.OpenSlide(shared / "data" / "wsi" / name) as file:
        image = np.asarray(file.read_region((0, 0), 0, file.dimensions).convert("RGB"))
        return ArraySlide(image, mpp=float(file.properties["openslide.mpp-x"]), name=name.rpartition(".")[0])
