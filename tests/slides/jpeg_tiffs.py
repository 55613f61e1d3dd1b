"""Tiled TIFFs of JPEG in every manner that scanners and converters write them, made on the spot."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

JPEG, JPEG2000_YCBCR, JPEG2000_RGB = 7, 33003, 33005
_TABLES, _SUBSAMPLING = 347, 530
APERIO = "Aperio Image Library v12.0.0\r\n500x400 (240x240) JPEG/RGB Q=70|AppMag = 20|MPP = 0.5"


def tissue_like(height: int, width: int) -> np.ndarray:
    """Coloured texture of many scales, no two places alike, so that any shift or filter shows."""
    rng = np.random.default_rng(height * 7919 + width)
    image = np.zeros((height, width, 3))
    for step, share in ((64, 90.0), (16, 60.0), (4, 40.0), (1, 20.0)):
        coarse = rng.random((-(-height // step), -(-width // step), 3))
        image += share * coarse.repeat(step, axis=0).repeat(step, axis=1)[:height, :width]
    return image.astype(np.uint8)


@dataclass(frozen=True)
class Made:
    """How a file is made.

    Attributes:
        tile: Height and width of tiles.
        options: For Pillow's JPEG encoder.
        photometric: What the tag of the page says.
        tables: Whether the JPEG tables lie in the page and not in each tile.
        compression: The tag's number.
        encode: Makes a tile, in place of Pillow.
        change: Does something to each encoded tile; gets its index too. What has no bytes is a missing tile.
        levels: Sizes (height, width) of the pages.
        big: Whether it is a BigTIFF.
        description: Text of the first page.
    """

    tile: tuple[int, int] = (64, 64)
    options: dict[str, Any] = field(default_factory=lambda: {"subsampling": "4:2:0"})
    photometric: str = "ycbcr"
    tables: bool = False
    compression: int = JPEG
    encode: Callable[[np.ndarray], bytes] | None = None
    change: Callable[[int, bytes], bytes] = lambda _, data: data
    levels: tuple[tuple[int, int], ...] = ((400, 500), (200, 250))
    big: bool = False
    description: str | None = None

    def write(self, path: Path) -> Path:
        """Write it."""
        with tifffile.TiffWriter(path, bigtiff=self.big) as tiff:
            for number, (height, width) in enumerate(self.levels):
                image = tissue_like(height, width)
                if self.photometric == "minisblack":
                    image = image[:, :, 0]
                tiff.write(
                    self._tiles(image),
                    shape=image.shape,
                    dtype=np.uint8,
                    tile=self.tile,
                    photometric=self.photometric,
                    compression=self.compression,
                    planarconfig=None if image.ndim == 2 else "contig",
                    subfiletype=1 if number and self.description is None else 0,
                    metadata=None,
                    description=self.description,
                    extratags=self._extra_tags(image),
                    subsampling=(2, 2) if self.photometric == "ycbcr" else None,
                )
        return path

    def _extra_tags(self, image: np.ndarray) -> list[tuple[Any, ...]]:
        if not self.tables:
            return []
        tables = self._jpeg(image[: self.tile[0], : self.tile[1]], streamtype=1)
        return [(_TABLES, 7, len(tables), tables, True)]

    def _tiles(self, image: np.ndarray) -> Iterator[bytes]:
        height, width = self.tile
        index = 0
        for y in range(0, image.shape[0], height):
            for x in range(0, image.shape[1], width):
                part = image[y : y + height, x : x + width]
                margins = [(0, height - part.shape[0]), (0, width - part.shape[1]), (0, 0)][: image.ndim]
                tile = np.pad(part, margins, mode="edge")
                data = self.encode(tile) if self.encode else self._jpeg(tile, streamtype=2 if self.tables else 0)
                yield self.change(index, data)
                index += 1

    def _jpeg(self, tile: np.ndarray, **more: Any) -> bytes:
        out = io.BytesIO()
        Image.fromarray(tile).save(out, format="JPEG", **{"quality": 75, **self.options, **more})
        return out.getvalue()


def encode_j2k(tile: np.ndarray) -> bytes:
    """JPEG 2000 as in an SVS: a bare codestream, lossy."""
    return bytes(imagecodecs.jpeg2k_encode(tile, level=40, codecformat="j2k", mct=False))


def without_markers(data: bytes) -> bytes:
    """A JPEG without its application markers, as scanners write tiles: only the page says which colours they are."""
    at, out = 2, [data[:2]]
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if not 0xE0 <= data[at + 1] <= 0xEF:
            out.append(data[at:end])
        at = end
    return b"".join((*out, data[at:]))


def bare(_: int, data: bytes) -> bytes:
    """:func:`without_markers`, for ``change``."""
    return without_markers(data)
