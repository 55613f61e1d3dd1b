"""Stimulated Raman patches as tile sources: files of one slide with coordinates in their names, or a mosaic cut up."""

import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64, Shaped, UInt16

from microtome.errors import ChannelError, ConfigError, MicrotomeError, NoTilesError, TileError
from microtome.geometry import Box
from microtome.tiles.images import fingerprint
from microtome.tiles.random_access import RandomAccessTiles, frozen_boxes

if TYPE_CHECKING:
    from microtome.slides.tifffile_reader import TiffSlide

SRH_SIDE = 300
"""Side of a patch, in pixels."""

FIELD_PX = 1000
"""Side of a field of the microscope, which holds three patches across and three down."""

_PATCHES_PER_FIELD = 3
_NAME = re.compile(r"-(\d+)_(\d+)_(\d+)_(\d+)\.tiff?$", re.IGNORECASE)
_SUFFIXES = (".tif", ".tiff")
_SHOWN = 3

CHANNEL_ORDERS = ("ch2,ch3", "ch3,ch2")
"""How the two channels may lie in a file; the first is that of OpenSRH."""


class SrhTiles(RandomAccessTiles):
    """Patches of one slide: 300 px, two raw 16-bit channels, CH2 first whatever the file's order.

    Attributes:
        grid: Row and column of each patch, which the slide model takes for its place.
    """

    grid: Int64[np.ndarray, "n 2"]
    tile_shape = (SRH_SIDE, SRH_SIDE, 2)
    dtype = np.dtype(np.uint16)

    @property
    def modality(self) -> str:
        """``srh``."""
        return "srh"

    def _read_into(self, images: Shaped[np.ndarray, "n h w c"], rows: Sequence[int]) -> Mapping[int, str]:
        errors: dict[int, str] = {}
        for position, row in enumerate(rows):
            try:
                images[position] = self._read_patch(row).transpose(1, 2, 0)
            except ChannelError:
                raise  # of all patches alike, most likely: nothing that may be left out
            except MicrotomeError as error:
                errors[row] = str(error)
        return errors

    @abstractmethod
    def _read_patch(self, row: int) -> UInt16[np.ndarray, "2 h w"]:
        """One patch, CH2 first; raises where it cannot be decoded."""


class SrhPatches(SrhTiles):
    """Patches that are files whose names end in ``-{ix}_{jx}_{iy}_{jy}.tif``.

    ``ix`` and ``jx`` say where the field of 1000 px lies, down and across, ``iy`` and ``jy`` where the patch lies in
    it. Order is that of ``files``.

    Args:
        files: One file per patch; see :func:`list_srh_patches`.
        slide_id: Whose patches these are.
        mpp: µm per pixel, if known.
        channel_order: ``ch2,ch3`` or ``ch3,ch2``, as the files have it.

    Raises:
        NoTilesError: If there is no file.
        TileError: If a name has no coordinates, or two patches lie at one place.
        ConfigError: If there is no such order.

    References:
        specs FastGlioma sections 1.1 and 1.3.
    """

    def __init__(
        self, files: Sequence[Path], *, slide_id: str, mpp: float | None = None, channel_order: str = CHANNEL_ORDERS[0]
    ) -> None:
        if not files:
            raise NoTilesError(f"Slide '{slide_id}' has no patches: there is nothing to score. Name another folder.")
        self.files, self.slide_id, self.mpp = tuple(files), slide_id, mpp
        self._flip = _is_flipped(channel_order)
        places = np.array([patch_place(file.name) for file in files], np.int64)
        self.grid = _frozen([grid_of(*place) for place in places.tolist()])
        _check_distinct(self.grid, self.files, slide_id)
        (ix, jx, iy, jy) = places.T
        sides = np.full(len(places), SRH_SIDE)
        self.boxes = frozen_boxes(np.stack([jx + jy, ix + iy, sides, sides], axis=1))

    @cached_property
    def _fingerprint(self) -> str:
        first = self.files[0].parent
        root = first if all(file.parent == first for file in self.files) else first.parents[2]
        return fingerprint(self.files, root=root if all(f.is_relative_to(root) for f in self.files) else Path("/"))

    @property
    def recipe(self) -> Mapping[str, object]:
        """Files (names, sizes, content), their order, and what was declared of them."""
        return {
            "tile_files": self._fingerprint,
            "tile_boxes": self.boxes,
            "tile_mpp": self.mpp,
            "tile_modality": self.modality,
            "tile_flipped": self._flip,
        }

    def _read_patch(self, row: int) -> UInt16[np.ndarray, "2 h w"]:
        from microtome.slides.srh_tiff import read_srh_patch

        pixels = read_srh_patch(self.files[row], side=SRH_SIDE)
        return pixels[::-1] if self._flip else pixels


