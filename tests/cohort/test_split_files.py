import json
from pathlib import Path

import numpy as np
import pytest

from microtome.cohort.splits import OuterSplit, nested_splits, read_splits, write_splits
from microtome.cohort.table import read_cohort
from microtome.cohort.targets import Labels, find_target, read_labels
from microtome.errors import CohortError
from tests.cohort.test_splits import even


def file(folder: Path, text: str, name: str = "splits.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def ids(labels: Labels, rows: np.ndarray) -> list[str]:
    return [labels.ids[i] for i in rows]


def parts(split: OuterSplit) -> list[list[int]]:
    return [
        split.train.tolist(),
        split.test.tolist(),
        *(side.tolist() for i in split.inner for side in (i.train, i.test)),
    ]


def test_clam_splits_of_its_own_example(shared: Path):
    folder = shared / "data" / "labels" / "clam"
    cohort = read_cohort(folder / "tumor_vs_normal_dummy_clean.csv")
    labels = read_labels(cohort, find_target(cohort, "label"))
    assert labels.target.classes == ("normal_tissue", "tumor_tissue")
    with pytest.raises(CohortError, match="does not name 101 of 500 rows"):
        read_splits(folder / "task_1" / "splits_0.csv", labels)
    (split,) = read_splits(folder / "task_1" / "splits_0.csv", labels, partial=True)
    # its own descriptor: normal 211, 36, 33; tumor 89, 15, 15
    (inner,) = split.inner
    sides = [inner.train, inner.test, split.test]
    assert [np.bincount(labels.values[rows, 0].astype(int)).tolist() for rows in sides] == [
        [211, 89],
        [36, 15],
        [33, 15],
    ]
    (by_flags,) = read_splits(folder / "task_1" / "splits_0_bool.csv", labels, partial=True)
    assert parts(by_flags) == parts(split)
    (of_folder,) = read_splits(folder / "task_1", labels, partial=True)
    assert parts(of_folder) == parts(split)


def test_a_folder_of_clam_has_a_fold_per_file(tmp_path: Path):
    labels = even(4, per_patient=1)
    file(tmp_path, ",train,val,test\n0,s0,,s3\n1,s1,,s2\n", "splits_1.csv")
    file(tmp_path, ",train,val,test\n0,s0,s2,\n1,s1,s3,\n", "splits_0_bool.csv")  # a name, and no flags: read as it is
    file(tmp_path, ",train,val,test\nx,2,1,1\n", "splits_0_descriptor.csv")
    with pytest.raises(CohortError, match="test side is empty"):
        read_splits(tmp_path, labels)
    file(tmp_path, ",train,test\ns0,True,False\ns1.svs,True,False\ns2,False,True\ns3,FALSE,TRUE\n", "splits_0_bool.csv")
    assert [(s.fold, *parts(s)) for s in read_splits(tmp_path, labels)] == [(0, [0, 1], [2, 3]), (1, [0, 1], [2, 3])]


def test_folds_of_a_table_with_repeats(tmp_path: Path):
    labels = even(4, per_patient=1)
    path = file(tmp_path, "slide_id,fold_0,fold_1\ns0,0,1\ns1,0,1.0\ns2,1,2\ns3,1,2\n")
    assert [(s.repeat, s.fold, *parts(s)) for s in read_splits(path, labels)] == [
        (0, 0, [2, 3], [0, 1]),
        (0, 1, [0, 1], [2, 3]),
        (1, 0, [2, 3], [0, 1]),
        (1, 1, [0, 1], [2, 3]),
    ]


def test_sides_of_a_table_by_slide_where_rows_are_patients(tmp_path: Path):
    cohort = read_cohort(
        file(tmp_path, "slide,patient,y\na1,a,0\na2,a,0\nb1,b,1\nc1,c,1\nd1,d,0\ne1,e,NA\nf1,f,0\ng1,g,1\n", "c.csv")
    )
    labels = read_labels(cohort, find_target(cohort, "y"), unit="patient")
    path = file(
        tmp_path, "slide,dataset\na1.svs,train\na2.svs,train\nb1.svs,train\nc1,Test\nd1,test\ne1,val\nf1,val\ng1,val\n"
    )
    (split,) = read_splits(path, labels)  # e1 has no label: it is among the excluded already
    assert (ids(labels, split.train), ids(labels, split.test)) == (["a", "b", "f", "g"], ["c", "d"])


def test_our_own_files_come_back(tmp_path: Path):
    labels = even(12)
    splits = nested_splits(labels, outer=3, inner=2, repeats=2, seed=1)
    write_splits(tmp_path / "splits.json", labels, splits)
    assert [parts(s) for s in read_splits(tmp_path / "splits.json", labels)] == [parts(s) for s in splits]
    leaky = nested_splits(labels, mode="leaky-slides", outer=2, inner=0)
    write_splits(tmp_path / "leaky.json", labels, leaky)
    assert all(s.leaky for s in read_splits(tmp_path / "leaky.json", labels))
    order = np.arange(len(labels))[::-1].copy()  # by id, whatever the order of the rows
    turned = labels.take(order)
    for a, b in zip(read_splits(tmp_path / "splits.json", turned), splits, strict=True):
        assert set(ids(turned, a.test)) == set(ids(labels, b.test))


HEAD = ",train,val,test\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no file of splits"),
        ("slide_id,y\ns0,1\n", "no file of splits"),
        ("slide_id,fold,split\ns0,1,train\n", "no file of splits"),
        (HEAD + "0,s0,s1,s2\n1,s0,s3,\n", "names 's0' twice"),
        (HEAD + "0,s0,s1,s2\n1,s3\n", "line 3: the row has 2 cells"),
        ("train,test\nTrue,False\n", "no first column"),
        (HEAD + "0,s0,s1,nobody\n", "'nobody' of the splits is not in the cohort"),
        (HEAD + "0,s0,,s2\n1,s1,,\n", "does not name 5 of 8 rows, 's3' for one"),
        ("slide_id,fold\ns0,\n", "line 2: the id, the fold or the side is missing"),
        ("slide_id,fold\ns0,first\n", "'first' must be a whole number"),
        ("slide_id,fold\ns0,0.5\n", "'0.5' must be a whole number"),
        ("slide_id,split\ns0,training set\n", "must be train, val or test"),
        ("slide_id,fold\n" + "".join(f"s{i},{i % 2}\n" for i in range(8)), "patient 'p00' is on both sides"),
        ("slide_id,fold\n" + "".join(f"s{i},0\n" for i in range(8)), "training side is empty"),
        ("slide_id,fold\n" + "".join(f"s{i},{(i // 2) % 2}\n" for i in range(8)), "the training side .* has no 0"),
    ],
)
def test_files_that_cannot_stand(tmp_path: Path, text: str, reason: str):
    with pytest.raises(CohortError, match=reason):
        read_splits(file(tmp_path, text), even(4))


