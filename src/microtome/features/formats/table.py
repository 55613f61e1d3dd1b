"""The features of one slide as they pass from one format to another, and the parts that a format may lack."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from jaxtyping import Float, Int64, Shaped

from microtome.errors import ConfigError
from microtome.features.bag import Bag, Plain

ADDRESS, NAME = "deepzoom_address", "name"
"""Columns of a bag: DeepZoom level, column and row; what a tile is called."""
_BLOCK_ROWS = 4096


class Part(StrEnum):
    """What beside the features a file may hold."""

    COORDS = "coordinates"
    SIZE = "tile size, where all tiles are squares of one size"
    SIZES = "tile sizes that differ"
    ADDRESSES = "DeepZoom addresses"
    NAMES = "tile names"
    COLUMNS = "other columns"
    TILE_PX = "tile size, level and overlap in the encoder's pixels"
    MPP = "mpp"
    SLIDE = "size and mpp of the slide"
    ENCODER = "encoder's name"
    RECIPE = "recipe"
    ROWS = "row numbers in the source"
    UNREADABLE = "unreadable tiles"
    OTHER = "other attributes"


_OF_ATTRIBUTE = {
    "patch_size": Part.TILE_PX,
    "patch_level": Part.TILE_PX,
    "overlap": Part.TILE_PX,
    "mpp": Part.MPP,
    "slide_mpp": Part.SLIDE,
    "slide_mpp_source": Part.SLIDE,
    "slide_size": Part.SLIDE,
    "encoder": Part.ENCODER,
    "recipe": Part.RECIPE,
    "recipe_digest": Part.RECIPE,
}
_OF_THE_FILE = {"format", "version", "features_crc32", "microtome_version", "slide_id", "name", "patch_size_level0"}
"""Attributes that each file has of its own, or that follow from the rest."""


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Features of one slide, on their way from one format to another.

    Attributes:
        slide_id: Whose they are.
        features: One row per tile, finite.
        boxes: x y w h of each tile, level-0 pixels; None where they are not known.
        coords: Top-left corners, level-0 pixels, where they are known and the boxes are not.
        columns: What else is known of each row.
        attrs: What is known of all.
        rows: Which tile of the source each row is; None where nobody knows.
        unreadable: Boxes of tiles without a row.
        unreadable_rows: Which tiles of the source they are.
        unreadable_errors: Why they have none.
        notes: What the file held that was not read, and why.
    """

    slide_id: str
    features: Float[np.ndarray, "n d"]
    boxes: Int64[np.ndarray, "n 4"] | None = None
    coords: Int64[np.ndarray, "n 2"] | None = None
    columns: Mapping[str, Shaped[np.ndarray, "n ..."]] = field(default_factory=dict)
    attrs: Mapping[str, Plain] = field(default_factory=dict)
    rows: Int64[np.ndarray, " n"] | None = None
    unreadable: Int64[np.ndarray, "m 4"] = field(default_factory=lambda: np.zeros((0, 4), np.int64))
    unreadable_rows: Int64[np.ndarray, " m"] = field(default_factory=lambda: np.zeros(0, np.int64))
    unreadable_errors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.features)

    @property
    def corners(self) -> Int64[np.ndarray, "n 2"] | None:
        """Top-left corners, from the boxes or alone."""
        return self.coords if self.boxes is None else self.boxes[:, :2]

    @property
    def numbers(self) -> Int64[np.ndarray, " n"]:
        """Which tile of the source each row is: simply the next one, where nobody says otherwise."""
        return np.arange(len(self), dtype=np.int64) if self.rows is None else self.rows

    @property
    def side_px0(self) -> int | None:
        """Side of every tile, level-0 pixels, if all are squares of one size; None otherwise, or without a tile."""
        if self.boxes is None or not len(self):
            return None
        sides = np.unique(self.boxes[:, 2:])
        return int(sides[0]) if len(sides) == 1 else None

    @property
    def parts(self) -> frozenset[Part]:
        """What there is beside the features."""
        sized = Part.SIZES if self.side_px0 is None else Part.SIZE
        there = {
            Part.COORDS: self.corners is not None and len(self) > 0,
            sized: self.boxes is not None and len(self) > 0,
            Part.ADDRESSES: ADDRESS in self.columns,
            Part.NAMES: NAME in self.columns,
            Part.COLUMNS: bool(set(self.columns) - {ADDRESS, NAME}),
            Part.ROWS: not np.array_equal(self.numbers, np.arange(len(self))),
            Part.UNREADABLE: len(self.unreadable) > 0,
        }
        of_attributes = (part for name in self.attrs if (part := part_of(name)) is not None)
        return frozenset((*(part for part, is_there in there.items() if is_there), *of_attributes))

    def only(self, parts: frozenset[Part]) -> "FeatureTable":
        """The table without what a format cannot hold."""
        columns = {name: column for name, column in self.columns.items() if _of_column(name) in parts}
        attrs = {name: value for name, value in self.attrs.items() if part_of(name) in {*parts, None}}
        kept = replace(self, columns=columns, attrs=attrs)
        if Part.COORDS not in parts:
            kept = replace(kept, boxes=None, coords=None)
        elif (Part.SIZE if self.side_px0 is not None else Part.SIZES) not in parts:
            kept = replace(kept, boxes=None, coords=self.corners)
        if Part.ROWS not in parts:
            kept = replace(kept, rows=None)
        if Part.UNREADABLE not in parts:
            nothing = np.zeros((0, 4), np.int64)
            kept = replace(kept, unreadable=nothing, unreadable_rows=nothing[:, 0], unreadable_errors=())
        return kept

    def check(self) -> None:
        """Make sure that the parts fit each other.

        Raises:
            ConfigError: If a part has another length than the features, or text is none that every format holds.
        """
        for name, part in {"boxes": self.boxes, "coords": self.coords, "rows": self.rows, **self.columns}.items():
            if part is not None and len(part) != len(self):
                raise ConfigError(f"'{self.slide_id}' has {len(self)} rows of features and {len(part)} of {name}.")
        for name, column in self.columns.items():
            if column.dtype.kind in "UO":
                _check_text(name, column.tolist())


