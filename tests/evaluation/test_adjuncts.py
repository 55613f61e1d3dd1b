from dataclasses import replace

import numpy as np
import pytest

from microtome.cohort.predictions import concat_predictions, predictions_of
from microtome.cohort.table import Cohort, CohortSlide
from microtome.cohort.targets import Target
from microtome.errors import CohortError, ConfigError, EvaluationError
from microtome.evaluation.adjuncts import compare_adjuncts
from microtome.evaluation.significance import mcnemar_test

GRADE = Target("grade", "ordinal", ("grade",), ("0", "1", "2", "3"))


def made(**columns):
    """Forty slides, ten of each degree; the model calls tumour where the slide's number says so."""
    n = 40
    grades = np.arange(n) % 4
    slides = tuple(
        CohortSlide(f"s{i:02d}", f"p{i:02d}", labels={"grade": str(grades[i]), **{k: v[i] for k, v in columns.items()}})
        for i in range(n)
    )
    called = (grades >= 2) ^ (np.arange(n) < 6)
    above = {f"p_ge_{k}": np.where(called, 0.9, 0.1) for k in (1, 2, 3)}
    ids, patients = [s.slide_id for s in slides], [s.patient_id for s in slides]
    predictions = predictions_of(GRADE, ids, patients, {"grade": called * 2, **above})
    return Cohort(slides, ("grade", *columns)), predictions, grades, called


def test_the_model_and_the_adjunct_are_judged_on_the_rows_that_have_it():
    dye = [None if i % 5 == 0 else str(int(i % 3 == 0)) for i in range(40)]
    cohort, predictions, grades, called = made(dye=dye)
    table = compare_adjuncts(predictions, cohort, ["dye"]).set_index("name")
    known = np.arange(40) % 5 > 0
    other = np.arange(40) % 3 == 0
    tumour = grades >= 2
    assert set(table["n"]) == {known.sum()}
    for name, calls in (("model", called), ("dye", other)):
        assert table.loc[name, "sensitivity"] == pytest.approx(calls[known & tumour].mean())
        assert table.loc[name, "specificity"] == pytest.approx((~calls)[known & ~tumour].mean())
    expected = mcnemar_test(other[known & tumour], called[known & tumour]).p_value
    assert table.loc["model", "sensitivity_p"] == pytest.approx(expected)
    assert table["sensitivity_p"].isna().tolist() == [False, True]


def test_scores_and_classes_become_calls_and_the_cut_can_be_moved():
    grades = np.arange(40) % 4
    surgeon = [str(g) for g in grades]  # right always
    share = [f"{0.2 + 0.2 * g:.1f}" for g in grades]  # above one half from 2 on
    cohort, predictions, _, _ = made(surgeon=surgeon, share=share)
    table = compare_adjuncts(predictions, cohort, ["surgeon", "share"])
    adjuncts = table[table["name"] != "model"]
    assert adjuncts[["sensitivity", "specificity"]].to_numpy().tolist() == [[1, 1], [1, 1]]
    moved = compare_adjuncts(predictions, cohort, ["surgeon", "share"], positive_from="1")
    found = moved[moved["name"] != "model"]["sensitivity"].tolist()
    assert found == pytest.approx([1, 2 / 3])


def test_what_cannot_be_compared_is_said():
    cohort, predictions, _, _ = made(odd=["maybe"] * 40, none=[None] * 40, dye=["1"] * 40)
    with pytest.raises(EvaluationError, match="maybe"):
        compare_adjuncts(predictions, cohort, ["odd"])
    with pytest.raises(EvaluationError, match="none"):
        compare_adjuncts(predictions, cohort, ["none"])
    with pytest.raises(CohortError, match="absent"):
        compare_adjuncts(predictions, cohort, ["absent"])
    with pytest.raises(ConfigError, match="positive_from"):
        compare_adjuncts(predictions, cohort, ["dye"], positive_from="0")
    again = replace(predictions, table=predictions.table.assign(repeat=1))
    with pytest.raises(EvaluationError, match="several of a row"):
        compare_adjuncts(concat_predictions([predictions, again]), cohort, ["dye"])
