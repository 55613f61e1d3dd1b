"""`microtome srh check`: what an OpenSRH data set has, and what it lacks."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from microtome.errors import MicrotomeError
from microtome.slides.srh_tiff import read_srh_patch
from microtome.tiles.opensrh import KINDS, OpenSrh, SrhSlide, read_opensrh
from microtome.tiles.srh import SRH_SIDE, grid_of, patch_place

_SHOWN = 5


@dataclass(frozen=True)
class SrhFinding:
    """Something that is wrong, or missing.

    Attributes:
        where: Slide, patient or file.
        what: What is wrong with it.
        blocks: Whether a slide cannot be scored for it.
    """

    where: str
    what: str
    blocks: bool = True


@dataclass(frozen=True)
class SrhCheck:
    """What was found.

    Attributes:
        root: The data set.
        meta: Its metadata.
        n_patients: Patients in the metadata.
        n_slides: Slides.
        n_patches: Patches in the lists, by kind.
        classes: Diagnosis → patients.
        grades: Degree of infiltration → slides; empty where slides have none.
        splits: Name → patients.
        findings: What is wrong.
    """

    root: Path
    meta: Path
    n_patients: int
    n_slides: int
    n_patches: dict[str, int]
    classes: dict[str, int]
    grades: dict[str, int]
    splits: dict[str, int]
    findings: tuple[SrhFinding, ...] = field(default=())

    @property
    def n_blocking(self) -> int:
        """Findings for which slides cannot be scored."""
        return sum(finding.blocks for finding in self.findings)


def srh_check(root: str | Path, *, meta: str | None = None, open_patches: bool = True) -> SrhCheck:
    """Look through a data set: metadata, splits, files, names, and the first patch of each slide.

    Args:
        root: Its folder.
        meta: Name of its metadata under ``meta/``.
        open_patches: Whether to open one patch per slide.

    Returns:
        What there is and what is wrong.

    Raises:
        CohortError: If there is no metadata, or it cannot be read as such.
    """
    found = read_opensrh(Path(root), meta=meta)
    findings = [*_check_splits(found), *_check_grades(found)]
    for slide in found.slides:
        findings += _check_slide(slide, open_patches=open_patches)
    findings += _check_unlisted(found)
    patients = {slide.patient_id: slide.patient_class for slide in found.slides}
    return SrhCheck(
        root=found.root,
        meta=found.meta,
        n_patients=len(patients),
        n_slides=len(found.slides),
        n_patches={kind: sum(slide.kinds[i] for slide in found.slides) for i, kind in enumerate(KINDS)},
        classes=dict(sorted(Counter(patients.values()).items())),
        grades=dict(sorted(Counter(s.slide_class for s in found.slides if s.slide_class).items())),
        splits={name: len(patients) for name, patients in found.splits.items()},
        findings=tuple(findings),
    )


def _check_splits(found: OpenSrh) -> list[SrhFinding]:
    if not found.splits:
        return [SrhFinding("meta", "there is no train_val_split.json: name patients instead of splits", blocks=False)]
    known = {slide.patient_id for slide in found.slides}
    findings = []
    for name, patients in found.splits.items():
        unknown = [patient for patient in patients if patient not in known]
        if unknown:
            findings.append(SrhFinding(f"split {name}", f"{_listed(unknown)} not in {found.meta.name}"))
        if not patients:
            findings.append(SrhFinding(f"split {name}", "it is empty", blocks=False))
    in_several = [
        p for p, n in Counter(p for patients in found.splits.values() for p in set(patients)).items() if n > 1
    ]
    if in_several:
        findings.append(SrhFinding("splits", f"{_listed(in_several)} in several: patients leak", blocks=False))
    return findings


def _check_grades(found: OpenSrh) -> list[SrhFinding]:
    without = [slide.name for slide in found.slides if not slide.slide_class]
    if not without or len(without) == len(found.slides):
        text = "no slide has a slide_class: scores can be given and not evaluated"
        return [SrhFinding("meta", text, blocks=False)] if without else []
    return [SrhFinding("meta", f"{_listed(without)} without slide_class", blocks=False)]


def _check_slide(slide: SrhSlide, *, open_patches: bool) -> list[SrhFinding]:
    if not slide.patches:
        return [SrhFinding(slide.name, "it has no patches")]
    findings = []
    missing = [path.name for path in slide.patches if not path.is_file()]
    if missing:
        findings.append(
            SrhFinding(slide.name, f"{len(missing)} of {len(slide.patches)} patches are missing: {_listed(missing)}")
        )
    places: Counter[tuple[int, int]] = Counter()
    unnamed = []
    for path in slide.patches:
        try:
            places[grid_of(*patch_place(path.name))] += 1
        except MicrotomeError:
            unnamed.append(path.name)
    if unnamed:
        findings.append(SrhFinding(slide.name, f"names without coordinates: {_listed(unnamed)}"))
    twice = [place for place, n in places.items() if n > 1]
    if twice:
        findings.append(SrhFinding(slide.name, f"{len(twice)} place(s) with several patches, such as {twice[0]}"))
    there = next((path for path in slide.patches if path.is_file()), None)
    if open_patches and there is not None:
        try:
            read_srh_patch(there, side=SRH_SIDE)
        except MicrotomeError as error:
            findings.append(SrhFinding(slide.name, str(error)))
    return findings


def _check_unlisted(found: OpenSrh) -> list[SrhFinding]:
    """Folders of slides that no metadata names."""
    known = {(slide.patient_id, slide.slide_id) for slide in found.slides}
    studies = found.root / "studies"
    if not studies.is_dir():
        return [SrhFinding("studies", "there is no folder 'studies'", blocks=False)]
    extra = [
        f"{patient.name}/{slide.name}"
        for patient in sorted(studies.iterdir())
        if patient.is_dir()
        for slide in sorted(patient.iterdir())
        if slide.is_dir() and (patient.name, slide.name) not in known
    ]
    return [SrhFinding("studies", f"slides that the metadata does not name: {_listed(extra)}", blocks=False)] * bool(
        extra
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
