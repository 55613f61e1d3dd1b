import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.cohort.splits import (
    OuterSplit,
    Split,
    add_inner,
    camelyon16_split,
    check_split,
    fixed_split,
    leave_one_group_out,
    nested_splits,
    row_groups,
    strata,
    tcga_patient,
    tcga_site,
)
from microtome.cohort.stratify import assign_groups, assign_rows
from microtome.cohort.table import Cohort, CohortSlide, read_cohort
from microtome.cohort.targets import Labels, Target, find_target, read_labels
from microtome.errors import CohortError, ConfigError
from tests.conftest import golden_cases, require_case

BINARY = Target("y", "binary", ("y",), ("0", "1"))


def labels_of(patients: Sequence[str], values, target: Target = BINARY, ids: Sequence[str] | None = None) -> Labels:
    ids = [f"s{i}" for i in range(len(patients))] if ids is None else ids
    rows = np.array(values, dtype=np.float64).reshape(len(patients), -1)
    return Labels(target, tuple(ids), tuple(patients), tuple((i,) for i in ids), rows)


def even(n_patients: int, per_patient: int = 2) -> Labels:
    patients = [f"p{i:02}" for i in range(n_patients) for _ in range(per_patient)]
    return labels_of(patients, [int(p[1:]) % 2 for p in patients])


def all_splits(splits: Sequence[OuterSplit]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(s.train, s.test) for s in splits] + [(i.train, i.test) for s in splits for i in s.inner]


@pytest.mark.parametrize("case", golden_cases("splits_nested_cv"), ids=lambda case: case.name)
def test_folds_are_those_of_the_reference(case):
    tables = json.loads((require_case(case) / "splits.json").read_text())
    how = {"patient_split": "patient", "center_split": "site", "random_split": "leaky-slides"}
    for table in tables.values():
        slides, patients, centres, found = (list(column) for column in zip(*table["rows"], strict=True))
        target = Target("y", "multiclass", ("y",), tuple(map(str, sorted(set(found)))))
        labels = labels_of(patients, found, target, slides)
        for scheme, expected in table["schemes"].items():
            settings_ = {
                "outer": expected["n_splits_outer"],
                "repeats": expected["n_repeats_outer"],
                "mode": how[scheme],
                "groups": centres if scheme == "center_split" else None,
            }
            splits = nested_splits(labels, inner=expected["n_splits_inner"], **settings_)
            assert [(s.repeat, s.fold) for s in splits] == [(f["repeat"], f["split"]) for f in expected["folds"]]
            for split, fold in zip(splits, expected["folds"], strict=True):
                assert split.test.tolist() == fold["test"]
                assert [inner.test.tolist() for inner in split.inner] == fold["inner_val"]
                assert split.leaky == (scheme == "random_split")
            # the releases that published results were made with
            old = nested_splits(labels, inner=0, compat="histossl", **settings_)
            tests = [test for repeat in expected["outer_test_with_old_scikit_learn"] for test in repeat["tests"]]
            assert [split.test.tolist() for split in old] == tests


@given(
    classes=st.lists(st.integers(0, 3), min_size=12, max_size=80),
    n_groups=st.integers(5, 30),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=40, deadline=None)
def test_assignment_is_that_of_scikit_learn(classes, n_groups, seed):
    sklearn = pytest.importorskip("sklearn")
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    y = np.array(classes)
    groups = np.random.default_rng(seed).integers(0, n_groups, len(y)).astype(str)
    if min(np.unique(y, return_counts=True)[1]) < 3 or len(set(groups)) < 3:
        return
    folds = assign_rows(y, 3, seed=seed)
    for k, (_, test) in enumerate(StratifiedKFold(3, shuffle=True, random_state=seed).split(y, y)):
        assert np.flatnonzero(folds == k).tolist() == test.tolist()
    if tuple(int(part) for part in sklearn.__version__.split(".")[:2]) < (1, 8):
        return  # shuffled the counts of groups and not the groups
    folds = assign_groups(y, groups, 3, seed=seed)
    for k, (_, test) in enumerate(StratifiedGroupKFold(3, shuffle=True, random_state=seed).split(y, y, groups)):
        assert np.flatnonzero(folds == k).tolist() == test.tolist()


