from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.cohort.table import Cohort, CohortSlide, read_cohort
from microtome.cohort.targets import Labels, Target, find_target, read_event, read_labels
from microtome.errors import CohortError, ConfigError


def cohort_of(folder: Path, text: str, *, bom: bool = False) -> Cohort:
    path = folder / "cohort.csv"
    path.write_text(text, encoding="utf-8-sig" if bom else "utf-8")
    return read_cohort(path)


def column(*cells: str | None, name: str = "y") -> Cohort:
    """One slide per cell, each of a patient of its own."""
    slides = (CohortSlide(f"s{i}", f"p{i}", labels={name: cell}) for i, cell in enumerate(cells))
    return Cohort(tuple(slides), (name,))


def survival(*rows: tuple[str | None, str | None]) -> Cohort:
    slides = (CohortSlide(f"s{i}", f"p{i}", labels={"OS": e, "OS.time": t}) for i, (t, e) in enumerate(rows))
    return Cohort(tuple(slides), ("OS", "OS.time"))


@pytest.mark.parametrize(
    ("cells", "classes"),
    [
        (("1", "0", "1"), ("0", "1")),
        (("MSI-H", "MSS"), ("MSS", "MSI-H")),
        (("Tumor", "Normal"), ("Normal", "Tumor")),
        (("tumor_tissue", "normal_tissue"), ("normal_tissue", "tumor_tissue")),
        (("positive", "Negative"), ("Negative", "positive")),
        (("True", "False", None), ("False", "True")),
        (("yes", "no", "[Not Available]", "#N/A"), ("no", "yes")),
    ],
)
def test_two_labels_whose_meaning_is_plain_are_binary(cells, classes):
    assert find_target(column(*cells), "y") == Target("y", "binary", ("y",), classes)


@pytest.mark.parametrize("cells", [("A", "B"), ("1", "2"), ("-1", "1"), ("LUAD", "LUSC"), ("high", "yes")])
def test_two_labels_in_doubt_need_the_positive_one(cells):
    with pytest.raises(ConfigError, match="Pass positive"):
        find_target(column(*cells), "y")
    first, second = cells
    assert find_target(column(*cells), "y", positive=first).classes == (second, first)
    assert find_target(column(*cells), "y", classes=cells).classes == cells


def test_words_are_classes_in_the_order_of_their_names():
    found = find_target(column("c", "a", "b", "a", None), "y")
    assert found == Target("y", "multiclass", ("y",), ("a", "b", "c"))
    assert find_target(column("c", "a", "b", "a"), "y", classes=["c", "a", "b"]).classes == ("c", "a", "b")


def test_numbers_are_ordered_as_numbers():
    cells = column("10", "9", "2", "10", "2")
    assert find_target(cells, "y", type="multiclass").classes == ("2", "9", "10")
    assert find_target(cells, "y", type="ordinal").classes == ("2", "9", "10")
    assert find_target(cells, "y", type="regression") == Target("y", "regression", ("y",))
    words = column("low", "high", "mid")
    assert find_target(words, "y", type="ordinal", classes=["low", "mid", "high"]).classes == ("low", "mid", "high")


@pytest.mark.parametrize(
    ("cells", "settings_", "reason"),
    [
        (("1", "2", "3", "1"), {}, "values, grades or classes"),
        (("1", "2", "x", "1"), {}, "numbers .* and words"),
        (("a", "b", "c"), {}, "each occur once"),
        (("a", "b", "c", "c"), {"type": "ordinal"}, "rising order"),
        (("a", "b", "c", "c"), {"type": "binary"}, "holds 3 different labels"),
        (("0", "1"), {"positive": "2"}, "'2' does not occur"),
        (("0", "1"), {"classes": ["0", "2"]}, "labels that occur"),
        (("0", "1"), {"classes": ["0", "0"]}, "different labels"),
        (("0", "1", "2"), {"classes": ["0"]}, "at least two"),
        (("0", "1", "2"), {"type": "binary", "classes": ["0", "1", "2"]}, "must be two"),
        (("0", "1"), {"classes": ["0", "1"], "positive": "0"}, "positive says '0'"),
        (("a", "b", "c", "c"), {"type": "multiclass", "positive": "a"}, "Leave it out"),
        (("0", "1"), {"type": "regression", "classes": ["0", "1"]}, "Leave them out"),
        (("0", "1"), {"type": "multilabel"}, "column per class"),
        (("0", "1"), {"type": "survival"}, "no column by its name"),
        (("0", "1"), {"type": "survival", "columns": ["y"]}, "two columns"),
        (("0", "1"), {"columns": ["y", "z"]}, "2 columns"),
        (("0", "1"), {"columns": ["y", "y"]}, "must differ"),
    ],
)
def test_doubt_is_an_error_that_says_what_to_pass(cells, settings_, reason):
    with pytest.raises(ConfigError, match=reason):
        find_target(column(*cells), "y", **settings_)


