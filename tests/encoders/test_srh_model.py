"""FastGlioma's files: which layouts score, which are refused, and how the refusal helps."""

import numpy as np
import pytest
import torch

from microtome.encoders.hardware import Wanted
from microtome.encoders.srh_model import load_srh_model, stage_of
from microtome.errors import ConfigError, WeightsError
from microtome.models.fastglioma import SrhScorer
from microtome.models.srh import srh_resnet34

CPU = Wanted("cpu", "fp32", "torch")


@pytest.fixture(scope="module")
def parts() -> dict[str, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    scorer = SrhScorer()
    return {
        "high": srh_resnet34(3).state_dict(),
        "low": srh_resnet34(1).state_dict(),
        "slide": scorer.slide.state_dict(),
        "head": scorer.head.state_dict(),
    }


def under(prefix, tensors):
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def write(path, *states):
    torch.save({"state_dict": {k: v for state in states for k, v in state.items()}, "epoch": 3}, path)
    return path


@pytest.fixture(scope="module")
def files(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    slide, head = under("model.bb.mil.", parts["slide"]), under("model.head.", parts["head"])
    return {
        "published": write(folder / "high.ckpt", under("model.backbone.", parts["high"]), slide, head),
        "lowres": write(folder / "low.ckpt", under("model.backbone.", parts["low"]), slide, head),
        "hidisc": write(
            folder / "hidisc.ckpt",
            under("model.bb.", parts["high"]),
            {"model.proj.layers.0.weight": torch.ones(128, 512)},
        ),
        "slide-ssl": write(folder / "ssl.ckpt", slide, {"model.proj.layers.0.weight": torch.ones(512, 512)}),
        "scorer": write(folder / "scorer.ckpt", slide, head),
    }


@pytest.mark.parametrize("stage", ["published", "hidisc", "slide-ssl", "scorer"])
def test_stages_are_told_by_their_tensors(files, stage):
    assert stage_of(torch.load(files[stage], weights_only=True)["state_dict"]) == stage


def test_a_published_file_has_255_tensors(files):
    assert len(torch.load(files["published"], weights_only=True)["state_dict"]) == 255


def test_two_files_of_training_score_as_the_published_one_does(files):
    whole = load_srh_model(str(files["published"]), wanted=CPU)
    apart = load_srh_model(str(files["scorer"]), tokenizer=files["hidisc"], wanted=CPU)
    assert (whole.patch_input, apart.patch_input) == ("highres", "highres")
    images = np.random.default_rng(0).integers(0, 60000, (2, 300, 300, 2)).astype(np.uint16)
    assert whole.tokenizer is not None
    assert apart.tokenizer is not None
    features = whole.tokenizer.encode(images)
    np.testing.assert_array_equal(apart.tokenizer.encode(images), features)
    grid = np.array([[0, 0], [4, 1]])
    assert whole.see_slide(features, grid).logit == apart.see_slide(features, grid).logit


@pytest.mark.parametrize(
    ("stage", "how", "error", "said"),
    [
        ("hidisc", {}, WeightsError, "patches alone"),
        ("slide-ssl", {}, WeightsError, "without a score head"),
        ("published", {"patch_input": "lowres"}, WeightsError, "other resolution"),
        ("lowres", {"patch_input": "highres"}, WeightsError, "other resolution"),
        ("lowres", {}, WeightsError, "--patch-input"),
        ("published", {"patch_input": "ch3_only"}, WeightsError, "other resolution"),
        ("published", {"patch_input": "medium"}, ConfigError, "'medium'"),
        ("published", {"weights": "none"}, ConfigError, "by name"),
    ],
)
def test_files_that_do_not_fit_are_refused(files, stage, how, error, said):
    with pytest.raises(error, match=said):
        load_srh_model(str(files[stage]), wanted=CPU, **how)


def test_a_named_model_refuses_the_file_of_the_other_resolution(files):
    with pytest.raises(WeightsError, match="other resolution"):
        load_srh_model("fastglioma-lowres", weights=files["published"], wanted=CPU)


def test_a_model_that_is_nowhere_is_refused_with_what_there_is(tmp_path):
    with pytest.raises(WeightsError, match=r"fastglioma-highres, fastglioma-lowres"):
        load_srh_model(str(tmp_path / "absent.ckpt"), wanted=CPU)


def test_a_gated_model_says_how_to_get_access(monkeypatch):
    from huggingface_hub.errors import GatedRepoError

    def refuse(*_, **__):
        raise GatedRepoError.__new__(GatedRepoError)  # its own constructor wants an answer of a web library

    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("MICROTOME_WEIGHTS", raising=False)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(WeightsError, match=r"mlinslab/fastglioma.*accept its terms.*(hf auth login|hf auth whoami)"):
        load_srh_model("fastglioma-highres", wanted=CPU)


def test_weights_with_nan_or_of_another_network_are_refused(files, tmp_path):
    content = torch.load(files["scorer"], weights_only=True)
    content["state_dict"]["model.head.layers.2.bias"] = torch.tensor([torch.nan])
    torch.save(content, tmp_path / "nan.ckpt")
    with pytest.raises(WeightsError, match="NaN"):
        load_srh_model(str(tmp_path / "nan.ckpt"), wanted=CPU)
    del content["state_dict"]["model.bb.mil.norm.bias"]
    torch.save(content, tmp_path / "short.ckpt")
    with pytest.raises(WeightsError, match="missing"):
        load_srh_model(str(tmp_path / "short.ckpt"), wanted=CPU)
    torch.save({"state_dict": {"a.weight": torch.ones(2)}}, tmp_path / "other.ckpt")
    with pytest.raises(WeightsError, match="none of FastGlioma's layouts"):
        load_srh_model(str(tmp_path / "other.ckpt"), wanted=CPU)