def test_leaky_files_are_taken_by_name_only(tmp_path: Path):
    path = file(tmp_path, "slide_id,fold\n" + "".join(f"s{i},{int(i in (0, 2))}\n" for i in range(8)))
    with pytest.raises(CohortError, match="both sides"):
        read_splits(path, even(4))
    assert all(s.leaky for s in read_splits(path, even(4), leaky=True))


def test_partial_says_what_is_left(tmp_path: Path):
    path = file(tmp_path, HEAD + "0,s0,,s6\n1,s2,,s5\n2,gone,,gone2\n")
    (split,) = read_splits(path, even(4), partial=True)
    assert parts(split) == [[0, 2], [5, 6]]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"format": "other"}', '{"format": "microtome splits 1"}'])
def test_damaged_json(tmp_path: Path, damage: str):
    with pytest.raises(CohortError):
        read_splits(file(tmp_path, damage, "splits.json"), even(4))


@pytest.mark.parametrize(
    ("key", "value"), [("train", "s0"), ("test", [1]), ("leaky", "no"), ("inner", [{}]), ("fold", None), ("name", 3)]
)
def test_json_of_wrong_types(tmp_path: Path, key: str, value: object):
    labels = even(12)
    write_splits(tmp_path / "splits.json", labels, nested_splits(labels, outer=2, inner=2))
    content = json.loads((tmp_path / "splits.json").read_text())
    content["folds"][1][key] = value
    with pytest.raises(CohortError, match="is damaged"):
        read_splits(file(tmp_path, json.dumps(content), "splits.json"), labels)


def test_an_empty_folder(tmp_path: Path):
    with pytest.raises(CohortError, match=r"holds no splits_0\.csv"):
        read_splits(tmp_path, even(4))
