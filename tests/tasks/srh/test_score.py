"""`microtome score`, with a stand-in for the network over pixels."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
import torch

from microtome.config.srh import ScoreConfig
from microtome.encoders.srh_dump import SrhDump, dump_path, write_dump
from microtome.encoders.srh_reference import Calibration, fit_familiar
from microtome.encoders.srh_use import INTENDED_USE, NOT_INTENDED
from microtome.errors import ConfigError, DuplicateSlideError, NoTilesError
from microtome.tasks.score import score
from microtome.testing.srh_sample import write_srh_sample
from tests.tasks.srh.stub import StubTokenizer, stub_model


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_srh_sample(folder, n_slides=4, patches_across=3, seed=3)
    return folder


@pytest.fixture
def model(monkeypatch):
    """The model that is loaded whatever is asked for."""
    holder = {"model": stub_model()}
    monkeypatch.setattr("microtome.encoders.srh_model.load_srh_model", lambda *_, **__: holder["model"])
    return holder


def run(*slides: Path, out: Path, **settings: Any):
    return score(ScoreConfig(slides=tuple(map(str, slides)), out=out, quiet=True, **settings))


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def write_slide(folder: Path, changes=None, n: int = 6) -> Path:
    """A slide of n patches; ``changes`` takes the index of a patch and its pixels."""
    folder.mkdir(parents=True)
    for i in range(n):
        pixels = np.random.default_rng(i).integers(3000, 20000, (2, 300, 300)).astype(np.uint16)
        pixels = pixels if changes is None else changes(i, pixels)
        path = folder / f"A-1-0_{1000 * (i // 3)}_0_{300 * (i % 3)}.tif"
        tifffile.imwrite(path, pixels, photometric="minisblack")
    return folder


def test_a_study_gives_scores_patients_regions_maps_and_a_report(study, model, tmp_path):
    result = run(study, out=tmp_path, mpp=0.467, export_pt=True, region_patches=3)
    assert not result.failed
    rows = rows_of(tmp_path / "predictions" / "predictions.csv")
    assert [row["slide_id"] for row in rows] == ["NIO_S001.1", "NIO_S001.2", "NIO_S002.1", "NIO_S002.2"]
    assert [row["slide_class"] for row in rows] == ["0", "0", "1", "2"]
    for row in rows:
        assert float(row["score"]) == pytest.approx(1 / (1 + np.exp(-float(row["logit"]))))
        assert row["n_patches"] == "9"
        assert row["ood"] == "unavailable"
    table = pq.read_table(tmp_path / "predictions" / "predictions.parquet").to_pylist()
    assert [r["score"] for r in table] == [float(row["score"]) for row in rows]
    patients = rows_of(tmp_path / "predictions" / "patients.csv")
    scores = {row["slide_id"]: float(row["score"]) for row in rows}
    own = [scores["NIO_S002.1"], scores["NIO_S002.2"]]
    assert float(patients[1]["score_max"]) == max(own)
    assert float(patients[1]["score_mean"]) == pytest.approx(np.mean(own))
    specimens = rows_of(tmp_path / "predictions" / "specimens.csv")
    assert [float(s["score"]) for s in specimens[2:]] == sorted(own, reverse=True)
    for name in scores:
        assert (tmp_path / "maps" / f"{name}.attention.jpg").is_file()
        assert (tmp_path / "maps" / f"{name}.slide.jpg").is_file()
    with np.load(tmp_path / "predictions" / "embeddings.npz") as file:
        assert file["slide_id"].tolist() == list(scores)
        assert file["embeddings"].shape == (4, 512)
    assert model["model"].tokenizer.n_encoded == 36


def test_the_slide_model_sees_each_patch_at_its_place(study, model, tmp_path):
    """Against the model itself on vectors and places that the test puts together."""
    folder = study / "studies" / "NIO_S002" / "2" / "patches"
    names, images = [], []
    for path in sorted(folder.iterdir()):
        names.append([int(part) for part in path.stem.rpartition("-")[2].split("_")])
        images.append(tifffile.imread(path).transpose(1, 2, 0))
    grid = np.array([[3 * (ix // 1000) + iy // 300, 3 * (jx // 1000) + jy // 300] for ix, jx, iy, jy in names])
    expected = model["model"].see_slide(StubTokenizer().encode(np.stack(images)), grid)
    found = run(folder, out=tmp_path).slides[0]
    assert found["logit"] == pytest.approx(expected.logit, abs=1e-5)
    patches = rows_of(next((tmp_path / "maps").glob("*.csv")))
    attention = {(int(r["row"]), int(r["column"])): float(r["attention"]) for r in patches}
    for place, value in zip(grid.tolist(), expected.attention / expected.attention.mean(), strict=True):
        assert attention[tuple(place)] == pytest.approx(value, rel=1e-4)


@pytest.mark.usefixtures("model")
def test_the_report_states_the_intended_use_in_full(study, tmp_path):
    report = run(study, out=tmp_path, studies="NIO_S001").report.read_text()
    text = report.replace("&#39;", "'").replace("&amp;", "&")
    for point in (*INTENDED_USE, *NOT_INTENDED):
        assert point in text
    for fact in (
        *("Investigational only", "adult-type diffuse glioma", "WHO", "IDH-mutant", "1p/19q-codeleted", "IDH-wildtype"),
        *("former pathological diagnosis", "clinical and radiographic likelihood", "eloquent", "subcortical"),
        *("paediatric", "not primary brain tumours", "non-neoplastic", "four ordinal degrees", "continuous"),
        *("50 % separates", "0-25 %", "26-50 %", "51-85 %", "86-100 %", "surgeon's decision"),
    ):
        assert fact in text
    assert "unavailable" in text
    for remote in ("http://", "https://", "<script", '<link rel="style'):
        assert remote not in report


def test_a_slide_is_scored_once(study, model, tmp_path):
    first = run(study, out=tmp_path, studies="NIO_S001")
    n = model["model"].tokenizer.n_encoded
    again = run(study, out=tmp_path, studies="NIO_S001", mpp=None)
    assert model["model"].tokenizer.n_encoded == n
    assert [s["score"] for s in again.slides] == [s["score"] for s in first.slides]
    run(study, out=tmp_path, studies="NIO_S001", max_saturated=0.5)
    assert model["model"].tokenizer.n_encoded == 2 * n
    kept = tmp_path / "slides" / "NIO_S001.1.npz"
    kept.write_bytes(kept.read_bytes()[:500])
    mended = run(study, out=tmp_path, studies="NIO_S001", max_saturated=0.5)
    assert model["model"].tokenizer.n_encoded == 2 * n + 9
    assert [s["score"] for s in mended.slides] == [s["score"] for s in first.slides]


def test_embeddings_that_were_saved_score_alike(study, model, tmp_path):
    first = run(study, out=tmp_path / "a", studies="NIO_S002", save_embeddings=True)
    dumps = tmp_path / "a" / "embeddings"
    assert dump_path(dumps, "NIO_S002", "1").is_file()
    model["model"] = stub_model(tokenizer=None)
    again = run(dumps, out=tmp_path / "b")
    assert not again.failed
    for before, after in zip(first.slides, again.slides, strict=True):
        assert after["slide_id"].partition("-")[0] == before["slide_id"]
        assert after["logit"] == pytest.approx(before["logit"], abs=1e-5)


def test_embeddings_of_another_encoder_are_refused(model, tmp_path):
    write_dump(tmp_path / "a.pt", SrhDump(np.ones((3, 384), np.float32), np.array([[0, 0], [0, 1], [1, 0]])))
    assert "another encoder" in run(tmp_path / "a.pt", out=tmp_path / "out").failed["a"]
    del model


def test_the_export_is_what_the_original_saves(study, model, tmp_path):
    result = run(study, out=tmp_path, export_pt=True, use_patient_class=False)
    found = torch.load(tmp_path / "predictions" / "predictions.pt", weights_only=True)
    assert set(found) == {"slide", "label", "logits", "scores", "embeddings"}
    assert found["slide"] == ["NIO_S001/1", "NIO_S001/2", "NIO_S002/1", "NIO_S002/2"]
    assert found["label"] == ["0", "0", "1", "2"]
    assert found["embeddings"].shape == (4, 512)
    np.testing.assert_allclose(found["scores"], [s["score"] for s in result.slides], rtol=1e-6)
    torch.testing.assert_close(found["logits"].sigmoid(), found["scores"])
    del model


def test_a_calibrated_model_and_its_flag(study, model, tmp_path):
    near = run(study, out=tmp_path / "a")
    with np.load(tmp_path / "a" / "predictions" / "embeddings.npz") as file:
        embeddings = np.repeat(file["embeddings"], 3, axis=0)
    rng = np.random.default_rng(0)
    far = (rng.standard_normal(512) + 0.1 * rng.standard_normal((9, 512))).astype(np.float32)
    model["model"] = stub_model(calibration=Calibration(offset=-100.0), familiar=fit_familiar(embeddings))
    inside = run(study, out=tmp_path / "a")
    assert {s["ood"] for s in inside.slides} == {"in"}
    assert all(s["score"] < 1e-6 and s["calibrated"] and s["band"] == "normal" for s in inside.slides)
    assert [s["logit"] for s in inside.slides] == [s["logit"] for s in near.slides]
    model["model"] = stub_model(familiar=fit_familiar(far))
    outside = run(study, out=tmp_path / "a")
    assert {s["ood"] for s in outside.slides} == {"out"}
    assert "YES" in outside.report.read_text()


def test_few_shot_tells_patches_by_their_supports(study, model, tmp_path):
    result = run(study, out=tmp_path, studies="NIO_S001", supports=study, n_supports=4)
    assert "Few-shot map: 4 normal and" in result.report.read_text()
    with pytest.raises(NoTilesError, match="'tumour'"):  # all that have any are scored themselves
        run(study, out=tmp_path, studies="NIO_S002", supports=study)
    supports = tmp_path / "supports"
    for kind in ("normal", "tumor"):
        (supports / kind).mkdir(parents=True)
    folder = study / "studies" / "NIO_S002" / "1" / "patches"
    files = sorted(folder.iterdir())
    shutil.copy(files[0], supports / "normal" / "any name.tif")
    shutil.copy(files[1], supports / "tumor" / "x.tif")
    run(folder, out=tmp_path / "b", supports=supports)
    values = [float(row["few_shot"]) for row in rows_of(next((tmp_path / "b" / "maps").glob("*.csv")))]
    assert values[0] < 0.5 < values[1]  # each is most like itself
    assert values[0] + values[1] == pytest.approx(1)
    assert list((tmp_path / "b" / "maps").glob("*.few-shot.jpg"))
    del model


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"supports": "absent"}, "normal"), ({"studies": "NIO_S001", "meta": "other.json"}, "other.json")],
)
@pytest.mark.usefixtures("model")
def test_settings_that_cannot_be_honoured(study, tmp_path, settings, said):
    if "supports" in settings:
        settings = {"supports": tmp_path / "absent"}
    with pytest.raises(ValueError, match=said):
        run(study, out=tmp_path, **settings)


def saturated(i, pixels):
    return np.where(np.arange(300) < 60, np.uint16(65535), pixels) if i == 2 else pixels


def blank(i, pixels):
    return np.full_like(pixels, 100) if i == 2 else pixels


def eight_bit(i, pixels):
    return pixels.astype(np.uint8) if i == 2 else pixels


def smaller(i, pixels):
    return pixels[:, :200, :200] if i == 2 else pixels


def floats(i, pixels):
    return np.full(pixels.shape, np.nan, np.float32) if i == 2 else pixels


def swapped(_, pixels):
    ch2 = np.minimum(pixels[0], pixels[1] // 2 + 500)
    return np.stack([pixels[1] // 2 + 9000, ch2])


@pytest.mark.parametrize(
    ("changes", "said", "may_skip"),
    [
        (saturated, "saturated: 20%", True),
        (blank, "one value all over", True),
        (smaller, "200 x 200", True),
        (eight_bit, "8-bit", False),
        (floats, "float32", False),
        (swapped, "swapped", False),
    ],
)
def test_bad_patches_are_an_error_with_a_way_out(model, tmp_path, changes, said, may_skip):
    folder = write_slide(tmp_path / "slide", changes)
    failed = run(folder, out=tmp_path / "out").failed["slide"]
    assert said in failed
    skipping = run(folder, out=tmp_path / "skip", bad_patches="skip", min_coverage=0.8)
    if may_skip:
        assert not skipping.failed
        assert (skipping.slides[0]["n_patches"], skipping.slides[0]["n_skipped"]) == (5, 1)
        strict = run(folder, out=tmp_path / "strict", bad_patches="skip")
        assert "--min-coverage" in strict.failed["slide"]
    else:
        assert said in skipping.failed["slide"]
    assert "has no score" in (tmp_path / "out" / "report.html").read_text()
    del model


def test_channels_that_look_swapped_are_taken_as_stated(model, tmp_path):
    folder = write_slide(tmp_path / "slide", swapped)
    assert not run(folder, out=tmp_path / "a", channel_order="ch2,ch3").failed
    assert not run(folder, out=tmp_path / "b", channel_order="ch3,ch2").failed
    del model


def test_a_mosaic_is_cut_and_its_blank_cells_are_counted(model, tmp_path):
    pixels = np.random.default_rng(0).integers(3000, 20000, (2, 620, 900)).astype(np.uint16)
    pixels[:, 300:600, 600:] = 0
    tifffile.imwrite(tmp_path / "m.tif", pixels, photometric="minisblack")
    found = run(tmp_path / "m.tif", out=tmp_path / "out", channel_order="ch2,ch3", mpp=0.467).slides[0]
    assert (found["n_patches"], found["n_blank"], found["n_skipped"]) == (5, 1, 0)
    for lacking, said in (({"mpp": 0.467}, "channel order"), ({"channel_order": "ch2,ch3"}, "pixel size")):
        with pytest.raises(ConfigError, match=said):
            run(tmp_path / "m.tif", out=tmp_path / "out2", **lacking)
    del model


def test_a_bad_slide_does_not_stop_the_others(study, model, tmp_path):
    copy = tmp_path / "study"
    shutil.copytree(study, copy)
    victim = next((copy / "studies" / "NIO_S001" / "1" / "patches").iterdir())
    victim.write_bytes(victim.read_bytes()[:999])
    meta = json.loads((copy / "meta" / "opensrh_withslideclass.json").read_text())
    meta["NIO_S002"]["slides"]["1"] |= {"normal_patches": [], "tumor_patches": []}
    (copy / "meta" / "opensrh_withslideclass.json").write_text(json.dumps(meta))
    result = run(copy, out=tmp_path / "out")
    assert set(result.failed) == {"NIO_S001.1", "NIO_S002.1"}
    assert victim.name in result.failed["NIO_S001.1"]
    assert "empty slide" in result.failed["NIO_S002.1"] or "no patches" in result.failed["NIO_S002.1"]
    assert [s["slide_id"] for s in result.slides] == ["NIO_S001.2", "NIO_S002.2"]
    del model


def test_where_nothing_can_be_scored(model, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoTilesError, match="empty slide"):
        run(tmp_path / "empty", out=tmp_path / "out")
    with pytest.raises(ConfigError, match="not there"):
        run(tmp_path / "absent", out=tmp_path / "out")
    for name in ("a", "b"):
        write_slide(tmp_path / name / "slide", n=1)
    with pytest.raises(DuplicateSlideError, match="'slide'"):
        run(tmp_path / "a" / "slide", tmp_path / "b" / "slide", out=tmp_path / "out")
    del model