@pytest.mark.parametrize("cells", [("1", "1"), ("a", "a", None), (None, None), ("[Unknown]", "NOT REPORTED")])
def test_nothing_to_tell_apart(cells):
    with pytest.raises(CohortError, match=r"nothing to tell apart|No slide has a label"):
        find_target(column(*cells), "y")


def test_an_absent_column_is_named_with_those_there_are():
    for settings_ in ({}, {"type": "regression"}, {"type": "multilabel", "columns": ["msi", "y"]}):
        with pytest.raises(CohortError, match=r"no label column 'msi'.*: y"):
            find_target(column("0", "1"), "msi", **settings_)
    with pytest.raises(CohortError, match="no label column 'gone'"):
        read_labels(column("0", "1"), Target("gone", "binary", ("gone",), ("0", "1")))


def test_an_event_beside_its_time_is_not_taken_for_a_class():
    with pytest.raises(ConfigError, match="Pass type survival"):
        find_target(survival(("5", "0"), ("6", "1")), "OS")


@pytest.mark.parametrize(
    "names", [("OS.time", "OS"), ("os_time", "os_event"), ("OS_MONTHS", "OS_STATUS"), ("time_os", "event_os")]
)
def test_columns_of_survival_are_found_by_name(names):
    slides = tuple(CohortSlide(f"s{i}", f"p{i}", labels={names[0]: f"{i + 1}", names[1]: "1"}) for i in range(2))
    assert find_target(Cohort(slides, names), "OS", type="survival") == Target("OS", "survival", names)


def test_two_candidates_for_the_time_are_an_error():
    slides = (CohortSlide("s", "p", labels={"OS": "1", "OS.time": "3", "OS_months": "1"}),)
    with pytest.raises(ConfigError, match=r"OS\.time, OS_months.*Pass columns"):
        find_target(Cohort(slides, ("OS", "OS.time", "OS_months")), "OS", type="survival")


@pytest.mark.parametrize(
    ("code", "event"),
    [
        ("0", 0), ("1", 1), ("1.0", 1), ("0:LIVING", 0), ("1:DECEASED", 1), ("0:DiseaseFree", 0),
        ("1:Recurred/Progressed", 1), ("Alive", 0), ("Dead", 1), ("LIVING", 0), ("deceased", 1), ("FALSE", 0),
        ("True", 1), ("censored", 0), ("2", None), ("-1", None), ("maybe", None), ("", None), ("nan", None),
        ("2:DEAD", None), ("0.5", None),
    ],
)  # fmt: skip
def test_codes_of_events(code, event):
    assert read_event(code) == event


def test_binary_labels_through_a_table_with_a_mark_and_floats(tmp_path):
    cohort = cohort_of(tmp_path, "slide,patient,msi\na,1,1.0\nb,2,0.0\nc,3,\nd,4,1.0\n", bom=True)
    target = find_target(cohort, "msi")
    assert target.classes == ("0", "1")
    labels = read_labels(cohort, target)
    assert labels.ids == ("a", "b", "d")
    assert labels.patient_ids == ("1", "2", "4")
    assert labels.slide_ids == (("a",), ("b",), ("d",))
    assert labels.values.tolist() == [[1], [0], [1]]
    assert labels.excluded == {"c": "label is missing"}
    taken = labels.take(np.array([2, 0]))
    assert (taken.ids, taken.values.tolist(), taken.excluded) == (("d", "a"), [[1], [1]], labels.excluded)


