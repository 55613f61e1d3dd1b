"""Quality of tiles against pictures made for it, and against OpenCV's own operators."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp
from PIL import Image

from microtome.tissue.pen import is_ink
from microtome.tissue.quality import tile_quality

KEYS = {"blur", "pen", "black", "white"}


def sharp_tile(seed=0):
    rng = np.random.default_rng(seed)
    tile = np.full((128, 128, 3), (225, 170, 200), np.uint8)
    for x, y in rng.integers(4, 124, (60, 2)):
        cv2.circle(tile, (int(x), int(y)), 4, (100, 60, 140), -1)
    return tile


def test_blur_rises_with_blur():
    tile = sharp_tile()
    series = np.stack([tile, *(cv2.GaussianBlur(tile, (0, 0), s) for s in (1, 2, 4, 8))])
    blur = tile_quality(series)["blur"]
    assert np.all(np.diff(blur) > 0)
    assert blur[0] < 0.2
    assert blur[-1] > 0.9
    grey = cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY)
    variance = cv2.Laplacian(grey, cv2.CV_32F).var()
    assert blur[0] == pytest.approx(1 / (1 + variance / 100), rel=0.02)


def test_pen_black_and_white_are_shares():
    tile = np.full((100, 100, 3), (205, 140, 180), np.uint8)
    tile[:20] = 240
    tile[20:30] = 10
    tile[30:70] = (31, 140, 115)
    tile[70:75] = (29, 68, 188)
    tile[75:80] = (206, 34, 57)
    quality = {name: float(value[0]) for name, value in tile_quality(tile[None]).items()}
    assert quality["white"] == pytest.approx(0.2)
    assert quality["black"] == pytest.approx(0.1)
    assert quality["pen"] == pytest.approx(0.1 + 0.4 + 0.05 + 0.05)  # black ink is ink


def test_real_tissue_is_hardly_pen(shared):
    folder = shared / "data/tiles"
    names = ["histolab/tissue-level0-4302-10273-4814-10785.png", "histolab/tissue-level0-7352-11762-7864-12274.png"]
    names += [f"histoqc/templates__template{i}.png" for i in (1, 2, 3)]
    for name in names:
        tile = np.asarray(Image.open(folder / name).convert("RGB"))
        assert tile_quality(tile[None])["pen"][0] < 0.02
    pen = np.asarray(Image.open(folder / "histolab/no-tissue-green-pen.png").convert("RGB"))
    assert tile_quality(pen[None])["pen"][0] > 0.5


@given(images=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6).map(lambda s: (*s, 3))))
def test_always_finite_shares_and_independent_of_the_batch(images):
    quality = tile_quality(images)
    assert quality.keys() == KEYS
    for name, values in quality.items():
        assert values.shape == (len(images),)
        assert values.dtype == np.float32
        assert np.all((values >= 0) & (values <= 1))
        assert tile_quality(images[:1])[name][0] == values[0]


def test_no_tiles():
    quality = tile_quality(np.zeros((0, 8, 8, 3), np.uint8))
    assert {name: value.shape for name, value in quality.items()} == dict.fromkeys(KEYS, (0,))


@given(colours=hnp.arrays(np.uint8, (16, 16, 3)))
def test_every_colour_is_judged_as_it_would_be_alone(colours):
    density = np.maximum(0, np.log(244 / (colours.astype(np.float32) + 1)))
    quality = tile_quality(colours[None])
    assert quality["pen"][0] == pytest.approx(is_ink(density).mean(), abs=1.5 / 256)  # a limit may round either way
    assert quality["black"][0] == np.float32((colours <= 50).all(axis=2).mean())
    assert quality["white"][0] == np.float32((colours >= 220).all(axis=2).mean())
