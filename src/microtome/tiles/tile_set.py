"""Published sets of labelled tiles: a folder per class, NCT-CRC-HE-100K with CRC-VAL-HE-7K, Camelyon17-WILDS."""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from sys import intern
from typing import Literal

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from microtome.errors import NoTilesError, TileError
from microtome.tiles.folder import METADATA, ImageFiles, first_size
from microtome.tiles.images import is_image

TileSetLayout = Literal["imagefolder", "nct-crc", "camelyon17-wilds"]
NCT_CLASSES = frozenset({"ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM"})
WILDS_TABLE = "metadata.csv"
_NCT_SPLITS = {"NCT-CRC-HE": "train", "NCT-CRC": "train", "CRC-VAL-HE": "valid"}
_WILDS_SPLITS = {"0": "train", "3": "train", "4": "train", "1": "valid", "2": "test"}  # by centre
_WILDS_COLUMNS = ("patient", "node", "x_coord", "y_coord", "tumor", "center")
_MANY = 8  # of the classes of NCT-CRC: some copies lack the background
_EMPTY: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class ListedTile:
    """One tile of a set: its name, its file and what the set says of it (label, split, patient, ...)."""

    id: str
    file: Path
    facts: Mapping[str, str]


class TileSet(ImageFiles):
    """The tiles of a data set, in the order of their paths below its folder; 8-bit RGB, all of one size.

    A tile has no place on a slide: its box is (0, 0, width, height).

    Attributes:
        ids: Name of each tile, each once; read-only text.
        facts: What the set says of each tile: ``label``, ``split``, ``center``, ``patient``, ... as far as it does.
        layout: How the folder is laid out.

    Args:
        path: The folder; its name is the slide_id unless one is given.
        layout: ``imagefolder``, one folder per class (or images alone, without labels): the id is the path below the
            folder. ``nct-crc``, NCT-CRC-HE-100K or CRC-VAL-HE-7K, or a folder that holds such: the id is the file's
            name without its suffix. ``camelyon17-wilds``, ``metadata.csv`` beside ``patches/``: the same.
            ``auto`` takes what the folder looks like.
        slide_id: Name of the set.
        tile_px: Resize images to squares of this side (Pillow, bicubic), as HistoSSL does to 224 px; None for none.
        mpp: µm per pixel of the images as they are, if known.
        mpp_source: Who said so.

    Raises:
        NoTilesError: If there is no tile.
        TileError: If the folder is not laid out so, two tiles have one id, images have several sizes, or images that
            are not square are to be resized.

    References:
        HistoSSL (73f1d19), specification section 4: NCT-CRC is split by data set, Camelyon17-WILDS by centre (0, 3, 4
        train; 1 valid; 2 test). Its order of tiles is not specified; here it is that of the paths.
    """

    def __init__(
        self,
        path: str | Path,
        layout: TileSetLayout | Literal["auto"] = "auto",
        *,
        slide_id: str | None = None,
        tile_px: int | None = None,
        mpp: float | None = None,
        mpp_source: str = "unknown",
    ) -> None:
        root = Path(path).absolute()
        if not root.is_dir():
            raise NoTilesError(f"'{root}' is not a folder of tiles.")
        self.layout: TileSetLayout = look_for_layout(root) if layout == "auto" else layout
        listed = sorted(_LISTS[self.layout](root), key=lambda tile: tile.file.relative_to(root).parts)
        if not listed:
            raise NoTilesError(f"'{root}' holds no tile in the layout {self.layout}.")
        _check_ids(root, listed)
        files = [tile.file for tile in listed]
        size = first_size(files)
        boxes = np.tile(np.array([0, 0, size.width, size.height], np.int64), (len(files), 1))
        super().__init__(root, files, boxes, size=size, mpp=mpp, modality="brightfield")
        self._check_sizes()
        self._resize(tile_px)
        self.ids: Shaped[np.ndarray, " n"] = np.array([tile.id for tile in listed], np.str_)
        self.ids.flags.writeable = False
        self.facts = tuple(tile.facts for tile in listed)
        self.mpp_source = mpp_source
        self.slide_id = root.name if slide_id is None else slide_id

    def _resize(self, tile_px: int | None) -> None:
        """Say that tiles are of another size than images."""
        size = self.image_size
        if tile_px is None or (size.width, size.height) == (tile_px, tile_px):
            return
        if size.width != size.height:
            raise TileError(
                f"The images of '{self.root}' are {size.width} × {size.height} px; resized to {tile_px} × {tile_px} px "
                "they would be distorted. Leave --tile-px out, or cut squares."
            )
        self.tile_shape = (tile_px, tile_px, 3)
        if self.mpp is not None:
            self.mpp = self.mpp * size.width / tile_px

    def _fitted(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
        if image.shape == self.tile_shape:
            return image
        size = (self.tile_shape[1], self.tile_shape[0])
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))

    @property
    def recipe(self) -> Mapping[str, object]:
        """Files, ids, and what was declared of them; labels decide no feature."""
        resized = None if self.tile_shape[0] == self.image_size.height else "pillow bicubic"
        return {
            **super().recipe,
            "tile_ids": self.ids,
            "tile_mpp_source": self.mpp_source,
            "tile_resample": resized,
        }

    @property
    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The tiles as a table: names of the columns; one row of text per tile, in order."""
        known = [name for name in ("label", "split", "center", "patient", "node", "x", "y") if self._says(name)]
        paths = [file.relative_to(self.root).as_posix() for file in self.files]
        rows = [
            (str(name), path, *(facts.get(column, "") for column in known))
            for name, path, facts in zip(self.ids, paths, self.facts, strict=True)
        ]
        return ("id", "path", *known), rows

    def _says(self, name: str) -> bool:
        return any(name in facts for facts in self.facts)


def look_for_layout(root: Path) -> TileSetLayout:
    """What a folder of tiles looks like.

    Raises:
        TileError: If it is a folder of HistoPrep's, which is of slides and no set of tiles.
    """
    if is_histoprep(root):
        raise TileError(
            f"'{root}' holds slides as HistoPrep leaves them. Pass the layout histoprep, or open each slide."
        )
    if (root / WILDS_TABLE).is_file() and (root / "patches").is_dir():
        return "camelyon17-wilds"
    folders = {folder.name for folder in _folders(root)}
    if len(folders & NCT_CLASSES) >= _MANY or (folders and all(_nct_split(name) for name in folders)):
        return "nct-crc"
    return "imagefolder"


def is_histoprep(root: Path) -> bool:
    """Whether a folder is a slide's of HistoPrep, or holds such."""
    return any((folder / METADATA).is_file() for folder in (root, *_folders(root)))