class SrhMosaic(SrhTiles):
    """Patches cut from one large TIFF of two 16-bit channels, row by row; what is left over at the edges is not used.

    Args:
        path: The file.
        channel_order: As in :class:`SrhPatches`; a mosaic does not say it, so the caller must.
        mpp: µm per pixel.
        slide_id: Whose it is; the file's stem if None.

    Raises:
        SlideOpenError: If the file cannot be opened.
        ChannelError: If it has other channels.
        NoTilesError: If it is smaller than a patch.
        ConfigError: If there is no such order.
    """

    def __init__(self, path: Path, *, channel_order: str, mpp: float, slide_id: str | None = None) -> None:
        self._flip = _is_flipped(channel_order)
        self._slide = _open_mosaic(path, mpp)
        self.path, self.mpp, self.slide_id = path, mpp, slide_id or path.stem
        rows, columns = (side // SRH_SIDE for side in (self._slide.size.height, self._slide.size.width))
        if not rows or not columns:
            self._slide.close()
            raise NoTilesError(
                f"'{path}' is {self._slide.size.width} x {self._slide.size.height} px, less than one patch of "
                f"{SRH_SIDE} px. Name the whole mosaic."
            )
        grid = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1).reshape(-1, 2)
        self.grid = _frozen(grid)
        corners = grid[:, ::-1] * SRH_SIDE
        self.boxes = frozen_boxes(np.concatenate([corners, np.full_like(corners, SRH_SIDE)], axis=1))

    @property
    def recipe(self) -> Mapping[str, object]:
        """The file's content, and what was declared of it."""
        return {
            "tile_files": self._slide.fingerprint,
            "tile_boxes": self.boxes,
            "tile_mpp": self.mpp,
            "tile_modality": self.modality,
            "tile_flipped": self._flip,
        }

    def _read_patch(self, row: int) -> UInt16[np.ndarray, "2 h w"]:
        x, y, w, h = self.boxes[row].tolist()
        pixels = self._slide.read_channels(0, Box(x, y, w, h), (1, 0) if self._flip else (0, 1))
        patch: UInt16[np.ndarray, "2 h w"] = pixels.transpose(2, 0, 1)
        return patch

    def close(self) -> None:
        """Let go of the file."""
        super().close()
        self._slide.close()


def patch_place(name: str) -> tuple[int, int, int, int]:
    """The four numbers in a patch's name: field down and across, then patch in the field down and across, in pixels.

    Raises:
        TileError: If the name does not end in them.

    Example:
        >>> patch_place("NIO_UM_135-6-0_1000_300_600.tif")
        (0, 1000, 300, 600)
    """
    match = _NAME.search(name)
    if match is None:
        raise TileError(
            f"Patch '{name}' says no coordinates: its name must end in -ix_jx_iy_jy.tif, such as -0_1000_300_600.tif "
            "(field down and across, patch in the field down and across, in pixels). Rename it."
        )
    ix, jx, iy, jy = (int(part) for part in match.groups())
    return ix, jx, iy, jy


def grid_of(ix: int, jx: int, iy: int, jy: int) -> tuple[int, int]:
    """Row and column on the slide's grid, three patches to a field.

    References:
        specs FastGlioma section 1.3.

    Example:
        >>> grid_of(0, 1000, 300, 600)
        (1, 5)
    """
    per_field = _PATCHES_PER_FIELD
    return (
        per_field * (ix // FIELD_PX) + iy // SRH_SIDE,
        per_field * (jx // FIELD_PX) + jy // SRH_SIDE,
    )


def list_srh_patches(folder: Path) -> tuple[Path, ...]:
    """Patches of one slide in a folder, or in ``patches/`` in it, from the top row, left to right.

    Raises:
        NoTilesError: If there is no TIFF.
        TileError: If a name has no coordinates.
    """
    place = folder / "patches" if (folder / "patches").is_dir() else folder
    found = [p for p in place.iterdir() if p.suffix.lower() in _SUFFIXES and not p.name.startswith(".")]
    if not found:
        raise NoTilesError(
            f"'{folder}' holds no TIFF patches, nor does a folder 'patches' in it: an empty slide has no score. Name "
            "the folder with the files -ix_jx_iy_jy.tif."
        )
    return tuple(sorted(found, key=lambda file: (*grid_of(*patch_place(file.name)), file.name)))


def _check_distinct(grid: Int64[np.ndarray, "n 2"], files: Sequence[Path], slide_id: str) -> None:
    places = [tuple(place) for place in grid.tolist()]
    twice = [place for place, n in Counter(places).items() if n > 1]
    if twice:
        same = [file.name for file, place in zip(files, places, strict=True) if place == twice[0]]
        raise TileError(
            f"Slide '{slide_id}' has {len(twice)} place(s) with several patches: row {twice[0][0]}, column "
            f"{twice[0][1]} is in {', '.join(same[:_SHOWN])}. Keep one patch per place, or score the slides one by one."
        )


def _frozen(grid: object) -> Int64[np.ndarray, "n 2"]:
    table = np.array(grid, np.int64)
    table.flags.writeable = False
    return table


def _is_flipped(channel_order: str) -> bool:
    order = channel_order.replace(" ", "").lower()
    if order not in CHANNEL_ORDERS:
        raise ConfigError(f"channel_order must be {' or '.join(CHANNEL_ORDERS)}. Got {channel_order!r}.")
    return order != CHANNEL_ORDERS[0]


def _open_mosaic(path: Path, mpp: float) -> "TiffSlide":
    from microtome.slides.file_slide import OpenOptions
    from microtome.slides.probe import probe
    from microtome.slides.resolution import Given
    from microtome.slides.tifffile_reader import TiffSlide

    refusal = TiffSlide.decline(probe(path))
    if refusal is not None:
        raise TileError(f"Mosaic '{path}' is no TIFF: {refusal}. Export it as a two-channel 16-bit TIFF.")
    slide = TiffSlide(path, OpenOptions(given=Given(mpp)))
    if slide.dtype != np.uint16 or len(slide.channels) != 2:
        n, dtype = len(slide.channels), slide.dtype
        slide.close()
        raise ChannelError(
            f"Mosaic '{path}' has {n} channel(s) of {dtype}; an SRH mosaic has 2 of uint16. Export the raw channels."
        )
    return slide
