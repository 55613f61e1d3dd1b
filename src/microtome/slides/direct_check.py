"""Compare pixels with OpenSlide's before a reader is trusted with a slide."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Shaped

from microtome.errors import UnreadableRegionError
from microtome.geometry import Box
from microtome.slides.direct_cache import TileCache
from microtome.slides.direct_decode import ForeignTileError
from microtome.slides.direct_plane import TilePlane

UNREADABLE = (ValueError, RuntimeError, EOFError, OSError)
"""What decoders and files raise; an error of OpenSlide's reader is among them."""

ReadNative = Callable[[int, Box], Shaped[np.ndarray, "h w c"]]


class PixelsDifferError(Exception):
    """A reader gives other pixels than OpenSlide."""


def check_plane(plane: TilePlane, level: int, reference: ReadNative, n_tiles: int) -> bool:
    """Compare some tiles of a level, the same ones each time; kinds of tiles that compare equal are known from then on.

    Args:
        plane: What is to be trusted.
        level: Which level it is.
        reference: OpenSlide.
        n_tiles: How many tiles to compare, where there are so many.

    Returns:
        Whether any could be compared: a damaged tile, or one of a strange kind, cannot.

    Raises:
        PixelsDifferError: If pixels differ, or one side reads what the other cannot.
    """
    n_compared = 0
    for index in plane.samples():
        if n_compared == n_tiles:
            break
        box, coding = plane.tile_box(index), plane.table.coding
        try:
            data = plane.stored(index)
            is_new = coding.admit(data)
        except (ForeignTileError, *UNREADABLE):
            continue  # OpenSlide will be asked for it
        if same_pixels(lambda _, at: plane.read(at, TileCache(0)), reference, level, box):
            n_compared += 1
        elif is_new:
            coding.dismiss(data)
    return n_compared > 0


def same_pixels(ours: ReadNative, reference: ReadNative, level: int, box: Box) -> bool:
    """Compare a region.

    Returns:
        True where both give the same pixels, False where neither can read it.

    Raises:
        PixelsDifferError: Otherwise.
    """
    where = f"at level {level}, x={box.x} y={box.y} {box.width}×{box.height} px"
    theirs, their_error = _attempt(reference, level, box)
    mine, my_error = _attempt(ours, level, box)
    if theirs is None and mine is None:
        return False
    if theirs is None or mine is None:
        side = f"it cannot be decoded here ({my_error})" if mine is None else f"OpenSlide refuses it ({their_error})"
        raise PixelsDifferError(f"{where}, {side}")
    if theirs.shape != mine.shape or not np.array_equal(theirs, mine):
        differing = (theirs != mine).mean() if theirs.shape == mine.shape else 1.0
        raise PixelsDifferError(f"{where}, {100 * float(differing):.3g} % of the values differ from OpenSlide's")
    return True


def _attempt(read: ReadNative, level: int, box: Box) -> tuple[Shaped[np.ndarray, "h w c"] | None, str]:
    try:
        return read(level, box), ""
    except (UnreadableRegionError, ForeignTileError, *UNREADABLE) as error:
        return None, str(error)
