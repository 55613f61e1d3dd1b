import numpy as np
import pandas as pd

from microtome.cohort.targets import Target
from microtome.viz.evaluation_figures import CAPTIONS, describe_rows, draw_evaluation, figures_of
from tests.viz.drawn import axes_of, legend_texts
from tests.viz.evaluations import binary_evaluation, metric_table, rows_table


def test_a_binary_evaluation_draws_what_its_tables_hold(tmp_path):
    evaluation = binary_evaluation()
    figures = dict(figures_of(evaluation))
    assert list(figures) == ["roc", "precision_recall", "calibration", "confusion"]
    assert legend_texts(axes_of(figures["roc"])[0]) == [
        "MSI-H  AUROC 0.938 (0.810–1.000)",
        "blind guess",
        "95 % band (bootstrap over patients)",
        "folds (2)",
    ]
    (curve,) = [line for line in axes_of(figures["roc"])[0].get_lines() if str(line.get_label()).startswith("MSI-H")]
    np.testing.assert_array_equal(curve.get_ydata(), [0, 0.75, 1, 1])
    assert "MSI-H  AP 0.950 (0.800–1.000)" in legend_texts(axes_of(figures["precision_recall"])[0])
    assert "prevalence 0.50" in legend_texts(axes_of(figures["precision_recall"])[0])
    assert sum(patch.get_height() for patch in axes_of(figures["calibration"])[1].patches) == 8
    assert [text.get_text() for text in axes_of(figures["confusion"])[0].texts][:2] == ["3\n75 %", "1\n25 %"]
    paths = draw_evaluation(evaluation, tmp_path)
    assert [path.name for path in paths] == [f"{name}.png" for name in figures]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert set(figures) <= set(CAPTIONS)


def test_units_and_patients_are_counted():
    assert describe_rows(binary_evaluation()) == "8 slides of 7 patients"
    rows = binary_evaluation().rows
    twice = pd.concat([rows, rows.assign(repeat=1)], ignore_index=True)
    assert describe_rows(binary_evaluation(rows=twice)) == "8 slides of 7 patients, 2 repeats"
    assert describe_rows(binary_evaluation(settings={"unit": "patient"})) == "7 patients"


def test_what_is_undefined_is_not_drawn():
    empty = {"roc": pd.DataFrame(columns=["class", "repeat", "fold", "fpr", "tpr"])}
    assert list(figures_of(binary_evaluation(curves=empty))) == []


def test_classes_may_be_numbers_too():
    evaluation = binary_evaluation()
    numbers = evaluation.rows.assign(label=[0, 0, 0, 0, 1, 1, 1, 0])
    figures = dict(figures_of(binary_evaluation(rows=numbers)))
    assert "prevalence 0.38" in legend_texts(axes_of(figures["precision_recall"])[0])


def test_thresholds_of_grades_are_named_and_counted_from_below():
    target = Target("grade", "ordinal", ("grade",), ("I", "II", "III"))
    roc = pd.DataFrame(
        {
            "class": ["II", "II", "III", "III"],
            "repeat": -1,
            "fold": -1,
            "fpr": [0.0, 1, 0, 1],
            "tpr": [0.0, 1, 0.5, 1],
        }
    )
    pr = roc.rename(columns={"fpr": "recall", "tpr": "precision"})
    rows = rows_table(
        label=["I", "II", "II", "III"], grade=[0, 1, 1, 2], p_ge_II=[0.1, 0.6, 0.7, 0.9], p_ge_III=[0.0, 0.2, 0.1, 0.8]
    )
    evaluation = binary_evaluation(
        target=target,
        rows=rows,
        curves={"roc": roc, "pr": pr},
        table=metric_table(**{"roc_auc_score__>=III": (0.9, 0.8, 1.0), "spearman_score": (0.7, 0.5, 0.9)}),
    )
    figures = dict(figures_of(evaluation))
    assert list(figures) == ["roc", "precision_recall", "scores"]
    assert legend_texts(axes_of(figures["roc"])[0])[:2] == ["grade ≥ II", "grade ≥ III  AUROC 0.900 (0.800–1.000)"]
    levels = sorted(
        line.get_ydata()[0]
        for line in axes_of(figures["precision_recall"])[0].get_lines()
        if line.get_label() == "_prevalence"
    )
    assert levels == [0.25, 0.75]
    points = np.concatenate([c.get_offsets()[:, 0] for axis in axes_of(figures["scores"]) for c in axis.collections])
    np.testing.assert_allclose(np.sort(points), [0.1, 0.8, 0.8, 1.7])  # bands alone: the expected grade is drawn
    fine = rows.assign(grade=[0.2, 1.1, 0.9, 1.9])
    scores = dict(figures_of(binary_evaluation(target=target, rows=fine, curves={})))["scores"]
    points = np.concatenate([c.get_offsets()[:, 0] for axis in axes_of(scores) for c in axis.collections])
    np.testing.assert_allclose(np.sort(points), [0.2, 0.9, 1.1, 1.9])
    assert {
        line.get_xdata()[0] for axis in axes_of(scores) for line in axis.get_lines() if line.get_label() == "_cut"
    } == {
        0.5,
        1.5,
    }


