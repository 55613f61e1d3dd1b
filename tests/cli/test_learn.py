import pytest
import yaml

from microtome.cli import main
from microtome.testing.mil_cohort import MilCohortOptions, write_mil_cohort
from tests.tasks.mil.ridge_training import RidgeTraining


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return write_mil_cohort(tmp_path_factory.mktemp("planted"), MilCohortOptions(n_patients=24, n_features=8))


@pytest.fixture
def ridge(monkeypatch):
    training = RidgeTraining()
    monkeypatch.setattr("microtome.tasks.mil.train_jobs.train_jobs", training)
    return training


def run_cli(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def cv_flags(made, out):
    return (
        "cv", "--features", made.features, "--cohort", made.table, "--target", "mutation", "--model", "meanpool",
        "--out", out, "--outer", 3, "--inner", 2, "--epochs", 2, "--n-boot", 20, "--no-figures",
    )  # fmt: skip


def test_cv_prints_a_line_per_fold_the_average_and_the_interval(capsys, planted, ridge, tmp_path):
    code, out, err = run_cli(capsys, *cv_flags(planted, tmp_path), "--grid", "learning_rate=1e-3,1e-4")
    assert code == 0, err
    assert [f"fold {i}:" in out for i in range(4)] == [True, True, True, False]
    assert "± " in out
    assert "95 % interval" in out
    assert {job.hyper.learning_rate for job in ridge.jobs} == {1e-3, 1e-4}
    assert "inner" in err


def test_quiet_says_only_results(capsys, planted, ridge, tmp_path):
    _, out, err = run_cli(capsys, *cv_flags(planted, tmp_path), "--quiet")
    assert "fold 1:" in out
    assert not err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["cv", "--inner", "1"], "inner"),
        (["cv", "--grid", "learning_rate"], "NAME=VALUE"),
        (["cv", "--grid", "learning_rate=1e-3,0.001"], "twice"),
        (["cv", "--grid", "learning_rate=1", "--learning-rate", "1"], "learning_rate"),
        (["cv", "--model-options", "dim=1,2"], "dim"),
        (["cv", "--leave-one-site-out"], "group"),
        (["cv", "--holdout", "split"], "COLUMN=VALUE"),
        (["cv", "--splits", "a.json", "--holdout", "split=test"], "decide the test sets"),
        (["cv", "--compat", "clam"], "compat"),
        (["cv"], "target"),
        (["cv", "--target", "x", "--cohort", "nowhere.csv"], "nowhere.csv"),
        (["fit", "--calibrate", "--inner", "0"], "inner"),
        (["benchmark"], "nothing to do"),
    ],
)
def test_what_cannot_be_honoured_is_said_and_exits_with_2(capsys, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    code, _, err = run_cli(capsys, *arguments)
    assert code == 2
    assert said in err
    assert "Traceback" not in err
    assert "pydantic" not in err


@pytest.mark.parametrize("verb", ["cv", "fit", "benchmark"])
def test_printed_settings_can_be_passed_back(capsys, tmp_path, verb):
    flags = ("--grid", "batch_size=4,8", "--grid", "weight_decay=0", "--model-options", "hidden=64x32", "--epochs", 3)
    code, first, _ = run_cli(capsys, verb, *flags, "--print-config")
    assert code == 0
    file = tmp_path / "run.yaml"
    file.write_text(first)
    _, second, _ = run_cli(capsys, verb, "--config", file, "--print-config")
    assert yaml.safe_load(second) == yaml.safe_load(first)


def test_a_mapping_in_yaml_says_the_same_as_flags(capsys, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("grid: {learning_rate: [0.001, 0.0001]}\nmodel_options: {hidden: [64, 32], activation: tanh}\n")
    _, out, _ = run_cli(capsys, "cv", "--config", file, "--print-config")
    values = yaml.safe_load(out)
    assert values["grid"] == ["learning_rate=0.001,0.0001"]
    assert values["model_options"] == ["hidden=64x32", "activation=tanh"]


def test_benchmark_tells_of_a_cell_that_failed_and_exits_with_1(capsys, planted, ridge, tmp_path):
    settings = {
        "tasks": [{"name": "mutated", "cohort": str(planted.table), "target": "mutation"}],
        "encoders": {"planted": str(planted.features), "lost": str(tmp_path / "nowhere")},
        "models": ["meanpool"],
        "outer": 2, "inner": 2, "epochs": 2, "n-boot": 20, "no-figures": True,
    }  # fmt: skip
    file = tmp_path / "benchmark.yaml"
    file.write_text(yaml.safe_dump(settings))
    code, out, _ = run_cli(capsys, "benchmark", "--config", file, "--out", tmp_path / "out", "--quiet")
    assert code == 1
    assert "mutated, planted, meanpool" in out
    assert "failed: mutated, lost, meanpool" in out
