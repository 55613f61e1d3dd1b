"""`microtome srh stain`: virtual H&E pictures of slides."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from PIL import Image

from microtome.config.srh import SrhStainConfig
from microtome.errors import ConfigError, MicrotomeError, OutputWriteError, TileError
from microtome.storage import written_whole
from microtome.tasks.srh.study import SrhSlideEntry, list_srh_slides, open_srh_tiles
from microtome.tasks.srh.thumbnails import CHUNK, shrink
from microtome.tiles.srh import SrhTiles
from microtome.viz.srh_maps import draw_slide, jpeg_bytes, lay_mosaic, write_picture
from microtome.viz.srh_stain import find_stain_range, virtual_stain


@dataclass(frozen=True)
class Stained:
    """A slide's picture, or why there is none."""

    slide_id: str
    path: Path | None
    error: str | None = None
    n_skipped: int = 0


def srh_stain(config: SrhStainConfig) -> Sequence[Stained]:
    """Draw virtual H&E pictures.

    Args:
        config: Which slides, and where to.

    Returns:
        One entry per slide; a bad slide says why it has no picture.

    Raises:
        ConfigError: If a setting cannot be honoured.
        NoTilesError: If there is no slide.
        OutputWriteError: If a picture cannot be written.
    """
    entries = list_srh_slides(config.slides, studies=config.study_names, meta=config.meta)
    done = []
    for entry in entries:
        try:
            done.append(_stain(entry, config))
        except (OutputWriteError, ConfigError):
            raise
        except (MicrotomeError, OSError, MemoryError) as error:
            done.append(Stained(entry.name, None, str(error) or type(error).__name__))
    return done


def _stain(entry: SrhSlideEntry, config: SrhStainConfig) -> Stained:
    if entry.kind == "dump":
        raise TileError(f"'{entry.path}' holds embeddings and no pixels: there is nothing to stain.")
    with open_srh_tiles(entry, channel_order=config.channel_order, mpp=config.mpp) as source:
        small, rows = _thumbnails(source, skip=config.bad_patches == "skip")
        n_skipped = len(source) - len(rows)
        if config.full:
            path = config.out / f"{entry.name}.png"
            _write_full(path, source, rows, small)
        else:
            path = config.out / f"{entry.name}.jpg"
            picture = draw_slide(lay_mosaic(small, source.boxes[rows], mpp=config.mpp))
            write_picture(path, jpeg_bytes(picture))
    return Stained(entry.name, path, n_skipped=n_skipped)


def _thumbnails(source: SrhTiles, *, skip: bool) -> tuple[Float32[np.ndarray, "n 2 t t"], np.ndarray]:
    """Of the patches that can be read, and their rows."""
    parts, rows = [], []
    for start in range(0, len(source), CHUNK):
        batch = source.read(np.arange(start, min(start + CHUNK, len(source))))
        if batch.errors and not skip:
            raise TileError(f"{next(iter(batch.errors.values()))} Pass --bad-patches skip to leave its place white.")
        if batch.readable.any():
            parts.append(shrink(batch.images[batch.readable]))
            rows.append(batch.rows[batch.readable])
    if not rows:
        raise TileError(f"No patch of slide '{source.slide_id}' can be read. Copy it again from its source.")
    return np.concatenate(parts), np.concatenate(rows)


def _write_full(path: Path, source: SrhTiles, rows: np.ndarray, small: Float32[np.ndarray, "n 2 t t"]) -> None:
    """The slide in its own pixels; the stain's range is that of the thumbnails."""
    over = find_stain_range(small)
    boxes = source.boxes[rows]
    corner = boxes[:, :2].min(axis=0)
    width, height = ((boxes[:, :2] + boxes[:, 2:]).max(axis=0) - corner).tolist()
    picture = np.full((height, width, 3), 255, np.uint8)
    for start in range(0, len(rows), CHUNK):
        some = rows[start : start + CHUNK]
        stained = virtual_stain(source.read(some).images.transpose(0, 3, 1, 2).astype(np.float32), over)
        for (x, y), tile in zip((source.boxes[some, :2] - corner).tolist(), stained, strict=True):
            picture[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    with written_whole(path) as temporary:
        Image.fromarray(picture).save(temporary, "PNG")
