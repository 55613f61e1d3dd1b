"""Encoders against the outputs of the original implementations, through files in the published layout."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from microtome.encoders.architectures import histoencoder
from microtome.encoders.checkpoints import read_checkpoint
from microtome.encoders.key_maps import KEY_MAPS, load_layout
from microtome.models.fastglioma import SrhScorer
from microtome.models.srh import SrhInput, srh_resnet34
from microtome.models.vit import DinoViT, stretch_positions, token_grid
from microtome.models.vit4k import GridViT, RegionEncoder
from tests.conftest import golden_cases, require_case
from tests.encoders.golden import (
    assert_close,
    dino_file,
    fill,
    image,
    normalised,
    patch,
    read_case,
    read_layout,
    tolerance,
)

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5,) * 3, (0.5,) * 3)


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def through_file(content: dict[str, object], folder: Path, network: nn.Module, *layouts: str) -> nn.Module:
    """The network with weights that were written to a file and read back."""
    path = folder / "weights.pth"
    torch.save(content, path)
    state = load_layout(read_checkpoint(path).content, [KEY_MAPS[name] for name in layouts], encoder="case")
    path.unlink()
    network.load_state_dict(state, strict=True)
    return network.eval()


def ibot(case: Path, folder: Path, eps: float | None = None) -> tuple[nn.Module, list[Tensor]]:
    description, _ = read_case(case)
    teacher = fill(case, [key for key in read_layout(case) if key.startswith("teacher.")])
    some = fill(case, ["student.module.backbone.cls_token", "student.module.backbone.masked_embed"])
    content: dict[str, object] = {
        "student": {key.removeprefix("student."): value for key, value in some.items()},
        "teacher": {key.removeprefix("teacher."): value for key, value in teacher.items()},
    }
    made = description["constructor"]
    network = DinoViT(
        made["embed_dim"],
        depth=made["depth"],
        n_heads=made["num_heads"],
        patch_px=made["patch_size"],
        eps=made["layer_norm_eps"] if eps is None else eps,
    )
    loaded = through_file(content, folder, network, "dino")
    rng = np.random.Generator(np.random.PCG64(description["inputs"]["input_seed"]))
    images = rng.integers(0, 256, size=(2, 224, 224, 3), dtype=np.uint8)
    other = rng.integers(0, 256, size=(1, *description["inputs"]["other_size_hw"], 3), dtype=np.uint8)
    return loaded, [normalised(images, *IMAGENET), normalised(other, *IMAGENET)]


@pytest.mark.slow
@pytest.mark.parametrize("case", golden_cases("ibot_"), ids=lambda c: c.name)
def test_golden_ibot_teacher(case, tmp_path):
    description, expected = read_case(require_case(case))
    network, (images, other) = ibot(case, tmp_path)
    np.testing.assert_allclose(images[0].numpy(), expected["normalised_0"], rtol=0, atol=1e-6)
    features = network(images)
    assert_close(features, expected["features"], description["tolerance"])
    assert_close(network(other), expected["features_other_size"], description["tolerance"])
    assert np.abs(features.numpy() - expected["features_student"]).max() > 0.1, "the student's weights were taken"


@pytest.mark.slow
@pytest.mark.parametrize("case", golden_cases("ibot_"), ids=lambda c: c.name)
def test_golden_ibot_epsilon_of_the_hugging_face_file(case, tmp_path):
    description, expected = read_case(require_case(case))
    network, (images, _) = ibot(case, tmp_path, eps=1e-12)
    features = network(images)
    assert_close(features, expected["hf_features_eps1e12"], description["tolerance"])
    difference = np.abs(features.numpy() - expected["hf_features_eps1e6"]).max()
    assert difference > 1e-4, "the two epsilons cannot be told apart, so this would pass with either"


def hipt_vit256(layout: Mapping[str, object]) -> DinoViT:
    return DinoViT(384, depth=_depth(layout), n_heads=6)


def _depth(layout: Mapping[str, object]) -> int:
    return 1 + max(int(key.split("blocks.")[1].split(".")[0]) for key in layout if "blocks." in key)


@pytest.mark.slow
@pytest.mark.parametrize("case", golden_cases("hipt_vit256"), ids=lambda c: c.name)
def test_golden_hipt_vit256(case, tmp_path):
    description, expected = read_case(require_case(case))
    stated = description["tolerance"]
    network = through_file(dino_file(case, fill(case)), tmp_path, hipt_vit256(read_layout(case)), "dino")
    assert isinstance(network, DinoViT)
    for i, batch in enumerate(description["inputs"]["images"]):
        images = normalised((image(seed, batch["H"], batch["W"]) for seed in batch["seeds"]), *HALF)
        assert_close(network(images), expected[f"out_{i}_cls"], stated["features"])
        attention = network.last_attention(images)
        assert_close(attention[:, :, 0], expected[f"out_{i}_attention_cls_row"], stated["attention"])
        table = stretch_positions(network.pos_embed, (batch["H"] // 16, batch["W"] // 16))[0]
        step = 16 if i == 0 else 64
        assert_close(table[::step], expected[f"out_{i}_pos_embed"], stated["features"])
        if i == 0:
            assert_close(attention[0, 0], expected["out_0_attention_head0_image0"], stated["attention"])
            before, last = network.tokens(images[:1], last=2)
            assert_close(last[0, ::16], expected["out_0_tokens_image0_last"], stated["features"])
            assert_close(before[0, ::16], expected["out_0_tokens_image0_before_last"], stated["features"])


@pytest.mark.parametrize("case", golden_cases("hipt_vit4k"), ids=lambda c: c.name)
def test_golden_hipt_vit4k(case, tmp_path):
    description, expected = read_case(require_case(case))
    stated = description["tolerance"]
    network = through_file(dino_file(case, fill(case)), tmp_path, GridViT(), "dino")
    assert isinstance(network, GridViT)
    for i, grid in enumerate(description["inputs"]["grids"]):
        shape = (grid["B"], 384, grid["h"], grid["w"])
        rng = np.random.Generator(np.random.PCG64(grid["seed"]))
        vectors = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
        assert_close(network(vectors), expected[f"out_{i}_cls"], stated["features"])
        attention = network.last_attention(vectors)
        assert_close(attention[:, :, 0], expected[f"out_{i}_attention_cls_row"], stated["attention"])
        if i == 0:
            assert_close(attention[0, 0], expected["out_0_attention_head0_item0"], stated["attention"])


@pytest.mark.slow
@pytest.mark.parametrize("case", golden_cases("hipt_4k"), ids=lambda c: c.name)
def test_golden_hipt_region(case, tmp_path):
    description, expected = read_case(require_case(case))
    stated = description["tolerance"]
    parts: dict[str, dict[str, Tensor]] = {"vit256": {}, "vit4k": {}}
    for key, value in fill(case).items():
        tag, name = key.split(":")
        parts[tag][name] = value
    vit256 = through_file(dino_file(case, parts["vit256"]), tmp_path, hipt_vit256(parts["vit256"]), "dino")
    vit4k = through_file(dino_file(case, parts["vit4k"]), tmp_path, GridViT(), "dino")
    assert isinstance(vit256, DinoViT)
    assert isinstance(vit4k, GridViT)
    encoder = RegionEncoder(vit256, vit4k, batch_size=5)
    for i, region in enumerate(description["inputs"]["regions"]):
        pixels = normalised([image(region["seed"], region["H"], region["W"])], *HALF)
        out = encoder(pixels)
        assert_close(out.cls256[0], expected[f"out_{i}_features_cls256"], stated["features"])
        assert_close(out.mean256, expected[f"out_{i}_features_mean256"], stated["features"])
        assert_close(out.cls4k, expected[f"out_{i}_features_cls4k"], stated["features"])
        assert_close(out.mean256_cls4k, expected[f"out_{i}_features_mean256_cls4k"], stated["features"])
        assert out.grid == tuple(expected[f"out_{i}_grid_shape"])
        vectors = out.cls256.transpose(1, 2).unflatten(2, out.grid)
        attention = token_grid(vit4k.last_attention(vectors), out.grid)[0]
        assert_close(attention, expected[f"out_{i}_attention4k_cls_to_grid"], stated["attention"])
        tiles = encoder.cut(pixels)[0][0]
        inside = token_grid(vit256.last_attention(tiles), (16, 16))
        assert_close(inside, expected[f"out_{i}_attention256_cls_to_patches"], stated["attention"])


@pytest.mark.slow
@pytest.mark.parametrize("case", golden_cases("histoencoder_prostate_"), ids=lambda c: c.name)
def test_golden_histoencoder(case, tmp_path):
    description, expected = read_case(require_case(case))
    inputs = description["inputs"]
    network = through_file({**fill(case)}, tmp_path, histoencoder(inputs["timm_name"]), "own-names/trunk")
    compared = 0
    for i, batch in enumerate(inputs["batches"]):
        images = normalised(
            (image(seed, batch["H"], batch["W"]) for seed in batch["seeds"]), batch["mean"], batch["std"]
        )
        for num_blocks in batch["num_blocks"]:
            for avg_pool in (False, True):
                network.num_blocks, network.avg_pool = num_blocks, avg_pool  # type: ignore[assignment]
                key = f"out_{i}_blocks{num_blocks}_avg{int(avg_pool)}"
                assert_close(network(images), expected[key], description["tolerance"]["features"])
                compared += 1
    assert compared == len(expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [*golden_cases("fastglioma_highres"), *golden_cases("fastglioma_lowres")], ids=lambda c: c.name
)
def test_golden_fastglioma_patches(case, tmp_path):
    description, expected = read_case(require_case(case))
    low = description["inputs"]["patch_input"] == "lowres"
    see = SrhInput("ch2_only" if low else "three_channels", low_resolution=low)
    content: dict[str, object] = {
        "state_dict": fill(case),
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": "1.8.4",
    }
    network = through_file(content, tmp_path, srh_resnet34(see.channels), "fastglioma", "hidisc")
    atol, _ = tolerance(description["tolerance"]["input tensor"])
    for i, slide in enumerate(description["inputs"]["slides"]):
        raw = torch.from_numpy(np.stack([patch(p["seed"], p["hi"]) for p in slide["patches"]]))
        images = see(raw)
        assert images.dtype == torch.float32
        for name, value in (
            ("mean", images.double().mean((2, 3))),
            ("std", images.double().std((2, 3), correction=0)),
            ("min", images.amin((2, 3))),
            ("max", images.amax((2, 3))),
        ):
            np.testing.assert_allclose(value.numpy(), expected[f"out_s{i}_input_{name}"], rtol=0, atol=atol)
        if i == 0:
            np.testing.assert_allclose(images[0].numpy(), expected["out_s0_patch0_transformed"], rtol=0, atol=atol)
        stated = description["tolerance"]["embeddings, logit, score"]
        assert_close(network(images), expected[f"out_s{i}_patch_embeddings"], stated)


@pytest.mark.parametrize(
    "case", [*golden_cases("fastglioma_highres"), *golden_cases("fastglioma_lowres")], ids=lambda c: c.name
)
def test_golden_fastglioma_slides(case, tmp_path):
    """From the original's patch vectors to the slide's vector, logit, score and attention."""
    description, expected = read_case(require_case(case))
    stated = description["tolerance"]["embeddings, logit, score"]
    keys = [key for key in read_layout(case) if not key.startswith("model.backbone.")]
    network = through_file({"state_dict": fill(case, keys)}, tmp_path, SrhScorer(), "fastglioma-slide")
    assert isinstance(network, SrhScorer)
    for i in range(len(description["inputs"]["slides"])):
        features = torch.from_numpy(expected[f"out_s{i}_patch_embeddings"])[None]
        coordinates = torch.from_numpy(expected[f"out_s{i}_coords"])[None]
        logit = network(features, coordinates)
        assert_close(network.slide(features, coordinates), expected[f"out_s{i}_slide_embedding"], stated)
        assert_close(logit, expected[f"out_s{i}_logit"], stated)
        assert_close(logit.sigmoid(), expected[f"out_s{i}_score"], stated)
        attention = network.slide.last_attention(features, coordinates)
        assert_close(attention, expected[f"out_s{i}_attention_last_block"], stated)
    assert len(network.state_dict()) == 39