def test_labels_of_other_classes_are_counted_out():
    cohort = column("ductal", "lobular", "mixed", None, "[Discrepancy]")
    labels = read_labels(cohort, find_target(cohort, "y", classes=["ductal", "lobular"]))
    assert labels.values.tolist() == [[0], [1]]
    assert labels.excluded == {
        "s2": "label 'mixed' is none of the classes",
        "s3": "label is missing",
        "s4": "label is '[Discrepancy]'",
    }


def test_ordinal_labels_count_from_the_lowest():
    cohort = column("3", "1", "2", "3")
    assert read_labels(cohort, find_target(cohort, "y", type="ordinal")).values.tolist() == [[2], [0], [1], [2]]


def test_multilabel_gaps_are_nan(tmp_path):
    cohort = cohort_of(tmp_path, "slide,a,b\n1,1,yes\n2,0,\n3,,\n4,0,no\n")
    target = find_target(cohort, "m", type="multilabel", columns=["a", "b"])
    assert target.classes == ("a", "b")
    labels = read_labels(cohort, target)
    np.testing.assert_array_equal(labels.values, [[1, 1], [0, np.nan], [0, 0]])
    assert labels.excluded == {"3": "label is missing"}
    with pytest.raises(CohortError, match="Slide '2': 'maybe' in column 'b'"):
        read_labels(cohort_of(tmp_path, "slide,a,b\n1,1,yes\n2,0,maybe\n"), target)
    with pytest.raises(CohortError, match="column 'b' of 'm' are alike"):
        read_labels(cohort_of(tmp_path, "slide,a,b\n1,1,yes\n2,0,\n"), target)


def test_regression_values():
    target = Target("y", "regression", ("y",))
    assert read_labels(column("1.5", "-2e3", None), target).values.tolist() == [[1.5], [-2000]]
    for cell in ("1,5", "high", "inf", "0x10"):
        with pytest.raises(CohortError, match=f"Slide 's1': '{cell}' in column 'y' of 'y' must be a finite number"):
            read_labels(column("1", cell), target)
    with pytest.raises(CohortError, match="are alike"):
        read_labels(column("1", "1.0"), target)


def test_survival_labels_and_what_is_counted_out():
    cohort = survival(("10", "1"), ("20.5", "0"), ("0", "1"), ("-3", "0"), (None, "1"), ("5", None), ("#N/A", "1"))
    labels = read_labels(cohort, find_target(cohort, "OS", type="survival"))
    assert labels.target.columns == ("OS.time", "OS")
    assert labels.values.tolist() == [[10, 1], [20.5, 0]]
    assert labels.excluded == {
        "s2": "survival time is not positive",
        "s3": "survival time is not positive",
        "s4": "survival time is missing",
        "s5": "event is missing",
        "s6": "survival time is missing",
    }


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([("1", "0"), ("2", "0")], "All 2 survival times .* are censored"),
        ([("1", "1"), ("2", "2")], "Slide 's1': event '2' in column 'OS' is not known"),
        ([("1", "1"), ("two", "0")], "'two' in column 'OS.time'"),
        ([("1", "1"), ("nan ", "0")], "'nan ' in column 'OS.time'"),
        ([("0", "1"), ("-1", "0")], "No slide has a usable label.*2 slides: survival time is not positive"),
    ],
)
def test_survival_that_cannot_stand(rows, reason):
    cohort = survival(*rows)
    with pytest.raises(CohortError, match=reason):
        read_labels(cohort, Target("OS", "survival", ("OS.time", "OS")))


TABLE = "slide,patient,biopsy_id,y\na1,a,a-I,1\na2,a,a-I,1\na3,a,a-II,{}\nb1,b,b-I,0\nb2,b,b-I,\nc1,c,,1\n"


