"""Every kind of bad input has its own error class and a sentence, and nothing hangs."""

import os
import shutil
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tifffile

from microtome import errors
from microtome.geometry import Box
from microtome.slides import probe as probe_module
from microtome.slides.open import open_slide
from microtome.slides.write import TileCoding, write_svs, write_tiff
from microtome.testing.damage import break_tile
from tests.slides.fakes import canvas_of, coordinates, noise, save_png, write_pages


def refusal(path: Path, kind: type[errors.MicrotomeError]) -> str:
    with pytest.raises(errors.SlideOpenError) as caught:
        open_slide(path)
    assert type(caught.value) is kind
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.fixture
def svs(tmp_path: Path) -> Path:
    path = tmp_path / "a.svs"
    write_svs(path, canvas_of(coordinates(512, 512)), coding=TileCoding(64))
    return path


def test_nothing_there(tmp_path):
    assert "no file" in refusal(tmp_path / "absent.svs", errors.SlideNotFoundError)
    assert "no file" in refusal(tmp_path / "absent" / "a.svs", errors.SlideNotFoundError)
    with pytest.raises(FileNotFoundError):
        open_slide(tmp_path / "absent.svs")


def test_a_link_to_nothing(tmp_path):
    link = tmp_path / "a.svs"
    link.symlink_to(tmp_path / "gone.svs")
    assert "target is gone" in refusal(link, errors.SlideNotFoundError)


def test_a_file_where_a_folder_should_be(svs):
    refusal(svs / "inside.svs", errors.SlideNotFoundError)


@pytest.mark.parametrize("suffix", [".svs", ".tif", ".ndpi", ".png", ""])
def test_empty(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.touch()
    assert "0 bytes" in refusal(path, errors.EmptyFileError)


def test_directory(tmp_path):
    refusal(tmp_path, errors.SlideIsDirectoryError)
    with pytest.raises(IsADirectoryError):
        open_slide(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"slide_id,path\nA,a.svs\n", "slide_id,path"),
        ("größer und breiter\n".encode() * 400, "größer"),
        (b"<!DOCTYPE html><html>404 Not Found</html>", "DOCTYPE"),
        (b'{"type": "FeatureCollection"}', "FeatureCollection"),
        (b"\n\n  x", "'x'"),
    ],
)
def test_text(tmp_path, content, words):
    path = tmp_path / "a.svs"
    path.write_bytes(content)
    sentence = refusal(path, errors.NotAnImageError)
    assert "text" in sentence
    assert words in sentence


def test_lfs_pointer(tmp_path):
    path = tmp_path / "a.svs"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    assert "git lfs pull" in refusal(path, errors.LfsPointerError)


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"PK\x03\x04", "ZIP"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"%PDF-1.7", "PDF"),
        (b"\x93NUMPY", "NumPy"),
        (b"\x01\x02\x03\x04\xff\xfe", "01 02 03 04"),
    ],
)
def test_other_files(tmp_path, head, what):
    path = tmp_path / "a.tif"
    path.write_bytes(head + b"\0\x01\x80" * 2000)
    assert what in refusal(path, errors.NotAnImageError)


def test_zeros(tmp_path):
    path = tmp_path / "a.svs"
    path.write_bytes(bytes(10_000))
    assert "interrupted copy" in refusal(path, errors.CorruptSlideError)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_does_not_hang(tmp_path):
    path = tmp_path / "a.svs"
    os.mkfifo(path)
    assert "pipe" in refusal(path, errors.NotAnImageError)


def test_permission(tmp_path, monkeypatch, svs):
    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(probe_module, "_read_head", denied)
    assert "permissions" in refusal(svs, errors.SlidePermissionError)
    with pytest.raises(PermissionError):
        open_slide(svs)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no user ids on this system")
def test_permission_of_the_file_system(svs):
    """As another user where this one is root, whom no permission stops."""
    svs.chmod(0)
    code = (
        "import os, sys\n"
        "from microtome.slides.open import open_slide\n"
        "import microtome.slides.openslide_reader\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "try: open_slide(sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(svs)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "SlidePermissionError", done.stderr


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.999])
def test_truncated_tiff(svs, share):
    data = svs.read_bytes()
    svs.write_bytes(data[: int(len(data) * share)])
    sentence = refusal(svs, errors.TruncatedSlideError)
    assert "cut off" in sentence
    assert str(int(len(data) * share)) in sentence


