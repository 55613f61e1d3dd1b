"""What all tile sources share: checking rows, making the batch, marking what cannot be decoded."""

import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int, Int64, Shaped

from microtome.errors import TileError
from microtome.tiles.source import TileBatch

_S = TypeVar("_S", bound="RandomAccessTiles")


class RandomAccessTiles(ABC):
    """Base of the sources here. A kind of source says what it has and reads checked rows; the rest is here.

    Attributes:
        slide_id: Whose tiles these are.
        boxes: x y w h of each tile, level-0 pixels; read-only.
        tile_shape: Height, width and channels of a tile.
        dtype: dtype of the pixels.
        mpp: µm per tile pixel; None where nobody knows.
    """

    slide_id: str
    boxes: Int[np.ndarray, "n 4"]
    tile_shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    mpp: float | None
    _closed: bool = False

    @property
    @abstractmethod
    def modality(self) -> str:
        """Kind of image: ``brightfield``, ``fluorescence``, ``multichannel``, ``srh``."""

    @property
    @abstractmethod
    def recipe(self) -> Mapping[str, object]:
        """What decides the pixels and their order, flat, for a digest."""

    @abstractmethod
    def _read_into(self, images: Shaped[np.ndarray, "n h w c"], rows: Sequence[int]) -> Mapping[int, str]:
        """Write the tiles of ``rows`` over whatever ``images`` holds, in that order.

        Returns:
            Row → why it could not be decoded; its image is set to zeros afterwards.
        """

    def read(self, rows: Int[np.ndarray, " n"]) -> TileBatch:
        """Read the tiles of these rows, in any order, repeated or not; one that cannot be decoded is marked.

        Args:
            rows: Indices, 0 to ``len(self) - 1``.

        Returns:
            Pixels in the source's own dtype and channels, one per row.

        Raises:
            TileError: If a row does not exist or the source is closed.
        """
        return self.read_into(rows, np.empty((len(rows), *self.tile_shape), self.dtype))

    def read_into(self, rows: Int[np.ndarray, " n"], images: Shaped[np.ndarray, "n h w c"]) -> TileBatch:
        """The same into memory of the caller's, whatever it holds.

        Args:
            rows: Indices, 0 to ``len(self) - 1``.
            images: Takes the pixels; of the source's shape and dtype.

        Returns:
            The batch, of which ``images`` are the pixels.

        Raises:
            TileError: If a row does not exist, the memory is of another shape or dtype, or the source is closed.
        """
        self._check(rows, images)
        errors = dict(self._read_into(images, [operator.index(row) for row in rows]))
        readable = np.array([int(row) not in errors for row in rows], np.bool_)
        if errors:
            images[~readable] = 0
        return TileBatch(images=images, rows=rows, readable=readable, errors=errors)

    def _check(self, rows: Int[np.ndarray, " n"], images: Shaped[np.ndarray, "n h w c"]) -> None:
        if self._closed:
            raise TileError(f"The tiles of '{self.slide_id}' were closed. Open them again to read.")
        outside = np.flatnonzero((rows < 0) | (rows >= len(self)))
        if len(outside):
            raise TileError(
                f"The tiles of '{self.slide_id}' have rows 0 to {len(self) - 1}. Got row {int(rows[outside[0]])}."
            )
        wanted = (len(rows), *self.tile_shape)
        if images.shape != wanted or images.dtype != self.dtype:
            raise TileError(
                f"The tiles of '{self.slide_id}' are {self.dtype} {wanted}. Got memory for {images.dtype} "
                f"{images.shape}."
            )

    def __len__(self) -> int:
        return len(self.boxes)

    def close(self) -> None:
        """Let go of files; reading afterwards raises."""
        self._closed = True

    def __enter__(self: _S) -> _S:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} '{self.slide_id}' {len(self)} tiles of {self.tile_shape} {self.dtype}>"


def frozen_boxes(boxes: Int[np.ndarray, "n 4"]) -> Int64[np.ndarray, "n 4"]:
    """A copy of a table of boxes that nobody can write to."""
    copy = np.array(boxes, np.int64)
    copy.flags.writeable = False
    return copy
