"""Splits of a cohort by patient, at every level."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped

from microtome.cohort.groups import bound_groups, groups_of_patients, per_row, row_groups, tcga_patient, tcga_site
from microtome.cohort.split_files import FileSplit, read_file_splits, write_file_splits
from microtome.cohort.stratify import assign_groups, assign_rows, strata
from microtome.cohort.targets import Labels
from microtome.errors import CohortError, ConfigError

__all__ = [
    "OuterSplit",
    "Split",
    "SplitMode",
    "add_inner",
    "bound_groups",
    "camelyon16_split",
    "check_learnable",
    "check_split",
    "fixed_split",
    "leave_one_group_out",
    "nested_splits",
    "read_splits",
    "row_groups",
    "strata",
    "tcga_patient",
    "tcga_site",
    "write_splits",
]

SplitMode = Literal["patient", "site", "leaky-slides"]

_CAMELYON16 = re.compile(r"(normal|tumor|test)_\d+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Split:
    """Rows on the two sides of a split.

    Attributes:
        train: Row numbers, rising.
        test: Row numbers, rising; none of them in ``train``, and no patient on both sides.
    """

    train: Int64[np.ndarray, " n"]
    test: Int64[np.ndarray, " m"]


@dataclass(frozen=True, slots=True)
class OuterSplit:
    """An outer fold with its inner ones.

    Attributes:
        repeat: Number of the repeat, from 0.
        fold: Number of the fold, from 0.
        train: Rows to develop the model on.
        test: Rows that judge it.
        inner: Splits of ``train``; row numbers are those of the whole table. Empty where there is no inner level.
        name: The group that is left out, where there is one.
        leaky: Patients may be on both sides: whatever comes of it must say so.
    """

    repeat: int
    fold: int
    train: Int64[np.ndarray, " n"]
    test: Int64[np.ndarray, " m"]
    inner: tuple[Split, ...] = ()
    name: str = ""
    leaky: bool = False


def nested_splits(  # noqa: PLR0913 - each is a setting of its own, and a flag of `microtome cv`
    labels: Labels,
    *,
    outer: int = 5,
    inner: int = 5,
    repeats: int = 1,
    seed: int = 0,
    mode: SplitMode = "patient",
    groups: Sequence[str] | None = None,
    stratify: bool = True,
    compat: Literal["histossl"] | None = None,
) -> tuple[OuterSplit, ...]:
    """Folds within folds; no patient, and no group, is on both sides of any of them.

    Args:
        labels: The rows.
        outer: Number of outer folds, at least 2.
        inner: Number of folds of each outer training side, at least 2, or 0 for none.
        repeats: How often the table is split anew.
        seed: Repeat r has the seed ``seed + r``, its inner folds ``seed``.
        mode: patient; site (patients of one site stay together; sites are ``groups``, or those of TCGA barcodes); or
            leaky-slides (rows are split whoever's they are, for comparison with results that were made so; marked
            leaky).
        groups: A coarser group of each row (its site, say) whose rows stay together too.
        stratify: Balance :func:`strata` over the folds.
        compat: histossl makes the outer and inner folds of the releases of scikit-learn (up to 1.7) that its
            published results were made with: by patient or site, but barely stratified.

    Returns:
        Outer folds, repeat by repeat; the test sides of one repeat partition the rows.

    Raises:
        CohortError: If there are fewer patients (groups) than folds, or a side would have one class or no event.
        ConfigError: If a setting cannot be.

    References:
        HistoSSL (73f1d19), specification section 4 and correction 8: patient_split, center_split, random_split.
    """
    _check_numbers(outer, inner, repeats, mode)
    bound = None if mode == "leaky-slides" else bound_groups(labels, _coarse(labels, mode, groups))
    if bound is None and groups is not None:
        raise ConfigError("mode leaky-slides splits rows whoever's they are: groups mean nothing. Leave them out.")
    classes = strata(labels) if stratify else np.zeros(len(labels), np.int64)
    old = compat == "histossl"
    splits = []
    for repeat in range(repeats):
        rows = np.arange(len(labels))
        for fold, (train, test) in enumerate(_folds(rows, classes, bound, outer, seed=seed + repeat, old=old)):
            within = _folds(train, classes, bound, inner, seed=seed, old=old) if inner else []
            pairs = tuple(Split(*sides) for sides in within)
            splits.append(OuterSplit(repeat, fold, train, test, pairs, leaky=bound is None))
    for split in splits:
        check_learnable(labels, split)
    check_split(labels, splits, groups=bound)
    return tuple(splits)


def leave_one_group_out(
    labels: Labels, groups: Sequence[str], *, inner: int = 5, seed: int = 0
) -> tuple[OuterSplit, ...]:
    """Each group (site, centre) is the test side once; inner folds keep groups together as well.

    Args:
        labels: The rows.
        groups: Group of each row.
        inner: Number of folds of each training side, at least 2, or 0 for none.
        seed: Of the inner folds.

    Returns:
        One fold per group, in the order of the groups' names, which ``name`` holds. A test side may have one class.

    Raises:
        CohortError: If there are fewer than two groups, a patient is in several, or a training side cannot be learned
            from or split.
        ConfigError: If ``inner`` is 1 or negative.
    """
    _check_numbers(2, inner, 1, "patient")
    of = per_row(labels, groups)
    names = sorted(set(of.tolist()))
    if len(names) < 2:
        raise CohortError(f"Leaving one group out needs at least two groups. Got {len(names)}: {', '.join(names)}.")
    for patient, own in groups_of_patients(labels, of).items():
        if len(own) > 1:
            raise CohortError(
                f"Patient {patient!r} is in the groups {', '.join(sorted(own))}: none of them can be left out without "
                "the patient being on both sides. Correct the groups, or leave the patient out."
            )
    splits = []
    for fold, name in enumerate(names):
        train, test = np.flatnonzero(of != name), np.flatnonzero(of == name)
        within = _folds(train, strata(labels), of, inner, seed=seed) if inner else []
        splits.append(OuterSplit(0, fold, train, test, tuple(Split(*sides) for sides in within), name))
        check_learnable(labels, splits[-1], test_too=False)
    check_split(labels, splits, groups=of)
    return tuple(splits)


def add_inner(
    labels: Labels,
    splits: Sequence[OuterSplit],
    *,
    inner: int,
    seed: int = 0,
    groups: Sequence[str] | None = None,
    stratify: bool = True,
    compat: Literal["histossl"] | None = None,
) -> tuple[OuterSplit, ...]:
    """Split the training side of fixed splits into folds, by patient and group; those that have inner splits stay.

    Arguments as in :func:`nested_splits`.

    Raises:
        CohortError: As :func:`nested_splits`.
        ConfigError: If ``inner`` is below 2.
    """
    _check_numbers(2, max(inner, 1), 1, "patient")
    bound = bound_groups(labels, groups)
    classes = strata(labels) if stratify else np.zeros(len(labels), np.int64)
    made = []
    for split in splits:
        within = split.inner or tuple(
            Split(*sides) for sides in _folds(split.train, classes, bound, inner, seed=seed, old=compat == "histossl")
        )
        made.append(replace(split, inner=within))
        check_learnable(labels, made[-1], test_too=False)
    check_split(labels, made)
    return tuple(made)


def fixed_split(labels: Labels, test: Iterable[str]) -> tuple[OuterSplit, ...]:
    """One split with the named rows (ids of the unit, or of all their slides) as its test side.

    Raises:
        CohortError: If a name is not in the cohort, a side is empty, or a patient is on both.
    """
    named = tuple(test)
    rows_of = _RowFinder(labels)
    tested = {row for name in named if (row := rows_of.find(name, partial=False)) is not None}
    train_ids = tuple(id_ for row, id_ in enumerate(labels.ids) if row not in tested)
    return _from_file(labels, [FileSplit(0, 0, train_ids, named)], "the named rows", partial=False, leaky=False)


def camelyon16_split(labels: Labels) -> tuple[OuterSplit, ...]:
    """Camelyon16's own sides by the names of its slides: normal_* and tumor_* train (269), test_* test (130).

    Raises:
        CohortError: If a slide is named otherwise, or a side is empty.
    """
    sides = {}
    for ids in labels.slide_ids:
        for slide_id in ids:
            match = _CAMELYON16.match(slide_id)
            if match is None:
                raise CohortError(f"Slide {slide_id!r} has no name of Camelyon16: normal_*, tumor_* or test_*.")
            sides[slide_id] = match[1].lower()
    return fixed_split(labels, [slide_id for slide_id, side in sides.items() if side == "test"])


def read_splits(
    path: str | Path, labels: Labels, *, partial: bool = False, leaky: bool = False
) -> tuple[OuterSplit, ...]:
    """Read fixed splits: of CLAM, of a table with folds or sides, or what :func:`write_splits` wrote.

    Args:
        path: ``splits_0.csv`` or ``splits_0_bool.csv`` of CLAM, or a folder of them (one fold each; validation becomes
            the inner test side); a table with ids and ``fold`` (or ``fold_0``, ``fold_1``, ... for repeats), or with
            ``split`` (also ``set``, ``subset``, ``dataset``, ``partition``) holding train, val and test; or our JSON.
        labels: The rows; ids of the file are theirs or their slides', with or without the file's suffix. Ids that
            :func:`~microtome.cohort.targets.read_labels` excluded are passed over.
        partial: Pass over ids that are not in the cohort, and leave out rows that the file does not name, in place of
            an error. ``train`` and ``test`` say what is left.
        leaky: Take splits that have patients on both sides; they are marked.

    Returns:
        The splits.

    Raises:
        CohortError: If the file cannot be read, names what is not in the cohort or leaves rows out, a side is empty
            or cannot be learned from, or a patient is on both sides.
    """
    return _from_file(labels, read_file_splits(Path(path)), f"'{path}'", partial=partial, leaky=leaky)


def write_splits(path: str | Path, labels: Labels, splits: Sequence[OuterSplit]) -> None:
    """Write splits as JSON, by id, for :func:`read_splits`."""
    ids = labels.ids

    def named(rows: Int64[np.ndarray, " n"]) -> tuple[str, ...]:
        return tuple(ids[row] for row in rows)

    written = [
        FileSplit(
            s.repeat,
            s.fold,
            named(s.train),
            named(s.test),
            tuple((named(i.train), named(i.test)) for i in s.inner),
            s.name,
            s.leaky,
        )
        for s in splits
    ]
    write_file_splits(Path(path), labels.unit, written)


def check_split(
    labels: Labels, splits: Sequence[OuterSplit], *, groups: Sequence[str] | Shaped[np.ndarray, " n"] | None = None
) -> None:
    """Make sure that no patient, and no group, is on both sides of any split, at any level. Nothing is repaired.

    Args:
        labels: The rows.
        splits: What is checked; those that are marked leaky may share patients, and nothing else.
        groups: Group of each row that must stay together too.

    Raises:
        CohortError: If a patient or group is on both sides, a row is on both or twice on one or is not of the table,
            a side is empty, or an inner split has rows from outside of its training side; the sentence says which.
    """
    patients = np.array(labels.patient_ids, dtype=np.str_)
    keep = {"patient": patients} if groups is None else {"patient": patients, "group": per_row(labels, groups)}
    for split in splits:
        where = f"repeat {split.repeat}, fold {split.fold}"
        bound = {} if split.leaky else keep
        _check_sides(split.train, split.test, len(labels), where, bound)
        for k, within in enumerate(split.inner):
            inside = f"{where}, inner fold {k}"
            _check_sides(within.train, within.test, len(labels), inside, bound)
            outside = np.setdiff1d(np.concatenate([within.train, within.test]), split.train)
            if len(outside):
                raise CohortError(
                    f"{inside}: row {labels.ids[outside[0]]!r} is not on the outer training side. An inner split may "
                    "divide that side only."
                )


def _check_sides(
    train: Int64[np.ndarray, " n"],
    test: Int64[np.ndarray, " m"],
    n_rows: int,
    where: str,
    bound: Mapping[str, Shaped[np.ndarray, " r"]],
) -> None:
    for side, rows in (("training", train), ("test", test)):
        if not len(rows):
            raise CohortError(f"{where}: the {side} side is empty.")
        if rows.min() < 0 or rows.max() >= n_rows or (np.diff(rows) <= 0).any():
            raise CohortError(f"{where}: rows of the {side} side must rise and lie in 0..{n_rows - 1}.")
    both = np.intersect1d(train, test)
    if len(both):
        raise CohortError(f"{where}: row {both[0]} is on both sides.")
    for what, of in bound.items():
        shared = np.intersect1d(of[train], of[test])
        if len(shared):
            raise CohortError(
                f"{where}: {what} {str(shared[0])!r} is on both sides ({len(shared)} in all). What is learned of a "
                f"{what} would be tested on the same {what}. Split by {what}."
            )


def check_learnable(labels: Labels, split: OuterSplit, *, test_too: bool = True) -> None:
    """Make sure that each side of a split has what a model needs to learn, and a metric to judge.

    A training side needs every class that the table has, or an event; a test side two classes, or an event and a row
    that is known to have had it later.

    Args:
        labels: The rows.
        split: What is checked, with its inner splits (whose test sides choose the epoch).
        test_too: Check the outer test side.

    Raises:
        CohortError: If a side lacks one; the sentence says what to do.
    """
    where = f"repeat {split.repeat}, fold {split.fold}" + (f" ({split.name})" if split.name else "")
    sides = [(split.train, f"{where}: the training side", True)]
    if test_too:
        sides.append((split.test, f"{where}: the test side", False))
    for k, within in enumerate(split.inner):
        sides.append((within.train, f"{where}, inner fold {k}: the training side", True))
        sides.append((within.test, f"{where}, inner fold {k}: the test side", False))
    for rows, side, every in sides:
        lacking = _lacking(labels, rows, every=every)
        if lacking:
            raise CohortError(
                f"{side} ({len(rows)} of {len(labels)} rows) {lacking}. Take fewer folds, another seed, or more "
                "patients of the rare kind."
            )


def _lacking(labels: Labels, rows: Int64[np.ndarray, " n"], *, every: bool) -> str:
    """What a side lacks, or nothing."""
    target, values = labels.target, labels.values
    if target.type == "regression":
        return ""
    if target.type == "survival":
        return _lacking_events(values[rows, 0], values[rows, 1] > 0, every=every)
    if target.type == "multilabel":
        mixed = [len(np.unique(v[~np.isnan(v)])) == 2 for v in values[rows].T]
        poor = [name for name, ok in zip(target.classes, mixed, strict=True) if not ok]
        return f"has one value only of {', '.join(poor)}" if poor and (every or not any(mixed)) else ""
    here = np.unique(values[rows, 0])
    names = [target.classes[int(k)] for k in np.setdiff1d(values[:, 0], here)]
    if every and names:
        return f"has no {', '.join(names)}"
    return f"has one class only ({target.classes[int(here[0])]})" if len(here) < 2 else ""


def _lacking_events(times: Float64[np.ndarray, " n"], events: Bool[np.ndarray, " n"], *, every: bool) -> str:
    """An event; on a test side also a row that is known to have had it later, or a concordance has nothing to count."""
    if not events.any():
        return "has no event"
    first = times[events].min()
    if every or (times > first).any() or ((times == first) & ~events).any():
        return ""
    return "has no two rows of which it is known who had the event first"


def _coarse(labels: Labels, mode: SplitMode, groups: Sequence[str] | None) -> Sequence[str] | None:
    if mode == "site" and groups is None:
        return [tcga_site(patient) for patient in labels.patient_ids]
    return groups


def _check_numbers(outer: int, inner: int, repeats: int, mode: str) -> None:
    if outer < 2 or inner < 0 or inner == 1 or repeats < 1:
        raise ConfigError(
            f"There must be at least 2 outer folds, 0 or at least 2 inner ones, and 1 repeat. Got {outer}, {inner} "
            f"and {repeats}."
        )
    if mode not in get_args(SplitMode):
        raise ConfigError(f"mode must be one of {', '.join(get_args(SplitMode))}. Got {mode!r}.")


def _folds(
    rows: Int64[np.ndarray, " n"],
    classes: Int64[np.ndarray, " t"],
    bound: Shaped[np.ndarray, " t"] | None,
    n_folds: int,
    *,
    seed: int,
    old: bool = False,
) -> list[tuple[Int64[np.ndarray, " a"], Int64[np.ndarray, " b"]]]:
    """(train, test) of each fold of some rows of the table."""
    if bound is None:
        n_units, what = len(rows), "rows"
    else:
        n_units, what = len(np.unique(bound[rows])), "patients, or groups of patients that stay together,"
    if n_units < n_folds:
        raise CohortError(
            f"{n_folds} folds need at least {n_folds} {what} on the side that is split. There are {n_units}. Take "
            "fewer folds."
        )
    if bound is None:
        fold_of = assign_rows(classes[rows], n_folds, seed=seed)
    else:
        fold_of = assign_groups(classes[rows], bound[rows], n_folds, seed=seed, shuffle_counts_only=old)
    return [(rows[fold_of != fold], rows[fold_of == fold]) for fold in range(n_folds)]


class _RowFinder:
    """Rows by the names that a file may have for them."""

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        self._rows: dict[str, int] = {}
        for row, slides in enumerate(labels.slide_ids):
            for name in (*slides, labels.ids[row]):
                self._rows[name] = row
                self._rows.setdefault(_stem(name), row)
        self._excluded = {form for slide in labels.excluded for form in (slide, _stem(slide))}

    def find(self, name: str, *, partial: bool) -> int | None:
        """The row, or None where it is excluded (or, if partial, not there)."""
        for form in (name, _stem(name)):
            if form in self._rows:
                return self._rows[form]
        if partial or name in self._excluded or _stem(name) in self._excluded:
            return None
        raise CohortError(f"{name!r} of the splits is not in the cohort. Add it, or pass partial to pass over it.")


def _stem(name: str) -> str:
    """A slide's name without the suffix of its file."""
    return re.sub(r"\.(svs|tiff?|ndpi|mrxs|scn|bif|h5|pt|dcm)$", "", name, flags=re.IGNORECASE)


