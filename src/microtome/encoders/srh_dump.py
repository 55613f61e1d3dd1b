"""Saved embeddings of one slide, as FastGlioma's training passes them from stage to stage.

``<folder>/studies/<patient>/<slide>/<patient>.<slide>-<tag>.pt`` is a dict of ``path``, ``labels``, ``embeddings``
(N, 512) and ``coords`` [(row, column)], sorted by coordinate. Several tags of a slide are differently augmented.

References:
    specs FastGlioma section 3, "Embedding dump".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from microtome.encoders.checkpoints import read_checkpoint
from microtome.errors import TileError, WeightsError
from microtome.storage import safe_name, written_whole

_KEYS = ("path", "labels", "embeddings", "coords")


@dataclass(frozen=True, eq=False)
class SrhDump:
    """Vectors of the patches of one slide, and where they lie.

    Attributes:
        embeddings: One row per patch.
        grid: Row and column of each, distinct.
        paths: Of the patches; empty where the file does not say.
        label: Of the slide; empty where the file does not say.
    """

    embeddings: Float32[np.ndarray, "n d"]
    grid: Int64[np.ndarray, "n 2"]
    paths: tuple[str, ...] = ()
    label: str = ""


def dump_path(folder: Path, patient_id: str, slide_id: str, tag: str = "0") -> Path:
    """Where the dump of a slide lies."""
    name = safe_name(f"{patient_id}.{slide_id}-{tag}")
    return folder / "studies" / safe_name(patient_id) / safe_name(slide_id) / f"{name}.pt"


def write_dump(path: Path, dump: SrhDump) -> None:
    """Write a dump, sorted by coordinate.

    Raises:
        OutputWriteError: If it cannot be written.
    """
    order = np.lexsort(dump.grid.T[::-1])
    content = {
        "path": [dump.paths[i] for i in order] if dump.paths else [""] * len(order),
        "labels": [dump.label] * len(order),
        "embeddings": torch.from_numpy(dump.embeddings[order]),
        "coords": [(int(row), int(column)) for row, column in dump.grid[order]],
    }
    with written_whole(path) as temporary:
        torch.save(content, temporary)


def read_dump(path: Path) -> SrhDump:
    """Read a dump; nothing in it is executed.

    Raises:
        WeightsError: If it cannot be read, is no dump, or holds NaN.
        TileError: If two patches lie at one place, or it is empty.
    """
    content = read_checkpoint(path).content
    missing = [key for key in ("embeddings", "coords") if key not in content]
    if missing:
        raise WeightsError(f"'{path}' is no dump of embeddings: it has no {missing[0]!r}. Dumps have {_KEYS}.")
    embeddings, grid = _floats(path, content["embeddings"]), _grid(path, content["coords"])
    if len(grid) != len(embeddings):
        raise WeightsError(f"'{path}' has {len(embeddings)} embeddings at {len(grid)} places. Dump the slide again.")
    if not len(grid):
        raise TileError(f"'{path}' holds no patch: an empty slide has no score. Leave it out.")
    if len(np.unique(grid, axis=0)) != len(grid):
        raise TileError(f"'{path}' has several patches at one place. Dump the slide again.")
    return SrhDump(embeddings, grid, _texts(content.get("path")), _label(content))


def _floats(path: Path, found: Any) -> Float32[np.ndarray, "n d"]:  # noqa: ANN401 - of a file
    if not isinstance(found, Tensor) or found.ndim != 2 or not found.is_floating_point():
        raise WeightsError(f"'{path}': embeddings must be a tensor (N, D) of floats. Dump the slide again.")
    values = found.detach().to(torch.float32).numpy()
    if not np.isfinite(values).all():
        raise WeightsError(f"'{path}' has NaN or infinity among its embeddings. Dump the slide again.")
    return values


def _grid(path: Path, found: Any) -> Int64[np.ndarray, "n 2"]:  # noqa: ANN401 - of a file
    try:
        plain = found.tolist() if isinstance(found, Tensor) else [[int(v) for v in pair] for pair in found]
        return np.array(plain, np.int64).reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"'{path}': coords must be pairs of row and column: {error}. Dump it again.") from error


def _texts(found: Any) -> tuple[str, ...]:  # noqa: ANN401 - of a file
    return tuple(str(text) for text in found) if isinstance(found, Sequence) and not isinstance(found, str) else ()


def _label(content: Mapping[Any, Any]) -> str:
    labels = content.get("labels")
    values = labels.tolist() if isinstance(labels, Tensor) else labels
    distinct = {str(value) for value in values} if isinstance(values, list | tuple) else {str(values or "")}
    return distinct.pop() if len(distinct) == 1 else ""
