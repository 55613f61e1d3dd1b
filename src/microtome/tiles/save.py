"""Tile images on disk, in HistoPrep's layout and names.

``<folder>/tiles/x{x}_y{y}_w{w}_h{h}.jpeg`` (level-0 coordinates), ``metadata.parquet``, ``properties.json``,
and ``recipe.json``, which says what decided them. ``metadata.parquet`` has the columns x, y, w, h and path
of HistoPrep: ``path`` is absolute, so that HistoPrep's and HistoEncoder's own readers find the images;
``file`` is relative to the folder and survives moving it (:class:`~microtome.tiles.folder.TileFolder` needs
neither the folder's old place nor ``file``); ``passthrough`` says whether an image is the slide's own bytes.
Tiles that could not be read stand in ``unreadable.parquet`` (x, y, w, h, error) and have no image, so that a
reader that takes every row of ``metadata.parquet`` or every file in ``tiles/`` meets only real tiles.

Images are written whole but not waited for, one by one; before ``metadata.parquet``, which says that the folder is
finished, all of them are flushed to the disk. So a power cut leaves either a finished folder of whole images, or an
unfinished one; and in an unfinished one an image counts only if it decodes.
"""

import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int64

from microtome.errors import RecipeMismatchError, TileError
from microtome.geometry import Size
from microtome.storage import (
    Claim,
    digest,
    flush_files,
    recipe_changes,
    recipe_text,
    remove_leftovers_in,
    write_errors_explained,
    write_json,
    write_unflushed,
    written_whole,
)
from microtome.tiles.coding import ImageCoding
from microtome.tiles.columns import flags, integers, texts
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
        n_passthrough: Images that are the slide's own bytes.
        status: ``done``, or ``skipped`` where an earlier run had finished it.
    """

    folder: Path
    n_tiles: int
    n_unreadable: int
    n_written: int
    n_passthrough: int
    status: Literal["done", "skipped"]


def save_tiles(
    source: TileSource,
    folder: Path,
    *,
    coding: ImageCoding | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> SavedTiles:
    """Write the tiles of one slide as images.

    Every file is whole or absent and ``metadata.parquet`` comes last, so that a folder that has it is
    finished. A run that was broken off is taken up where it stopped: what decodes is kept.

    Args:
        source: The tiles; 8-bit RGB.
        folder: The slide's folder; made if it is not there.
        coding: Format and quality; by default JPEG of quality 80, or the slide's own bytes where they can be taken.
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
    writer = _Writer(source, folder.absolute(), coding or ImageCoding())
    writer.check()
    with Claim(writer.folder / METADATA):  # it stands for the whole folder
        remove_leftovers_in(writer.folder)
        remove_leftovers_in(writer.images)
        finished = writer.prepare(overwrite=overwrite)
        if finished is not None:
            return finished
        return writer.finish(writer.write_images(workers or os.cpu_count() or 1, progress))


@dataclass
class _Images:
    """What became of tiles: row → why it could not be read, rows whose image is the slide's own bytes, and a count."""

    errors: dict[int, str] = field(default_factory=dict)
    passed: list[int] = field(default_factory=list)
    n_written: int = 0

    def add(self, more: "_Images") -> None:
        self.errors.update(more.errors)
        self.passed.extend(more.passed)
        self.n_written += more.n_written


