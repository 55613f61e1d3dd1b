"""One slide's features, and the HDF5 file that holds them.

``features`` (N, D) lies in the file as one run of bytes, so that it is memory-mapped and any rows are read without
the others. ``coords`` (N, 2) are level-0 top-left corners. Readers of CLAM's and Trident's feature files take the
file as it is: both datasets have their names, and ``coords`` carries their attributes as far as they are true here:

* ``patch_size``: side of a tile in output pixels;
* ``patch_size_level0``: side of a tile in level-0 pixels;
* ``patch_level``: only where a tile is ``patch_size`` pixels of that level, which tiles laid at a resolution are not;
* ``overlap``: of neighbouring tiles, in output pixels, where it is known;
* ``name``: the slide.

Magnifications are never written, because a magnification is no resolution; nor is the folder, which may be moved.

Beside them are ``rows`` (N,), the tile of the source that each row is; ``unreadable`` (M, 4), the boxes (x y w h,
level-0 pixels) of tiles that could not be decoded, with ``unreadable_rows`` and ``unreadable_errors``; and ``boxes``
(N, 4) where tiles differ in size; ``columns/<name>`` (N, ...) where more is known of each row, such as the names of
tiles. Attributes of the file say what decided it. ``coords`` is absent where features were imported from a file that
does not say where their tiles lie.
"""

import errno
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float, Int64, Shaped

from microtome.errors import CorruptOutputError, MissingOutputError, OutputError
from microtome.storage import LateErrorFile
from microtome.storage.seal import is_sealed, seal_file, seal_holds

FORMAT = "microtome-features"
FORMAT_VERSION = 1
_CHECKSUM = "features_crc32"
_BLOCK_BYTES = 16 * 1024 * 1024

Plain = str | int | float | bool | list[int] | list[float] | list[str]
"""What an attribute may be."""


class Bag:
    """The features of one slide. Made by a store; not to be changed.

    Attributes:
        slide_id: Whose features these are.
        features: One row per readable tile, memory-mapped and read-only; finite.
        unreadable: Boxes (x y w h, level-0 pixels) of tiles that could not be decoded and have no row.
        unreadable_errors: Why not, one per box.
        unreadable_rows: Which tiles of the source they are; None in files of others.
        rows: Which tile of the source each row is, ascending; None in files of others.
        attrs: What the file says of itself: ``mpp``, ``slide_mpp``, ``encoder``, ``recipe``, ``patch_size``, ...
        columns: What else is known of each row, by name: ``name`` (text), ``deepzoom_address`` (level, column, row).
    """

    def __init__(  # noqa: PLR0913 - a record of plain fields
        self,
        slide_id: str,
        features: Float[np.ndarray, "n d"],
        coords: Int64[np.ndarray, "n 2"] | None,
        boxes: Int64[np.ndarray, "n 4"] | None,
        unreadable: Int64[np.ndarray, "m 4"],
        attrs: Mapping[str, Any],
        *,
        rows: Int64[np.ndarray, " n"] | None = None,
        unreadable_errors: tuple[str, ...] = (),
        unreadable_rows: Int64[np.ndarray, " m"] | None = None,
        columns: Mapping[str, Shaped[np.ndarray, "n ..."]] | None = None,
    ) -> None:
        self.slide_id = slide_id
        self.features = features
        self.columns = dict(columns or {})
        self.unreadable = unreadable
        self.unreadable_errors = unreadable_errors
        self.unreadable_rows = unreadable_rows
        self.rows = rows
        self.attrs = attrs
        self._coords = coords
        self._boxes = boxes

    def __len__(self) -> int:
        return len(self.features)

    def __repr__(self) -> str:
        return f"<Bag '{self.slide_id}' {len(self)}×{self.dim} {self.features.dtype}>"

    @property
    def has_coords(self) -> bool:
        """Whether it is known where tiles lie; not so in features imported from a file that does not say it."""
        return self._coords is not None

    @property
    def has_boxes(self) -> bool:
        """Whether it is known where tiles lie and how large they are."""
        return self._boxes is not None

    @property
    def coords(self) -> Int64[np.ndarray, "n 2"]:
        """Top-left corner (x y) of each row's tile, level-0 pixels.

        Raises:
            OutputError: If the features were imported from a file that does not say where their tiles lie.
        """
        if self._coords is None:
            raise OutputError(
                f"The features of '{self.slide_id}' were imported without coordinates. Convert them again with "
                "--coords."
            )
        return self._coords

    @property
    def boxes(self) -> Int64[np.ndarray, "n 4"]:
        """Where each row's tile lies: x y w h in level-0 pixels.

        Raises:
            OutputError: If the file, made by another program, does not say how large a tile is, or where it lies.
        """
        if self._boxes is None:
            _ = self.coords
            raise OutputError(
                f"The features of '{self.slide_id}' do not say how large a tile is on level 0. Add the attribute "
                "patch_size_level0 (pixels) to 'coords'."
            )
        return self._boxes

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return int(self.features.shape[1])

    @property
    def mpp(self) -> float | None:
        """µm per tile pixel; None where nobody knows."""
        value = self.attrs.get("mpp")
        return None if value is None else float(value)

    @property
    def encoder(self) -> str | None:
        """Name of the encoder; None where the file does not say."""
        value = self.attrs.get("encoder")
        return None if value is None else str(value)

    @property
    def n_unreadable(self) -> int:
        """How many tiles have no row because they could not be decoded."""
        return len(self.unreadable)


