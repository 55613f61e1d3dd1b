import json

import numpy as np
import pandas as pd
import pytest

from microtome.config import EvaluateConfig, ResultsConfig
from microtome.errors import ConfigError
from microtome.tasks.evaluate import evaluate_files
from microtome.tasks.result_runs import REFERENCE_COLUMNS
from microtome.tasks.results import COLUMNS, collect_results
from tests.tasks.evaluation_runs import GOOD, LABELS, POOR, binary_predictions, write_cv_run, write_labels


@pytest.fixture
def labels(tmp_path):
    return write_labels(tmp_path)


def collect(tmp_path, **settings):
    return collect_results(ResultsConfig(**{"logs": tmp_path / "logs", "n_boot": 60, "no_figures": True, **settings}))


def auroc(scores, rows):
    """The share of pairs that are the right way round, counted one by one."""
    pairs = [
        (scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j])
        for i in rows
        for j in rows
        if LABELS[i] == "MSI-H" and LABELS[j] == "MSS"
    ]
    return sum(pairs) / len(pairs)


def test_a_row_holds_what_can_be_counted_by_hand(tmp_path, labels):
    write_cv_run(tmp_path / "logs" / "a", labels, GOOD)
    table = collect(tmp_path).table
    (row,) = table.to_dict("records")
    folds = [auroc(GOOD, [0, 2, 4, 6]), auroc(GOOD, [1, 3, 5, 7])]
    assert row["estimate"] == auroc(GOOD, range(8)) == 15 / 16
    assert row["mean"] == row["mean_auc"] == pytest.approx(np.mean(folds))
    assert row["sd"] == row["std_auc"] == pytest.approx(np.std(folds))
    accuracies = [
        np.mean([(GOOD[i] > 0.5) == (LABELS[i] == "MSI-H") for i in fold]) for fold in ([0, 2, 4, 6], [1, 3, 5, 7])
    ]
    assert row["mean_accuracy"] == pytest.approx(np.mean(accuracies))
    assert np.isnan(row["mean_cindex"])
    assert (row["n"], row["n_patients"], row["n_excluded"], row["n_folds"]) == (8, 8, 1, 2)
    assert (row["model"], row["features"], row["label"], row["cohort"]) == ("abmil", "phikon", "msi", "labels")
    assert (row["n_splits"], row["n_repeats"], row["split_mode"], row["stratified"]) == ("3 x 2", 1, "patient", True)
    assert json.loads(row["gs_params"]) == {"learning_rate": [1e-3, 1e-4], "weight_decay": [0.0, 1e-4]}
    assert row["log_path"] == "a"
    assert tuple(table.columns) == COLUMNS
    assert set(REFERENCE_COLUMNS) <= set(COLUMNS)


def test_the_files_hold_the_same_table(tmp_path, labels):
    write_cv_run(tmp_path / "logs" / "a", labels, GOOD)
    write_cv_run(tmp_path / "logs" / "b", labels, POOR, model="meanpool")
    found = collect(tmp_path, no_figures=False)
    names = [path.name for path in found.files]
    assert names == ["results.csv", "results.parquet", "results.md", "forest_msi__labels.png"]
    from_csv, from_parquet = pd.read_csv(found.files[0]), pd.read_parquet(found.files[1])
    for table in (from_csv, from_parquet):
        np.testing.assert_allclose(table["estimate"].astype(float), [15 / 16, 6 / 16])
        assert list(table["model"]) == ["abmil", "meanpool"]
    markdown = found.files[2].read_text()
    assert "| abmil | phikon | 0.938 (" in markdown
    assert "0.938" in markdown


def test_runs_that_differ_in_nothing_but_their_folder_can_be_told_apart(tmp_path, labels):
    write_cv_run(tmp_path / "logs" / "a", labels, GOOD)
    write_cv_run(tmp_path / "logs" / "b", labels, POOR)
    markdown = collect(tmp_path).files[2].read_text()
    assert "| abmil (a) | phikon |" in markdown
    assert "| abmil (b) | phikon |" in markdown
    assert "against abmil · phikon (a)" in markdown


