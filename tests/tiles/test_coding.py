"""How tile images are stored."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, JpegImagePlugin

from microtome.errors import ConfigError
from microtome.geometry import Size
from microtome.tiles.coding import ImageCoding

SIZE = Size(96, 64)


def picture(seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 255, (6, 9, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((SIZE.width, SIZE.height), Image.Resampling.BICUBIC))


def opened(data):
    return Image.open(io.BytesIO(data))


ENCODED = {name: ImageCoding(name).encode(picture()) for name in ("jpeg", "png")}


@pytest.mark.parametrize("quality", [1, 50, 80, 100])
def test_jpeg_is_as_pillow_and_so_histoprep_writes_it(quality):
    """Same tables, same subsampling, same size; pixels as close to the original."""
    image = picture()
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="jpeg", quality=quality)
    ours, theirs = opened(ImageCoding(quality=quality).encode(image)), opened(file.getvalue())
    assert ours.quantization == theirs.quantization
    assert JpegImagePlugin.get_sampling(ours) == JpegImagePlugin.get_sampling(theirs) == 2  # 4:2:0
    error = [np.abs(np.asarray(i, np.int16) - image).mean() for i in (ours, theirs)]
    assert error[0] == pytest.approx(error[1], rel=0.05, abs=0.1)


def test_png_loses_nothing():
    np.testing.assert_array_equal(np.asarray(opened(ENCODED["png"])), picture())


def test_rows_that_do_not_lie_side_by_side_are_encoded_alike():
    wide = np.concatenate([picture(), picture(1)], axis=1)
    for coding in (ImageCoding(), ImageCoding("png")):
        assert coding.encode(wide[:, : SIZE.width]) == coding.encode(picture())


@pytest.mark.parametrize("name", ["jpeg", "png"])
def test_only_whole_images_of_the_size_hold(name):
    coding, other = ImageCoding(name), {"jpeg": "png", "png": "jpeg"}[name]
    assert coding.holds(ENCODED[name], SIZE)
    assert not coding.holds(ENCODED[name], Size(SIZE.height, SIZE.width))
    assert not coding.holds(ENCODED[other], SIZE)
    for nothing in (b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", bytes(1000)):
        assert not coding.holds(nothing, SIZE)


@pytest.mark.parametrize("name", ["jpeg", "png"])
@given(share=st.floats(0, 1, exclude_max=True), filled=st.booleans())
def test_what_a_power_cut_leaves_does_not_hold(name, share, filled):
    """The beginning of a file, at its length or, as some file systems have it, with zeros up to its full length."""
    whole = ENCODED[name]
    kept = whole[: int(share * (len(whole) - 2))]  # less than its last two bytes, which end it
    assert not ImageCoding(name).holds(kept + bytes(len(whole) - len(kept)) if filled else kept, SIZE)


@pytest.mark.parametrize("name", ["jpeg", "png"])
@given(seed=st.integers(0, 2**32 - 1))
def test_noise_never_raises(name, seed):
    rng = np.random.default_rng(seed)
    data = bytearray(ENCODED[name])
    for at in rng.integers(0, len(data), 4):
        data[at] = rng.integers(0, 256)
    assert ImageCoding(name).holds(bytes(data), SIZE) in (True, False)


@pytest.mark.parametrize("quality", [0, 101, -5])
def test_quality_out_of_range_is_refused(quality):
    with pytest.raises(ConfigError, match=f"1 to 100. Got {quality}"):
        ImageCoding(quality=quality)


def test_every_setting_is_in_the_recipe():
    recipes = [
        dict(coding.recipe)
        for coding in (ImageCoding(), ImageCoding(quality=81), ImageCoding(passthrough="never"), ImageCoding("png"))
    ]
    assert all(recipe not in recipes[:index] for index, recipe in enumerate(recipes))
    assert ImageCoding("png", quality=3).recipe == ImageCoding("png", passthrough="never").recipe