@dataclass(frozen=True)
class BagContent:
    """Everything of a bag's file but the features themselves.

    Attributes:
        boxes: x y w h of each row's tile, level-0 pixels; None where it is not known.
        rows: Which tile of the source each row is.
        unreadable: Boxes of tiles without a row.
        unreadable_rows: Which tiles of the source they are.
        unreadable_errors: Why they could not be decoded.
        attrs: Attributes of the file.
        coords_attrs: Attributes of ``coords``, beside ``patch_size_level0`` which follows from the boxes.
        coords: Top-left corners, where they are known and the boxes are not.
        columns: What else is known of each row, by name; numbers or text.
    """

    boxes: Int64[np.ndarray, "n 4"] | None
    rows: Int64[np.ndarray, " n"]
    unreadable: Int64[np.ndarray, "m 4"]
    unreadable_rows: Int64[np.ndarray, " m"]
    unreadable_errors: tuple[str, ...]
    attrs: Mapping[str, Plain]
    coords_attrs: Mapping[str, Plain] = field(default_factory=dict)
    coords: Int64[np.ndarray, "n 2"] | None = None
    columns: Mapping[str, Shaped[np.ndarray, "n ..."]] = field(default_factory=dict)


def write_bag_file(
    path: Path, content: BagContent, blocks: Iterable[Float[np.ndarray, "_ d"]], *, dim: int, dtype: str
) -> None:
    """Write a bag's file, in place: give it a temporary path.

    Args:
        path: Where to write.
        content: Everything but the features.
        blocks: The features, some rows at a time, in order; as many rows in all as ``content.rows``.
        dim: Length of a feature vector.
        dtype: ``float32`` or ``float16``.

    Raises:
        OSError: If the system refuses to write.
    """
    n = len(content.rows)
    checksum, start = 0, 0
    with LateErrorFile(path) as raw:
        with h5py.File(raw, "w") as file:
            features = file.create_dataset("features", shape=(n, dim), dtype=dtype)
            for block in blocks:
                rows = np.ascontiguousarray(block, dtype=dtype)
                features[start : start + len(rows)] = rows
                raw.check()
                checksum = zlib.crc32(rows.tobytes(), checksum)
                start += len(rows)
            if start != n:
                raise CorruptOutputError(f"'{path}': {start} rows of features came for {n} tiles. Run again.")
            _write_tables(file, content)
            file.attrs.update({**content.attrs, "format": FORMAT, "version": FORMAT_VERSION, _CHECKSUM: checksum})
            offset, n_bytes = features.id.get_offset() or 0, features.size * features.dtype.itemsize
        raw.check()
    seal_file(path, offset, n_bytes)


def _write_tables(file: h5py.File, content: BagContent) -> None:
    boxes, corners = content.boxes, content.coords if content.boxes is None else content.boxes[:, :2]
    if corners is not None:
        coords = file.create_dataset("coords", data=corners)
        coords.attrs.update({**({} if boxes is None else _side_attributes(boxes)), **content.coords_attrs})
    if boxes is not None and len(np.unique(boxes[:, 2:], axis=0)) > 1:
        file.create_dataset("boxes", data=boxes)
    for name, column in content.columns.items():
        text = column.dtype.kind in "UO"
        data = column.astype(object) if text else column
        file.create_dataset(f"columns/{name}", data=data, dtype=h5py.string_dtype() if text else None)
    file.create_dataset("rows", data=content.rows)
    file.create_dataset("unreadable", data=content.unreadable)
    file.create_dataset("unreadable_rows", data=content.unreadable_rows)
    file.create_dataset(
        "unreadable_errors",
        data=list(content.unreadable_errors),
        dtype=h5py.string_dtype(),
        shape=(len(content.unreadable),),
    )


