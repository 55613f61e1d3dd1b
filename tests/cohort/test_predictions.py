import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from microtome.cohort.predictions import (
    Predictions,
    concat_predictions,
    predictions_of,
    predictions_table,
    read_predictions,
    value_columns,
)
from microtome.cohort.targets import Labels, Target
from microtome.errors import CorruptOutputError, EvaluationError, MissingOutputError, OutputWriteError

TARGETS = {
    "binary": Target("msi", "binary", ("MSI",), ("MSS", "MSI-H")),
    "multiclass": Target("sub", "multiclass", ("sub",), ("a", "b", "c")),
    "multilabel": Target("m", "multilabel", ("x", "y"), ("x", "y")),
    "regression": Target("r", "regression", ("r",)),
    "ordinal": Target("g", "ordinal", ("g",), ("1", "2", "3")),
    "survival": Target("os", "survival", ("OS.time", "OS")),
}
VALUES = {
    "binary": {"p_MSS": [0.25, 1], "p_MSI-H": [0.75, 0]},
    "multiclass": {"p_a": [0.2, 0], "p_b": [0.3, 0], "p_c": [0.5, 1]},
    "multilabel": {"p_x": [0.2, 1], "p_y": [0.3, 1]},
    "regression": {"value": [-3.5, 1e6]},
    "ordinal": {"grade": [0.4, 2], "p_ge_2": [0.5, 1], "p_ge_3": [0.25, 1]},
    "survival": {"risk": [-2.5, 3]},
}


def arrays(kind: str) -> dict[str, np.ndarray]:
    return {name: np.array(values, dtype=np.float32) for name, values in VALUES[kind].items()}


def labels_of(kind: str) -> Labels:
    values = {"survival": [[5, 1], [7, 0]], "multilabel": [[0, 1], [1, np.nan]]}.get(kind, [[0], [1]])
    return Labels(TARGETS[kind], ("s1", "s2"), ("p1", "p2"), (("s1",), ("s2",)), np.array(values, np.float64))


@pytest.mark.parametrize("kind", list(TARGETS))
def test_every_type_comes_back_from_the_file(kind, tmp_path):
    made = predictions_table(
        labels_of(kind), arrays(kind), fold=2, repeat=1, in_training=[True, False], attrs={"model": "abmil", "k": 3}
    )
    table = made.table
    assert list(table["id"]) == list(table["slide_id"]) == ["s1", "s2"]
    assert list(table["patient_id"]) == ["p1", "p2"]
    assert (table["fold"].tolist(), table["repeat"].tolist()) == ([2, 2], [1, 1])
    assert set(table["target"]) == {TARGETS[kind].name}
    assert set(table["target_type"]) == {kind}
    for name, values in VALUES[kind].items():
        np.testing.assert_allclose(table[name], values)
    if kind == "survival":
        assert (table["time"].tolist(), table["event"].tolist()) == ([5, 7], [1, 0])
    found = read_predictions(made.write(tmp_path / "deep" / "predictions.parquet"))
    pd.testing.assert_frame_equal(found.table, table)
    assert (found.target, dict(found.attrs), found.unit) == (made.target, {"model": "abmil", "k": 3}, "slide")
    csv = read_predictions(made.write(tmp_path / "predictions.csv"), target=made.target)
    for name in table.columns:
        if table[name].dtype.kind == "f":
            np.testing.assert_allclose(csv.table[name], table[name], rtol=1e-6)
        else:
            assert csv.table[name].tolist() == table[name].tolist()


def test_the_columns_of_a_target():
    assert value_columns(TARGETS["binary"]) == ("p_MSS", "p_MSI-H")
    assert value_columns(TARGETS["ordinal"]) == ("grade", "p_ge_2", "p_ge_3")


