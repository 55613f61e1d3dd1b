"""A cohort of made-up bags whose features hold what every type of target asks for: as much of it as is wanted.

Each patient has a hidden number, a class and three findings. Some tiles of the patient's slides are moved along a
direction of feature space by each of them, the rest is noise; labels of all six types of target follow from them. With
``signal=0`` nothing is moved, and nothing can be learnt.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from microtome.features.store import FeatureStore
from microtome.storage import written_whole

CLASSES = ("clear", "papillary", "chromophobe")
FINDINGS = ("necrosis", "invasion", "budding")
_TILE_PX, _MPP = 224, 0.5

TARGETS: Mapping[str, Mapping[str, Any]] = {
    "binary": {"target": "mutation"},
    "multiclass": {"target": "subtype"},
    "multilabel": {"target": "findings", "type": "multilabel", "columns": FINDINGS},
    "regression": {"target": "score", "type": "regression"},
    "ordinal": {"target": "grade", "type": "ordinal", "classes": ("1", "2", "3", "4")},
    "survival": {"target": "OS", "type": "survival", "columns": ("OS.time", "OS")},
}
"""Type of target → what ``microtome cv`` is told to predict it."""


@dataclass(frozen=True, slots=True)
class MilCohort:
    """Where a cohort lies.

    Attributes:
        features: Folder of features.
        table: Table of slides and labels.
        slide_ids: In the order of the table.
        hidden: Patient → hidden number.
    """

    features: Path
    table: Path
    slide_ids: tuple[str, ...]
    hidden: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class MilCohortOptions:
    """What is made.

    Attributes:
        n_patients: How many.
        slides_per_patient: Of each.
        n_sites: Patients are of these sites in turn.
        n_features: Length of a feature vector, at least 8.
        n_tiles: Least and largest number of tiles of a slide.
        signal: How far tiles that hold something are moved, in standard deviations of the noise; 0 for not at all.
        share: Share of such tiles.
        encoder: What the features say that they were made by.
        prefix: Patients' ids begin with it.
        seed: Decides everything.
    """

    n_patients: int = 40
    slides_per_patient: int = 1
    n_sites: int = 4
    n_features: int = 16
    n_tiles: tuple[int, int] = (6, 18)
    signal: float = 3.0
    share: float = 0.5
    encoder: str = "planted"
    prefix: str = "P"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class _Patient:
    patient_id: str
    site: str
    hidden: float
    subtype: int
    findings: tuple[bool, ...]
    labels: dict[str, str] = field(default_factory=dict)


def write_mil_cohort(folder: Path, options: MilCohortOptions | None = None) -> MilCohort:
    """Write features and a table of labels of a made-up cohort.

    Args:
        folder: Where ``features`` and ``labels.csv`` go.
        options: What is made.

    Returns:
        Where it lies.

    Example:
        >>> import tempfile
        >>> cohort = write_mil_cohort(Path(tempfile.mkdtemp()), MilCohortOptions(n_patients=4, slides_per_patient=2))
        >>> cohort.slide_ids[:3]
        ('P000-0', 'P000-1', 'P001-0')
    """
    options = options or MilCohortOptions()
    rng = np.random.default_rng(options.seed)
    patients = [_patient(i, options, rng) for i in range(options.n_patients)]
    basis = np.linalg.qr(rng.standard_normal((options.n_features, options.n_features)))[0].T
    store = FeatureStore(folder / "features")
    rows, slide_ids = [], []
    for patient in patients:
        for number in range(options.slides_per_patient):
            slide_id = f"{patient.patient_id}-{number}"
            _write_slide(store, slide_id, _tiles(patient, basis, options, rng), options)
            slide_ids.append(slide_id)
            whose = {"slide_id": slide_id, "patient_id": patient.patient_id, "site": patient.site}
            rows.append({**whose, **patient.labels})
    table = folder / "labels.csv"
    with written_whole(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    hidden = {patient.patient_id: patient.hidden for patient in patients}
    return MilCohort(store.folder, table, tuple(slide_ids), hidden)


def _patient(number: int, options: MilCohortOptions, rng: np.random.Generator) -> _Patient:
    drawn = float(rng.standard_normal())
    hidden = drawn + 0.6 * float(np.sign(drawn))  # nobody is on the edge between negative and positive
    subtype, findings = int(rng.integers(len(CLASSES))), tuple(bool(x) for x in rng.random(len(FINDINGS)) < 0.5)
    time = float(np.exp(-hidden) * 20 * rng.uniform(0.8, 1.2)) + 0.1
    censored_at = float(rng.uniform(5, 80))
    labels = {
        "mutation": "1" if hidden > 0 else "0",
        "subtype": CLASSES[subtype],
        **{name: str(int(found)) for name, found in zip(FINDINGS, findings, strict=True)},
        "score": f"{10 + 2 * hidden:.4f}",
        "grade": str(1 + int(np.searchsorted((-1.1, 0.0, 1.1), hidden))),
        "OS.time": f"{min(time, censored_at):.4f}",
        "OS": str(int(time <= censored_at)),
    }
    site = chr(ord("A") + number % options.n_sites)
    return _Patient(f"{options.prefix}{number:03d}", site, hidden, subtype, findings, labels)


def _tiles(
    patient: _Patient, basis: Float64[np.ndarray, "d d"], options: MilCohortOptions, rng: np.random.Generator
) -> Float32[np.ndarray, "n d"]:
    low, high = options.n_tiles
    n = int(rng.integers(low, high + 1))
    tiles = rng.standard_normal((n, options.n_features))
    held = np.arange(n) < max(1, round(options.share * n))
    amounts = np.zeros(options.n_features)
    amounts[0] = patient.hidden
    amounts[1 + patient.subtype] = 1.5
    amounts[4:7] = np.where(patient.findings, 1.0, -1.0)
    tiles[held] += options.signal * amounts @ basis
    moved: Float32[np.ndarray, "n d"] = tiles[rng.permutation(n)].astype(np.float32)
    return moved


def _write_slide(
    store: FeatureStore, slide_id: str, tiles: Float32[np.ndarray, "n d"], options: MilCohortOptions
) -> None:
    x, y = np.divmod(np.arange(len(tiles)), 8)
    boxes = np.stack([x * 448, y * 448, np.full_like(x, 448), np.full_like(x, 448)], axis=1).astype(np.int64)
    attrs: dict[str, str | int | float] = {
        "encoder": options.encoder,
        "mpp": _MPP,
        "patch_size": _TILE_PX,
        "slide_mpp": 0.25,
    }
    recipe = {"encoder": options.encoder, "tile_px": _TILE_PX, "mpp": _MPP, "weights_sha256": ""}
    store.write(slide_id, tiles, boxes, recipe=recipe, attrs=attrs)
