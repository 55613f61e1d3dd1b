import base64
import re

import pandas as pd

from microtome.evaluation.compare import Comparison
from microtome.viz.evaluation_figures import draw_evaluation
from microtome.viz.evaluation_page import PageFacts, write_evaluation_page
from tests.viz.evaluations import binary_evaluation, metric_table


def page(tmp_path, evaluation=None, **options):
    path = write_evaluation_page(evaluation or binary_evaluation(), tmp_path / "evaluation.html", **options)
    return path.read_text(encoding="utf-8")


def plain(html):
    """Text without tags, spaces joined."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html[html.index("<body") :])).strip()


def test_the_page_counts_who_was_judged_and_who_was_not(tmp_path):
    text = plain(page(tmp_path, facts=PageFacts({"Cohort": "labels.csv"}, n_training_rows=1, n_training_patients=1)))
    assert "8 slides" in text
    assert "7 patients" in text
    assert "3 excluded" in text
    assert "1 patient of the training set left out of the numbers" in text
    assert "2 no label 1 the patient was in training" in text  # by reason, the commonest first
    for key in ("s8", "s9", "s10"):
        assert f"{key} " in text
    assert "Cohort labels.csv" in text
    assert "1 000 times, seed 0" in text.replace("\u202f", " ")


def test_the_page_shows_estimates_with_intervals_and_folds(tmp_path):
    html = page(tmp_path)
    (row,) = re.findall(r'<tr data-metric="roc_auc_score">.*?</tr>', html)
    assert plain("<body>" + row) == "roc_auc_score 0.938 0.810–1.000 8 7 high"
    assert 'title="0.9375"' in row
    text = plain(html)
    assert "0 0 4 0.500 0 1 4 1.000" in text
    assert "0.750 ± 0.250" in text  # of the folds, dividing by their number


def test_pictures_are_inside_and_nothing_is_fetched(tmp_path):
    pictures = draw_evaluation(binary_evaluation(), tmp_path / "figures")
    html = page(tmp_path, figures=pictures)
    inside = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert [base64.b64decode(data) for data in inside] == [path.read_bytes() for path in pictures]
    assert "http" not in re.sub(r"http-equiv", "", html)
    assert "<script" not in html


def test_names_from_files_cannot_become_markup(tmp_path):
    html = page(tmp_path, binary_evaluation(excluded={"<script>alert(1)</script>": "no <b>label</b>"}))
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert "no &lt;b&gt;label" in html


def test_an_undefined_metric_says_why(tmp_path):
    table = metric_table(roc_auc_score=(float("nan"), float("nan"), float("nan")))
    text = plain(page(tmp_path, binary_evaluation(table=table, curves={})))
    assert "undefined – 8 7 high one class only" in text


def test_counting_training_patients_is_said_aloud(tmp_path):
    facts = PageFacts({}, n_training_rows=4, n_training_patients=3, training_counted=True, notes=["They are counted."])
    text = plain(page(tmp_path, facts=facts))
    assert "3 patients of the training set counted, as asked for" in text
    assert "They are counted." in text


def test_a_long_list_of_exclusions_is_cut_and_says_so(tmp_path):
    excluded = {f"s{i:04d}": "no label" for i in range(700)}
    html = page(tmp_path, binary_evaluation(excluded=excluded))
    assert "s0499" in html
    assert "s0500" not in html
    assert "The first 500" in plain(html)


def test_a_comparison_shows_difference_and_corrected_tests(tmp_path):
    table = pd.DataFrame(
        [
            {
                "a": "abmil", "b": "meanpool", "metric": "roc_auc_score", "estimate_a": 0.9, "estimate_b": 0.8,
                "difference": -0.1, "low": -0.2, "high": -0.01, "n": 8, "n_patients": 7, "n_undefined": 0,
                "p_value": 0.0312, "p_holm": 0.0624, "delong_p": 0.0002, "delong_p_holm": float("nan"),
            }
        ]
    )  # fmt: skip
    text = plain(page(tmp_path, comparison=Comparison(table, {"s9": "meanpool"}, {})))
    assert "abmil meanpool roc_auc_score 0.900 0.800 -0.100 (-0.200 to -0.010) 0.031 0.062 &lt; 0.001 – 8 7" in text
    assert "1 were left out because a model lacks them" in text


def test_one_fold_is_no_table_of_folds(tmp_path):
    folds = binary_evaluation().folds.iloc[:1]
    assert "Mean ± s.d. of folds" not in page(tmp_path, binary_evaluation(folds=folds))
