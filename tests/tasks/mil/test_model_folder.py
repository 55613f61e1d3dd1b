import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from microtome.cohort.targets import Target
from microtome.errors import (
    ConfigError,
    CorruptOutputError,
    MicrotomeError,
    MissingOutputError,
    OutputWriteError,
    RecipeMismatchError,
    WeightsError,
)
from microtome.evaluation.calibration import Calibration
from microtome.storage import hash_file
from microtome.tasks.mil import model_folder
from microtome.tasks.mil.digests import Digests, patient_hash
from microtome.tasks.mil.explain import explain
from microtome.tasks.mil.features_recipe import FeaturesRecipe, check_features
from microtome.tasks.mil.model_folder import load_model, output_names, save_model
from tests.tasks.mil.planted import DIM, FEATURES, planted_bag, random_model, trained_model

BAG = planted_bag(np.random.default_rng(0), positive=True)


@pytest.fixture
def folder(tmp_path):
    return save_model(tmp_path / "model", trained_model(n_members=2))


ABSENT = object()


def change_record(folder, **changes):
    path = folder / "model.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not ABSENT}))


def change_weights(folder, tensors):
    save_file(tensors, folder / "weights.safetensors")
    change_record(folder, weights_sha256=hash_file(folder / "weights.safetensors"))


def test_a_model_comes_back_as_it_was(tmp_path):
    model = trained_model(
        n_members=2,
        calibration=Calibration("affine", scale=0.5, shift=0.25),
        metrics={"auroc": {"estimate": 0.91, "low": 0.85, "high": None}},
        training={"seed": 3, "notes": ["a note"]},
    )
    back = load_model(save_model(tmp_path / "m", model))
    for name in ("spec", "target", "objective", "features", "unit", "calibration", "training_patients", "metrics"):
        assert getattr(back, name) == getattr(model, name)
    one, two = explain(model, BAG), explain(back, BAG)
    np.testing.assert_array_equal(one.logits, two.logits)
    np.testing.assert_array_equal(one.attribution, two.attribution)
    assert back.digest == model.digest


