"""Checkpoints to safetensors with a card."""

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from microtome.config.srh import SrhConvertConfig
from microtome.encoders.hardware import Wanted
from microtome.encoders.srh_model import load_srh_model
from microtome.encoders.srh_reference import Calibration, fit_familiar
from microtome.encoders.srh_use import INTENDED_USE, NOT_INTENDED
from microtome.errors import ConfigError, CorruptOutputError, RecipeMismatchError
from microtome.models.fastglioma import SrhScorer
from microtome.models.srh import srh_resnet34
from microtome.tasks.srh.convert import srh_convert, write_srh_model

CPU = Wanted("cpu", "fp32", "torch")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    scorer = SrhScorer()
    state = {
        **{f"model.backbone.{k}": v for k, v in srh_resnet34(1).state_dict().items()},
        **{f"model.bb.mil.{k}": v for k, v in scorer.slide.state_dict().items()},
        **{f"model.head.{k}": v for k, v in scorer.head.state_dict().items()},
    }
    path = tmp_path_factory.mktemp("model") / "low.ckpt"
    torch.save({"state_dict": state, "epoch": 1}, path)
    return path


def test_the_same_tensors_come_back_under_the_published_names(checkpoint, tmp_path):
    before = torch.load(checkpoint, weights_only=True)["state_dict"]
    path = srh_convert(SrhConvertConfig(model=checkpoint, patch_input="lowres", out=tmp_path))
    after = load_file(path)
    assert after.keys() == before.keys()
    assert len(after) == 255
    assert all(torch.equal(after[name], before[name]) for name in before)
    with safe_open(path, "pt") as file:
        assert file.metadata()["patch_input"] == "lowres"
    assert load_srh_model(str(path), wanted=CPU).patch_input == "lowres"  # a checkpoint would have to be told
    with pytest.raises(RecipeMismatchError, match="--overwrite"):
        srh_convert(SrhConvertConfig(model=checkpoint, patch_input="lowres", out=tmp_path))


def test_the_card_states_the_intended_use_in_full(checkpoint, tmp_path):
    srh_convert(SrhConvertConfig(model=checkpoint, patch_input="lowres", out=tmp_path))
    card = (tmp_path / "README.md").read_text()
    for point in (*INTENDED_USE, *NOT_INTENDED):
        assert point in card
    assert "CC-BY-NC-SA-4.0" in card
    assert "unavailable" in card


def test_calibration_and_validation_slides_travel_with_the_model(checkpoint, tmp_path):
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((9, 512)).astype(np.float32)
    np.savez(tmp_path / "embeddings.npz", slide_id=np.array(list("abcdefghi")), embeddings=embeddings)
    path = srh_convert(
        SrhConvertConfig(model=checkpoint, patch_input="lowres", out=tmp_path, validation=tmp_path / "embeddings.npz")
    )
    model = load_srh_model(str(path), wanted=CPU)
    assert model.familiar is not None
    assert model.familiar.limit == pytest.approx(fit_familiar(embeddings).limit)
    fitted = Calibration(scale=1.5, offset=-0.25, knots=((0.0, 0.0), (1.0, 0.9)), n_slides=9, cuts=(0.2, 0.5, 0.8))
    write_srh_model(tmp_path / "again.safetensors", model, calibration=fitted, familiar=model.familiar)
    again = load_srh_model(str(tmp_path / "again.safetensors"), wanted=CPU)
    assert again.calibration == fitted
    assert again.familiar is not None
    np.testing.assert_array_equal(again.familiar.embeddings, model.familiar.embeddings)


def test_what_cannot_be_converted_is_refused(checkpoint, tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    with pytest.raises(CorruptOutputError, match=r"embeddings\.npz"):
        srh_convert(
            SrhConvertConfig(model=checkpoint, patch_input="lowres", out=tmp_path, validation=tmp_path / "bad.npz")
        )
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    scorer = {name: value for name, value in state.items() if not name.startswith("model.backbone.")}
    torch.save({"state_dict": scorer}, tmp_path / "scorer.ckpt")
    with pytest.raises(ConfigError, match="--tokenizer"):
        srh_convert(SrhConvertConfig(model=tmp_path / "scorer.ckpt", out=tmp_path))
    assert not (tmp_path / "model.safetensors").exists()
