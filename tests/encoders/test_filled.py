"""Weights by rule."""

import importlib.util

import numpy as np
import pytest
import torch
from torch import nn

from microtome.encoders.filled import fill_array, fill_network

NETWORKS = ["resnet18", "vit_tiny_patch16_224", "xcit_nano_12_p16_224", "convnext_atto", "efficientnet_b0"]
MORE_NETWORKS = ["swin_tiny_patch4_window7_224", "mobilenetv3_small_100", "densenet121", "regnety_002", "dm_nfnet_f0"]


def small() -> nn.Sequential:
    """A network with everything that the rule tells apart."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5), nn.LayerNorm(5)
    ).eval()


def tiles(px):
    from microtome.encoders.drift import random_tiles

    images = torch.from_numpy(random_tiles(3, (px, px, 3))).permute(0, 3, 1, 2)
    return (images / 255 - 0.5) / 0.25


def test_values_are_those_of_the_reference_cases(shared):
    spec = importlib.util.spec_from_file_location("fill", shared / "golden" / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    for name, shape in {
        "conv1.weight": (4, 3, 7, 7),
        "bn1.weight": (4,),
        "bn1.bias": (4,),
        "bn1.running_var": (4,),
        "bn1.running_mean": (4,),
        "pos_embed": (1, 5, 3),
        "scale": (),
    }.items():
        np.testing.assert_array_equal(fill_array(name, shape), fill.fill_array(name, shape))


def test_a_value_is_decided_by_its_name_and_shape():
    np.testing.assert_allclose(fill_array("a.bias", (3,)), [0.0640709, 0.05618309, -0.00897032], atol=1e-7)
    assert not np.array_equal(fill_array("a.bias", (3,)), fill_array("b.bias", (3,)))
    assert fill_array("a.weight", (1000,)).mean() == pytest.approx(1, abs=0.02)
    assert fill_array("x.running_var", (1000,)).min() > 0
    assert fill_array("w", (50, 100)).std() == pytest.approx(0.1, rel=0.05)


def test_filling_does_not_hang_on_what_was_there_or_on_torchs_seed():
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = small()
        found.append((fill_network(network, (3, 8, 8)), network.state_dict()))
    (first, a), (second, b) = found
    assert first == second
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name


def test_the_hash_is_that_of_the_values():
    network = small()
    before = fill_network(network, (3, 8, 8))
    assert before == fill_network(network, (3, 8, 8))
    assert before != fill_network(nn.Sequential(*network, nn.Linear(5, 5)), (3, 8, 8))
    assert len(before) == 64


def test_counters_and_tables_keep_their_meaning():
    network = small()
    network.register_buffer("table", torch.arange(7))
    network.state_dict()["1.num_batches_tracked"].fill_(9)
    fill_network(network, (3, 8, 8))
    assert network.state_dict()["table"].tolist() == list(range(7))
    assert network.state_dict()["1.num_batches_tracked"] == 9


def check_vectors(name):
    import timm

    network = timm.create_model(name, num_classes=0).eval()
    config = timm.get_pretrained_cfg(name)
    assert config is not None
    px = config.input_size[1]
    fill_network(network, (3, px, px))
    with torch.inference_mode():
        vectors = network(tiles(px)).numpy()
    size = np.sqrt((vectors**2).mean())
    assert 1e-2 < size < 1e2, "neither vanishing nor exploding"
    apart = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)[np.triu_indices(3, 1)]
    assert apart.min() > 2e-3 * np.linalg.norm(vectors, axis=1).mean(), "tiles must be told apart"


@pytest.mark.parametrize("name", NETWORKS)
def test_vectors_are_sane(name):
    check_vectors(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE_NETWORKS)
def test_vectors_of_more_networks_are_sane(name):
    check_vectors(name)
