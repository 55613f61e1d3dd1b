import os

import pytest
import yaml

from microtome.cli import main


def run_cli(capsys, *arguments):
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_printed_settings_can_be_passed_back(capsys, tmp_path):
    code, first, _ = run_cli(
        capsys, "run", "a.svs", "--n-clusters", "4", "--tissue-parameters.sigma", "2", "--print-config"
    )
    assert code == 0
    file = tmp_path / "run.yaml"
    file.write_text(first)
    _, second, _ = run_cli(capsys, "run", "--config", str(file), "--print-config")
    assert yaml.safe_load(second) == yaml.safe_load(first)


def test_flags_win_over_the_file(capsys, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("n-clusters: 4\nseed: 7\nslides: [from_file.svs]\n")
    _, out, _ = run_cli(capsys, "run", "flag.svs", "--config", str(file), "--n-clusters", "5", "--print-config")
    values = yaml.safe_load(out)
    assert (values["n_clusters"], values["seed"], values["slides"]) == (5, 7, ["flag.svs"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--n-clusters", "1"], "n_clusters"),
        (["run", "--window", "5,1"], "window"),
        (["run", "--no-such-flag"], "--no-such-flag"),
        (["frobnicate"], "frobnicate"),
        (["run", "--seed", "x"], "seed"),
        (["run"], "no slide"),
        (["run", "x.svs", "--encoder", "textur"], "texture"),
        (["run", "x.svs", "--tissue-method", "magic"], "masked-otsu"),
        (["encoders", "--name", "textur"], "texture"),
    ],
)
def test_what_cannot_be_honoured_is_said_in_one_line_and_exits_with_2(capsys, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    code, _, err = run_cli(capsys, *arguments)
    assert code == 2
    assert said in err
    assert "Traceback" not in err
    assert "pydantic" not in err


def test_a_slide_that_is_not_there_fails_by_name(capsys, tmp_path):
    code, out, _ = run_cli(capsys, "tissue", str(tmp_path / "lost.svs"), "--out", str(tmp_path / "out"), "--quiet")
    assert code == 1
    assert "lost.svs" in out


@pytest.mark.parametrize("content", ["- a\n- b\n", "{", "3", "windw: 1"])
def test_a_bad_file_is_refused(capsys, tmp_path, content):
    file = tmp_path / "run.yaml"
    file.write_text(content)
    code, _, err = run_cli(capsys, "run", "--config", str(file))
    assert code == 2
    assert "windw" in err if "windw" in content else "run.yaml" in err


def test_encoders_are_listed_with_their_licence(capsys):
    code, out, _ = run_cli(capsys, "encoders")
    assert code == 0
    assert "texture" in out
    assert "Apache-2.0" in out


def test_waiting_threads_of_torch_sleep_unless_told_otherwise(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "")  # so that it is put back
    monkeypatch.delenv("OMP_WAIT_POLICY")
    main(["encoders"])
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    main(["encoders"])
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
