"""Patches of a study for training: patients, slides, patches, and batches of augmented views of them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from microtome.errors import CohortError, ConfigError
from microtome.models.srh import SrhInput
from microtome.slides.srh_tiff import read_srh_patch
from microtome.tasks.pretrain.augment import Augment
from microtome.tiles.opensrh import SrhSlide
from microtome.tiles.srh import SRH_SIDE

NORMAL = "normal"


@dataclass(frozen=True, slots=True)
class PatchPatient:
    """A patient with the patches that stand for the diagnosis.

    Attributes:
        patient_id: Whose.
        label: The diagnosis.
        slides: Patches of each slide; none is empty.
    """

    patient_id: str
    label: str
    slides: tuple[tuple[Path, ...], ...]


def list_patients(slides: Sequence[SrhSlide]) -> tuple[list[PatchPatient], dict[str, str]]:
    """Patients with the patches to learn from: normal ones of patients called normal, of others those of tumour.

    Args:
        slides: Of a study.

    Returns:
        The patients that have any, in the order of the slides; and slide → why it has none.

    Raises:
        CohortError: If no patient has any.

    References:
        specs FastGlioma section 2.1.
    """
    found: dict[tuple[str, str], list[tuple[Path, ...]]] = {}
    without: dict[str, str] = {}
    for slide in slides:
        is_normal = slide.patient_class.casefold() == NORMAL
        n_normal, n_tumour, _ = slide.kinds
        patches = slide.patches[:n_normal] if is_normal else slide.patches[n_normal : n_normal + n_tumour]
        if patches:
            found.setdefault((slide.patient_id, slide.patient_class), []).append(patches)
        else:
            without[slide.name] = f"no {'normal' if is_normal else 'tumour'} patches"
    if not found:
        raise CohortError(
            "No slide has patches to learn from: normal ones of patients of class 'normal', tumour ones of the others."
        )
    return [PatchPatient(name, label, tuple(each)) for (name, label), each in found.items()], without


def balanced_rows(labels: Sequence[str], rng: np.random.Generator) -> Int64[np.ndarray, " n"]:
    """Rows so that every label comes as often as the commonest: whole rounds, then some drawn without repetition."""
    rows = {label: np.flatnonzero(np.array(labels) == label) for label in dict.fromkeys(labels)}
    most = max(map(len, rows.values()))
    parts = []
    for each in rows.values():
        whole, rest = divmod(most, len(each))
        parts += [np.tile(each, whole), rng.permutation(each)[:rest]]
    return np.concatenate(parts).astype(np.int64)


@dataclass(frozen=True)
class PatchViews:
    """How patches of a patient become views.

    Attributes:
        mode: How the two channels are seen, one of :data:`microtome.models.srh.SRH_MODES`.
        low_resolution: Whether a fast scan is simulated.
        n_slides: Slides of each patient.
        n_patches: Patches of each slide.
        n_views: Views of each patch.
        crop_px: Side of a random part of each patch that is seen, pixels; None for all of it.
        augment: Changes of each view.
    """

    mode: str = "three_channels"
    low_resolution: bool = False
    n_slides: int = 2
    n_patches: int = 2
    n_views: int = 2
    crop_px: int | None = None
    augment: Augment = field(default_factory=Augment)

    def __post_init__(self) -> None:
        if self.crop_px is not None and not 32 <= self.crop_px <= SRH_SIDE:
            raise ConfigError(f"crop_px must be 32 to {SRH_SIDE}. Got {self.crop_px}.")

    @property
    def see(self) -> SrhInput:
        """Raw values to network input."""
        return SrhInput(self.mode, low_resolution=self.low_resolution)

    def of_patient(self, patient: PatchPatient, rng: np.random.Generator) -> Float[Tensor, "s p t c h w"]:
        """Views of slides and patches that chance picks; where there are too few they come again."""
        slides = [self._of_slide(patient.slides[i], rng) for i in wrapped(len(patient.slides), self.n_slides, rng)]
        return torch.stack(slides)

    def _of_slide(self, patches: Sequence[Path], rng: np.random.Generator) -> Float[Tensor, "p t c h w"]:
        return torch.stack([self._of_patch(patches[i], rng) for i in wrapped(len(patches), self.n_patches, rng)])

    def _of_patch(self, path: Path, rng: np.random.Generator) -> Float[Tensor, "t c h w"]:
        image = self.read(path)
        return torch.stack([self.augment(self._part(image, rng), rng) for _ in range(self.n_views)])

    def read(self, path: Path) -> Float[Tensor, "c h w"]:
        """A whole patch as the network sees it, 0..1."""
        raw = torch.from_numpy(read_srh_patch(path, side=SRH_SIDE).astype(np.float32))
        seen: Tensor = self.see(raw[None])
        return seen[0]

    def centre(self, image: Float[Tensor, "c h w"]) -> Float[Tensor, "c k k"]:
        """The middle of a patch, of the size that training sees: what a network in training is judged by."""
        side = self.crop_px or SRH_SIDE
        start = (SRH_SIDE - side) // 2
        return image[:, start : start + side, start : start + side]

    def _part(self, image: Float[Tensor, "c h w"], rng: np.random.Generator) -> Float[Tensor, "c k k"]:
        if self.crop_px is None or self.crop_px == SRH_SIDE:
            return image
        top, left = (int(v) for v in rng.integers(SRH_SIDE - self.crop_px + 1, size=2))
        return image[:, top : top + self.crop_px, left : left + self.crop_px]

    def recipe(self) -> Mapping[str, Any]:
        """Plain values of all of it."""
        return {
            "mode": self.mode,
            "low_resolution": self.low_resolution,
            "views": [self.n_slides, self.n_patches, self.n_views],
            "crop_px": self.crop_px,
            "augment": list(self.augment.names),
            "augment_p": self.augment.p,
        }


def wrapped(n: int, wanted: int, rng: np.random.Generator) -> list[int]:
    """``wanted`` numbers below ``n`` in a random order, each as often as the others, but for the last round.

    Example:
        >>> sorted(wrapped(2, 4, np.random.default_rng(0)))
        [0, 0, 1, 1]
    """
    rounds = [rng.permutation(n) for _ in range(-(-wanted // n))]
    return [int(i) for i in np.concatenate(rounds)[:wanted]]


def read_ahead(
    jobs: Sequence[Sequence[tuple[PatchPatient, tuple[int, ...]]]], views: PatchViews, *, workers: int
) -> Iterator[Float[Tensor, "b s p t c h w"]]:
    """Batches of patients' views, the next batch made while one is used.

    Args:
        jobs: For each batch its patients, each with the seed of its chance: what comes does not hang on the threads.
        views: How views are made.
        workers: Threads.
    """
    with ThreadPoolExecutor(workers) as pool:

        def begin(number: int) -> list[Any]:
            batch = jobs[number] if number < len(jobs) else ()
            return [pool.submit(views.of_patient, patient, np.random.default_rng(seed)) for patient, seed in batch]

        try:
            coming = begin(0)
            for number in range(len(jobs)):
                now, coming = coming, begin(number + 1)
                yield torch.stack([made.result() for made in now])
        finally:
            pool.shutdown(cancel_futures=True)


def count_labels(patients: Sequence[PatchPatient]) -> dict[str, int]:
    """Patients per diagnosis."""
    return dict(Counter(patient.label for patient in patients))
