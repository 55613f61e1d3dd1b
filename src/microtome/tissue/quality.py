"""Quality of tiles, from their pixels alone: blur, pen, black and white."""

import threading
from functools import cache

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from microtome.tissue.pen import is_ink

_GLASS = 243.0
_SHARP = 100.0  # variance of the Laplacian at which ``blur`` is one half
_BLACK, _WHITE = 50, 220
_KINDS = 8  # colours are sorted by three bits: ink, black, white
_INK_BIT, _BLACK_BIT, _WHITE_BIT = 1, 2, 4
_making_table = threading.Lock()


def tile_quality(images: UInt8[np.ndarray, "n h w 3"]) -> dict[str, Float32[np.ndarray, " n"]]:
    """Figures by which bad tiles can be found; all are 0..1, and nothing is dropped here.

    Args:
        images: RGB tiles.

    Returns:
        Per tile ``blur``: 1 / (1 + v / 100), where v is the variance of the Laplacian (4 neighbours, mirrored at the
        border) of the grey values 0..255; near 0 is sharp, 1 has no detail at all (blank glass too: see ``white``).
        It depends on resolution and stain: compare tiles of one cohort. ``pen``: share of pixels with the colour of
        strong ink (green, blue, red, black). ``black``: share whose channels are all at most 50 (holes in the scan,
        folds, black ink). ``white``: share whose channels are all at least 220 (glass).

    References:
        Variance of the Laplacian as a measure of focus: Pech-Pacheco et al., ICPR 2000. Ink: as
        :mod:`microtome.tissue.pen`, over a glass of 243, without growing.

    Example:
        >>> white = np.full((1, 8, 8, 3), 255, np.uint8)
        >>> {name: float(value[0]) for name, value in tile_quality(white).items()}
        {'blur': 1.0, 'pen': 0.0, 'black': 0.0, 'white': 1.0}
    """
    with _making_table:
        table = _colour_table()
    quality = {name: np.zeros(len(images), np.float32) for name in ("blur", "pen", "black", "white")}
    for row, image in enumerate(images):  # one at a time: a batch in float would be four times its size
        grey = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2GRAY)
        detail = cv2.Laplacian(grey, cv2.CV_32F, ksize=1)
        quality["blur"][row] = 1 / (1 + float(detail.var()) / _SHARP)
        shares = _kind_shares(image, table)
        quality["pen"][row], quality["black"][row], quality["white"][row] = shares
    return quality


def _kind_shares(image: UInt8[np.ndarray, "h w 3"], table: UInt8[np.ndarray, " c"]) -> tuple[float, float, float]:
    """Shares of pixels that are ink, black and white."""
    colours = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA).view("<u4").ravel() & np.uint32(0xFFFFFF)
    kinds = table.take(colours.view(np.int32))
    counts = cv2.calcHist([kinds], [0], None, [_KINDS], [0, _KINDS]).ravel()
    n, bits = kinds.size, np.arange(_KINDS)
    ink, black, white = (
        float(counts[bits & bit > 0].sum(dtype=np.float64)) / n for bit in (_INK_BIT, _BLACK_BIT, _WHITE_BIT)
    )
    return ink, black, white


@cache
def _colour_table() -> UInt8[np.ndarray, " c"]:
    """What each of the 2²⁴ colours is, at red + 256 · green + 65536 · blue: 16 MiB, many times quicker than asking.

    Takes a fifth of a second, once.
    """
    density = np.maximum(0, np.log((_GLASS + 1) / (np.arange(256) + 1))).astype(np.float32)
    kinds = np.empty((256, 256, 256), np.uint8)  # blue, green, red
    plane = np.empty((256, 256, 3), np.float32)
    plane[..., 0], plane[..., 1] = density[None, :], density[:, None]
    for blue in range(256):
        plane[..., 2] = density[blue]
        kinds[blue] = is_ink(plane)
    kinds *= _INK_BIT
    dark, bright = slice(0, _BLACK + 1), slice(_WHITE, 256)
    kinds[dark, dark, dark] |= _BLACK_BIT
    kinds[bright, bright, bright] |= _WHITE_BIT
    return kinds.reshape(-1)
