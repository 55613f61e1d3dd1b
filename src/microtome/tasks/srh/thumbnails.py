"""Patches made small for pictures, chunk by chunk."""

import numpy as np
from jaxtyping import Float32, UInt16

from microtome.tiles.srh import SRH_SIDE

CHUNK = 16
"""Patches that are read, encoded or drawn at once."""

THUMBNAIL_PX = 60
"""Side of a patch's thumbnail: a fifth of its own."""


def shrink(images: UInt16[np.ndarray, "n h w 2"]) -> Float32[np.ndarray, "n 2 t t"]:
    """Area averages of patches, channels first."""
    n, side, step = len(images), THUMBNAIL_PX, SRH_SIDE // THUMBNAIL_PX
    # Rows first, over whole lines: summing the short axes at once takes several times as long.
    lines = images.reshape(n, side, step, SRH_SIDE * 2).sum(axis=2, dtype=np.uint32)
    means = lines.reshape(n, side, side, step, 2).sum(axis=3, dtype=np.uint32).astype(np.float32) / step**2
    return np.ascontiguousarray(means.transpose(0, 3, 1, 2))
