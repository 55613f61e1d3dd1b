import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from microtome.cohort import Cohort
from microtome.cohort.predictions import read_predictions
from microtome.cohort.table import CohortSlide
from microtome.config import PredictConfig
from microtome.errors import ConfigError, CoverageError, RecipeMismatchError
from microtome.evaluation.calibration import Calibration
from microtome.features.bag import BagContent, write_bag_file
from microtome.features.store import FeatureStore, recipe_attributes
from microtome.models.aggregators.registry import list_aggregators
from microtome.tasks.mil.explain import Explainer, explain
from microtome.tasks.mil.features_recipe import read_features_recipe
from microtome.tasks.mil.map_files import read_map_facts
from microtome.tasks.mil.model_folder import save_model
from microtome.tasks.mil.predict import predict, predict_files
from microtome.tasks.mil.predict_inputs import extraction_settings
from tests.tasks.mil.planted import (
    ATTRS,
    DIM,
    FEATURES,
    N_PLANTED,
    RECIPE,
    grid_boxes,
    planted_bag,
    random_model,
    trained_model,
    write_planted,
)

SLIDES = {"slide-a": True, "slide-b": False, "slide-c": True}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return save_model(
        tmp_path_factory.mktemp("m") / "model", trained_model(calibration=Calibration("affine", 0.5, 0.1))
    )


@pytest.fixture
def store(tmp_path):
    return write_planted(tmp_path / "run" / "features" / "made-up", SLIDES)


def settings(model_folder, store, tmp_path, **changes):
    values = {"model": model_folder, "slides": (str(store.folder),), "out": tmp_path / "out", "quiet": True}
    return PredictConfig(**{**values, **changes})


def test_the_recipe_of_a_store_is_read_from_its_files(store):
    assert read_features_recipe(store, store) == FEATURES


@pytest.mark.parametrize("name", list_aggregators())
def test_of_every_model_the_tiles_that_add_most_move_the_logit_most(name):
    model = trained_model(name)
    rng = np.random.default_rng(5)
    explainer = Explainer.on(model)

    def drop(bag, rows):
        left = np.delete(bag, rows, axis=0)
        return before - float(explainer.explain(left, attribution=False).logits[0])

    moved, at_random, shares = [], [], []
    for _ in range(3):
        bag = planted_bag(rng, positive=True, n=30)
        found = explainer.explain(bag)
        assert found.attribution is not None
        assert found.gap is not None
        before = float(found.logits[0])
        np.testing.assert_allclose(
            found.attribution.sum(axis=0) + found.baseline_logits, found.logits, atol=float(found.gap[0]) + 1e-5
        )
        top = np.argsort(-found.attribution[:, 0])[:N_PLANTED]
        moved.append(drop(bag, top))
        at_random += [drop(bag, rng.choice(30, N_PLANTED, replace=False)) for _ in range(5)]
        shares.append(np.isin(top, np.arange(N_PLANTED)).mean())
    assert np.mean(moved) > 0
    assert np.mean(moved) > 2 * np.mean(np.abs(at_random))
    assert np.mean(shares) >= 0.4  # chance: one in six


