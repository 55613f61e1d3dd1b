"""Tiles that are image files in a folder: HistoPrep's layout, and one folder per class."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64, Shaped, UInt8

from microtome.errors import NoTilesError, TileError
from microtome.geometry import Size
from microtome.tiles.images import UNDECODABLE, decode_image, fingerprint, image_size, is_image
from microtome.tiles.random_access import RandomAccessTiles, frozen_boxes

TILE_NAME = re.compile(r"x(-?\d+)_y(-?\d+)_w(\d+)_h(\d+)")
METADATA = "metadata.parquet"
UNREADABLE = "unreadable.parquet"


class ImageFiles(RandomAccessTiles):
    """Tiles that are image files of one size; 8-bit RGB.

    Args:
        root: The folder; names in the recipe are relative to it.
        files: In order.
        boxes: Of each.
        size: Of every image.
        mpp: µm per pixel, or None.
        modality: Kind of image.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[Path],
        boxes: Int64[np.ndarray, "n 4"],
        *,
        size: Size,
        mpp: float | None,
        modality: str,
    ) -> None:
        self.root = root
        self.files = tuple(files)
        self.boxes = frozen_boxes(boxes)
        self.mpp = mpp
        self.dtype = np.dtype(np.uint8)
        self.image_size = size
        self.tile_shape = (size.height, size.width, 3)
        self._modality = modality
        self._lost: dict[int, str] = {}

    @property
    def modality(self) -> str:
        """Kind of image, as declared on opening."""
        return self._modality

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint([file for row, file in enumerate(self.files) if row not in self._lost], root=self.root)

    @property
    def recipe(self) -> Mapping[str, object]:
        """Files (names, sizes, content), boxes and what was declared of them."""
        return {
            "tile_files": self._fingerprint,
            "tile_boxes": self.boxes,
            "tile_size_px": [self.tile_shape[1], self.tile_shape[0]],
            "tile_mpp": self.mpp,
            "tile_modality": self._modality,
            "tile_lost": sorted(self._lost),
        }

    def _read_into(self, images: Shaped[np.ndarray, "n h w c"], rows: Sequence[int]) -> Mapping[int, str]:
        errors: dict[int, str] = {}
        for position, row in enumerate(rows):
            if row in self._lost:
                errors[row] = self._lost[row]
                continue
            try:
                image = decode_image(self.files[row])
            except TileError:
                raise
            except UNDECODABLE as error:
                errors[row] = f"Tile '{self.files[row].name}' cannot be decoded: {error}"
                continue
            self._check_size(self.files[row], Size(image.shape[1], image.shape[0]))
            images[position] = self._fitted(image)
        return errors

    def _fitted(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
        """An image as a tile of ``tile_shape``: as it is."""
        return image

    def _check_sizes(self) -> None:
        """Find an image of another size now, not after hours of work."""
        for file in self.files:
            own: Size | None = None
            with suppress(*UNDECODABLE):  # it will be marked as unreadable when it is read
                own = image_size(file)
            if own is not None:
                self._check_size(file, own)

    def _check_size(self, file: Path, size: Size) -> None:
        first = self.image_size
        if size != first:
            raise TileError(
                f"Tile '{file}' is {size.width} × {size.height} px, but the first tile is {first.width} × "
                f"{first.height} px. All tiles of a source must have one size; resize or remove it."
            )


class TileFolder(ImageFiles):
    """The tiles of one slide as HistoPrep leaves them: a slide's folder with ``tiles/`` in it.

    ``metadata.parquet`` (columns x, y, w, h, path) says which tiles there are; its paths, absolute in the
    original, are resolved by their file name in this folder, so that a folder may be moved. Without it,
    every image in ``tiles/`` (or in the folder itself) named ``x{}_y{}_w{}_h{}`` is a tile. Tiles that
    :func:`~microtome.tiles.save.save_tiles` could not read keep their rows and are marked as unreadable.

    Rows are ordered by y, then x.

    Args:
        path: The slide's folder; its name is the slide_id unless one is given.
        slide_id: Whose tiles these are.
        mpp: µm per pixel of the images, if known.
        modality: Kind of image.

    Raises:
        NoTilesError: If there is no tile.
        TileError: If a name cannot be read, or tiles have several sizes.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        slide_id: str | None = None,
        mpp: float | None = None,
        modality: str = "brightfield",
    ) -> None:
        root = _folder(path)
        images = root / "tiles" if (root / "tiles").is_dir() else root
        listed = _listed(root, images) if (root / METADATA).is_file() else _named(images)
        lost = _lost(root)
        if not listed:
            raise NoTilesError(f"'{root}' holds no tile. It needs images named x{{x}}_y{{y}}_w{{w}}_h{{h}} in tiles/.")
        entries = sorted([*listed, *lost], key=lambda entry: (entry[0][1], entry[0][0]))
        boxes = np.array([box for box, _ in entries], np.int64)
        _check_one_size(root, boxes)
        # a lost tile has no file; its name is the one it would have had
        files = [place if isinstance(place, Path) else images / f"{tile_name(box)}.lost" for box, place in entries]
        readable = [file for (_, place), file in zip(entries, files, strict=True) if isinstance(place, Path)]
        super().__init__(root, files, boxes, size=first_size(readable), mpp=mpp, modality=modality)
        self._lost = {row: place for row, (_, place) in enumerate(entries) if isinstance(place, str)}
        self.slide_id = root.name if slide_id is None else slide_id


class LabelledTiles(ImageFiles):
    """Labelled tiles, one folder per class (``<path>/<class>/**/<image>``).

    Rows are ordered by class name, then by path. A tile has no place on a slide: its box is (0, 0, width,
    height).

    Attributes:
        classes: Names of the classes, sorted.
        labels: Index into ``classes`` of each row; read-only.

    Args:
        path: The folder of folders; its name is the slide_id unless one is given.
        slide_id: Name of the set.
        mpp: µm per pixel of the images, if known.
        modality: Kind of image.

    Raises:
        NoTilesError: If there is no class folder.
        TileError: If a class is empty, an image has no class, or images have several sizes.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        slide_id: str | None = None,
        mpp: float | None = None,
        modality: str = "brightfield",
    ) -> None:
        root = _folder(path)
        folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
        loose = sorted(p.name for p in root.iterdir() if p.is_file() and is_image(p))
        if not folders:
            raise NoTilesError(f"'{root}' holds no folder. It needs one folder of images per class.")
        if loose:
            raise TileError(
                f"Tile '{root / loose[0]}' lies beside the class folders and has no class. Move it into one."
            )
        per_class = [_images_below(folder) for folder in folders]
        files = [file for images in per_class for file in images]
        size = first_size(files)
        boxes = np.tile(np.array([0, 0, size.width, size.height], np.int64), (len(files), 1))
        super().__init__(root, files, boxes, size=size, mpp=mpp, modality=modality)
        self._check_sizes()
        self.classes = tuple(folder.name for folder in folders)
        self.labels: Int64[np.ndarray, " n"] = np.repeat(np.arange(len(folders)), [len(i) for i in per_class])
        self.labels.flags.writeable = False
        self.slide_id = root.name if slide_id is None else slide_id

    @property
    def recipe(self) -> Mapping[str, object]:
        """Files, boxes, what was declared of them, and labels."""
        return {**super().recipe, "tile_classes": list(self.classes), "tile_labels": self.labels}


