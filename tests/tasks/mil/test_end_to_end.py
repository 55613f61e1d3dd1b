"""Every type of target with every model: trained on labelled slides, used on others, judged."""

import numpy as np
import pandas as pd
import pytest

from microtome.cohort import read_cohort
from microtome.config import CVConfig, FitConfig
from microtome.evaluation.evaluate import evaluate
from microtome.models.aggregators.registry import list_aggregators
from microtome.tasks.mil.cross_validate import cross_validate
from microtome.tasks.mil.fit import fit
from microtome.tasks.mil.predict import predict
from microtome.testing.mil_cohort import TARGETS, MilCohortOptions, write_mil_cohort

N_TRAINED, N_NEW = 40, 20
ABOVE_CHANCE = {"r2_score": 0.3}
"""Least value of a metric; 0.7 for those whose chance is one half."""

SMALL = {
    "transmil": {"dim": 16, "n_heads": 2},
    "transmil_nystrom": {"dim": 16, "n_heads": 2, "n_landmarks": 4},
    "transmil_original": {"dim": 16, "n_landmarks": 4},
    "transmil_millab": {"dim": 16, "n_landmarks": 4},
    "dsmil_millab": {"dim": 16, "n_queries": 8},
    "hiptmil": {"dim": 24},
    "chowder": {"n_top": 4, "n_bottom": 4},
}
QUICK = [
    *(("abmil", kind) for kind in TARGETS),
    ("meanpool", "regression"),
    ("chowder", "survival"),
    ("dsmil", "multiclass"),
    ("dsmil_original", "binary"),
    ("dsmil_millab", "multilabel"),
    ("clam_sb", "binary"),
    ("clam_mb", "multiclass"),
    ("clam_mb", "ordinal"),
    ("hiptmil", "binary"),
    ("transmil", "binary"),
]
"""Each type, and all but slow variants of models, at least once; the rest of the table takes minutes."""

REST = [(model, kind) for model in list_aggregators() for kind in TARGETS if (model, kind) not in QUICK]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Sixty patients; ``train.csv`` has the first forty of them."""
    folder = tmp_path_factory.mktemp("planted")
    options = MilCohortOptions(n_patients=N_TRAINED + N_NEW, n_features=8, n_tiles=(6, 12))
    made = write_mil_cohort(folder, options)
    pd.read_csv(made.table, dtype=str).iloc[:N_TRAINED].to_csv(folder / "train.csv", index=False)
    return made


def learn_and_judge(made, out, model, kind):
    """Fit on the first patients, predict all, and evaluate: those that were not in training are judged."""
    rate = 3e-3 if model.startswith(("transmil", "hiptmil")) else 1e-2
    options = tuple(f"{name}={value}" for name, value in SMALL.get(model, {}).items())
    config = FitConfig(
        features=made.features, cohort=made.table.parent / "train.csv", model=model,
        model_options=options,
        inner=0, epochs=15, learning_rate=rate, weight_decay=0, batch_size=8,
        precision="fp32", device="cpu", out=out, quiet=True, **TARGETS[kind],
    )  # fmt: skip
    fitted = fit(config)
    cohort = read_cohort(made.table)
    predictions = predict(fitted.folder, made.features, cohort=cohort)
    return predictions, evaluate(predictions, cohort, n_boot=0)


def check(made, out, model, kind):
    predictions, evaluation = learn_and_judge(made, out, model, kind)
    assert predictions.table["in_training"].sum() == N_TRAINED
    assert len(evaluation.excluded) == N_TRAINED
    row = evaluation.table.iloc[0]
    assert row["n_patients"] == N_NEW
    assert row["estimate"] > ABOVE_CHANCE.get(row["metric"], 0.7), (model, kind, row["metric"], row["estimate"])


@pytest.mark.parametrize(("model", "kind"), QUICK)
def test_what_was_planted_is_found_in_patients_that_the_model_has_not_seen(made, tmp_path, model, kind):
    check(made, tmp_path / "model", model, kind)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "kind"), REST)
def test_so_it_is_with_every_model_and_type_of_target(made, tmp_path, model, kind):
    check(made, tmp_path / "model", model, kind)


def test_patients_who_can_be_told_apart_do_not_help(tmp_path):
    """Each patient has a mark of its own on every tile and nothing else: only a leak could use it."""
    options = MilCohortOptions(n_patients=24, slides_per_patient=3, n_features=32, n_tiles=(3, 5), signal=0, seed=2)
    made = write_mil_cohort(tmp_path / "made", options)
    _mark_patients(made)
    config = CVConfig(
        features=made.features, cohort=made.table, target="mutation", model="meanpool", outer=3, inner=0, epochs=20,
        learning_rate=0.01, weight_decay=0, batch_size=8, precision="fp32", device="cpu", n_boot=200, no_figures=True,
        out=tmp_path / "apart",
    )  # fmt: skip
    apart = cross_validate(config)
    leaky = cross_validate(config.model_copy(update={"out": tmp_path / "leaky", "leaky_slides": True}))
    assert leaky.summary["estimate"] > 0.9
    assert apart.summary["low"] < 0.5 < apart.summary["high"]
    assert any("LEAKY" in line for line in leaky.lines())


def _mark_patients(made):
    from microtome.features.store import FeatureStore

    store = FeatureStore(made.features)
    rng = np.random.default_rng(0)
    marks: dict[str, np.ndarray] = {}
    for slide_id in made.slide_ids:
        bag = store[slide_id]
        own = np.asarray(4 * rng.standard_normal(bag.features.shape[1]))
        mark = marks.setdefault(slide_id.rsplit("-", 1)[0], own)
        features = (np.asarray(bag.features) + mark).astype(np.float32)
        boxes, attrs = np.asarray(bag.boxes), dict(bag.attrs)
        recipe = {"encoder": "planted", "tile_px": 224, "mpp": 0.5, "weights_sha256": ""}
        kept = {name: attrs[name] for name in ("encoder", "mpp", "patch_size", "slide_mpp")}
        (made.features / f"{slide_id}.h5").unlink()
        store.write(slide_id, features, boxes, recipe=recipe, attrs=kept)
