"""Tile coordinates on disk: HDF5 that readers of CLAM's and Trident's coordinate files take as it is.

``coords`` (N, 2) holds level-0 top-left corners. Its attributes say how to read a tile: ``patch_size``
pixels at ``patch_level``. Tiles laid in a level's own pixels are written so. Tiles laid at a resolution are
written as level-0 squares (``patch_level`` 0, ``patch_size`` their side on level 0), so that a reader that
knows nothing of resolutions reads the right region. ``patch_size_level0`` is the side on level 0 in both
cases. Beside it stand ``boxes`` (N, 4), ``coverage`` (N,), ``quality/<name>`` (N,), and as attributes of the
file all that is needed to restore the tiles. A seal behind what HDF5 reads says whether the file is as it was
written; only such a file is parsed.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
from jaxtyping import Float32

from microtome.errors import ConfigError, CorruptOutputError, MicrotomeError
from microtome.geometry import Size
from microtome.storage import LateErrorFile, digest, hash_array, recipe_text, written_whole
from microtome.storage.seal import is_sealed, seal_file, seal_holds
from microtome.tiles.clam import ClamGrid
from microtome.tiles.grid import Grid, Layout, Supplied, Tiles
from microtome.tiles.histoprep import HistoPrepGrid

_T = TypeVar("_T")

FORMAT = "microtome-tiles"
VERSION = 1
_LAYOUTS: dict[str, type[Layout]] = {kind.__name__: kind for kind in (Grid, HistoPrepGrid, ClamGrid, Supplied)}


def write_tiles(
    path: Path,
    tiles: Tiles,
    *,
    slide_id: str,
    recipe: Mapping[str, object],
    quality: Mapping[str, Float32[np.ndarray, " n"]] | None = None,
) -> None:
    """Write tile coordinates, whole or not at all.

    Args:
        path: HDF5 file; one that is there is replaced.
        tiles: What was laid.
        slide_id: Whose tiles they are.
        recipe: What decided them; stored as text, with its digest.
        quality: Per-tile measures by name.

    Raises:
        ConfigError: If the tiles are not square (the format has one size) or a measure has another length.
        OutputWriteError: If the file cannot be written.
    """
    if tiles.tile_size.width != tiles.tile_size.height:
        raise ConfigError(
            f"Tiles of {tiles.tile_size.width} × {tiles.tile_size.height} px cannot be written to "
            f"'{path.name}': the format knows squares only. Lay square tiles, or save tile images."
        )
    for name, values in (quality or {}).items():
        if len(values) != len(tiles):
            raise ConfigError(f"Quality {name!r} has {len(values)} values for {len(tiles)} tiles.")
    with written_whole(path) as temporary:
        with LateErrorFile(temporary) as raw:
            with h5py.File(raw, "w") as file:
                _write_parts(path, file, tiles, slide_id, quality or {})
                file.attrs["recipe"] = recipe_text(recipe)
                file.attrs["recipe_digest"] = digest(recipe)
            raw.check()
        seal_file(temporary)


def _write_parts(
    path: Path, file: h5py.File, tiles: Tiles, slide_id: str, quality: Mapping[str, Float32[np.ndarray, " n"]]
) -> None:
    coords = file.create_dataset("coords", data=tiles.boxes[:, :2])
    coords.attrs.update(_clam_attributes(path, tiles, slide_id))
    file.create_dataset("boxes", data=tiles.boxes)
    file.create_dataset("coverage", data=tiles.coverage)
    for name, values in quality.items():
        file.create_dataset(f"quality/{name}", data=values)
    file.attrs.update(_own_attributes(tiles, slide_id))


def read_tiles(path: Path) -> Tiles:
    """Read tiles as they were laid.

    Args:
        path: A file of :func:`write_tiles`.

    Returns:
        The tiles, equal to those written.

    Raises:
        FileNotFoundError: If nothing is there.
        CorruptOutputError: If the file is truncated, damaged or not of this format.
    """
    return _read(path, _tiles_in)


def read_tiles_recipe(path: Path) -> str:
    """The recipe text that the tiles were stored with; errors as in :func:`read_tiles`."""
    return _read(path, lambda file: str(file.attrs["recipe"]))


def read_tile_quality(path: Path) -> dict[str, Float32[np.ndarray, " n"]]:
    """Per-tile measures by name, empty where none were stored; errors as in :func:`read_tiles`."""
    return _read(path, _quality_in)


def _clam_attributes(path: Path, tiles: Tiles, slide_id: str) -> dict[str, object]:
    side = _side_px0(tiles)
    level_size = tiles.slide_size if tiles.level_size is None else tiles.level_size
    downsample = [tiles.slide_size.width / level_size.width, tiles.slide_size.height / level_size.height]
    return {
        "patch_size": side if tiles.level is None else tiles.tile_px,
        "patch_level": 0 if tiles.level is None else tiles.level,
        "patch_size_level0": side,
        "downsample": np.array(downsample, np.float64),
        "level_dim": np.array([level_size.width, level_size.height], np.int64),
        "downsampled_level_dim": np.array([level_size.width, level_size.height], np.int64),
        "name": slide_id,
        "save_path": path.parent.name,  # not the whole path: a folder may be moved, and equal tiles give equal files
    }


def _side_px0(tiles: Tiles) -> int:
    """Side of a tile on level 0, known from resolution or level where there is no tile."""
    if len(tiles):
        return int(tiles.boxes[0, 2])
    if tiles.level_size is not None:
        return round(tiles.tile_px * tiles.slide_size.width / tiles.level_size.width)
    if tiles.mpp is not None and tiles.slide_mpp is not None:
        return round(tiles.tile_px * tiles.mpp / tiles.slide_mpp)
    return 0


def _own_attributes(tiles: Tiles, slide_id: str) -> dict[str, object]:
    layout = {"kind": type(tiles.grid).__name__, **asdict(tiles.grid)}
    known = {
        "tile_px": tiles.tile_px,
        "mpp": tiles.mpp,
        "level": tiles.level,
        "slide_mpp": tiles.slide_mpp,
        "level_size": None if tiles.level_size is None else [tiles.level_size.width, tiles.level_size.height],
    }
    return {
        "format": FORMAT,
        "version": VERSION,
        "slide_id": slide_id,
        "slide_size": [tiles.slide_size.width, tiles.slide_size.height],
        "layout": json.dumps(layout, sort_keys=True),
        "sha256": _content_hash(tiles),
        **{name: value for name, value in known.items() if value is not None},
    }


def _content_hash(tiles: Tiles) -> str:
    return hash_array(tiles.boxes) + hash_array(tiles.coverage)


def _tiles_in(file: h5py.File) -> Tiles:
    attrs = file.attrs
    layout = json.loads(attrs["layout"])
    tiles = Tiles(
        boxes=np.asarray(file["boxes"], np.int64),
        coverage=np.asarray(file["coverage"], np.float32),
        tile_px=int(attrs["tile_px"]),
        mpp=_optional(attrs, "mpp", float),
        level=_optional(attrs, "level", int),
        grid=_LAYOUTS[layout.pop("kind")](**layout),
        slide_size=_size(attrs["slide_size"]),
        slide_mpp=_optional(attrs, "slide_mpp", float),
        level_size=_optional(attrs, "level_size", _size),
    )
    if _content_hash(tiles) != attrs["sha256"] or not np.array_equal(file["coords"][:], tiles.boxes[:, :2]):
        raise ValueError("its coordinates are not those that were written")
    return tiles


def _quality_in(file: h5py.File) -> dict[str, Float32[np.ndarray, " n"]]:
    group = file.get("quality", {})
    return {name: np.asarray(group[name], np.float32) for name in group}


def _optional(attrs: Mapping[str, Any], name: str, kind: Callable[[Any], _T]) -> _T | None:
    return kind(attrs[name]) if name in attrs else None


def _size(pair: Any) -> Size:  # noqa: ANN401 - an attribute of an HDF5 file
    width, height = (int(value) for value in pair)
    return Size(width, height)


def _read(path: Path, take: Callable[[h5py.File], _T]) -> _T:
    with _opened(path) as file:
        return take(file)


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """Open a file of this format; whatever is wrong with it becomes one error."""
    try:
        _check_seal(path)  # first: HDF5 itself may crash on a damaged file
        with h5py.File(path, "r", locking=False) as file:
            if file.attrs.get("format") != FORMAT or int(file.attrs["version"]) != VERSION:
                raise ValueError(f"it is no {FORMAT} file of version {VERSION}")  # noqa: TRY301 - explained below
            yield file
    except FileNotFoundError:
        raise
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, MicrotomeError) as error:
        raise CorruptOutputError(
            f"Tile coordinates '{path}' cannot be read: {error}. Delete the file, or pass --overwrite, and lay "
            "tiles again."
        ) from error


def _check_seal(path: Path) -> None:
    if not is_sealed(path):
        raise ValueError(f"it is truncated, was changed after it was written, or is no {FORMAT} file")
    if not seal_holds(path):
        raise ValueError("it is damaged, or was changed after it was written")
