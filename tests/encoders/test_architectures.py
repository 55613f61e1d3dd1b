"""Networks of the zoo: sizes against the published figures, and what no state dict would tell."""

import subprocess
import sys
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from microtome.encoders.architectures import ARCHITECTURES, GRID_ARCHITECTURES, conch_v1_5, histoencoder
from microtome.encoders.published import timm_network
from tests.encoders.small_networks import fill_randomly

# Name: parameters in millions, tensors (None where none is published), length of the vector, side of the input.
PUBLISHED = {
    "resnet50-trunc": (8.54, None, 1024, 224),
    "resnet50": (23.51, None, 2048, 224),
    "phikon": (85.80, 150, 768, 224),
    "phikon-ibot": (85.80, 150, 768, 224),
    "phikon-v2": (303.35, 342, 1024, 224),
    "uni": (303.35, 342, 1024, 224),
    "uni2-h": (681.39, None, 1536, 224),
    "conch": (87.57, None, 512, 448),
    "conch-v1.5": (306.71, None, 768, 448),  # 306.11 with the stored table of 14 x 14, see below
    "virchow": (631.23, None, 2560, 224),
    "virchow2": (631.24, None, 2560, 224),
    "gigapath": (1134.95, None, 1536, 224),
    "h-optimus-0": (1134.77, None, 1536, 224),
    "h-optimus-1": (1134.77, None, 1536, 224),
    "h0-mini": (85.74, None, 1536, 224),
    "h0-mini-cls": (85.74, None, 768, 224),
    "hibou-b": (85.74, None, 768, 224),
    "hibou-l": (303.66, None, 1024, 224),
    "midnight-12k": (1134.77, 566, 3072, 224),  # 1136.48 with the stored table of 37 x 37, see below
    "midnight-12k-cls": (1134.77, 566, 1536, 224),
    "kaiko-s8": (21.67, None, 384, 224),
    "kaiko-s16": (21.67, None, 384, 224),
    "kaiko-b8": (85.81, None, 768, 224),
    "kaiko-b16": (85.80, None, 768, 224),
    "kaiko-l14": (304.37, None, 1024, 224),
    "lunit-s8": (21.67, None, 384, 224),
    "lunit-s16": (21.67, None, 384, 224),
    "lunit-bt": (23.51, None, 2048, 224),
    "lunit-mocov2": (23.51, None, 2048, 224),
    "lunit-swav": (23.51, None, 2048, 224),
    "ctranspath": (27.52, 183, 768, 224),
    "chief-ctranspath": (27.52, 183, 768, 224),
    "retccl": (23.51, None, 2048, 256),
    "gpfm": (303.23, None, 1024, 224),
    "musk": (303.94, None, 1024, 384),
    "musk-ms-aug": (303.94, None, 2048, 384),
    "keep": (304.73, None, 768, 224),
    "plip": (87.85, None, 512, 224),
    "hipt-vit256": (21.67, 150, 384, 256),
    "dino-brca": (21.67, None, 384, 256),
    "histoencoder-small": (25.87, 389, 384, 224),
    "histoencoder-medium": (83.88, 713, 512, 224),
    "fastglioma-highres": (21.28, 216, 512, 300),
    "fastglioma-lowres": (21.28, 216, 512, 300),
    "exaonepath": (85.80, None, 768, 224),
}

EPSILONS = {
    "phikon": {1e-12},
    "plip": {1e-5},
    "musk": {1e-5},
    "musk-ms-aug": {1e-5},
    "ctranspath": {1e-5},
    "chief-ctranspath": {1e-5},
    "conch": {1e-6, 1e-5},  # trunk, pooler
    "conch-v1.5": {1e-6, 1e-5},
    "histoencoder-small": {1e-6},
    "histoencoder-medium": {1e-6},
}
"""Of the layer norms; 1e-6 where nothing else stands here."""

REGISTERS = {"uni2-h": 8, "virchow2": 4, "h-optimus-0": 4, "h-optimus-1": 4, "h0-mini": 4, "h0-mini-cls": 4,
             "hibou-b": 4, "hibou-l": 4, "kaiko-l14": 4}  # fmt: skip

