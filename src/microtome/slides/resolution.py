"""The slide's resolution, µm per level-0 pixel, with where it came from.

The ladder: metadata, where it is plausible (0.05 to 50 µm/px, both axes within 1 %); else the value that the
caller gives (a cohort table's column, then ``--mpp``); else an error when somebody asks for it. There is no default.
"""

from dataclasses import dataclass
from pathlib import Path

from microtome.errors import (
    AnisotropicMppError,
    ConfigError,
    ImplausibleMppError,
    MissingMppError,
    MppConflictError,
    ResolutionError,
)

PLAUSIBLE_MPP = (0.05, 50.0)
TOLERANCE = 0.01

_REMEDY = (
    "Pass mpp= (µm/px; --mpp on the command line), for example mpp=0.25 for a typical 40x scan, or add an mpp column "
    "to the cohort table."
)


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a file says of its own resolution, before anyone judges it: µm/px per axis, and which tag says so."""

    mpp_x: float
    mpp_y: float
    tag: str


@dataclass(frozen=True, slots=True)
class Given:
    """A resolution that a person gives, µm/px, and through what (``--mpp``, ``cohort``)."""

    mpp: float
    source: str = "given"
    override: bool = False


@dataclass(frozen=True, slots=True)
class Resolution:
    """The outcome of the ladder.

    Attributes:
        mpp: µm per level-0 pixel, or None where nobody knows.
        source: ``metadata:<tag>``, ``given``, ``cohort``, ``override:<through what>``, or ``unknown``.
        metadata: What the file says, plausible or not; None where it says nothing.
        problem: Why :attr:`mpp` is None; None where it is known.
    """

    mpp: float | None
    source: str
    metadata: Metadata | None = None
    problem: type[ResolutionError] | None = None

    def known(self, path: Path) -> float:
        """The resolution, or the error that says why it is not known."""
        if self.mpp is not None:
            return self.mpp
        raise (self.problem or MissingMppError)(f"Slide '{path.name}' {self.complaint}. {_REMEDY}")

    @property
    def complaint(self) -> str:
        """What is wrong with the metadata, as a clause."""
        found = self.metadata
        if found is None:
            return "has no mpp in its metadata"
        if not _plausible(found.mpp_x) or not _plausible(found.mpp_y):
            return (
                f"claims {found.mpp_x:.4g} × {found.mpp_y:.4g} µm/px ({found.tag}), outside of "
                f"{PLAUSIBLE_MPP[0]} to {PLAUSIBLE_MPP[1]:g}"
            )
        return f"claims {found.mpp_x:.4g} µm/px across but {found.mpp_y:.4g} µm/px down ({found.tag})"


def resolve_mpp(path: Path, metadata: Metadata | None, given: Given | None) -> Resolution:
    """Climb the ladder for one slide.

    Args:
        path: The slide, for the error sentence.
        metadata: What the file says, or None.
        given: What a person says, or None.

    Returns:
        The resolution; its ``mpp`` is None where neither knows.

    Raises:
        MppConflictError: If ``given`` differs from plausible metadata by more than 1 % without override.
        ConfigError: If ``given`` itself is not a plausible resolution.

    Example:
        >>> resolve_mpp(Path("a.svs"), Metadata(0.25, 0.25, "aperio.MPP"), None).mpp
        0.25
    """
    if given is not None and not _plausible(given.mpp):
        raise ConfigError(
            f"mpp must lie in {PLAUSIBLE_MPP[0]} to {PLAUSIBLE_MPP[1]:g} µm/px. Got {given.mpp:g} ({given.source})."
        )
    problem = _problem(metadata)
    if metadata is None or problem is not None:
        if given is not None:
            return Resolution(given.mpp, given.source, metadata)
        return Resolution(None, "unknown", metadata, problem or MissingMppError)
    own = (metadata.mpp_x * metadata.mpp_y) ** 0.5
    if given is None or abs(given.mpp / own - 1) <= TOLERANCE:
        return Resolution(own, f"metadata:{metadata.tag}", metadata)
    if given.override:
        return Resolution(given.mpp, f"override:{given.source}", metadata)
    raise MppConflictError(
        f"Slide '{path.name}' says {own:.4g} µm/px ({metadata.tag}), but {given.mpp:.4g} was given ({given.source}). "
        "Leave the given value out, correct it, or pass override_mpp=True (--override-mpp) to let it win."
    )


def _plausible(mpp: float) -> bool:
    return PLAUSIBLE_MPP[0] <= mpp <= PLAUSIBLE_MPP[1]


def _problem(metadata: Metadata | None) -> type[ResolutionError] | None:
    if metadata is None:
        return None
    if not _plausible(metadata.mpp_x) or not _plausible(metadata.mpp_y):
        return ImplausibleMppError
    if abs(metadata.mpp_x / metadata.mpp_y - 1) > TOLERANCE:
        return AnisotropicMppError
    return None
