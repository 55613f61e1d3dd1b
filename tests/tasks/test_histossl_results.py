import pickle

import numpy as np
import pandas as pd
import pytest

from microtome.config import ResultsConfig
from microtome.tasks.histossl_results import find_reference_results
from microtome.tasks.results import collect_results
from tests.tasks.evaluation_runs import GOOD, write_cv_run, write_labels

PARAMS = {
    "features": "iBOTViTBasePANCAN",
    "batch_size": 16,
    "task": {"label": "MSI", "cohort": "TCGA_CRC", "n_splits": 5},
    "model": {"_target_": "ABMIL", "batch_size": 1},
}
METRICS = {"auc": {"repeat_1_split_1": [0.4, 0.8], "repeat_1_split_2": [0.5, 0.9], "repeat_1_split_3": [float("nan")]}}


class Evil:
    def __reduce__(self):
        return (print, ("ran",))


def write_run(folder, *, status=None, params=PARAMS, metrics=METRICS):
    folder.mkdir(parents=True)
    said = {"completed": True} if status is None else status
    for name, value in {"status": said, "params": params, "test_metrics": metrics}.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(value))
    return folder


@pytest.mark.parametrize(
    "status", [{"completed"}, "completed", ["completed"], {"status": "completed"}, {"completed": True}]
)
def test_a_finished_run_is_a_row_of_its_last_epoch(tmp_path, status):
    write_run(tmp_path / "cross_validation" / "abc=", status=status)
    (row,), problems = find_reference_results(tmp_path)
    assert problems == []
    assert (row["mean_auc"], row["std_auc"]) == (pytest.approx(0.85), pytest.approx(0.05))  # population s.d.
    assert row["n_folds"] == 2
    assert (row["task"], row["kind"]) == ("MSI (TCGA_CRC)", "histossl")
    assert (row["features"], row["batch_size"]) == (PARAMS["features"], 16)
    assert row["log_path"] == "cross_validation/abc="


def test_survival_is_told_by_its_metric(tmp_path):
    write_run(tmp_path / "a", metrics={"cindex": {"repeat_1_split_1": np.array([0.5, 0.6])}})
    (row,), _ = find_reference_results(tmp_path)
    assert (row["metric"], row["mean"], row["type"]) == ("cindex_score", 0.6, "survival")


@pytest.mark.parametrize("status", [{}, {"completed": False}, "running", set(), None, 3])
def test_an_unfinished_run_is_named(tmp_path, status):
    write_run(tmp_path / "a", status={} if status is None else status)
    rows, (problem,) = find_reference_results(tmp_path)
    assert rows == []
    assert problem.path == "a"
    assert "unfinished" in problem.reason


@pytest.mark.parametrize("what", ["test_metrics", "status", "params"])
@pytest.mark.parametrize("content", [b"", b"\x80\x04", pickle.dumps(Evil()), pickle.dumps(["no", "mapping"])])
def test_pickles_that_are_damaged_or_run_something_are_refused_by_name(tmp_path, capsys, what, content):
    run = write_run(tmp_path / "a")
    (run / f"{what}.pkl").write_bytes(content)
    rows, problems = find_reference_results(tmp_path)
    assert "ran" not in capsys.readouterr().out
    if what == "params" and content == pickle.dumps(["no", "mapping"]):
        assert len(rows) == 1  # settings that hold nothing by name; the numbers stand
    else:
        assert rows == []
        assert [problem.path for problem in problems] == ["a"]


def test_metrics_of_other_shapes_are_refused(tmp_path):
    write_run(tmp_path / "none", metrics={"loss": {}})
    write_run(tmp_path / "text", metrics={"auc": {"repeat_1_split_1": ["high"]}})
    write_run(tmp_path / "flat", metrics={"auc": [0.5, 0.6]})
    rows, problems = find_reference_results(tmp_path)
    assert rows == []
    assert {problem.path for problem in problems} == {"none", "text", "flat"}


def test_its_own_table_is_read_unless_the_run_is_there_too(tmp_path):
    lines = [
        "model,features,n_tiles,cohort,label,stratified,mean_auc,std_auc,log_path",
        "ABMIL,X,1000,TCGA_CRC,MSI,True,0.91,0.022,/logs/cross_validation/abc=",
        "MeanPool,X,None,TCGA_CRC,MSI,True,0.8,0.1,/logs/d",
    ]
    (tmp_path / "nested_cross_validation_results.csv").write_text("\n".join(lines))
    write_run(tmp_path / "cross_validation" / "abc=")
    rows, _ = find_reference_results(tmp_path)
    assert sorted((row["model"], row["mean_auc"]) for row in rows) == [("", pytest.approx(0.85)), ("MeanPool", 0.8)]
    (tmp_path / "nested_cross_validation_results.csv").write_text("a,b\n1,2\n")
    _, (problem,) = find_reference_results(tmp_path)
    assert "'features'" in problem.reason


def test_its_runs_stand_in_one_table_with_ours(tmp_path):
    logs = tmp_path / "logs"
    write_run(logs / "theirs", params={**PARAMS, "n_tiles": "all"})
    write_cv_run(logs / "ours", write_labels(tmp_path), GOOD)
    found = collect_results(ResultsConfig(logs=logs, n_boot=10))
    assert list(found.table["kind"]) == ["histossl", "cv"]
    again = pd.read_parquet(logs / "results" / "results.parquet")
    np.testing.assert_allclose(again["mean_auc"].astype(float), found.table["mean_auc"].astype(float))
    assert "0.850 ± 0.050" in (logs / "results" / "results.md").read_text()
    assert sum(path.name.startswith("forest_") for path in found.files) == 2