def test_the_same_model_is_the_same_folder_byte_for_byte(tmp_path):
    one, two = (save_model(tmp_path / name, trained_model()) for name in "ab")
    for name in ("model.json", "weights.safetensors", "MODEL_CARD.md"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert sorted(path.name for path in one.iterdir()) == ["MODEL_CARD.md", "model.json", "weights.safetensors"]


def test_members_are_averaged_and_then_calibrated(folder):
    pair = load_model(folder)
    alone = [explain(replace(pair, members=[weights]), BAG).logits for weights in pair.members]
    np.testing.assert_allclose(explain(pair, BAG).logits, np.mean(alone, axis=0), rtol=1e-6)
    calibrated = replace(pair, calibration=Calibration("affine", scale=2.0, shift=-1.0))
    np.testing.assert_allclose(explain(calibrated, BAG).logits, 2 * np.mean(alone, axis=0) - 1, rtol=1e-6)


def n_values(target):
    return {"survival": 2, "multilabel": len(target.classes)}.get(target.type, 1)


@pytest.mark.parametrize(
    ("target", "objective", "n_outputs", "names"),
    [
        (Target("t", "binary", ("t",), ("no", "yes")), "bce", 1, ("yes",)),
        (Target("t", "binary", ("t",), ("no", "yes")), "cross_entropy", 2, ("no", "yes")),
        (Target("t", "multiclass", ("t",), ("a", "b", "c")), None, 3, ("a", "b", "c")),
        (Target("t", "multilabel", ("a", "b"), ("a", "b")), None, 2, ("a", "b")),
        (Target("t", "regression", ("t",)), None, 1, ("value",)),
        (Target("t", "survival", ("time", "event")), "cox", 1, ("risk",)),
    ],
)
def test_every_type_of_target_is_kept(tmp_path, target, objective, n_outputs, names):
    model = random_model(
        target, objective, values=np.array([[1.0, 0.0], [2.0, 1.0], [4.0, 1.0]])[:, : n_values(target)]
    )
    back = load_model(save_model(tmp_path / "m", model))
    assert (back.reading.n_outputs, back.output_names) == (n_outputs, names)
    logits = explain(back, BAG).logits[None].astype(np.float32)
    for name, values in model.reading.columns(logits).items():
        np.testing.assert_array_equal(back.reading.columns(logits)[name], values)


def test_an_ordinal_logit_is_named_after_its_threshold():
    grades = Target("grade", "ordinal", ("grade",), ("1", "2", "3"))
    assert output_names(grades, 2) == ("ge_2", "ge_3")
    assert output_names(grades, 1) == ("grade",)
    assert output_names(Target("os", "survival", ("t", "e")), 3) == ("time_0", "time_1", "time_2")


def test_another_model_is_not_replaced_unless_asked(folder):
    save_model(folder, trained_model(n_members=2))  # the same again
    with pytest.raises(RecipeMismatchError, match="--overwrite"):
        save_model(folder, trained_model())
    save_model(folder, trained_model(), overwrite=True)
    assert len(load_model(folder).members) == 1


@pytest.mark.parametrize("failing", ["write_text", "written_whole"])
def test_a_folder_that_was_not_finished_holds_no_model(folder, monkeypatch, failing):
    def no_space(path, *_):
        raise OutputWriteError(f"'{path}' cannot be written: no space.")

    monkeypatch.setattr(model_folder, failing, no_space)
    with pytest.raises(OutputWriteError):
        save_model(folder, trained_model(), overwrite=True)
    with pytest.raises(MissingOutputError, match="no finished model"):
        load_model(folder)
    monkeypatch.undo()
    save_model(folder, trained_model())
    assert len(load_model(folder).members) == 1


@pytest.mark.parametrize(
    ("damage", "error", "said"),
    [
        (lambda f: (f / "model.json").unlink(), MissingOutputError, "no finished model"),
        (lambda f: (f / "weights.safetensors").unlink(), MissingOutputError, "weights.safetensors"),
        (lambda f: (f / "model.json").write_text("{"), CorruptOutputError, "cannot be read"),
        (lambda f: (f / "model.json").write_bytes(b"\xff\xfe"), CorruptOutputError, "cannot be read"),
        (lambda f: (f / "model.json").write_text("[1]"), CorruptOutputError, "not the record"),
        (lambda f: change_record(f, version=99), ConfigError, "format version 99"),
        (lambda f: change_record(f, surprise=1), CorruptOutputError, "unknown entry surprise"),
        (lambda f: change_record(f, target=ABSENT), CorruptOutputError, "lacks target"),
        (lambda f: change_record(f, spec={"name": "abmil"}), CorruptOutputError, "options"),
        (lambda f: change_record(f, spec={"name": "abmul", "options": {}}), CorruptOutputError, "abmil"),
        (lambda f: change_record(f, n_members=1), WeightsError, "of no member"),
        (lambda f: change_record(f, n_members=3), WeightsError, "missing"),
        (lambda f: change_record(f, unit="lab"), CorruptOutputError, "understood"),
        (lambda f: change_record(f, training_patients=[]), CorruptOutputError, "understood"),
    ],
)
def test_a_damaged_folder_is_refused_with_its_reason(folder, damage, error, said):
    damage(folder)
    with pytest.raises(error, match=said):
        load_model(folder)


@pytest.mark.parametrize("at", [0.0, 0.3, 0.6, 0.99])
def test_one_wrong_byte_of_the_weights_is_noticed(folder, at):
    path = folder / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptOutputError, match="damaged"):
        load_model(folder)


def test_truncated_weights_are_noticed(folder):
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptOutputError, match="damaged"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("0.project.weight"), "missing"),
        (lambda t: t.update({"0.extra": torch.zeros(1)}), "not of this network"),
        (lambda t: t.update({"1.project.bias": torch.zeros(3)}), "another shape"),
        (lambda t: t.update({"0.project.bias": torch.full((128,), float("nan"))}), "NaN"),
    ],
)
def test_weights_of_another_network_are_refused(folder, change, said):
    tensors = load_file(folder / "weights.safetensors")
    change(tensors)
    change_weights(folder, tensors)
    with pytest.raises(WeightsError, match=said):
        load_model(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"members": []},
        {"mean_features": np.zeros(DIM + 1, np.float32)},
        {"mean_features": np.full(DIM, np.nan, np.float32)},
        {"calibration": Calibration("affine", scale=-1.0)},
        {"calibration": Calibration("isotonic", knots=((0.0, 0.0), (1.0, 1.0)))},
        {"members": [{"project.weight": torch.zeros(1)}]},
        {"features": replace(FEATURES, n_features=DIM + 1)},
    ],
)
def test_what_could_not_be_loaded_is_not_written(tmp_path, changes):
    with pytest.raises(MicrotomeError):
        save_model(tmp_path / "m", trained_model(**changes))
    assert not (tmp_path / "m" / "model.json").exists()