def tile_name(box: Sequence[int] | np.ndarray) -> str:
    """HistoPrep's name of a tile, without suffix.

    Example:
        >>> tile_name((224, 0, 448, 448))
        'x224_y0_w448_h448'
    """
    x, y, w, h = (int(value) for value in box)
    return f"x{x}_y{y}_w{w}_h{h}"


_Entry = tuple[tuple[int, int, int, int], Path | str]  # a box, and the file or why there is none


def _folder(path: str | Path) -> Path:
    folder = Path(path).absolute()
    if not folder.is_dir():
        raise NoTilesError(f"'{folder}' is not a folder of tiles.")
    return folder


def _named(images: Path) -> list[_Entry]:
    """Tiles by the names of their files."""
    entries: list[_Entry] = []
    for file in images.iterdir():
        if not (file.is_file() and is_image(file)) or file.stem.startswith("thumbnail"):
            continue
        match = TILE_NAME.fullmatch(file.stem)
        if match is None:
            raise TileError(
                f"Tile '{file}' is not named x{{x}}_y{{y}}_w{{w}}_h{{h}}, and there is no {METADATA} that "
                "lists it. Rename or remove it."
            )
        x, y, w, h = (int(number) for number in match.groups())
        entries.append(((x, y, w, h), file))
    return entries


def _listed(root: Path, images: Path) -> list[_Entry]:
    """Tiles by the table."""
    columns = read_columns(root / METADATA, ("x", "y", "w", "h", "path"))
    boxes = zip(columns["x"], columns["y"], columns["w"], columns["h"], strict=True)
    names = (PureWindowsPath(str(path)).name for path in columns["path"])  # takes / and \ for separators
    return [((int(x), int(y), int(w), int(h)), images / name) for (x, y, w, h), name in zip(boxes, names, strict=True)]


def _lost(root: Path) -> list[_Entry]:
    """Tiles that could not be read when they were saved."""
    if not (root / UNREADABLE).is_file():
        return []
    columns = read_columns(root / UNREADABLE, ("x", "y", "w", "h", "error"))
    rows = zip(*(columns[name] for name in ("x", "y", "w", "h", "error")), strict=True)
    return [((int(x), int(y), int(w), int(h)), str(error)) for x, y, w, h, error in rows]


def read_columns(path: Path, names: Sequence[str]) -> dict[str, list[Any]]:
    """Read columns of a parquet table.

    Raises:
        TileError: If it cannot be read, lacks a column, or a cell is empty.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise TileError(f"'{path}' cannot be read as a parquet table: {error}") from error
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise TileError(f"'{path}' lacks the column(s) {', '.join(missing)}. It has {', '.join(table.column_names)}.")
    columns: dict[str, list[Any]] = {name: table[name].to_pylist() for name in names}
    for name, values in columns.items():
        if None in values:
            raise TileError(f"'{path}' has no {name} in row {values.index(None)}.")
    return columns


def _check_one_size(root: Path, boxes: Int64[np.ndarray, "n 4"]) -> None:
    odd = np.flatnonzero((boxes[:, 2:] != boxes[0, 2:]).any(axis=1))
    if len(odd):
        raise TileError(
            f"'{root}' has tiles of several sizes: {tile_name(boxes[0])} and {tile_name(boxes[odd[0]])}. All "
            "tiles of a source must have one size."
        )


def first_size(files: Sequence[Path]) -> Size:
    """Size of the first image whose header can be read.

    Raises:
        TileError: If none can.
    """
    for file in files:
        with suppress(*UNDECODABLE):
            return image_size(file)
    raise TileError(f"None of {len(files)} tiles can be decoded, the first of them '{files[0]}'.")


def _images_below(folder: Path) -> list[Path]:
    images = sorted(p for p in folder.rglob("*") if p.is_file() and is_image(p))
    if not images:
        raise TileError(f"Class folder '{folder}' holds no image. Remove it or fill it.")
    return images
