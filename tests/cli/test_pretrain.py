import json
from typing import Any

import pytest
import yaml

from microtome.cli import main
from tests.tasks.pretrain.material import write_tokens


@pytest.mark.parametrize("stage", ["hidisc", "slide-ssl", "ordinal"])
def test_settings_are_printed_as_yaml_that_comes_back(stage, tmp_path, capsys):
    assert main(["pretrain", stage, "--n-epochs", "3", "--learning-rate", "0.5", "--print-config"]) == 0
    text = capsys.readouterr().out
    assert yaml.safe_load(text)["n_epochs"] == 3
    (tmp_path / "settings.yaml").write_text(text)
    assert main(["pretrain", stage, "--config", str(tmp_path / "settings.yaml"), "--print-config"]) == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hidisc", "--data", "nowhere"], "nowhere"),
        (["ordinal", "--batch-size", "1"], "batch_size"),
        (["slide-ssl", "--embeddings", "e", "--n-tags", "2"], "n_tags"),
        (["hidisc", "--precision", "fp8"], "precision"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(arguments, said, capsys):
    assert main(["pretrain", *arguments]) != 0
    captured = capsys.readouterr()
    assert said.replace("_", "-") in (captured.out + captured.err).replace("_", "-")


def test_a_stage_runs_and_says_where_its_weights_are(tmp_path, capsys):
    meta: dict[str, Any] = {}
    for slide in write_tokens(tmp_path / "embeddings", n_patients=3):
        entry = meta.setdefault(slide.patient_id, {"class": "hgg", "slides": {}})
        lists = {"normal_patches": [], "tumor_patches": ["a.tif"], "nondiagnostic_patches": []}
        entry["slides"][slide.slide_id] = {"slide_class": slide.grade, **lists}
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "opensrh.json").write_text(json.dumps(meta))
    flags = ["--data", tmp_path, "--embeddings", tmp_path / "embeddings", "--train", "all", "--valid", "none"]
    flags += ["--out", tmp_path / "out", "--n-epochs", 1, "--batch-size", 3, "--quiet"]
    assert main(["pretrain", "slide-ssl", *map(str, flags)]) == 0
    assert "slide_ssl.safetensors" in capsys.readouterr().out
    assert (tmp_path / "out" / "stage.json").is_file()
