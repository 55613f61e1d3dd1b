"""What stands before a network, against Pillow and timm's own transforms."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from microtome.encoders.base import Card
from microtome.encoders.preprocess import Preprocess, plan_geometry
from microtome.encoders.resampling import INTERPOLATIONS, resize_matrix
from microtome.errors import ConfigError, TileSizeError

FILTERS = {name: getattr(Image.Resampling, name.upper()) for name in INTERPOLATIONS}
CARD = Card(
    name="any",
    dim=1,
    input_px=224,
    tile_px=256,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    resize=256,
    crop=224,
    interpolation="bicubic",
    size_policy="resize",
)


def real_tiles(shared, px, n=4):
    """Crops of real H&E tiles, n of px × px."""
    tiles = []
    for path in sorted((shared / "data" / "tiles").rglob("*")):
        if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".tif"):
            with Image.open(path) as image:
                if min(image.size) >= px and image.mode == "RGB":
                    tiles.append(np.asarray(image.crop((0, 0, px, px))))
        if len(tiles) == n:
            return np.stack(tiles)
    raise AssertionError(f"fewer than {n} tiles of {px} px")


def noise(h, w, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (h // 8 + 1, w // 8 + 1, 3)).repeat(8, axis=0).repeat(8, axis=1)[:h, :w]
    return np.clip(coarse + rng.normal(0, 20, (h, w, 3)), 0, 255).astype(np.uint8)


def pixels(card, tiles):
    found = Preprocess(card, tiles.shape[1:3]).pixels(torch.from_numpy(tiles.copy()))
    return found.permute(0, 2, 3, 1).numpy()


def check_levels(found, expected):
    """At most 2 grey levels apart, and hardly ever that."""
    difference = np.abs(found.astype(np.float64) - expected)
    assert difference.max() <= 2
    assert difference.mean() <= 0.2


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(("px", "to"), [(256, 224), (512, 224), (224, 256), (224, 224), (299, 235), (100, 384)])
def test_resizing_is_pillows(shared, px, to, interpolation):
    tiles = real_tiles(shared, px)
    card = replace(CARD, resize=to, crop=None, interpolation=interpolation)
    expected = np.stack([np.asarray(Image.fromarray(tile).resize((to, to), FILTERS[interpolation])) for tile in tiles])
    found = pixels(card, tiles)
    check_levels(found, expected)
    # What float32 leaves where a value lies half-way between two levels; 0.2 would hide a wrong kernel.
    assert np.abs(found - expected).mean() < 0.02


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 70), st.sampled_from(INTERPOLATIONS), st.integers(0, 1000))
def test_resizing_from_any_size_to_any_size_is_pillows(side, to, interpolation, seed):
    tile = noise(side, side, seed)
    card = replace(CARD, resize=to, crop=None, interpolation=interpolation)
    expected = np.asarray(Image.fromarray(tile).resize((to, to), FILTERS[interpolation]))
    found = pixels(card, tile[None])[0]
    assert np.abs(found - expected).max() <= 2  # the mean of a few pixels says nothing


@pytest.mark.parametrize("size", [(256, 256), (512, 512), (224, 224), (235, 235), (300, 421), (461, 299)])
@pytest.mark.parametrize(
    ("resize", "crop", "interpolation"), [(256, 224, "bilinear"), (235, 224, "bicubic"), (224, 224, "bicubic")]
)
def test_the_whole_transform_is_timms(size, resize, crop, interpolation):
    from timm.data.transforms_factory import create_transform

    card = replace(
        CARD, resize=resize, crop=crop, interpolation=interpolation, mean=(0.5, 0.4, 0.6), std=(0.2, 0.3, 0.1)
    )
    transform = create_transform(
        (3, crop, crop), interpolation=interpolation, mean=card.mean, std=card.std, crop_pct=crop / (resize + 0.001)
    )
    tiles = np.stack([noise(size[0], size[1], seed) for seed in range(2)])
    expected = torch.stack([transform(Image.fromarray(tile)) for tile in tiles])
    found = Preprocess(card, size)(torch.from_numpy(tiles))
    assert found.dtype == torch.float32
    assert found.shape == expected.shape == (2, 3, crop, crop)
    levels = (found - expected).abs() * 255 * torch.tensor(card.std)[:, None, None]
    assert levels.max() <= 2.001
    assert levels.mean() <= 0.01


def test_a_tile_of_the_cards_size_is_only_cropped():
    tile = noise(256, 256)
    np.testing.assert_array_equal(pixels(CARD, tile[None])[0], tile[16:240, 16:240])


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_rows_of_a_resize_sum_to_one_and_glass_stays_white(interpolation):
    for n_in, n_out in ((7, 3), (3, 7), (1, 5), (5, 1), (512, 224)):
        np.testing.assert_allclose(resize_matrix(n_in, n_out, interpolation).sum(axis=1), 1, atol=1e-6)
    card = replace(CARD, interpolation=interpolation)
    white = np.full((1, 333, 333, 3), 255, np.uint8)
    np.testing.assert_array_equal(pixels(card, white), 255)


def test_normalising_without_mean_and_std_scales_to_one():
    tile = noise(32, 32)
    card = replace(CARD, mean=(), std=(), resize=None, crop=None, size_policy="any")
    found = Preprocess(card, (32, 32))(torch.from_numpy(tile[None]))
    np.testing.assert_allclose(found[0].permute(1, 2, 0).numpy(), tile / 255, atol=1e-7)


@pytest.mark.parametrize(
    ("policy", "tile", "size"),
    [
        ("resize", (256, 256), (224, 224)),
        ("resize", (100, 100), (224, 224)),
        ("error", (256, 256), (224, 224)),
        ("any", (100, 70), (100, 70)),
        ("any", (256, 256), (256, 256)),
        ("interpolate", (512, 512), (512, 512)),
        ("interpolate", (256, 256), (224, 224)),
    ],
)
def test_the_size_policy_decides_what_the_network_sees(policy, tile, size):
    card = replace(CARD, size_policy=policy)
    assert plan_geometry(card, tile).size == size
    made = Preprocess(card, tile)(torch.zeros((1, *tile, 3), dtype=torch.uint8))
    assert made.shape == (1, 3, *size)


def test_sizes_that_are_not_taken_are_refused_in_words():
    with pytest.raises(TileSizeError, match=r"256×256 px.*Got 512×500 px.*--tile-px 256"):
        Preprocess(replace(CARD, size_policy="error"), (500, 512))
    with pytest.raises(TileSizeError, match="square"):
        Preprocess(CARD, (256, 300), square_only=True)
    with pytest.raises(TileSizeError, match="no pixels"):
        Preprocess(CARD, (0, 256))
    with pytest.raises(ConfigError, match="crops 224 px"):
        Preprocess(replace(CARD, resize=200), (256, 256))
    with pytest.raises(ConfigError, match="no interpolation 'area'"):
        Preprocess(replace(CARD, interpolation="area"), (300, 300))
    for n_in, n_out in ((0, 3), (3, 0)):
        with pytest.raises(ConfigError, match="at least one pixel"):
            resize_matrix(n_in, n_out, "box")


def test_it_has_nothing_to_load():
    assert not Preprocess(CARD, (300, 300)).state_dict()
