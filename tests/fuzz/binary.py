"""Spoiled binary files read in a process of their own: a crash, a hang or a foreign error names the seed.

Run as ``python -m tests.fuzz.binary <kind> <folder> <first seed> <last seed>``.
"""

import faulthandler
import io
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from microtome.errors import MicrotomeError
from microtome.features.store import FeatureStore
from microtome.slides.listing import list_slides
from microtome.slides.open import explain_readers, open_slide
from microtome.slides.write import TileCoding, write_svs
from microtome.tasks.cluster import Clusters, load_clusters
from microtome.tasks.cluster_tables import read_assignment, read_table_recipe, write_assignment
from microtome.testing.dicom import write_dicom
from microtome.testing.store_contract import RECIPE, example_boxes, example_features
from microtome.tiles.grid import Grid, lay_tiles
from microtome.tiles.store import read_tile_quality, read_tiles, read_tiles_recipe, write_tiles
from microtome.viz.report_inputs import OutputFiles
from tests.fuzz.mutations import spoil_bytes, spoil_head, spoil_tiff
from tests.slides.fakes import canvas_of, coordinates, noise, write_pages
from tests.tiles.fakes import noise_slide

HANGS_AFTER_S = 30.0
_MAX_MEMORY_BYTES = 6 * 2**30


@dataclass(frozen=True)
class Kind:
    """A file: how it is made, spoiled and read."""

    make: Callable[[Path], None]
    spoil: Callable[[bytes, np.random.Generator], bytes]
    read: Callable[[Path], None]


def _read_slide(path: Path) -> None:
    with suppress(MicrotomeError), open_slide(path) as slide:
        assert slide.thumbnail(32).dtype == np.uint8
        assert slide.fingerprint
        _ = slide.properties
        for name in slide.associated_names:
            with suppress(MicrotomeError):
                slide.read_associated(name)
    with suppress(MicrotomeError), open_slide(path, reader="tifffile") as slide:
        assert slide.thumbnail(32).dtype == np.uint8
    with suppress(MicrotomeError):
        assert explain_readers(path)
    list_slides([path.parent])


def _read_features(path: Path) -> None:
    store = FeatureStore(path.parent)
    for read in (store.check, store.recipe_text):
        with suppress(MicrotomeError):
            read(path.stem)


def _read_tiles(path: Path) -> None:
    for read in (read_tiles, read_tiles_recipe, read_tile_quality):
        with suppress(MicrotomeError):
            read(path)


def _read_clusters(path: Path) -> None:
    with suppress(MicrotomeError):
        load_clusters(path)


def _read_table(path: Path) -> None:
    with suppress(MicrotomeError):
        read_assignment(path)
    with suppress(MicrotomeError):
        read_table_recipe(path)
    with suppress(MicrotomeError):
        OutputFiles(path.parents[1]).read_clusters_of(path.stem)


def _tiled_jpeg(path: Path) -> None:
    write_pages(path, coordinates(96, 128), tile=(32, 32), compression="jpeg", photometric="ycbcr", byteorder="<")


def _striped_deflate(path: Path) -> None:
    write_pages(path, noise(64, 48), rowsperstrip=7, compression="deflate", predictor=True, byteorder="<")


def _raw_with_palette(path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 2**16, (3, 256)).astype(np.uint16)
    image = noise(40, 30)[:, :, 0]
    tifffile.imwrite(path, image, photometric="palette", colormap=colours, metadata=None, byteorder="<")


def _svs(path: Path) -> None:
    label = noise(20, 30)
    write_svs(path, canvas_of(coordinates(128, 128)), associated={"label": label}, coding=TileCoding(64))


def _picture(path: Path, form: str, **options: object) -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise(30, 40, 4 if form == "PNG" else 3)).save(buffer, format=form, **options)
    path.write_bytes(buffer.getvalue())


def _dicom(path: Path) -> None:
    folder = path.with_name("dicom")
    write_dicom(folder, canvas_of(coordinates(64, 64), downsamples=(1,)), coding=TileCoding(32))
    (folder / "level-0.dcm").rename(path)
    folder.rmdir()


def _spoil_dicom(data: bytes, rng: np.random.Generator) -> bytes:
    """The header: everything before the pixel data."""
    return spoil_bytes(data, rng, 128, data.index(b"\xe0\x7f\x10\x00"))


def _features(path: Path) -> None:
    FeatureStore(path.parent).write(path.stem, example_features(8), example_boxes(8), recipe=RECIPE)


def _tiles(path: Path) -> None:
    tiles = lay_tiles(noise_slide(300, 200, mpp=0.5), None, Grid(tile_px=32, mpp=0.5))
    write_tiles(path, tiles, slide_id="a", recipe=RECIPE, quality={"blur": np.zeros(len(tiles), np.float32)})


def _clusters(path: Path) -> None:
    rng = np.random.default_rng(0)
    mean, scale = rng.random(5), 1 + rng.random(5)
    Clusters(rng.random((3, 5)).astype(np.float32), mean, scale, np.arange(3), 1.5, "{}").save(path)


def _table(path: Path) -> None:
    n = 40
    write_assignment(path, example_boxes(n), np.arange(n) % 3, np.ones(n, np.float32), recipe='{"clusters":"x"}')


KINDS = {
    "tiled_jpeg.tif": Kind(_tiled_jpeg, spoil_tiff, _read_slide),
    "striped_deflate.tif": Kind(_striped_deflate, spoil_tiff, _read_slide),
    "palette.tif": Kind(_raw_with_palette, spoil_tiff, _read_slide),
    "aperio.svs": Kind(_svs, spoil_tiff, _read_slide),
    "picture.png": Kind(lambda path: _picture(path, "PNG", dpi=(300, 300)), spoil_head, _read_slide),
    "picture.jpg": Kind(lambda path: _picture(path, "JPEG", dpi=(300, 300)), spoil_head, _read_slide),
    "slide.dcm": Kind(_dicom, _spoil_dicom, _read_slide),
    "features/a.h5": Kind(_features, spoil_head, _read_features),
    "tiles/a.h5": Kind(_tiles, spoil_head, _read_tiles),
    "clusters/centroids.npz": Kind(_clusters, spoil_head, _read_clusters),
    "clusters/a.parquet": Kind(_table, spoil_head, _read_table),
}


def main(name: str, folder: Path, first: int, last: int) -> int:
    """Spoil and read with each seed; how many gave anything but a result or an error of ours."""
    kind, path = KINDS[name], folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    kind.make(path)
    whole = path.read_bytes()
    kind.read(path)
    warnings.simplefilter("error")
    n_bad = 0
    for seed in range(first, last):
        sys.stdout.write(f"{name} seed {seed}\n")  # the last line names the seed of a crash or a hang
        sys.stdout.flush()
        faulthandler.dump_traceback_later(HANGS_AFTER_S, exit=True)
        path.write_bytes(kind.spoil(whole, np.random.default_rng(seed)))
        try:
            kind.read(path)
        except MemoryError:
            pass  # a damaged size, or the limit set below; a run counts it as this slide's failure
        except Exception:  # noqa: BLE001 - whatever it is, it is what is looked for
            n_bad += 1
            sys.stderr.write(f"{name} seed {seed}:\n{traceback.format_exc()}\n")
        faulthandler.cancel_dump_traceback_later()
    return n_bad


def _limit_memory() -> None:
    """Where the system can: a file that asks for too much fails and does not take the machine."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))


if __name__ == "__main__":
    faulthandler.enable()
    _limit_memory()
    sys.exit(min(99, main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))
