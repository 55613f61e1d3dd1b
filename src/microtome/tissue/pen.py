"""Ink by its colour: green, blue, red and black pen, told from stained tissue by ratios of optical density.

Ratios of density between channels do not change with how thick a stain or ink lies. Tissue in H&E and IHC with
haematoxylin absorbs green light most, or (haematoxylin alone) red at most 1.3 times as much; teal and green ink
absorb red two to four times as much as green, blue ink lets blue pass, red ink absorbs blue nearly as much as green
and hardly any red (eosin absorbs half as much blue), black ink absorbs all alike. The limits were measured on
HistoQC's pen images and on stained tissue at several resolutions. A stain that is itself teal or deep blue (Alcian
blue, methyl green) is taken for ink where it is strong; turn ink removal off for such slides.
"""

import numpy as np
from jaxtyping import Bool, Float32

from microtome.tissue.shapes import closed, opened, reached, without_small

_TINY = 1e-3
_MARKED = 0.004  # with so much strong ink there is a pen on this slide, and what is like it is ink too
_EOSIN_BLUE = 0.58  # density in blue over that in green, where a slide shows none of its own


def find_ink(density: Float32[np.ndarray, "h w 3"], unit: float) -> Bool[np.ndarray, "h w"]:
    """Ink in one image: strong ink, and what is connected to it with the same hue.

    Args:
        density: Optical density of R, G and B over the background, natural logarithm, 0 or more.
        unit: Pixels of about 8 µm.

    Returns:
        Mask of all colours of ink.
    """
    red, blue = _ratios(density)
    ink = _green(density, red) | _blue(density, red, blue)
    ink |= _red(density, red, blue, ink, unit) | _black(density)
    return closed(ink, 2 * unit)


def is_ink(density: Float32[np.ndarray, "*batch 3"]) -> Bool[np.ndarray, "*batch"]:
    """Whether single pixels have the colour of strong ink; no neighbourhood, so that tiles can be judged alone."""
    red, blue = _ratios(density)
    r, g = density[..., 0], density[..., 1]
    green_ink = (red > 1.9) & (r > 0.3) & (r > 1.3 * density[..., 2])
    blue_ink = (red > 1.45) & (blue < 0.36) & (r > 1.0)
    red_ink = (blue > 0.72) & (blue < 1.15) & (red < 0.15) & (g > 1.0)
    average, spread = _grey(density)
    return green_ink | blue_ink | red_ink | ((average > 1.2) & (spread < 0.3 * average))


def _ratios(density: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Density in red, and in blue, over that in green."""
    green = density[..., 1] + _TINY
    return density[..., 0] / green, density[..., 2] / green


def _green(density: np.ndarray, red: np.ndarray) -> np.ndarray:
    r, b = density[..., 0], density[..., 2]
    strong = (red > 1.9) & (r > 0.3) & (r > 1.3 * b)
    weak = (red > 1.4) & (r > 0.07) & (r > 1.15 * b)
    if strong.mean() > _MARKED:
        weak |= (red > 1.0) & (r > 0.6) & (r > b)  # over tissue
    return reached(weak, strong)


def _blue(density: np.ndarray, red: np.ndarray, blue: np.ndarray) -> np.ndarray:
    r = density[..., 0]
    strong = (red > 1.45) & (blue < 0.36) & (r > 1.0)
    weak = (red > 1.25) & (blue < 0.5) & (r > 0.25)
    if strong.mean() > _MARKED:
        weak |= (red > 0.7) & (blue < 0.45) & (r > 0.8)  # over tissue
    return reached(weak, strong)


def _red(density: np.ndarray, red: np.ndarray, blue: np.ndarray, other: np.ndarray, unit: float) -> np.ndarray:
    g = density[..., 1]
    stained = (g > 0.25) & (red < 1.0) & ~other
    # the slide's own eosin: a quarter of what is stained absorbs even less blue
    eosin = min(0.63, float(np.percentile(blue[stained], 25))) if stained.sum() > 50 else _EOSIN_BLUE
    inky = blue < 1.15  # above is brown: DAB, haemosiderin
    strong = inky & (blue > max(0.72, eosin + 0.13)) & (red < 0.15) & (g > 1.0)
    strong = without_small(opened(strong, 1), 30 * unit**2)
    if strong.mean() > _MARKED:  # lighter strokes need not touch a strong one
        strong |= opened(inky & (blue > max(0.68, eosin + 0.09)) & (red < 0.3) & (g > 0.35), 1)
    return reached(inky & (blue > eosin + 0.06) & (red < 0.42) & (g > 0.2), strong)


def _black(density: np.ndarray) -> np.ndarray:
    average, spread = _grey(density)
    strong = opened((average > 1.2) & (spread < 0.35 * average), 1)
    marked = strong.mean() > _MARKED  # over tissue black ink keeps some of the tissue's colour
    return reached((average > 0.5) & (spread < (0.5 if marked else 0.42) * average), strong)


def _grey(density: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean density of the three channels, and the spread between them."""
    r, g, b = density[..., 0], density[..., 1], density[..., 2]
    return (r + g + b) / 3, np.maximum(np.maximum(r, g), b) - np.minimum(np.minimum(r, g), b)
