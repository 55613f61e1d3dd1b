"""Features in HistoSSL's folders: ``features.npy`` of slides, ``tile_features.npy`` and ``tile_ids.npy`` of tile sets.

What extraction writes batch by batch becomes the ``.npy`` file itself; there is no second copy. Beside it stands
``extraction_params.json``, which says what decided the features, and which tiles have no row because they could not
be decoded. The params are written first and say the size and checksum of the ``.npy``, so features that are there
under their name are whole, and it is known how they were made. A ``.npy`` without such params is somebody else's.
"""

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, Shaped

from microtome.errors import ConfigError, CorruptOutputError, MissingOutputError
from microtome.features.bag import Bag, BagContent, Plain
from microtome.features.formats.histossl import FEATURES_NPY
from microtome.features.formats.tiles_npy import TILE_FEATURES, TILE_IDS
from microtome.features.store import FeatureStore
from microtome.features.writer import BagPlan, BagWriter
from microtome.storage import digest, safe_name, write_json, written_whole
from microtome.storage.pickles import read_npy

SLIDES, TILE_SETS = "slides_classification", "tiles_classification"
PARAMS = {FEATURES_NPY: "extraction_params.json", TILE_FEATURES: "rlbenchmarks_extraction_params.json"}
_HEAD_COLUMNS = {FEATURES_NPY: 3, TILE_FEATURES: 0}  # what stands before the features


def slide_features_path(root: Path, encoder: str, folder: Path) -> Path:
    """Where HistoSSL has the features of a slide.

    Args:
        root: Folder ``preprocessed``.
        encoder: The encoder's name; ``/`` and ``:`` become ``-``.
        folder: The slide's folder below ``coords_<side>``, such as ``TCGA/TCGA_COAD/<file name>``.
    """
    return root / SLIDES / "features" / _slug(encoder) / folder / FEATURES_NPY


def tile_features_path(root: Path, encoder: str, name: str) -> Path:
    """Where HistoSSL has the features of a set of tiles; arguments as in :func:`slide_features_path`."""
    return root / TILE_SETS / "features" / _slug(encoder) / safe_name(name, what="Name of tiles") / TILE_FEATURES


class HistoSSLStore(FeatureStore):
    """Features in HistoSSL's layout, for extraction to write and look at: ``slide_id`` → ``.npy``.

    Args:
        root: Folder ``preprocessed``.
        paths: Where each slide's or tile set's features go: :func:`slide_features_path`, :func:`tile_features_path`.

    References:
        HistoSSL (73f1d19), specification section 2. Deviations: a tile that could not be decoded has no row, and the
        params say so; names of tiles are an array of text instead of pickled objects.
    """

    def __init__(self, root: Path, paths: Mapping[str, Path]) -> None:
        super().__init__(root)
        self._paths = dict(paths)

    def path(self, slide_id: str) -> Path:
        """Where a slide's features are, or will be.

        Raises:
            ConfigError: If the slide is none of those that the store was made for.
        """
        if slide_id not in self._paths:
            raise ConfigError(f"This store was made without a place for the features of {slide_id!r}.")
        return self._paths[slide_id]

    def __getitem__(self, slide_id: str) -> Bag:
        """Open features; they stay on the disk. Errors as in :class:`FeatureStore`."""
        path = self.path(slide_id)
        if not path.is_file():
            raise MissingOutputError(f"There are no features at '{path}'. Extract them first.")
        features, columns = _read_array(path)
        params = _read_params(path, features)
        lost = params.get("unreadable", [])
        return Bag(
            slide_id,
            features,
            None,
            None,
            np.zeros((len(lost), 4), np.int64),
            params.get("microtome", {}),
            unreadable_errors=tuple(str(tile["error"]) for tile in lost),
            columns=columns,
        )

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(slide_id for slide_id, path in self._paths.items() if path.is_file()))

    def check(self, slide_id: str) -> None:
        """Read a whole file and compare it with its checksum; errors as in :class:`FeatureStore`."""
        path = self.path(slide_id)
        params = _read_params(path, self[slide_id].features)
        if "features" in params and _checksum(path) != params["features"]["crc32"]:
            raise _corrupt(path, "it is not what was written")

    def create(self, slide_id: str, plan: BagPlan) -> BagWriter:
        """Begin, or go on with, writing; as in :class:`FeatureStore`.

        Raises:
            ConfigError: If the features are not float32, or the tiles have neither addresses nor names.
        """
        path = self.path(slide_id)
        needed = "name" if path.name == TILE_FEATURES else "deepzoom_address"
        if plan.dtype != "float32" or needed not in plan.columns:
            raise ConfigError(f"'{path.name}' holds float32 features of tiles with a {needed}. Choose another layout.")
        return _NpyWriter(path, plan)

    def write(
        self,
        slide_id: str,
        features: Float[np.ndarray, "n d"],
        boxes: Int64[np.ndarray, "n 4"],
        *,
        recipe: Mapping[str, object],
        attrs: Mapping[str, Plain] | None = None,
    ) -> Path:
        """Refused: boxes say no DeepZoom address. Extract into the store, or convert a store."""
        raise ConfigError("Features with boxes are not written in HistoSSL's layout. Use `microtome convert`.")


