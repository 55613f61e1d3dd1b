from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.cohort import MISSING, Cohort, CohortSlide, read_cohort, write_cohort
from microtome.errors import CohortError, ConfigError, DuplicateSlideError


def table(folder: Path, text: str | bytes, name: str = "cohort.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


FULL = (
    "slide_id,path,patient_id,mpp,grade,score\n"
    "007,slides/007.svs,01,0.25,1.0,0.50\n"
    "008,slides/008.svs,01,,NA,1.0\n"
    "009,/data/009.tif,02,0.5,2.0,\n"
)


def test_a_full_table(tmp_path: Path) -> None:
    cohort = read_cohort(table(tmp_path, FULL))
    assert cohort.slides[0] == CohortSlide(
        "007", "01", tmp_path / "slides/007.svs", 0.25, None, {"grade": "1", "score": "0.50"}
    )
    assert [s.mpp for s in cohort.slides] == [0.25, None, 0.5]
    assert cohort.slides[2].path == Path("/data/009.tif")
    assert cohort.slide_ids == ("007", "008", "009")
    assert cohort.patient_ids == ("01", "02")
    assert cohort.label_columns == ("grade", "score")
    assert cohort.labels("grade") == {"007": "1", "009": "2"}
    # a column of measurements keeps its text
    assert cohort.labels("score") == {"007": "0.50", "008": "1"}
    assert cohort["008"].patient_id == "01"
    assert "007" in cohort
    assert "7" not in cohort


@pytest.mark.parametrize(
    "text",
    [
        FULL.encode("utf-8-sig"),
        FULL.replace("\n", "\r\n"),
        FULL.replace("\n", "\r"),
        FULL.replace(",", ";"),
        FULL.replace(",", "\t"),
        FULL.replace("\n", "\n\n"),
        FULL.replace(",", " , "),
        FULL.rstrip("\n"),
        FULL.replace("\n", ",\n"),
        "\n" + FULL,
        FULL.replace("007,", '"007",'),
        "".join(f"{i or ''},{line}\n" for i, line in enumerate(FULL.splitlines())),  # row numbers
        FULL.replace("slide_id", "Slide").replace("patient_id", "case_id"),
    ],
)
def test_dialects_say_the_same(tmp_path: Path, text: str | bytes) -> None:
    cohort = read_cohort(table(tmp_path, FULL))
    assert read_cohort(table(tmp_path, text, "other.csv")) == cohort


def test_slides_without_patient_are_patients_of_their_own(tmp_path: Path) -> None:
    cohort = read_cohort(table(tmp_path, "slide_id\na\nb\n"))
    assert cohort.patient_ids == ("a", "b")
    assert cohort.slides[0].path is None
    assert cohort.label_columns == ()


def test_a_barcode_says_the_patient_where_no_column_does(tmp_path: Path) -> None:
    names = ("TCGA-A1-A0SH-01Z-00-DX1", "tcga-a1-a0sh-01Z-00-DX2", "TCGA-A1-A0SHX-01Z", "b")
    cohort = read_cohort(table(tmp_path, "slide_id\n" + "".join(f"{name}\n" for name in names)))
    assert [slide.patient_id for slide in cohort.slides] == ["TCGA-A1-A0SH", "TCGA-A1-A0SH", *names[2:]]
    said = read_cohort(table(tmp_path, "slide_id,patient_id\nTCGA-A1-A0SH-01Z,p\n"))
    assert said.patient_ids == ("p",)


def test_cells_may_hold_separators_and_line_breaks(tmp_path: Path) -> None:
    cohort = read_cohort(table(tmp_path, 'slide_id,note\n"a, b","one\ntwo; three"\nc,d\n'))
    assert cohort.labels("note") == {"a, b": "one\ntwo; three", "c": "d"}


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = table(tmp_path, "FILENAME,WHO,slide_id\nx,p,label\ny,p,label2\n")
    cohort = read_cohort(path, columns={"slide_id": "FILENAME", "patient_id": "WHO"})
    assert cohort.slide_ids == ("x", "y")
    assert cohort.patient_ids == ("p",)
    with pytest.raises(ConfigError, match="no column 'ABSENT'"):
        read_cohort(path, columns={"slide_id": "ABSENT"})
    with pytest.raises(ConfigError, match="Got 'slide'"):
        read_cohort(path, columns={"slide": "FILENAME"})


def test_a_synonym_beside_the_name_itself_is_a_label(tmp_path: Path) -> None:
    cohort = read_cohort(table(tmp_path, "slide_id,patient_id,case_id\na,p,c\n"))
    assert (cohort.slides[0].patient_id, cohort.labels("case_id")) == ("p", {"a": "c"})


@pytest.mark.parametrize(
    ("cells", "labels"),
    [
        (["1.0", "0.0", "", "nan"], ["1", "0", None, None]),
        (["1.0", "-2.00", "3"], ["1", "-2", "3"]),
        (["007", "1.0"], ["007", "1"]),
        (["1.0", "T1"], ["1.0", "T1"]),
        (["1.5", "2.0"], ["1.5", "2"]),
        (["N/A", "<NA>", "NaN", "x"], [None, None, None, "x"]),
        (["None", "nothing"], ["None", "nothing"]),
    ],
)
def test_labels_as_software_writes_them(tmp_path: Path, cells: list[str], labels: list[str | None]) -> None:
    rows = "".join(f"s{i},{cell}\n" for i, cell in enumerate(cells))
    cohort = read_cohort(table(tmp_path, "slide_id,y\n" + rows))
    assert [s.labels["y"] for s in cohort.slides] == labels


@settings(deadline=None)  # it writes files
@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Z")), min_size=1, max_size=8),
        min_size=1,
        max_size=5,
    )
)
def test_labels_of_any_text_come_through(tmp_path_factory: pytest.TempPathFactory, labels: list[str]) -> None:
    import csv
    import io

    text = io.StringIO()
    csv.writer(text).writerows([["slide_id", "y"], *([f"s{i}", y] for i, y in enumerate(labels)), ["last", "text"]])
    cohort = read_cohort(table(tmp_path_factory.mktemp("any"), text.getvalue()))
    expected = {f"s{i}": y for i, y in enumerate(labels) if y not in MISSING and y.strip()}
    assert {k: v for k, v in cohort.labels("y").items() if k != "last"} == expected


