"""Slide encoders that gather by gated attention."""

from typing import Any

import pytest
import torch

from microtome.errors import ConfigError
from microtome.models.slide_encoders import Chief, Feather

BOTH = [lambda: Chief(6, dim=5, hidden=4), lambda: Feather(6, dim=5, hidden=4)]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_chief_by_hand():
    network, bag = Chief(6, dim=5, hidden=4).eval(), torch.randn(1, 7, 6)
    layers: Any = network.attention_net
    project, attend = layers[0], layers[3]
    hidden = torch.relu(bag[0] @ project.weight.T + project.bias)
    a, b, c = attend.attention_a[0], attend.attention_b[0], attend.attention_c
    scores = (torch.tanh(a(hidden)) * torch.sigmoid(b(hidden))) @ c.weight[0] + c.bias
    weights = torch.exp(scores) / torch.exp(scores).sum()
    out = network(bag)
    torch.testing.assert_close(out.attention[0], weights)
    torch.testing.assert_close(out.vector[0], weights @ bag[0])


def test_feather_by_hand():
    network, bag = Feather(6, dim=5, hidden=4).eval(), torch.randn(1, 7, 6)
    out = network(bag)
    hidden = torch.relu(network.patch_embed[0](bag[0]))
    scores = network.global_attn(hidden[None])[0, :, 0]
    torch.testing.assert_close(out.vector[0], scores.softmax(0) @ hidden)


@pytest.mark.parametrize("build", BOTH)
def test_padding_changes_nothing(build):
    network, bag = build().eval(), torch.randn(1, 7, 6)
    padded = torch.cat([bag, torch.full((1, 3, 6), 1e3)], dim=1)
    out, alone = network(padded, torch.arange(10)[None] < 7), network(bag)
    torch.testing.assert_close(out.vector, alone.vector)
    assert torch.equal(out.attention[:, 7:], torch.zeros(1, 3))
    assert not torch.allclose(network(padded).vector, alone.vector)


@pytest.mark.parametrize("build", BOTH)
def test_the_order_of_tiles_does_not_matter(build):
    network, bag = build().eval(), torch.randn(1, 7, 6)
    torch.testing.assert_close(network(bag.flip(1)).vector, network(bag).vector)


@pytest.mark.parametrize("build", BOTH)
def test_bags_without_tiles_are_refused(build):
    with pytest.raises(ConfigError, match="without a single tile"):
        build()(torch.zeros(1, 0, 6))
    with pytest.raises(ConfigError, match="without a single tile"):
        build()(torch.zeros(2, 3, 6), torch.tensor([[True, False, False], [False, False, False]]))


def test_chief_averages_what_came_in():
    """Its vector lies inside the range of the tiles' vectors, whatever the weights."""
    network, bag = Chief(6, dim=5, hidden=4).eval(), torch.rand(3, 20, 6)
    vector = network(bag).vector
    assert (vector >= bag.amin(1)).all()
    assert (vector <= bag.amax(1)).all()


@pytest.mark.parametrize(("in_dim", "millions"), [(768, 0.79), (1536, 1.18), (1024, 0.92)])
def test_feather_has_its_published_sizes(in_dim, millions):
    n_parameters = sum(p.numel() for p in Feather(in_dim).parameters())
    assert n_parameters / 1e6 == pytest.approx(millions, abs=0.005)


def test_chief_has_its_published_shapes():
    shapes = {key: tuple(value.shape) for key, value in Chief().state_dict().items()}
    assert shapes["attention_net.0.weight"] == (512, 768)
    assert shapes["attention_net.3.attention_a.0.weight"] == (256, 512)
    assert shapes["attention_net.3.attention_b.0.weight"] == (256, 512)
    assert shapes["attention_net.3.attention_c.weight"] == (1, 256)
    assert len(shapes) == 8
