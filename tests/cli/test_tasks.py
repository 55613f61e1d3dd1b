"""`microtome tasks`, and `microtome inspect --layout histossl`."""

import csv

import pytest
import yaml

from microtome.cli.app import main
from microtome.cohort import read_cohort
from microtome.tasks.catalogue import list_tasks
from tests.tasks.histossl_data import slide_names, write_clinical, write_features


@pytest.fixture
def data(tmp_path):
    write_clinical(tmp_path / "data")
    write_features(tmp_path / "data", "TCGA_PAAD", slide_names("PAAD"))
    return tmp_path / "data"


def test_the_list_names_every_task(capsys):
    assert main(["tasks"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in list_tasks())


def test_one_task_says_how_its_table_is_read(capsys):
    assert main(["tasks", "--name", "tcga_crc_msi"]) == 0
    said = capsys.readouterr().out
    for fact in ("TCGA_COAD, TCGA_READ", "'msi-h' is MSI-H", "'indeterminate' is left out", "91.0 ± 2.2", "bce"):
        assert fact in said


def test_a_task_becomes_a_table_of_slides(capsys, data, tmp_path):
    out = tmp_path / "paad.csv"
    assert main(["tasks", "--name", "tcga_paad_os", "--data", str(data), "--out", str(out)]) == 0
    assert "5 slides of 4 patients; 2 without: survival time is missing" in capsys.readouterr().out
    cohort = read_cohort(out)
    assert len(cohort) == 7
    assert cohort.label_columns == ("OS.time", "OS", "cohort", "site")


def test_what_is_not_there_is_named(capsys, data):
    assert main(["tasks", "--data", str(data)]) == 1
    said = capsys.readouterr().out
    assert "ok      tcga_paad_os_prediction" in said
    assert "FAILED  tcga_coad_os_prediction" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--name", "tcga_crc_mis"], "tcga_crc_msi_prediction"),
        (["--out", "x.csv"], "pass name and data"),
        (["--encoder", "x"], "Pass data"),
        (["--name", "tcga_crc_msi", "--data", "nowhere"], "neither raw/ nor preprocessed/"),
    ],
)
def test_requests_that_cannot_be_honoured(capsys, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert main(["tasks", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_printed_settings(capsys):
    assert main(["tasks", "--name", "tcga_crc_msi", "--print-config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["name"] == "tcga_crc_msi"


def test_inspect_a_download(capsys, data, tmp_path):
    assert main(["inspect", "--layout", "histossl", str(data), "--csv", str(tmp_path / "found.csv")]) == 0
    said = capsys.readouterr().out
    assert "ok      TCGA_PAAD, features of iBOTViTBasePANCAN: 7 files, 35 tiles" in said
    assert "0 failure(s)" in said
    features = sorted((data / "preprocessed").rglob("features.npy"))[0]
    features.write_bytes(b"")
    assert main(["inspect", "--layout", "histossl", str(data), "--csv", str(tmp_path / "found.csv")]) == 1
    assert str(features) in capsys.readouterr().out
    with (tmp_path / "found.csv").open() as file:
        assert [row["part"] for row in csv.DictReader(file) if row["verdict"] == "failed"] == ["TCGA_PAAD"]


@pytest.mark.parametrize(
    ("arguments", "said"), [([], "0 folders"), (["a", "b"], "2 folders"), (["a", "--mpp", "0.5"], "the settings mpp")]
)
def test_inspect_a_download_takes_one_folder(capsys, arguments, said):
    assert main(["inspect", "--layout", "histossl", *arguments]) == 2
    assert said in capsys.readouterr().err
