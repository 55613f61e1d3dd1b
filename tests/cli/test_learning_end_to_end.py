"""From a table and a folder of features to figures, and what a person is told whose data are not in order."""

import re
import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from microtome.cli import main
from microtome.features.bag import Plain
from microtome.features.store import FeatureStore
from microtome.testing.mil_cohort import TARGETS, MilCohortOptions, write_mil_cohort

FIGURES = {
    "survival": "survival.png",
    "ordinal": "confusion.png",
    "multiclass": "confusion.png",
    "regression": "regression.png",
}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    options = MilCohortOptions(n_patients=24, slides_per_patient=2, n_features=8, n_tiles=(4, 8))
    return write_mil_cohort(tmp_path_factory.mktemp("made"), options)


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def flags(kind):
    told = TARGETS[kind]
    found = ["--target", told["target"]]
    for name in ("type", "columns", "classes"):
        value = told.get(name)
        if value is not None:
            found += [f"--{name}", value if isinstance(value, str) else ",".join(value)]
    return found


def cv_flags(features, table, out, kind="binary"):
    return (
        "cv", "--features", features, "--cohort", table, *flags(kind), "--model", "meanpool", "--outer", 2,
        "--inner", 0, "--epochs", 20, "--learning-rate", 0.01, "--weight-decay", 0, "--batch-size", 8,
        "--precision", "fp32", "--device", "cpu", "--n-boot", 30, "--quiet", "--out", out,
    )  # fmt: skip


@pytest.mark.parametrize(
    "kind", ["survival", *(pytest.param(k, marks=pytest.mark.slow) for k in ("ordinal", "multiclass", "regression"))]
)
def test_from_a_table_to_figures(made, run, tmp_path, kind):
    code, out, err = run(*cv_flags(made.features, made.table, tmp_path / "cv", kind))
    assert code == 0, err
    assert "fold 1:" in out
    figures = {path.name for path in (tmp_path / "cv" / "evaluation" / "figures").iterdir()}
    assert FIGURES[kind] in figures
    again = ("evaluate", tmp_path / "cv" / "predictions.parquet", "--cohort", made.table, "--n-boot", 30)
    code, out, err = run(*again, "--out", tmp_path / "judged", "--no-figures")
    assert code == 0, err
    first = pd.read_csv(tmp_path / "cv" / "evaluation" / "metrics.csv").iloc[0]
    second = pd.read_csv(tmp_path / "judged" / "metrics.csv").iloc[0]
    assert first["estimate"] == pytest.approx(second["estimate"])
    assert first["estimate"] > (0.2 if kind == "regression" else 0.7)
    assert f"{first['estimate']:.3f}" in out


def _changed_label(slide, column, value):
    def change(table, features):
        table.loc[table["slide_id"] == slide, column] = value
        return table

    return change


def _rewritten(change):
    """A slide's features, changed, in a file without a checksum, as another program writes it."""

    def apply(table, features):
        path = features / "P003-0.h5"
        with h5py.File(path) as file:
            values, coords = change(file["features"][:]), file["coords"][:]
        path.unlink()
        with h5py.File(path, "w") as file:
            file["features"], file["coords"] = values, coords[: len(values)]
        return table

    return apply


def _with_nan(values):
    values[1, 2] = np.nan
    return values


REFUSED = {
    "features hold NaN": (_rewritten(_with_nan), "binary", "'P003-0'.*NaN"),
    "features are of two widths": (_rewritten(lambda v: np.hstack([v, v])), "binary", "'P003-0'.*8 → 16"),
    "a file of features is cut off": (
        lambda table, features: (
            (features / "P005-0.h5").write_bytes((features / "P005-0.h5").read_bytes()[:1500]),
            table,
        )[1],
        "binary",
        "P005-0.h5.*truncated",
    ),
    "fewer patients than folds": (
        lambda table, _: table.iloc[:2].assign(score=["1", "2"]),
        "regression",
        "2 folds need .* There are 1",
    ),
    "one class in a fold": (
        lambda table, _: table.assign(mutation=["1", "1", *["0"] * (len(table) - 2)]),
        "binary",
        "side .* rows.* (has no 1|one class only)",
    ),
    "one class": (lambda table, _: table.assign(mutation="1"), "binary", "'1': there is nothing to tell apart"),
    "all labels are missing": (lambda table, _: table.assign(mutation=""), "binary", "No slide has a label"),
    "a slide is listed twice": (lambda table, _: pd.concat([table, table.iloc[:1]]), "binary", "'P000-0' occurs twice"),
    "all are censored": (lambda table, _: table.assign(OS="0"), "survival", "censored: there is no event"),
    "no time is positive": (
        lambda table, _: table.assign(**{"OS.time": "0"}),
        "survival",
        "48 slides: survival time is not positive",
    ),
    "a time is no number": (_changed_label("P001-0", "OS.time", "a year"), "survival", "'P001-0': 'a year'"),
    "no slide_id is that of a file": (
        lambda table, _: table.assign(slide_id=table["slide_id"] + ".svs"),
        "binary",
        "slide_ids match the files' names",
    ),
}


