"""What a FastGlioma score means and what it is for: words and numbers for every place where a score is shown.

References:
    specs FastGlioma sections 1.4 and 7.
"""

from dataclasses import dataclass

TUMOUR_CUT = 0.5
"""Scores above it are tumour."""


@dataclass(frozen=True, slots=True)
class Band:
    """A tier of the score.

    Attributes:
        grade: The pathologist's degree, 0 to 3.
        name: In a word or two.
        above: Scores of the tier lie above this (the lowest tier includes 0) ...
        upto: ... and up to this, included.
        meaning: Its published interpretation.
    """

    grade: int
    name: str
    above: float
    upto: float
    meaning: str

    @property
    def percent(self) -> str:
        """As published, in whole percent: ``26-50 %``."""
        return f"{round(100 * self.above) + (self.grade > 0)}-{round(100 * self.upto)} %"


BANDS = (
    Band(0, "normal", 0.0, 0.25, "normal brain or non-neoplastic tissue"),
    Band(1, "atypical", 0.25, 0.50, "atypical cells; tumour is not ruled out"),
    Band(2, "sparse", 0.50, 0.85, "sparse tumour infiltration"),
    Band(3, "dense", 0.85, 1.0, "dense tumour infiltration"),
)


def band_of(score: float) -> Band:
    """The tier of a score; a value on a boundary belongs to the lower one.

    Args:
        score: 0..1.

    Raises:
        ValueError: If it is not in 0..1, or NaN.

    Example:
        >>> [band_of(s).name for s in (0.0, 0.25, 0.2501, 0.5, 0.85, 0.86)]
        ['normal', 'normal', 'atypical', 'atypical', 'sparse', 'dense']
    """
    if not 0 <= score <= 1:
        raise ValueError(f"A score lies in 0..1. Got {score}.")
    return next(band for band in BANDS if score <= band.upto)


INTENDED_USE = (
    "Investigational only: not cleared for clinical use, and no diagnosis.",
    "For adult-type diffuse glioma by the WHO definition, that is three diagnoses: astrocytoma, IDH-mutant; "
    "oligodendroglioma, IDH-mutant and 1p/19q-codeleted; glioblastoma, IDH-wildtype.",
    "Patients entered the study with a former pathological diagnosis of one of these, or with a high clinical and "
    "radiographic likelihood of one.",
    "The label behind the score has four ordinal degrees; the score itself is continuous. 50 % separates non-tumour "
    "from tumour.",
    "Tiers: " + "; ".join(f"{band.percent} {band.meaning}" for band in BANDS) + ".",
    "Whether to resect is the surgeon's decision, in the clinical context.",
)
"""What the score is for, point by point."""

NOT_INTENDED = (
    "to guide resection around eloquent cortical or subcortical structures",
    "paediatric patients",
    "tumours that are not primary brain tumours",
    "non-neoplastic tissue: zero-shot results there are preliminary",
)
"""What it is not for."""
