"""A synthetic study of stimulated Raman histology in OpenSRH's layout, with graded infiltration in known places.

Infiltration shows in texture alone: more nuclei, larger, of odder shapes, and fewer fibres. Intensity is evened out
over distances of a third of a patch, and each slide gets a brightness of its own that knows nothing of its degree.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import tifffile
from jaxtyping import Float32, Float64, Int64, UInt16

from microtome.errors import ConfigError, RecipeMismatchError
from microtome.storage import digest, write_json, write_text, written_whole
from microtome.tiles.srh import FIELD_PX, SRH_SIDE

MPP = 0.467
"""µm per pixel that the sizes of nuclei and fibres are drawn for."""

GRADES = (0, 1, 2, 3)
NUCLEI = (7.0, 16.0, 30.0, 55.0)
"""Nuclei per patch where the tissue is infiltrated to each degree."""

_SHARE = (0.0, 0.35, 0.45, 0.6)  # of the slide that is infiltrated
_FIBRES = (1.0, 0.8, 0.5, 0.2)  # of those of normal tissue
_FIBRES_PER_PATCH = 14
_EVENED_PX = 100  # distance over which brightness is evened out
_FLOOR = 400  # raw values below this do not occur
_FORMAT = "srh-sample-1"


@dataclass(frozen=True, eq=False)
class SrhSampleSlide:
    """One written slide and what is known of it.

    Attributes:
        patient_id: Whose it is.
        slide_id: Its name among the patient's.
        grade: Degree of infiltration, 0 to 3.
        folder: Of its patches.
        files: The patches, row by row.
        grid: Row and column of each.
        infiltrated: Share of each patch's area that lies in the planted region, 0..1.
    """

    patient_id: str
    slide_id: str
    grade: int
    folder: Path
    files: tuple[Path, ...]
    grid: Int64[np.ndarray, "n 2"] = field(repr=False)
    infiltrated: Float64[np.ndarray, " n"] = field(repr=False)

    @property
    def name(self) -> str:
        """Patient and slide."""
        return f"{self.patient_id}.{self.slide_id}"


def write_srh_sample(
    folder: str | Path,
    *,
    n_slides: int = 8,
    patches_across: int = 6,
    slides_per_patient: int = 2,
    seed: int = 0,
    val_share: float = 0.25,
) -> list[SrhSampleSlide]:
    """Write a study whose infiltrated regions are known; what is there already is kept.

    Beside the patches: ``meta/opensrh.json``, ``meta/opensrh_withslideclass.json``, ``meta/train_val_split.json`` (by
    patient), ``cohort.csv`` (slide_id, patient_id, grade) and ``truth/<slide>.csv`` (file, row, column, infiltrated).
    Every fourth patient has normal tissue alone; the degrees 1 to 3 take turns among the others.

    Args:
        folder: Where to; it is made.
        n_slides: How many slides in all.
        patches_across: Patches across and down a slide.
        slides_per_patient: Slides of one patient.
        seed: Decides the pixels.
        val_share: Share of the patients that go into the split ``val``.

    Returns:
        The slides, in order.

    Raises:
        ConfigError: If a number is out of range.
        RecipeMismatchError: If another study is there.
        OutputWriteError: If a file cannot be written.
    """
    if min(n_slides, patches_across, slides_per_patient) < 1 or not 0 <= val_share < 1:
        raise ConfigError(
            "n_slides, patches_across and slides_per_patient must be at least 1, val_share in 0..1. Got "
            f"{n_slides}, {patches_across}, {slides_per_patient}, {val_share}."
        )
    folder = Path(folder)
    recipe = {"format": _FORMAT, "patches": patches_across, "seed": seed, "per_patient": slides_per_patient}
    _claim_folder(folder, digest(recipe))
    slides, rising = [], 0
    for index in range(n_slides):
        patient, number = divmod(index, slides_per_patient)
        is_normal = patient % 4 == 0
        grade = 0 if is_normal else 1 + rising % 3
        rising += not is_normal
        slides.append(_write_slide(folder, f"NIO_S{patient + 1:03d}", str(number + 1), grade, (patches_across, seed)))
    _write_tables(folder, slides, val_share)
    return slides


def _claim_folder(folder: Path, mark: str) -> None:
    note = folder / "sample.json"
    if note.is_file():
        found = json.loads(note.read_text(encoding="utf-8")).get("recipe")
        if found != mark:
            raise RecipeMismatchError(f"'{folder}' holds a study that was made otherwise. Choose another folder.")
    elif (folder / "meta").exists():
        raise RecipeMismatchError(f"'{folder}' holds a study, and nothing says that it is a sample. Choose another.")
    write_json(note, {"recipe": mark})


def _write_slide(root: Path, patient_id: str, slide_id: str, grade: int, how: tuple[int, int]) -> SrhSampleSlide:
    across, seed = how
    rng = np.random.default_rng([seed, *patient_id.encode(), int(slide_id)])
    slide = draw_srh_slide(rng, across, grade)
    folder = root / "studies" / patient_id / slide_id / "patches"
    folder.mkdir(parents=True, exist_ok=True)
    files, places, shares = [], [], []
    for row in range(across):
        for column in range(across):
            (ix, iy), (jx, jy) = _place(row), _place(column)
            path = folder / f"{patient_id}-{slide_id}-{ix}_{jx}_{iy}_{jy}.tif"
            here = np.s_[ix + iy : ix + iy + SRH_SIDE, jx + jy : jx + jy + SRH_SIDE]
            if not path.exists():
                with written_whole(path) as temporary:
                    tifffile.imwrite(temporary, slide.pixels[(slice(None), *here)], photometric="minisblack")
            files.append(path)
            places.append((row, column))
            shares.append(float(slide.infiltrated[here].mean()))
    return SrhSampleSlide(
        patient_id, slide_id, grade, folder, tuple(files), np.array(places, np.int64), np.array(shares)
    )


def _place(index: int) -> tuple[int, int]:
    """Where a row or column of patches lies: its field, and its place in the field, in pixels."""
    return FIELD_PX * (index // 3), SRH_SIDE * (index % 3)


@dataclass(frozen=True, eq=False)
class DrawnSlide:
    """Pixels of a slide, and where they are infiltrated.

    Attributes:
        pixels: Raw CH2 and CH3.
        infiltrated: 1 in the planted region, 0 elsewhere.
    """

    pixels: UInt16[np.ndarray, "2 h w"]
    infiltrated: Float32[np.ndarray, "h w"]


def draw_srh_slide(rng: np.random.Generator, across: int, grade: int) -> DrawnSlide:
    """Draw a slide.

    Args:
        rng: Decides it.
        across: Patches across and down.
        grade: Degree of its infiltrated region.
    """
    side = sum(_place(across - 1)) + SRH_SIDE
    region = _region(rng, side, _SHARE[grade])
    area = (side / SRH_SIDE) ** 2
    fibres = _draw_fibres(rng, side, int(_FIBRES_PER_PATCH * area), region * (1 - _FIBRES[grade]))
    nuclei = _draw_nuclei(rng, side, int(NUCLEI[0] * area), None, 0)
    if grade:
        planted = _draw_nuclei(rng, side, int(NUCLEI[grade] * area), region, grade)
        nuclei = np.maximum(nuclei, planted)
    ground = _noise(rng, side, 6) * 500 + _noise(rng, side, 1.5) * 350
    ch2 = 9000 + ground + 4200 * fibres - 5200 * nuclei * (1 - 0.3 * fibres)
    ch3 = 13500 + 1.2 * ground + 3400 * fibres - 1200 * nuclei + 300 * _noise(rng, side, 2) * nuclei
    brightness = rng.uniform(-1500, 1500)
    light = 1 + 0.03 * _noise(rng, side, 250) + 0.02 * rng.standard_normal((1, side)).astype(np.float32).repeat(side, 0)
    channels = [
        (_evened(c) + level + brightness) * light + rng.standard_normal((side, side), np.float32) * 260
        for c, level in ((ch2, 9500), (ch3, 14500))
    ]
    pixels = np.clip(np.rint(np.stack(channels)), _FLOOR, 65000).astype(np.uint16)
    return DrawnSlide(pixels, region)


def _region(rng: np.random.Generator, side: int, share: float) -> Float32[np.ndarray, "h w"]:
    """A blob, or several, of a share of the slide."""
    if not share:
        return np.zeros((side, side), np.float32)
    field_ = _noise(rng, side, max(side / 6, 60))
    region: Float32[np.ndarray, "h w"] = (field_ > np.quantile(field_, 1 - share)).astype(np.float32)
    return region


def _draw_fibres(
    rng: np.random.Generator, side: int, n: int, thinned: Float32[np.ndarray, "h w"]
) -> Float32[np.ndarray, "h w"]:
    """Bent lines of about one direction, fewer where they are thinned out."""
    canvas = np.zeros((side, side), np.uint8)
    main = rng.uniform(0, np.pi)
    for _ in range(n):
        x, y = rng.uniform(0, side, 2)
        if rng.random() < thinned[int(y), int(x)]:
            continue
        angle, bend = main + rng.normal(0, 0.25), rng.normal(0, 0.05)
        steps = int(rng.integers(8, 22))
        angles = angle + bend * np.arange(steps)
        points = np.stack([x + 12 * np.cos(angles).cumsum(), y + 12 * np.sin(angles).cumsum()], axis=1)
        colour, width = int(rng.integers(110, 255)), int(rng.integers(1, 5))
        cv2.polylines(canvas, [np.rint(points).astype(np.int32)], isClosed=False, color=colour, thickness=width)
    return cv2.GaussianBlur(canvas, (0, 0), 1.3).astype(np.float32) / 255


def _draw_nuclei(
    rng: np.random.Generator, side: int, n: int, region: Float32[np.ndarray, "h w"] | None, grade: int
) -> Float32[np.ndarray, "h w"]:
    """Soft ellipses; in a region alone where one is given."""
    canvas = np.zeros((side, side), np.uint8)
    for _ in range(n):
        x, y = rng.uniform(0, side, 2)
        if region is not None and not region[int(y), int(x)]:
            continue
        radius = rng.normal(7.5, 0.8) if not grade else rng.lognormal(np.log(8.5 + 0.6 * grade), 0.22)
        longer = rng.uniform(1, 1.25) if not grade else rng.uniform(1, 2.2)
        axes = (max(3, round(radius * longer**0.5)), max(3, round(radius / longer**0.5)))
        strength = int(rng.integers(170, 255))
        cv2.ellipse(canvas, (int(x), int(y)), axes, float(rng.uniform(0, 180)), 0, 360, strength, -1, cv2.LINE_AA)
    return cv2.GaussianBlur(canvas, (0, 0), 1.5).astype(np.float32) / 255


def _noise(rng: np.random.Generator, side: int, sigma: float) -> Float32[np.ndarray, "h w"]:
    """Smooth noise of variance 1; made small and enlarged where it is coarse."""
    step = max(1, int(sigma / 3))
    small = rng.standard_normal((side // step + 8, side // step + 8), np.float32)
    blurred = cv2.GaussianBlur(small, (0, 0), sigma / step)
    large = blurred if step == 1 else cv2.resize(blurred, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
    cut = large[:side, :side]
    return np.asarray((cut - cut.mean()) / max(float(cut.std()), 1e-6), np.float32)


def _evened(channel: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """A channel without what its brightness says over larger distances."""
    step = 10
    small = cv2.resize(channel, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA)
    local = cv2.GaussianBlur(small, (0, 0), _EVENED_PX / step, borderType=cv2.BORDER_REFLECT)
    return np.asarray(channel - cv2.resize(local, channel.shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def _write_tables(folder: Path, slides: Sequence[SrhSampleSlide], val_share: float) -> None:
    meta: dict[str, dict[str, object]] = {}
    with_class: dict[str, dict[str, object]] = {}
    patients = list(dict.fromkeys(slide.patient_id for slide in slides))
    for patient_id in patients:
        own = [slide for slide in slides if slide.patient_id == patient_id]
        diagnosis = "normal" if all(slide.grade == 0 for slide in own) else "hgg"
        plain = {slide.slide_id: _entry(folder, slide) for slide in own}
        graded = {slide.slide_id: {**_entry(folder, slide), "slide_class": str(slide.grade)} for slide in own}
        meta[patient_id] = {"patient_id": patient_id, "class": diagnosis, "slides": plain}
        with_class[patient_id] = {"patient_id": patient_id, "class": diagnosis, "slides": graded}
    every = min(max(2, round(1 / val_share)), max(2, len(patients))) if val_share else 0
    # The last of every few patients, so that its diagnosis is not always the same.
    val = [p for i, p in enumerate(patients) if every and (i + i // every) % every == every - 1]
    write_json(folder / "meta" / "opensrh.json", meta)
    write_json(folder / "meta" / "opensrh_withslideclass.json", with_class)
    split = {"train": [p for p in patients if p not in val], "val": val}
    write_json(folder / "meta" / "train_val_split.json", split)
    _write_csv(
        folder / "cohort.csv", ("slide_id", "patient_id", "grade"), [(s.name, s.patient_id, s.grade) for s in slides]
    )
    for slide in slides:
        rows = [
            (file.name, row, column, f"{share:.4f}")
            for file, (row, column), share in zip(slide.files, slide.grid.tolist(), slide.infiltrated, strict=True)
        ]
        _write_csv(folder / "truth" / f"{slide.name}.csv", ("file", "row", "column", "infiltrated"), rows)


def _entry(folder: Path, slide: SrhSampleSlide) -> dict[str, object]:
    names = [file.relative_to(folder).as_posix() for file in slide.files]
    planted = slide.infiltrated >= 0.5
    return {
        "slide_id": slide.slide_id,
        "normal_patches": [name for name, is_in in zip(names, planted, strict=True) if not is_in],
        "tumor_patches": [name for name, is_in in zip(names, planted, strict=True) if is_in],
        "nondiagnostic_patches": [],
    }


def _write_csv(path: Path, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(head)
    table.writerows(rows)
    write_text(path, text.getvalue())
