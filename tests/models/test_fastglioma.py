"""FastGlioma's slide level."""

import torch

from microtome.models.fastglioma import FourierPositions, SrhScorer, SrhSlideTransformer


def test_published_sizes():
    with torch.device("meta"):
        network = SrhScorer()
    assert sum(p.numel() for p in network.slide.parameters()) == 6_333_708
    assert sum(p.numel() for p in network.head.parameters()) == 263_169
    assert len(network.slide.state_dict()) == 35
    assert len(network.head.state_dict()) == 4


def test_the_order_of_patches_does_not_matter_but_their_place_does():
    torch.manual_seed(0)
    network = SrhSlideTransformer().eval()
    features, coordinates = torch.randn(1, 5, 512), torch.randint(0, 9, (1, 5, 2))
    expected = network(features, coordinates)
    torch.testing.assert_close(network(features.flip(1), coordinates.flip(1)), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(network(features, coordinates.flip(1)), expected, atol=1e-4)


def test_rows_and_columns_are_told_apart_and_coordinates_are_raw():
    torch.manual_seed(0)
    positions = FourierPositions(16)
    here, mirrored, moved = (positions(torch.tensor([[p]]))[0, -1] for p in ((1, 4), (4, 1), (11, 14)))
    assert not torch.allclose(here, mirrored, atol=1e-4)
    assert not torch.allclose(here, moved, atol=1e-4)


def test_prefix_tokens_have_no_place_on_the_grid():
    torch.manual_seed(0)
    positions = FourierPositions(16)
    out = positions(torch.tensor([[[0, 0], [3, 2]]]))
    assert out.shape == (1, 8 + 2, 16)
    assert torch.equal(out[0, :8], torch.zeros(8, 16))
