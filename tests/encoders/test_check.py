"""The check must fail on every mistake that loads without a word."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from microtome.encoders import check as module
from microtome.encoders import checkpoints
from microtome.encoders.architectures import pooled
from microtome.encoders.base import Card
from microtome.encoders.check import check_drift, check_encoder
from microtome.encoders.check_tiles import TILE_NAMES, check_tiles
from microtome.encoders.hardware import Wanted
from microtome.encoders.preprocess import Preprocess
from microtome.encoders.published import Published, timm_network
from microtome.encoders.references import Reference, read_references, record_path
from microtome.errors import CorruptOutputError, WeightsError
from microtome.storage import hash_array
from tests.encoders.small_networks import fill_randomly

CARD = Card(
    name="small",
    dim=192,
    input_px=64,
    tile_px=64,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    size_policy="error",
)
FP32 = Wanted("cpu", "fp32", "torch")

small = partial(timm_network, "vit_tiny_patch16_224", depth=2, img_size=64, init_values=1e-5)
gated = partial(small, mlp_layer="SwiGLUPacked", mlp_ratio=5.33334)
tokens = partial(small, global_pool="")


class Swapped(Preprocess):
    def forward(self, images):
        return super().forward(images.flip(-1))


class Unscaled(Preprocess):
    def forward(self, images):
        return self.pixels(images)


def published(build, card=CARD, **how):
    return Published(card=card, build=build, **how)


@pytest.fixture(autouse=True)
def _own_records(monkeypatch, tmp_path):
    monkeypatch.setenv("MICROTOME_CACHE", str(tmp_path))


@pytest.fixture
def check(monkeypatch):
    """Checks an encoder that the registry does not know."""

    def run(encoder, weights="none", wanted=FP32, **how):
        def load(name, *, device, weights, precision, runtime):
            assert name == "small"
            return encoder.load(device=device, weights=weights, precision=precision, runtime=runtime)

        monkeypatch.setattr(module, "load_encoder", load)
        return check_encoder("small", wanted, weights=weights, **how)

    return run


def finding(made, name):
    (found,) = [f for f in made.findings if f.name == name]
    return found


FAULTS = {
    "GELU for SwiGLU": (published(gated(act_layer="silu")), published(gated())),
    "plain GELU for QuickGELU": (published(small(act_layer="quick_gelu")), published(small())),
    "not normalised": (published(small()), published(small(), replace(CARD, mean=(), std=()))),
    "normalised by another's values": (
        published(small()),
        published(small(), replace(CARD, mean=(0.5,) * 3, std=(0.5,) * 3)),
    ),
    "not scaled to 0..1": (published(small()), published(small(), preprocess=Unscaled)),
    "channels swapped": (published(small()), published(small(), preprocess=Swapped)),
    "registers dropped": (published(small(reg_tokens=4)), published(small())),
    "registers in the mean": (
        published(partial(pooled, tokens(reg_tokens=4), "cls+mean", n_registers=4), replace(CARD, dim=384)),
        published(partial(pooled, tokens(reg_tokens=4), "cls+mean", n_registers=0), replace(CARD, dim=384)),
    ),
    "mean for class token": (published(partial(pooled, tokens(), "cls")), published(partial(pooled, tokens(), "mean"))),
    "class token for both": (
        published(partial(pooled, tokens(), "cls+mean"), replace(CARD, dim=384)),
        published(partial(pooled, tokens(), "cls")),
    ),
    "layer scale left out": (published(small()), published(small(init_values=None))),
    "a block left out": (published(small()), published(small(depth=1))),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_fails(check, fault):
    right, wrong = FAULTS[fault]
    first = check(right)
    assert first.passed
    assert "recorded now" in finding(first, "as recorded").text
    again = check(right)
    assert again.passed
    assert finding(again, "as recorded").passed
    made = check(wrong)
    assert not made.passed
    assert finding(made, "as recorded").passed is False


def test_what_changed_in_the_card_is_said(check):
    right, wrong = FAULTS["not normalised"]
    check(right)
    assert "mean: [0.485, 0.456, 0.406] → []" in finding(check(wrong), "as recorded").text
    check(FAULTS["plain GELU for QuickGELU"][0], accept=True)
    made = check(FAULTS["plain GELU for QuickGELU"][1])
    assert "the card has not changed" in finding(made, "as recorded").text


def test_student_instead_of_teacher_fails(check, tmp_path, monkeypatch):
    file = tmp_path / "both.pth"
    networks = {name: fill_randomly(small()(), seed).state_dict() for seed, name in enumerate(("student", "teacher"))}
    torch.save(networks, file)
    encoder = published(small())
    assert check(encoder, file).passed
    assert finding(check(encoder, file), "as recorded").passed
    monkeypatch.setattr(checkpoints, "PREFERRED", ("student", "teacher"))
    assert not check(encoder, file).passed


def test_a_record_is_of_one_file_of_weights(check, tmp_path):
    encoder = published(small())
    for seed in (0, 1):
        torch.save(fill_randomly(small()(), seed).state_dict(), tmp_path / f"{seed}.pth")
        made = check(encoder, tmp_path / f"{seed}.pth")
        assert "recorded now" in finding(made, "as recorded").text
    assert len(list((tmp_path / "weights" / "checks").iterdir())) == 2


def test_accepting_records_anew(check):
    right, wrong = FAULTS["channels swapped"]
    check(right)
    assert check(wrong, accept=True).passed
    assert check(wrong).passed
    assert not check(right).passed


class Constant(nn.Module):
    def __init__(self):
        super().__init__()
        self.values = nn.Parameter(torch.ones(192))

    def forward(self, images):
        return self.values + 0 * images.mean((1, 2, 3))[:, None]


def test_the_same_vector_for_everything_fails_and_is_not_recorded(check, tmp_path):
    made = check(published(Constant))
    assert finding(made, "tiles told apart").passed is False
    assert finding(made, "as recorded").passed is None
    assert not (tmp_path / "weights").exists()


class Neighbours(nn.Module):
    """Forgets that tiles are encoded one by one."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(192, 3))

    def forward(self, images):
        means = images.mean((2, 3))
        return (means - means.mean(0)) @ self.weight.T + means.repeat(1, 64)


