"""Stains as light absorbed: optical density and unmixing into dyes (numpy only).

Natural logarithms throughout: optical density is ``-ln(intensity / background)``, so a concentration of 1 of a
dye whose vector has unit length lets ``1/e`` of the light through along that vector.
"""

import numpy as np
from jaxtyping import Float, Float32, UInt8

from microtome.errors import ConfigError

BACKGROUND = 255.0
"""Intensity that counts as no absorption, in grey levels."""

HE_VECTORS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11))
"""Haematoxylin and eosin as published by Ruifrok & Johnston (2001): absorption in red, green and blue."""


def _unit_rows(vectors: Float[np.ndarray, "k 3"]) -> Float[np.ndarray, "k 3"]:
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


HE_MATRIX: Float[np.ndarray, "2 3"] = _unit_rows(np.array(HE_VECTORS))
"""Rows haematoxylin and eosin, each of unit length: what :func:`unmix_stains` takes by default."""
HE_MATRIX.setflags(write=False)


def optical_density(
    image: UInt8[np.ndarray, "*shape"], *, background: float = BACKGROUND
) -> Float32[np.ndarray, "*shape"]:
    """Turn 8-bit intensities into optical density.

    Args:
        image: Intensities, any shape.
        background: Intensity of clear glass, in grey levels; 255 assumes a scanner whose white point is set.

    Returns:
        ``-ln(max(image, 1) / background)``, not below 0, float32. An intensity of 0 counts as 1, the least that
        8 bits tell apart from it, so the result is at most ``ln(background)`` (5.54 by default); what is brighter
        than the background absorbs nothing.

    Raises:
        ConfigError: If ``background`` is not above 0 and at most 255.

    Example:
        >>> print(optical_density(np.array([255, 94, 0], dtype=np.uint8)).round(3))
        [0.    0.998 5.541]
    """
    density: np.ndarray = od_table(background)[image]
    return density


def od_table(background: float = BACKGROUND) -> Float32[np.ndarray, "256"]:
    """Optical density of each of the 256 intensities; see :func:`optical_density`."""
    if not 0 < background <= 255:
        raise ConfigError(
            f"background must be the intensity of clear glass, above 0 and at most 255. Got {background}."
        )
    levels = np.maximum(np.arange(256, dtype=np.float64), 1)
    return np.maximum(np.log(background / levels), 0).astype(np.float32)


def unmixing_matrix(stains: Float[np.ndarray, "k 3"] = HE_MATRIX) -> Float[np.ndarray, "3 3"]:
    """Matrix that turns optical density into concentrations: ``concentrations = od @ matrix``.

    Args:
        stains: Two or three dyes, one absorption vector per row. Lengths matter: twice as long a vector gives
            half the concentration.

    Returns:
        One column per dye. For two dyes the third column is the residual: what lies along the unit vector
        perpendicular to both, positive towards ``cross(first, second)``; the first two are then the
        least-squares (pseudo-inverse) solution.

    Raises:
        ConfigError: If there are not two or three finite, linearly independent vectors.
    """
    stains = np.asarray(stains, dtype=np.float64)
    if stains.shape[0] not in (2, 3) or not np.isfinite(stains).all():
        raise ConfigError(f"stains must be two or three finite absorption vectors. Got shape {stains.shape}.")
    if np.linalg.matrix_rank(_unit_rows(stains) if stains.any(axis=1).all() else stains, tol=1e-6) < len(stains):
        raise ConfigError("stains must be linearly independent to be told apart. Give vectors that differ.")
    if len(stains) == 2:
        across = np.cross(stains[0], stains[1])
        stains = np.vstack([stains, across / np.linalg.norm(across)])
    return np.linalg.inv(stains)


def unmix_stains(
    image: UInt8[np.ndarray, "*shape 3"],
    stains: Float[np.ndarray, "k 3"] = HE_MATRIX,
    *,
    background: float = BACKGROUND,
) -> Float32[np.ndarray, "*shape 3"]:
    """Unmix RGB pixels into concentrations of dyes.

    Args:
        image: RGB pixels, any number of leading axes.
        stains: Absorption vectors in rows; haematoxylin and eosin by default.
        background: Intensity of clear glass, in grey levels.

    Returns:
        Concentrations, one channel per dye, then the residual where two dyes were given; float32. Not clipped:
        a negative concentration says that the colour lies outside of what the dyes can mix.

    Raises:
        ConfigError: If the vectors cannot be told apart or the background is not an intensity.

    References:
        Ruifrok, Johnston, *Quantification of histochemical staining by color deconvolution*, Anal Quant Cytol
        Histol 23 (2001). Deviations: natural instead of decadic logarithm, and for two dyes the perpendicular
        vector completes the matrix. scikit-image's ``separate_stains`` gives this divided by ``-ln(1e-6)`` and
        clipped at 0.

    Example:
        >>> white = np.full((1, 1, 3), 255, dtype=np.uint8)
        >>> unmix_stains(white).tolist()
        [[[0.0, 0.0, 0.0]]]
    """
    matrix = unmixing_matrix(stains).astype(np.float32)
    return optical_density(image, background=background) @ matrix
