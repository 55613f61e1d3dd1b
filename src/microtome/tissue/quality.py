"""Quality of tiles, from their pixels alone: blur, pen, black and white."""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from microtome.tissue.pen import is_ink

_GLASS = 243.0
_SHARP = 100.0  # variance of the Laplacian at which ``blur`` is one half
_BLACK, _WHITE = 50, 220


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
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    table = np.maximum(0, np.log((_GLASS + 1) / (np.arange(256) + 1))).astype(np.float32)
    quality = {name: np.zeros(len(images), np.float32) for name in ("blur", "pen", "black", "white")}
    for row, image in enumerate(images):  # one at a time: a batch in float would be four times its size
        detail = cv2.Laplacian(image.astype(np.float32) @ weights, cv2.CV_32F, ksize=1)
        quality["blur"][row] = 1 / (1 + float(detail.var()) / _SHARP)
        quality["pen"][row] = is_ink(cv2.LUT(image, table)).mean()
        quality["black"][row] = (image <= _BLACK).all(axis=2).mean()
        quality["white"][row] = (image >= _WHITE).all(axis=2).mean()
    return quality