def test_truncated_real_slide(shared, tmp_path):
    data = (shared / "data/wsi/CMU-1-Small-Region.svs").read_bytes()
    path = tmp_path / "half.svs"
    path.write_bytes(data[: len(data) // 2])
    assert "cut off" in refusal(path, errors.TruncatedSlideError)


def test_truncated_where_the_index_comes_first(tmp_path):
    """The index is whole and only pixels are missing."""
    path = tmp_path / "a.tif"
    write_pages(path, noise(256, 256), tile=(64, 64))
    assert struct.unpack("<I", path.read_bytes()[4:8])[0] < 100
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 10)
    assert "1 of 16 tiles or strips" in refusal(path, errors.TruncatedSlideError)


def test_truncated_sub_ifd(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(noise(256, 256), tile=(64, 64), photometric="rgb", subifds=1)
        tiff.write(noise(128, 128), tile=(64, 64), photometric="rgb", subfiletype=1)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 10)
    refusal(path, errors.TruncatedSlideError)


@pytest.mark.parametrize("big", [False, True])
def test_ring_of_pages(tmp_path, big):
    path = tmp_path / "a.tif"
    write_pages(path, noise(32, 32), tile=(32, 32), bigtiff=big)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        first, n_tags = page.offset, len(page.tags)
    at, word = (first + 8 + 20 * n_tags, "<Q") if big else (first + 2 + 12 * n_tags, "<I")
    data[at : at + struct.calcsize(word)] = struct.pack(word, first)
    path.write_bytes(bytes(data))
    assert "ring" in refusal(path, errors.CorruptSlideError)


def test_index_of_nonsense(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(b"II*\0\x08\0\0\0" + struct.pack("<H", 60000) + bytes(800_000))
    assert "60000 entries" in refusal(path, errors.CorruptSlideError)
    path.write_bytes(b"II*\0\0\0\0\0" + bytes(100))
    assert "no image" in refusal(path, errors.CorruptSlideError)
    path.write_bytes(b"II*\0\xff\xff\xff\x7f" + bytes(100))
    refusal(path, errors.TruncatedSlideError)


def test_no_width(tmp_path):
    path = tmp_path / "a.tif"
    write_pages(path, noise(32, 32), tile=(32, 32))
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags[256].overwrite(0)
    assert "0 × 32 px" in refusal(path, errors.ZeroSizeError)


def test_unknown_compression(tmp_path):
    path = tmp_path / "a.tif"
    write_pages(path, noise(32, 32), rowsperstrip=8, compression="deflate")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags[259].overwrite(64123)
    assert "64123" in refusal(path, errors.UnsupportedCompressionError)


def test_piece_too_large_to_decode(tmp_path):
    path = tmp_path / "a.tif"
    write_pages(path, noise(32, 32), rowsperstrip=32, compression="deflate")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for tag in (256, 257, 278):
            tiff.pages.first.tags[tag].overwrite(60_000)
    assert "GB" in refusal(path, errors.UnsupportedFormatError)


def test_mirax_without_its_folder(tmp_path):
    path = tmp_path / "a.mrxs"
    save_png(tmp_path / "a.jpg", noise(20, 20))
    (tmp_path / "a.jpg").rename(path)  # its main file is a picture, which must not be taken for the slide
    assert "Slidedat.ini" in refusal(path, errors.MissingCompanionError)
    (tmp_path / "a").mkdir()
    refusal(path, errors.MissingCompanionError)
    (tmp_path / "a" / "Slidedat.ini").write_text("[GENERAL]\n")
    refusal(path, errors.UnsupportedFormatError)


def test_vms_without_its_images(tmp_path):
    path = tmp_path / "a.vms"
    path.write_text("[Virtual Microscope Specimen]\nNoLayers=1\nImageFile=a.jpg\nImageFile(1,0)=b.jpg\nMapFile=m.jpg\n")
    (tmp_path / "a.jpg").touch()
    sentence = refusal(path, errors.MissingCompanionError)
    assert "b.jpg, m.jpg" in sentence
    with pytest.raises(FileNotFoundError):
        open_slide(path)


def test_dicom_of_another_kind_or_without_its_other_files(shared, tmp_path):
    source = shared / "data/wsi"
    assert "Segmentation" in refusal(source / "highdicom/seg_image_sm_dots.dcm", errors.NotASlideError)
    shutil.copy(source / "dicom_wg26_FluorCell_4/2", tmp_path / "label.dcm")
    assert "LABEL" in refusal(tmp_path / "label.dcm", errors.MissingCompanionError)


def test_truncated_dicom(shared, tmp_path):
    data = (shared / "data/wsi/highdicom/sm_image.dcm").read_bytes()
    path = tmp_path / "a.dcm"
    path.write_bytes(data[:600])
    assert "within its header" in refusal(path, errors.TruncatedSlideError)


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_truncated_image(tmp_path, name):
    path = tmp_path / name
    save_png(path, noise(200, 200))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "cut off" in refusal(path, errors.TruncatedSlideError)


def test_damaged_image(tmp_path):
    path = tmp_path / "a.png"
    save_png(path, noise(200, 200))
    data = bytearray(path.read_bytes())
    data[5000:6000] = bytes(1000)
    path.write_bytes(bytes(data))
    assert "cannot be decoded" in refusal(path, errors.CorruptSlideError)


def written(path: Path, image: np.ndarray, reader: str) -> np.ndarray:
    """Write a slide that the reader takes; what its pixels then are."""
    coding = TileCoding(64, "jpeg" if reader == "direct" else "deflate")
    write_tiff(path, canvas_of(image, downsamples=(1,)), coding=coding)
    with open_slide(path, reader="openslide") as slide:
        return slide.read(Box.of(slide.size))


@pytest.mark.parametrize("reader", ["direct", "openslide", "tifffile"])
def test_unreadable_region(tmp_path, reader):
    """One broken tile: the error names the place and the reason, and everything else stays readable."""
    path, image = tmp_path / "a.tif", noise(512, 512)
    image = written(path, image, reader)
    broken = break_tile(path, index=9)
    with open_slide(path, reader=reader) as slide:
        for _ in range(2):
            with pytest.raises(errors.UnreadableRegionError) as caught:
                slide.read(broken)
            sentence = str(caught.value)
            assert f"x={broken.x} y={broken.y} 64×64" in sentence
            assert "a.tif" in sentence
            np.testing.assert_array_equal(slide.read(Box(0, 0, 64, 64)), image[:64, :64])
        with pytest.raises(OSError, match="cannot be decoded"):
            slide.read(Box(0, 0, 512, 512))
        np.testing.assert_array_equal(slide.read(Box(0, 128, 512, 384)), image[128:])


@pytest.mark.parametrize("reader", ["direct", "openslide", "tifffile"])
def test_unreadable_region_among_threads(tmp_path, reader):
    """A thread that meets the broken tile spoils nothing for the others."""
    path, image = tmp_path / "a.tif", noise(256, 256)
    image = written(path, image, reader)
    broken = break_tile(path, index=5)
    wrong: list[str] = []
    with open_slide(path, reader=reader) as slide:

        def work(seed: int) -> None:
            for cell in np.random.default_rng(seed).permutation(16):
                box = Box(int(cell) % 4 * 64, int(cell) // 4 * 64, 64, 64)
                try:
                    pixels = slide.read(box)
                except errors.UnreadableRegionError:
                    if box != broken:
                        wrong.append(f"{box} could not be read")
                else:
                    if box == broken or not np.array_equal(pixels, image[box.y : box.bottom, box.x : box.right]):
                        wrong.append(f"{box} came out wrong")

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


@pytest.mark.parametrize("reader", ["direct", "openslide", "tifffile"])
def test_a_slide_changed_while_open(tmp_path, reader):
    path = tmp_path / "a.tif"
    written(path, noise(256, 256), reader)
    with open_slide(path, reader=reader) as slide:
        break_tile(path, index=5)
        os.utime(path, ns=(1, 1))
        with pytest.raises(errors.SlideChangedError, match="changed"):
            slide.read(Box(64, 64, 64, 64))
        path.unlink()
        with pytest.raises(errors.SlideChangedError, match="went away"):
            slide.read(Box(64, 64, 64, 64))


def test_a_slide_exchanged_before_it_is_unpickled(tmp_path):
    path = tmp_path / "a.png"
    save_png(path, noise(32, 32))
    with open_slide(path) as slide:
        again, arguments, _ = slide.__reduce__()
    save_png(path, noise(32, 32)[::-1])
    with pytest.raises(errors.SlideChangedError, match="not the file"):
        again(*arguments)
