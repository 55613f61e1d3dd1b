import json

import pytest
import yaml

from microtome.cli import main
from microtome.config import PredictConfig
from microtome.tasks.mil.model_folder import save_model
from tests.tasks.mil.planted import trained_model, write_planted


@pytest.fixture
def cli(capsys):
    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(autouse=True)
def _one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("m") / "model", trained_model())


def test_predict_writes_the_table_and_says_where(cli, model, tmp_path):
    store = write_planted(tmp_path / "features", {"slide-a": True, "slide-b": False})
    code, out, _ = cli("predict", model, store.folder, "--out", tmp_path / "out", "--maps", "none", "--quiet")
    assert code == 0
    assert "predicted 2, 1 of patients in training" in out
    assert (tmp_path / "out" / "predictions.parquet").is_file()
    assert not (tmp_path / "out" / "maps").exists()


def test_heatmap_writes_maps_and_no_table(cli, model, tmp_path):
    store = write_planted(tmp_path / "features", {"slide-b": False})
    out_folder = tmp_path / "out"
    code, out, _ = cli("heatmap", model, store.folder, "--out", out_folder, "--maps", "attention", "--quiet")
    assert code == 0
    assert "1 of them without a thumbnail" in out
    assert sorted(path.name for path in (out_folder / "maps").iterdir()) == [
        "slide-b.geojson",
        "slide-b.parquet",
        "slide-b_attention.png",
    ]
    assert not (out_folder / "predictions.parquet").exists()
    code, _, err = cli("heatmap", model, store.folder, "--maps", "none", "--out", out_folder)
    assert (code, "draws maps" in err) == (2, True)


def test_a_failed_slide_is_in_the_exit_code_and_named(cli, model, tmp_path):
    store = write_planted(tmp_path / "features", {"slide-a": True, "slide-b": False})
    store.path("slide-b").write_bytes(b"no features")
    code, out, _ = cli("predict", model, store.folder, "--out", tmp_path / "out", "--maps", "none", "--quiet")
    assert code == 1
    assert "slide-b:" in out
    assert json.loads((tmp_path / "out" / "predict.json").read_text())["n_predicted"] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--maps", "attention,saliency"), "maps are attention, attribution"),
        (("--maps", "none,attention"), "maps are"),
        (("--tolerance", "0"), "tolerance"),
        (("--memory", "much"), "memory"),
        (("--no-such-flag",), "--no-such-flag"),
    ],
)
def test_settings_that_cannot_be_are_refused(cli, model, tmp_path, arguments, said):
    code, _, err = cli("predict", model, tmp_path, *arguments)
    assert code == 2
    assert said in err


def test_a_folder_that_is_not_there_is_refused(cli, model, tmp_path):
    code, _, err = cli("predict", model, tmp_path / "nowhere")
    assert code == 2
    assert "There is no '" in err


def test_of_many_failures_ten_are_told(cli, model, tmp_path):
    store = write_planted(tmp_path / "features", {f"slide-{i:02d}": True for i in range(14)})
    for i in range(13):
        store.path(f"slide-{i:02d}").write_bytes(b"no features")
    _, out, _ = cli("predict", model, store.folder, "--out", tmp_path / "out", "--maps", "none", "--quiet")
    assert "failed 13" in out
    assert "slide-09:" in out
    assert "slide-10:" not in out
    assert "and 3 more" in out


def test_a_folder_that_is_no_model_is_refused(cli, tmp_path):
    code, _, err = cli("predict", tmp_path, tmp_path)
    assert code == 2
    assert "no finished model" in err


def test_printed_settings_can_be_passed_back(cli, tmp_path):
    _, first, _ = cli("predict", "m", "f", "--maps", "none", "--mpp", "0.25", "--print-config")
    file = tmp_path / "predict.yaml"
    file.write_text(first)
    _, second, _ = cli("predict", "--config", file, "--print-config")
    values = yaml.safe_load(second)
    assert values == yaml.safe_load(first)
    assert (values["model"], values["slides"], values["maps"]) == ("m", ["f"], [])
    assert PredictConfig(**values).maps == ()
