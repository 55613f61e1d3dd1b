"""``<slide_id>.safetensors``: features, coordinates and all else as tensors; attributes and text as metadata."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from microtome.errors import CorruptOutputError, MissingOutputError
from microtome.features.formats.format import Format
from microtome.features.formats.hub import blocks
from microtome.features.formats.table import FeatureTable, Part
from microtome.storage import written_whole

_MARK = "microtome-features"
_CHECKSUM = "features_crc32"
_OPTIONAL = ("boxes", "coords", "rows", "unreadable", "unreadable_rows")


def write(path: Path, table: FeatureTable) -> None:
    """Write all that the table holds.

    Raises:
        OutputWriteError: If it cannot be written.
    """
    tensors = {"features": np.ascontiguousarray(table.features)}
    tensors |= {name: array for name in _OPTIONAL if (array := getattr(table, name)) is not None}
    if table.boxes is not None:
        tensors["coords"] = table.boxes[:, :2]
    text = {name: column.tolist() for name, column in table.columns.items() if column.dtype.kind in "UO"}
    tensors |= {f"columns/{name}": column for name, column in table.columns.items() if name not in text}
    described = {
        "slide_id": table.slide_id,
        "attrs": {**table.attrs, _CHECKSUM: _checksum(table.features)},
        "text": text,
        "unreadable_errors": list(table.unreadable_errors),
    }
    metadata = {_MARK: json.dumps(described, sort_keys=True)}  # one entry: the library writes several in any order
    with written_whole(path) as temporary:
        save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, temporary, metadata)


def read(path: Path, slide_id: str) -> FeatureTable:
    """Read a file of ours, or one of another program: its ``features``, or else its only table of numbers.

    Raises:
        MissingOutputError: If nothing is there.
        CorruptOutputError: If it is truncated, its parts do not fit each other, or it holds NaN.
    """
    try:
        with safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            metadata = file.metadata() or {}
        table = _table(slide_id, tensors, metadata)
        table.check()
    except FileNotFoundError as error:
        raise MissingOutputError(f"There are no features at '{path}'.") from error
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptOutputError(f"'{path}' cannot be used as features: {error}.") from error
    return table


def _table(slide_id: str, tensors: dict[str, Shaped[np.ndarray, "..."]], metadata: Mapping[str, str]) -> FeatureTable:
    if "features" not in tensors:
        tables = [name for name, tensor in tensors.items() if tensor.ndim == 2 and tensor.dtype.kind == "f"]
        if len(tables) != 1:
            raise ValueError(f"it has no tensor 'features', but {', '.join(sorted(tensors)) or 'nothing'}")
        tensors["features"] = tensors.pop(tables[0])
    features = tensors.pop("features")
    if features.ndim != 2 or features.shape[1] < 1 or features.dtype.kind != "f":
        raise ValueError(f"'features' is {features.dtype} {features.shape} and not numbers (tiles, length)")
    if not np.isfinite(features).all():
        raise ValueError("its features hold NaN or infinity")
    described: dict[str, Any] = json.loads(metadata.get(_MARK, "{}"))
    attrs = described.get("attrs", {})
    if attrs.get(_CHECKSUM, _checksum(features)) != _checksum(features):
        raise ValueError("its features are not those that were written (checksum)")
    columns = {name.removeprefix("columns/"): tensor for name, tensor in tensors.items() if name.startswith("columns/")}
    columns |= {name: np.array(column, object) for name, column in described.get("text", {}).items()}
    parts = {name: _whole(name, tensors[name]) for name in _OPTIONAL if name in tensors}
    if "boxes" in parts:
        parts.pop("coords", None)
    known = {*_OPTIONAL, *(f"columns/{name}" for name in columns)}
    return FeatureTable(
        slide_id,
        features,
        columns=columns,
        attrs=attrs,
        unreadable_errors=tuple(described.get("unreadable_errors", ())),
        notes=tuple(f"'{name}' was not read" for name in sorted(tensors) if name not in known),
        **parts,
    )


def _checksum(features: Float[np.ndarray, "n d"]) -> int:
    checksum = 0
    for block in blocks(features):
        checksum = zlib.crc32(np.ascontiguousarray(block).tobytes(), checksum)
    return checksum


def _whole(name: str, tensor: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    width = {"boxes": 4, "unreadable": 4, "coords": 2}.get(name)
    shaped = tensor.ndim == 1 if width is None else tensor.ndim == 2 and tensor.shape[1] == width
    if tensor.dtype.kind not in "iu" or not shaped:
        raise ValueError(f"'{name}' is {tensor.dtype} {tensor.shape}")
    return tensor.astype(np.int64)


SAFETENSORS = Format(
    name="safetensors",
    made_by="microtome",
    layout="{slide_id}.safetensors",
    holds=frozenset(Part),
    dtypes=("float32", "float16"),
    default_dtype=None,
    read=read,
    write=write,
)
