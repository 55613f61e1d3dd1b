"""Weights files of every layout, damaged ones, and ones that bite."""

import argparse
import io
import json
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from microtome.encoders.base import Card
from microtome.encoders.checkpoints import fit_checkpoint, read_checkpoint
from microtome.encoders.filled import fill_network
from microtome.encoders.network import load_weights
from microtome.encoders.published import Published
from microtome.errors import WeightsError
from microtome.storage import hash_file


class Small(nn.Module):
    """A trunk of two levels; with classes, a classifier behind it."""

    def __init__(self, n_classes=0):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.fc = nn.Linear(4, n_classes) if n_classes else nn.Identity()

    def forward(self, images):
        x = self.stem(images).mean((2, 3))
        for block in self.blocks:
            x = block(x)
        return self.fc(x)


CARD = Card(name="small", dim=4, input_px=8, tile_px=8)
PUBLISHED = Published(card=CARD, build=Small, head=frozenset({"fc.weight", "fc.bias"}))


def weights(n_classes=0, scale=1.0):
    network = Small(n_classes)
    fill_network(network, (3, 8, 8))
    return {
        name: tensor * scale if tensor.is_floating_point() else tensor for name, tensor in network.state_dict().items()
    }


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def load(path, published=PUBLISHED):
    network = Small().eval()
    return load_weights(network, path, published), network.state_dict()


def check_loaded(path, expected=None):
    sha256, found = load(path)
    assert sha256 == hash_file(path)
    for name, tensor in (expected or weights()).items():
        if name in found:
            assert torch.equal(found[name], tensor), name


DINO = {
    "student": prefixed(weights(scale=2), "module.backbone."),
    "teacher": prefixed(weights(), "backbone.") | {"head.last_layer.weight_v": torch.ones(3)},
    "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-3}]},
    "epoch": 100,
    "args": argparse.Namespace(lr=1e-3, arch="vit"),
    "dino_loss": {"center": torch.zeros(1, 7)},
}
LAYOUTS = {
    "bare": weights(),
    "ordered": OrderedDict(weights()),
    "state_dict": {"state_dict": weights(), "epoch": 3},
    "lightning": {
        "state_dict": prefixed(weights(), "model.backbone.") | {"model.head.weight": torch.ones(2, 2)},
        "callbacks": {"best": np.float64(0.5), "n": np.int64(3)},
    },
    "model": {"model": prefixed(weights(), "encoder."), "optimizer": {}},
    "ddp": prefixed(weights(), "module."),
    "compiled": prefixed(weights(), "_orig_mod."),
    "nested": {"net": {"module": weights()}},
    "dino": DINO,
    "ema": {"model": weights(scale=2), "model_ema": weights()},
    "moco": {"state_dict": prefixed(weights(), "module.encoder_q.") | {"module.queue": torch.ones(2, 3)}},
    "with head": weights(n_classes=7),
    "with head, prefixed": prefixed(weights(n_classes=7), "module."),
    "no counters": {name: tensor for name, tensor in weights().items() if "num_batches" not in name},
    "parameters": {name: nn.Parameter(t) if t.is_floating_point() else t for name, t in weights().items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_recognised(tmp_path, layout):
    torch.save(LAYOUTS[layout], tmp_path / "weights.pth")
    check_loaded(tmp_path / "weights.pth")


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "ckpt", "bin"])
def test_safetensors_are_known_by_content(tmp_path, suffix):
    path = tmp_path / f"weights.{suffix}"
    save_file(prefixed(weights(), "module."), path)
    check_loaded(path)


def test_files_of_old_torch_are_read(tmp_path):
    torch.save({"state_dict": weights()}, tmp_path / "old.pth.tar", _use_new_zipfile_serialization=False)
    check_loaded(tmp_path / "old.pth.tar")


def test_half_precision_becomes_fp32(tmp_path):
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights().items()}
    save_file(halves, tmp_path / "half.safetensors")
    _, found = load(tmp_path / "half.safetensors")
    assert found["blocks.0.weight"].dtype == torch.float32
    torch.testing.assert_close(found["blocks.0.weight"], weights()["blocks.0.weight"], rtol=1e-3, atol=1e-3)


def without(state, *names):
    return {name: tensor for name, tensor in state.items() if name not in names}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (without(weights(), "blocks.1.bias"), r"1 tensors are missing \(blocks.1.bias\)"),
        ({"state_dict": without(prefixed(weights(), "m."), "m.stem.0.weight")}, "missing.*stem.0.weight.*state_dict"),
        (weights() | {"blocks.2.weight": torch.ones(4, 4)}, r"1 tensors are not of this network \(blocks.2.weight\)"),
        (weights() | {"fc.extra": torch.ones(4)}, "fc.extra"),
        (prefixed(weights(), "module.") | {"module.blocks.2.bias": torch.ones(4)}, "blocks.2.bias"),
        (
            weights() | {"blocks.0.weight": torch.ones(5, 4)},
            r"1 tensors of another shape \('blocks.0.weight' is \(5, 4\)",
        ),
        ({"a": torch.ones(2), "b": torch.ones(3)}, r"missing.*not of this network \(a, b\)"),
        ({"state_dict": {}, "epoch": 3}, "no tensors"),
        ({"epoch": 3}, "no tensors"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, state, words):
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=f"(?s)weights.pth.*{words}") as caught:
        load(tmp_path / "weights.pth")
    assert isinstance(caught.value, ValueError)


