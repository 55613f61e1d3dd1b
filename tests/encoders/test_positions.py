"""Rules by which position tables are brought to other grids."""

import pytest
import torch
from timm.layers.pos_embed import resample_abs_pos_embed

from microtome.encoders.positions import POSITION_RULES, resample_positions
from microtome.errors import ConfigError, WeightsError
from microtome.models.vit import stretch_positions

RULES = sorted(POSITION_RULES)


def table(side: int, n_prefix: int = 1) -> torch.Tensor:
    return torch.randn(1, n_prefix + side * side, 6, generator=torch.Generator().manual_seed(side))


@pytest.mark.parametrize(("side", "grid", "n_prefix"), [(37, (16, 16), 0), (16, (20, 12), 5), (14, (28, 28), 1)])
def test_timm_s_rule_is_timm_s(side, grid, n_prefix):
    expected = resample_abs_pos_embed(table(side, n_prefix), list(grid), num_prefix_tokens=n_prefix)
    assert torch.equal(resample_positions(table(side, n_prefix), grid, rule="timm", n_prefix=n_prefix), expected)


def test_the_rule_with_registers_is_antialiased_and_the_one_without_is_not():
    with_registers = resample_positions(table(37), (16, 16), rule="hf_dinov2_registers", n_prefix=1)
    without = resample_positions(table(37), (16, 16), rule="hf_dinov2", n_prefix=1)
    assert torch.equal(with_registers, resample_positions(table(37), (16, 16), rule="timm", n_prefix=1))
    # Averaging over more of a noisy table leaves less of its variance.
    assert with_registers[:, 1:].std() < 0.8 * without[:, 1:].std()


def test_dino_s_rule_is_that_of_the_network():
    got = resample_positions(table(14), (16, 20), rule="dino", n_prefix=1)
    assert torch.equal(got, stretch_positions(table(14), (16, 20)))


def test_conch_s_table_of_14_goes_to_28_by_dino_s_rule():
    got = resample_positions(table(14), (28, 28), rule="conch_v1_5", n_prefix=1)
    assert torch.equal(got, stretch_positions(table(14), (28, 28)))


def test_conch_s_table_of_28_loses_detail_as_upstream():
    """It is brought to 14 first, so what alternates from token to token vanishes."""
    checkers = torch.tensor([1.0, -1.0]).repeat(14).reshape(1, 28).repeat(28, 1)
    stored = torch.cat([torch.zeros(1), checkers.flatten()])[None, :, None]
    got = resample_positions(stored, (28, 28), rule="conch_v1_5", n_prefix=1)
    assert got.shape == stored.shape
    assert got.abs().max() < 1e-6


@pytest.mark.parametrize("rule", RULES)
def test_constants_and_prefixes_stay(rule):
    stored = torch.cat([torch.arange(3.0), torch.full((196,), 0.3)])[None, :, None]
    got = resample_positions(stored, (20, 9), rule=rule, n_prefix=3)
    assert torch.equal(got[0, :3, 0], torch.arange(3.0))
    torch.testing.assert_close(got[0, 3:, 0], torch.full((180,), 0.3))


@pytest.mark.parametrize("rule", RULES)
def test_half_precision_tables_keep_their_type(rule):
    got = resample_positions(table(14).half(), (16, 16), rule=rule, n_prefix=1)
    assert got.dtype == torch.float16


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"conch_v1_5"}))
def test_the_same_grid_is_left_alone(rule):
    stored = table(16)
    assert resample_positions(stored, (16, 16), rule=rule, n_prefix=1) is stored


@pytest.mark.parametrize(("rows", "n_prefix"), [(12, 1), (1, 1), (2, 5), (197, 0)])
def test_tables_that_are_no_square_are_refused(rows, n_prefix):
    with pytest.raises(WeightsError, match=f"{rows} rows with {n_prefix} prefix"):
        resample_positions(torch.zeros(1, rows, 2), (4, 4), rule="timm", n_prefix=n_prefix)


def test_an_unknown_rule_is_refused():
    with pytest.raises(ConfigError, match="'nearest'"):
        resample_positions(table(14), (4, 4), rule="nearest", n_prefix=1)
