"""`microtome encoders fetch | check`."""

import json

import numpy as np
import pytest
from PIL import Image

from microtome.cli.app import main
from microtome.encoders.check_tiles import check_tiles
from microtome.encoders.registry import load_encoder


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MICROTOME_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MICROTOME_WEIGHTS", raising=False)


def test_the_list_is_still_there(capsys):
    assert main(["encoders"]) == 0
    assert "texture" in capsys.readouterr().out


def test_fetch_says_where_files_lie_and_what_failed(capsys, monkeypatch, tmp_path):
    file = tmp_path / "given" / "ctranspath" / "ctranspath.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"PK")
    monkeypatch.setenv("MICROTOME_WEIGHTS", str(tmp_path / "given"))
    assert main(["encoders", "fetch", "ctranspath", "ctranspath"]) == 0
    said = capsys.readouterr().out
    assert f"skipped  ctranspath: {file}" in said
    assert "done 0, skipped 1 (here already), failed 0" in said
    assert main(["encoders", "fetch", "ctranspath", "retccl", "nonsense"]) == 1
    said = capsys.readouterr().out
    assert "failed   retccl: " in said
    assert "--weights FILE" in said
    assert "No encoder goes by 'nonsense'" in said
    assert "skipped 1 (here already), failed 2" in said


def test_fetch_of_nothing_is_refused(capsys):
    assert main(["encoders", "fetch"]) == 2
    assert "--all-open" in capsys.readouterr().err


@pytest.mark.slow
def test_check_records_then_compares_and_fails_where_it_differs(capsys, tmp_path):
    command = ["encoders", "check", "timm:resnet18", "--weights", "none", "--device", "cpu", "--precision", "fp32"]
    command += ["--runtime", "torch"]
    assert main(command) == 0
    assert "recorded now" in capsys.readouterr().out
    assert main(command) == 0
    assert "nothing wrong found" in capsys.readouterr().out
    (record,) = (tmp_path / "cache" / "weights" / "checks").glob("*.json")
    said = json.loads(record.read_text())
    said["vectors"] = (np.array(said["vectors"]) * 1.01).tolist()
    record.write_text(json.dumps(said))
    assert main(command) == 1
    said = capsys.readouterr().out
    assert "FAILED  as recorded" in said
    assert "timm:resnet18: FAILED" in said


def test_check_of_an_encoder_without_weights_and_with_a_reference(capsys, tmp_path):
    tile = check_tiles(224)[2]
    Image.fromarray(tile).save(tmp_path / "tile.png")
    np.save(tmp_path / "tile.npy", load_encoder("texture").encode(tile[None]))
    entry = {"encoder": "texture", "tile": "tile.png", "vector": "tile.npy", "source": "ourselves"}
    (tmp_path / "references.json").write_text(json.dumps([entry]))
    command = ["encoders", "check", "texture", "--references", str(tmp_path)]
    assert main(command) == 0
    assert "ok      reference: ourselves" in capsys.readouterr().out
    np.save(tmp_path / "tile.npy", 2 * np.load(tmp_path / "tile.npy"))
    assert main(command) == 1


def test_check_of_what_is_not_known_is_refused(capsys):
    assert main(["encoders", "check", "nonsense"]) == 2
    assert "No encoder goes by" in capsys.readouterr().err