@dataclass(frozen=True)
class _Writer:
    """One slide's folder while it is being written."""

    source: TileSource
    folder: Path
    coding: ImageCoding

    @cached_property
    def images(self) -> Path:
        return self.folder / "tiles"

    @property
    def recipe(self) -> Mapping[str, object]:
        return {**self.source.recipe, **self.coding.recipe}

    def check(self) -> None:
        """Refuse what cannot be written as asked."""
        if self.source.dtype != np.uint8 or self.source.tile_shape[2] != 3:
            raise TileError(
                f"Tiles of '{self.source.slide_id}' have {self.source.tile_shape[2]} channel(s) of "
                f"{self.source.dtype} and cannot be written as {self.coding.image_format}. Open the slide with "
                "channels= (--channels)."
            )
        boxes, counts = np.unique(self.source.boxes, axis=0, return_counts=True)
        if len(boxes) and counts.max() > 1:
            raise TileError(
                f"Tiles of '{self.source.slide_id}' cannot be named by their place: {counts.max()} of them "
                f"are {tile_name(boxes[counts.argmax()])}."
            )

    def file(self, row: int) -> Path:
        return Path(f"{self.images}/{tile_name(self.source.boxes[row].tolist())}.{self.coding.image_format}")

    def prepare(self, *, overwrite: bool) -> SavedTiles | None:
        """Make the folder ready; return what is there if it is finished already."""
        self._explain_other(overwrite=overwrite)
        if (self.folder / METADATA).is_file():
            with suppress(pa.ArrowException, OSError, KeyError):  # damaged: it is quickly written again
                with pq.ParquetFile(self.folder / METADATA) as table:
                    passed = table.read(columns=["passthrough"])["passthrough"]
                lost = len(self.source) - len(passed)
                return SavedTiles(
                    self.folder, len(self.source), lost, 0, pc.sum(passed, min_count=0).as_py(), "skipped"
                )
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
        for file in self.images.glob("*"):
            if TILE_NAME.fullmatch(file.stem):  # nothing but tiles is ever deleted
                file.unlink()

    def _stored_recipe(self) -> str | None:
        try:
            return str(json.loads((self.folder / RECIPE).read_text(encoding="utf-8"))["recipe"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _has_tiles(self) -> bool:
        return (self.folder / METADATA).exists() or any(self.images.glob("*"))

    def write_images(self, workers: int, progress: Callable[[int], None] | None) -> _Images:
        """Write all images that are not there."""
        with write_errors_explained(self.images):
            self.images.mkdir(parents=True, exist_ok=True)
        there = frozenset(file.name for file in self.images.iterdir())
        rows = np.arange(len(self.source))
        chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
        done = _Images()
        pool = ThreadPoolExecutor(workers, thread_name_prefix="save tiles")
        try:
            for chunk, images_of_chunk in zip(chunks, pool.map(partial(self._write_chunk, there), chunks), strict=True):
                done.add(images_of_chunk)
                if progress is not None:
                    progress(len(chunk))
        finally:
            pool.shutdown(cancel_futures=True)
        return done

    def _write_chunk(self, there: frozenset[str], rows: Int64[np.ndarray, " n"]) -> _Images:
        """Write those images of a chunk that are not there: those of the slide's own bytes, then the others."""
        done, to_encode = _Images(), []
        for row in rows.tolist():
            file, original = self.file(row), self._original(row)
            if original is not None:
                done.passed.append(row)
            if file.name in there and self._is_whole(file, original):
                continue
            if original is None:
                to_encode.append(row)
            else:
                write_unflushed(file, original)
                done.n_written += 1
        if to_encode:
            batch = self.source.read(np.array(to_encode, np.int64))
            for row, image, readable in zip(to_encode, batch.images, batch.readable, strict=True):
                if readable:
                    write_unflushed(self.file(row), self.coding.encode(image))
                    done.n_written += 1
            done.errors.update(batch.errors)
        return done

    def _original(self, row: int) -> bytes | None:
        """The slide's own JPEG of a tile, if it is to be taken and decodes."""
        if not (self.coding.passes_through and isinstance(self.source, SlideTiles)):
            return None
        data = self.source.compressed(row)
        # of damaged data reading says what is wrong with it, and it must not be copied before it has
        return data if data is not None and self._decodes(data) else None

    def _is_whole(self, file: Path, original: bytes | None) -> bool:
        """Whether an image that an earlier run left is to be kept: a power cut may have left it short."""
        data = file.read_bytes()
        return data == original if original is not None else self._decodes(data)

    def _decodes(self, data: bytes) -> bool:
        height, width, _ = self.source.tile_shape
        return self.coding.holds(data, Size(width, height))

    def finish(self, images: _Images) -> SavedTiles:
        """Write the tables; the last one says that the folder is finished."""
        rows = np.array([row for row in range(len(self.source)) if row not in images.errors], np.int64)
        lost = np.array(sorted(images.errors), np.int64)
        files = [self.file(row) for row in rows.tolist()]
        flush_files(files)  # those of an earlier run too: nobody knows whether the disk has them
        (self.folder / UNREADABLE).unlink(missing_ok=True)
        if len(lost):
            reasons = [images.errors[row] for row in lost.tolist()]
            _write_table(self.folder / UNREADABLE, {**self._columns(lost), "error": texts(reasons)})
        saved = SavedTiles(self.folder, len(self.source), len(lost), images.n_written, len(images.passed), "done")
        write_json(self.folder / PROPERTIES, self._properties(saved))
        columns = {
            "path": texts([str(file) for file in files]),
            "file": texts([f"tiles/{file.name}" for file in files]),
            "passthrough": flags(np.isin(rows, images.passed)),
        }
        _write_table(self.folder / METADATA, {**self._columns(rows), **columns})
        return saved

    def _columns(self, rows: Int64[np.ndarray, " n"]) -> dict[str, pa.Array]:
        boxes = self.source.boxes[rows].astype(np.int64)
        return {name: integers(boxes[:, column]) for column, name in enumerate("xywh")}

    def _properties(self, saved: SavedTiles) -> dict[str, object]:
        """HistoPrep's properties, and ours: mpp, unreadable tiles and what lies in recipe.json."""
        tiles = self.source.tiles if isinstance(self.source, SlideTiles) else None
        coding = self.coding.recipe
        height, width, _ = self.source.tile_shape
        # without any tile the size on level 0 is not known from boxes
        box = self.source.boxes[0] if len(self.source) else np.zeros(4, np.int64)
        overlap, max_background = _histoprep_terms(tiles)
        return {
            "num_tiles": saved.n_tiles - saved.n_unreadable,
            "level": None if tiles is None else tiles.level,
            "level_downsample": [int(box[3]) / height, int(box[2]) / width],
            "width": int(box[2]),
            "height": int(box[3]),
            "overlap": overlap,
            "max_background": max_background,
            "mpp": self.source.mpp,
            "num_unreadable": saved.n_unreadable,
            "num_passthrough": saved.n_passthrough,
            "image_format": self.coding.image_format,
            "quality": coding["image_quality"],
            "subsampling": coding["image_subsampling"],
            "passthrough": coding["image_passthrough"],
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
