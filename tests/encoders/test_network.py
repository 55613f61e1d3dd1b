"""A network as an encoder, on networks of a few weights."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from microtome.encoders.base import Card
from microtome.encoders.hardware import Wanted
from microtome.encoders.network import NetworkEncoder
from microtome.encoders.published import Published, timm_network
from microtome.errors import EncoderOutputError, ModalityError, TileSizeError, WeightsError

CARD = Card(name="mean", dim=3, input_px=8, tile_px=8, size_policy="error", repo="owner/mean", file="mean.safetensors")


class Means(nn.Module):
    """Mean colour times one weight each."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, images):
        return images.mean((2, 3)) * self.scale


PUBLISHED = Published(card=CARD, build=Means)


def encoder(published=PUBLISHED, network=None):
    network = network or published.build()
    return NetworkEncoder(published, network, wanted=Wanted("cpu", "fp32"), weights_hash="0")


def tiles(n=2, px=8, value=128):
    return np.full((n, px, px, 3), value, np.uint8)


def test_vectors_are_those_of_the_network():
    np.testing.assert_allclose(encoder().encode(tiles(value=51)), 0.2, rtol=1e-6)


class Broken(Means):
    def forward(self, images):
        return torch.where(images.mean((1, 2, 3)) > 0.5, torch.nan, 1.0)[:, None].expand(-1, 3)


class Wide(Means):
    def forward(self, images):
        return super().forward(images).repeat(1, 2)


def test_nan_and_vectors_of_another_length_are_errors():
    batch = np.concatenate([tiles(2, value=10), tiles(1, value=200)])
    with pytest.raises(EncoderOutputError, match=r"'mean' gave NaN or infinity for tile 2 .*fp32"):
        encoder(network=Broken()).encode(batch)
    assert np.isfinite(encoder(network=Broken()).encode(batch[:2])).all()
    with pytest.raises(EncoderOutputError, match=r"gave \(2, 6\) for 2 tiles; its card says 3"):
        encoder(network=Wide()).encode(tiles())


def test_the_cards_policy_decides_about_other_sizes():
    with pytest.raises(TileSizeError, match="8×8 px"):
        encoder().encode(tiles(px=9))
    flexible = encoder(replace(PUBLISHED, card=replace(CARD, size_policy="any")))
    for px in (9, 8, 17):  # and back
        np.testing.assert_allclose(flexible.encode(tiles(px=px, value=51)), 0.2, rtol=1e-6)
    assert flexible.recipe == encoder(replace(PUBLISHED, card=replace(CARD, size_policy="any"))).recipe


def test_oblong_tiles_are_refused_where_the_card_cannot_say_what_happens_to_them():
    square = replace(PUBLISHED, card=replace(CARD, size_policy="any"), square_only=True)
    with pytest.raises(TileSizeError, match="square"):
        encoder(square).encode(np.zeros((1, 8, 9, 3), np.uint8))


def test_networks_of_other_channels_bring_their_own_preprocessing():
    class Scale(nn.Module):
        def forward(self, images):
            return images.permute(0, 3, 1, 2).to(torch.float32)[:, [0, 1, 0]] / 255

    two = replace(PUBLISHED, channels=2, preprocess=lambda card, tile: Scale())
    images = np.full((1, 8, 8, 2), 51, np.uint8)
    np.testing.assert_allclose(encoder(two).encode(images), 0.2, rtol=1e-6)
    with pytest.raises(ModalityError, match=r"uint8 \(n, h, w, 2\)"):
        encoder(two).encode(tiles())


def test_pickling_is_refused_in_words():
    import pickle

    with pytest.raises(TypeError, match="'mean' holds a network"):
        pickle.dumps(encoder())


def test_the_recipe_names_what_computed():
    recipe = encoder().recipe
    assert recipe["runtime"] == "torch"
    assert recipe["runtime_version"] == torch.__version__.partition("+")[0]
    assert recipe["card_name"] == "mean"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The user's cache of the hub, offline, with the published file."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "hub" / "models--owner--mean"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    save_file({"scale": torch.full((3,), 2.0)}, repository / "snapshots" / "abc" / "mean.safetensors")
    return repository / "snapshots" / "abc" / "mean.safetensors"


def load(published, weights=None):
    return published.load(device="cpu", precision="fp32", weights=weights)


def test_a_pinned_file_must_be_the_published_one(hub):
    sha256 = hashlib.sha256(hub.read_bytes()).hexdigest()
    right = replace(PUBLISHED, card=replace(CARD, sha256=sha256))
    loaded = load(right)
    np.testing.assert_allclose(loaded.encode(tiles(value=51)), 0.4, rtol=1e-6)
    assert (loaded.weights_origin, loaded.weights_hash) == ("published", sha256)
    assert load(right, hub).weights_origin == "published"  # the same file, brought by hand
    wrong = replace(PUBLISHED, card=replace(CARD, sha256="0" * 64))
    with pytest.raises(WeightsError, match=rf"not the published file of 'mean'.*{sha256}.*--weights"):
        load(wrong)
    assert load(wrong, hub).weights_origin == "file"


def test_an_encoder_without_a_repository_says_what_to_pass():
    with pytest.raises(WeightsError, match=r"--weights FILE.*--weights none"):
        load(replace(PUBLISHED, card=replace(CARD, repo="")))


def test_layers_of_timm_are_said_by_name():
    from timm.layers.mlp import GluMlp

    build = timm_network(
        "vit_tiny_patch16_224", img_size=32, depth=1, mlp_layer="SwiGLUPacked", act_layer="silu", mlp_ratio=4.0
    )
    network = build()
    mlp = network.get_submodule("blocks.0.mlp")
    assert isinstance(mlp, GluMlp)
    assert isinstance(mlp.act, nn.SiLU)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
