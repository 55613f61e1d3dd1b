"""Colours of clusters and slides in the report, each different from all others."""

import numpy as np

from microtome.viz.palette import categorical_colors

Colour = tuple[int, int, int]


def distinct_colours(n: int) -> list[Colour]:
    """The palette's first colours, all different.

    Where two are the same, one is moved by an amount that nobody sees, so that a pixel of a map still says which
    cluster it is of.

    Args:
        n: How many.

    Returns:
        RGB, 0..255.

    Example:
        >>> distinct_colours(2), len(set(distinct_colours(1024)))
        ([(0, 128, 231), (255, 155, 0)], 1024)
    """
    taken: dict[Colour, None] = {}
    for red, green, blue in categorical_colors(n).tolist():
        colour = (red, green, blue)
        while colour in taken:
            colour = _next(colour)
        taken[colour] = None
    return list(taken)


def _next(colour: Colour) -> Colour:
    red, green, blue = colour
    return (red, green, blue + 1) if blue < np.iinfo(np.uint8).max else (red, (green + 1) % 256, 0)


def css_colour(colour: Colour) -> str:
    """A colour as CSS writes it.

    Example:
        >>> css_colour((0, 114, 178))
        '#0072b2'
    """
    return "#{:02x}{:02x}{:02x}".format(*colour)