def test_rows_may_be_patients():
    made = predictions_of(TARGETS["regression"], ["p"], ["p"], {"value": np.ones(1)}, unit="patient")
    assert "slide_id" not in made.table
    assert made.unit == "patient"
    biopsies = predictions_of(TARGETS["regression"], ["b"], ["p"], {"value": np.ones(1)}, unit="biopsy")
    assert biopsies.table["biopsy_id"].tolist() == ["b"]


def frame(kind: str = "binary") -> pd.DataFrame:
    return predictions_table(labels_of(kind), arrays(kind)).table


@pytest.mark.parametrize(
    ("kind", "column", "row", "value", "reason"),
    [
        ("binary", "p_MSS", 1, np.nan, r"Row 1 .*\(id 's2', .*p_MSS must be a finite number.*nan"),
        ("binary", "p_MSS", 0, 1.2, r"Row 0 .*p_MSS must lie in 0\.\.1.*1\.2"),
        ("binary", "p_MSS", 0, -0.1, r"must lie in 0\.\.1"),
        ("binary", "p_MSS", 0, 0.5, r"p_MSS \+ p_MSI-H must be 1.*1\.25"),
        ("multiclass", "p_a", 1, 0.5, "must be 1"),
        ("multilabel", "p_x", 1, 7.0, r"p_x must lie in 0\.\.1"),
        ("regression", "value", 0, np.inf, "value must be a finite number"),
        ("ordinal", "grade", 0, 3.0, r"grade must lie in 0\.\.2"),
        ("ordinal", "p_ge_3", 0, 1.01, r"p_ge_3 must lie"),
        ("survival", "risk", 0, np.nan, "risk must be a finite number"),
        ("survival", "event", 1, np.nan, "event must be a finite number"),
        ("binary", "id", 0, "s2", "Row 1 .*id occurs twice"),
        ("binary", "id", 1, "", "id is empty"),
        ("binary", "patient_id", 1, None, "patient_id is empty"),
        ("binary", "target", 1, "mss", "target must be 'msi'"),
        ("binary", "target_type", 1, "multiclass", "target_type must be 'binary'"),
    ],
)
def test_a_wrong_row_is_named(kind, column, row, value, reason):
    table = frame(kind)
    table.loc[row, column] = value
    with pytest.raises(EvaluationError, match=reason):
        Predictions(table, TARGETS[kind])


@pytest.mark.parametrize("fold", [-1, 0.5, "first", None])
def test_folds_are_whole_numbers(fold):
    with pytest.raises(EvaluationError, match="fold must be"):
        Predictions(frame().assign(fold=fold), TARGETS["binary"])


@pytest.mark.parametrize("column", ["id", "slide_id", "patient_id", "fold", "repeat", "target", "target_type", "p_MSS"])
def test_a_missing_column_is_named(column):
    with pytest.raises(EvaluationError, match=f"lack the column {column}"):
        Predictions(frame().drop(columns=column), TARGETS["binary"])


def test_probabilities_of_half_precision_are_taken():
    half = {f"p_{c}": np.full(2, np.float16(1 / 3)) for c in "abc"}
    assert len(predictions_table(labels_of("multiclass"), half)) == 2


def test_columns_of_another_length():
    with pytest.raises(EvaluationError, match="one length"):
        predictions_table(labels_of("regression"), {"value": np.ones(3)})


def test_numbers_as_ids_stay_text(tmp_path):
    made = predictions_of(TARGETS["regression"], ["007", "NA"], ["01", "1e5"], {"value": np.ones(2)})
    for name in ("a.csv", "a.parquet"):
        found = read_predictions(made.write(tmp_path / name)).table
        assert found["id"].tolist() == found["slide_id"].tolist() == ["007", "NA"]
        assert found["patient_id"].tolist() == ["01", "1e5"]