def test_no_name_of_a_patient_or_slide_is_in_the_folder(tmp_path):
    names = ["TCGA-AA-0001", "TCGA-AA-0002"]
    model = trained_model(training_patients=Digests.of(names), training_slides=Digests.of([f"{n}-01Z" for n in names]))
    folder = save_model(tmp_path / "m", model)
    for path in folder.iterdir():
        assert b"TCGA-AA" not in path.read_bytes()
    back = load_model(folder)
    assert "TCGA-AA-0001" in back.training_patients
    assert "TCGA-AA-0003" not in back.training_patients


def test_the_card_says_what_a_person_must_know(tmp_path):
    model = trained_model(
        features=replace(FEATURES, encoder="texture"), metrics={"auroc": {"estimate": 0.912, "low": 0.85, "high": 0.95}}
    )
    card = (save_model(tmp_path / "m", model) / "MODEL_CARD.md").read_text()
    for text in (
        "research use only",
        "| auroc | 0.912 | 0.850 | 0.950 |",
        "Apache-2.0",
        "no anonymisation",
        "normal, tumour",
    ):
        assert text in card
    bare = save_model(tmp_path / "n", trained_model())
    assert "Nobody knows how good" in (bare / "MODEL_CARD.md").read_text()


@given(st.lists(st.text(min_size=1, max_size=8).map(str.strip).filter(bool), max_size=6), st.text(max_size=8))
def test_a_digest_knows_its_names_and_no_others(names, other):
    known = Digests.of(names)
    assert all(name in known and f" {name} " in known for name in names)
    assert (other in known) == (other.strip() in set(names))
    assert known == Digests.of(reversed(names))


def test_the_salt_matters():
    assert patient_hash("a", "x") != patient_hash("a", "y")
    assert len(patient_hash("a")) == 64


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n_features": 9}, "n_features: 8 → 9"),
        ({"encoder": "other"}, "encoder: made-up → other"),
        ({"weights_sha256": "cd" * 32}, "weights_sha256: abab.* → cdcd"),
        ({"weights_sha256": ""}, "weights_sha256: abab.* → none"),
        ({"tile_px": 256}, "tile_px: 224 → 256"),
        ({"mpp": 0.51}, "mpp: 0.5 → 0.51"),
        ({"mpp": 0.25}, "mpp: 0.5 → 0.25"),
        ({"preprocessing": {**FEATURES.preprocessing, "card_pooling": "mean"}}, "card_pooling: cls → mean"),
    ],
)
def test_features_of_another_kind_are_refused_with_both_named(change, said):
    with pytest.raises(ConfigError, match=said):
        check_features(FEATURES, replace(FEATURES, **change), what="'s1'", trust=True)


@pytest.mark.parametrize("name", ["encoder", "weights_sha256", "tile_px", "mpp"])
def test_features_that_do_not_say_it_are_taken_only_on_trust(name):
    unknown = FeaturesRecipe(**{**FEATURES.as_dict(), name: None})
    for model, given_ in ((FEATURES, unknown), (unknown, FEATURES)):
        with pytest.raises(ConfigError, match=f"{name}.*--trust-features"):
            check_features(model, given_, what="'s1'")
        check_features(model, given_, what="'s1'", trust=True)
    check_features(unknown, unknown, what="'s1'")


def test_another_precision_and_laying_are_noted_and_not_refused():
    other = replace(FEATURES, precision="bf16", laying={"min_tissue": 0.1})
    here = replace(FEATURES, laying={"min_tissue": 0.5}, mpp=0.5004)
    check_features(here, other, what="'s1'")
    assert len(here.notes(other)) == 2
    assert FeaturesRecipe.from_dict(json.loads(json.dumps(here.as_dict()))) == here