def _side_attributes(boxes: Int64[np.ndarray, "n 4"]) -> dict[str, Plain]:
    """The common size of the boxes on level 0, where they have one."""
    sizes = np.unique(boxes[:, 2:], axis=0)
    if len(sizes) != 1:
        return {}
    width, height = (int(v) for v in sizes[0])
    return {"patch_size_level0": width if width == height else [width, height]}


def read_bag(path: Path, slide_id: str, *, features_name: str = "features", needs_coords: bool = True) -> Bag:
    """Read a bag's file, of microtome or of another program with CLAM's layout; features stay on the disk.

    Args:
        path: HDF5 file with ``features`` and ``coords``.
        slide_id: Whose features they are.
        features_name: What another program calls the features.
        needs_coords: Whether another program's file must say where tiles lie, in whole pixels.

    Returns:
        The bag. Features of another program's file are checked to be finite; our own were before they were written
        (:func:`check_bag` does it again), and everything but them is checked by its seal. Of another program's
        attributes only numbers and text of fixed length are read.

    Raises:
        MissingOutputError: If nothing is there.
        CorruptOutputError: If the file is truncated, damaged, or has not this layout.
    """
    with _read_explained(path):
        own = is_sealed(path)
        if own and not seal_holds(path):
            raise _corrupt(path, "it is damaged, or was changed after it was written")
    with _read_explained(path), h5py.File(path, "r", locking=False) as file:
        if not own and _CHECKSUM in file.attrs:
            raise _corrupt(path, "it is truncated, or was changed after it was written")
        features, where = _find_features(path, file, features_name)
        n, attrs = where.shape[0], _plain_attributes(file, own=own)
        coords = boxes = None
        if "coords" in file or (needs_coords and not own):
            attrs.update(_plain_attributes(file["coords"], own=own))
            if needs_coords or file["coords"].dtype.kind in "iu":
                coords = _read_coords(path, file, n)
                boxes = _read_boxes(path, file, coords, attrs)
        lost = _read_unreadable(path, file, n) if own else {"unreadable": np.zeros((0, 4), np.int64)}
        columns = _read_columns(path, file, n) if own and "columns" in file else {}
    if features is None:
        features = np.memmap(path, mode="r", dtype=where.dtype, shape=where.shape, offset=where.offset)
    if not own:
        _check_finite(path, features)
    return Bag(slide_id, features, coords, boxes, attrs=attrs, columns=columns, **lost)


def check_bag(path: Path, bag: Bag) -> None:
    """Read all features once and compare them with what was written.

    Raises:
        CorruptOutputError: If they are not finite, or not those that were written.
    """
    _check_finite(path, bag.features)
    checksum = 0
    for block in _blocks(bag.features):
        checksum = zlib.crc32(np.ascontiguousarray(block).tobytes(), checksum)
    expected = bag.attrs.get(_CHECKSUM)
    if expected is not None and int(expected) != checksum:
        raise _corrupt(path, "its features are not those that were written (checksum)")


@dataclass(frozen=True, slots=True)
class _Where:
    """Where a contiguous dataset lies in its file."""

    offset: int
    shape: tuple[int, int]
    dtype: np.dtype[Any]


def _find_features(path: Path, file: h5py.File, name: str) -> tuple[Float[np.ndarray, "n d"] | None, _Where]:
    """Locate the features; those that cannot be memory-mapped (chunked, compressed, empty) come as an array."""
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise _corrupt(path, f"'{name}' is a group")
    shape = dataset.shape
    if shape is not None and len(shape) == 3 and shape[0] == 1:  # some programs keep the batch axis
        shape = shape[1:]
    if shape is None or len(shape) != 2 or shape[1] < 1:
        raise _corrupt(path, f"'{name}' has shape {dataset.shape} and not (tiles, length)")
    if dataset.dtype.kind != "f":
        raise _corrupt(path, f"'{name}' holds {dataset.dtype} and not floating-point numbers")
    offset, native = dataset.id.get_offset(), dataset.dtype.newbyteorder("=")
    where = _Where(offset or 0, (int(shape[0]), int(shape[1])), native)
    if offset is None or dataset.dtype != native:
        features = dataset[()].reshape(where.shape).astype(native, copy=False)
        features.flags.writeable = False
        return features, where
    if offset + dataset.size * dataset.dtype.itemsize > path.stat().st_size:
        raise _corrupt(path, "it ends before its features do")
    return None, where


