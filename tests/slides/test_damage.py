"""Files cut off and spoiled at random: an error of ours or pixels, never anything else, and never a wait."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from microtome.errors import MicrotomeError
from microtome.slides.listing import list_slides
from microtome.slides.open import explain_readers, open_slide
from microtome.slides.write import TileCoding, write_ome_tiff, write_svs
from microtome.testing.dicom import write_dicom
from tests.slides.fakes import canvas_of, coordinates, noise, save_png, write_pages

_N_SPOILED = 40


def _svs(path: Path) -> None:
    write_svs(path, canvas_of(coordinates(128, 128)), coding=TileCoding(64))


def _ome(path: Path) -> None:
    write_ome_tiff(path, canvas_of(noise(64, 96, 2, "uint16")), coding=TileCoding(32, compression="deflate"))


def _tiled(path: Path) -> None:
    write_pages(path, noise(64, 96), tile=(32, 32), compression="lzw", bigtiff=True, byteorder=">")


def _striped(path: Path) -> None:
    write_pages(path, noise(64, 96), rowsperstrip=5, compression="packbits")


def _imagej(path: Path) -> None:
    tifffile.imwrite(path, noise(30, 40, 4).transpose(2, 0, 1).copy(), imagej=True)


def _png(path: Path) -> None:
    save_png(path, noise(30, 40, 4), format="PNG")


def _wide_png(path: Path) -> None:
    save_png(path, noise(30, 40, 1, "uint16"), format="PNG")


def _jpeg(path: Path) -> None:
    Image.fromarray(noise(64, 64)).save(path, format="JPEG")


def _dicom(path: Path) -> None:
    folder = path.with_name("dicom")
    write_dicom(folder, canvas_of(coordinates(64, 64), downsamples=(1,)), coding=TileCoding(32))
    (folder / "level-0.dcm").rename(path)
    folder.rmdir()


_KINDS = (_svs, _ome, _tiled, _striped, _imagej, _png, _wide_png, _jpeg, _dicom)


def spoiled(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut off, or with some bytes exchanged, more often near both ends, where the indices are."""
    out = bytearray(data)
    if rng.random() < 0.3:
        return bytes(out[: rng.integers(len(out))])
    for _ in range(rng.choice([1, 3, 20])):
        reach = rng.choice([len(out), min(len(out), 400)])
        at = int(rng.integers(reach))
        out[at if rng.random() < 0.6 else len(out) - 1 - at] = int(rng.choice(np.array([0, 255, rng.integers(256)])))
    return bytes(out)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("make", _KINDS, ids=lambda make: make.__name__)
def test_spoiled_files(tmp_path, make):
    path = tmp_path / "a.bin"
    make(path)
    whole = path.read_bytes()
    with open_slide(path) as slide:
        slide.thumbnail(32)
    for seed in range(_N_SPOILED):
        path.write_bytes(spoiled(whole, np.random.default_rng(seed)))
        with suppress(MicrotomeError), open_slide(path) as slide:
            assert slide.thumbnail(32).dtype == np.uint8
            assert slide.fingerprint
        with suppress(MicrotomeError):
            assert explain_readers(path)
        list_slides([tmp_path])
