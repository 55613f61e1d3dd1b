"""CLAM's and Trident's ``h5_files/<slide_id>.h5``: ``features`` (N, D) and ``coords`` (N, 2).

CLAM writes no attributes, so that the size of a tile is known only from its file of coordinates (``patches/``);
Trident writes ``patch_size``, ``patch_size_level0``, ``overlap``, ``level0_width``, ``level0_height`` and
magnifications. Attributes that neither knows (``mpp``, ``slide_mpp``, ``encoder``) are written as text of fixed length
or numbers, which their readers pass over.

STAMP calls the features ``feats`` and gives coordinates in µm; MoPaDi has no coordinates. Their features are read,
and that nothing says where the tiles lie is noted.

References:
    CLAM (53e2409), specification section 5: float32 features, int32 coordinates.
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Int64

from microtome.errors import ConfigError, CorruptOutputError
from microtome.features.bag import Plain, read_bag
from microtome.features.formats.format import Format
from microtome.features.formats.hub import blocks
from microtome.features.formats.table import FeatureTable, Part, table_of
from microtome.storage import LateErrorFile, written_whole
from microtome.storage.seal import is_sealed

_INT32 = np.iinfo(np.int32)
_WRITTEN = ("patch_size", "patch_level", "overlap", "mpp", "slide_mpp", "slide_mpp_source", "encoder")


def read(path: Path, slide_id: str) -> FeatureTable:
    """Read the features, and where tiles lie as far as the file says it.

    Raises:
        MissingOutputError: If nothing is there.
        CorruptOutputError: If it is truncated, has not this layout, or holds NaN.
    """
    name, unread = _look(path)
    bag = read_bag(path, slide_id, features_name=name, needs_coords=False)
    table = table_of(bag, notes=tuple(unread))
    attrs = {key: value for key, value in bag.attrs.items() if key not in ("level0_width", "level0_height")}
    if "level0_width" in bag.attrs and "level0_height" in bag.attrs:
        attrs["slide_size"] = [int(bag.attrs["level0_width"]), int(bag.attrs["level0_height"])]
    return FeatureTable(**{**vars(table), "attrs": attrs})


def write(path: Path, table: FeatureTable) -> None:
    """Write features, coordinates, and their attributes.

    Raises:
        ConfigError: If there are no coordinates, or they do not fit int32.
        OutputWriteError: If the file cannot be written.
    """
    corners = table.corners
    if corners is None:
        raise ConfigError(
            f"clam-h5 needs coordinates, and those of '{table.slide_id}' are not known. Pass --coords, or convert to "
            "clam-pt."
        )
    if len(corners) and (corners.min() < _INT32.min or corners.max() > _INT32.max):
        raise ConfigError(f"clam-h5 holds coordinates as int32, and those of '{table.slide_id}' do not fit.")
    features = table.features
    with written_whole(path) as temporary, LateErrorFile(temporary) as raw:
        with h5py.File(raw, "w") as file:
            dataset = file.create_dataset("features", shape=features.shape, dtype=features.dtype)
            start = 0
            for block in blocks(features):
                dataset[start : start + len(block)] = np.ascontiguousarray(block)
                raw.check()
                start += len(block)
            coords = file.create_dataset("coords", data=corners.astype(np.int32))
            coords.attrs.update({name: _fixed(value) for name, value in _attributes(table).items()})
        raw.check()


def _attributes(table: FeatureTable) -> dict[str, Plain]:
    known = {name: table.attrs[name] for name in _WRITTEN if name in table.attrs}
    size = table.attrs.get("slide_size")
    if isinstance(size, list):
        known |= {"level0_width": size[0], "level0_height": size[1]}
    if table.side_px0 is not None:
        known["patch_size_level0"] = table.side_px0
    return {**known, "name": table.slide_id}


def _fixed(value: Plain) -> Any:  # noqa: ANN401 - what HDF5 takes
    return np.bytes_(value.encode()) if isinstance(value, str) else value


def _look(path: Path) -> tuple[str, list[str]]:
    """What the features are called, and what of the file will not be read."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            if is_sealed(path):
                return "features", []
            name = "feats" if "feats" in file and "features" not in file else "features"
            known = {name, "coords", "boxes"}
            notes = [f"'{key}' was not read" for key in file if key not in known]
            if "coords" not in file:
                notes.append("it has no coordinates")
            elif isinstance(file["coords"], h5py.Dataset) and file["coords"].dtype.kind == "f":
                notes.append("its coordinates are not whole pixels (STAMP's are in µm) and were not read")
    except (OSError, RuntimeError, ValueError, KeyError):
        return "features", []  # reading it will say what is wrong
    return name, notes


def read_places(path: Path) -> tuple[Int64[np.ndarray, "n 2"], int | None, dict[str, Plain]]:
    """Where tiles lie, from a file of coordinates alone: CLAM's ``patches/<slide_id>.h5``, Trident's, or ours.

    Args:
        path: HDF5 file with ``coords`` (N, 2), level-0 pixels.

    Returns:
        Top-left corners; the side of a tile on level 0, if the file says it; and its other attributes. CLAM says how
        large a tile is on a level and that level's downsample; their product is rounded.

    Raises:
        CorruptOutputError: If the file is truncated or has not this layout.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            if "imgs" in file:
                raise ValueError("its coordinates are in pixels of a level (CLAM's older layout)")  # noqa: TRY301
            coords = file["coords"]
            corners = coords[()]
            attrs = {name: coords.attrs[name] for name in coords.attrs if coords.attrs.get_id(name).dtype.kind in "iuf"}
            if corners.ndim != 2 or corners.shape[1] != 2 or corners.dtype.kind not in "iu":
                raise ValueError(f"'coords' is {corners.dtype} {corners.shape}")  # noqa: TRY301 - explained below
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise CorruptOutputError(f"'{path}' cannot be used as coordinates: {error}.") from error
    side = attrs.get("patch_size_level0")
    if side is None and "patch_size" in attrs and "downsample" in attrs:
        downsample = np.unique(np.asarray(attrs["downsample"], np.float64))
        side = round(int(attrs["patch_size"]) * float(downsample.mean()))
    if side is None and attrs.get("patch_level") == 0:
        side = attrs.get("patch_size")
    plain: dict[str, Plain] = {n: int(attrs[n]) for n in ("patch_size", "patch_level") if n in attrs}
    return corners.astype(np.int64), None if side is None else int(side), plain


CLAM_H5 = Format(
    name="clam-h5",
    made_by="CLAM, Trident; STAMP and MoPaDi are read",
    layout="h5_files/{slide_id}.h5",
    holds=frozenset({Part.COORDS, Part.SIZE, Part.TILE_PX, Part.MPP, Part.SLIDE, Part.ENCODER}),
    dtypes=("float32", "float16"),
    default_dtype="float32",
    read=read,
    write=write,
    note="Coordinates are int32. CLAM's own files do not say how large a tile is; `--coords` takes it from `patches/`.",
)
