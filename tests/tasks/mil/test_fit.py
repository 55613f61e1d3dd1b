import json

import numpy as np
import pytest
import torch

from microtome.config import FitConfig
from microtome.errors import ConfigError, RecipeMismatchError
from microtome.features.store import FeatureStore
from microtome.tasks.mil.bags import open_bags
from microtome.tasks.mil.fit import fit
from microtome.tasks.mil.model_folder import load_model
from microtome.testing.mil_cohort import TARGETS, MilCohortOptions, write_mil_cohort


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return write_mil_cohort(tmp_path_factory.mktemp("planted"), MilCohortOptions(n_patients=24, n_features=8))


def config_of(made, out, **settings):
    usual = {
        "features": made.features, "cohort": made.table, "target": "mutation", "model": "meanpool", "out": out,
        "inner": 2, "epochs": 6, "learning_rate": 0.05, "batch_size": 8, "n_boot": 20, "precision": "fp32",
        "device": "cpu",
    }  # fmt: skip
    return FitConfig(**{**usual, **settings})


def test_a_model_is_chosen_calibrated_trained_on_everyone_and_kept(planted, tmp_path):
    result = fit(config_of(planted, tmp_path / "model", calibrate=True))
    model = load_model(tmp_path / "model")
    assert model.target == result.labels.target
    assert len(model.training_patients) == 24
    assert "P003" in model.training_patients
    assert model.calibration is not None
    estimate = model.metrics["roc_auc_score"]["estimate"]
    assert estimate is not None
    assert estimate > 0.9
    assert model.features.encoder == "planted"
    record = json.loads((tmp_path / "model" / "run.json").read_text())
    assert record["status"] == "done"
    assert record["chosen"]["n_epochs"] == result.chosen["n_epochs"]
    assert "too good" in " ".join(result.lines())
    bags, _ = open_bags(planted.features, result.labels)
    expected = np.mean([bags.read(row).mean(axis=0) for row in range(len(bags))], axis=0)
    assert model.mean_features is not None
    np.testing.assert_allclose(model.mean_features, expected, atol=1e-5)


def test_a_model_says_of_new_patients_what_is_planted_in_them(planted, tmp_path):
    fit(config_of(planted, tmp_path / "model", inner=0, epochs=40))
    model = load_model(tmp_path / "model")
    assert model.calibration is None
    assert not model.metrics
    others = write_mil_cohort(tmp_path / "others", MilCohortOptions(n_patients=24, n_features=8, prefix="Q"))
    store = FeatureStore(others.features)  # the same seed plants along the same directions
    logits = [
        float(model.modules[0](torch.from_numpy(store[slide].features.astype(np.float32))[None]).logits)
        for slide in others.slide_ids
    ]
    positive = np.array([others.hidden[slide[:4]] > 0 for slide in others.slide_ids])
    assert np.mean((np.array(logits) > 0) == positive) > 0.9


def test_the_same_again_changes_nothing_and_other_settings_are_refused(planted, tmp_path):
    fit(config_of(planted, tmp_path))
    weights = (tmp_path / "weights.safetensors").read_bytes()
    fit(config_of(planted, tmp_path))
    assert (tmp_path / "weights.safetensors").read_bytes() == weights
    with pytest.raises(RecipeMismatchError, match="seed: 0 → 1"):
        fit(config_of(planted, tmp_path, seed=1))
    fit(config_of(planted, tmp_path, seed=1, overwrite=True))
    assert (tmp_path / "weights.safetensors").read_bytes() != weights


def test_numbers_are_not_calibrated(planted, tmp_path):
    with pytest.raises(ConfigError, match="alibration"):
        fit(config_of(planted, tmp_path, calibrate=True, **TARGETS["regression"]))
    with pytest.raises(ValueError, match="inner"):
        config_of(planted, tmp_path, calibrate=True, inner=0)