def test_maps_are_of_the_same_tiles_as_the_prediction(model_folder, store, tmp_path):
    result = predict_files(settings(model_folder, store, tmp_path))
    assert not result.failed
    assert (result.n_maps, result.n_without_thumbnail) == (3, 3)
    written = read_predictions(tmp_path / "out" / "predictions.parquet")
    table = written.table.set_index("id")
    alone = predict(model_folder, store).table.set_index("id")
    for slide_id in SLIDES:
        path = tmp_path / "out" / "maps" / f"{slide_id}.parquet"
        tiles, facts = pd.read_parquet(path), read_map_facts(path)
        logit = float(table["logit_tumour"][slide_id])
        assert alone.loc[slide_id, "logit_tumour"] == logit == facts["logits"]["tumour"]
        assert table.loc[slide_id, "p_tumour"] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)
        total = tiles["attribution_tumour"].sum() + facts["baseline_logits"]["tumour"]
        assert total == pytest.approx(logit, abs=facts["gap"]["tumour"] + 1e-6)
        change = abs(logit - facts["baseline_logits"]["tumour"])
        assert facts["gap"]["tumour"] <= max(0.01 * change, 1e-3)
        np.testing.assert_array_equal(tiles[["x", "y", "w", "h"]], store[slide_id].boxes)
        assert tiles["attention"].sum() == pytest.approx(1, abs=1e-5)
        for name in ("attention", "attribution_tumour"):
            assert (tmp_path / "out" / "maps" / f"{slide_id}_{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (table["p_tumour"] > 0.5).to_dict() == SLIDES
    assert table["in_training"].to_dict() == {"slide-a": True, "slide-b": False, "slide-c": False}
    record = json.loads((tmp_path / "out" / "predict.json").read_text())
    assert (record["n_predicted"], record["failed"]) == (3, {})


def test_qupath_gets_each_tile_with_its_values(model_folder, store, tmp_path):
    predict_files(settings(model_folder, store, tmp_path))
    features = json.loads((tmp_path / "out" / "maps" / "slide-a.geojson").read_text())["features"]
    tiles = pd.read_parquet(tmp_path / "out" / "maps" / "slide-a.parquet")
    assert len(features) == len(tiles)
    first, box = features[0], tiles.iloc[0]
    corners = np.array(first["geometry"]["coordinates"][0])
    assert first["properties"]["objectType"] == "tile"
    assert first["properties"]["measurements"]["attribution_tumour"] == pytest.approx(
        box["attribution_tumour"], rel=1e-4
    )
    assert corners.min(axis=0).tolist() == [box["x"], box["y"]]
    assert corners.max(axis=0).tolist() == [box["x"] + box["w"], box["y"] + box["h"]]


def test_a_second_run_keeps_whole_maps_and_makes_the_others(model_folder, store, tmp_path):
    config = settings(model_folder, store, tmp_path, maps="attention")
    predict_files(config)
    maps = tmp_path / "out" / "maps"
    (maps / "slide-b.parquet").unlink()  # as if it had been killed before the table
    before = (maps / "slide-a.parquet").stat().st_mtime_ns
    again = predict_files(config)
    assert (again.n_maps, again.n_maps_kept) == (1, 2)
    assert (maps / "slide-a.parquet").stat().st_mtime_ns == before
    assert (maps / "slide-b.parquet").exists()


def test_other_settings_or_another_model_replace_nothing_unless_asked(model_folder, store, tmp_path):
    config = settings(model_folder, store, tmp_path, maps="attention")
    predict_files(config)
    other = config.model_copy(update={"maps": ("attention", "attribution")})
    refused = predict_files(other)
    assert "--overwrite" in refused.failed["slide-a"]
    assert not predict_files(other.model_copy(update={"overwrite": True})).failed
    another = save_model(tmp_path / "another", trained_model(n_members=2))
    with pytest.raises(RecipeMismatchError, match="another model"):
        predict_files(config.model_copy(update={"model": another}))


def test_a_bad_slide_fails_alone(model_folder, store, tmp_path):
    path = store.path("slide-b")
    path.write_bytes(path.read_bytes()[:-200])
    write_planted(store.folder, {"slide-d": True}, attrs={**ATTRS, "encoder": "other"})
    store.write("slide-e", np.zeros((0, DIM), np.float32), np.zeros((0, 4), np.int64), recipe=RECIPE, attrs=ATTRS)
    result = predict_files(settings(model_folder, store, tmp_path, maps="none"))
    assert sorted(result.failed) == ["slide-b", "slide-d", "slide-e"]
    assert "encoder: made-up → other" in result.failed["slide-d"]
    assert result.failed["slide-e"] == "No tile of 'slide-e' has features."
    assert result.predictions is not None
    assert list(result.predictions.table["id"]) == ["slide-a", "slide-c"]
    assert json.loads((tmp_path / "out" / "predict.json").read_text())["failed"].keys() == result.failed.keys()


def test_too_many_unreadable_tiles_leave_no_prediction(model_folder, tmp_path):
    boxes = grid_boxes(40)
    content = BagContent(
        boxes[:30], np.arange(30), boxes[30:], np.arange(30, 40), ("gone",) * 10, {**ATTRS, **recipe_attributes(RECIPE)}
    )
    folder = tmp_path / "features"
    folder.mkdir()
    bag = planted_bag(np.random.default_rng(0), positive=True, n=30)
    write_bag_file(folder / "s.h5", content, [bag], dim=DIM, dtype="float32")
    with pytest.raises(CoverageError, match=r"75\.0 %"):
        predict(model_folder, folder)
    table = predict(model_folder, folder, min_coverage=0.7).table
    assert (table.loc[0, "n_tiles"], table.loc[0, "n_unreadable"]) == (30, 10)


def test_the_cohort_says_whose_the_slides_are(model_folder, store, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("slide_id,patient_id\nslide-c,patient-a\nslide-b,p2\nslide-x,p3\n")
    result = predict_files(settings(model_folder, store, tmp_path, maps="none", cohort=table))
    assert result.failed == {"slide-x": "no features"}
    assert result.predictions is not None
    found = result.predictions.table.set_index("id")
    assert found["in_training"].to_dict() == {"slide-c": True, "slide-b": False}
    assert any("not in the cohort" in note for note in result.notes)


def test_slides_of_a_patient_are_one_bag_and_each_gets_its_own_map(store, tmp_path):
    model = trained_model(unit="patient")
    with pytest.raises(ConfigError, match="--cohort"):
        predict(model, store)
    slides = tuple(CohortSlide(s, p) for s, p in (("slide-a", "p1"), ("slide-b", "p1"), ("slide-c", "p2")))
    found = predict(model, store, cohort=Cohort(slides)).table.set_index("id")
    together = np.concatenate([store["slide-a"].features, store["slide-b"].features])
    assert found.loc["p1", "logit_tumour"] == explain(model, together).logits[0]
    assert (found.loc["p1", "n_tiles"], list(found.index)) == (80, ["p1", "p2"])
    table = tmp_path / "labels.csv"
    table.write_text("slide_id,patient_id\n" + "".join(f"{s.slide_id},{s.patient_id}\n" for s in slides))
    folder = save_model(tmp_path / "m", model)
    predict_files(settings(folder, store, tmp_path, cohort=table, maps="attribution", geojson="none"))
    maps = tmp_path / "out" / "maps"
    parts = [pd.read_parquet(maps / f"{s}.parquet")["attribution_tumour"] for s in ("slide-a", "slide-b")]
    facts = read_map_facts(maps / "slide-a.parquet")
    total = sum(part.sum() for part in parts) + facts["baseline_logits"]["tumour"]
    assert [len(part) for part in parts] == [40, 40]
    assert total == pytest.approx(found.loc["p1", "logit_tumour"], abs=facts["gap"]["tumour"] + 1e-6)


def test_a_barcode_betrays_a_patient_of_the_training(tmp_path):
    from microtome.tasks.mil.digests import Digests

    model = trained_model(training_patients=Digests.of(["TCGA-AA-0001"]), training_slides=Digests.of(["x"]))
    store = write_planted(tmp_path / "f", {"TCGA-AA-0001-01Z-00-DX2": True, "TCGA-AA-0009-01Z-00-DX1": True})
    assert predict(model, store).table["in_training"].tolist() == [True, False]


def test_without_a_thumbnail_of_features_without_places_there_is_a_table(model_folder, tmp_path):
    import h5py

    folder = tmp_path / "features"
    folder.mkdir()
    with h5py.File(folder / "s.h5", "w") as file:  # as another program writes it: no size of tiles, no encoder
        file["features"] = planted_bag(np.random.default_rng(0), positive=True)
        file["coords"] = grid_boxes(40)[:, :2]
    config = settings(model_folder, FeatureStore(folder), tmp_path)
    assert "--trust-features" in predict_files(config).failed["s"]
    result = predict_files(config.model_copy(update={"trust_features": True}))
    assert not result.failed
    assert any("table without pictures" in note for note in result.notes)
    assert list(pd.read_parquet(tmp_path / "out" / "maps" / "s.parquet").columns[:2]) == ["x", "y"]
    assert not list((tmp_path / "out" / "maps").glob("*.png"))


def test_every_class_has_its_attribution(tmp_path, store):
    from microtome.cohort.targets import Target

    model = random_model(Target("kind", "multiclass", ("kind",), ("a", "b/c", "d")), name="clam_mb")
    predict_files(settings(save_model(tmp_path / "m", model), store, tmp_path, geojson="none"))
    names = set(pd.read_parquet(tmp_path / "out" / "maps" / "slide-a.parquet").columns)
    assert names >= {f"{kind}_{c}" for kind in ("attention", "attribution") for c in ("a", "b/c", "d")}
    assert (tmp_path / "out" / "maps" / "slide-a_attribution_b-c.png").exists()


def test_slides_are_extracted_as_the_model_says():
    laying = {
        "tissue_method": "otsu",
        "tissue_parameters": {"sigma": 2.0},
        "min_tissue": 0.3,
        "stride_px": 112,
        "anchor": "tissue",
        "bounds": "in",
        "decode": "exact",
    }
    recipe = replace(FEATURES, laying=laying)
    made = extraction_settings(PredictConfig(slides=("a.svs",), mpp=0.25), recipe)
    assert (made.encoder, made.tile_px, made.tile_mpp, made.level) == ("made-up", 224, 0.5, None)
    assert (made.tissue_method, made.min_tissue, made.stride_px, made.precision) == ("otsu", 0.3, 112, "fp32")
    assert made.mpp == 0.25
    other = extraction_settings(PredictConfig(slides=("a.svs",), tissue_method="saturation"), recipe)
    assert (other.tissue_method, other.tissue_parameters) == ("saturation", {})
    with pytest.raises(ConfigError, match="--tissue-method and --min-tissue"):
        extraction_settings(PredictConfig(slides=("a.svs",)), FEATURES)
    with pytest.raises(ConfigError, match="Extract features"):
        extraction_settings(PredictConfig(slides=("a.svs",)), replace(recipe, encoder=None))


@pytest.mark.slow
def test_slides_give_what_their_features_give(cohort, tmp_path):
    from microtome.config import ExtractConfig
    from microtome.tasks.run import run

    slides = tuple(str(p) for p in sorted(cohort.glob("*")) if p.suffix in (".svs", ".tif"))
    run(ExtractConfig(slides=slides, out=tmp_path / "run", quiet=True))
    (folder,) = (tmp_path / "run" / "features").iterdir()
    store = FeatureStore(folder)
    recipe = read_features_recipe(store, store)
    assert recipe.laying["tissue_method"] == "auto"
    from microtome.models.aggregators.registry import build_aggregator
    from microtome.tasks.mil.jobs import ModelSpec

    module = build_aggregator("abmil", recipe.n_features, 1)
    model = trained_model(features=recipe, spec=ModelSpec("abmil"), members=[module.state_dict()], mean_features=None)
    saved = save_model(tmp_path / "model", model)
    result = predict_files(PredictConfig(model=saved, slides=slides, out=tmp_path / "out", quiet=True))
    assert not result.failed
    assert result.n_without_thumbnail == 0
    assert result.predictions is not None
    pd.testing.assert_frame_equal(result.predictions.table, predict(model, store).table)
    again = predict_files(PredictConfig(model=saved, slides=(str(tmp_path / "out"),), out=tmp_path / "out", quiet=True))
    assert (again.n_maps, again.n_maps_kept) == (0, 2)
