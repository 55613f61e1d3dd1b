"""`microtome fit --model fastglioma-slide`: stage 3 on embeddings and a table alone."""

import csv
import json

import numpy as np
import pytest

from microtome.cli import main
from microtome.config import FitConfig
from microtome.errors import CohortError, ConfigError
from microtome.tasks.pretrain.fit import SLIDE_MODEL, fit_slide_model
from tests.tasks.pretrain.material import write_tokens


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    slides = write_tokens(folder / "embeddings", n_patients=16)
    lines = [f"{slide.name},{slide.patient_id},{slide.grade}" for slide in slides]
    (folder / "cohort.csv").write_text("\n".join(["slide_id,patient_id,grade", *lines, "Z.1,Z,2"]))
    return folder


def config(material, out, **settings):
    given = {"epochs": 12, "learning_rate": 1e-3, "model_options": ("whole_slides=true",), **settings}
    return FitConfig(
        features=material / "embeddings", cohort=material / "cohort.csv", target="grade", type="ordinal",
        model=SLIDE_MODEL, out=out, inner=4, quiet=True, **given,
    )  # fmt: skip


def test_a_fold_of_patients_is_watched_and_calibrated_on(material, tmp_path):
    result = fit_slide_model(config(material, tmp_path))
    assert result.metrics["mean_auroc"] > 0.85
    rows = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    assert len(rows) == 32  # that of the table without embeddings is left out
    sides = {side: {row["patient_id"] for row in rows if row["split"] == side} for side in ("train", "valid")}
    assert (len(sides["train"]), len(sides["valid"])) == (12, 4)
    assert not sides["train"] & sides["valid"]
    assert json.loads((tmp_path / "calibration.json").read_text())["kind"] == "affine"
    watched = [row for row in rows if row["split"] == "valid"]
    tumour = [(float(row["score"]) > 0.5) == (int(row["grade"]) >= 2) for row in watched]
    assert np.mean(tumour) >= 0.75


def test_the_command_line_dispatches_to_it(material, tmp_path, capsys):
    flags = ["--features", material / "embeddings", "--cohort", material / "cohort.csv", "--target", "grade"]
    flags += ["--type", "ordinal", "--model", SLIDE_MODEL, "--out", tmp_path, "--epochs", 1, "--inner", 0, "--quiet"]
    assert main(["fit", *map(str, flags)]) == 0
    said = capsys.readouterr().out
    assert "scorer.safetensors" in said
    assert (tmp_path / "scorer.safetensors").is_file()
    assert not (tmp_path / "calibration.json").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model_options": ("depth=3",)}, "depth"),
        ({"unit": "patient"}, "unit"),
        ({"max_instances": 5}, "max_instances"),
        ({"classes": ("a", "b")}, "degrees"),
    ],
)
def test_settings_of_other_models_are_refused(material, tmp_path, settings, said):
    with pytest.raises(ConfigError, match=said):
        fit_slide_model(config(material, tmp_path, **settings))


def test_a_table_of_other_slides_is_refused(material, tmp_path):
    table = tmp_path / "other.csv"
    table.write_text("slide_id,patient_id,grade\na,A,0\nb,B,1\nc,C,2\nd,D,3\n")
    with pytest.raises(CohortError, match="has embeddings"):
        fit_slide_model(config(material, tmp_path).model_copy(update={"cohort": table}))