def test_runs_of_a_task_are_compared_with_the_reference_and_corrected(tmp_path, labels):
    for name, scores in (("a", GOOD), ("b", POOR), ("c", GOOD[::-1])):
        write_cv_run(tmp_path / "logs" / name, labels, scores, model=f"model_{name}")
    table = collect(tmp_path, reference="model_b").table.set_index("log_path")
    assert set(table["reference"]) == {"b"}
    assert np.isnan(table.loc["b", "difference"])
    assert table.loc["a", "difference"] == pytest.approx(15 / 16 - 6 / 16)
    p_values = table.loc[["a", "c"], "p_value"].astype(float).to_numpy()
    low, high = np.sort(p_values)
    corrected = {low: min(1, 2 * low), high: min(1, max(2 * low, high))}  # Holm, of two
    np.testing.assert_allclose(table.loc[["a", "c"], "p_holm"].astype(float), [corrected[p] for p in p_values])
    np.testing.assert_allclose(table.loc[["a", "c"], "p_holm_all"].astype(float), [corrected[p] for p in p_values])
    assert table.loc["a", "n_compared"] == 8


def test_correction_over_the_table_counts_the_tests_of_every_task(tmp_path, labels):
    for task in ("one", "two"):
        write_cv_run(tmp_path / "logs" / task / "a", labels, GOOD, task=task)
        write_cv_run(tmp_path / "logs" / task / "b", labels, POOR, model="meanpool", task=task)
    table = collect(tmp_path).table
    tested = table[table["p_value"].notna()]
    assert list(tested["task"]) == ["one", "two"]
    np.testing.assert_allclose(tested["p_holm"].astype(float), tested["p_value"].astype(float))
    smallest = float(tested["p_value"].astype(float).min())
    assert float(tested["p_holm_all"].min()) == pytest.approx(min(1, 2 * smallest))


def test_a_reference_that_fits_several_or_none_is_said(tmp_path, labels):
    write_cv_run(tmp_path / "logs" / "a", labels, GOOD)
    write_cv_run(tmp_path / "logs" / "b", labels, POOR)
    with pytest.raises(ConfigError, match="fits 2 runs"):
        collect(tmp_path, reference="abmil/phikon")
    found = collect(tmp_path, reference="chowder")
    assert any("chowder" in note for note in found.notes)
    assert found.table["p_value"].isna().all()


def test_what_is_unfinished_or_damaged_is_named_and_the_rest_is_collected(tmp_path, labels):
    logs = tmp_path / "logs"
    write_cv_run(logs / "good", labels, GOOD)
    write_cv_run(logs / "running", labels, GOOD, status="running")
    damaged = {
        "no_record": lambda run: (run / "run.json").unlink(),
        "cut_record": lambda run: (run / "run.json").write_text('{"kind": "cv", '),
        "list_record": lambda run: (run / "run.json").write_text("[1]"),
        "no_metrics": lambda run: (run / "evaluation" / "metrics.csv").unlink(),
        "empty_metrics": lambda run: (run / "evaluation" / "metrics.csv").write_bytes(b""),
        "short_metrics": lambda run: (run / "evaluation" / "metrics.csv").write_text("metric,n\nroc_auc_score,3\n"),
        "no_target": lambda run: (run / "run.json").write_text('{"kind": "cv", "status": "done", "config": {}}'),
        "bad_config": lambda run: (run / "run.json").write_text(
            json.dumps({**json.loads((run / "run.json").read_text()), "config": {"outer": "many"}})
        ),
    }
    for name, damage in damaged.items():
        damage(write_cv_run(logs / name, labels, GOOD))
    found = collect(tmp_path)
    assert list(found.table["log_path"]) == ["good"]
    assert {problem.path.split("/")[0] for problem in found.problems} == {"running", *damaged}
    reasons = {problem.path: problem.reason for problem in found.problems}
    assert "unfinished" in reasons["running"]
    markdown = (logs / "results" / "results.md").read_text()
    assert all(f"`{name}" in markdown for name in damaged)