def test_several_together():
    folds = [predictions_table(labels_of("binary"), arrays("binary"), fold=k) for k in range(3)]
    together = concat_predictions(folds)
    assert together.table["fold"].tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(EvaluationError, match="occurs twice"):
        concat_predictions([folds[0], folds[0]])
    with pytest.raises(EvaluationError, match="different targets"):
        concat_predictions([folds[0], predictions_table(labels_of("survival"), arrays("survival"))])
    marked = predictions_table(labels_of("binary"), arrays("binary"), fold=9, in_training=[True, True])
    with pytest.raises(EvaluationError, match="different columns"):
        concat_predictions([folds[0], marked])
    patients = predictions_of(
        TARGETS["binary"], ["p"], ["p"], {k: v[:1] for k, v in arrays("binary").items()}, unit="patient"
    )
    with pytest.raises(EvaluationError, match="different units"):
        concat_predictions([folds[0], patients])
    with pytest.raises(EvaluationError, match="no predictions"):
        concat_predictions([])


def test_a_table_of_somebody_else(tmp_path):
    path = tmp_path / "theirs.csv"
    path.write_text("slide_id,patient_id,target,target_type,p_no,p_yes\na,1,t,binary,0.25,0.75\nb,2,t,binary,1,0\n")
    found = read_predictions(path)
    assert found.target == Target("t", "binary", ("t",), ("no", "yes"))
    assert found.table["id"].tolist() == ["a", "b"]
    assert found.table["fold"].tolist() == [0, 0]
    path.write_text("slide_id,patient_id,target,target_type,grade,p_ge_2\na,1,t,ordinal,1,0.7\n")
    with pytest.raises(EvaluationError, match=r"theirs\.csv.*Pass the target|a table alone"):
        read_predictions(path)
    given = Target("t", "ordinal", ("t",), ("1", "2"))
    assert read_predictions(path, target=given).target == given
    path.write_text("slide_id,patient_id,p_no,p_yes\na,1,0.25,0.75\n")
    with pytest.raises(EvaluationError, match="does not say what is predicted"):
        read_predictions(path)


def test_another_target_than_the_file_has(tmp_path):
    path = predictions_table(labels_of("binary"), arrays("binary")).write(tmp_path / "p.parquet")
    with pytest.raises(EvaluationError, match="holds predictions of"):
        read_predictions(path, target=TARGETS["multiclass"])


@pytest.mark.parametrize("keep", [0, 1, 100, -5])
def test_a_truncated_file(tmp_path, keep):
    path = predictions_table(labels_of("binary"), arrays("binary")).write(tmp_path / "p.parquet")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorruptOutputError, match="cannot be read"):
        read_predictions(path)


@pytest.mark.parametrize(
    "said",
    [
        b"{",
        b"[]",
        b'{"unit": "slide"}',
        b'{"unit": "tile", "target": {"type": "binary"}}',
        b'{"unit": "slide", "target": {"type": "binary"}}',
    ],
)
def test_damaged_metadata(tmp_path, said):
    path = predictions_table(labels_of("binary"), arrays("binary")).write(tmp_path / "p.parquet")
    content = pq.read_table(path)
    pq.write_table(content.replace_schema_metadata({**content.schema.metadata, b"microtome": said}), path)
    with pytest.raises(CorruptOutputError):
        read_predictions(path)


def test_absent_files_and_other_suffixes(tmp_path):
    with pytest.raises(MissingOutputError):
        read_predictions(tmp_path / "none.parquet")
    (tmp_path / "p.xlsx").write_bytes(b"PK")
    with pytest.raises(EvaluationError, match=r"\.parquet or \.csv"):
        read_predictions(tmp_path / "p.xlsx")
    with pytest.raises(EvaluationError, match=r"\.parquet or \.csv"):
        predictions_table(labels_of("binary"), arrays("binary")).write(tmp_path / "p.json")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    made = predictions_table(labels_of("binary"), arrays("binary"))
    path = made.write(tmp_path / "p.parquet")
    before = path.read_bytes()

    def fail(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OutputWriteError):
        made.write(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["p.parquet"]
