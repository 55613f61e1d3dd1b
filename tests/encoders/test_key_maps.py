"""Maps between published layouts and our names: counts, named spots, files written and read back, refusals."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from microtome.encoders.architectures import (
    ARCHITECTURES,
    BAG_ARCHITECTURES,
    GRID_ARCHITECTURES,
    conch,
    keep,
    musk,
    pooled,
)
from microtome.encoders.checkpoints import read_checkpoint
from microtome.encoders.key_maps import KEY_MAPS, KeyMap, load_layout
from microtome.encoders.key_steps import Rename, Resample, Stack, Unchunk, match
from microtome.encoders.published import TimmNetwork, timm_network
from microtome.errors import WeightsError
from microtome.models.conv_stem import ConvStem
from microtome.models.srh import srh_resnet34
from microtome.models.vit import DinoViT
from tests.encoders.small_networks import fill_randomly

ALL = {**ARCHITECTURES, **GRID_ARCHITECTURES, **BAG_ARCHITECTURES}
EVERY_LAYOUT = [(name, layout) for name, architecture in ALL.items() for layout in architecture.layout_names]


@cache
def meta_state(name: str) -> dict[str, Tensor]:
    with torch.device("meta"):
        return dict(ALL[name].build().state_dict())


@pytest.mark.parametrize(("name", "layout"), EVERY_LAYOUT)
def test_every_layout_at_full_size_comes_back(name, layout):
    own, layout = meta_state(name), KEY_MAPS[layout]
    published = layout.publish(own)
    assert layout.recognises(published)
    back = layout.load(published)
    assert {key: value.shape for key, value in back.items()} == {key: value.shape for key, value in own.items()}
    taken = load_layout(published, ALL[name].layouts(), encoder=name)
    assert set(taken) == set(own)


# What files hold beside the network: name of the entry → shape.
EXTRAS: dict[str, dict[str, tuple[int, ...]]] = {
    "hf-dinov2": {"embeddings.mask_token": (1, 8)},
    "midnight": {"embeddings.mask_token": (1, 8)},
    "ctranspath": {
        **{f"layers.{i}.blocks.{j}.attn_mask": (4, 49, 49) for i, j in ((0, 1), (1, 1), (2, 1), (2, 3), (2, 5))},
        **{
            f"layers.{i}.blocks.{j}.attn.relative_position_index": (49, 49)
            for i, depth in enumerate((2, 2, 6, 2))
            for j in range(depth)
        },
    },
    "clip": {
        "text_model.embeddings.token_embedding.weight": (5, 4),
        "text_model.encoder.layers.0.mlp.fc1.weight": (4, 4),
        "text_projection.weight": (4, 4),
        "logit_scale": (),
        "vision_model.embeddings.position_ids": (1, 50),
    },
    "beit3": {
        "beit3.text_embed.weight": (5, 4),
        "beit3.vision_embed.mask_token": (1, 1, 4),
        "beit3.encoder.embed_positions.B.weight": (7, 4),
        "beit3.encoder.layer_norm.B.weight": (4,),
        "beit3.encoder.layers.0.self_attn.q_proj.B.weight": (4, 4),
        "beit3.encoder.layers.0.self_attn.out_proj.B.bias": (4,),
        "beit3.encoder.layers.0.self_attn.inner_attn_ln.B.weight": (4,),
        "beit3.encoder.layers.0.self_attn_layer_norm.B.weight": (4,),
        "beit3.encoder.layers.0.ffn.B.fc1.weight": (4, 4),
        "beit3.encoder.layers.0.ffn.B.ffn_layernorm.weight": (4,),
        "beit3.encoder.layers.0.final_layer_norm.B.bias": (4,),
        "vision_head.weight": (4, 4),
        "language_head.weight": (4, 4),
        "logit_scale": (),
    },
    "conch": {
        "text.transformer.resblocks.0.ln_1.weight": (4,),
        "visual.attn_pool_caption.attn.in_proj_weight": (4, 4),
        "visual.ln_caption.weight": (4,),
        "visual.proj_contrast": (4, 4),
        "logit_scale": (),
    },
    "keep": {"text.encoder.layer.0.output.dense.weight": (4, 4), "logit_scale": ()},
    "torchvision-resnet": {"fc.weight": (10, 4), "fc.bias": (10,)},
    "torchvision-resnet-to-layer3": {
        "fc.weight": (10, 4),
        "fc.bias": (10,),
        "layer4.0.conv1.weight": (4, 4, 1, 1),
        "layer4.2.bn3.num_batches_tracked": (),
    },
    "fastglioma": {"model.head.layers.0.weight": (4, 4), "model.bb.mil.cls_token": (1, 8, 4)},
    "hidisc": {"model.proj.layers.0.weight": (4, 4)},
    "dino": {"head.mlp.0.weight": (4, 4), "head.last_layer.weight_g": (4, 1)},
    "dinov2": {"backbone.mask_token": (1, 4), "dino_head.last_layer.weight_v": (4, 4), "ibot_head.mlp.0.bias": (4,)},
}


def with_extras(published: dict[str, Any], layout: str) -> dict[str, Any]:
    """The published weights among what else their file holds."""
    extras = {key: torch.full(shape, 7.0) for key, shape in EXTRAS.get(layout.split("/")[0], {}).items()}
    for wrapper in ("teacher", "state_dict", "model"):
        if isinstance(published.get(wrapper), dict):
            inside: dict[str, Any] = {wrapper: {**published[wrapper], **extras}, "epoch": 3}
            if wrapper == "teacher":
                inside["student"] = {f"module.{key}": torch.zeros(1) for key in published[wrapper]}
            return inside
    return {**published, **extras}


@pytest.mark.parametrize(
    ("name", "layout", "n_tensors"),
    [
        ("phikon", "hf-vit", 198),
        ("phikon-v2", "hf-dinov2", 439),
        ("midnight-12k", "midnight", 727),
        ("ctranspath", "ctranspath", 200),
        ("hipt-vit256", "dino", 150 + 2),
        ("hipt-vit4k", "dino", 78 + 2),
        ("uni", "own-names", 342),
        ("histoencoder-small", "own-names/trunk", 389),
        ("fastglioma-highres", "fastglioma", 216 + 2),
    ],
)
def test_number_of_tensors_in_the_published_file(name, layout, n_tensors):
    published = with_extras(KEY_MAPS[layout].publish(meta_state(name)), layout)
    inner = next((value for value in published.values() if isinstance(value, dict)), published)
    assert len(inner) == n_tensors


def vit(architecture: str, **arguments: object) -> Callable[[], nn.Module]:
    return timm_network(architecture, **{"depth": 2, "embed_dim": 32, "num_heads": 2, **arguments})


GATED = {"mlp_layer": "SwiGLUPacked", "act_layer": "silu", "mlp_ratio": 5.33334, "init_values": 1e-5}

# Layout: a small network and the side of its input.
SMALL: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "own-names": (vit("vit_large_patch16_224", img_size=32, init_values=1e-5), 32),
    "hf-vit": (lambda: DinoViT(32, depth=2, n_heads=2, eps=1e-12), 48),
    "hf-dinov2": (vit("vit_large_patch16_224", img_size=32, init_values=1e-5), 32),
    "hf-dinov2-swiglu": (vit("vit_base_patch14_dinov2", img_size=28, **GATED), 28),
    "hf-dinov2-registers": (vit("vit_base_patch14_reg4_dinov2", img_size=28), 28),
    "hf-dinov2-swiglu-registers": (vit("vit_base_patch14_reg4_dinov2", img_size=28, **GATED), 28),
    "midnight": (
        lambda: pooled(vit("vit_giant_patch14_dinov2", img_size=224, global_pool="", embed_dim=24), "cls+mean"),
        224,
    ),
    "dinov2": (vit("vit_large_patch14_dinov2", img_size=28, depth=6), 28),
    "dinov2-swiglu": (vit("vit_base_patch14_dinov2", img_size=28, **GATED), 28),
    "dinov2-registers": (vit("vit_base_patch14_reg4_dinov2", img_size=28), 28),
    "dinov2-swiglu-registers": (vit("vit_base_patch14_reg4_dinov2", img_size=28, **GATED), 28),
    "dino": (lambda: DinoViT(32, depth=2, n_heads=2), 48),
    "clip": (vit("vit_base_patch32_clip_quickgelu_224", img_size=64, num_classes=6), 64),
    "beit3": (lambda: musk(depth=2, embed_dim=32, num_heads=2, img_size=64), 64),
    "beit3/trunk": (lambda: musk(multi_scale=True, depth=2, embed_dim=32, num_heads=2, img_size=64), 64),
    "ctranspath": (
        timm_network("swin_tiny_patch4_window7_224", embed_layer=ConvStem, depths=(2, 1, 2, 2), embed_dim=32,
                     num_heads=(1, 2, 2, 2), img_size=224),
        224,
    ),
    "conch": (lambda: conch(depth=1, img_size=32), 32),
    "keep": (lambda: keep(depth=1), 32),
    "torchvision-resnet": (timm_network("resnet18"), 64),
    "lightning": (lambda: DinoViT(32, depth=2, n_heads=2), 48),
    "fastglioma": (lambda: srh_resnet34(1), 64),
    "hidisc": (lambda: srh_resnet34(3), 64),
}  # fmt: skip


@cache
def small_state(layout: str) -> dict[str, Tensor]:
    """State of the layout's small network, filled; not to be changed."""
    return dict(fill_randomly(SMALL[layout][0]()).state_dict())


