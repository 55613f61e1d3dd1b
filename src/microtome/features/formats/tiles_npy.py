"""HistoSSL's features of a set of tiles: ``tile_features.npy`` (N, d) and ``tile_ids.npy`` (N,), the tiles' names.

References:
    HistoSSL (73f1d19), specification section 2. The original writes names as an array of objects, which only an
    unpickler reads; here they are written as an array of text, which ``numpy.load`` reads with and without
    ``allow_pickle``, and arrays of objects are read by a reader that admits only text.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped

from microtome.errors import ConfigError, CorruptOutputError, EncoderOutputError, MissingOutputError
from microtome.features.formats.format import Format
from microtome.features.formats.table import NAME, FeatureTable, Part
from microtome.storage import written_whole
from microtome.storage.pickles import read_npy
from microtome.tiles.folder import tile_name

TILE_FEATURES, TILE_IDS = "tile_features.npy", "tile_ids.npy"


def write_tile_features(folder: Path, features: Float[np.ndarray, "n d"], ids: Sequence[str]) -> None:
    """Write features of tiles and the tiles' names, each file whole; what is there is replaced.

    The names are written first, so that whoever finds ``tile_features.npy`` finds both.

    Args:
        folder: Where the two files go.
        features: float32 or float16, finite.
        ids: Name of each tile; each once.

    Raises:
        ConfigError: If the lengths differ, a name comes twice or ends with a NUL (which numpy drops), or features
            are of another dtype.
        EncoderOutputError: If a feature is not finite.
        OutputWriteError: If a file cannot be written.
    """
    if features.dtype not in (np.float32, np.float16):
        raise ConfigError(f"'{TILE_FEATURES}' holds float32 or float16. Got {features.dtype}; convert them first.")
    if len(ids) != len(features):
        raise ConfigError(f"{len(features)} rows of features need as many tile ids. Got {len(ids)}.")
    if not np.isfinite(features).all():
        raise EncoderOutputError(f"The features for '{folder}' hold NaN or infinity; they cannot be stored.")
    seen: set[str] = set()
    for name in ids:
        if name in seen or name.endswith("\0"):
            raise ConfigError(f"Tile id {name!r} comes twice, or ends with a NUL. Each tile needs a name of its own.")
        seen.add(name)
    text = np.array(list(ids), dtype=np.str_) if len(ids) else np.zeros(0, "<U1")
    (folder / TILE_FEATURES).unlink(missing_ok=True)
    for name, array in ((TILE_IDS, text), (TILE_FEATURES, features)):
        with written_whole(folder / name) as temporary, temporary.open("wb") as file:
            np.lib.format.write_array(file, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)


def read_tile_features(folder: Path) -> tuple[Float[np.ndarray, "n d"], tuple[str, ...]]:
    """Read features of tiles and the tiles' names.

    Args:
        folder: Where the two files are.

    Returns:
        Features, memory-mapped and read-only, finite; and the tiles' names, each once.

    Raises:
        FileNotFoundError: If a file is missing.
        CorruptOutputError: If one is truncated, has not this layout, names anything but text, or holds NaN.
    """
    features, names = read_npy(folder / TILE_FEATURES), read_npy(folder / TILE_IDS)
    if features.ndim != 2 or features.shape[1] < 1 or features.dtype.kind != "f":
        raise _wrong(folder / TILE_FEATURES, f"it is {features.dtype} {features.shape} and not numbers (tiles, length)")
    ids = _texts(folder / TILE_IDS, names)
    if len(ids) != len(features):
        raise _wrong(folder / TILE_IDS, f"it holds {len(ids)} ids for {len(features)} rows of features")
    if len(set(ids)) != len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise _wrong(folder / TILE_IDS, f"the id {twice!r} comes twice")
    if not np.isfinite(features).all():
        raise _wrong(folder / TILE_FEATURES, "its features hold NaN or infinity")
    native = features if features.dtype.isnative else features.astype(features.dtype.newbyteorder("="))
    native.flags.writeable = False
    return native, ids


def _texts(path: Path, names: Shaped[np.ndarray, "..."]) -> tuple[str, ...]:
    if names.ndim != 1 or names.dtype.kind not in "UO":
        raise _wrong(path, f"it is {names.dtype} {names.shape} and not text (tiles,)")
    ids = names.tolist()
    odd = next((name for name in ids if not isinstance(name, str)), None)
    if odd is not None:
        raise _wrong(path, f"it holds {type(odd).__name__} among its ids")
    return tuple(str(name) for name in ids)


def _wrong(path: Path, reason: str) -> CorruptOutputError:
    return CorruptOutputError(f"'{path}' cannot be used as features of tiles: {reason}.")


def read(path: Path, slide_id: str) -> FeatureTable:
    """Read a set of tiles as a table; errors as in :func:`read_tile_features`, a missing file as MissingOutputError."""
    try:
        features, ids = read_tile_features(path.parent)
    except FileNotFoundError as error:
        raise MissingOutputError(f"'{error.filename}' is not there. A set of tiles is two files.") from error
    return FeatureTable(slide_id, features, columns={NAME: np.array(ids, object)})


def write(path: Path, table: FeatureTable) -> None:
    """Write a set of tiles. Tiles without names are called by their boxes, as HistoPrep names its files.

    Raises:
        ConfigError: If tiles have neither names nor boxes, or two have one name.
        OutputWriteError: If a file cannot be written.
    """
    write_tile_features(path.parent, table.features, named(table).columns[NAME].tolist())


def named(table: FeatureTable) -> FeatureTable:
    """The table with a name for each tile: its own, or the one that HistoPrep gives to the tile's box.

    Raises:
        ConfigError: If tiles have neither names nor boxes.
    """
    if NAME in table.columns:
        return table
    if table.boxes is None and len(table):
        raise ConfigError(f"tiles-npy needs names of tiles, and those of '{table.slide_id}' have none, nor boxes.")
    names = [] if table.boxes is None else [tile_name(box) for box in table.boxes]
    return replace(table, columns={**table.columns, NAME: np.array(names, object)})


TILES_NPY = Format(
    name="tiles-npy",
    made_by="HistoSSL, of sets of tiles",
    layout="{slide_id}/" + TILE_FEATURES,
    holds=frozenset({Part.NAMES}),
    dtypes=("float32", "float16"),
    default_dtype="float32",
    read=read,
    write=write,
    prepare=named,
    note="Tiles without names are called `x<x>_y<y>_w<w>_h<h>`.",
    more_files=lambda path: (path.with_name(TILE_IDS),),
)
