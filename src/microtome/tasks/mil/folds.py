"""The folds that a run asks for: drawn, read from a file, one site left out, or a fixed test set."""

from collections.abc import Sequence
from dataclasses import replace

from microtome.cohort.splits import (
    OuterSplit,
    Split,
    add_inner,
    check_split,
    fixed_split,
    leave_one_group_out,
    nested_splits,
    read_splits,
    row_groups,
)
from microtome.config.learning import CVConfig
from microtome.tasks.mil.material import Material


def lay_splits(material: Material, config: CVConfig) -> tuple[OuterSplit, ...]:
    """The folds that a configuration asks for.

    Args:
        material: What is split.
        config: Settings.

    Returns:
        Outer folds with their inner ones; no patient, and no group, is on both sides of any of them unless they are
        marked leaky, which they are only where that was asked for.

    Raises:
        CohortError: If the cohort cannot be split so.
    """
    splits = _outer(material, config)
    if config.inner:
        splits = [split if split.inner else _with_inner(split, material, config) for split in splits]
    else:
        splits = [replace(split, inner=()) for split in splits]
    check_split(material.labels, splits, groups=material.groups)
    return tuple(splits)


def _outer(material: Material, config: CVConfig) -> Sequence[OuterSplit]:
    labels, groups = material.labels, material.groups
    if config.splits is not None:
        return read_splits(config.splits, labels, partial=config.partial, leaky=config.leaky_slides)
    if config.held_out is not None:
        column, value = config.held_out
        sides = row_groups(labels, material.cohort, column)
        return fixed_split(labels, [name for name, side in zip(labels.ids, sides, strict=True) if side == value])
    if groups is not None and config.leave_one_site_out:
        return leave_one_group_out(labels, groups, inner=0, seed=config.seed)
    return nested_splits(
        labels,
        outer=config.outer,
        inner=config.inner if config.inner_repeats == 1 else 0,
        repeats=config.repeats,
        seed=config.seed,
        mode="leaky-slides" if config.leaky_slides else "patient",
        groups=groups,
        stratify=config.stratify,
        compat=config.compat,
    )


def _with_inner(split: OuterSplit, material: Material, config: CVConfig) -> OuterSplit:
    """The same outer fold with inner folds, drawn ``inner_repeats`` times with seeds of their own."""
    drawn: list[Split] = []
    for repeat in range(config.inner_repeats):
        seed = config.seed + repeat
        (one,) = add_inner(
            material.labels,
            [split],
            inner=config.inner,
            seed=seed,
            groups=material.groups,
            stratify=config.stratify,
            compat=config.compat,
        )
        drawn += one.inner
    return replace(split, inner=tuple(drawn))


def leaky_notes(splits: Sequence[OuterSplit]) -> list[str]:
    """What has to be said of folds that do not keep patients apart."""
    if not any(split.leaky for split in splits):
        return []
    return ["LEAKY: slides of one patient are on both sides of these folds, so results are too good to be true."]
