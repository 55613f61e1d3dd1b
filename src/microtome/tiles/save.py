"""Tile images on disk, in HistoPrep's layout and names.

``<folder>/tiles/x{x}_y{y}_w{w}_h{h}.jpeg`` (level-0 coordinates), ``metadata.parquet``, ``properties.json``,
and ``recipe.json``, which says what decided them. ``metadata.parquet`` has the columns x, y, w, h and path
of HistoPrep: ``path`` is absolute, so that HistoPrep's and HistoEncoder's own readers find the images;
``file`` is relative to the folder and survives moving it (:class:`~microtome.tiles.folder.TileFolder` needs
neither the folder's old place nor ``file``). Tiles that could not be read stand in ``unreadable.parquet``
(x, y, w, h, error) and have no image, so that a reader that takes every row of ``metadata.parquet`` or every
file in ``tiles/`` meets only real tiles.
"""

import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64, UInt8
from PIL import Image

from microtome.errors import ConfigError, RecipeMismatchError, TileError
from microtome.storage import (
    Claim,
    digest,
    recipe_changes,
    recipe_text,
    remove_leftovers_in,
    write_json,
    written_whole,
)
from microtome.tiles.folder import METADATA, TILE_NAME, UNREADABLE, tile_name
from microtome.tiles.grid import Grid, Tiles
from microtome.tiles.histoprep import HistoPrepGrid
from microtome.tiles.slide_tiles import SlideTiles
from microtome.tiles.source import TileSource

PROPERTIES = "properties.json"
RECIPE = "recipe.json"
_CHUNK = 16  # tiles that one thread holds at a time


@dataclass(frozen=True, slots=True)
class SavedTiles:
    """What is in a folder of tile images.

    Attributes:
        folder: The slide's folder.
        n_tiles: Tiles of the source.
        n_unreadable: Those of them that could not be read and have no image.
        n_written: Images that this call wrote; less than all where an earlier run had begun.
        status: ``done``, or ``skipped`` where an earlier run had finished it.
    """

    folder: Path
    n_tiles: int
    n_unreadable: int
    n_written: int
    status: Literal["done", "skipped"]