def test_a_label_that_is_missing_does_not_count_in_the_prevalence():
    target = Target("mutations", "multilabel", ("tp53", "kras"), ("tp53", "kras"))
    pr = pd.DataFrame({"class": "kras", "repeat": -1, "fold": -1, "recall": [0.0, 1], "precision": [1.0, 0.5]})
    rows = rows_table(
        label_tp53=[1.0, 0, 1, 0], label_kras=[1.0, np.nan, np.nan, 0], p_tp53=[0.5] * 4, p_kras=[0.5] * 4
    )
    figures = dict(figures_of(binary_evaluation(target=target, rows=rows, curves={"pr": pr})))
    assert "prevalence 0.50" in legend_texts(axes_of(figures["precision_recall"])[0])


def test_regression_is_drawn_from_one_repeat():
    target = Target("age", "regression", ("age",))
    rows = rows_table(label=[1.0, 2.0, 3.0], value=[1.5, 2.0, 2.5])
    both = pd.concat([rows, rows.assign(repeat=1, value=9.0)], ignore_index=True)
    table = metric_table(r2_score=(0.6, 0.4, 0.8), mean_absolute_error=(0.3, 0.2, 0.5))
    (figure,) = dict(figures_of(binary_evaluation(target=target, rows=both, table=table, curves={}))).values()
    np.testing.assert_array_equal(axes_of(figure)[0].collections[0].get_offsets(), [[1, 1.5], [2, 2], [3, 2.5]])
    assert "R² 0.600 (0.400–0.800)\nMAE 0.300 (0.200–0.500)" in [text.get_text() for text in axes_of(figure)[0].texts]


def test_survival_takes_groups_from_the_curves_and_members_from_the_rows():
    target = Target("os", "survival", ("time", "event"))
    curves = pd.DataFrame(
        {
            "group": ["low risk", "low risk", "high risk", "high risk"],
            "time": [0.0, 20, 0, 5],
            "survival": [1.0, 0.5, 1, 0],
            "low": [1.0, 0.2, 1, 0],
            "high": [1.0, 0.8, 1, 0],
        }
    )
    rows = rows_table(
        time=[20.0, 30, 5, 4],
        event=[1, 0, 1, 0],
        risk=[0.1, 0.2, 0.8, 0.9],
        risk_group=["low risk"] * 2 + ["high risk"] * 2,
    )
    evaluation = binary_evaluation(
        target=target,
        rows=rows,
        curves={"kaplan_meier": curves, "subjects": rows},
        table=metric_table(cindex_score=(0.7, 0.6, 0.8)),
        settings={"logrank_p": 0.2},
    )
    (figure,) = dict(figures_of(evaluation)).values()
    assert legend_texts(axes_of(figure)[0]) == ["low risk  n = 2, events 1", "high risk  n = 2, events 1"]
    assert axes_of(figure)[0].get_legend().get_title().get_text() == "log-rank p = 0.200"
    assert any("C-index 0.700 (0.600–0.800)" in text.get_text() for text in axes_of(figure)[0].texts)
