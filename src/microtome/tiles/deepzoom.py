"""Tiles by DeepZoom address (level, column, row), border tiles included, as HistoSSL reads them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Int64, Shaped, UInt8
from PIL import Image

from microtome.errors import ChannelError, ConfigError, NoTilesError, TileError, UnreadableRegionError
from microtome.geometry import Box, DeepZoomAddress, DeepZoomPyramid, Size
from microtome.slides.base import Fill, Slide
from microtome.tiles.grid import COVERAGE_TOLERANCE, cover
from microtome.tiles.random_access import RandomAccessTiles, frozen_boxes
from microtome.tissue.tissue import Tissue


@dataclass(frozen=True, slots=True)
class DeepZoomRegion:
    """The pixels that OpenSlide's ``DeepZoomGenerator`` takes for a tile, and what it makes of them.

    Attributes:
        x0: Left edge, level-0 pixels. Where the slide's downsamples are not whole this may be one less than
            the nominal corner of :meth:`DeepZoomPyramid.box`, because it is truncated from floating point.
        y0: Upper edge, level-0 pixels.
        slide_level: The slide level that is read.
        slide_level_size: Size of the region, in pixels of that level.
        tile_size: Size that the tile should have.
        returned_size: Size that it has: reduction keeps the aspect and can make a border tile one pixel
            smaller.
    """

    x0: int
    y0: int
    slide_level: int
    slide_level_size: Size
    tile_size: Size
    returned_size: Size


def locate_tile(slide: Slide, pyramid: DeepZoomPyramid, address: DeepZoomAddress) -> DeepZoomRegion:
    """Find the pixels of a DeepZoom tile.

    Args:
        slide: The slide; no pixel is read.
        pyramid: The DeepZoom pyramid of its level 0.
        address: The tile.

    Returns:
        The region, as OpenSlide's ``DeepZoomGenerator`` has it with ``overlap=0, limit_bounds=False``.

    Raises:
        TileError: If there is no such tile.
    """
    tile = pyramid.tile_size(address)
    scale = pyramid.scale(address.level)
    downsamples = [_downsample(slide, index) for index in range(len(slide.levels))]
    level = max((i for i, down in enumerate(downsamples) if down <= scale), default=0)
    # products in the generator's own order: where they are not exact, truncation depends on it
    ratio = scale / downsamples[level]
    limit = slide.levels[level].size
    x = ratio * (pyramid.tile_px * address.column)
    y = ratio * (pyramid.tile_px * address.row)
    region = Size(
        max(1, min(math.ceil(ratio * tile.width), limit.width - math.ceil(x))),
        max(1, min(math.ceil(ratio * tile.height), limit.height - math.ceil(y))),
    )
    return DeepZoomRegion(
        x0=int(downsamples[level] * x),
        y0=int(downsamples[level] * y),
        slide_level=level,
        slide_level_size=region,
        tile_size=tile,
        returned_size=_reduced(region, tile),
    )


def lay_deepzoom(
    slide: Slide,
    tissue: Tissue | None,
    *,
    tile_px: int = 224,
    level: int | None = None,
    mpp: float | None = None,
    min_tissue: float = 0.5,
) -> Int64[np.ndarray, "n 3"]:
    """List the DeepZoom tiles that are tissue.

    Args:
        slide: The slide; no pixel is read.
        tissue: Where tissue is; None takes all tiles.
        tile_px: Side of a tile, in pixels of the DeepZoom level.
        level: DeepZoom level.
        mpp: Instead of it, a resolution; the nearest level in powers of two is taken, as HistoSSL does.
        min_tissue: Least share of a tile (of a border tile: of its part on the slide) that must be tissue,
            0..1.

    Returns:
        Addresses: level, column, row; by row, then column.

    Raises:
        NoTilesError: If no tile remains.
        TileError: If there is no such level.
        ConfigError: Unless exactly one of ``level`` and ``mpp`` is given.
    """
    if (level is None) == (mpp is None):
        raise ConfigError(f"DeepZoom tiles need exactly one of level and mpp. Got level={level} and mpp={mpp}.")
    pyramid = DeepZoomPyramid(slide.size, tile_px)
    if level is None and mpp is not None:
        level = pyramid.level_for_mpp(mpp=mpp, slide_mpp=slide.mpp)
    columns, rows = pyramid.grid(level or 0)
    row, column = (axis.ravel() for axis in np.mgrid[0:rows, 0:columns])
    addresses = np.column_stack([np.full(len(row), level), column, row]).astype(np.int64)
    if tissue is None:
        return addresses
    kept = addresses[cover(tissue, address_boxes(pyramid, addresses)) >= min_tissue - COVERAGE_TOLERANCE]
    if len(kept) == 0:
        raise NoTilesError(f"Slide '{slide.name}': none of {len(addresses)} DeepZoom tiles is {min_tissue:g} tissue.")
    return kept


def address_boxes(pyramid: DeepZoomPyramid, addresses: Int[np.ndarray, "n 3"]) -> Int64[np.ndarray, "n 4"]:
    """Level-0 boxes (x y w h, clipped to the slide) of addresses (level, column, row).

    Raises:
        TileError: If an address does not exist.
    """
    boxes = [pyramid.box(DeepZoomAddress(*map(int, address))) for address in addresses]
    return np.array([(b.x, b.y, b.width, b.height) for b in boxes], np.int64).reshape(-1, 4)


class DeepZoomTiles(RandomAccessTiles):
    """Tiles of a slide by DeepZoom address, in the order given; 8-bit RGB.

    A tile at the right or lower border is smaller than the others and is padded at the right and below with
    zeros (black) after reading, as HistoSSL does.

    Args:
        slide: The open slide; it is closed with the source.
        addresses: Level, column and row of each tile, as in HistoSSL's ``coords.npy``; all of one level.
        tile_px: Side of a tile.
        slide_id: Whose tiles these are; by default the slide's name.
        fill: What lies outside of the scanned part of the slide.

    Raises:
        TileError: If an address does not exist, or they are of several levels.
        ChannelError: If the slide is not RGB.

    References:
        HistoSSL (73f1d19), tile extraction; OpenSlide's ``DeepZoomGenerator``: the best slide level for the
        DeepZoom level's downsample, reduced with Pillow's ``thumbnail`` and Lanczos.
    """

    def __init__(
        self,
        slide: Slide,
        addresses: Int[np.ndarray, "n 3"],
        *,
        tile_px: int = 224,
        slide_id: str | None = None,
        fill: Fill = "white",
    ) -> None:
        if slide.view is None and not slide.is_rgb:
            raise ChannelError(f"Slide '{slide.name}' is not 8-bit RGB. Open it with channels= to read DeepZoom tiles.")
        levels = np.unique(addresses[:, 0])
        if len(levels) != 1:
            raise TileError(f"DeepZoom tiles must be of one level. Got levels {levels.tolist()}.")
        self.slide = slide
        self.pyramid = DeepZoomPyramid(slide.size, tile_px)
        self.addresses = np.array(addresses, np.int64)
        self.addresses.flags.writeable = False
        self.slide_id = slide.name if slide_id is None else slide_id
        self.fill: Fill = fill
        self.boxes = frozen_boxes(address_boxes(self.pyramid, self.addresses))
        self.tile_shape = (tile_px, tile_px, 3)
        self.dtype = np.dtype(np.uint8)
        mpp0 = slide.resolution.mpp
        self.mpp = None if mpp0 is None else mpp0 * self.pyramid.scale(int(levels[0]))

    @property
    def modality(self) -> str:
        """Kind of image, as the slide has it."""
        return self.slide.modality

    @property
    def recipe(self) -> Mapping[str, object]:
        """Slide, addresses, tile size, fill and resampling."""
        return {
            **self.slide.recipe,
            "tile_addresses": self.addresses,
            "tile_size_px": [self.pyramid.tile_px, self.pyramid.tile_px],
            "tile_mpp": self.mpp,
            "tile_fill": self.fill,
            "tile_resample": "deepzoom",
            "tile_border": "zeros",
        }

    def close(self) -> None:
        """Close the slide; reading afterwards raises."""
        super().close()
        self.slide.close()

    def _read_into(self, images: Shaped[np.ndarray, "n h w c"], rows: Sequence[int]) -> Mapping[int, str]:
        errors: dict[int, str] = {}
        for position, row in enumerate(rows):
            try:
                image = self._read_tile(DeepZoomAddress(*map(int, self.addresses[row])))
            except UnreadableRegionError as error:
                errors[row] = str(error)
                continue
            if image.shape != images.shape[1:]:
                images[position] = 0  # what reaches out is black
            images[position, : image.shape[0], : image.shape[1]] = image
        return errors

    def _read_tile(self, address: DeepZoomAddress) -> UInt8[np.ndarray, "h w 3"]:
        """The tile as the generator returns it: the region at its own slide level, reduced by Pillow."""
        region = locate_tile(self.slide, self.pyramid, address)
        downsample = _downsample(self.slide, region.slide_level)
        native = region.slide_level_size
        width, height = round(native.width * downsample), round(native.height * downsample)
        pixels = self.slide.read(Box(region.x0, region.y0, width, height), size=native, fill=self.fill)
        if native == region.tile_size:
            return pixels
        picture = Image.fromarray(pixels)
        picture.thumbnail((region.tile_size.width, region.tile_size.height), Image.Resampling.LANCZOS)
        return np.asarray(picture)


def _downsample(slide: Slide, index: int) -> float:
    """A level's downsample as OpenSlide has it: the mean over both axes."""
    full, size = slide.size, slide.levels[index].size
    return (full.width / size.width + full.height / size.height) / 2


def _reduced(image: Size, target: Size) -> Size:
    """Size of an image reduced to fit ``target``, aspect kept, as Pillow's ``thumbnail`` rounds it."""
    if image == target or (image.width <= target.width and image.height <= target.height):
        return image
    aspect = image.width / image.height
    if target.width / target.height >= aspect:
        ideal = target.height * aspect
        width = min((math.floor(ideal), math.ceil(ideal)), key=lambda n: abs(aspect - n / target.height))
        return Size(max(1, width), target.height)
    ideal = target.width / aspect
    height = min((math.floor(ideal), math.ceil(ideal)), key=lambda n: 0.0 if n == 0 else abs(aspect - target.width / n))
    return Size(target.width, max(1, height))
