"""`microtome srh check` and `srh stain`, and the command line of all SRH verbs."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from microtome.cli.app import main
from microtome.config.srh import SrhStainConfig
from microtome.tasks.srh.check import srh_check
from microtome.tasks.srh.stain import srh_stain
from microtome.testing.srh_sample import write_srh_sample
from tests.tasks.srh.stub import stub_model


@pytest.fixture
def study(tmp_path):
    write_srh_sample(tmp_path / "study", n_slides=4, patches_across=2, seed=3)
    return tmp_path / "study"


def pixels_of(path):
    with Image.open(path) as image:
        return np.asarray(image)


def patches(study, patient, slide):
    return sorted((study / "studies" / patient / slide / "patches").iterdir())


def test_each_fault_is_named_where_it_is(study, capsys):
    patches(study, "NIO_S001", "1")[0].unlink()
    cut = patches(study, "NIO_S001", "2")[0]
    cut.write_bytes(cut.read_bytes()[:100])
    meta = json.loads((study / "meta" / "opensrh_withslideclass.json").read_text())
    first = meta["NIO_S002"]["slides"]["1"]
    again = (first["normal_patches"] or first["tumor_patches"])[0]
    first["nondiagnostic_patches"] = [again, "studies/x/y/patches/plain.tif"]
    empty: dict[str, list[str]] = {f"{kind}_patches": [] for kind in ("normal", "tumor", "nondiagnostic")}
    meta["NIO_S002"]["slides"]["2"] = {"slide_id": "2", **empty}
    (study / "meta" / "opensrh_withslideclass.json").write_text(json.dumps(meta))
    (study / "meta" / "train_val_split.json").write_text(json.dumps({"train": ["NIO_S001", "X"], "val": ["NIO_S001"]}))
    (study / "studies" / "NIO_S009" / "1").mkdir(parents=True)
    said = "\n".join(f"{f.where}: {f.what}" for f in srh_check(study).findings)
    for text in (
        *("NIO_S001.1: 1 of 4 patches are missing", "NIO_S001.2: Patch", "NIO_S002.1: names without coordinates"),
        *("NIO_S002.1: 1 place(s) with several", "NIO_S002.2: it has no patches", "split train: X not in"),
        *("NIO_S001 in several", "without slide_class", "NIO_S009/1"),
    ):
        assert text in said, text
    assert main(["srh", "check", str(study)]) == 1
    assert "PROBLEM NIO_S002.2" in capsys.readouterr().out


def test_check_of_a_whole_study(study, capsys):
    assert main(["srh", "check", str(study)]) == 0
    out = capsys.readouterr().out
    assert "2 patients, 4 slides" in out
    assert "nothing wrong found" in out


def test_check_of_another_folder(tmp_path, capsys):
    assert main(["srh", "check", str(tmp_path)]) == 2
    assert "layout" in capsys.readouterr().err


def test_pictures_small_and_at_full_size(study, tmp_path):
    folder = study / "studies" / "NIO_S002" / "1"
    small = srh_stain(SrhStainConfig(slides=(str(folder),), out=tmp_path / "a"))[0]
    full = srh_stain(SrhStainConfig(slides=(str(folder),), out=tmp_path / "b", full=True))[0]
    assert pixels_of(full.path).shape == (600, 600, 3)
    picture = pixels_of(full.path).reshape(60, 10, 60, 10, 3).mean(axis=(1, 3))
    shown = pixels_of(small.path)[:120, :120].reshape(60, 2, 60, 2, 3).mean(axis=(1, 3))
    assert np.abs(picture - shown).mean() < 12  # the same slide; JPEG, and the stain of averages


def test_an_unreadable_patch_is_an_error_or_left_white(study, tmp_path):
    cut = patches(study, "NIO_S002", "1")[0]
    cut.write_bytes(cut.read_bytes()[:100])
    folder = str(cut.parents[1])
    assert cut.name in str(srh_stain(SrhStainConfig(slides=(folder,), out=tmp_path / "a"))[0].error)
    done = srh_stain(SrhStainConfig(slides=(folder,), out=tmp_path / "a", bad_patches="skip", full=True))[0]
    assert done.n_skipped == 1
    assert (pixels_of(done.path)[:300, :300] == 255).all()


def test_command_lines(study, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("microtome.encoders.srh_model.load_srh_model", lambda *_, **__: stub_model())
    out = tmp_path / "out"
    assert main(["score", str(study), "--studies", "NIO_S001", "--out", str(out), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "NIO_S001.1: 0." in said
    assert "Investigational only" in said
    assert (out / "report.html").is_file()
    (tmp_path / "own.yaml").write_text(f"slides: [{study}]\nstudies: [NIO_S002]\nout: {out}\n")
    assert main(["score", "--config", str(tmp_path / "own.yaml"), "--print-config"]) == 0
    assert "studies: NIO_S002" in capsys.readouterr().out
    assert main(["score", str(study), "--studies", "NOBODY", "--out", str(out)]) == 2
    assert "'NOBODY'" in capsys.readouterr().err
    shutil.rmtree(study / "studies" / "NIO_S002" / "2")
    assert main(["score", str(study), "--studies", "NIO_S002", "--out", str(out), "--quiet"]) == 1
    assert "NIO_S002.2: no score" in capsys.readouterr().out
    assert main(["srh", "stain", str(study), "--studies", "NIO_S001", "--out", str(out)]) == 0
    assert main(["sample", str(tmp_path / "s"), "--modality", "srh", "--n-slides", "1", "--size-px", "400"]) == 0
    assert main(["srh", "convert", str(tmp_path / "absent.ckpt"), "--out", str(out)]) == 2