def _from_file(
    labels: Labels, found: Sequence[FileSplit], where: str, *, partial: bool, leaky: bool
) -> tuple[OuterSplit, ...]:
    finder = _RowFinder(labels)

    def rows(names: Iterable[str]) -> Int64[np.ndarray, " n"]:
        numbers = {row for name in names if (row := finder.find(name, partial=partial)) is not None}
        return np.array(sorted(numbers), dtype=np.int64)

    splits = []
    for one in found:
        inner = tuple(Split(rows(train), rows(test)) for train, test in one.inner)
        split = OuterSplit(one.repeat, one.fold, rows(one.train), rows(one.test), inner, one.name, one.leaky or leaky)
        _check_complete(labels, split, where, partial=partial)
        splits.append(split)
    check_split(labels, splits)
    for split in splits:
        check_learnable(labels, split, test_too=False)
    return tuple(splits)


def _check_complete(labels: Labels, split: OuterSplit, where: str, *, partial: bool) -> None:
    left_out = np.setdiff1d(np.arange(len(labels)), np.concatenate([split.train, split.test]))
    if len(left_out) and not partial:
        raise CohortError(
            f"Fold {split.fold} of {where} does not name {len(left_out)} of {len(labels)} rows, "
            f"{labels.ids[left_out[0]]!r} for one. Pass partial to leave them out, or other splits."
        )
