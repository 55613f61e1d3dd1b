"""The SRH input pipeline and patch encoder."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.errors import ConfigError
from microtome.models.resnet34 import ResNet34, folded
from microtome.models.srh import SrhInput, srh_resnet34

BASE = 5000 / 65536


def raw(ch2: int, ch3: int) -> torch.Tensor:
    return torch.from_numpy(np.array([ch2, ch3], dtype=np.uint16))[None, :, None, None]


@settings(deadline=None)
@given(st.integers(0, 65535), st.integers(0, 65535))
def test_values_are_scaled_and_clamped_and_nothing_else(ch2, ch3):
    difference = min(max((ch3 - ch2) / 65536 + BASE, 0), 1)
    got = SrhInput()(raw(ch2, ch3)).flatten().tolist()
    assert got == pytest.approx([difference, ch2 / 65536, ch3 / 65536], abs=1e-6)


@pytest.mark.parametrize(
    ("mode", "expected"), [("ch2_only", [0.25]), ("ch3_only", [0.5]), ("diff_only", [0.25 + BASE])]
)
def test_modes_of_one_channel(mode, expected):
    see = SrhInput(mode)
    assert see.channels == 1
    assert see(raw(16384, 32768)).flatten().tolist() == pytest.approx(expected)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ConfigError, match="'highres'"):
        SrhInput("highres")


def test_the_fast_scan_sees_every_fifth_row_only():
    pixels = torch.randint(0, 65536, (1, 2, 300, 300), dtype=torch.int32)
    see = SrhInput("ch2_only", low_resolution=True)
    expected = see(pixels)
    assert expected.shape == (1, 1, 300, 300)
    unseen = torch.ones(300, dtype=torch.bool)
    unseen[::5] = False
    changed = pixels.clone()
    changed[:, :, unseen] = 0
    assert torch.equal(see(changed), expected)
    changed[:, :, 5] = 0
    assert not torch.equal(see(changed), expected)


def test_number_types_of_raw_values_do_not_matter():
    values = np.random.default_rng(0).integers(0, 65536, (1, 2, 20, 20), dtype=np.uint16)
    as_uint16, as_float = torch.from_numpy(values), torch.from_numpy(values.astype(np.float32))
    assert torch.equal(SrhInput()(as_uint16), SrhInput()(as_float))


@pytest.mark.parametrize(("channels", "n_parameters"), [(3, 21_284_672), (1, 21_278_400)])
def test_patch_encoder(channels, n_parameters):
    with torch.device("meta"):
        network = srh_resnet34(channels)
        assert network(torch.empty(2, channels, 300, 300)).shape == (2, 512)
    assert sum(p.numel() for p in network.parameters()) == n_parameters
    assert len(network.state_dict()) == 216


def test_folding_batch_norms_changes_rounding_alone():
    torch.manual_seed(0)
    network = ResNet34(1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]  # it has statistics
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]  # likewise
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    network.eval()
    x = torch.rand(2, 1, 96, 96)
    with torch.no_grad():
        expected, found = network(x), folded(network)(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert len(network.state_dict()) == 216
    assert not any("bn" in name for name, _ in folded(network).named_parameters())