def test_a_duplicate_names_both_rows(tmp_path: Path) -> None:
    path = table(tmp_path, "slide_id,path,patient_id\nA,x/A.svs,p\nB,B.svs,p\nA,y/A.svs,q\n")
    with pytest.raises(DuplicateSlideError, match=r"(?s)'A'.*line 2, '.*x.A\.svs'.*line 4, '.*y.A\.svs'"):
        read_cohort(path)


def test_one_file_under_two_ids_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="as slide 'A' and as 'B'"):
        read_cohort(table(tmp_path, "slide_id,path\nA,x/a.svs\nB,./x/../x/a.svs\n"))


@pytest.mark.parametrize("slide_id", ["../up", "a/b", "a\\b", ".hidden", "con:1", "x" * 300, "trailing."])
def test_ids_that_leave_the_folder_are_refused(tmp_path: Path, slide_id: str) -> None:
    with pytest.raises(CohortError, match=r"line 3: slide_id .* cannot be a file name"):
        read_cohort(table(tmp_path, f"slide_id,y\nok,1\n{slide_id},1\n"))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        ("slide_id,path\n", "header but no slides"),
        ("name,mpp\na,0.5\n", "no column slide_id. It has: name, mpp"),
        ("slide_id|label\na|1\n", "only one column was found"),
        ("slide_id,y,y\na,1,2\n", "column y more than once"),
        ("slide_id,,y\na,1,2\n", "no name for column 2"),
        ("slide,Slide,y\na,b,2\n", "slide and Slide, which both mean slide_id"),
        ("slide_id,y\na,1,2\n", r"line 2: the row has 3 cells, the header 2"),
        ("slide_id,y\na,1\nb\n", r"line 3: the row has 1 cells"),
        ("slide_id,y\n,1\n", "line 2: slide_id is ''"),
        ("slide_id,y\nNA,1\n", "line 2: slide_id is 'NA'"),
        ("slide_id,patient_id\na,\n", "line 2: patient_id is ''"),
        ("slide_id,mpp\na,0\n", "line 2: mpp is '0'"),
        ("slide_id,mpp\na,-0.5\n", "mpp is '-0.5'"),
        ("slide_id,mpp\na,inf\n", "mpp is 'inf'"),
        ("slide_id,mpp\na,20x\n", "mpp is '20x'"),
        ("slide_id;mpp\na;0,25\n", "mpp is '0,25'"),
        ('slide_id,y\n"a,1\n', "no table can be read"),
        ("slide_id,y\na,ä\n".encode("latin-1"), "not UTF-8"),
        ("slide_id,y\na,1\n".encode("utf-16"), "UTF-16"),
        (b"PK\x03\x04 xlsx", "spreadsheet"),
        (b"slide_id,y\na,\x00\n", "zero bytes"),
    ],
)
def test_bad_tables_are_refused_with_the_reason(tmp_path: Path, text: str | bytes, match: str) -> None:
    with pytest.raises(CohortError, match=match):
        read_cohort(table(tmp_path, text))


