"""Points, sizes and boxes on a slide, and the DeepZoom address of a tile.

The frame is always level-0 pixels, x to the right and y down, origin at the top left of the slide's canvas. A
length on the glass is in µm and carries the suffix ``_um``; ``_px0`` are level-0 pixels, ``_px`` output
pixels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from microtome.errors import ConfigError, TileError


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

    It covers columns ``x .. x + width - 1`` and rows ``y .. y + height - 1`` and may lie outside of the
    slide.
    """

    x: int
    y: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width <= 0 or self.height <= 0:
            raise ConfigError(f"A box must be at least 1 px wide and high. Got {self.width} × {self.height}.")

    @classmethod
    def of(cls, size: Size) -> "Box":
        """The box that covers an image of this size."""
        return cls(0, 0, size.width, size.height)

    @classmethod
    def from_row(cls, row: Int[np.ndarray, " 4"]) -> "Box":
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


@dataclass(frozen=True, slots=True)
class DeepZoomPyramid:
    """The levels and tiles that DeepZoom (no overlap, whole canvas) makes of an image.

    The highest level is full resolution; each level below has half of it, rounded up, down to 1 × 1 px at
    level 0.

    Attributes:
        size: Size of the image, level-0 pixels of the slide.
        tile_px: Side of a tile, in pixels of any level.

    References:
        The arithmetic is that of OpenSlide's ``DeepZoomGenerator`` with ``overlap=0, limit_bounds=False``.

    Example:
        >>> pyramid = DeepZoomPyramid(Size(2220, 2967), 224)
        >>> pyramid.level_count, pyramid.level_size(11), pyramid.grid(11)
        (13, Size(width=1110, height=1484), (5, 7))
        >>> pyramid.box(DeepZoomAddress(11, 4, 6))
        Box(x=1792, y=2688, width=428, height=279)
    """

    size: Size
    tile_px: int

    def __post_init__(self) -> None:
        if self.size.area == 0 or self.tile_px < 1:
            raise ConfigError(
                f"A DeepZoom pyramid needs an image and tiles of at least 1 px. Got {self.size.width} × "
                f"{self.size.height} px in tiles of {self.tile_px} px."
            )

    @property
    def level_count(self) -> int:
        """Number of levels: 1 + ceil(log2(longest side))."""
        return (max(self.size.width, self.size.height) - 1).bit_length() + 1

    def scale(self, level: int) -> int:
        """Level-0 pixels of the slide per pixel of a DeepZoom level: a power of two."""
        if not 0 <= level < self.level_count:
            raise TileError(f"There is no DeepZoom level {level}. The pyramid has levels 0 to {self.level_count - 1}.")
        return int(2 ** (self.level_count - 1 - level))

    def level_size(self, level: int) -> Size:
        """Size of a level, in its own pixels."""
        scale = self.scale(level)
        return Size(-(-self.size.width // scale), -(-self.size.height // scale))

    def grid(self, level: int) -> tuple[int, int]:
        """Number of columns and rows of tiles at a level."""
        size = self.level_size(level)
        return -(-size.width // self.tile_px), -(-size.height // self.tile_px)

    @property
    def tile_count(self) -> int:
        """Number of tiles on all levels."""
        return sum(columns * rows for columns, rows in map(self.grid, range(self.level_count)))

    def tile_size(self, address: DeepZoomAddress) -> Size:
        """Size of a tile in pixels of its level; tiles at the right and lower border are smaller.

        Raises:
            TileError: If there is no such tile.
        """
        columns, rows = self.grid(address.level)
        if not (0 <= address.column < columns and 0 <= address.row < rows):
            raise TileError(
                f"There is no DeepZoom tile at column {address.column}, row {address.row} of level "
                f"{address.level}. The level has {columns} columns and {rows} rows."
            )
        size = self.level_size(address.level)
        return Size(
            min(self.tile_px, size.width - self.tile_px * address.column),
            min(self.tile_px, size.height - self.tile_px * address.row),
        )

    def box(self, address: DeepZoomAddress) -> Box:
        """Where a tile lies, in level-0 pixels, clipped to the image.

        Raises:
            TileError: If there is no such tile.
        """
        self.tile_size(address)  # refuses an address that does not exist
        side = self.tile_px * self.scale(address.level)
        x, y = address.column * side, address.row * side
        return Box(x, y, min(side, self.size.width - x), min(side, self.size.height - y))

    def address(self, box: Box, *, level: int | None = None) -> DeepZoomAddress:
        """The tile that covers exactly this box.

        Args:
            box: A tile's box, level-0 pixels, clipped to the image as :meth:`box` gives it.
            level: Its level; needed only where several levels have a tile of this box (the whole image as
                one tile).

        Returns:
            The address; ``box(address(b)) == b``.

        Raises:
            TileError: If no tile, or more than one, has this box.
        """
        found = [a for a in map(self._address_at(box), self._levels(level)) if a is not None and self.box(a) == box]
        if len(found) == 1:
            return found[0]
        if not found:
            raise TileError(f"{box} is no tile of the DeepZoom pyramid of {self.size} with {self.tile_px} px tiles.")
        levels = ", ".join(str(a.level) for a in found)
        raise TileError(f"{box} is one tile on each of the DeepZoom levels {levels}. Pass level=.")

    def _levels(self, level: int | None) -> range:
        return range(self.level_count) if level is None else range(level, level + 1)

    def _address_at(self, box: Box) -> Callable[[int], DeepZoomAddress | None]:
        def find(level: int) -> DeepZoomAddress | None:
            side = self.tile_px * self.scale(level)
            inside = Box.of(self.size).contains(box)
            return DeepZoomAddress(level, box.x // side, box.y // side) if inside else None

        return find

    def level_for_mpp(self, *, mpp: float, slide_mpp: float) -> int:
        """The level whose resolution is nearest (in powers of two) to ``mpp``.

        Args:
            mpp: Wanted resolution, µm/px.
            slide_mpp: The slide's, µm per level-0 pixel.

        Returns:
            The level; its resolution is ``slide_mpp * scale(level)``, exact only where that is a power of
            two apart.

        Raises:
            TileError: If the pyramid has no such level (finer than the slide, or below 1 × 1 px).
        """
        level = self.level_count - 1 - round(math.log2(_positive(mpp) / _positive(slide_mpp)))
        self.scale(level)
        return level
