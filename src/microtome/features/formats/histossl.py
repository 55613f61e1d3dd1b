"""HistoSSL's ``features.npy``: level, column and row of the DeepZoom tile, then its features, as float32.

References:
    HistoSSL (73f1d19), specification section 2: (N, 3 + d) float32; column 0 the DeepZoom level, 1 the column, 2 the
    row; overlap 0, limit_bounds False.
"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int, Int64

from microtome.errors import ConfigError, CorruptOutputError, EncoderOutputError, MissingOutputError, TileError
from microtome.features.formats.format import Format
from microtome.features.formats.table import ADDRESS, FeatureTable, Part
from microtome.geometry import Box, DeepZoomPyramid, Size
from microtome.storage import written_whole
from microtome.storage.pickles import read_npy
from microtome.tiles.deepzoom import address_boxes

FEATURES_NPY = "features.npy"
_EXACT = 2**24  # whole numbers that float32 holds exactly
_BLOCK_ROWS = 4096
_SIDE = re.compile(r"coords_(\d+)|.+_(\d+)px_[\w.]+")


def write_features_npy(path: Path, features: Float[np.ndarray, "n d"], addresses: Int[np.ndarray, "m 3"]) -> Path:
    """Write features with the DeepZoom addresses of their tiles, whole; what is there is replaced.

    Args:
        path: The file, ``features.npy`` in HistoSSL's layout.
        features: float32 or float16, finite.
        addresses: DeepZoom level, column and row of each tile.

    Returns:
        The path.

    Raises:
        ConfigError: If the lengths differ, features are of another dtype, or an address is negative or too large
            for float32.
        EncoderOutputError: If a feature is not finite.
        OutputWriteError: If the file cannot be written.
    """
    if features.dtype not in (np.float32, np.float16):
        raise ConfigError(f"'{path.name}' holds float32. Got {features.dtype} features; convert them first.")
    if addresses.shape != (len(features), 3):
        raise ConfigError(f"{len(features)} rows of features need as many addresses. Got shape {addresses.shape}.")
    if len(addresses) and not (addresses.min() >= 0 and addresses.max() < _EXACT):
        raise ConfigError(f"DeepZoom addresses must be 0 to {_EXACT - 1} to be held as float32.")
    if not np.isfinite(features).all():
        raise EncoderOutputError(f"The features for '{path}' hold NaN or infinity; they cannot be stored.")
    shape = (len(features), 3 + features.shape[1])
    with written_whole(path) as temporary, temporary.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(features), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            file.write(np.concatenate([addresses[rows].astype("<f4"), features[rows].astype("<f4")], axis=1).tobytes())
    return path


def read_features_npy(path: Path) -> tuple[Float32[np.ndarray, "n d"], Int64[np.ndarray, "n 3"]]:
    """Read HistoSSL's features.

    Args:
        path: A ``features.npy``.

    Returns:
        Features, memory-mapped and read-only, finite; and DeepZoom level, column and row of each tile.

    Raises:
        FileNotFoundError: If nothing is there.
        CorruptOutputError: If it is truncated, has not this layout, or holds NaN or addresses that are no whole
            numbers.
    """
    array = read_npy(path)
    if array.ndim != 2 or array.shape[1] < 4 or array.dtype.newbyteorder("=") != np.float32:
        raise _wrong(path, f"it is {array.dtype} {array.shape} and not float32 (tiles, 3 + length)")
    if not array.dtype.isnative:
        array = array.astype(np.float32)
    head = np.asarray(array[:, :3])
    if not (np.isfinite(head).all() and (head == np.floor(head)).all() and (head >= 0).all() and (head < _EXACT).all()):
        raise _wrong(path, "its first three columns are no DeepZoom addresses (level, column, row)")
    features = array[:, 3:]
    if not np.isfinite(features).all():
        raise _wrong(path, "its features hold NaN or infinity")
    features.flags.writeable = False
    return features, head.astype(np.int64)


def _wrong(path: Path, reason: str) -> CorruptOutputError:
    return CorruptOutputError(f"'{path}' cannot be used as HistoSSL features: {reason}.")


def read(path: Path, slide_id: str) -> FeatureTable:
    """Read features and keep the addresses; :func:`place` makes boxes of them. Errors as in the function above."""
    try:
        features, addresses = read_features_npy(path)
    except FileNotFoundError as error:
        raise MissingOutputError(f"There are no features at '{path}'.") from error
    return FeatureTable(slide_id, features, columns={ADDRESS: addresses})


def write(path: Path, table: FeatureTable) -> None:
    """Write features with addresses, those of the table or those of its boxes.

    Raises:
        ConfigError: If its tiles are no DeepZoom tiles, or it is not known on what slide and at what size.
        OutputWriteError: If the file cannot be written.
    """
    write_features_npy(path, table.features, addresses_of(table))


def addressed(table: FeatureTable) -> FeatureTable:
    """The table with addresses; errors as in :func:`addresses_of`."""
    return replace(table, columns={**table.columns, ADDRESS: addresses_of(table)})


def place(table: FeatureTable, tile_px: int | None) -> FeatureTable:
    """Turn addresses into boxes, where the slide's size is known.

    Args:
        table: With addresses; ``slide_size`` among its attributes says how large the slide is.
        tile_px: Side of a tile, in pixels of its DeepZoom level; by default ``patch_size`` among the attributes.

    Returns:
        The table with boxes (level-0 pixels, clipped to the slide), and with ``mpp`` where that of the slide is
        known and all tiles are of one level; unchanged, with a note, where the slide or the side is not known.

    Raises:
        TileError: If the slide has no such tile: it is another slide, or another side.
    """
    if ADDRESS not in table.columns or table.boxes is not None or not len(table):
        return table
    attrs, size, side = dict(table.attrs), slide_size(table), tile_px or table.attrs.get("patch_size")
    if size is None or not isinstance(side, int):
        lacking = "the slide's size (--slides)" if size is None else "the tiles' side (--tile-px)"
        note = f"tiles are kept as DeepZoom addresses without coordinates: {lacking} is not known"
        return replace(table, notes=(*table.notes, note))
    addresses = table.columns[ADDRESS]
    pyramid = DeepZoomPyramid(size, side)
    boxes = address_boxes(pyramid, addresses)
    levels = np.unique(addresses[:, 0])
    slide_mpp = attrs.get("slide_mpp")
    attrs["patch_size"] = side
    if len(levels) == 1 and isinstance(slide_mpp, float):
        attrs["mpp"] = slide_mpp * pyramid.scale(int(levels[0]))
    return replace(table, boxes=boxes, attrs=attrs)


def side_in(path: Path) -> int | None:
    """Side of a tile as a folder ``coords_<side>`` or ``<name>_<side>px_<mpp>`` above a file says it, or None."""
    sides = [match[1] or match[2] for part in path.absolute().parts if (match := _SIDE.fullmatch(part))]
    return int(sides[-1]) if sides else None


def addresses_of(table: FeatureTable) -> Int64[np.ndarray, "n 3"]:
    """The DeepZoom addresses of a table's tiles, exactly.

    Raises:
        ConfigError: If its tiles are no DeepZoom tiles of one level, or it is not known on what slide and at what
            size they lie.
    """
    if ADDRESS in table.columns:
        return np.asarray(table.columns[ADDRESS], np.int64)
    if not len(table):
        return np.zeros((0, 3), np.int64)
    size, side = slide_size(table), table.attrs.get("patch_size")
    if table.boxes is None or size is None or not isinstance(side, int):
        lacking = "boxes" if table.boxes is None else "slide's size (--slides)" if size is None else "tiles' side"
        raise ConfigError(f"histossl needs DeepZoom tiles, and the {lacking} of '{table.slide_id}' is not known.")
    pyramid = DeepZoomPyramid(size, side)
    fitting = [found for level in range(pyramid.level_count) if (found := _at_level(pyramid, level, table)) is not None]
    if len(fitting) > 1:  # a lone tile at a border may be one of several levels; its resolution says which
        mpp, slide_mpp = table.attrs.get("mpp"), table.attrs.get("slide_mpp")
        if isinstance(mpp, float) and isinstance(slide_mpp, float):
            level = pyramid.level_for_mpp(mpp=mpp, slide_mpp=slide_mpp)
            fitting = [found for found in fitting if found[0, 0] == level]
    if len(fitting) != 1:
        odd = "lie on several DeepZoom levels at once" if fitting else "are no DeepZoom tiles of one level"
        raise ConfigError(
            f"histossl holds DeepZoom tiles only. Those of '{table.slide_id}' ({side} px, first {table.boxes[0]}) "
            f"{odd} of a slide of {size.width} × {size.height} px. Extract with DeepZoom coordinates, or take another "
            "format."
        )
    return fitting[0]


def _at_level(pyramid: DeepZoomPyramid, level: int, table: FeatureTable) -> Int64[np.ndarray, "n 3"] | None:
    """Addresses at a level, if every tile is one of its tiles."""
    boxes = table.boxes
    if boxes is None:
        return None
    side = pyramid.tile_px * pyramid.scale(level)
    found = np.column_stack([np.full(len(boxes), level), boxes[:, :2] // side]).astype(np.int64)
    try:
        first = pyramid.address(Box.from_row(boxes[0]), level=level)  # most levels are ruled out by one tile
        fits = first is not None and np.array_equal(address_boxes(pyramid, found), boxes)
    except (TileError, ConfigError):
        return None
    return found if fits else None


def slide_size(table: FeatureTable) -> Size | None:
    """Size of the slide, if the table says it."""
    size = table.attrs.get("slide_size")
    return Size(int(size[0]), int(size[1])) if isinstance(size, list) and len(size) == 2 else None


HISTOSSL = Format(
    name="histossl",
    made_by="HistoSSL",
    layout="{slide_id}/" + FEATURES_NPY,
    holds=frozenset({Part.ADDRESSES}),
    dtypes=("float32",),
    default_dtype="float32",
    read=read,
    write=write,
    prepare=addressed,
    note="Only DeepZoom tiles, as level, column and row; `--slides` and `--tile-px` turn them into coordinates.",
)