SHAPES = {
    ("uni2-h", "pos_embed"): (1, 256, 1536),
    ("virchow2", "trunk.pos_embed"): (1, 261, 1280),
    ("virchow", "trunk.pos_embed"): (1, 257, 1280),
    ("virchow", "trunk.blocks.0.mlp.fc1.weight"): (6832, 1280),
    ("virchow", "trunk.blocks.0.mlp.fc2.weight"): (1280, 3416),
    ("gigapath", "pos_embed"): (1, 197, 1536),
    ("gigapath", "patch_embed.proj.weight"): (1536, 3, 16, 16),
    ("h-optimus-0", "pos_embed"): (1, 256, 1536),
    ("hibou-l", "blocks.0.mlp.fc1.weight"): (5472, 1024),
    ("hibou-b", "pos_embed"): (1, 256, 768),
    ("kaiko-l14", "pos_embed"): (1, 1369, 1024),
    ("plip", "pos_embed"): (1, 50, 768),
    ("plip", "head.weight"): (512, 768),
    ("musk", "pos_embed"): (1, 577, 1024),
    ("conch", "attn_pool_contrast.query"): (1, 512),
    ("conch-v1.5", "attn_pool_contrast.to_kv.weight"): (1536, 1024),
}

SCALED = {"phikon-v2", "uni", "uni2-h", "conch-v1.5", "virchow", "virchow2", "gigapath", "h-optimus-0", "h-optimus-1",
          "h0-mini", "h0-mini-cls", "hibou-b", "hibou-l", "midnight-12k", "midnight-12k-cls", "kaiko-l14", "gpfm",
          "keep"}  # fmt: skip

SWIGLU = {"uni2-h", "virchow", "virchow2", "gigapath", "h-optimus-0", "h-optimus-1", "h0-mini", "h0-mini-cls",
          "hibou-b", "hibou-l", "midnight-12k", "midnight-12k-cls"}  # fmt: skip


@cache
def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        network: nn.Module = ARCHITECTURES[name].build()
    return network


def millions(network: nn.Module) -> float:
    return sum(p.numel() for p in network.parameters()) / 1e6


def test_every_network_has_its_figures():
    assert set(PUBLISHED) == set(ARCHITECTURES)


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes(name):
    network, (parameters, tensors, dim, _) = on_meta(name), PUBLISHED[name]
    assert millions(network) == pytest.approx(parameters, abs=0.00501)
    assert tensors in (None, len(network.state_dict()))
    assert ARCHITECTURES[name].dim == dim


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_network_gives_one_vector_per_image(name):
    if "ctranspath" in name:
        network: nn.Module = ARCHITECTURES[name].build()  # its masks have values, which meta tensors have not
        device = "cpu"
    else:
        network, device = on_meta(name), "meta"
    *_, dim, side = PUBLISHED[name]
    channels = 1 if name == "fastglioma-lowres" else 3
    with torch.no_grad():
        assert network.eval()(torch.zeros(2, channels, side, side, device=device)).shape == (2, dim)


def test_stored_tables_of_other_sizes_account_for_the_published_figures():
    with torch.device("meta"):
        assert millions(timm_network("vit_giant_patch14_dinov2", img_size=518)()) == pytest.approx(1136.48, abs=0.005)
        assert millions(conch_v1_5(img_size=224)) == pytest.approx(306.11, abs=0.005)


def test_the_grid_network():
    """2.78 M: names, shapes and sum are those of the published layout (78 tensors, a table of 197 rows)."""
    with torch.device("meta"):
        network = GRID_ARCHITECTURES["hipt-vit4k"].build()
        assert network(torch.empty(1, 384, 16, 16)).shape == (1, 192)
    assert len(network.state_dict()) == 78
    assert sum(p.numel() for p in network.parameters()) == 2_781_504


@pytest.mark.parametrize("name", PUBLISHED)
def test_epsilons(name):
    found = {module.eps for module in on_meta(name).modules() if isinstance(module, nn.LayerNorm)}
    assert found == (EPSILONS.get(name, {1e-6}) if found else set())


@pytest.mark.parametrize("name", PUBLISHED)
def test_registers_and_layer_scale(name):
    state = on_meta(name).state_dict()
    registers = [value.shape[1] for key, value in state.items() if key.split(".")[-1] == "reg_token"]
    assert registers == ([REGISTERS[name]] if name in REGISTERS else [])
    assert any(key.endswith("ls1.gamma") for key in state) == (name in SCALED)


@pytest.mark.parametrize(("name", "key"), SHAPES)
def test_shapes_of_traps(name, key):
    assert tuple(on_meta(name).state_dict()[key].shape) == SHAPES[name, key]


