"""The eight orientations in which an image may be stored, as TIFF and EXIF number them."""

import numpy as np
from jaxtyping import Shaped

from microtome.geometry import Box, Size

_STEPS = {  # transpose first, then mirror across and down
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


def oriented_size(stored: Size, orientation: int) -> Size:
    """Size of the image as it is to be seen."""
    return Size(stored.height, stored.width) if _STEPS[orientation][0] else stored


def stored_box(box: Box, seen: Size, orientation: int) -> Box:
    """Where a region lies in the stored image.

    Args:
        box: Region of the image as it is to be seen, inside of it.
        seen: Size of the image as it is to be seen.
        orientation: 1 to 8.

    Returns:
        The same pixels' region as they are stored.
    """
    transpose, mirror_x, mirror_y = _STEPS[orientation]
    x = seen.width - box.right if mirror_x else box.x
    y = seen.height - box.bottom if mirror_y else box.y
    return Box(y, x, box.height, box.width) if transpose else Box(x, y, box.width, box.height)


def orient_image(stored: Shaped[np.ndarray, "H W c"], orientation: int) -> Shaped[np.ndarray, "h w c"]:
    """Turn stored pixels as they are to be seen.

    References:
        TIFF 6.0, tag Orientation (274); the same numbers in EXIF 2.3.
    """
    transpose, mirror_x, mirror_y = _STEPS[orientation]
    image = stored.transpose(1, 0, 2) if transpose else stored
    return np.ascontiguousarray(image[:: -1 if mirror_y else 1, :: -1 if mirror_x else 1])
