"""Probing features of tiles: where tiles, labels and splits come from, and what is written."""

import csv
import json

import numpy as np
import pandas as pd
import pytest

from microtome.cli import main
from microtome.config import ProbeConfig, resolve
from microtome.errors import ConfigError, EvaluationError, MissingOutputError
from microtome.features.formats.tiles_npy import write_tile_features
from microtome.tasks.probe import probe
from microtome.tasks.probe_data import divide, find_tile_table
from microtome.viz.probe_figure import probe_figure

CLASSES = ("ADI", "BACK", "STR", "TUM")
QUICK = {"quiet": True, "n_boot": 100, "n_episodes": 20, "shots": (1, 4), "knn": 5, "portions": (0.5, 1.0)}


def write_nct(folder, n_train=160, n_valid=80, apart=3.0, seed=0):
    """Features and names as of NCT-CRC; those of the validation set come from TCGA."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n_train + n_valid) % len(CLASSES)
    features = rng.standard_normal((len(labels), 5)) + apart * np.eye(len(CLASSES), 5)[labels]
    ids = [f"{CLASSES[c]}-{'TCGA-' if i >= n_train else ''}X{i:04d}" for i, c in enumerate(labels)]
    folder.mkdir(parents=True)
    write_tile_features(folder, features.astype(np.float32), ids)
    return folder, ids, labels


def write_labels(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path


def settings(features, out, **more):
    return resolve(ProbeConfig, {"features": features, "out": out, **QUICK, **more})


def test_names_of_nct_crc_say_class_and_split_and_the_reference_leaves_the_background_out(tmp_path):
    folder, *_ = write_nct(tmp_path / "phikon" / "NCT-CRC_FULL")
    result = probe(settings(folder, tmp_path / "out"))
    name = "NCT-CRC_FULL_phikon"
    table = pd.read_csv(result.folder / f"{name}.csv")
    assert table["portion"].tolist() == [0.5, 1.0]
    assert "BACK_auc" not in table
    assert (table["auc"] > 0.9).all()
    assert ((table["bt_auc_low"] < table["auc"]) & (table["auc"] < table["bt_auc_high"])).all()
    modern = pd.read_csv(result.folder / f"{name}_modern.csv", keep_default_na=False)
    assert set(modern["class"]) == {"", *CLASSES}
    whole = modern[modern["class"] == ""]
    assert (whole["estimate"].astype(float) > 0.8).all()
    record = json.loads((result.folder / "probe.json").read_text())
    assert record["protocols"]["reference"]["tiles"]["of excluded classes"] == 60
    assert record["protocols"]["modern"]["judged"] == dict.fromkeys(CLASSES, 20)
    assert all(path.is_file() for path in result.files)


def test_a_table_says_labels_splits_and_patients(tmp_path):
    folder, ids, labels = write_nct(tmp_path / "set")
    rows = [
        {"id": name, "label": str(c), "split": ("train", "valid", "test")[i % 3], "patient": f"p{i % 30}"}
        for i, (name, c) in enumerate(zip(ids, labels, strict=True))
    ]
    rows[5]["label"] = "NA"
    config = settings(folder, tmp_path / "out", labels=write_labels(tmp_path / "labels.csv", rows))
    table = find_tile_table(config)
    reference, modern = (divide(table, config, protocol) for protocol in ("reference", "modern"))
    assert (reference.judged_split, modern.judged_split) == ("valid", "test")
    assert len(reference.train) == len(modern.train) == 80
    assert len(modern.judged) == 79
    assert modern.counts["without label"] == 1
    assert set(modern.judged_patients or ()) == {f"p{i}" for i in range(2, 30, 3)}
    chosen = divide(table, settings(folder, tmp_path / "out", judge_on="valid"), "modern")
    assert chosen.judged_split == "valid"


def test_without_a_split_whole_patients_are_drawn(tmp_path):
    folder, ids, labels = write_nct(tmp_path / "set")
    rows = [
        {"id": n, "label": str(c), "patient": f"p{i // 8}"} for i, (n, c) in enumerate(zip(ids, labels, strict=True))
    ]
    config = settings(folder, tmp_path / "out", labels=write_labels(tmp_path / "labels.csv", rows), seed=3)
    data, again = (divide(find_tile_table(config), config, "modern") for _ in range(2))
    assert not set(data.train_patients or ()) & set(data.judged_patients or ())
    assert 30 <= len(data.judged) <= 60
    assert data.judged_patients == again.judged_patients


def rows_of(ids, **columns):
    return [
        {"id": name, "label": CLASSES[i % 4], **{k: v(i) for k, v in columns.items()}} for i, name in enumerate(ids)
    ]


@pytest.mark.parametrize(
    ("make", "more", "words"),
    [
        (lambda ids: rows_of(ids, split=lambda i: "dev"), {}, "of the split 'dev'"),
        (lambda ids: rows_of(ids, split=lambda i: "" if i == 3 else "train"), {}, "some have none"),
        (lambda ids: rows_of(ids, split=lambda i: "train"), {}, "No labelled tile of 'set' is of the split valid"),
        (
            lambda ids: list(rows_of(ids, split=lambda i: "train" if i % 4 else "valid")),
            {},
            "train of 'set' lacks",
        ),
        (
            lambda ids: rows_of(ids, split=lambda i: "train" if i < 200 else "valid", patient=lambda i: f"p{i % 7}"),
            {},
            r"Patient p0 \(and 6 more\) of 'set' is in train and in valid",
        ),
        (rows_of, {"judge_on": "test"}, "Nothing says which tiles"),
        (lambda ids: rows_of(ids, patient=lambda i: f"p{i % 3}"), {}, "3 patients .* too few to judge"),
        (rows_of, {"exclude": "MUC"}, "exclude names the class MUC"),
        (lambda ids: [{"id": name, "label": ""} for name in ids], {}, "No tile of 'set' has a label"),
        (lambda ids: [{"id": name, "kind": "x"} for name in ids], {}, "must have the columns id and label"),
        (lambda ids: rows_of([*ids, ids[0]]), {}, "names the tile 'ADI-X0000' twice"),
    ],
)
def test_tables_that_do_not_do(tmp_path, make, more, words):
    folder, ids, _ = write_nct(tmp_path / "set")
    config = settings(folder, tmp_path / "out", labels=write_labels(tmp_path / "labels.csv", make(ids)), **more)
    with pytest.raises((EvaluationError, ConfigError), match=words):
        divide(find_tile_table(config), config, "modern")


def test_folders_that_do_not_do(tmp_path):
    with pytest.raises(ConfigError, match="Pass tiles"):
        probe(resolve(ProbeConfig, {}))
    with pytest.raises(ConfigError, match="Pass one of them"):
        resolve(ProbeConfig, {"tiles": "a", "features": "b"})
    with pytest.raises(ConfigError, match="encoder, n_tiles decide nothing"):
        resolve(ProbeConfig, {"features": "b", "encoder": "phikon", "n_tiles": 3})
    with pytest.raises(MissingOutputError, match="no folder of features"):
        probe(settings(tmp_path / "nowhere", tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match="Found: none"):
        probe(settings(tmp_path / "empty", tmp_path))
    with pytest.raises(ConfigError, match="portions"):
        settings(tmp_path, tmp_path, portions=(0.5, 1.5))


def test_few_tiles_for_many_shots_are_said(tmp_path):
    folder, *_ = write_nct(tmp_path / "set")
    result = probe(settings(folder, tmp_path / "out", protocol="modern", shots=(1, 1000)))
    assert result.few_shot is not None
    assert result.few_shot["note"].tolist() == ["", "a class has only 40 training tiles"]
    assert result.few_shot["accuracy_score"].isna().tolist() == [False, True]
    assert result.reference is None


def test_the_figure_shows_the_tables(tmp_path):
    folder, *_ = write_nct(tmp_path / "set")
    result = probe(settings(folder, tmp_path / "out"))
    figure = probe_figure(result.reference, result.modern, result.few_shot, title="x")
    portions, bars, shots = figure.axes
    assert result.reference is not None
    assert result.few_shot is not None
    np.testing.assert_allclose(np.asarray(portions.lines[0].get_ydata()), result.reference["auc"])
    np.testing.assert_allclose(np.asarray(shots.lines[0].get_ydata()), result.few_shot["accuracy_score"])
    assert len([text for text in bars.texts if "–" in text.get_text()]) == 9


@pytest.mark.slow
def test_images_of_classes_are_extracted_and_probed(shared, tmp_path, capsys):
    """Real tiles of eight or nine classes: ``texture`` tells far more than chance."""
    out = tmp_path / "out"
    code = main(
        [
            "probe",
            "--tiles",
            str(shared / "data" / "tiles" / "nct_crc_A"),
            "--out",
            str(out),
            "--protocol",
            "modern",
            "--mpp",
            "0.72",
            "--knn",
            "5",
            "--shots",
            "1",
            "--shots",
            "5",
            "--n-episodes",
            "50",
            "--quiet",
            "--tiles-layout",
            "imagefolder",
            "--n-boot",
            "100",
        ]
    )
    text = capsys.readouterr()
    assert code == 0, text.err
    assert "logistic" in text.out
    table = pd.read_csv(next((out / "probe").glob("*_modern.csv")), keep_default_na=False)
    row = table[(table["method"] == "logistic") & (table["metric"] == "roc_auc_score") & (table["class"] == "")]
    assert float(row["low"].iloc[0]) > 0.7