@pytest.mark.parametrize("name", PUBLISHED)
def test_heads_skip_class_token_and_registers(name):
    network = on_meta(name)
    if hasattr(network, "n_registers") and network.pooling != "cls":
        assert network.n_registers == REGISTERS.get(name, 0)


def mlp_of(name: str) -> Any:
    """The first block's MLP with random weights."""
    network: Any = on_meta(name)
    mlp: nn.Module = deepcopy(getattr(network, "trunk", network).blocks[0].mlp)
    return fill_randomly(mlp.to_empty(device="cpu"))


@pytest.mark.parametrize("name", sorted(SWIGLU))
def test_swiglu_gates_with_the_first_half(name):
    mlp = mlp_of(name)
    tokens = torch.randn(1, 3, mlp.fc1.in_features, generator=torch.Generator().manual_seed(1))
    gate, value = mlp.fc1(tokens).chunk(2, dim=-1)
    right = mlp.fc2(functional.silu(gate) * value)
    torch.testing.assert_close(mlp(tokens), right)
    assert (mlp.fc2(functional.gelu(gate) * value) - right).abs().max() > 1e-2
    assert (mlp.fc2(functional.silu(value) * gate) - right).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["plip", "uni", "kaiko-s16", "gpfm", "musk"])
def test_activation(name):
    mlp = mlp_of(name)
    tokens = 3 * torch.randn(1, 3, mlp.fc1.in_features, generator=torch.Generator().manual_seed(1))
    hidden = mlp.fc1(tokens)
    quick, exact = hidden * torch.sigmoid(1.702 * hidden), functional.gelu(hidden)
    right, wrong = (quick, exact) if name == "plip" else (exact, quick)
    norm = getattr(mlp, "norm", nn.Identity())
    torch.testing.assert_close(mlp(tokens), mlp.fc2(norm(right)))
    assert (mlp.fc2(norm(wrong)) - mlp(tokens)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["virchow", "h0-mini", "hibou-b"])
def test_without_its_activation_a_gated_network_would_load_and_differ(name):
    """The trap: timm's packed SwiGLU takes the ViT's GELU unless told otherwise."""
    base = {
        "virchow": ("vit_huge_patch14_224", 5.3375),
        "h0-mini": ("vit_base_patch14_reg4_dinov2", 5.33334),
        "hibou-b": ("vit_base_patch14_reg4_dinov2", 5.33334),
    }[name]
    small = {"img_size": 56, "depth": 1, "embed_dim": 24, "num_heads": 2, "mlp_layer": "SwiGLUPacked"}
    right = fill_randomly(timm_network(base[0], mlp_ratio=base[1], act_layer="silu", **small)())
    wrong = timm_network(base[0], mlp_ratio=base[1], **small)()
    wrong.load_state_dict(right.state_dict(), strict=True)
    images = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    assert (right(images) - wrong(images)).abs().max() > 1e-3


@pytest.mark.parametrize(("num_blocks", "avg_pool", "dim"), [(1, False, 384), (2, True, 1152), (3, False, 1152)])
def test_histoencoder_options(num_blocks, avg_pool, dim):
    with torch.device("meta"):
        network = histoencoder("xcit_small_12_p16_224", num_blocks=num_blocks, avg_pool=avg_pool)
        assert network(torch.empty(1, 3, 224, 224)).shape == (1, dim)


def test_the_truncated_resnet_is_the_third_map_averaged():
    short = fill_randomly(ARCHITECTURES["resnet50-trunc"].build())
    maps = timm_network("resnet50", features_only=True, out_indices=[3], num_classes=1000)()
    maps.load_state_dict(short.state_dict(), strict=True)
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(short(images), maps.eval()(images)[-1].mean((2, 3)))


def test_dynamic_sizes():
    """Networks that take other sizes by interpolating positions, and one that does not."""
    images: Tensor = torch.empty(1, 3, 256, 320, device="meta")
    for name in ("uni", "kaiko-b16", "hipt-vit256", "dino-brca"):
        assert on_meta(name)(images).shape == (1, ARCHITECTURES[name].dim)
    with pytest.raises(AssertionError, match="height"):
        on_meta("phikon-v2")(images)


def test_naming_networks_needs_no_torch():
    code = (
        "import sys; from microtome.encoders.architectures import ARCHITECTURES; "
        "sys.exit(bool({'torch', 'timm', 'torchvision'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
