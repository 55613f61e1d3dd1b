"""Assign groups to folds so that each fold has the same mix of classes."""

import numpy as np
from jaxtyping import Float, Float64, Int, Int64, Shaped

from microtome.cohort.targets import Labels

_BINS = 5  # of a number, and least rows of a combination of labels that counts as one


def strata(labels: Labels) -> Int64[np.ndarray, " n"]:
    """What folds are balanced by: one number per row.

    The class; the event of survival times; fifths of a regression value; the combination of labels of a multi-label
    target, where those that less than five rows have count as one.
    """
    kind, values = labels.target.type, labels.values
    if kind == "survival":
        return values[:, 1].astype(np.int64)
    if kind == "regression":
        edges = np.quantile(values[:, 0], np.arange(1, _BINS) / _BINS)
        return np.searchsorted(edges, values[:, 0], side="right").astype(np.int64)
    if kind == "multilabel":
        _, number, counts = np.unique(np.nan_to_num(values, nan=-1), axis=0, return_inverse=True, return_counts=True)
        return np.where(counts[number] < _BINS, -1, number).astype(np.int64)
    return values[:, 0].astype(np.int64)


def assign_groups(
    classes: Int[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    n_folds: int,
    *,
    seed: int,
    shuffle_counts_only: bool = False,
) -> Int64[np.ndarray, " n"]:
    """Give each row a fold; rows of one group share it, and classes are spread evenly.

    Groups are shuffled, then taken by falling spread of their class counts; each goes to the fold that leaves the
    share of every class most even over the folds, the emptier one of equals. Written out here, so that a seed gives
    the same folds under every release of scikit-learn.

    Args:
        classes: Stratum of each row.
        groups: Group of each row; the order of their names decides which shuffle gets which.
        n_folds: Number of folds, at most the number of groups.
        seed: Decides the shuffle.
        shuffle_counts_only: Shuffle the class counts but not the groups that they are of, as scikit-learn up to 1.7
            did: folds are then barely stratified. Published folds were made so.

    Returns:
        Number of each row's fold, 0..n_folds - 1.

    References:
        scikit-learn 1.9 StratifiedGroupKFold(shuffle=True), whose folds these are.
    """
    _, class_of = np.unique(classes, return_inverse=True)
    _, group_of = np.unique(groups, return_inverse=True)
    counts = np.zeros((group_of.max() + 1, class_of.max() + 1))
    np.add.at(counts, (group_of, class_of), 1)
    order = np.arange(len(counts))
    random = np.random.RandomState(seed)
    if shuffle_counts_only:
        random.shuffle(counts)
    else:
        random.shuffle(order)
        counts = counts[order]
    fold_of_position = _spread_evenly(counts, n_folds)
    fold_of_group = np.empty(len(counts), np.int64)
    fold_of_group[order] = fold_of_position
    return fold_of_group[group_of]


def _spread_evenly(counts: Float64[np.ndarray, "g c"], n_folds: int) -> Int64[np.ndarray, " g"]:
    """Fold of each group, by its class counts."""
    totals = counts.sum(axis=0)
    in_fold = np.zeros((n_folds, counts.shape[1]))
    fold_of = np.empty(len(counts), np.int64)
    this_fold = np.eye(n_folds)[:, :, None]
    for group in np.argsort(-np.std(counts, axis=1), kind="stable"):
        tried = (in_fold + this_fold * counts[group]) / totals
        unevenness = np.std(tried, axis=1).mean(axis=1)
        best = _least(unevenness, in_fold.sum(axis=1))
        in_fold[best] += counts[group]
        fold_of[group] = best
    return fold_of


def _least(unevenness: Float[np.ndarray, " f"], sizes: Float[np.ndarray, " f"]) -> int:
    """The most even fold; among those that are close to it, a smaller one."""
    best = 0
    for fold in range(1, len(sizes)):
        close = np.isclose(unevenness[fold], unevenness[best])
        if unevenness[fold] < unevenness[best] or (close and sizes[fold] < sizes[best]):
            best = fold
    return best


def assign_rows(classes: Int[np.ndarray, " n"], n_folds: int, *, seed: int) -> Int64[np.ndarray, " n"]:
    """Give each row a fold by itself, classes spread evenly; whose the rows are does not count.

    Returns:
        Number of each row's fold, 0..n_folds - 1.

    References:
        scikit-learn StratifiedKFold(shuffle=True), whose folds these are.
    """
    _, first, number = np.unique(classes, return_index=True, return_inverse=True)
    class_of = np.argsort(np.argsort(first))[number]  # numbered as they first occur
    in_order = np.sort(class_of)
    n_of = np.array([np.bincount(in_order[fold::n_folds], minlength=len(first)) for fold in range(n_folds)])
    random = np.random.RandomState(seed)
    fold_of = np.empty(len(classes), np.int64)
    for k in range(len(first)):
        folds = np.arange(n_folds).repeat(n_of[:, k])
        random.shuffle(folds)
        fold_of[class_of == k] = folds
    return fold_of