def _check_text(name: str, cells: list[object]) -> None:
    for row, cell in enumerate(cells):
        if not isinstance(cell, str) or "\0" in cell or (not cell.isprintable() and _not_utf8(cell)):
            raise ConfigError(f"Column {name!r} holds {cell!r} in row {row}, which is not text without NUL.")


def _not_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def part_of(attribute: str) -> Part | None:
    """What an attribute belongs to; None for those that each file has of its own."""
    if attribute in _OF_THE_FILE:
        return None
    return _OF_ATTRIBUTE.get(attribute, Part.OTHER)


def _of_column(name: str) -> Part:
    return {ADDRESS: Part.ADDRESSES, NAME: Part.NAMES}.get(name, Part.COLUMNS)


def table_of(bag: Bag, *, notes: tuple[str, ...] = ()) -> FeatureTable:
    """What an open bag holds, as a table."""
    return FeatureTable(
        slide_id=bag.slide_id,
        features=bag.features,
        boxes=bag.boxes if bag.has_boxes else None,
        coords=bag.coords if bag.has_coords and not bag.has_boxes else None,
        columns=bag.columns,
        attrs=bag.attrs,
        rows=bag.rows,
        unreadable=bag.unreadable,
        unreadable_rows=np.zeros(0, np.int64) if bag.unreadable_rows is None else bag.unreadable_rows,
        unreadable_errors=bag.unreadable_errors,
        notes=notes,
    )


def same_content(a: FeatureTable, b: FeatureTable) -> bool:
    """Whether two tables hold the same, features to the bit."""
    if a.features.dtype != b.features.dtype or a.features.shape != b.features.shape:
        return False
    where = [(a.boxes, b.boxes), (a.corners, b.corners)] if len(a) else []  # of no tiles nobody knows the size
    pairs = [
        *where,
        (a.numbers, b.numbers),
        (a.unreadable, b.unreadable),
        (a.unreadable_rows, b.unreadable_rows),
        *((a.columns.get(name), b.columns.get(name)) for name in {*a.columns, *b.columns}),
    ]
    return (
        _own(a) == _own(b)
        and a.unreadable_errors == b.unreadable_errors
        and all(_same(x, y) for x, y in pairs)
        and all(_same_bits(a.features[i : i + _BLOCK_ROWS], b.features[i : i + _BLOCK_ROWS]) for i in _starts(a))
    )


def _starts(table: FeatureTable) -> range:
    return range(0, len(table), _BLOCK_ROWS)


def _same_bits(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "n d"]) -> bool:
    return np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()


def _own(table: FeatureTable) -> dict[str, Plain]:
    return {name: value for name, value in table.attrs.items() if part_of(name) is not None}


def _same(a: Shaped[np.ndarray, "..."] | None, b: Shaped[np.ndarray, "..."] | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and a.tolist() == b.tolist()
