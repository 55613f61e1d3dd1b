"""Coordinates that other programs laid: found by slide, checked against the slide, taken as they are.

Known are HistoSSL's ``coords.npy`` (DeepZoom level, column, row), the patch files of CLAM and Trident (HDF5 with
``coords``), microtome's own tile files, and HistoPrep's ``metadata.parquet``.
"""

import json
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from jaxtyping import Bool, Float32, Int, Int64, Shaped

from microtome.errors import CorruptOutputError, NoTilesError, TileError
from microtome.geometry import DeepZoomPyramid, Size
from microtome.slides.base import Fill, Slide
from microtome.storage.pickles import read_npy
from microtome.storage.seal import is_sealed, seal_holds
from microtome.tiles.folder import METADATA, read_columns
from microtome.tiles.grid import Supplied, Tiles, level_of
from microtome.tiles.store import FORMAT, read_tiles

COORDS_NPY = "coords.npy"
_PROPERTIES = "properties.json"
_TRIDENT_SUFFIX = "_patches"
_SIDE_FOLDER = re.compile(r"coords_(\d+)")

CoordsKind = Literal["deepzoom", "patches", "histoprep"]


@dataclass(frozen=True, slots=True)
class CoordsFile:
    """The coordinates of one slide.

    Attributes:
        path: The file.
        kind: ``deepzoom`` (HistoSSL), ``patches`` (CLAM, Trident, microtome) or ``histoprep``.
        folder: Where it lies below the folder of coordinates, the slide's own folder included.
    """

    path: Path
    kind: CoordsKind
    folder: Path

    @property
    def tile_px(self) -> int | None:
        """Side of a tile as HistoSSL's folder ``coords_<side>`` says it; None where there is none."""
        sides = [match[1] for part in self.path.parts if (match := _SIDE_FOLDER.fullmatch(part))]
        return int(sides[-1]) if sides else None


@dataclass(frozen=True, slots=True)
class CoordsFolder:
    """Coordinate files by the names of the slides that they may belong to; under no name, the one that was named."""

    root: Path
    by_name: Mapping[str, tuple[CoordsFile, ...]] = field(default_factory=dict)

    def find(self, names: Iterable[str]) -> CoordsFile:
        """The one file of a slide.

        Args:
            names: What the slide goes by: its file's name, that without suffix, its slide_id.

        Raises:
            NoTilesError: If there is none.
            TileError: If there are several.
        """
        if "" in self.by_name:  # one file, which was named
            return self.by_name[""][0]
        wanted = list(dict.fromkeys(map(_plain_name, names)))
        found = list(dict.fromkeys(file for name in wanted for file in self.by_name.get(name, ())))
        if not found:
            raise NoTilesError(
                f"'{self.root}' holds no coordinates of {wanted[0]!r}: neither {wanted[0]}/{COORDS_NPY}, nor a patch "
                f"file {wanted[-1]}.h5, nor {wanted[-1]}/{METADATA}. Add them, or leave the slide out."
            )
        if len(found) > 1:
            listed = ", ".join(f"'{file.path}'" for file in found[:4])
            raise TileError(
                f"Several coordinate files may be those of {wanted[0]!r}: {listed}. Name the folder with the right one."
            )
        return found[0]


def find_coords(root: str | Path, *, tile_px: int | None = None) -> CoordsFolder:
    """Find the coordinate files in a folder, to its depth.

    Args:
        root: The folder, or one file.
        tile_px: Side of a tile; where the folder holds HistoSSL's ``coords_<side>``, that one is searched.

    Returns:
        The files by name: HistoSSL's and HistoPrep's by their folder, patch files by their own.

    Raises:
        NoTilesError: If there is no such folder, or nothing in it.
    """
    root = Path(root).absolute()
    if root.is_file():
        kind = _kind(root.name)
        if kind is None:
            raise NoTilesError(f"'{root}' is no coordinate file: those are {COORDS_NPY}, <slide>.h5 and {METADATA}.")
        return CoordsFolder(root, {"": (CoordsFile(root, kind, _below(root, root.parent.parent)),)})
    if tile_px is not None and (root / f"coords_{tile_px}").is_dir():
        root = root / f"coords_{tile_px}"
    by_name: dict[str, list[CoordsFile]] = {}
    for path in _walk(root):
        kind = _kind(path.name)
        if kind is not None:
            name = path.stem.removesuffix(_TRIDENT_SUFFIX) if kind == "patches" else path.parent.name
            by_name.setdefault(_plain_name(name), []).append(CoordsFile(path, kind, _below(path, root)))
    if not by_name:
        raise NoTilesError(f"'{root}' holds no coordinates: no {COORDS_NPY}, no patch file .h5, no {METADATA}.")
    return CoordsFolder(root, {name: tuple(files) for name, files in by_name.items()})