def _list_classes(root: Path) -> Iterator[ListedTile]:
    folders = _folders(root)
    loose = [file for file in sorted(root.iterdir()) if file.is_file() and is_image(file)]
    if folders and loose:
        raise TileError(f"Tile '{loose[0]}' lies beside the class folders and has no class. Move it into one.")
    for file in loose:
        yield ListedTile(file.name, file, _EMPTY)
    for folder in folders:
        for file in _images(folder):
            yield ListedTile(file.relative_to(root).as_posix(), file, {"label": folder.name})


def _list_nct(root: Path) -> Iterator[ListedTile]:
    sets = [folder for folder in _folders(root) if _nct_split(folder.name)] or [root]
    for each in sets:
        split = _nct_split(each.name)
        for folder in _folders(each):
            if folder.name not in NCT_CLASSES:
                raise TileError(f"'{folder}' is no class of NCT-CRC ({', '.join(sorted(NCT_CLASSES))}).")
            facts = {"label": folder.name, **({"split": split} if split else {})}
            for file in _images(folder):
                yield ListedTile(file.stem, file, facts)


def _nct_split(name: str) -> str | None:
    """``train`` or ``valid`` by the name of the data set's folder."""
    return next((split for start, split in _NCT_SPLITS.items() if name.upper().startswith(start)), None)


def _list_wilds(root: Path) -> Iterator[ListedTile]:
    path = root / WILDS_TABLE
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            missing = [name for name in _WILDS_COLUMNS if name not in (table.fieldnames or ())]
            if missing:
                raise TileError(f"'{path}' lacks the column(s) {', '.join(missing)} of Camelyon17-WILDS.")
            for number, row in enumerate(table, start=2):
                yield _wilds_tile(root, row, number)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TileError(f"'{path}' cannot be read: {error}. It is the table of Camelyon17-WILDS.") from error


def _wilds_tile(root: Path, row: Mapping[str, str | None], number: int) -> ListedTile:
    """The tile of one line of the table; its file's name follows from patient, node and place."""
    cells = {name: (row[name] or "").strip() for name in _WILDS_COLUMNS}
    try:
        patient, node, x, y = (int(cells[name]) for name in ("patient", "node", "x_coord", "y_coord"))
    except ValueError as error:
        raise TileError(f"'{root / WILDS_TABLE}', line {number}: {error}.") from error
    if cells["center"] not in _WILDS_SPLITS:
        raise TileError(f"'{root / WILDS_TABLE}', line {number}: centre {cells['center']!r} is none of 0 to 4.")
    folder = f"patient_{patient:03d}_node_{node}"
    name = f"patch_{folder}_x_{x}_y_{y}"
    facts = {
        "label": intern(cells["tumor"]),  # one text for all tiles that say the same
        "split": _WILDS_SPLITS[cells["center"]],
        "center": intern(cells["center"]),
        "patient": intern(f"{patient:03d}"),
        "node": intern(str(node)),
        "x": str(x),
        "y": str(y),
    }
    return ListedTile(name, root / "patches" / folder / f"{name}.png", facts)


_LISTS: dict[TileSetLayout, Callable[[Path], Iterator[ListedTile]]] = {
    "imagefolder": _list_classes,
    "nct-crc": _list_nct,
    "camelyon17-wilds": _list_wilds,
}


def _folders(root: Path) -> list[Path]:
    return sorted(folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    images = [path for path in folder.rglob("*") if is_image(path) and path.is_file()]
    if not images:
        raise TileError(f"Class folder '{folder}' holds no image. Remove it or fill it.")
    return images


def _check_ids(root: Path, listed: Sequence[ListedTile]) -> None:
    seen: dict[str, ListedTile] = {}
    for tile in listed:
        twin = seen.setdefault(tile.id, tile)
        if twin is not tile:
            raise TileError(
                f"'{root}' has two tiles called {tile.id!r}: '{twin.file}' and '{tile.file}'. Rename or remove one."
            )