@pytest.fixture
def changed(made, tmp_path):
    """Make a copy of the cohort with something wrong in it."""

    def make(change, **how):
        shutil.copytree(made.features, tmp_path / "features")
        table = change(pd.read_csv(made.table, dtype=str, keep_default_na=False), tmp_path / "features")
        table.to_csv(tmp_path / "labels.csv", index=False, **how)
        return tmp_path / "features", tmp_path / "labels.csv"

    return make


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_learnt_from_is_told_in_one_sentence(changed, run, tmp_path, what):
    change, kind, said = REFUSED[what]
    features, table = changed(change)
    code, _, err = run(*cv_flags(features, table, tmp_path / "cv", kind))
    assert code == 2
    assert re.search(said, " ".join(err.split())), err
    assert "Traceback" not in err
    assert not (tmp_path / "cv").exists()


def _four_holes(table, features):
    (features / "P002-1.h5").unlink()
    (features / "P003-0.h5").unlink()
    boxes = np.zeros((0, 4), np.int64)
    recipe = {"encoder": "planted", "tile_px": 224, "mpp": 0.5, "weights_sha256": ""}
    attrs: dict[str, Plain] = {"encoder": "planted", "mpp": 0.5, "patch_size": 224, "slide_mpp": 0.25}
    FeatureStore(features).write("P003-0", np.zeros((0, 8), np.float32), boxes, recipe=recipe, attrs=attrs)
    table = table.set_index("slide_id")
    table.loc["P000-0", "OS.time"] = "-3"
    table.loc["P001-0", "OS"] = ""
    return table.reset_index()


HOLES = {
    "P000-0": "survival time is not positive",
    "P001-0": "event is missing",
    "P002-1": "no features",
    "P003-0": "no tile has features",
}


def test_who_is_left_out_is_counted_everywhere(changed, run, tmp_path):
    """On the terminal, in the record, on the page; by `evaluate` too, which sees the predictions and the table only."""
    features, table = changed(_four_holes)
    code, out, err = run(*cv_flags(features, table, tmp_path / "cv", "survival"), "--no-figures")
    assert code == 0, err
    for reason in HOLES.values():
        assert f"left out 1 slide(s): {reason}" in out
    folder = tmp_path / "cv" / "evaluation"
    assert dict(pd.read_csv(folder / "excluded.csv").to_numpy()) == HOLES
    page = (folder / "evaluation.html").read_text(encoding="utf-8")
    assert all(slide in page and reason in page for slide, reason in HOLES.items())
    again = ("evaluate", tmp_path / "cv" / "predictions.parquet", "--cohort", table, "--n-boot", 0, "--no-figures")
    _, out, _ = run(*again, "--out", tmp_path / "judged")
    judged = dict(pd.read_csv(tmp_path / "judged" / "excluded.csv").to_numpy())
    assert judged == {**HOLES, "P002-1": "no prediction", "P003-0": "no prediction"}
    assert "excluded 2: no prediction" in out


def test_a_spreadsheet_s_table_gives_the_same(made, changed, run, tmp_path):
    """A byte-order mark, semicolons, and labels like 1.0 because a cell was empty once."""

    def as_spreadsheet(table, _):
        return table.assign(mutation=table["mutation"] + ".0")

    features, table = changed(as_spreadsheet, sep=";", encoding="utf-8-sig")
    for name, of in (("plain", made.table), ("spreadsheet", table)):
        code, _, err = run(*cv_flags(features, of, tmp_path / name), "--no-figures")
        assert code == 0, err
    first, second = (pd.read_csv(tmp_path / name / "predictions.csv") for name in ("plain", "spreadsheet"))
    pd.testing.assert_frame_equal(first, second)


def test_a_table_without_patients_says_what_that_means(changed, run, tmp_path):
    features, table = changed(lambda table, _: table.drop(columns="patient_id"))
    code, out, err = run(*cv_flags(features, table, tmp_path / "cv"), "--no-figures")
    assert code == 0, err
    assert "names no patients" in out
    assert "names no patients" in (tmp_path / "cv" / "evaluation" / "evaluation.html").read_text(encoding="utf-8")


def test_predictions_of_slides_whose_patients_nobody_named_are_not_judged_by_patient(made, run, tmp_path):
    """Their other slides may have been in training."""
    train = pd.read_csv(made.table, dtype=str)
    train[train["slide_id"].str.endswith("-0")].iloc[:16].to_csv(tmp_path / "train.csv", index=False)
    flags = cv_flags(made.features, tmp_path / "train.csv", tmp_path / "model")
    code, _, err = run("fit", *[flag for flag in flags[1:] if flag not in ("--outer", 2)])
    assert code == 0, err
    predict = ("predict", tmp_path / "model", made.features, "--maps", "none", "--quiet")
    evaluate = ("evaluate", "--cohort", made.table, "--n-boot", 0, "--no-figures")
    run(*predict, "--out", tmp_path / "alone")
    code, _, err = run(*evaluate, "--predictions", tmp_path / "alone" / "predictions.parquet", "--out", tmp_path / "a")
    assert code == 2
    assert "predict with the same table" in " ".join(err.split())
    _, out, _ = run(*predict, "--cohort", made.table, "--out", tmp_path / "with")
    assert "predicted 48, 32 of patients in training" in out  # the 16 slides, and 16 more of the same patients
    _, out, _ = run(*evaluate, "--predictions", tmp_path / "with" / "predictions.parquet", "--out", tmp_path / "b")
    assert "16 slides of 8 patients" in out
    assert "excluded 32: the patient was in training" in out
