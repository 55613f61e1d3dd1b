"""Encoders by name, loaded from files in the published layout, against the outputs of the original implementations."""

import numpy as np
import pytest
import torch

from microtome.encoders.key_maps import KEY_MAPS
from microtome.encoders.registry import load_encoder
from tests.conftest import golden_cases, require_case
from tests.encoders.golden import assert_close, dino_file, fill, image, patch, read_case, read_layout
from tests.encoders.zoo import PLAIN

slow = pytest.mark.slow


def saved(folder, content, name="weights.pth"):
    path = folder / name
    torch.save(content, path)
    return path


def close(got, expected, stated):
    assert_close(torch.from_numpy(got), expected, stated)


def teacher_of(case):
    return fill(case, [key for key in read_layout(case) if key.startswith("teacher.")])


def ibot_tiles(description):
    rng = np.random.Generator(np.random.PCG64(description["inputs"]["input_seed"]))
    images = rng.integers(0, 256, size=(2, 224, 224, 3), dtype=np.uint8)
    return images, rng.integers(0, 256, size=(1, *description["inputs"]["other_size_hw"], 3), dtype=np.uint8)


@slow
@pytest.mark.parametrize("case", golden_cases("ibot_vitb"), ids=lambda c: c.name)
def test_golden_phikon(case, tmp_path):
    """The training checkpoint, student and heads included, and the Hugging Face file, each with its own epsilon."""
    description, expected = read_case(require_case(case))
    stated, (images, other) = description["tolerance"], ibot_tiles(description)
    teacher = {key.removeprefix("teacher."): value for key, value in teacher_of(case).items()}
    student = {f"module.{key}": torch.zeros_like(value) for key, value in teacher.items()}
    phikon = load_encoder("phikon", weights=saved(tmp_path, {"student": student, "teacher": teacher}), **PLAIN)
    close(phikon.encode(images), expected["features"], stated)
    close(phikon.encode(other), expected["features_other_size"], stated)
    backbone = {k.removeprefix("backbone."): v for k, v in teacher.items() if k.startswith("backbone.")}
    published = KEY_MAPS["hf-vit"].publish(backbone)
    assert len(published) == description["hf"]["n_tensors"]
    hugging_face = load_encoder("iBOTViTBasePANCAN", weights=saved(tmp_path, published), **PLAIN)
    close(hugging_face.encode(images), expected["hf_features_eps1e12"], stated)
    assert np.abs(hugging_face.encode(images) - phikon.encode(images)).max() > 1e-4
    assert phikon.weights_hash != hugging_face.weights_hash


@slow
@pytest.mark.parametrize("case", golden_cases("ibot_vitb"), ids=lambda c: c.name)
def test_golden_unreleased_base(case, tmp_path):
    """A user's own file of the study's base network."""
    description, expected = read_case(require_case(case))
    weights = saved(tmp_path, {"teacher": {k.removeprefix("teacher."): v for k, v in teacher_of(case).items()}})
    images, _ = ibot_tiles(description)
    close(load_encoder("iBOTViTBaseCOAD", weights=weights, **PLAIN).encode(images), expected["features"],
          description["tolerance"])  # fmt: skip


@slow
@pytest.mark.parametrize("name", ["hipt-vit256", "DinoChenPancancer", "dino-brca"])
@pytest.mark.parametrize("case", golden_cases("hipt_vit256"), ids=lambda c: c.name)
def test_golden_hipt_vit256(case, name, tmp_path):
    description, expected = read_case(require_case(case))
    encoder = load_encoder(name, weights=saved(tmp_path, dino_file(case, fill(case))), **PLAIN)
    for i, batch in enumerate(description["inputs"]["images"]):
        images = np.stack([image(seed, batch["H"], batch["W"]) for seed in batch["seeds"]])
        close(encoder.encode(images), expected[f"out_{i}_cls"], description["tolerance"]["features"])


@slow
@pytest.mark.parametrize("case", golden_cases("hipt_4k"), ids=lambda c: c.name)
def test_golden_hipt_4k(case, tmp_path):
    """Two files; regions are cropped to whole tiles."""
    description, expected = read_case(require_case(case))
    parts: dict[str, dict[str, torch.Tensor]] = {"vit256": {}, "vit4k": {}}
    for key, value in fill(case).items():
        tag, name = key.split(":")
        parts[tag][name] = value
    saved(tmp_path, dino_file(case, parts["vit256"]), "vit256_small_dino.pth")
    saved(tmp_path, dino_file(case, parts["vit4k"]), "vit4k_xs_dino.pth")
    for name, output in (("hipt-4k", "features_cls4k"), ("HIPT:mean", "features_mean256_cls4k")):
        encoder = load_encoder(name, weights=tmp_path, **PLAIN)
        for i, region in enumerate(description["inputs"]["regions"]):
            got = encoder.encode(image(region["seed"], region["H"], region["W"])[None])
            close(got, expected[f"out_{i}_{output}"], description["tolerance"]["features"])


@slow
@pytest.mark.parametrize("size", ["small", "medium"])
def test_golden_histoencoder(size, tmp_path):
    """All choices of blocks and mean, at the encoder's own tile size (other sizes it resizes, as its command does)."""
    (case,) = golden_cases(f"histoencoder_prostate_{size}")
    description, expected = read_case(require_case(case))
    weights = saved(tmp_path, fill(case))
    compared = 0
    for i, batch in enumerate(description["inputs"]["batches"]):
        assert (batch["mean"], batch["std"]) == ([0.5] * 3, [0.5] * 3)
        if (batch["H"], batch["W"]) != (224, 224):
            continue
        images = np.stack([image(seed, 224, 224) for seed in batch["seeds"]])
        for n in batch["num_blocks"][-1 if size == "medium" else 0 :]:
            for choice in ("", ",avg"):
                encoder = load_encoder(f"prostate-{size}:blocks={n}{choice},norm=half", weights=weights, **PLAIN)
                key = f"out_{i}_blocks{n}_avg{int(bool(choice))}"
                close(encoder.encode(images), expected[key], description["tolerance"]["features"])
                compared += 1
    assert compared >= 2


@slow
@pytest.mark.parametrize("resolution", ["highres", "lowres"])
def test_golden_fastglioma_tokenizers(resolution, tmp_path):
    (case,) = golden_cases(f"fastglioma_{resolution}")
    description, expected = read_case(require_case(case))
    weights = saved(tmp_path, {"state_dict": fill(case), "epoch": 0, "pytorch-lightning_version": "1.8.4"})
    encoder = load_encoder(f"fastglioma-{resolution}-tokenizer", weights=weights, **PLAIN)
    for i, slide in enumerate(description["inputs"]["slides"]):
        raw = np.stack([patch(p["seed"], p["hi"]) for p in slide["patches"]]).transpose(0, 2, 3, 1)
        stated = description["tolerance"]["embeddings, logit, score"]
        close(encoder.encode(raw), expected[f"out_s{i}_patch_embeddings"], stated)
        if i == 0:  # CH2 comes first: exchanged channels are something else
            swapped = encoder.encode(np.ascontiguousarray(raw[..., ::-1]))
            assert np.abs(swapped - expected["out_s0_patch_embeddings"]).max() > 1e-3
