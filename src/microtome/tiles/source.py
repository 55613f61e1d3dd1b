"""Anything that hands out tiles of one slide in a fixed order."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, Shaped


@dataclass(frozen=True, slots=True)
class TileBatch:
    """Some tiles of a source.

    Attributes:
        images: Pixels, the source's own dtype and channels. Where ``readable`` is False they are zeros that
            mean nothing and must not be used.
        rows: Which rows of the source these are, in the order asked for.
        readable: Whether each tile could be decoded.
        errors: Row → why it could not.
    """

    images: Shaped[np.ndarray, "n h w c"]
    rows: Int[np.ndarray, " n"]
    readable: Bool[np.ndarray, " n"]
    errors: Mapping[int, str] = field(default_factory=dict)


@runtime_checkable
class TileSource(Protocol):
    """Tiles of one slide, random access by row, usable from many threads, picklable for other processes."""

    @property
    def slide_id(self) -> str:
        """Whose tiles these are."""
        ...

    @property
    def boxes(self) -> Int[np.ndarray, "n 4"]:
        """Where each tile lies: x y w h in level-0 pixels (of the tile itself where there is no slide)."""
        ...

    @property
    def modality(self) -> str:
        """Kind of image: ``brightfield``, ``fluorescence``, ``multichannel``, ``srh``."""
        ...

    @property
    def tile_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of each tile, in pixels."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy dtype of the pixels."""
        ...

    @property
    def mpp(self) -> float | None:
        """µm per tile pixel, as achieved; None where nobody knows."""
        ...

    @property
    def recipe(self) -> Mapping[str, object]:
        """What decides the pixels and their order, flat, for a digest (boxes, fingerprint, reader, ...)."""
        ...

    def __len__(self) -> int:
        """Number of tiles."""
        ...

    def read(self, rows: Int[np.ndarray, " n"]) -> TileBatch:
        """Read the tiles of these rows. A tile that cannot be decoded is marked, never painted.

        Raises:
            TileError: If a row does not exist.
        """
        ...

    def close(self) -> None:
        """Let go of files; reading afterwards raises."""
        ...