def read_addresses(path: Path, slide: Slide, tile_px: int) -> Int64[np.ndarray, "n 3"]:
    """Read HistoSSL's ``coords.npy`` as it is, and make sure that the slide has these tiles.

    Args:
        path: The file: (N, 3) whole numbers.
        slide: The slide; no pixel is read.
        tile_px: Side of a tile, in pixels of the DeepZoom level.

    Returns:
        DeepZoom level, column and row of each tile, in the file's order.

    Raises:
        TileError: If the file cannot be read or is of another kind, or a row is no tile of this slide, repeats
            another, or is of another level than the first; the sentence names the row.
        NoTilesError: If it is empty.

    References:
        HistoSSL (73f1d19), specification section 2. It takes the level of row 0 for all rows; here others are refused.
    """
    try:
        array = read_npy(path)
    except (FileNotFoundError, CorruptOutputError) as error:
        raise TileError(f"Coordinates '{path}' cannot be read: {error}") from error
    if array.dtype.kind == "O":
        raise TileError(f"Coordinates '{path}' are pickled objects. Save them as whole numbers.")
    if array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind not in "iu":
        raise TileError(
            f"Coordinates '{path}' are {array.dtype} {array.shape} and not whole numbers (N, 3): DeepZoom level, "
            "column, row."
        )
    if len(array) == 0:
        raise NoTilesError(f"Coordinates '{path}' hold no tile.")
    if array.dtype == np.uint64 and array.max() > np.iinfo(np.int64).max:
        raise TileError(f"Coordinates '{path}' hold numbers too large for any slide.")
    addresses = array.astype(np.int64)
    _check_addresses(path, addresses, DeepZoomPyramid(slide.size, tile_px), slide)
    return addresses


def _check_addresses(path: Path, addresses: Int64[np.ndarray, "n 3"], pyramid: DeepZoomPyramid, slide: Slide) -> None:
    level = int(addresses[0, 0])
    _refuse(path, addresses, addresses[:, 0] != level, f"is of another level than row 0 (level {level})")
    if not 0 <= level < pyramid.level_count:
        raise TileError(
            f"Coordinates '{path}', row 0: slide '{slide.path.name}' of {slide.size.width} × {slide.size.height} px "
            f"has DeepZoom levels 0 to {pyramid.level_count - 1}. Got {level}. Are these the slide's own?"
        )
    columns, rows = pyramid.grid(level)
    _, column, row = addresses.T
    outside = (column < 0) | (column >= columns) | (row < 0) | (row >= rows)
    where = f"level {level} of slide '{slide.path.name}' has {columns} columns and {rows} rows of {pyramid.tile_px} px"
    _refuse(path, addresses, outside, f"is not on the slide: {where}")
    _, first = np.unique(addresses, axis=0, return_index=True)
    again = np.ones(len(addresses), np.bool_)
    again[first] = False
    _refuse(path, addresses, again, "was there before")


def _refuse(path: Path, table: Int[np.ndarray, "n k"], wrong: Bool[np.ndarray, " n"], why: str) -> None:
    rows = np.flatnonzero(wrong)
    if len(rows):
        row = int(rows[0])
        more = f" ({len(rows)} rows in all)" if len(rows) > 1 else ""
        raise TileError(f"Coordinates '{path}', row {row}: {table[row].tolist()} {why}{more}.")


def read_supplied_tiles(file: CoordsFile, slide: Slide) -> tuple[Tiles, Fill]:
    """Read a patch file or HistoPrep's table as tiles of a slide.

    Args:
        file: Of kind ``patches`` or ``histoprep``.
        slide: The slide; no pixel is read.

    Returns:
        The tiles in the file's order, their coverage unknown (NaN); and what the program that laid them sees where a
        tile reaches out of the slide.

    Raises:
        NoTilesError: If there is no tile.
        TileError: If the file cannot be read, does not say how to read a tile, or is not of this slide.
    """
    if file.kind == "patches":
        return read_patch_coords(file.path, slide)
    return read_histoprep_coords(file.path, slide), "white"