def test_a_vector_that_hangs_on_its_batch_fails(check):
    assert finding(check(published(Neighbours)), "alone as in a batch").passed is False


def test_a_lower_precision_is_measured_against_fp32(check):
    encoder = published(small())
    check(encoder)
    made = check(encoder, wanted=Wanted("cpu", "bf16", "torch"))
    assert made.passed
    assert "bf16 (torch): cosine to fp32 at least 0.99" in finding(made, "precision").text
    assert finding(made, "as recorded").passed  # which is of fp32
    vectors = np.ones((6, 4), np.float32)
    far = vectors * np.array([1, 1, 1, 1.5], np.float32)
    assert check_drift(vectors, far, "fp16").passed is False


def test_vectors_that_others_found(check, tmp_path):
    encoder = published(small())
    loaded = encoder.load(device="cpu", weights="none", precision="fp32", runtime="torch")
    tile = check_tiles(64)[2]
    vector = loaded.encode(tile[None])[0]
    fine = Reference(tile, vector, "the authors", 1e-3)
    assert finding(check(encoder, references=[fine]), "reference: the authors").passed
    other = check(encoder, references=[replace(fine, vector=vector * 1.01)])
    assert not other.passed
    short = check(encoder, references=[replace(fine, vector=vector[:5])])
    assert "5 numbers" in finding(short, "reference: the authors").text


@pytest.mark.parametrize("suffix", [".npy", ".json", ".pt"])
def test_references_are_read_from_a_folder(tmp_path, suffix):
    from PIL import Image

    tile, vector = check_tiles(16)[1], np.arange(5, dtype=np.float32)
    Image.fromarray(tile).save(tmp_path / "a.png")
    file = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(file, vector[None])
    elif suffix == ".json":
        file.write_text(json.dumps(vector.tolist()))
    else:
        torch.save(torch.from_numpy(vector)[None], file)
    entry = {"encoder": "small", "tile": "a.png", "vector": file.name, "source": "us"}
    (tmp_path / "references.json").write_text(json.dumps([entry, {**entry, "encoder": "other", "tile": "absent"}]))
    (found,) = read_references(tmp_path, "small")
    np.testing.assert_array_equal(found.tile, tile)
    np.testing.assert_array_equal(found.vector, vector)
    with pytest.raises(WeightsError, match="no reference vector of encoder 'third'"):
        read_references(tmp_path, "third")
    with pytest.raises(WeightsError, match="does not give"):
        read_references(tmp_path, "other")


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"encoder": "small"}]', "{}", "null"])
def test_a_damaged_list_of_references(tmp_path, text):
    (tmp_path / "references.json").write_text(text)
    with pytest.raises(WeightsError):
        read_references(tmp_path, "small")


def test_a_pickle_is_no_vector(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    from PIL import Image

    Image.fromarray(check_tiles(16)[0]).save(tmp_path / "a.png")
    entry = {"encoder": "small", "tile": "a.png", "vector": "a.npy", "source": "us"}
    (tmp_path / "references.json").write_text(json.dumps([entry]))
    with pytest.raises(WeightsError, match="pickle"):
        read_references(tmp_path, "small")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"tiles": "check-tiles-1"}'])
def test_a_damaged_record_is_an_error(check, text):
    encoder = published(small())
    check(encoder)
    path = record_path(encoder.load(device="cpu", weights="none", precision="fp32"))
    path.write_text(text)
    with pytest.raises(CorruptOutputError, match="Delete it"):
        check(encoder)


def test_records_of_variants_lie_apart(tmp_path):
    encoder = published(small()).load(device="cpu", weights="none", precision="fp32")
    paths = set()
    for name in ("small", "small:mean", "small:blocks=2,avg", "timm:small", "hf-hub:o/small"):
        encoder.card = replace(CARD, name=name)
        paths.add(record_path(encoder))
    assert len(paths) == 5
    assert all(path.parent == tmp_path / "weights" / "checks" for path in paths)


class TestTiles:
    def test_they_are_the_same_everywhere(self):
        assert hash_array(check_tiles(64))[:16] == "0949972c75cdb21f"
        assert hash_array(check_tiles(224))[:16] == "acb37c968d149ba1"

    def test_they_differ_and_use_the_range(self):
        tiles = check_tiles(96)
        assert tiles.shape == (len(TILE_NAMES), 96, 96, 3)
        assert len({tile.tobytes() for tile in tiles}) == 6
        assert tiles[0].min() >= 240
        assert (tiles[1:].std((1, 2)) > 3).all()
        assert (np.abs(tiles[..., 0].astype(int) - tiles[..., 2]).max((1, 2))[1:] > 20).all()  # not grey

    def test_other_kinds_of_pixels(self):
        deep = check_tiles(32, 2, "uint16")
        assert deep.shape == (6, 32, 32, 2)
        assert deep.dtype == np.dtype("uint16")
        np.testing.assert_array_equal(deep // 257, check_tiles(32)[..., :2])
