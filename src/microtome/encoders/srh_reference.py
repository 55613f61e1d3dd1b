"""What a trained SRH model carries beside its weights: a calibration of its score, and what its slides look like.

numpy alone, so that tables and reports need no torch.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Float64

from microtome.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_NEIGHBOURS = 5
DEFAULT_QUANTILE = 0.95


@dataclass(frozen=True, slots=True)
class Calibration:
    """From logit to score: an affine map before the sigmoid, then a rising line through knots.

    The ordinal loss sees differences of logits alone, so that without it the place of the bands is arbitrary for a
    model that was trained anew. The published model needs none.

    Attributes:
        scale: Factor of the logit, above 0.
        offset: Added to it.
        knots: Score before → after, rising; empty for none.
        n_slides: Validation slides that it was fitted on.
        cuts: Calibrated scores that part the degrees, if they were fitted; for information.

    References:
        specs FastGlioma section 1.4.
    """

    scale: float = 1.0
    offset: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()
    n_slides: int = 0
    cuts: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        values = np.array([self.scale, self.offset, *np.ravel(self.knots)], np.float64)
        before, after = np.array(self.knots, np.float64).reshape(-1, 2).T
        rising = bool((np.diff(before) > 0).all() and (np.diff(after) >= 0).all())
        inside = bool(((after >= 0) & (after <= 1)).all())
        if not np.isfinite(values).all() or self.scale <= 0 or not rising or not inside:
            raise WeightsError(
                f"A calibration rises and ends in 0..1. Got scale {self.scale}, offset {self.offset}, knots "
                f"{self.knots}. Fit it again."
            )

    def apply(self, logits: Float[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """Scores, 0..1.

        Example:
            >>> Calibration(offset=-2.0).apply(np.array([2.0])).tolist()
            [0.5]
        """
        scores = sigmoid(self.scale * np.asarray(logits, np.float64) + self.offset)
        if not self.knots:
            return scores
        before, after = np.array(self.knots, np.float64).T
        mapped: Float64[np.ndarray, " n"] = np.interp(scores, before, after)
        return mapped


@dataclass(frozen=True)
class Familiar:
    """Slides that a model was validated on, to tell a slide that is unlike all of them.

    The distance of a slide is the mean cosine distance to its nearest validation slides. It is far where that is more
    than most validation slides are from the others.

    Attributes:
        embeddings: Of the validation slides, of length one.
        n_neighbours: Nearest ones counted.
        limit: Distance above which a slide is out of distribution.
        quantile: Share of the validation slides, each against the others, that lie within the limit.
    """

    embeddings: Float[np.ndarray, "v d"] = field(repr=False)
    n_neighbours: int
    limit: float
    quantile: float

    def distance(self, embedding: Float[np.ndarray, " d"]) -> float:
        """Cosine distance of a slide to its neighbours, 0..2."""
        return float(_to_neighbours(unit_rows(embedding[None]) @ self.embeddings.T, self.n_neighbours)[0])


def fit_familiar(
    embeddings: Float[np.ndarray, "v d"],
    *,
    n_neighbours: int = DEFAULT_NEIGHBOURS,
    quantile: float = DEFAULT_QUANTILE,
) -> Familiar:
    """Calibrate the flag on the embeddings of validation slides, each measured against the others.

    Args:
        embeddings: One row per slide.
        n_neighbours: Nearest slides counted.
        quantile: Share of these slides that the flag lets pass, 0..1.

    Raises:
        WeightsError: If there are too few, or they are not finite.
    """
    if len(embeddings) < n_neighbours + 2:
        raise WeightsError(
            f"An out-of-distribution flag with {n_neighbours} neighbours needs at least {n_neighbours + 2} validation "
            f"slides. Got {len(embeddings)}."
        )
    if not np.isfinite(embeddings).all():
        raise WeightsError("Validation embeddings must be finite. Got NaN or infinity.")
    unit = unit_rows(embeddings)
    similar = unit @ unit.T
    np.fill_diagonal(similar, -np.inf)
    limit = float(np.quantile(_to_neighbours(similar, n_neighbours), quantile, method="higher"))
    return Familiar(unit, n_neighbours, limit, quantile)


def unit_rows(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Rows of length one; zeros stay."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Float[np.ndarray, "n d"] = (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return scaled


def sigmoid(x: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """The logistic function, without overflow."""
    small = np.exp(-np.abs(x))
    values: Float64[np.ndarray, "..."] = np.where(x >= 0, 1 / (1 + small), small / (1 + small))
    return values


def calibration_text(calibration: Calibration) -> str:
    """A calibration as JSON, for a model file."""
    return json.dumps(asdict(calibration), allow_nan=False)


def read_calibration(text: str) -> Calibration:
    """The inverse of :func:`calibration_text`.

    Raises:
        WeightsError: If it is none.
    """
    try:
        values: Mapping[str, Any] = json.loads(text)
        knots: Sequence[Sequence[float]] = values["knots"]
        return Calibration(
            scale=float(values["scale"]),
            offset=float(values["offset"]),
            knots=tuple((float(a), float(b)) for a, b in knots),
            n_slides=int(values["n_slides"]),
            cuts=tuple(float(cut) for cut in values["cuts"]),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise WeightsError(f"The model's calibration cannot be read: {error}. Convert the model again.") from error


def _to_neighbours(similar: Float[np.ndarray, "n v"], k: int) -> Float[np.ndarray, " n"]:
    k = min(k, similar.shape[1])
    nearest: Float[np.ndarray, " n"] = 1 - np.sort(similar, axis=1)[:, -k:].mean(axis=1)
    return nearest
