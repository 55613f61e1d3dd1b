"""Virtual H&E of stimulated Raman images: two dyes that absorb as haematoxylin and eosin do.

What absorbs as haematoxylin is CH3 - CH2, which is high in nuclei; as eosin CH2, which is high where there is lipid. It
is a picture for people who read H&E, not a stain, and no model sees it.

References:
    specs FastGlioma section 4, the method that is proposed there (Beer-Lambert); the original shows virtual H&E and
    publishes no code for it.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, UInt8

HAEMATOXYLIN = (0.65, 0.70, 0.29)
EOSIN = (0.07, 0.99, 0.11)
"""Absorption of red, green and blue; Ruifrok and Johnston 2001."""

_STRENGTH_H = 1.5
_STRENGTH_E = 0.45
_PERCENTILES = (1.0, 99.5)
_MOST_SAMPLES = 2_000_000


@dataclass(frozen=True, slots=True)
class StainRange:
    """Raw values that become none and all of a dye, for a whole slide.

    Attributes:
        difference: Of CH3 - CH2, negative values as zero.
        ch2: Of CH2.
    """

    difference: tuple[float, float]
    ch2: tuple[float, float]


def find_stain_range(channels: Float[np.ndarray, "n 2 h w"]) -> StainRange:
    """Percentiles over all patches of a slide, so that its patches can be told apart.

    Args:
        channels: Raw CH2 and CH3 of its patches; thumbnails will do.
    """
    step = max(1, int(np.ceil(np.sqrt(channels[:, 0].size / _MOST_SAMPLES))))
    some = channels[:, :, ::step, ::step]
    difference = np.maximum(some[:, 1] - some[:, 0], 0)
    return StainRange(_range(difference), _range(some[:, 0]))


def _range(values: Float[np.ndarray, "..."]) -> tuple[float, float]:
    low, high = np.percentile(values, _PERCENTILES)
    return float(low), float(max(high, low + 1))


def virtual_stain(channels: Float[np.ndarray, "n 2 h w"], over: StainRange) -> UInt8[np.ndarray, "n h w 3"]:
    """Paint patches as if stained.

    Args:
        channels: Raw CH2 and CH3.
        over: Of the slide, from :func:`find_stain_range`.

    Returns:
        RGB.
    """
    haematoxylin = _STRENGTH_H * _share(np.maximum(channels[:, 1] - channels[:, 0], 0), over.difference)
    eosin = _STRENGTH_E * _share(channels[:, 0], over.ch2)
    absorbed = haematoxylin[..., None] * np.array(HAEMATOXYLIN, np.float32) + eosin[..., None] * np.array(
        EOSIN, np.float32
    )
    rgb: UInt8[np.ndarray, "n h w 3"] = np.rint(255 * np.exp(-absorbed)).astype(np.uint8)
    return rgb


def _share(values: Float[np.ndarray, "..."], limits: tuple[float, float]) -> Float32[np.ndarray, "..."]:
    low, high = limits
    share: Float32[np.ndarray, "..."] = np.clip((values - low) / (high - low), 0, 1).astype(np.float32)
    return share
