"""CLAM's ``pt_files/<slide_id>.pt``: one tensor (N, D), written and read without torch.

The file is a zip: a pickle that names tensors, and each tensor's bytes beside it. The pickle is read by an unpickler
that knows a tensor's parts and nothing else, so that no code in a file is ever run; what is written is the pickle that
``torch.save`` writes.
"""

import io
import math
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from microtome.errors import CorruptOutputError, MicrotomeError, MissingOutputError
from microtome.features.formats.format import Format
from microtome.features.formats.hub import blocks
from microtome.features.formats.table import FeatureTable
from microtome.storage import written_whole
from microtome.storage.pickles import RestrictedUnpickler

_STORAGES = {
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "DoubleStorage": "<f8",
    "BFloat16Storage": "bf16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
}
_STORAGE_OF = {"float32": "FloatStorage", "float16": "HalfStorage"}
_DATE = (1980, 1, 1, 0, 0, 0)  # equal features give equal files


def write(path: Path, table: FeatureTable) -> None:
    """Write the tensor as ``torch.save`` does.

    Raises:
        OutputWriteError: If it cannot be written.
    """
    features, root = table.features, path.stem
    entries = {"byteorder": b"little", "version": b"3\n"}
    with written_whole(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        _put(archive, f"{root}/data.pkl", tensor_pickle(features.shape, _STORAGE_OF[features.dtype.name]))
        _put(archive, f"{root}/byteorder", entries["byteorder"])
        with archive.open(zipfile.ZipInfo(f"{root}/data/0", _DATE), "w", force_zip64=True) as data:
            for block in blocks(features):
                data.write(np.ascontiguousarray(block, features.dtype.newbyteorder("<")).tobytes())
        _put(archive, f"{root}/version", entries["version"])


def _put(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, _DATE), content)


def tensor_pickle(shape: tuple[int, ...], storage: str) -> bytes:
    """The pickle by which ``torch.save`` describes one contiguous tensor on the CPU, whose bytes are entry ``0``.

    Args:
        shape: (N, D).
        storage: torch's name of the storage class, such as ``FloatStorage``.
    """
    rows, columns = shape
    parts = [
        pickle.PROTO + b"\x02",
        pickle.GLOBAL + b"torch._utils\n_rebuild_tensor_v2\n",
        pickle.MARK,
        pickle.MARK + _text("storage") + pickle.GLOBAL + b"torch\n" + storage.encode() + b"\n",
        _text("0") + _text("cpu") + _whole(rows * columns) + pickle.TUPLE + pickle.BINPERSID,
        _whole(0),
        pickle.MARK + _whole(rows) + _whole(columns) + pickle.TUPLE,
        pickle.MARK + _whole(columns) + _whole(1) + pickle.TUPLE,
        pickle.NEWFALSE,
        pickle.GLOBAL + b"collections\nOrderedDict\n" + pickle.EMPTY_TUPLE + pickle.REDUCE,
        pickle.TUPLE + pickle.REDUCE + pickle.STOP,
    ]
    return b"".join(parts)


def _text(text: str) -> bytes:
    return pickle.BINUNICODE + len(text.encode()).to_bytes(4, "little") + text.encode()


def _whole(number: int) -> bytes:
    content = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return pickle.LONG1 + bytes([len(content)]) + content


def read(path: Path, slide_id: str) -> FeatureTable:
    """Read a tensor of features, or a dictionary that holds one as ``features`` beside ``coords``.

    bfloat16 is read as float32, which holds it exactly.

    Raises:
        MissingOutputError: If nothing is there.
        CorruptOutputError: If it is truncated, no such file, of torch before 1.6, names anything but tensors, or
            holds NaN.
    """
    with _explained(path):
        found = read_tensors(path)
        tensors = found if isinstance(found, dict) else {"features": found}
        features = tensors.get("features")
        if not isinstance(features, np.ndarray) or features.dtype.kind != "f":
            raise ValueError("it holds no tensor of features")
        if features.ndim == 3 and features.shape[0] == 1:
            features = features[0]
        if features.ndim != 2 or features.shape[1] < 1:
            raise ValueError(f"its tensor has shape {features.shape} and not (tiles, length)")
        if not np.isfinite(features).all():
            raise ValueError("its features hold NaN or infinity")
        coords, notes = _coords(tensors, len(features))
    return FeatureTable(slide_id, features, coords=coords, notes=notes)


