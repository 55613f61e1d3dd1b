"""Normalising tiles by the mean and standard deviation of their own slide."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.encoders.network import NetworkEncoder
from microtome.encoders.registry import load_encoder, read_card
from microtome.encoders.slide_norm import MAX_TILES, slide_statistics
from microtome.errors import ConfigError, EncoderError
from microtome.features.extract import ExtractOptions, extract
from microtome.features.store import FeatureStore
from microtome.tiles.source import TileBatch

NAME = "prostate-small:norm=slide"
PLAIN: dict[str, Any] = {"device": "cpu", "precision": "fp32", "runtime": "torch", "weights": "none"}


class Tiles:
    """A slide in memory."""

    modality, mpp, dtype = "brightfield", 0.5, np.dtype(np.uint8)

    def __init__(self, images, slide_id="a", lost=()):
        self.images, self.slide_id, self.lost = images, slide_id, set(lost)
        self.recipe = {"tile_pixels": int(images.astype(np.int64).sum())}
        self.boxes = np.array([[224 * i, 0, 224, 224] for i in range(len(images))], np.int64).reshape(-1, 4)
        self.tile_shape = images.shape[1:]

    def __len__(self):
        return len(self.images)

    def read(self, rows):
        readable = np.array([int(row) not in self.lost for row in rows], bool)
        images = np.where(readable[:, None, None, None], self.images[rows], 0).astype(np.uint8)
        return TileBatch(images, np.asarray(rows), readable, {int(r): "broken" for r in rows if int(r) in self.lost})

    def close(self):
        pass


def tinted(seed, n=3, side=224, levels=(120, 220)):
    rng = np.random.default_rng(seed)
    return rng.integers(levels[0], levels[1], (n, side, side, 3), dtype=np.uint8)


@given(seed=st.integers(0, 1000), n=st.integers(1, 70))
@settings(max_examples=20, deadline=None)
def test_statistics_are_means_over_tiles(seed, n):
    images = tinted(seed, n, side=8)
    mean, std = slide_statistics(Tiles(images))
    np.testing.assert_allclose(mean, images.mean(axis=(1, 2)).mean(axis=0) / 255, atol=1e-12)
    np.testing.assert_allclose(std, images.std(axis=(1, 2)).mean(axis=0) / 255, atol=1e-12)


def test_the_deviation_is_that_within_tiles_not_between_them():
    images = np.zeros((2, 4, 4, 3), np.uint8)
    images[0], images[1] = 10, 200
    images[:, 0] += 4
    _, std = slide_statistics(Tiles(images))
    assert (std < 3 / 255).all()
    assert images.std() > 90


def test_of_many_tiles_the_same_ones_are_measured():
    images = tinted(0, MAX_TILES + 500, side=2)
    first, again = slide_statistics(Tiles(images)), slide_statistics(Tiles(images))
    np.testing.assert_array_equal(first, again)
    assert abs(first[0] - images.mean(axis=(0, 1, 2)) / 255).max() < 0.01


def test_tiles_that_cannot_be_decoded_are_left_out():
    images = tinted(1, 4, side=8)
    mean, _ = slide_statistics(Tiles(images, lost=[2]))
    np.testing.assert_allclose(mean, images[[0, 1, 3]].mean(axis=(0, 1, 2)) / 255, atol=1e-12)


@pytest.mark.parametrize(
    ("tiles", "words"),
    [
        (Tiles(tinted(0, 2, side=8), lost=[0, 1]), "None of the 2 tiles"),
        (Tiles(np.full((2, 8, 8, 3), 7, np.uint8)), "do not vary"),
        (Tiles(np.zeros((0, 8, 8, 3), np.uint8)), "None of the 0 tiles"),
    ],
)
def test_slides_without_statistics(tiles, words):
    with pytest.raises(EncoderError, match=words):
        slide_statistics(tiles)


def test_a_batch_alone_is_refused_and_so_is_a_runtime_that_compiles():
    encoder = load_encoder(NAME, **PLAIN)
    with pytest.raises(ConfigError, match="for_slide"):
        encoder.encode(tinted(0))
    with pytest.raises(ConfigError, match="only the runtime torch"):
        load_encoder(NAME, **{**PLAIN, "runtime": "openvino"})


def test_extraction_normalises_each_slide_by_itself(tmp_path):
    """Equal to the same network with the measured values on its card; kept with the features; two slides differ."""
    encoder, half = load_encoder(NAME, **PLAIN), load_encoder("prostate-small:norm=half", **PLAIN)
    store, slides = FeatureStore(tmp_path), [tinted(3), tinted(3, levels=(40, 120))]
    for name, images in zip("ab", slides, strict=True):
        extract(Tiles(images, name), encoder, store, ExtractOptions(batch_size=4))
        mean, std = slide_statistics(Tiles(images))
        assert store[name].attrs["slide_mean"] == pytest.approx(mean.tolist())
        assert store[name].attrs["slide_std"] == pytest.approx(std.tolist())
        # what half gives for pixels that come out of its (x - 0.5) / 0.5 as these do of (x - mean) / std
        assert isinstance(half, NetworkEncoder)
        network = half._network
        with torch.inference_mode():
            normed = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - torch.tensor(mean)[:, None, None]) / (
                torch.tensor(std)[:, None, None]
            )
            expected = network(normed.float()).numpy()
        np.testing.assert_allclose(store[name].features, expected, atol=2e-4, rtol=1e-4)
    assert np.abs(store["a"].features - store["b"].features).max() > 1e-3


def test_the_rule_is_in_the_recipe_and_the_values_are_not_needed_to_find_finished_slides(tmp_path):
    encoder, store, tiles = load_encoder(NAME, **PLAIN), FeatureStore(tmp_path), Tiles(tinted(5))
    assert encoder.recipe["slide_norm_tiles"] == MAX_TILES
    assert extract(tiles, encoder, store).status == "done"
    assert extract(tiles, encoder, store).status == "skipped"
    assert read_card(NAME).mean == ()
    assert replace(read_card(NAME), name="x").std == ()