def test_absent_tables_and_folders_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.csv", tmp_path):
        with pytest.raises(CohortError, match="cannot be read"):
            read_cohort(path)


def test_unknown_slides_and_columns_are_named(tmp_path: Path) -> None:
    cohort = read_cohort(table(tmp_path, FULL))
    with pytest.raises(CohortError, match="Did you mean '007'"):
        _ = cohort["07"]
    with pytest.raises(CohortError, match="label columns are: grade, score"):
        cohort.labels("stage")


def test_a_cohort_made_by_hand_is_checked() -> None:
    with pytest.raises(DuplicateSlideError, match="'a' occurs twice"):
        Cohort((CohortSlide("a", "p"), CohortSlide("a", "q")))
    with pytest.raises(CohortError, match="every label"):
        Cohort((CohortSlide("a", "p", labels={"y": "1"}),), ("y", "z"))


@pytest.mark.parametrize(
    ("name", "columns", "n_slides", "n_patients"),
    [
        ("clam/tumor_vs_normal_dummy_clean.csv", {}, 500, 450),
        ("histologylinearprobing_class_MKI67_ESR1.csv", {}, 3072, 1095),
        ("pathbench_multi_stage.csv", {}, 502, 468),
        ("slideflow/breast_labels.csv", {}, 1048, 990),
        ("deephistology/TCGA-CRC-DX_SLIDE.csv", {"slide_id": "FILENAME"}, 1971, 616),
        ("histolab_gtex/GTEx_AIDP2021.csv", {"slide_id": "Tissue Sample ID", "patient_id": "Subject ID"}, 265, 83),
    ],
)
def test_tables_of_other_software(
    shared: Path, name: str, columns: dict[str, str], n_slides: int, n_patients: int
) -> None:
    cohort = read_cohort(shared / "data" / "labels" / name, columns=columns)
    assert (len(cohort), len(cohort.patient_ids)) == (n_slides, n_patients)


def test_a_real_table_of_patients_is_no_table_of_slides(shared: Path) -> None:
    with pytest.raises(CohortError, match="no column slide_id"):
        read_cohort(shared / "data" / "labels" / "clam" / "task_1" / "splits_0.csv")


TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Z"), exclude_characters="\ufeff"), min_size=1
)


@given(
    labels=st.lists(st.none() | TEXT.filter(lambda t: t not in MISSING), min_size=1, max_size=6),
    mpp=st.none() | st.floats(0.1, 2),
)
@settings(max_examples=80, deadline=None)
def test_a_written_cohort_comes_back(tmp_path_factory, labels, mpp):
    slides = tuple(
        CohortSlide(f"s{i}", f"p{i // 2}", Path(f"/slides/{i}.svs"), mpp, labels={"y, or n": label, "z": "x"})
        for i, label in enumerate(labels)
    )
    path = tmp_path_factory.mktemp("written") / "cohort.csv"
    write_cohort(path, Cohort(slides, ("y, or n", "z")))
    again = read_cohort(path)
    tidy = {label: label for label in labels}
    if all(_is_number(label) for label in labels if label is not None):  # 1.0 is read as 1
        tidy = {label: again.slides[i].labels["y, or n"] for i, label in enumerate(labels)}
    assert [s.labels["y, or n"] for s in again.slides] == [tidy[label] for label in labels]
    for name in ("slide_id", "patient_id", "path", "mpp", "biopsy_id"):
        assert [getattr(s, name) for s in again.slides] == [getattr(s, name) for s in slides]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_a_cohort_that_would_be_read_as_another_is_not_written(tmp_path: Path) -> None:
    def cohort(column: str, label: str) -> Cohort:
        return Cohort((CohortSlide("s", "p", labels={column: label}),), (column,))

    for column in ("Patient", "slide_id", "mpp", ""):
        with pytest.raises(CohortError, match="name of a column of slides"):
            write_cohort(tmp_path / "c.csv", cohort(column, "x"))
    for label in ("NA", "", " x"):
        with pytest.raises(CohortError, match="would be read as something else"):
            write_cohort(tmp_path / "c.csv", cohort("y", label))
    assert not list(tmp_path.iterdir())