def vectors(network: nn.Module, side: int) -> Tensor:
    first = next(p for p in network.parameters() if p.ndim == 4)
    images = torch.randn(2, first.shape[1], side, side, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return network(images)


def through_file(published: dict[str, Any], layout: str, folder: Path) -> dict[str, Tensor]:
    path = folder / "weights.pth"
    torch.save(published, path)
    return load_layout(read_checkpoint(path).content, [KEY_MAPS[layout]], encoder="small")


LARGE = {"ctranspath", "conch", "keep", "torchvision-resnet", "fastglioma", "hidisc"}


@pytest.mark.parametrize(
    "layout", [pytest.param(layout, marks=[pytest.mark.slow] if layout in LARGE else []) for layout in SMALL]
)
def test_a_published_file_gives_the_same_vectors(layout, tmp_path):
    build, side = SMALL[layout]
    network: Any = fill_randomly(build())
    if layout == "clip":
        network.head.bias.zero_()  # the published layer has none
    published = with_extras(KEY_MAPS[layout].publish(network.state_dict()), layout)
    loaded = fill_randomly(build(), seed=1)
    before = vectors(loaded, side)
    loaded.load_state_dict(through_file(published, layout, tmp_path), strict=True)
    assert torch.equal(vectors(loaded, side), vectors(network, side))
    assert not torch.allclose(before, vectors(network, side)), "the weights make no difference"


def tensors_of(published: dict[str, Any]) -> dict[str, Tensor]:
    """The table of tensors in a published file."""
    return next((value for value in published.values() if isinstance(value, dict)), published)


@pytest.mark.parametrize("layout", SMALL)
@pytest.mark.parametrize("lost", ["first", "middle", "last"])
def test_a_missing_tensor_is_an_error(layout, lost):
    own = small_state(layout)
    published = KEY_MAPS[layout].publish(own)
    tensors = tensors_of(published)
    keys = [key for key in tensors if not key.endswith("num_batches_tracked")]
    del tensors[keys[{"first": 0, "middle": len(keys) // 2, "last": -1}[lost]]]
    try:
        state = load_layout(published, [KEY_MAPS[layout]], encoder="small")
    except WeightsError as error:
        assert any(words in str(error) for words in ("no tensor", "none of the layouts"))  # noqa: PT017  or below
    else:
        assert len(set(own) - set(state)) == 1, "a strict load would not see it"


@pytest.mark.parametrize("layout", sorted(set(SMALL) - {"conch", "fastglioma", "hidisc"}))
def test_an_unknown_tensor_is_an_error(layout):
    """Where a file is known to hold other networks, only what lies beside ours is left alone."""
    own = small_state(layout)
    published = KEY_MAPS[layout].publish(own)
    tensors_of(published)["blocks.0.attn.surprise.weight"] = torch.zeros(2)
    try:
        state = KEY_MAPS[layout].load(published)
    except WeightsError as error:
        assert "surprise" in str(error)  # noqa: PT017  or below
    else:
        assert len(set(state) - set(own)) == 1, "a strict load would not see it"


@pytest.mark.parametrize("layout", ["hf-vit", "hf-dinov2", "hf-dinov2-swiglu-registers", "dino", "clip", "dinov2"])
def test_another_depth_is_an_error(layout):
    build, _ = SMALL[layout]
    network = build()
    deeper: nn.Module = DinoViT(32, depth=3, n_heads=2)
    if isinstance(build, TimmNetwork):
        deeper = timm_network(build.architecture, **{**dict(build.arguments), "depth": 7})()
    state = KEY_MAPS[layout].load(KEY_MAPS[layout].publish(deeper.state_dict()))
    with pytest.raises(RuntimeError, match="Unexpected key"):
        network.load_state_dict(state, strict=True)


def test_hugging_face_names_by_hand():
    """Spots of the table in the specification, not derived from the map."""
    network = fill_randomly(DinoViT(32, depth=2, n_heads=2))
    own, published = network.state_dict(), tensors_of(KEY_MAPS["hf-vit"].publish(network.state_dict()))
    layer = "encoder.layer.1"
    qkv = own["blocks.1.attn.qkv.weight"]
    for n, part in enumerate(("query", "key", "value")):
        assert torch.equal(published[f"{layer}.attention.attention.{part}.weight"], qkv[32 * n : 32 * (n + 1)])
    for theirs, ours in (
        (f"{layer}.layernorm_before.bias", "blocks.1.norm1.bias"),
        (f"{layer}.layernorm_after.weight", "blocks.1.norm2.weight"),
        (f"{layer}.attention.output.dense.bias", "blocks.1.attn.proj.bias"),
        (f"{layer}.intermediate.dense.weight", "blocks.1.mlp.fc1.weight"),
        (f"{layer}.output.dense.weight", "blocks.1.mlp.fc2.weight"),
        ("embeddings.patch_embeddings.projection.weight", "patch_embed.proj.weight"),
        ("embeddings.position_embeddings", "pos_embed"),
        ("layernorm.bias", "norm.bias"),
    ):
        assert torch.equal(published[theirs], own[ours])


@pytest.mark.parametrize(
    ("layout", "theirs", "ours"),
    [
        ("hf-dinov2", "encoder.layer.1.layer_scale2.lambda1", "blocks.1.ls2.gamma"),
        ("hf-dinov2", "encoder.layer.0.mlp.fc1.weight", "blocks.0.mlp.fc1.weight"),
        ("hf-dinov2-swiglu", "encoder.layer.0.mlp.weights_in.weight", "blocks.0.mlp.fc1.weight"),
        ("hf-dinov2-swiglu", "encoder.layer.1.mlp.weights_out.bias", "blocks.1.mlp.fc2.bias"),
        ("hf-dinov2-registers", "embeddings.register_tokens", "reg_token"),
        ("dinov2-swiglu-registers", "backbone.register_tokens", "reg_token"),
        ("dinov2-swiglu", "backbone.blocks.0.0.mlp.w12.weight", "blocks.0.mlp.fc1.weight"),
        ("dinov2-swiglu", "backbone.blocks.1.1.mlp.w3.weight", "blocks.1.mlp.fc2.weight"),
        ("dinov2", "backbone.blocks.2.5.ls1.gamma", "blocks.5.ls1.gamma"),
        ("clip", "vision_model.pre_layrnorm.weight", "norm_pre.weight"),
        ("clip", "vision_model.post_layernorm.bias", "norm.bias"),
        ("clip", "vision_model.encoder.layers.1.self_attn.out_proj.weight", "blocks.1.attn.proj.weight"),
        ("clip", "visual_projection.weight", "head.weight"),
        ("beit3", "beit3.encoder.layers.1.self_attn.inner_attn_ln.A.weight", "blocks.1.attn.norm.weight"),
        ("beit3", "beit3.encoder.layers.1.ffn.A.ffn_layernorm.weight", "blocks.1.mlp.norm.weight"),
        ("beit3", "beit3.encoder.layers.0.ffn.A.fc2.bias", "blocks.0.mlp.fc2.bias"),
        ("beit3", "beit3.encoder.layers.0.final_layer_norm.A.weight", "blocks.0.norm2.weight"),
        ("beit3", "beit3.encoder.layer_norm.A.bias", "norm.bias"),
        ("ctranspath", "layers.2.downsample.reduction.weight", "layers.3.downsample.reduction.weight"),
        ("ctranspath", "patch_embed.proj.6.bias", "patch_embed.proj.6.bias"),
        ("conch", "visual.attn_pool_contrast.ln_k.weight", "attn_pool_contrast.ln_k.weight"),
        ("keep", "visual_head.2.bias", "visual_head.2.bias"),
        ("fastglioma", "model.backbone.layer3.0.downsample.0.weight", "layer3.0.downsample.0.weight"),
        ("hidisc", "model.bb.conv1.weight", "conv1.weight"),
    ],
)
def test_names_by_hand(layout, theirs, ours):
    own = small_state(layout)
    assert torch.equal(tensors_of(KEY_MAPS[layout].publish(own))[theirs], own[ours])


def test_the_class_token_s_position_is_added_to_it_where_there_are_registers():
    layout = KEY_MAPS["hf-dinov2-registers"]
    published = layout.publish(fill_randomly(SMALL["hf-dinov2-registers"][0]()).state_dict())
    published["embeddings.cls_token"] = torch.full((1, 1, 32), 0.25)
    table = torch.arange(5.0)[None, :, None].expand(1, 5, 32)
    published["embeddings.position_embeddings"] = table + 1
    state = layout.load(published)
    assert torch.equal(state["cls_token"], torch.full((1, 1, 32), 1.25))
    assert torch.equal(state["pos_embed"], table[:, 1:] + 1)


def test_two_rows_of_musk_s_positions_are_dead():
    layout = KEY_MAPS["beit3"]
    published = layout.publish(fill_randomly(SMALL["beit3"][0]()).state_dict())
    table = tensors_of(published)["beit3.encoder.embed_positions.A.weight"]
    assert tuple(table.shape) == (2 + 1 + 16, 32)
    expected = layout.load(published)["pos_embed"]
    table[:2] = torch.nan
    assert torch.equal(layout.load(published)["pos_embed"], expected)


def test_musk_s_full_table_has_the_published_size():
    table = KEY_MAPS["beit3"].publish(meta_state("musk"))["beit3.encoder.embed_positions.A.weight"]
    assert isinstance(table, Tensor)
    assert tuple(table.shape) == (579, 1024)


@pytest.mark.parametrize("prefix", ["backbone.", "module.backbone.", ""])
def test_prefixes_of_a_teacher(prefix):
    network = fill_randomly(DinoViT(32, depth=1, n_heads=2))
    teacher = {prefix + key: value for key, value in network.state_dict().items()}
    for published in ({"teacher": teacher, "student": {}}, teacher):
        state = KEY_MAPS["dino"].load(published)
        assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize("layout", ["dino", "dinov2"])
def test_the_student_is_never_taken(layout, tmp_path):
    teacher, student = (fill_randomly(SMALL[layout][0](), seed=seed) for seed in (0, 1))
    published = KEY_MAPS[layout].publish(teacher.state_dict())
    published["student"] = {f"module.backbone.{key}": value for key, value in student.state_dict().items()}
    state = through_file({key: published[key] for key in ("student", "teacher")}, layout, tmp_path)
    loaded = SMALL[layout][0]().eval()
    loaded.load_state_dict(state, strict=True)
    side = SMALL[layout][1]
    assert torch.equal(vectors(loaded, side), vectors(teacher, side))
    assert not torch.allclose(vectors(loaded, side), vectors(student, side))


@pytest.mark.parametrize("name", ["hipt-vit256", "dino-brca", "phikon-ibot", "gpfm"])
def test_a_file_with_a_student_only_is_refused(name):
    student = {f"module.backbone.{key}": value for key, value in meta_state(name).items()}
    with pytest.raises(WeightsError, match="no entry 'teacher', only 'student'"):
        load_layout({"student": student, "epoch": 1}, ALL[name].layouts(), encoder=name)


def test_published_and_training_checkpoints_of_fastglioma_are_told_apart():
    published, training = (fill_randomly(srh_resnet34(3), seed=seed).state_dict() for seed in (0, 1))
    layouts = ARCHITECTURES["fastglioma-highres"].layouts()
    whole = {f"model.backbone.{key}": value for key, value in published.items()}
    stage = {f"model.bb.{key}": value for key, value in training.items()}
    mil = {"model.bb.mil.cls_token": torch.zeros(1, 8, 4)}
    taken = load_layout({"state_dict": {**whole, **mil}}, layouts, encoder="x")
    assert torch.equal(taken["conv1.weight"], published["conv1.weight"])
    taken = load_layout({"state_dict": {**stage, "model.proj.layers.0.bias": torch.zeros(1)}}, layouts, encoder="x")
    assert torch.equal(taken["conv1.weight"], training["conv1.weight"])
    with pytest.raises(WeightsError, match="none of the layouts of 'x' \\(fastglioma, hidisc\\)"):
        load_layout({"state_dict": mil}, layouts, encoder="x")


def test_torchvision_s_resnet_is_timm_s():
    from torchvision.models import resnet18

    theirs: Any = fill_randomly(resnet18(weights=None, num_classes=7))
    ours = timm_network("resnet18")().eval()
    ours.load_state_dict(KEY_MAPS["torchvision-resnet"].load(theirs.state_dict()), strict=True)
    theirs.fc = nn.Identity()
    torch.testing.assert_close(vectors(ours, 64), vectors(theirs, 64))


def test_quick_gelu_would_be_lost_without_a_word():
    """The same file loads strictly into a network with the exact GELU and gives other vectors."""
    quick: Any = fill_randomly(SMALL["clip"][0]())
    quick.head.bias.zero_()
    exact = vit("vit_base_patch32_clip_224", img_size=64, num_classes=6)().eval()
    exact.load_state_dict(KEY_MAPS["clip"].load(KEY_MAPS["clip"].publish(quick.state_dict())), strict=True)
    assert (vectors(quick, 64) - vectors(exact, 64)).abs().max() > 1e-3


def test_dropped_registers_differ():
    network = fill_randomly(SMALL["dinov2-registers"][0]())
    published = KEY_MAPS["dinov2-registers"].publish(network.state_dict())
    without = vit("vit_base_patch14_dinov2", img_size=28, no_embed_class=True)().eval()
    state = KEY_MAPS["dinov2-registers"].load(published)
    with pytest.raises(RuntimeError, match="reg_token"):
        without.load_state_dict(state, strict=True)
    without.load_state_dict({key: value for key, value in state.items() if key != "reg_token"}, strict=True)
    assert (vectors(network, 28) - vectors(without, 28)).abs().max() > 1e-3


def test_midnight_s_table_is_brought_to_224_px_once():
    stored = torch.randn(1, 1 + 37 * 37, 24, generator=torch.Generator().manual_seed(0))
    published = KEY_MAPS["midnight"].publish(fill_randomly(SMALL["midnight"][0]()).state_dict())
    published["embeddings.position_embeddings"] = stored
    table = KEY_MAPS["midnight"].load(published)["trunk.pos_embed"]
    assert tuple(table.shape) == (1, 257, 24)
    assert torch.equal(table[:, 0], stored[:, 0])


def test_tensors_of_the_file_are_not_changed():
    for layout in SMALL:
        published = KEY_MAPS[layout].publish(small_state(layout))
        copies = {key: value.clone() for key, value in tensors_of(published).items()}
        KEY_MAPS[layout].load(published)
        assert all(torch.equal(copies[key], value) for key, value in tensors_of(published).items())


@pytest.mark.parametrize("published", [{}, {"epoch": 3}, {"teacher": 5}, {"state_dict": {"epoch": 1}}])
def test_files_without_weights_are_refused(published):
    for name in ("phikon", "hipt-vit256", "plip", "musk", "ctranspath", "fastglioma-lowres", "conch"):
        with pytest.raises(WeightsError):
            load_layout(published, ALL[name].layouts(), encoder=name)


def test_two_entries_that_become_one_are_refused():
    twice = {"blocks.0.1.norm1.bias": torch.zeros(2), "blocks.1.1.norm1.bias": torch.ones(2)}
    with pytest.raises(WeightsError, match=r"blocks\.1\.norm1\.bias"):
        Unchunk().load(twice)
    with pytest.raises(WeightsError, match="become 'a'"):
        Rename((("x.{i}", "a"),)).load({"x.1": torch.zeros(1), "x.2": torch.zeros(1)})
    with pytest.raises(WeightsError, match="without their prefixes"):
        KEY_MAPS["dino"].load({"norm.bias": torch.zeros(1), "module.norm.bias": torch.zeros(1)})


def test_a_part_of_a_stack_that_is_not_there_is_named():
    stack = Stack(("{i}.q.{p}", "{i}.k.{p}"), "{i}.qk.{p}")
    with pytest.raises(WeightsError, match=r"no tensor '3\.k\.weight'"):
        stack.load({"3.q.weight": torch.zeros(2)})
    with pytest.raises(WeightsError, match=r"no tensor '3\.q\.weight'"):
        stack.load({"3.k.weight": torch.zeros(2)})


def test_a_table_that_is_no_square_is_refused():
    layout = KeyMap("x", (Resample("timm", (4, 4), n_prefix=1),))
    with pytest.raises(WeightsError, match="12 rows with 1 prefix"):
        layout.load({"pos_embed": torch.zeros(1, 12, 3)})


@pytest.mark.parametrize(
    ("template", "key", "fits"),
    [
        ("blocks.{i}.norm1.{p}", "blocks.10.norm1.weight", True),
        ("blocks.{i}.norm1.{p}", "blocks.x.norm1.weight", False),
        ("blocks.{i}.norm1.{p}", "blocks.1.norm1.a.b", False),
        ("blocks.{i}.norm1.{p}", "trunk.blocks.1.norm1.weight", False),
        ("norm.{p}", "normxweight", False),
        ("mlp.{rest}", "mlp.a.b.c", True),
        ("mlp.{rest}", "mlp.", False),
    ],
)
def test_templates(template, key, fits):
    assert (match(template, key) is not None) == fits


@pytest.mark.parametrize("name", BAG_ARCHITECTURES)
def test_slide_encoders_leave_the_rest_of_their_file_behind(name):
    extras = {
        "chief": ["organ_embedding", "classifiers.weight", "instance_classifiers.1.bias", "att_head.fc1.weight",
                  "text_to_vision.0.weight"],
    }.get(name, ["model.classifier.weight"])  # fmt: skip
    network = fill_randomly(BAG_ARCHITECTURES[name].build())
    published = KEY_MAPS[BAG_ARCHITECTURES[name].layout_names[0]].publish(network.state_dict())
    published |= {key: torch.zeros(2) for key in extras}
    state = load_layout(published, BAG_ARCHITECTURES[name].layouts(), encoder=name)
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())
    assert len(state) == len(network.state_dict()) == 8
