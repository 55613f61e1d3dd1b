"""The stages as jobs: what they read, write and refuse."""

import csv
import json
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from microtome.cohort import read_cohort
from microtome.cohort.predictions import read_predictions
from microtome.config import HiDiscConfig, OrdinalConfig, SlideSslConfig
from microtome.encoders.srh_dump import SrhDump, dump_path, write_dump
from microtome.encoders.srh_model import load_srh_model
from microtome.errors import CohortError, ConfigError, MissingOutputError, WeightsError
from microtome.evaluation.evaluate import evaluate
from microtome.models.srh import srh_resnet34
from microtome.tasks.pretrain.stages import fit_ordinal, pretrain_hidisc, pretrain_slide_ssl
from microtome.testing.srh_sample import write_srh_sample
from tests.tasks.pretrain.material import SIDE, write_tokens


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study in which P00 to P03 are learned from and P04 to P07 are watched; its patches are names alone."""
    folder = tmp_path_factory.mktemp("study")
    slides = write_tokens(folder / "embeddings", n_patients=8, per_patient=4)
    meta: dict[str, Any] = {}
    for slide in slides:
        entry = meta.setdefault(slide.patient_id, {"patient_id": slide.patient_id, "class": "hgg", "slides": {}})
        entry["slides"][slide.slide_id] = {
            "slide_id": slide.slide_id,
            "slide_class": slide.grade,
            "normal_patches": [],
            "tumor_patches": [f"studies/{slide.patient_id}/a-0_0_{300 * i}_0.tif" for i in range(3)],
            "nondiagnostic_patches": [],
        }
    names = sorted(meta)
    (folder / "meta").mkdir()
    (folder / "meta" / "opensrh_withslideclass.json").write_text(json.dumps(meta))
    (folder / "meta" / "train_val_split.json").write_text(json.dumps({"train": names[:4], "val": names[4:]}))
    lines = [f"{slide.name},{slide.patient_id},{slide.grade}" for slide in slides]
    (folder / "cohort.csv").write_text("\n".join(["slide_id,patient_id,grade", *lines]))
    return folder


def ordinal(study, out, **settings):
    given = {"embeddings": study / "embeddings", "n_epochs": 12, "learning_rate": 1e-3, "batch_size": 8, **settings}
    return OrdinalConfig(data=study, out=out, whole_slides=True, quiet=True, checkpoint_every=100, **given)


def rows_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.mark.usefixtures("tiny")
def test_hidisc_leaves_weights_in_the_published_layout(study, tmp_path, monkeypatch):
    monkeypatch.setattr("microtome.tasks.pretrain.hidisc.srh_resnet34", srh_resnet34)
    options: dict[str, Any] = {
        "n_slides": 1,
        "n_patches": 1,
        "batch_size": 2,
        "crop_px": 32,
        "n_epochs": 1,
        "augment": "flip,noise",
    }
    result = pretrain_hidisc(HiDiscConfig(data=study, out=tmp_path, quiet=True, **options))
    tensors = load_file(result.weights)
    assert len(tensors) == 218
    assert tensors["model.proj.layers.0.weight"].shape == (128, 512)
    assert result.metrics["knn_accuracy"] == 1.0  # all are of one diagnosis
    record = json.loads((tmp_path / "stage.json").read_text())
    assert record["patients"] == {"hgg": 4}
    assert record["settings"]["crop_px"] == 32
    again = pretrain_hidisc(HiDiscConfig(data=study, out=tmp_path, quiet=True, **options))
    assert again.training.n_steps == 2


def test_slide_ssl_and_ordinal_follow_one_another_from_saved_vectors(study, tmp_path):
    config = SlideSslConfig(
        data=study, out=tmp_path / "ssl", embeddings=study / "embeddings", n_epochs=2, quiet=True, kept=(0.5, 0.9)
    )
    stage = pretrain_slide_ssl(config)
    assert len(load_file(stage.weights)) == 39
    result = fit_ordinal(ordinal(study, tmp_path / "score", slide=stage.weights))
    before, after = load_file(stage.weights), load_file(result.weights)
    for name, value in before.items():
        if name.startswith("model.bb.mil."):
            torch.testing.assert_close(after[name], value, rtol=0, atol=0)  # frozen
    assert result.model is None  # there is no patch encoder
    assert result.metrics["mean_auroc"] > 0.9
    rows = rows_of(tmp_path / "score" / "scores.csv")
    assert {row["split"] for row in rows} == {"train", "valid"}
    watched = [row for row in rows if row["split"] == "valid"]
    calibration = json.loads((tmp_path / "score" / "calibration.json").read_text())
    assert calibration["cuts"][1] == pytest.approx(0.5)
    tumour = [(float(row["score"]) > 0.5) == (int(row["grade"]) >= 2) for row in watched]
    assert np.mean(tumour) > 0.8
    figures = tmp_path / "score" / "figures"
    assert [path.name for path in sorted(figures.iterdir())] == ["discriminant.png", "logits.png"]
    predictions = read_predictions(tmp_path / "score" / "predictions.parquet")
    judged = evaluate(predictions, read_cohort(study / "cohort.csv"), n_boot=20)
    assert judged["mean_roc_auc_score"]["estimate"] == pytest.approx(
        result.metrics["mean_auroc"], abs=0.02
    )  # certain ones tie
    assert judged["mean_roc_auc_score"]["n_patients"] == 4


@pytest.mark.parametrize("objective", ["cumulative_link", "cross_entropy"])
def test_baselines_are_judged_in_the_same_form(study, tmp_path, objective):
    result = fit_ordinal(ordinal(study, tmp_path, objective=objective))
    assert result.metrics["mean_auroc"] > 0.85
    assert result.weights.name == ("scorer" if objective == "cumulative_link" else "baseline") + ".safetensors"
    assert read_predictions(tmp_path / "predictions.parquet").target.type == "ordinal"
    assert (tmp_path / "calibration.json").exists() == (objective == "cumulative_link")


def test_a_whole_model_carries_its_calibration_and_the_slides_it_knows(study, tmp_path):
    torch.manual_seed(0)
    from safetensors.torch import save_file

    network = srh_resnet34(3)
    save_file({f"model.bb.{k}": v.clone() for k, v in network.state_dict().items()} | {
        "model.proj.layers.0.weight": torch.zeros(128, 512), "model.proj.layers.0.bias": torch.zeros(128)
    }, tmp_path / "hidisc.safetensors")  # fmt: skip
    out = tmp_path / "out"
    tokenizer = tmp_path / "hidisc.safetensors"
    result = fit_ordinal(ordinal(study, out, tokenizer=tokenizer, calibrate="isotonic"))
    model = load_srh_model(str(result.model))
    assert model.patch_input == "highres"
    assert model.calibration is not None
    assert model.calibration.cuts == pytest.approx((0.25, 0.5, 0.85))
    assert model.familiar is not None
    assert len(model.familiar.embeddings) == 16
    row = next(row for row in rows_of(out / "scores.csv") if row["split"] == "valid")
    assert model.calibration.apply(np.array([float(row["logit"])]))[0] == pytest.approx(float(row["score"]))
    with pytest.raises(WeightsError, match="other resolution"):
        fit_ordinal(ordinal(study, tmp_path / "low", embeddings=None, tokenizer=tokenizer, patch_input="lowres"))


@pytest.mark.parametrize(
    ("settings", "kind", "said"),
    [
        ({"valid": "val,P00"}, CohortError, "P00"),
        ({"valid": "none"}, CohortError, "not learned from"),
        ({"train": "P99"}, CohortError, "P99"),
        ({"embeddings": None}, ConfigError, "--tokenizer"),
        ({"train": "P00", "batch_size": 16}, ConfigError, "fill a batch"),
    ],
)
def test_what_cannot_be_trained_is_said(study, tmp_path, settings, kind, said):
    with pytest.raises(kind, match=said):
        fit_ordinal(ordinal(study, tmp_path, **settings))


def test_leaks_are_refused_by_the_other_stages_too(study, tmp_path):
    same = {"data": study, "out": tmp_path, "train": "P00,P01", "valid": "P01"}
    with pytest.raises(CohortError, match="P01"):
        pretrain_hidisc(HiDiscConfig(**same))
    with pytest.raises(CohortError, match="P01"):
        pretrain_slide_ssl(SlideSslConfig(embeddings=study / "embeddings", **same))


def test_degrees_come_from_a_table_where_one_is_given(study, tmp_path):
    table = tmp_path / "cohort.csv"
    ids = [f"P0{p}.{s}" for p in range(8) for s in range(4)]
    lines = [f"{name},{name[:3]},{i % 2 * 2}" for i, name in enumerate(ids) if i]
    table.write_text("\n".join(["slide_id,patient_id,infiltration", *lines]))
    config = {"cohort": table, "target": "infiltration", "n_epochs": 1, "batch_size": 4, "calibrate": "none"}
    fit_ordinal(ordinal(study, tmp_path / "out", **config))
    rows = rows_of(tmp_path / "out" / "scores.csv")
    assert len(rows) == 31  # one has no degree in the table
    assert {row["grade"] for row in rows} == {"0", "2"}
    assert read_predictions(tmp_path / "out" / "predictions.parquet").target.name == "infiltration"
    table.write_text("slide_id,patient_id,infiltration\nother,o,1\n")
    with pytest.raises(CohortError, match="for none of"):
        fit_ordinal(ordinal(study, tmp_path / "none", **config))


def test_a_study_without_degrees_or_vectors_is_refused(tmp_path):
    write_srh_sample(tmp_path, n_slides=4, patches_across=1, slides_per_patient=1, val_share=0.5)
    shared = {"data": tmp_path, "out": tmp_path / "out", "batch_size": 2}
    with pytest.raises(MissingOutputError, match="no saved embeddings"):
        fit_ordinal(OrdinalConfig(embeddings=tmp_path / "none", **shared))
    write = tmp_path / "embeddings"
    names = {"S001": "0", "S002": "1", "S003": "2", "S004": "3"}
    grid = np.array([(0, c) for c in range(SIDE)], np.int64)
    for name in names:
        path = dump_path(write, f"NIO_{name}", "1")
        path.parent.mkdir(parents=True)
        write_dump(path, SrhDump(np.ones((SIDE, 512), np.float32), grid))
    with pytest.raises(CohortError, match="degree"):
        fit_ordinal(OrdinalConfig(embeddings=write, meta="opensrh.json", **shared))
