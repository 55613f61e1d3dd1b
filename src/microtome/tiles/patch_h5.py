"""Patches stored in HDF5 by CLAM's older tools: ``imgs`` (N, h, w, 3) and ``coords`` (N, 2)."""

import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Int64, Shaped

from microtome.errors import NoTilesError, TileError
from microtome.tiles.images import fingerprint
from microtome.tiles.random_access import RandomAccessTiles, frozen_boxes


class PatchH5(RandomAccessTiles):
    """The patches of one slide in CLAM's older HDF5 layout.

    ``coords`` are in pixels of the level that the patches were read from; the attribute ``downsample`` of
    ``imgs`` brings them to level 0. Rows are in the file's own order. Any dtype and number of channels is
    given as stored.

    Args:
        path: The HDF5 file; its stem is the slide_id unless one is given.
        slide_id: Whose patches these are.
        mpp: µm per pixel of the patches, if known.
        modality: Kind of image; ``brightfield`` needs 8-bit RGB.
        downsample: Level-0 pixels per patch pixel, for files that do not say it.

    Raises:
        NoTilesError: If there is no patch.
        TileError: If the file cannot be read, lacks a part, or its parts contradict each other or the
            arguments.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        slide_id: str | None = None,
        mpp: float | None = None,
        modality: str = "brightfield",
        downsample: float | None = None,
    ) -> None:
        self.path = Path(path).absolute()
        self.slide_id = self.path.stem if slide_id is None else slide_id
        self.mpp = mpp
        self._modality = modality
        self._file: h5py.File | None = None
        self._lock = threading.Lock()
        try:
            with h5py.File(self.path, "r") as file:
                shape, self.dtype, coords, scale = self._inspect(file, downsample)
        except (OSError, KeyError, RuntimeError) as error:
            raise TileError(f"Patches '{self.path}' cannot be read: {error}. They need imgs and coords.") from error
        self.tile_shape = shape
        self.boxes = _boxes(coords, scale, shape)
        if modality == "brightfield" and (self.dtype != np.uint8 or shape[2] != 3):
            raise TileError(
                f"Patches '{self.path}' have {shape[2]} channel(s) of {self.dtype}, not 8-bit RGB. Say what "
                "they are with modality=."
            )

    def _inspect(
        self, file: h5py.File, downsample: float | None
    ) -> tuple[tuple[int, int, int], np.dtype[Any], np.ndarray, np.ndarray]:
        images, coords = file["imgs"], file["coords"][:]
        if images.ndim != 4 or coords.shape != (len(images), 2):
            raise TileError(
                f"Patches '{self.path}': imgs must have shape (N, h, w, channels) and coords (N, 2). Got "
                f"{images.shape} and {coords.shape}."
            )
        if len(images) == 0:
            raise NoTilesError(f"'{self.path}' holds no patch.")
        stored = images.attrs.get("downsample")
        if stored is None and downsample is None:
            raise TileError(
                f"Patches '{self.path}' do not say which level they were read from (attribute downsample of "
                "imgs). Pass downsample= (level-0 pixels per patch pixel; 1 for level 0)."
            )
        scale = np.broadcast_to(np.asarray(downsample if stored is None else stored, np.float64), (2,))
        if downsample is not None and not np.allclose(scale, downsample, rtol=1e-3):
            raise TileError(
                f"Patches '{self.path}' say a downsample of {scale.tolist()}, but {downsample:g} was given. "
                "Leave it out."
            )
        height, width, channels = (int(n) for n in images.shape[1:])
        return (height, width, channels), images.dtype, coords, scale

    @property
    def modality(self) -> str:
        """Kind of image, as declared on opening."""
        return self._modality

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint([self.path], root=self.path.parent)

    @property
    def recipe(self) -> Mapping[str, object]:
        """The file's content, boxes and what was declared of them."""
        return {
            "tile_files": self._fingerprint,
            "tile_boxes": self.boxes,
            "tile_size_px": [self.tile_shape[1], self.tile_shape[0]],
            "tile_mpp": self.mpp,
            "tile_modality": self._modality,
        }

    def close(self) -> None:
        """Close the file; reading afterwards raises."""
        super().close()
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _read_into(self, images: Shaped[np.ndarray, "n h w c"], rows: Sequence[int]) -> Mapping[int, str]:
        errors: dict[int, str] = {}
        with self._lock:  # one handle per process: the HDF5 library serves one thread at a time anyway
            if self._file is None:
                self._file = h5py.File(self.path, "r")
            stored = self._file["imgs"]
            for position, row in enumerate(rows):
                try:
                    images[position] = stored[row]
                except (OSError, RuntimeError) as error:
                    images[position] = 0
                    errors[row] = f"Patch {row} of '{self.path.name}' cannot be decoded: {error}"
        return errors

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_file", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._file = None
        self._lock = threading.Lock()


def _boxes(coords: np.ndarray, scale: np.ndarray, shape: tuple[int, int, int]) -> Int64[np.ndarray, "n 4"]:
    """Patch-level corners as level-0 boxes."""
    sides = np.rint(np.array([shape[1], shape[0]]) * scale).astype(np.int64)
    corners = np.rint(coords * scale).astype(np.int64)
    return frozen_boxes(np.column_stack([corners, np.broadcast_to(sides, corners.shape)]))
