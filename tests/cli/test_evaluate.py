import pytest
import yaml

from microtome.cli import main
from tests.tasks.evaluation_runs import GOOD, POOR, binary_predictions, write_cv_run, write_labels


def run_cli(capsys, *arguments):
    code = main(list(map(str, arguments)))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_evaluate_prints_metrics_counts_and_the_page(capsys, tmp_path):
    labels = write_labels(tmp_path)
    path = binary_predictions(GOOD, in_training=[0]).write(tmp_path / "predictions.parquet")
    other = binary_predictions(POOR).write(tmp_path / "other.parquet")
    flags = ("--cohort", labels, "--n-boot", 20, "--out", tmp_path / "out", "--no-figures")
    code, out, _ = run_cli(capsys, "evaluate", path, *flags, "--metrics", "auroc,accuracy_score", "--compare", other)
    assert code == 0
    assert "roc_auc_score" in out
    assert "accuracy_score" in out
    assert "brier" not in out
    assert "7 slides of 7 patients" in out
    assert "excluded 1: the patient was in training" in out
    assert "other − predictions = " in out
    assert str(tmp_path / "out" / "evaluation.html") in out.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate", "lost.parquet"], "labels.csv"),
        (["evaluate", "--metrics", "auroc", "--n-boot", "-1"], "n_boot"),
        (["evaluate", "--pool", "median"], "pool"),
        (["results", "lost"], "no folder"),
        (["results", "--n-boot", "0"], "n_boot"),
    ],
)
def test_what_cannot_be_honoured_is_said_in_one_line(capsys, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    code, _, err = run_cli(capsys, *arguments)
    assert code == 2
    assert said in err
    assert "Traceback" not in err


def test_a_metric_of_another_type_is_refused(capsys, tmp_path):
    labels = write_labels(tmp_path)
    path = binary_predictions(GOOD).write(tmp_path / "predictions.parquet")
    code, _, err = run_cli(capsys, "evaluate", path, "--cohort", labels, "--metrics", "cindex", "--out", tmp_path / "o")
    assert code == 2
    assert "cindex" in err
    assert not (tmp_path / "o").exists()


def test_settings_can_be_printed_and_passed_back(capsys, tmp_path):
    code, first, _ = run_cli(capsys, "evaluate", "p.parquet", "--metrics", "auroc,log_loss", "--print-config")
    assert code == 0
    file = tmp_path / "evaluate.yaml"
    file.write_text(first)
    _, second, _ = run_cli(capsys, "evaluate", "--config", file, "--print-config")
    assert yaml.safe_load(second) == yaml.safe_load(first)
    assert yaml.safe_load(first)["metrics"] == ["auroc", "log_loss"]
    _, flags, _ = run_cli(capsys, "results", "logs", "--reference", "abmil", "--print-config")
    assert yaml.safe_load(flags)["reference"] == "abmil"


def test_results_prints_the_table_and_exits_with_1_where_a_run_is_missing(capsys, tmp_path):
    labels = write_labels(tmp_path)
    write_cv_run(tmp_path / "logs" / "a", labels, GOOD)
    code, out, _ = run_cli(capsys, "results", tmp_path / "logs", "--no-figures", "--n-boot", 20)
    assert code == 0
    assert "abmil" in out
    assert "0.938" in out
    write_cv_run(tmp_path / "logs" / "b", labels, GOOD, status="running")
    code, out, _ = run_cli(capsys, "results", tmp_path / "logs", "--no-figures", "--n-boot", 20)
    assert code == 1
    assert "not in the table: b: unfinished" in out