def _read_coords(path: Path, file: h5py.File, n: int) -> Int64[np.ndarray, "n 2"]:
    coords = file["coords"][()]
    if coords.ndim == 3 and coords.shape[0] == 1:
        coords = coords[0]
    if coords.shape != (n, 2) or coords.dtype.kind not in "iu":
        raise _corrupt(path, f"'coords' is {coords.dtype} {coords.shape} and not whole numbers ({n}, 2)")
    whole: Int64[np.ndarray, "n 2"] = coords.astype(np.int64, copy=False)
    return whole


def _read_boxes(
    path: Path, file: h5py.File, coords: Int64[np.ndarray, "n 2"], attrs: Mapping[str, Any]
) -> Int64[np.ndarray, "n 4"] | None:
    if "boxes" in file:
        boxes: Int64[np.ndarray, "n 4"] = file["boxes"][()]
        if boxes.shape != (len(coords), 4) or boxes.dtype.kind not in "iu":
            raise _corrupt(path, f"'boxes' is {boxes.dtype} {boxes.shape} and not whole numbers ({len(coords)}, 4)")
        return boxes.astype(np.int64, copy=False)
    side = attrs.get("patch_size_level0")
    if side is None and attrs.get("patch_level") == 0:
        side = attrs.get("patch_size")
    if side is None:
        return None if len(coords) else np.zeros((0, 4), np.int64)
    sides = np.broadcast_to(np.asarray(side, np.int64), (len(coords), 2))
    return np.concatenate([coords, sides], axis=1)


def _read_unreadable(path: Path, file: h5py.File, n: int) -> dict[str, Any]:
    """What a bag says of its rows' tiles and of those without a row."""
    boxes, rows, lost = file["unreadable"][()], file["rows"][()], file["unreadable_rows"][()]
    errors = tuple(file["unreadable_errors"].asstr()[()]) if len(boxes) else ()
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not len(errors) == len(boxes) == len(lost) or rows.shape != (n,):
        raise _corrupt(path, "its tables have different lengths")
    return {
        "unreadable": boxes.astype(np.int64, copy=False),
        "unreadable_errors": errors,
        "unreadable_rows": lost.astype(np.int64, copy=False),
        "rows": rows.astype(np.int64, copy=False),
    }


def _read_columns(path: Path, file: h5py.File, n: int) -> dict[str, Shaped[np.ndarray, "n ..."]]:
    columns: dict[str, Shaped[np.ndarray, "n ..."]] = {}
    for name, dataset in file["columns"].items():
        text = h5py.check_string_dtype(dataset.dtype) is not None
        columns[name] = dataset.asstr()[()] if text else dataset[()]
        if len(columns[name]) != n:
            raise _corrupt(path, "its tables have different lengths")
    return columns


def _plain_attributes(thing: h5py.File | h5py.Dataset, *, own: bool) -> dict[str, Any]:
    """Attributes as plain values; not those of variable length where no seal vouches for the file.

    HDF5 follows pointers for these, and one that is damaged takes the interpreter with it.
    """
    names = (name for name in thing.attrs if own or thing.attrs.get_id(name).dtype.kind in "iufbS")
    return {name: _plain(thing.attrs[name]) for name in names}


def _plain(value: Any) -> Any:  # noqa: ANN401 - an attribute of HDF5 can be anything
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value.tolist()]
    if isinstance(value, np.generic):
        value = value.item()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _blocks(features: Float[np.ndarray, "n d"]) -> Iterator[Float[np.ndarray, "_ d"]]:
    step = max(1, _BLOCK_BYTES // max(1, features.shape[1] * features.dtype.itemsize))
    for start in range(0, len(features), step):
        yield features[start : start + step]


def _check_finite(path: Path, features: Float[np.ndarray, "n d"]) -> None:
    for block in _blocks(features):
        if not np.isfinite(block).all():
            raise _corrupt(path, "its features hold NaN or infinity")


@contextmanager
def _read_explained(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise MissingOutputError(f"There are no features at '{path}'. Extract them first.") from error
    except CorruptOutputError:
        raise
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise _corrupt(path, "this user may not read it") from error
        raise _corrupt(path, "it is truncated or no HDF5 file") from error
    except KeyError as error:
        raise _corrupt(path, f"a part is missing ({error.args[0]})") from error
    except (
        ValueError,
        TypeError,
        RuntimeError,
        AttributeError,
        IndexError,
        OverflowError,
        MemoryError,
    ) as error:
        raise _corrupt(path, f"it cannot be understood ({error})") from error


def _corrupt(path: Path, reason: str) -> CorruptOutputError:
    return CorruptOutputError(
        f"The features at '{path}' cannot be used: {reason}. Delete the file, or pass --overwrite, and extract again."
    )
