"""Colours for clusters and slides: told apart by colour-blind people, and from the pink and purple of H&E."""

import colorsys

import numpy as np
from jaxtyping import Int, UInt8

from microtome.errors import ConfigError

CATEGORICAL = (
    "#0080e7",  # blue
    "#ff9b00",  # orange
    "#23867d",  # teal
    "#f31400",  # red
    "#41eaff",  # cyan
    "#ffff72",  # yellow
    "#000028",  # near black
    "#9afabe",  # mint
    "#97002e",  # crimson
    "#428634",  # green
    "#3a2800",  # brown
    "#044a4f",  # dark teal
)
"""Twelve colours whose least CIEDE2000 distance, to each other and to those of H&E, is large in normal sight
and under the deuteranopia and protanopia of Machado et al. 2009; found by a search."""

_STEPS = (0.8191725133961645, 0.6710436067037893, 0.5497004779019703)
"""Steps of an additive sequence that fills three dimensions evenly: hue, saturation, value."""
_PINK_FROM, _PINK_TO = 0.74, 0.96  # hues of haematoxylin and eosin, left out of generated colours


def categorical_colors(n: int) -> UInt8[np.ndarray, "n 3"]:
    """Colours of ``n`` categories.

    The first 12 are :data:`CATEGORICAL`; further ones are generated, and told apart less well the more there
    are. A category's colour does not depend on ``n``.

    Args:
        n: Number of categories, at least 0.

    Returns:
        RGB, 0..255.

    Raises:
        ConfigError: If ``n`` is negative.

    Example:
        >>> categorical_colors(2).tolist()
        [[0, 128, 231], [255, 155, 0]]
    """
    if n < 0:
        raise ConfigError(f"The number of colours must be at least 0. Got {n}.")
    fixed = [_rgb(text) for text in CATEGORICAL[:n]]
    made = [_generated(i) for i in range(n - len(fixed))]
    return np.array([*fixed, *made], np.uint8).reshape(n, 3)


def hex_color(rgb: UInt8[np.ndarray, " 3"]) -> str:
    """A colour as HTML and SVG write it.

    Example:
        >>> hex_color(np.array([255, 155, 0], np.uint8))
        '#ff9b00'
    """
    return "#" + "".join(f"{int(v):02x}" for v in rgb)


def ink_on(rgb: UInt8[np.ndarray, " 3"]) -> str:
    """The colour, black or white, in which text on ``rgb`` reads better.

    References:
        Contrast ratio of WCAG 2.2.

    Example:
        >>> ink_on(np.array([0, 0, 40], np.uint8)), ink_on(np.array([255, 255, 114], np.uint8))
        ('#ffffff', '#000000')
    """
    luminance = relative_luminance(rgb)
    return "#000000" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "#ffffff"


def relative_luminance(rgb: UInt8[np.ndarray, " 3"]) -> float:
    """Luminance of an sRGB colour, 0 (black) to 1 (white), as WCAG 2.2 defines it."""
    v = rgb.astype(np.float64) / 255
    linear = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))


def colors_of(labels: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 3"]:
    """The colour of each label, 0 and up.

    Raises:
        ConfigError: If a label is negative.
    """
    if not len(labels):
        return np.zeros((0, 3), np.uint8)
    if labels.min() < 0:
        raise ConfigError(f"A label must be at least 0 to have a colour. Got {int(labels.min())}.")
    colors: UInt8[np.ndarray, "n 3"] = categorical_colors(int(labels.max()) + 1)[labels]
    return colors


def _rgb(text: str) -> list[int]:
    return [int(text[i : i + 2], 16) for i in (1, 3, 5)]


def _generated(i: int) -> list[int]:
    """A colour of a hue outside of H&E's, neither pale nor very dark."""
    hue, saturation, value = ((0.5 + (i + 1) * step) % 1.0 for step in _STEPS)
    hue = (_PINK_TO + hue * (1.0 - (_PINK_TO - _PINK_FROM))) % 1.0
    return [round(255 * v) for v in colorsys.hsv_to_rgb(hue, 0.5 + 0.5 * saturation, 0.4 + 0.6 * value)]
