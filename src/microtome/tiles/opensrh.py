"""OpenSRH on disk: which patients and slides there are, with which patches and labels.

::

    <root>/meta/opensrh.json                     patient → class, slides → lists of patches
    <root>/meta/train_val_split.json             {"train": [patients], "val": [patients]}
    <root>/studies/<patient>/<slide>/patches/*.tif

References:
    specs FastGlioma section 2.1.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from microtome.errors import CohortError

META = ("opensrh_withslideclass.json", "opensrh.json")
"""Names of the metadata under ``meta/``; the first has a degree of infiltration per slide."""

SPLIT = "train_val_split.json"
KINDS = ("normal_patches", "tumor_patches", "nondiagnostic_patches")
"""Lists of patches of a slide. Their order is that of the slide's bag."""


@dataclass(frozen=True, slots=True)
class SrhSlide:
    """A slide as the metadata has it.

    Attributes:
        patient_id: Whose it is.
        slide_id: Its name among the patient's.
        patient_class: The patient's diagnosis; empty where nobody says.
        slide_class: The slide's degree of infiltration, "0" to "3"; empty where nobody says.
        patches: Paths of its patches: normal, tumour, nondiagnostic, in this order.
        kinds: How many of each.
    """

    patient_id: str
    slide_id: str
    patient_class: str
    slide_class: str
    patches: tuple[Path, ...]
    kinds: tuple[int, int, int]

    @property
    def name(self) -> str:
        """Patient and slide; unique in a study."""
        return f"{self.patient_id}.{self.slide_id}"


@dataclass(frozen=True)
class OpenSrh:
    """A data set of OpenSRH's layout.

    Attributes:
        root: Its folder.
        meta: The file that the slides are from.
        slides: In the order of the file.
        splits: Name → patients, as in the file of splits; empty where there is none.
    """

    root: Path
    meta: Path
    slides: tuple[SrhSlide, ...]
    splits: Mapping[str, tuple[str, ...]]

    def choose(self, studies: str | Sequence[str]) -> tuple[SrhSlide, ...]:
        """The slides of some patients.

        Args:
            studies: ``train``, ``val`` or ``valid`` for a split, ``all``, or patients by name.

        Raises:
            CohortError: If there is no such split or patient.
        """
        names = (studies,) if isinstance(studies, str) else tuple(studies)
        if names == ("all",):
            return self.slides
        wanted = tuple(patient for name in names for patient in self._patients(name))
        known = {slide.patient_id for slide in self.slides}
        missing = [patient for patient in wanted if patient not in known]
        if missing:
            raise CohortError(
                f"'{self.meta}' has no patient {missing[0]!r}. It has {len(known)} patients, such as "
                f"{', '.join(sorted(known)[:3])}; splits: {', '.join(self.splits) or 'none'}."
            )
        return tuple(slide for slide in self.slides if slide.patient_id in set(wanted))

    def _patients(self, name: str) -> tuple[str, ...]:
        split = "val" if name == "valid" else name
        if split in self.splits:
            return self.splits[split]
        if split in ("train", "val"):
            raise CohortError(
                f"'{self.root / 'meta' / SPLIT}' has no split {split!r}. Add it, or name patients instead."
            )
        return (name,)


def is_opensrh(folder: Path) -> bool:
    """Whether a folder is the root of such a data set."""
    return any((folder / "meta" / name).is_file() for name in META)


def read_opensrh(root: Path, *, meta: str | None = None) -> OpenSrh:
    """Read the metadata of a data set; files of patches are not looked at.

    Args:
        root: Its folder.
        meta: Name of the file under ``meta/``; the first of :data:`META` that is there if None.

    Raises:
        CohortError: If the metadata is absent, cannot be read, or lacks something that a slide must have.
    """
    names = META if meta is None else (meta,)
    path = next((root / "meta" / name for name in names if (root / "meta" / name).is_file()), None)
    if path is None:
        raise CohortError(
            f"'{root}' is not of OpenSRH's layout: there is no meta/{' or meta/'.join(names)}. Name the root of the "
            "data set, or a folder of patches of one slide."
        )
    slides = tuple(
        _slide(root, path, patient_id, patient, slide_id, slide)
        for patient_id, patient in _mapping(_read_json(path), path, "the file").items()
        for slide_id, slide in _mapping(_of(patient, "slides", path, patient_id), path, f"{patient_id}.slides").items()
    )
    return OpenSrh(root, path, slides, _read_splits(root))


def _slide(root: Path, path: Path, patient_id: str, patient: Any, slide_id: str, slide: Any) -> SrhSlide:  # noqa: ANN401 - of JSON
    where = f"{patient_id}.slides.{slide_id}"
    lists = [_of(slide, kind, path, where) for kind in KINDS]
    for kind, names in zip(KINDS, lists, strict=True):
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise CohortError(f"'{path}': {where}.{kind} must be a list of paths. Got {str(names)[:60]}.")
    return SrhSlide(
        patient_id=str(patient_id),
        slide_id=str(slide_id),
        patient_class=str(patient.get("class", "")),
        slide_class=str(slide.get("slide_class", "")),
        patches=tuple(root / name for names in lists for name in names),
        kinds=(len(lists[0]), len(lists[1]), len(lists[2])),
    )


def _of(holder: Any, key: str, path: Path, where: str) -> Any:  # noqa: ANN401 - of JSON
    if not isinstance(holder, dict) or key not in holder:
        lists = f" A slide's bag is {', '.join(KINDS)} together; write [] where there are none." if key in KINDS else ""
        raise CohortError(f"'{path}': {where} has no {key!r}.{lists}")
    return holder[key]


def _mapping(value: Any, path: Path, where: str) -> dict[str, Any]:  # noqa: ANN401 - of JSON
    if not isinstance(value, dict):
        raise CohortError(f"'{path}': {where} must be an object of JSON. Got a {type(value).__name__}.")
    return value


def _read_splits(root: Path) -> dict[str, tuple[str, ...]]:
    path = root / "meta" / SPLIT
    if not path.is_file():
        return {}
    splits = _mapping(_read_json(path), path, "the file")
    for name, patients in splits.items():
        if not isinstance(patients, list):
            raise CohortError(f"'{path}': {name} must be a list of patients. Got a {type(patients).__name__}.")
    return {name: tuple(str(patient) for patient in patients) for name, patients in splits.items()}


def _read_json(path: Path) -> Any:  # noqa: ANN401 - whatever is in it
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CohortError(f"'{path}' cannot be read as JSON: {error}. Copy it again from its source.") from error
