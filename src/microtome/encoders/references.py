"""Vectors to compare with: those that others ship with a tile, and those that this machine has recorded.

Others' vectors lie in a folder with a ``references.json``: a list of entries such as ::

    {"encoder": "gigapath", "tile": "prov_normal_000_1.png", "vector": "prov_normal_000_1.npy",
     "source": "the repository of prov-gigapath", "tolerance": 0.01}

``vector`` is a ``.npy`` (one vector, or one row), a ``.json`` list of numbers, or a ``.pt`` that holds one tensor.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped, UInt8

import microtome
from microtome.encoders.base import Card, Encoder
from microtome.encoders.check_tiles import TILES_RULE
from microtome.encoders.compiled_cache import cache_folder
from microtome.encoders.filled import FILL_RULE
from microtome.encoders.weights import folder_name
from microtome.errors import CorruptOutputError, WeightsError
from microtome.storage import now_utc, write_json

TOLERANCE = 0.01
"""Largest distance of a vector from its reference, as a share of the reference's length, where none is given."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What an encoder gives for a tile, as somebody else found.

    Attributes:
        tile: 8-bit RGB, (h, w, 3).
        vector: (d,).
        source: Who found it.
        tolerance: Largest distance from it, as a share of its length.
    """

    tile: UInt8[np.ndarray, "h w 3"]
    vector: Float32[np.ndarray, " d"]
    source: str
    tolerance: float = TOLERANCE


@dataclass(frozen=True, slots=True)
class Record:
    """What an encoder gave for the check's tiles when it was first checked here.

    Attributes:
        vectors: (6, d), in fp32.
        weights_sha256: Of the weights.
        card: Its card then.
        made: When and with what, in words.
    """

    vectors: Float32[np.ndarray, "n d"]
    weights_sha256: str
    card: Mapping[str, Any]
    made: str


def read_references(folder: Path, encoder: str) -> list[Reference]:
    """The reference vectors of an encoder in a folder with ``references.json``.

    Raises:
        WeightsError: If the folder has none for it, or one cannot be read.
    """
    listed = folder / "references.json"
    try:
        entries = [entry for entry in json.loads(listed.read_text(encoding="utf-8")) if entry["encoder"] == encoder]
        found = [_read_reference(folder, entry) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"'{listed}' does not give reference vectors: {type(error).__name__}: {error}. It must list entries with "
            "encoder, tile, vector, source and, if need be, tolerance."
        ) from error
    if not found:
        raise WeightsError(f"'{listed}' has no reference vector of encoder '{encoder}'. Check the name.")
    return found


def _read_reference(folder: Path, entry: Mapping[str, Any]) -> Reference:
    from PIL import Image

    with Image.open(folder / str(entry["tile"])) as image:
        tile = np.asarray(image.convert("RGB"))
    vector = _read_vector(folder / str(entry["vector"]))
    return Reference(tile, vector, str(entry["source"]), float(entry.get("tolerance", TOLERANCE)))


def _read_vector(path: Path) -> Float32[np.ndarray, " d"]:
    if path.suffix == ".npy":
        values: Shaped[np.ndarray, "..."] = np.load(path, allow_pickle=False)
    elif path.suffix == ".json":
        values = np.asarray(json.loads(path.read_text(encoding="utf-8")))
    elif path.suffix == ".pt":
        import torch

        values = torch.load(path, map_location="cpu", weights_only=True).float().numpy()
    else:
        raise ValueError(f"{path.name} is no .npy, .json or .pt")
    vector = np.ascontiguousarray(values, dtype=np.float32).squeeze()
    if vector.ndim != 1 or not np.isfinite(vector).all():
        raise ValueError(f"{path.name} holds {vector.shape} and not one finite vector")
    return vector


def record_path(encoder: Encoder) -> Path:
    """Where the record of an encoder with its weights lies, beside the weights that microtome downloads.

    Weights filled by rule are recorded under the rule's name: a network with other tensors would be filled otherwise,
    and that is just what is to be found out.
    """
    weights = FILL_RULE if encoder.weights_origin == "filled" else encoder.weights_hash[:16]
    name = folder_name(encoder.card) + _variant(encoder.card)
    return cache_folder() / "weights" / "checks" / f"{name}-{weights}.json"


def _variant(card: Card) -> str:
    _, colon, variant = card.name.partition(":")
    return "" if not colon or card.name.startswith(("timm:", "hf-hub:")) else "." + re.sub(r"[^\w.+=,-]", "_", variant)


def read_record(path: Path) -> Record | None:
    """A record; None where nothing was recorded yet, or by another rule of tiles.

    Raises:
        CorruptOutputError: If it cannot be read.
    """
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        if said["tiles"] != TILES_RULE:
            return None
        vectors = np.array(said["vectors"], dtype=np.float32)
        return Record(vectors, str(said["weights_sha256"]), dict(said["card"]), str(said["made"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptOutputError(
            f"'{path}' cannot be read: {type(error).__name__}: {error}. Delete it: the next check records it anew."
        ) from error


def write_record(path: Path, encoder: Encoder, vectors: Float32[np.ndarray, "n d"]) -> None:
    """Record what an encoder gave."""
    made = f"{now_utc()}, microtome {microtome.__version__}, torch {version('torch')}, {encoder.device}"
    write_json(
        path,
        {
            "encoder": encoder.card.name,
            "weights_sha256": encoder.weights_hash,
            "card": asdict(encoder.card),
            "tiles": TILES_RULE,
            "made": made,
            "vectors": [[float(f"{value:.7g}") for value in row] for row in vectors],
        },
    )
