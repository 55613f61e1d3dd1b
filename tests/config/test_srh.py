"""The original's infer.yaml in our settings."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from microtome.config import ScoreConfig, resolve
from microtome.config.srh import is_infer_yaml, read_infer_yaml
from microtome.errors import ConfigError

INFER: dict[str, Any] = {
    "infra": {"log_dir": "./logs", "exp_name": "fastglioma/", "comment": "inference", "hf_repo": "mlinslab/fastglioma"},
    "data": {
        "db_root": "/data",
        "studies": ["NIO_001", "NIO_002"],
        "patch_input": "lowres",
        "use_patient_class": False,
    },
    "model": {
        "patch": {"backbone": {"which": "resnet34", "params": {"num_channel_in": 1}}, "mlp_hidden": []},
        "slide": {"mil": {"which": "transformer", "params": {"embed_dim": 512, "pos_emb_type": "FFPEG"}}},
    },
    "eval": {"predict_batch_size": 4, "ckpt_path": "fastglioma_lowres_model.ckpt"},
}


def test_every_key_of_the_original_finds_its_setting():
    assert is_infer_yaml(INFER)
    settings = resolve(ScoreConfig, read_infer_yaml(INFER, folder_name="0a1b2c3d-Nov21-10-11-12"))
    assert settings.slides == ("/data",)
    assert settings.study_names == ("NIO_001", "NIO_002")
    assert (settings.model, settings.hf_repo) == ("fastglioma_lowres_model.ckpt", "mlinslab/fastglioma")
    assert settings.patch_input == "lowres"
    assert not settings.use_patient_class
    assert settings.export_pt
    assert settings.out == Path("logs/fastglioma/0a1b2c3d-Nov21-10-11-12-inference_")


def test_its_defaults_are_those_of_the_original():
    settings = resolve(ScoreConfig, read_infer_yaml({"infra": {}, "data": {"db_root": "d"}}, folder_name="x"))
    assert settings.study_names == ("NIO_001",)
    assert (settings.patch_input, settings.model) == ("highres", "fastglioma_highres_model.ckpt")


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (("model", "slide", "mil", "params", "embed_dim"), 768, "embed_dim is 768"),
        (("model", "patch", "backbone", "which"), "vit", "'vit'"),
        (("model", "patch", "backbone", "params", "num_channel_in"), 3, "num_channel_in is 3"),
        (("data", "db_roots"), "/x", "db_roots"),
        (("training",), {"num_epochs": 3}, "'training'"),
        (("model", "slide", "mil", "params", "dropout"), 0.5, "no such key"),
    ],
)
def test_what_is_not_the_original_s_is_refused(where, value, said):
    values = deepcopy(INFER)
    inner = values
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    with pytest.raises(ConfigError, match=said):
        read_infer_yaml(values, folder_name="x")


def test_our_own_settings_are_not_mistaken_for_it():
    assert not is_infer_yaml({"slides": ["a"], "model": "fastglioma-highres"})
    with pytest.raises(ConfigError, match="db_root"):
        read_infer_yaml({"infra": {}, "data": {}}, folder_name="x")


def test_channel_order_may_be_a_list():
    assert resolve(ScoreConfig, {"channel_order": ["ch3", "CH2"]}).channel_order == "ch3,ch2"