class _NpyWriter(BagWriter):
    """Seals batches into a ``.npy`` with its params, and the names of tiles where they have no place."""

    def _write(self, content: BagContent, blocks: Iterator[Float[np.ndarray, "_ d"]]) -> None:
        head = np.zeros((len(content.rows), 0), np.float32)
        if self.path.name == FEATURES_NPY:
            head = content.columns["deepzoom_address"].astype(np.float32)
        with written_whole(self.path) as temporary:
            _write_array(temporary, head, blocks, dim=self.plan.dim)
            params = self._params(content, _checksum(temporary))
            self.path.unlink(missing_ok=True)  # else it would stand beside params that are not its own
            if self.path.name == TILE_FEATURES:
                _write_names(self.path.with_name(TILE_IDS), content.columns["name"])
            write_json(self.path.with_name(PARAMS[self.path.name]), params)

    def _params(self, content: BagContent, checksum: int) -> dict[str, object]:
        """What HistoSSL's file tells a person, then what this program needs."""
        attrs = content.attrs
        lost = np.searchsorted(self.plan.rows, content.unreadable_rows)
        names = next(column for name, column in self.plan.columns.items() if name in ("deepzoom_address", "name"))
        return {
            "feature_extractor": attrs.get("encoder"),
            "tile_size": self.plan.coords_attrs.get("patch_size"),
            "n_tiles": attrs.get("sample_n_tiles"),
            "seed": attrs.get("sample_seed"),
            "features": {"rows": len(content.rows), "dim": self.plan.dim, "crc32": checksum},
            "unreadable": [
                {"tile": name, "error": error}
                for name, error in zip(names[lost].tolist(), content.unreadable_errors, strict=True)
            ],
            "microtome": dict(attrs),
        }


def _write_array(
    path: Path, head: Float[np.ndarray, "n k"], blocks: Iterator[Float[np.ndarray, "_ d"]], *, dim: int
) -> None:
    n, start = len(head), 0
    with path.open("wb") as file:
        shape = (n, head.shape[1] + dim)
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for block in blocks:
            rows = np.concatenate([head[start : start + len(block)], block], axis=1)
            file.write(rows.astype("<f4").tobytes())
            start += len(block)
    if start != n:
        raise CorruptOutputError(f"'{path}': {start} rows of features came for {n} tiles. Run again.")


def _write_names(path: Path, names: Shaped[np.ndarray, " n"]) -> None:
    text = names.astype(np.str_) if len(names) else np.zeros(0, "<U1")
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array(file, text, version=(1, 0), allow_pickle=False)


def _read_array(path: Path) -> tuple[Float[np.ndarray, "n d"], dict[str, Shaped[np.ndarray, "n ..."]]]:
    """The features, memory-mapped, and the names of tiles; no page of the features is read."""
    head = _HEAD_COLUMNS[path.name]
    try:
        array = read_npy(path)
        names = {} if head else {"name": read_npy(path.with_name(TILE_IDS))}
    except FileNotFoundError as error:
        raise _corrupt(path, f"'{error.filename}' is not there") from error
    except CorruptOutputError as error:
        raise _corrupt(path, str(error)) from error
    if array.ndim != 2 or array.shape[1] <= head or array.dtype != np.float32:
        raise _corrupt(path, f"it is {array.dtype} {array.shape} and not float32 (tiles, {head} + length)")
    if any(len(column) != len(array) for column in names.values()):
        raise _corrupt(path, f"'{TILE_IDS}' beside it has another length")
    return array[:, head:], names


def _read_params(path: Path, features: Float[np.ndarray, "n d"]) -> dict[str, Any]:
    """What stands beside the features; nothing where it is not ours."""
    try:
        params = json.loads(path.with_name(PARAMS[path.name]).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise _corrupt(path, f"what stands beside it cannot be read ({error})") from error
    if not isinstance(params, dict) or "microtome" not in params:
        return {}
    try:
        own, said = params["microtome"], params["features"]
        lost = [tile["error"] for tile in params["unreadable"]]
        if digest(json.loads(own["recipe"])) != own["recipe_digest"] or not all(
            isinstance(error, str) for error in lost
        ):
            raise _corrupt(path, "what stands beside it was changed")
        shape = (int(said["rows"]), int(said["dim"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _corrupt(path, f"what stands beside it lacks a part ({error})") from error
    if shape != features.shape:
        raise _corrupt(path, f"it has {features.shape[0]} rows of {features.shape[1]}, not {shape[0]} of {shape[1]}")
    return params


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(4 * 1024 * 1024):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _slug(encoder: str) -> str:
    return safe_name(encoder.replace("/", "-").replace(":", "-"), what="folder of features")


def _corrupt(path: Path, reason: str) -> CorruptOutputError:
    return CorruptOutputError(
        f"The features at '{path}' cannot be used: {reason}. Delete the file, or pass --overwrite, and extract again."
    )
