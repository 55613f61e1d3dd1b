"""Tiles read from a slide."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from microtome.errors import TileError, UnreadableRegionError
from microtome.geometry import Box
from microtome.slides.base import Decode, Fill, Slide
from microtome.slides.direct_cache import TileCache
from microtome.slides.resample import Resample
from microtome.tiles.grid import Tiles
from microtome.tiles.random_access import RandomAccessTiles

_SAME_MPP = 1e-6  # relative


class SlideTiles(RandomAccessTiles):
    """The tiles laid on a slide, as 8-bit RGB, or in the slide's own channels and dtype.

    A slide of 16-bit or many channels that was opened without ``channels`` gives its own channels, and its
    modality is ``multichannel``; every other slide gives RGB.

    Args:
        slide: The open slide; it is closed with the source.
        tiles: What was laid on it.
        slide_id: Whose tiles these are; by default the slide's name.
        fill: What lies outside of the slide: ``white`` or ``black``.
        resample: How pixels shrink.
        decode: ``exact``, or ``dct``: JPEG is decoded smaller where pixels shrink to a half or less.

    Raises:
        TileError: If the tiles were laid on a slide of another size or resolution.
        ConfigError: If the slide cannot be read with ``decode="dct"``.
    """

    def __init__(
        self,
        slide: Slide,
        tiles: Tiles,
        slide_id: str | None = None,
        *,
        fill: Fill = "white",
        resample: Resample = "area",
        decode: Decode = "exact",
    ) -> None:
        _check_same_slide(slide, tiles)
        self.slide = slide
        self.tiles = tiles
        self.slide_id = slide.name if slide_id is None else slide_id
        self.fill: Fill = fill
        self.resample: Resample = resample
        self.decode: Decode = decode
        self.boxes = tiles.boxes
        self.mpp = tiles.mpp
        self._raw = slide.view is None and not slide.is_rgb
        self.dtype = slide.dtype if self._raw else np.dtype(np.uint8)
        size = tiles.tile_size
        self._dct_scale = 1
        if decode == "dct" and len(tiles):
            self._dct_scale = slide.dct_scale(Box.from_row(self.boxes[0]), size)
        self.tile_shape = (size.height, size.width, len(slide.channels) if self._raw else 3)

    @property
    def modality(self) -> str:
        """Kind of image, as the slide has it."""
        return self.slide.modality

    @property
    def recipe(self) -> Mapping[str, object]:
        """Slide, tiles, fill, resampling, and decoding where it is not exact."""
        return {
            **self.slide.recipe,
            **self.tiles.recipe,
            "tile_fill": self.fill,
            "tile_resample": self.resample,
            **({} if self.decode == "exact" else {"tile_decode": f"{self.decode} 1/{self._dct_scale}"}),
        }

    def compressed(self, row: int) -> bytes | None:
        """A tile as a JPEG of the slide's own bytes; None where it is none, as :meth:`Slide.read_compressed` says."""
        if self._raw:
            return None
        x, y, width, height = self.boxes[row].tolist()
        return self.slide.read_compressed(Box(x, y, width, height), size=self.tiles.tile_size)

    def expect(self, rows: Int[np.ndarray, " n"], cache: TileCache | None = None) -> None:
        """Say which rows will be read next, in about this order, so that what they share is decoded once.

        Args:
            rows: Indices, each as often as it will be read.
            cache: Where decoded pixels of the file are kept meanwhile; None for the slide's own place.
        """
        self.slide.expect(self.boxes[rows], self.tiles.tile_size, self.decode, cache)

    def close(self) -> None:
        """Close the slide; reading afterwards raises."""
        super().close()
        self.slide.close()

    def _read_into(self, images: Shaped[np.ndarray, "n h w c"], rows: Sequence[int]) -> Mapping[int, str]:
        errors = self._read_boxes([Box.from_row(self.boxes[row]) for row in rows], images)
        return {rows[position]: reason for position, reason in errors.items()}

    def _read_boxes(self, boxes: Sequence[Box], images: Shaped[np.ndarray, "n h w c"]) -> Mapping[int, str]:
        """Read these boxes into ``images``, in order.

        Neighbours share compressed tiles of the file; a reader that decodes them itself keeps those until all who were
        expected have read them.

        Returns:
            Position in ``boxes`` → why it could not be decoded.
        """
        how: dict[str, Any] = {"fill": self.fill, "resample": self.resample, "decode": self.decode}
        size = self.tiles.tile_size
        errors: dict[int, str] = {}
        for position, box in enumerate(boxes):
            try:
                if self._raw:
                    images[position] = self.slide.read_raw(box, size=size, **how)
                else:
                    self.slide.read_into(box, images[position], **how)
            except UnreadableRegionError as error:
                errors[position] = str(error)
        return errors


def _check_same_slide(slide: Slide, tiles: Tiles) -> None:
    if tiles.slide_size != slide.size:
        raise TileError(
            f"The tiles were laid on a slide of {tiles.slide_size.width} × {tiles.slide_size.height} px, but "
            f"'{slide.name}' has {slide.size.width} × {slide.size.height} px. Lay tiles on this slide."
        )
    laid, now = tiles.slide_mpp, slide.resolution.mpp
    if laid is None and now is None:
        return
    if laid is None or now is None or abs(laid / now - 1) > _SAME_MPP:
        raise TileError(
            f"The tiles were laid on slide '{slide.name}' at {_shown(laid)}, but it is open at "
            f"{_shown(now)}. Open it with the same mpp, or lay tiles again."
        )


def _shown(mpp: float | None) -> str:
    return "unknown mpp" if mpp is None else f"{mpp:g} µm/px"