def _coords(tensors: Mapping[str, Any], n: int) -> tuple[Shaped[np.ndarray, "n 2"] | None, tuple[str, ...]]:
    notes = tuple(f"'{name}' was not read" for name in sorted(map(str, tensors)) if name not in ("features", "coords"))
    coords = tensors.get("coords")
    if coords is None:
        return None, notes
    if not isinstance(coords, np.ndarray) or coords.shape != (n, 2) or coords.dtype.kind != "i":
        raise ValueError(f"its coords are not whole numbers ({n}, 2)")
    return coords.astype(np.int64), notes


def read_tensors(path: Path) -> Any:  # noqa: ANN401 - a tensor, or containers of them
    """Read what ``torch.save`` wrote, tensors as arrays; only tensors and plain containers are admitted.

    Raises:
        Exception: Of many kinds, over files that are no such archive.
    """
    path.stat()  # one that is absent is not a wrong one
    if not zipfile.is_zipfile(path):
        raise ValueError(
            "it is no archive of torch 1.6 or later, or truncated; load an older one with torch.load(..., "
            "weights_only=True) and save it again"
        )
    with zipfile.ZipFile(path) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("/data.pkl") or n == "data.pkl"]
        reader = _Reader(archive, name.removesuffix("data.pkl"))
        content = archive.read(name)
        return RestrictedUnpickler(io.BytesIO(content), _ADMITTED, reader.storage).load()


@dataclass(frozen=True)
class _Storage:
    values: Shaped[np.ndarray, " n"]


class _Reader:
    """Gives out the storages of one archive."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self._archive, self._root = archive, root
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("its numbers are big-endian")

    def storage(self, pid: Any) -> _Storage:  # noqa: ANN401 - what the pickle says
        """The values that a persistent id names."""
        kind, dtype, key, _, n = pid
        if kind != "storage" or not isinstance(dtype, str) or not isinstance(key, str) or not isinstance(n, int):
            raise pickle.UnpicklingError("it refers to something other than a tensor's values")
        info = self._archive.getinfo(f"{self._root}data/{key}")
        stored = np.dtype("<u2") if dtype == "bf16" else np.dtype(dtype)
        if info.file_size != n * stored.itemsize:
            raise pickle.UnpicklingError(f"the values of a tensor have {info.file_size} bytes for {n} numbers")
        values = np.frombuffer(self._archive.read(info), stored)
        if dtype == "bf16":
            values = (values.astype("<u4") << 16).view("<f4")
        return _Storage(values)


def _rebuild_tensor(
    storage: object, offset: object, shape: object, stride: object, *_: object
) -> Shaped[np.ndarray, "..."]:
    if not isinstance(storage, _Storage) or not isinstance(shape, tuple) or not isinstance(stride, tuple):
        raise pickle.UnpicklingError("it describes a tensor in an unknown way")
    numbers = (offset, *shape, *stride)
    if len(shape) != len(stride) or not all(type(n) is int and n >= 0 for n in numbers):
        raise pickle.UnpicklingError("it describes a tensor with a shape that cannot be")
    start = int(str(offset))
    last = start + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if math.prod(shape) and last >= len(storage.values):
        raise pickle.UnpicklingError("it describes a tensor larger than its values")
    if not math.prod(shape):
        return np.zeros(shape, storage.values.dtype)
    steps = tuple(step * storage.values.itemsize for step in stride)
    view = np.lib.stride_tricks.as_strided(storage.values[start:], shape, steps, writeable=False)
    return np.asarray(view)


def _rebuild_parameter(data: object, *_: object) -> object:
    return data


def _dict(*_: object) -> dict[object, object]:
    return {}


_ADMITTED: Mapping[tuple[str, str], object] = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("collections", "OrderedDict"): _dict,
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},
}


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise MissingOutputError(f"There are no features at '{path}'.") from error
    except MicrotomeError:
        raise
    except Exception as error:
        raise CorruptOutputError(
            f"'{path}' cannot be used as CLAM features: {error or type(error).__name__}."
        ) from error


CLAM_PT = Format(
    name="clam-pt",
    made_by="CLAM",
    layout="pt_files/{slide_id}.pt",
    holds=frozenset(),
    dtypes=("float32", "float16"),
    default_dtype="float32",
    read=read,
    write=write,
    note="Read and written without torch. `--coords` adds where tiles lie.",
)