@st.composite
def cohorts(draw):
    """Patients with one to four slides, at one or two sites, labels that differ within a patient."""
    n_patients = draw(st.integers(1, 24))
    rows = []
    for p in range(n_patients):
        sites = draw(st.lists(st.integers(0, 5), min_size=1, max_size=2))
        of_slide = st.tuples(st.just(f"p{p}"), st.sampled_from(sites).map("site{}".format), st.integers(0, 1))
        rows += draw(st.lists(of_slide, min_size=1, max_size=4))
    return draw(st.permutations(rows))


@given(
    cohort=cohorts(),
    outer=st.integers(2, 5),
    inner=st.sampled_from([0, 2, 3]),
    seed=st.integers(0, 1000),
    by_site=st.booleans(),
    compat=st.sampled_from([None, "histossl"]),
)
@settings(max_examples=150, deadline=None)
def test_no_patient_and_no_site_is_ever_on_both_sides(cohort, outer, inner, seed, by_site, compat):
    labels, sites = labels_of([r[0] for r in cohort], [r[2] for r in cohort]), [r[1] for r in cohort]
    groups = sites if by_site else None
    try:
        splits = nested_splits(labels, outer=outer, inner=inner, seed=seed, repeats=2, groups=groups, compat=compat)
    except CohortError:  # tested below; here what is not refused must hold
        return
    patients = np.array(labels.patient_ids)
    for train, test in all_splits(splits):
        assert not set(patients[train]) & set(patients[test])
        assert len(set(labels.values[train, 0])) == 2
        if by_site:
            assert not set(np.array(sites)[train]) & set(np.array(sites)[test])
    for repeat in range(2):
        tests = np.concatenate([s.test for s in splits if s.repeat == repeat])
        assert sorted(tests.tolist()) == list(range(len(labels)))
    for split in splits:
        assert sorted([*split.train.tolist(), *split.test.tolist()]) == list(range(len(labels)))
        if inner:
            inner_tests = np.concatenate([i.test for i in split.inner])
            assert sorted(inner_tests.tolist()) == split.train.tolist()


def test_classes_are_even_and_a_seed_decides():
    labels = even(40)
    splits = nested_splits(labels, seed=3)
    assert [int(labels.values[s.test].sum()) for s in splits] == [8] * 5  # 40 of 80 slides are positive
    again, other = nested_splits(labels, seed=3), nested_splits(labels, seed=4)
    assert [s.test.tolist() for s in splits] == [s.test.tolist() for s in again]
    assert [s.test.tolist() for s in splits] != [s.test.tolist() for s in other]


def test_a_patient_at_two_sites_joins_them():
    patients = ["a", "a", "b", "c", "d", "e", "f", "g"]
    sites = ["1", "2", "1", "2", "3", "3", "4", "4"]
    labels = labels_of(patients, [0, 1, 0, 1, 0, 1, 0, 1])
    for split in nested_splits(labels, outer=3, inner=0, mode="site", groups=sites):
        side = np.isin(np.arange(8), split.test)
        assert len(set(side[[0, 1, 2, 3]].tolist())) == 1


