"""Where tiles lie, for features whose own file does not say it; and what is known of their slide."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from microtome.errors import ConfigError, TileError
from microtome.features.bag import Plain
from microtome.features.formats.clam_h5 import read_places
from microtome.features.formats.format import plain_slide_name
from microtome.features.formats.table import ADDRESS, FeatureTable
from microtome.storage.pickles import read_npy
from microtome.tiles.coords_files import CoordsFile, find_coords
from microtome.tiles.folder import read_columns

_SAME_MPP = 0.01


class Places:
    """Coordinate files of slides: CLAM's, Trident's or microtome's patches, HistoSSL's, HistoPrep's.

    Args:
        root: A folder, searched to its depth, or one file.

    Raises:
        NoTilesError: If nothing is there.
    """

    def __init__(self, root: Path) -> None:
        self._files = find_coords(root)

    def find(self, slide_id: str) -> CoordsFile:
        """The one file of a slide.

        Raises:
            NoTilesError: If there is none.
            TileError: If there are several.
        """
        only = self._files.by_name.get("")
        files = [name for name in self._files.by_name if plain_slide_name(name) == slide_id]
        return only[0] if only else self._files.find([*files, slide_id])


@dataclass(frozen=True)
class _Found:
    corners: Int64[np.ndarray, "n 2"] | None
    boxes: Int64[np.ndarray, "n 4"] | None
    addresses: Int64[np.ndarray, "n 3"] | None
    attrs: dict[str, Plain]


def with_places(table: FeatureTable, file: CoordsFile) -> FeatureTable:
    """A table with the places that a coordinate file says.

    Raises:
        ConfigError: If the file has another number of tiles, or contradicts what the table knows.
        MicrotomeError: If the file cannot be read.
    """
    found = _read(file)
    for what in (found.corners, found.addresses):
        if what is not None and len(what) != len(table):
            raise ConfigError(
                f"'{file.path}' has {len(what)} tiles, and '{table.slide_id}' has {len(table)} rows of features. Are "
                "they of the same slide?"
            )
    corners = table.corners
    if corners is not None and found.corners is not None and not np.array_equal(corners, found.corners):
        raise ConfigError(f"'{file.path}' has other coordinates than the features of '{table.slide_id}'.")
    boxes = table.boxes if found.boxes is None else found.boxes
    columns = {**table.columns, **({} if found.addresses is None else {ADDRESS: found.addresses})}
    return replace(
        table,
        boxes=boxes,
        coords=None if boxes is not None else (table.coords if found.corners is None else found.corners),
        columns=columns,
        attrs={**found.attrs, **table.attrs},
        notes=tuple(note for note in table.notes if "no coordinates" not in note),
    )


def _read(file: CoordsFile) -> _Found:
    if file.kind == "patches":
        corners, side, attrs = read_places(file.path)
        sides = None if side is None else np.full((len(corners), 2), side, np.int64)
        boxes = None if sides is None else np.concatenate([corners, sides], axis=1)
        return _Found(corners, boxes, None, attrs)
    if file.kind == "histoprep":
        columns = read_columns(file.path, ("x", "y", "w", "h"))
        boxes = np.array([columns[name] for name in ("x", "y", "w", "h")], np.int64).T.reshape(-1, 4)
        return _Found(boxes[:, :2], boxes, None, {})
    addresses = read_npy(file.path)
    if addresses.ndim != 2 or addresses.shape[1] != 3 or addresses.dtype.kind not in "iu":
        raise TileError(f"Coordinates '{file.path}' are no DeepZoom addresses (N, 3): {addresses.dtype}.")
    attrs = {} if file.tile_px is None else {"patch_size": file.tile_px}
    return _Found(None, None, addresses.astype(np.int64), attrs)


def with_slide(table: FeatureTable, size: tuple[int, int], mpp: float | None, source: str) -> FeatureTable:
    """A table with its slide's size and resolution.

    Args:
        table: The table.
        size: Of the slide, level-0 pixels.
        mpp: µm per level-0 pixel; None if nobody knows.
        source: Where that is from.

    Raises:
        ConfigError: If the table says something else.
    """
    attrs = dict(table.attrs)
    if attrs.get("slide_size", list(size)) != list(size):
        raise ConfigError(
            f"The features of '{table.slide_id}' are of a slide of {attrs['slide_size']} px, and the slide has "
            f"{list(size)}. It is another one."
        )
    attrs["slide_size"] = list(size)
    known = attrs.get("slide_mpp")
    if mpp is not None and isinstance(known, float) and abs(known / mpp - 1) > _SAME_MPP:
        raise ConfigError(f"The features of '{table.slide_id}' are of a slide of {known:g} µm/px; it has {mpp:g}.")
    if mpp is not None and known is None:
        attrs |= {"slide_mpp": mpp, "slide_mpp_source": source}
    return replace(table, attrs=attrs)