def test_failed_cells_of_a_benchmark_are_named(tmp_path, labels):
    logs = tmp_path / "logs"
    write_cv_run(logs / "msi" / "phikon" / "abmil", labels, GOOD, task="msi")
    failed = [{"task": "msi", "encoder": "uni", "model": "abmil", "reason": "no features"}]
    (logs / "run.json").write_text(json.dumps({"kind": "benchmark", "status": "done", "failed": failed}))
    found = collect(tmp_path)
    assert list(found.table["task"]) == ["msi"]
    (problem,) = found.problems
    assert "msi, uni, abmil" in problem.path
    assert "no features" in problem.reason


def test_runs_on_slides_and_the_results_themselves_are_passed_over(tmp_path, labels):
    logs = tmp_path / "logs"
    write_cv_run(logs / "a", labels, GOOD)
    (logs / "slides").mkdir()
    (logs / "slides" / "run.json").write_text('{"seed": 0}')
    (logs / "predicted").mkdir()
    binary_predictions(POOR).write(logs / "predicted" / "predictions.parquet")
    (logs / "predicted" / "predict.json").write_text("{}")  # nobody has judged it yet
    first = collect(tmp_path)
    again = collect(tmp_path)
    assert first.problems == again.problems == ()
    pd.testing.assert_frame_equal(first.table, again.table)


def test_an_evaluation_is_a_row_too(tmp_path, labels):
    path = binary_predictions(POOR).write(tmp_path / "predictions.parquet")
    evaluate_files(
        EvaluateConfig(predictions=path, cohort=labels, n_boot=10, no_figures=True, out=tmp_path / "logs" / "external")
    )
    write_cv_run(tmp_path / "logs" / "a", labels, GOOD)
    table = collect(tmp_path).table.set_index("log_path")
    assert table.loc["external", "kind"] == "evaluate"
    assert (table.loc["external", "model"], table.loc["external", "features"]) == ("abmil", "phikon")
    assert table.loc["external", "estimate"] == 6 / 16
    assert table.loc["external", "difference"] == pytest.approx(-9 / 16)


def test_predictions_that_are_gone_are_no_comparison_but_still_a_row(tmp_path, labels):
    write_cv_run(tmp_path / "logs" / "a", labels, GOOD)
    (write_cv_run(tmp_path / "logs" / "b", labels, POOR) / "predictions.parquet").unlink()
    found = collect(tmp_path)
    assert len(found.table) == 2
    assert found.table["p_value"].isna().all()
    assert any("not compared" in note for note in found.notes)


def test_published_values_stand_beside_the_users(tmp_path, labels):
    write_cv_run(tmp_path / "logs" / "a", labels, GOOD, task="tcga_crc_msi")
    found = collect(tmp_path, no_figures=False)
    (row,) = found.table.to_dict("records")
    assert (row["published_mean"], row["published_sd"]) == (0.91, 0.022)
    assert "0.910 ± 0.022" in (tmp_path / "logs" / "results" / "results.md").read_text()


def test_nothing_to_collect_is_an_error_that_names_what_is_there(tmp_path, labels):
    with pytest.raises(ConfigError, match="no folder"):
        collect(tmp_path)
    (tmp_path / "logs").mkdir()
    with pytest.raises(ConfigError, match="no finished run"):
        collect(tmp_path)
    write_cv_run(tmp_path / "logs" / "stopped", labels, GOOD, status="running")
    with pytest.raises(ConfigError, match="stopped"):
        collect(tmp_path)


def test_a_metric_that_was_not_computed_is_refused(tmp_path, labels):
    write_cv_run(tmp_path / "logs" / "a", labels, GOOD)
    assert collect(tmp_path, metric="accuracy_score").table["metric"].tolist() == ["accuracy_score"]
    with pytest.raises(ConfigError, match="roc_auc_score"):
        collect(tmp_path, metric="cindex_score")


def test_names_with_bars_and_slashes_do_not_break_the_tables(tmp_path, labels):
    write_cv_run(tmp_path / "logs" / "a", labels, GOOD, task="a|b/../c")
    found = collect(tmp_path, no_figures=False)
    assert all(path.parent == tmp_path / "logs" / "results" for path in found.files)
    assert "## a\\|b/../c" in found.files[2].read_text()