def test_sites_of_tcga_barcodes():
    slides = [f"TCGA-{site}-{i:04}-01Z-00-DX{k}" for i, site in enumerate(["A1", "A2", "E2", "BH"] * 3) for k in (1, 2)]
    labels = labels_of([tcga_patient(s) for s in slides], [(i // 8) % 2 for i in range(len(slides))], ids=slides)
    for split in nested_splits(labels, outer=2, inner=0, mode="site"):
        sites = [{tcga_site(slides[i]) for i in side} for side in (split.train, split.test)]
        assert not sites[0] & sites[1]
    with pytest.raises(CohortError, match="no TCGA barcode"):
        nested_splits(even(10), mode="site")


@pytest.mark.parametrize("name", ["TCGA-A1-A0SH", "tcga-a1-a0sh-01Z.svs", "TCGA-A1-A0SH.90E7"])
def test_a_patient_is_the_first_12_characters(name):
    assert tcga_patient(name) == "TCGA-A1-A0SH"


@pytest.mark.parametrize("name", ["", "TCGA-A1-A0S", "TCGA-A1-A0SHX", "GTEX-A1-A0SH", "x TCGA-A1-A0SH"])
def test_what_is_no_barcode(name):
    with pytest.raises(CohortError, match="no TCGA barcode"):
        tcga_patient(name)


def test_what_cannot_be_split_is_refused_with_the_reason():
    with pytest.raises(CohortError, match=r"5 folds need at least 5 patients.* There are 4"):
        nested_splits(even(4))
    with pytest.raises(CohortError, match=r"5 folds need at least 5 patients.* There are 4"):
        nested_splits(even(5))  # the inner ones have four patients left
    rare = labels_of([f"p{i}" for i in range(20)], [1, 1, 1] + [0] * 17)
    with pytest.raises(CohortError, match=r"one class only \(0\)"):
        nested_splits(rare, inner=0)
    censored = Target("os", "survival", ("t", "e"))
    few = labels_of([f"p{i}" for i in range(20)], [[i + 1, i == 3] for i in range(20)], censored)
    with pytest.raises(CohortError, match="has no event"):
        nested_splits(few, inner=0)
    # an event in every fold, but at the last time of each: nobody is known to have had it later
    late = labels_of([f"p{i}" for i in range(20)], [[100 if i < 5 else i, i < 5] for i in range(20)], censored)
    with pytest.raises(CohortError, match="who had the event first"):
        nested_splits(late, inner=0)
    early = labels_of([f"p{i}" for i in range(20)], [[1 if i < 5 else i, i < 5] for i in range(20)], censored)
    assert len(nested_splits(early, inner=0)) == 5
    three = Target("y", "multiclass", ("y",), ("a", "b", "c"))
    once = labels_of([f"p{i}" for i in range(20)], [2] + [0, 1] * 9 + [0], three)
    with pytest.raises(CohortError, match=r"the training side .* has no c"):
        nested_splits(once, inner=0)
    flags = Target("m", "multilabel", ("a", "b"), ("a", "b"))
    lone = labels_of([f"p{i}" for i in range(20)], [[i % 2, i == 3] for i in range(20)], flags)
    with pytest.raises(CohortError, match="one value only of b"):
        nested_splits(lone, inner=0)


@pytest.mark.parametrize("numbers", [{"outer": 1}, {"inner": 1}, {"inner": -2}, {"repeats": 0}])
def test_settings_that_cannot_be(numbers):
    with pytest.raises(ConfigError):
        nested_splits(even(20), **numbers)


def test_groups_of_another_length_or_of_a_leaky_split_are_refused():
    with pytest.raises(ConfigError, match="one name per row"):
        nested_splits(even(10), groups=["a"] * 3)
    with pytest.raises(ConfigError, match="leaky-slides"):
        nested_splits(even(10), mode="leaky-slides", groups=["a"] * 20)


def test_a_leaky_split_is_marked_and_does_leak():
    labels = even(12, per_patient=4)
    splits = nested_splits(labels, mode="leaky-slides")
    assert all(s.leaky for s in splits)
    patients = np.array(labels.patient_ids)
    assert any(set(patients[s.train]) & set(patients[s.test]) for s in splits)
    with pytest.raises(CohortError, match=r"patient 'p.*' is on both sides"):
        check_split(labels, [OuterSplit(s.repeat, s.fold, s.train, s.test) for s in splits])


def test_regression_is_balanced_by_fifths():
    target = Target("r", "regression", ("r",))
    values = np.random.default_rng(0).lognormal(size=100)
    labels = labels_of([f"p{i}" for i in range(100)], values, target)
    assert np.bincount(strata(labels)).tolist() == [20] * 5
    for split in nested_splits(labels, inner=0):
        assert np.bincount(strata(labels)[split.test]).tolist() == [4] * 5


def test_strata_of_other_targets():
    survival = labels_of(list("abcd"), [[5, 1], [3, 0], [2, 1], [9, 0]], Target("os", "survival", ("t", "e")))
    assert strata(survival).tolist() == [1, 0, 1, 0]
    rows = [[0, 0]] * 5 + [[1, np.nan]] * 6 + [[1, 1]] + [[0, 1]]
    many = labels_of([str(i) for i in range(13)], rows, Target("m", "multilabel", ("a", "b"), ("a", "b")))
    found = strata(many)
    assert len(set(found[:5])) == len(set(found[5:11])) == len(set(found[11:])) == 1  # rare ones count as one
    assert len(set(found)) == 3


def test_leave_one_site_out():
    sites = ["x", "x", "y", "y", "z", "z", "z", "z"]
    labels = labels_of(list("aabbcdef"), [0, 0, 1, 1, 0, 1, 0, 1])
    splits = leave_one_group_out(labels, sites, inner=0)
    assert [s.name for s in splits] == ["x", "y", "z"]
    assert [s.test.tolist() for s in splits] == [[0, 1], [2, 3], [4, 5, 6, 7]]  # a site of one class is tested
    with pytest.raises(CohortError, match="'a' is in the groups x, y"):
        leave_one_group_out(labels, ["x", "y", *sites[2:]], inner=0)
    with pytest.raises(CohortError, match="at least two groups"):
        leave_one_group_out(labels, ["x"] * 8, inner=0)
    with pytest.raises(CohortError, match=r"\(z\): the training side .* has no 1"):
        leave_one_group_out(labels_of(list("aabbcdef"), [0, 0, 0, 0, 0, 1, 0, 1]), sites, inner=0)


def test_inner_folds_of_left_out_sites_keep_sites_together():
    sites = [f"s{i % 6}" for i in range(36)]
    labels = labels_of([f"p{i}" for i in range(36)], [(i // 6) % 2 for i in range(36)])
    for split in leave_one_group_out(labels, sites, inner=2, seed=5):
        assert len(split.inner) == 2
        for within in split.inner:
            assert not {sites[i] for i in within.train} & {sites[i] for i in within.test}


def test_camelyon16_by_names():
    ids = ["normal_001", "tumor_001", "normal_002", "test_001", "test_002"]
    labels = labels_of(ids, [0, 1, 0, 0, 1], ids=ids)
    (split,) = camelyon16_split(labels)
    assert (split.train.tolist(), split.test.tolist(), split.inner) == ([0, 1, 2], [3, 4], ())
    with pytest.raises(CohortError, match="'x' has no name"):
        camelyon16_split(labels_of(list("xy"), [0, 1], ids=["x", "test_001"]))
    with pytest.raises(CohortError, match="test side is empty"):
        camelyon16_split(labels.take(np.array([0, 1])))


def test_inner_folds_for_a_fixed_split():
    labels = even(20)
    splits = fixed_split(labels, [f"s{i}" for i in range(8)])
    (nested,) = add_inner(labels, splits, inner=3, seed=1)
    assert nested.test.tolist() == list(range(8))
    assert sorted(np.concatenate([i.test for i in nested.inner]).tolist()) == list(range(8, 40))
    check_split(labels, [nested])
    labels = even(80)  # the inner folds of nested_splits are those of its outer folds, split by themselves
    for settings_ in ({}, {"compat": "histossl"}, {"stratify": False}):
        whole = nested_splits(labels, outer=2, inner=3, seed=4, **settings_)
        alone = nested_splits(labels, outer=2, inner=0, seed=4, **settings_)
        for a, b in zip(whole, add_inner(labels, alone, inner=3, seed=4, **settings_), strict=True):
            assert [i.test.tolist() for i in a.inner] == [i.test.tolist() for i in b.inner]
    with pytest.raises(CohortError, match="'nobody'"):
        fixed_split(labels, ["nobody"])
    with pytest.raises(CohortError, match="patient 'p00' is on both sides"):
        fixed_split(labels, ["s0"])


def rows(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


@pytest.mark.parametrize(
    ("split", "reason"),
    [
        (OuterSplit(0, 0, rows(0, 2), rows(1, 3)), "patient 'p00'"),
        (OuterSplit(0, 0, rows(0, 1), rows(0, 1)), "row 0 is on both sides"),
        (OuterSplit(0, 0, rows(), rows(1)), "training side is empty"),
        (OuterSplit(0, 0, rows(0, 1), rows()), "test side is empty"),
        (OuterSplit(0, 0, rows(0, 1), rows(9)), "0..7"),
        (OuterSplit(0, 0, rows(1, 0), rows(2)), "rise"),
        (OuterSplit(0, 0, rows(0, 0), rows(2)), "rise"),
        (OuterSplit(0, 0, rows(0, 1, 2, 3), rows(4, 5), (Split(rows(0, 1), rows(6, 7)),)), "'s6' is not on the outer"),
        (OuterSplit(0, 0, rows(0, 1, 2, 3), rows(4, 5), (Split(rows(0, 2), rows(1, 3)),)), "inner fold 0: patient"),
    ],
)
def test_a_wrong_split_is_refused(split, reason):
    with pytest.raises(CohortError, match=reason):
        check_split(even(4), [split])


def test_groups_are_checked_too():
    split = OuterSplit(0, 0, rows(0, 1), rows(2, 3))
    check_split(even(4), [split])
    with pytest.raises(CohortError, match="group 'x' is on both sides"):
        check_split(even(4), [split], groups=["x"] * 8)


def test_groups_of_a_column():
    slides = tuple(CohortSlide(f"s{i}", f"p{i // 2:02}", labels={"site": str(i // 2)}) for i in range(4))
    cohort = Cohort(slides, ("site",))
    assert row_groups(even(2), cohort, "site") == ("0", "0", "1", "1")
    gap = Cohort((*slides[:3], CohortSlide("s3", "p01", labels={"site": None})), ("site",))
    with pytest.raises(CohortError, match="'s3' has no 'site'"):
        row_groups(even(2), gap, "site")
    one = Labels(BINARY, ("p",), ("p",), (("s0", "s3"),), np.zeros((1, 1)), unit="patient")
    with pytest.raises(CohortError, match="differ in 'site': 0, 1"):
        row_groups(one, cohort, "site")


@pytest.mark.parametrize("by_site", [False, True])
def test_a_public_table_of_two_cohorts(shared: Path, by_site: bool):
    cohort = read_cohort(shared / "data" / "labels" / "slideflow" / "lung_labels.csv")
    labels = read_labels(cohort, find_target(cohort, "subtype", positive="squamous"))
    sites = row_groups(labels, cohort, "site")
    splits = nested_splits(labels, inner=2, groups=sites if by_site else None)
    shares = [labels.values[s.test, 0].mean() for s in splits]
    overall = labels.values[:, 0].mean()
    assert max(abs(share - overall) for share in shares) < (0.1 if by_site else 0.01)
    for train, test in all_splits(splits):
        of_train = {sites[i] if by_site else labels.patient_ids[i] for i in train}
        assert not of_train & {sites[i] if by_site else labels.patient_ids[i] for i in test}


def test_splits_of_files_are_absent(tmp_path: Path):
    from microtome.cohort.splits import read_splits

    with pytest.raises(CohortError, match="cannot be read"):
        read_splits(tmp_path / "none.csv", even(4))