def test_two_networks_that_fit_are_not_chosen_between(tmp_path):
    torch.save({"tumour": weights(), "normal": weights(scale=2)}, tmp_path / "two.pth")
    with pytest.raises(WeightsError, match=r"several networks that fit.*'tumour', 'normal'"):
        load(tmp_path / "two.pth")
    torch.save({"tumour": weights(), "normal": {"x": torch.ones(1)}}, tmp_path / "one.pth")
    check_loaded(tmp_path / "one.pth")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, bad):
    state = weights()
    state["blocks.1.weight"][2, 3] = bad
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError, match=r"NaN or infinity in 1 of .*blocks.1.weight"):
        load(tmp_path / "weights.safetensors")


class Bomb:
    """What runs if a pickle of it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_file_is_not_executed(tmp_path, legacy):
    torch.save(
        {"state_dict": weights(), "args": Bomb(tmp_path / "executed")},
        tmp_path / "bomb.pth",
        _use_new_zipfile_serialization=not legacy,
    )
    with pytest.raises(WeightsError, match=r"bomb.pth.*not opened.*open.*save its state dict alone"):
        read_checkpoint(tmp_path / "bomb.pth")
    (tmp_path / "bare.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "executed")))
    with pytest.raises(WeightsError, match=r"bare.bin"):
        read_checkpoint(tmp_path / "bare.bin")
    assert not (tmp_path / "executed").exists()


def test_what_is_admitted_once_is_not_admitted_for_others(tmp_path):
    torch.save({"args": argparse.Namespace(x=1), "w": torch.ones(1)}, tmp_path / "a.pth")
    read_checkpoint(tmp_path / "a.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "a.pth", weights_only=True)


def saved(kind):
    file = io.BytesIO()
    if kind == "safetensors":
        from safetensors.torch import save

        return save(weights())
    torch.save(weights(), file, _use_new_zipfile_serialization=kind == "zip")
    return file.getvalue()


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.999])
def test_files_that_are_cut_off_are_refused(tmp_path, kind, share):
    whole = saved(kind)
    (tmp_path / "cut.pth").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(WeightsError, match=r"cut.pth.*(cut off|damaged|no tensors|not a weights file|missing)"):
        load(tmp_path / "cut.pth")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n <!DOCTYPE html><html><body>Log in</body></html>", "a web page.*Download it again"),
        (b"<html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n", "Git LFS pointer.*git lfs pull"),
        (b'{"error": "gated"}', "JSON text"),
        (b"\x89HDF\r\n\x1a\n" + b"0" * 50, "unknown kind"),
        (b"PK\x05\x06" + b"\0" * 18, "damaged|not opened"),
        (pickle.dumps([1, 2]), "a list, not a state dict|damaged|not opened"),
        (b"\x80\x04garbage", "damaged|not opened"),
    ],
)
def test_files_of_another_kind_are_called_what_they_are(tmp_path, content, words):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=f"weights.pth.*({words})"):
        read_checkpoint(tmp_path / "weights.pth")


def test_a_tensor_alone_is_no_state_dict(tmp_path):
    torch.save(torch.ones(3), tmp_path / "tensor.pth")
    with pytest.raises(WeightsError, match="holds a Tensor, not a state dict"):
        read_checkpoint(tmp_path / "tensor.pth")


def test_absent_files_and_folders_are_named(tmp_path):
    with pytest.raises(WeightsError, match=r"no weights file.*absent.pth"):
        read_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(WeightsError, match="is a folder"):
        read_checkpoint(tmp_path)


def test_a_broken_header_of_safetensors_is_an_error(tmp_path):
    header = json.dumps({"w": {"dtype": "F32", "shape": [10], "data_offsets": [0, 40]}}).encode()
    (tmp_path / "short.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 8)
    with pytest.raises(WeightsError, match=r"short.safetensors.*cut off or damaged"):
        read_checkpoint(tmp_path / "short.safetensors")


def test_an_older_layout_is_adapted_where_the_network_has_a_rule(tmp_path):
    old = {name.replace("blocks.", "layers."): tensor for name, tensor in weights().items()}
    torch.save({"model": prefixed(old, "module.")}, tmp_path / "old.pth")

    def adapt(tensors):
        return {name.replace("layers.", "blocks."): tensor for name, tensor in tensors.items()}

    def fail(tensors):
        raise KeyError("not of this kind")

    checkpoint, wanted = read_checkpoint(tmp_path / "old.pth"), Small().state_dict()
    assert fit_checkpoint(checkpoint, wanted, adapt=adapt).is_whole
    assert not fit_checkpoint(checkpoint, wanted, adapt=fail).is_whole
    assert not fit_checkpoint(checkpoint, wanted).is_whole