def read_patch_coords(path: Path, slide: Slide) -> tuple[Tiles, Fill]:
    """Read the patch file of CLAM (fast pipeline) or Trident, or a tile file of microtome.

    Args:
        path: HDF5 with ``coords`` (N, 2), level-0 top-left corners, whose attributes say the patch's side and level
            (``patch_size``, ``patch_level``), or its side on level 0 (``patch_size_level0``).
        slide: The slide; no pixel is read.

    Returns:
        The tiles, in the file's order, repeated ones included; and what is seen outside of the slide: black, as
        these programs have it (white for microtome's own).

    Raises:
        NoTilesError: If there is no patch.
        TileError: If the file cannot be read, lacks a part, or is not of this slide.

    References:
        CLAM (53e2409), ``create_patches_fp.py``: specification section 5.
    """
    try:
        if is_sealed(path) and not seal_holds(path):
            raise ValueError("it is damaged, or was changed after it was written")  # noqa: TRY301 - explained below
        with h5py.File(path, "r", locking=False) as file:
            own = is_sealed(path) and file.attrs.get("format") == FORMAT
            coords = file["coords"][()]
            # text is of variable length and must be trusted to be read; no text is needed
            attrs = {k: v for k, v in file["coords"].attrs.items() if np.asarray(v).dtype.kind in "iuf"}
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise TileError(f"Patch coordinates '{path}' cannot be read: {error}. They need coords (N, 2).") from error
    if own:
        return _same_slide(read_tiles(path), path, slide), "white"
    if coords.ndim != 2 or coords.shape[1] != 2 or coords.dtype.kind not in "iu":
        raise TileError(f"Patch coordinates '{path}' are {coords.dtype} {coords.shape} and not whole numbers (N, 2).")
    level, tile_px, side = _patch_size(path, slide, attrs)
    boxes = np.column_stack([coords, np.broadcast_to(side, coords.shape)]).astype(np.int64)
    return _tiles(path, slide, boxes, Size(tile_px, tile_px), level), "black"


def _patch_size(path: Path, slide: Slide, attrs: Mapping[str, Any]) -> tuple[int | None, int, Int64[np.ndarray, " 2"]]:
    """Pyramid level, side in output pixels, and both sides in level-0 pixels."""
    try:
        tile_px = _whole(attrs, "patch_size")
        level = _whole(attrs, "patch_level") if "patch_level" in attrs else None
        if level is None:
            return None, tile_px, np.array([_whole(attrs, "patch_size_level0")] * 2)
    except KeyError as error:
        raise TileError(
            f"Patch coordinates '{path}' do not say how large a patch is: coords lack the attribute {error.args[0]} (a "
            "number above 0; patch_level may be 0)."
        ) from error
    where = slide.levels[level_of(slide, level)]
    size = np.ravel(attrs.get("level_dim", [where.size.width, where.size.height])).tolist()
    if size != [where.size.width, where.size.height]:
        raise TileError(
            f"Patch coordinates '{path}' were laid on a slide whose level {level} has {' × '.join(map(str, size))} px; "
            f"that of '{slide.path.name}' has {where.size.width} × {where.size.height} px. Are they the slide's own?"
        )
    return level, tile_px, np.rint(tile_px * np.array([where.downsample_x, where.downsample_y])).astype(np.int64)


def _whole(attrs: Mapping[str, Any], name: str) -> int:
    values = np.ravel(attrs[name])
    if len(values) != 1 or values[0] != int(values[0]) or values[0] < (name != "patch_level"):
        raise KeyError(name)
    return int(values[0])


