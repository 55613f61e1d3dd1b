"""Heads around fake trunks whose tokens and maps are known."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from microtome.errors import ConfigError, TileSizeError
from microtome.models.conch import AttentionPooler, ConchFeatures, PerceiverPooler
from microtome.models.conv_stem import ConvStem
from microtome.models.feature_heads import MultiScaleFeatures, ProjectedFeatures, TokenFeatures, XcitFeatures


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Tokens(nn.Module):
    """Class token 1, two registers 100, four patches 2, 4, 6, 8."""

    def forward(self, images: Tensor) -> Tensor:
        values = torch.tensor([1.0, 100, 100, 2, 4, 6, 8])
        return values[None, :, None].expand(len(images), -1, 3)


@pytest.mark.parametrize(("pooling", "expected"), [("cls", [1.0]), ("mean", [5.0]), ("cls+mean", [1.0, 5.0])])
def test_registers_are_left_out(pooling, expected):
    features = TokenFeatures(Tokens(), pooling, n_registers=2)(torch.zeros(2, 3, 8, 8))
    assert features[1].tolist() == [value for value in expected for _ in range(3)]


def test_counting_registers_among_the_patches_gives_something_else():
    right, wrong = (TokenFeatures(Tokens(), "mean", n_registers=n) for n in (2, 0))
    assert not torch.equal(right(torch.zeros(1, 3, 8, 8)), wrong(torch.zeros(1, 3, 8, 8)))


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ConfigError, match="'max'"):
        TokenFeatures(Tokens(), "max")


class Mean(nn.Module):
    """The mean colour."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


def test_multi_scale_appends_the_mean_of_the_quarters():
    images = torch.zeros(2, 3, 64, 64)
    images[0, :, :32] = 1.0  # upper half
    features = MultiScaleFeatures(Mean())(images)
    assert features.shape == (2, 6)
    torch.testing.assert_close(features[0], torch.full((6,), 0.5), atol=0.02, rtol=0)
    assert torch.equal(features[1], torch.zeros(6))


class Corner(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[-2:] == (8, 8)
        return images[:, :, 0, 0]


def test_the_quarters_are_the_four_quarters():
    images = torch.arange(4.0).reshape(1, 1, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3).expand(1, 3, 8, 8)
    features = MultiScaleFeatures(Corner())(images)
    # The quarters begin in the middle of an edge of the enlarged image, so only the first corner is exact.
    assert features[0, 0] == 0
    assert 0.5 < features[0, 3] < 1.5


def test_projected_features_have_length_one():
    features = ProjectedFeatures(Mean(), 3, 5)(torch.randn(4, 3, 8, 8))
    torch.testing.assert_close(features.norm(dim=1), torch.ones(4))


def by_hand(q: Tensor, k: Tensor, v: Tensor, n_heads: int) -> Tensor:
    """Attention head by head: (q, d), (n, d), (n, d) to (q, d)."""
    size = q.shape[-1] // n_heads
    parts = []
    for h in range(n_heads):
        s = slice(h * size, (h + 1) * size)
        parts.append((q[:, s] @ k[:, s].T / size**0.5).softmax(-1) @ v[:, s])
    return torch.cat(parts, dim=-1)


def test_attention_pooler_by_hand():
    pooler = AttentionPooler(6, 8, n_heads=2, n_queries=3)
    nn.init.normal_(pooler.attn.in_proj_bias)
    tokens = torch.randn(2, 5, 6)
    q_bias, k_bias, v_bias = pooler.attn.in_proj_bias.chunk(3)
    keys = pooler.ln_k(tokens[1])
    q = pooler.ln_q(pooler.query) @ pooler.attn.q_proj_weight.T + q_bias
    k = keys @ pooler.attn.k_proj_weight.T + k_bias
    v = keys @ pooler.attn.v_proj_weight.T + v_bias
    expected = pooler.attn.out_proj(by_hand(q, k, v, 2))
    torch.testing.assert_close(pooler(tokens)[1], expected)


def test_perceiver_pooler_by_hand():
    pooler = PerceiverPooler(6, 8, n_heads=2, n_queries=3)
    tokens = torch.randn(2, 5, 6)
    keys = pooler.ln_k(tokens[1])
    q = pooler.ln_q(pooler.query) @ pooler.to_q.weight.T
    k, v = keys @ pooler.to_kv.weight[:8].T, keys @ pooler.to_kv.weight[8:].T
    torch.testing.assert_close(pooler(tokens)[1], by_hand(q, k, v, 2) @ pooler.to_out.weight.T)


@pytest.mark.parametrize("pooler", [AttentionPooler(6, 8, n_heads=2), PerceiverPooler(6, 8, n_heads=2)])
def test_poolers_do_not_mind_the_order_of_tokens(pooler):
    tokens = torch.randn(1, 5, 6)
    torch.testing.assert_close(pooler(tokens), pooler(tokens.flip(1)))


def test_conch_names_are_the_published_ones():
    keys = {key.split(".")[0] for key in ConchFeatures(nn.Linear(1, 1), PerceiverPooler(6, 8), 8).state_dict()}
    assert keys == {"trunk", "attn_pool_contrast", "ln_contrast"}


def test_stem_gives_channels_last_four_pixels_a_token():
    stem = ConvStem(img_size=32, embed_dim=16, norm_layer=nn.LayerNorm).eval()
    assert stem(torch.randn(2, 3, 32, 32)).shape == (2, 8, 8, 16)
    assert stem.grid_size == (8, 8)
    with pytest.raises(TileSizeError, match="got 36 x 32"):
        stem(torch.randn(2, 3, 32, 36))


def test_stem_of_another_patch_is_refused():
    with pytest.raises(ConfigError, match="patch_size=16"):
        ConvStem(patch_size=16)


def xcit() -> Any:
    import timm

    network = timm.create_model("xcit_nano_12_p16_224", depth=2, embed_dim=32, num_heads=4, num_classes=0)
    return network.eval()


def test_one_block_without_average_is_timm_s_own_vector():
    trunk, images = xcit(), torch.randn(2, 3, 48, 64)
    torch.testing.assert_close(XcitFeatures(trunk)(images), trunk(images))


def test_the_average_is_that_of_the_last_patch_tokens():
    trunk, images = xcit(), torch.randn(2, 3, 48, 64)
    tokens = trunk.forward_features(images)
    features = XcitFeatures(trunk, num_blocks=2, avg_pool=True)(images)
    torch.testing.assert_close(features[:, 32:64], tokens[:, 0])
    torch.testing.assert_close(features[:, 64:], tokens[:, 1:].mean(1))


def test_beyond_the_class_blocks_token_0_is_the_top_left_patch():
    trunk, images = xcit(), torch.randn(1, 3, 48, 64)
    last_body = trunk.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)[0]
    torch.testing.assert_close(XcitFeatures(trunk, num_blocks=3)(images)[:, :32], last_body[:, :, 0, 0])


@pytest.mark.parametrize("num_blocks", [0, 5, -1])
def test_a_number_of_blocks_that_is_not_there_is_refused(num_blocks):
    with pytest.raises(ConfigError, match="between 1 and 4"):
        XcitFeatures(xcit(), num_blocks=num_blocks)