def test_rows_may_be_biopsies_or_patients(tmp_path):
    cohort = cohort_of(tmp_path, TABLE.format(1))
    target = find_target(cohort, "y")
    patients = read_labels(cohort, target, unit="patient")
    assert patients.ids == patients.patient_ids == ("a", "b", "c")
    assert patients.slide_ids == (("a1", "a2", "a3"), ("b1", "b2"), ("c1",))
    assert patients.values.tolist() == [[1], [0], [1]]
    assert (dict(patients.excluded), patients.unit) == ({}, "patient")
    biopsies = read_labels(cohort, target, unit="biopsy")
    assert biopsies.ids == ("a-I", "a-II", "b-I")
    assert biopsies.patient_ids == ("a", "a", "b")
    assert biopsies.excluded == {"c1": "biopsy_id is missing"}


def test_slides_that_disagree_are_named(tmp_path):
    cohort = cohort_of(tmp_path, TABLE.format(0))
    target = find_target(cohort, "y")
    assert read_labels(cohort, target, unit="biopsy").values.tolist() == [[1], [0], [0]]
    assert len(read_labels(cohort, target)) == 5  # slides may differ
    with pytest.raises(CohortError, match=r"patient 'a' have different labels.* slide 'a3' contradicts 'a1', 'a2'"):
        read_labels(cohort, target, unit="patient")


def test_biopsies_that_cannot_be_rows(tmp_path):
    two = cohort_of(tmp_path, "slide,patient,biopsy_id,y\na,a,I,1\nb,b,I,0\n")
    with pytest.raises(CohortError, match="Biopsy 'I' is of the patients 'a' and 'b'"):
        read_labels(two, find_target(two, "y"), unit="biopsy")
    none = cohort_of(tmp_path, "slide,patient,y\na,a,1\nb,b,0\n")
    with pytest.raises(CohortError, match="No slide has a biopsy_id"):
        read_labels(none, find_target(none, "y"), unit="biopsy")


def test_multilabel_slides_of_a_patient_complete_each_other(tmp_path):
    cohort = cohort_of(tmp_path, "slide,patient,a,b\n1,p,1,\n2,p,,0\n3,q,0,1\n4,q,0,{}\n".format(""))
    target = find_target(cohort, "m", type="multilabel", columns=["a", "b"])
    assert read_labels(cohort, target, unit="patient").values.tolist() == [[1, 0], [0, 1]]


@given(st.lists(st.sampled_from(["0", "1", None, "x", "[Unknown]"]), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_every_slide_is_a_row_or_excluded_never_both(cells):
    cohort = column(*cells)
    try:
        labels = read_labels(cohort, Target("y", "binary", ("y",), ("0", "1")))
    except CohortError:
        assert len(set(cells) & {"0", "1"}) < 2
        return
    assert isinstance(labels, Labels)
    assert sorted([*labels.ids, *labels.excluded]) == sorted(cohort.slide_ids)
    assert [f"{int(v)}" for v in labels.values[:, 0]] == [c for c in cells if c in ("0", "1")]


def test_a_target_comes_back_from_plain_values():
    target = Target("m", "multilabel", ("a", "b"), ("A", "B"))
    assert Target.from_dict(target.as_dict()) == target


def test_the_public_patient_tables(shared: Path):
    folder = shared / "data" / "labels" / "slideflow"
    cohort = read_cohort(folder / "breast_labels.csv")
    labels = read_labels(cohort, find_target(cohort, "ER_Status_By_IHC"), unit="patient")
    assert labels.target.classes == ("negative", "positive")
    assert len(labels) == len(cohort.patient_ids)
    lung = read_cohort(folder / "lung_labels.csv")
    with pytest.raises(ConfigError, match="'adenocarcinoma', 'squamous'"):
        find_target(lung, "subtype")
    brca = read_cohort(shared / "data" / "labels" / "histologylinearprobing_class_MKI67_ESR1.csv")
    assert len(read_labels(brca, find_target(brca, "ESR1"), unit="patient")) > 900