def read_histoprep_coords(path: Path, slide: Slide) -> Tiles:
    """Read where HistoPrep laid its tiles.

    Args:
        path: ``metadata.parquet`` (columns x, y, w, h in level-0 pixels), with ``properties.json`` beside it, which
            says the pyramid level.
        slide: The slide; no pixel is read.

    Returns:
        The tiles, in the table's order.

    Raises:
        NoTilesError: If there is no tile.
        TileError: If a file cannot be read, tiles have several sizes, or they are not of this slide.

    References:
        HistoPrep 2.0.5: specification section 2.
    """
    columns = read_columns(path, ("x", "y", "w", "h"))
    boxes = np.array([columns[name] for name in ("x", "y", "w", "h")], np.int64).T.reshape(-1, 4)
    try:
        level = json.loads((path.parent / _PROPERTIES).read_text(encoding="utf-8"))["level"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise TileError(
            f"'{path.parent / _PROPERTIES}' does not say the level that tiles are read from: {error}. HistoPrep writes "
            "it; without it, read the saved images (--tiles)."
        ) from error
    if not isinstance(level, int) or isinstance(level, bool):
        raise TileError(f"'{path.parent / _PROPERTIES}' has the level {level!r} and not a whole number.")
    where = slide.levels[level_of(slide, level if level >= 0 else level + len(slide.levels))]
    if len(boxes) == 0:
        raise NoTilesError(f"'{path}' lists no tile.")
    if (boxes[:, 2:] != boxes[0, 2:]).any() or boxes[0, 2:].min() < 1:
        raise TileError(f"'{path}' lists tiles of several sizes, or of none. All tiles of a source have one size.")
    width, height = (int(side) for side in boxes[0, 2:])
    size = Size(max(1, round(width / where.downsample_x)), max(1, round(height / where.downsample_y)))
    return _tiles(path, slide, boxes, size, slide.levels.index(where))


def _tiles(path: Path, slide: Slide, boxes: Int64[np.ndarray, "n 4"], size: Size, level: int | None) -> Tiles:
    """Tiles as they were laid, once it is sure that each of them meets the slide."""
    if len(boxes) == 0:
        raise NoTilesError(f"Coordinates '{path}' hold no tile.")
    x, y, w, h = boxes.T
    away = (x >= slide.size.width) | (y >= slide.size.height) | (x + w <= 0) | (y + h <= 0)
    where = f"'{slide.path.name}' of {slide.size.width} × {slide.size.height} px"
    _refuse(path, boxes, away, f"(x y w h) lies wholly outside of slide {where}")
    mpp0 = slide.resolution.mpp
    unknown: Float32[np.ndarray, " n"] = np.full(len(boxes), np.nan, np.float32)
    return Tiles(
        boxes=boxes,
        coverage=unknown,
        tile_px=size.width,
        mpp=None if mpp0 is None else int(boxes[0, 2]) * mpp0 / size.width,
        level=level,
        grid=Supplied(path.name),
        slide_size=slide.size,
        slide_mpp=mpp0,
        level_size=None if level is None else slide.levels[level].size,
        tile_height_px=None if size.height == size.width else size.height,
    )


def _same_slide(tiles: Tiles, path: Path, slide: Slide) -> Tiles:
    if len(tiles) == 0:
        raise NoTilesError(f"Coordinates '{path}' hold no tile.")
    if tiles.slide_size != slide.size:
        raise TileError(
            f"Tiles '{path}' were laid on a slide of {tiles.slide_size.width} × {tiles.slide_size.height} px; "
            f"'{slide.path.name}' has {slide.size.width} × {slide.size.height} px. Are they the slide's own?"
        )
    return tiles


def chosen_tiles(tiles: Tiles, rows: Shaped[np.ndarray, " k"]) -> Tiles:
    """Some of the tiles, in the order given."""
    return replace(tiles, boxes=tiles.boxes[rows], coverage=tiles.coverage[rows])


def _kind(name: str) -> CoordsKind | None:
    if name == COORDS_NPY:
        return "deepzoom"
    if name == METADATA:
        return "histoprep"
    return "patches" if name.endswith(".h5") else None


def _below(path: Path, root: Path) -> Path:
    """The slide's folder below ``coords_<side>``, or else below the folder that was named."""
    parent = path.parent if path.name in (COORDS_NPY, METADATA) else path.with_suffix("")
    for above in parent.parents:
        if _SIDE_FOLDER.fullmatch(above.name):
            return parent.relative_to(above)
    below = parent.relative_to(root)
    return below if below.parts else Path(parent.name)


def _walk(root: Path) -> Iterable[Path]:
    """All visible files below a folder, in order; links are followed, but no folder is entered twice."""
    if not root.is_dir():
        raise NoTilesError(f"'{root}' is neither a folder of coordinates nor a coordinate file.")
    entered: set[Path] = set()
    for folder, below, files in os.walk(root, followlinks=True):
        real = Path(folder).resolve()
        if real in entered:
            below.clear()
            continue
        entered.add(real)
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield from (Path(folder) / name for name in sorted(files) if not name.startswith("."))


def _plain_name(name: str) -> str:
    """A name in one spelling of its accents: file systems differ in that."""
    return unicodedata.normalize("NFC", name)
