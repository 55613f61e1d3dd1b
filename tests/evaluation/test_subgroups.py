import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from microtome.cohort.predictions import predictions_of
from microtome.cohort.table import Cohort, CohortSlide
from microtome.errors import CohortError, ConfigError, EvaluationError
from microtome.evaluation.significance import mcnemar_test
from microtome.evaluation.subgroups import compare_calls, evaluate_subgroups
from tests.evaluation.tables import BINARY, outcomes_of


def cohort_and_predictions(n=48, **columns):
    """Slides of patients with two each; more label columns as lists."""
    values, p = outcomes_of(BINARY, n)
    slides = tuple(
        CohortSlide(
            f"s{i:02d}",
            f"p{i // 2:02d}",
            labels={"msi": BINARY.classes[int(values[i, 0])], **{c: v[i] for c, v in columns.items()}},
        )
        for i in range(n)
    )
    cohort = Cohort(slides, ("msi", *columns))
    predictions = predictions_of(BINARY, [s.slide_id for s in slides], [s.patient_id for s in slides], p)
    return cohort, predictions, values[:, 0], p["p_MSI"]


def test_groups_of_a_column_and_those_without_one() -> None:
    centre = ["a"] * 20 + ["b"] * 20 + [None] * 8
    cohort, predictions, y, p = cohort_and_predictions(centre=centre)
    found = evaluate_subgroups(predictions, cohort, "centre", n_boot=50)
    assert found["subgroup"].tolist() == ["a", "b", "missing"]
    assert found["n"].tolist() == [20, 20, 8]
    assert found["n_patients"].tolist() == [10, 10, 4]
    expected = [roc_auc_score(y[k], p[k]) for k in (slice(0, 20), slice(20, 40), slice(40, 48))]
    assert found["estimate"].tolist() == pytest.approx(expected)
    assert (found["low"] <= found["high"]).all()


def test_numbers_are_cut() -> None:
    age = [str(20 + i) for i in range(48)]
    cohort, predictions, _, _ = cohort_and_predictions(age=age, stage=[str(i % 3) for i in range(48)])
    found = evaluate_subgroups(predictions, cohort, "age", n_boot=10)
    assert found["subgroup"].tolist() == ["<= 43.5", "> 43.5"]
    found = evaluate_subgroups(predictions, cohort, "age", cuts=(29, 49), n_boot=10, metrics=["auroc", "f1_score"])
    assert found["subgroup"].drop_duplicates().tolist() == ["<= 29", "29 to 49", "> 49"]
    assert found["n"].tolist() == [10, 10, 20, 20, 18, 18]
    assert evaluate_subgroups(predictions, cohort, "stage", n_boot=10)["subgroup"].tolist() == ["0", "1", "2"]
    with pytest.raises(ConfigError, match="rise"):
        evaluate_subgroups(predictions, cohort, "age", cuts=(5, 1))


def test_a_group_of_one_class_says_so_and_text_is_not_cut() -> None:
    cohort, predictions, _, _ = cohort_and_predictions(side=["l", "r"] * 24)
    found = evaluate_subgroups(predictions, cohort, "side", n_boot=10)
    assert found["estimate"].isna().all()
    assert found["reason"].tolist() == ["one class only: 'MSS'", "one class only: 'MSI'"]
    with pytest.raises(EvaluationError, match="holds text"):
        evaluate_subgroups(predictions, cohort, "side", cuts=(1,))
    with pytest.raises(CohortError, match="'nowhere'"):
        evaluate_subgroups(predictions, cohort, "nowhere")


def test_calls_are_compared_with_a_reference() -> None:
    rng = np.random.default_rng(0)
    positive = np.arange(200) < 100
    model, dye = (positive ^ (rng.random(200) < wrong) for wrong in (0.05, 0.4))
    found = compare_calls(positive, {"model": model, "dye": dye}, reference="dye").set_index("name")
    assert found.loc["model", "sensitivity"] == pytest.approx(model[:100].mean())
    assert found.loc["dye", "specificity"] == pytest.approx(1 - dye[100:].mean())
    assert found.loc["model", "sensitivity_p"] == mcnemar_test(dye[:100], model[:100]).p_value
    assert found.loc["model", "specificity_p"] == mcnemar_test(~dye[100:], ~model[100:]).p_value
    assert found["specificity_p_holm"].tolist()[0] < 0.001
    assert math.isnan(found["sensitivity_p"].tolist()[1])
    with pytest.raises(ConfigError, match="reference"):
        compare_calls(positive, {"model": model}, reference="dye")
