"""Small two-channel TIFF files: what is taken, and what is refused in words that help."""

import numpy as np
import pytest
import tifffile

from microtome.errors import ChannelError, CorruptSlideError, EmptyFileError, MicrotomeError, SlideOpenError
from microtome.slides.srh_tiff import read_srh_patch


def patch(shape=(2, 300, 300), dtype=np.uint16, seed=0):
    return np.random.default_rng(seed).integers(1, 250, shape).astype(dtype)


@pytest.mark.parametrize("how", [{}, {"photometric": "minisblack"}, {"compression": "zlib"}, {"metadata": None}])
def test_channels_come_first_as_stored(tmp_path, how):
    pixels = patch()
    tifffile.imwrite(tmp_path / "a.tif", pixels, **({"photometric": "minisblack"} | how))
    found = read_srh_patch(tmp_path / "a.tif", side=300)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize(
    ("pixels", "error", "said"),
    [
        (patch(dtype=np.uint8), ChannelError, "8-bit"),
        (patch(dtype=np.float32), ChannelError, "float32"),
        (np.full((2, 300, 300), np.nan, np.float32), ChannelError, "float32"),
        (patch((300, 300)), ChannelError, "1 channel"),
        (patch((3, 300, 300)), ChannelError, "3 channel"),
        (patch((300, 300, 2)), ChannelError, "channels last"),
        (patch((2, 256, 256)), SlideOpenError, "256 x 256"),
        (patch((2, 300, 299)), SlideOpenError, "299 x 300"),
    ],
)
def test_other_images_are_refused(tmp_path, pixels, error, said):
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack")
    with pytest.raises(error, match=said) as caught:
        read_srh_patch(tmp_path / "a.tif", side=300)
    assert isinstance(caught.value, MicrotomeError)
    assert "a.tif" in str(caught.value)


def test_damaged_files_are_refused(tmp_path):
    whole = tmp_path / "whole.tif"
    tifffile.imwrite(whole, patch(), photometric="minisblack")
    content = whole.read_bytes()
    (tmp_path / "empty.tif").write_bytes(b"")
    (tmp_path / "cut.tif").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.tif").write_bytes(b"not an image at all")
    with pytest.raises(EmptyFileError, match="empty"):
        read_srh_patch(tmp_path / "empty.tif")
    for name in ("cut.tif", "text.tif", "absent.tif"):
        with pytest.raises(CorruptSlideError, match=name):
            read_srh_patch(tmp_path / name)
