"""Who stays together in a split: patients, and the sites that they come from."""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped

from microtome.cohort.table import TCGA_BARCODE, Cohort
from microtome.cohort.targets import Labels
from microtome.errors import CohortError, ConfigError


def tcga_patient(barcode: str) -> str:
    """Patient of a TCGA barcode: its first 12 characters.

    Raises:
        CohortError: If it is none.

    Example:
        >>> tcga_patient("TCGA-A1-A0SH-01Z-00-DX1.90E71B08.svs")
        'TCGA-A1-A0SH'
    """
    return _barcode(barcode)[1].upper()


def tcga_site(barcode: str) -> str:
    """Tissue source site of a TCGA barcode: its characters 6 and 7.

    Raises:
        CohortError: If it is none.

    Example:
        >>> tcga_site("TCGA-A1-A0SH-01Z-00-DX1")
        'A1'
    """
    return _barcode(barcode)[2].upper()


def _barcode(text: str) -> re.Match[str]:
    match = TCGA_BARCODE.fullmatch(text)
    if match is None:
        raise CohortError(f"{text!r} is no TCGA barcode such as TCGA-A1-A0SH-01Z-00-DX1. Pass patients and sites.")
    return match


def bound_groups(labels: Labels, groups: Sequence[str] | None = None) -> Shaped[np.ndarray, " n"]:
    """What stays together: patients, or groups joined where a patient is in several.

    Returns:
        A name per row: that of the patient, or the first one, by name, of the joined groups.
    """
    if groups is None:
        return np.array(labels.patient_ids, dtype=np.str_)
    of = per_row(labels, groups)
    joined = {name: name for name in of.tolist()}

    def root(name: str) -> str:
        while joined[name] != name:
            name = joined[name]
        return name

    for own in groups_of_patients(labels, of).values():
        roots = sorted({root(name) for name in own})
        for other in roots[1:]:
            joined[other] = roots[0]
    return np.array([root(name) for name in of.tolist()], dtype=np.str_)


def row_groups(labels: Labels, cohort: Cohort, column: str) -> tuple[str, ...]:
    """Group of each row by a label column of the cohort (the site, say), for ``groups``.

    Raises:
        CohortError: If there is no such column, a slide's cell is empty, or slides of one row differ.
    """
    known = cohort.labels(column)
    found = []
    for id_, slides in zip(labels.ids, labels.slide_ids, strict=True):
        absent = [slide for slide in slides if slide not in known]
        if absent:
            raise CohortError(f"Slide {absent[0]!r} has no {column!r}: it is not known with whom it must stay.")
        own = sorted({known[slide] for slide in slides})
        if len(own) > 1:
            raise CohortError(f"Slides of {labels.unit} {id_!r} differ in {column!r}: {', '.join(own)}.")
        found.append(own[0])
    return tuple(found)


def per_row(labels: Labels, groups: Sequence[str] | Shaped[np.ndarray, " n"]) -> Shaped[np.ndarray, " n"]:
    """Groups as text, checked for one per row.

    Raises:
        ConfigError: If there are more or fewer.
    """
    if len(groups) != len(labels):
        raise ConfigError(f"groups must have one name per row. Got {len(groups)} for {len(labels)} rows.")
    return np.array(list(groups), dtype=np.str_)


def groups_of_patients(labels: Labels, of: Shaped[np.ndarray, " n"]) -> dict[str, set[str]]:
    """Patient → the groups that its rows are in."""
    own: dict[str, set[str]] = {}
    for patient, group in zip(labels.patient_ids, of.tolist(), strict=True):
        own.setdefault(patient, set()).add(group)
    return own
