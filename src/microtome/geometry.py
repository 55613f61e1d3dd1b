"""Points, sizes and boxes on a slide, and the DeepZoom address of a tile.

The frame is always level-0 pixels, x to the right and y down, origin at the top left of the slide's canvas. A
length on the glass is in µm and carries the suffix ``_um``; ``_px0`` are level-0 pixels, ``_px`` output pixels.
"""

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Int

from microtome.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Point:
    """A position in level-0 pixels."""

    x: float
    y: float


@dataclass(frozen=True, slots=True, order=True)
class Size:
    """A width and a height in pixels, both at least 0."""

    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 0 or self.height < 0:
            raise ConfigError(f"A size must not be negative. Got {self.width} × {self.height}.")

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.width * self.height

    def fitted(self, max_px: int) -> "Size":
        """Shrink to a longest side of ``max_px``, keeping the shape; never enlarge, never below 1 px."""
        scale = min(1.0, max_px / max(self.width, self.height, 1))
        return Size(max(1, round(self.width * scale)), max(1, round(self.height * scale)))


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of whole level-0 pixels: top-left corner, width and height.

    It covers columns ``x .. x + width - 1`` and rows ``y .. y + height - 1`` and may lie outside of the slide.
    """

    x: int
    y: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width <= 0 or self.height <= 0:
            raise ConfigError(f"A box must be at least 1 px wide and high. Got {self.width} × {self.height}.")

    @classmethod
    def of(cls, size: Size) -> Self:
        """The box that covers an image of this size."""
        return cls(0, 0, size.width, size.height)

    @classmethod
    def from_row(cls, row: Int[np.ndarray, " 4"]) -> Self:
        """A box from one row ``x y w h`` of a table of boxes."""
        x, y, w, h = (int(v) for v in row)
        return cls(x, y, w, h)

    @property
    def size(self) -> Size:
        """Width and height."""
        return Size(self.width, self.height)

    @property
    def right(self) -> int:
        """First column to the right of the box."""
        return self.x + self.width

    @property
    def bottom(self) -> int:
        """First row below the box."""
        return self.y + self.height

    def shifted(self, dx: int, dy: int) -> "Box":
        """The box moved by whole pixels."""
        return Box(self.x + dx, self.y + dy, self.width, self.height)

    def contains(self, other: "Box") -> bool:
        """Whether ``other`` lies wholly inside."""
        return self.x <= other.x and self.y <= other.y and other.right <= self.right and other.bottom <= self.bottom

    def intersection(self, other: "Box") -> "Box | None":
        """The common part, or None where there is none."""
        x, y = max(self.x, other.x), max(self.y, other.y)
        w, h = min(self.right, other.right) - x, min(self.bottom, other.bottom) - y
        return Box(x, y, w, h) if w > 0 and h > 0 else None


def px0_from_um(length_um: float, *, mpp: float) -> float:
    """Convert a length on the glass to level-0 pixels.

    Args:
        length_um: Length, in µm.
        mpp: Slide resolution at level 0, in µm/px; must be > 0.

    Returns:
        Length in level-0 pixels, not rounded.

    Raises:
        ConfigError: If ``mpp`` is not positive.

    Example:
        >>> px0_from_um(128.0, mpp=0.5)
        256.0
    """
    return length_um / _positive(mpp)


def um_from_px0(length_px0: float, *, mpp: float) -> float:
    """Convert level-0 pixels to a length on the glass.

    Args:
        length_px0: Length, in level-0 pixels.
        mpp: Slide resolution at level 0, in µm/px; must be > 0.

    Returns:
        Length in µm.

    Raises:
        ConfigError: If ``mpp`` is not positive.

    Example:
        >>> um_from_px0(256, mpp=0.5)
        128.0
    """
    return length_px0 * _positive(mpp)


def _positive(mpp: float) -> float:
    if not mpp > 0:
        raise ConfigError(f"mpp must be > 0 µm/px. Got {mpp}.")
    return mpp


class DeepZoomAddress(NamedTuple):
    """A tile of a DeepZoom pyramid: level (0 is 1 × 1 px), column and row."""

    level: int
    column: int
    row: int