def save_tiles(
    source: TileSource,
    folder: Path,
    *,
    image_format: Literal["jpeg", "png"] = "jpeg",
    quality: int = 80,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> SavedTiles:
    """Write the tiles of one slide as images.

    Every file is whole or absent and ``metadata.parquet`` comes last, so that a folder that has it is
    finished. A run that was broken off is taken up where it stopped.

    Args:
        source: The tiles; 8-bit RGB.
        folder: The slide's folder; made if it is not there.
        image_format: ``jpeg`` or ``png``.
        quality: JPEG quality, 1..100; PNG has none and takes no notice of it.
        workers: Threads; None for one per core.
        overwrite: Replace what was made with other settings.
        progress: Called with the number of tiles done since the last call.

    Returns:
        What is there now.

    Raises:
        TileError: If pixels are not 8-bit RGB, or two tiles would have one name.
        RecipeMismatchError: If other tiles are there and ``overwrite`` is False.
        ClaimedError: If another process is writing there.
        OutputWriteError: If a file cannot be written.
    """
    writer = _Writer(source, folder.absolute(), image_format, quality)
    writer.check()
    with Claim(writer.folder / METADATA):  # it stands for the whole folder
        remove_leftovers_in(writer.folder)
        remove_leftovers_in(writer.folder / "tiles")
        finished = writer.prepare(overwrite=overwrite)
        if finished is not None:
            return finished
        missing = writer.missing()
        errors = writer.write_images(missing, workers or os.cpu_count() or 1, progress)
        return writer.finish(errors, n_written=len(missing) - len(errors))


@dataclass(frozen=True)
class _Writer:
    """One slide's folder while it is being written."""

    source: TileSource
    folder: Path
    image_format: str
    quality: int

    @property
    def recipe(self) -> Mapping[str, object]:
        return {
            **self.source.recipe,
            "image_format": self.image_format,
            "image_quality": self.quality if self.image_format == "jpeg" else None,
        }

    def check(self) -> None:
        """Refuse what cannot be written as asked."""
        if self.image_format not in ("jpeg", "png"):
            raise ConfigError(f"image_format must be jpeg or png. Got {self.image_format!r}.")
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"quality must be 1 to 100. Got {self.quality}.")
        if self.source.dtype != np.uint8 or self.source.tile_shape[2] != 3:
            raise TileError(
                f"Tiles of '{self.source.slide_id}' have {self.source.tile_shape[2]} channel(s) of "
                f"{self.source.dtype} and cannot be written as {self.image_format}. Open the slide with "
                "channels= (--channels)."
            )
        boxes, counts = np.unique(self.source.boxes, axis=0, return_counts=True)
        if len(boxes) and counts.max() > 1:
            raise TileError(
                f"Tiles of '{self.source.slide_id}' cannot be named by their place: {counts.max()} of them "
                f"are {tile_name(boxes[counts.argmax()])}."
            )

    def file(self, row: int) -> Path:
        return self.folder / "tiles" / f"{tile_name(self.source.boxes[row])}.{self.image_format}"

    def prepare(self, *, overwrite: bool) -> SavedTiles | None:
        """Make the folder ready; return what is there if it is finished already."""
        self._explain_other(overwrite=overwrite)
        if (self.folder / METADATA).is_file():
            with suppress(pa.ArrowException, OSError):  # damaged: it is quickly written again
                lost = len(self.source) - int(pq.read_metadata(self.folder / METADATA).num_rows)
                return SavedTiles(self.folder, len(self.source), lost, 0, "skipped")
        write_json(self.folder / RECIPE, {"recipe_digest": digest(self.recipe), "recipe": recipe_text(self.recipe)})
        return None

    def _explain_other(self, *, overwrite: bool) -> None:
        """Refuse, or remove, what was made otherwise."""
        stored = self._stored_recipe()
        now = recipe_text(self.recipe)
        if stored == now or (stored is None and not self._has_tiles()):
            return
        if not overwrite:
            changes = (
                "by another program" if stored is None else f"otherwise ({'; '.join(recipe_changes(stored, now))})"
            )
            raise RecipeMismatchError(
                f"The tiles in '{self.folder}' were made {changes}. Choose another folder, or pass "
                "overwrite=True (--overwrite) to replace them."
            )
        for name in (METADATA, UNREADABLE, PROPERTIES, RECIPE):
            (self.folder / name).unlink(missing_ok=True)
        for file in (self.folder / "tiles").glob("*"):
            if TILE_NAME.fullmatch(file.stem):  # nothing but tiles is ever deleted
                file.unlink()

    def _stored_recipe(self) -> str | None:
        try:
            return str(json.loads((self.folder / RECIPE).read_text(encoding="utf-8"))["recipe"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _has_tiles(self) -> bool:
        return (self.folder / METADATA).exists() or any((self.folder / "tiles").glob("*"))

    def missing(self) -> Int64[np.ndarray, " n"]:
        """Rows whose image is not there."""
        return np.array([row for row in range(len(self.source)) if not self.file(row).is_file()], np.int64)

    def write_images(
        self, missing: Int64[np.ndarray, " n"], workers: int, progress: Callable[[int], None] | None
    ) -> dict[int, str]:
        """Write these images; return row → why it could not be read."""
        if progress is not None and len(missing) < len(self.source):
            progress(len(self.source) - len(missing))
        chunks = [missing[start : start + _CHUNK] for start in range(0, len(missing), _CHUNK)]
        errors: dict[int, str] = {}
        pool = ThreadPoolExecutor(workers, thread_name_prefix="save tiles")
        try:
            for chunk, failed in zip(chunks, pool.map(self._write_chunk, chunks), strict=True):
                errors.update(failed)
                if progress is not None:
                    progress(len(chunk))
        finally:
            pool.shutdown(cancel_futures=True)
        return errors

    def _write_chunk(self, rows: Int64[np.ndarray, " n"]) -> Mapping[int, str]:
        batch = self.source.read(rows)
        for row, image, readable in zip(batch.rows, batch.images, batch.readable, strict=True):
            if readable:
                self._write_image(self.file(int(row)), image)
        return batch.errors

    def _write_image(self, path: Path, image: UInt8[np.ndarray, "h w 3"]) -> None:
        options = {"quality": self.quality} if self.image_format == "jpeg" else {}
        with written_whole(path) as temporary:
            Image.fromarray(image).save(temporary, format=self.image_format, **options)

    def finish(self, errors: Mapping[int, str], *, n_written: int) -> SavedTiles:
        """Write the tables; the last one says that the folder is finished."""
        rows = np.array([row for row in range(len(self.source)) if row not in errors], np.int64)
        lost = np.array(sorted(errors), np.int64)
        if len(lost):
            reasons = pa.array([errors[int(row)] for row in lost], pa.string())
            _write_table(self.folder / UNREADABLE, {**self._columns(lost), "error": reasons})
        write_json(self.folder / PROPERTIES, self._properties(len(rows), len(lost)))
        files = [self.file(int(row)) for row in rows]
        names = [file.relative_to(self.folder).as_posix() for file in files]
        columns = {
            "path": pa.array([str(f) for f in files], pa.string()),
            "file": pa.array(names, pa.string()),
        }
        _write_table(self.folder / METADATA, {**self._columns(rows), **columns})
        return SavedTiles(self.folder, len(self.source), len(lost), n_written, "done")

    def _columns(self, rows: Int64[np.ndarray, " n"]) -> dict[str, pa.Array]:
        boxes = self.source.boxes[rows]
        return {name: pa.array(boxes[:, column], pa.int64()) for column, name in enumerate("xywh")}

    def _properties(self, n_saved: int, n_unreadable: int) -> dict[str, object]:
        """HistoPrep's properties, and ours: mpp, unreadable tiles and what lies in recipe.json."""
        tiles = self.source.tiles if isinstance(self.source, SlideTiles) else None
        height, width, _ = self.source.tile_shape
        # without any tile the size on level 0 is not known from boxes
        box = self.source.boxes[0] if len(self.source) else np.zeros(4, np.int64)
        overlap, max_background = _histoprep_terms(tiles)
        return {
            "num_tiles": n_saved,
            "level": None if tiles is None else tiles.level,
            "level_downsample": [int(box[3]) / height, int(box[2]) / width],
            "width": int(box[2]),
            "height": int(box[3]),
            "overlap": overlap,
            "max_background": max_background,
            "mpp": self.source.mpp,
            "num_unreadable": n_unreadable,
            "image_format": self.image_format,
            "quality": self.quality if self.image_format == "jpeg" else None,
            "recipe_digest": digest(self.recipe),
        }


def _histoprep_terms(tiles: Tiles | None) -> tuple[float | None, float | None]:
    """Overlap and largest background share, where the layout has such; gaps are a negative overlap."""
    if tiles is None:
        return None, None
    if isinstance(tiles.grid, HistoPrepGrid):
        return tiles.grid.overlap, tiles.grid.max_background
    if isinstance(tiles.grid, Grid):
        return 1 - tiles.grid.stride / tiles.grid.tile_px, 1 - tiles.grid.min_tissue
    return None, None


def _write_table(path: Path, columns: Mapping[str, pa.Array]) -> None:
    with written_whole(path) as temporary:
        pq.write_table(pa.table(dict(columns)), temporary)
