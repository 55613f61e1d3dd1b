"""The one axis of a space of embeddings along which classes lie apart the most."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float64, Int64

from microtome.errors import EvaluationError


@dataclass(frozen=True, eq=False)
class DiscriminantAxis:
    """A direction and where it starts; classes are one standard deviation wide along it.

    Attributes:
        direction: Per feature.
        middle: Mean of the rows that it was fitted on.
    """

    direction: Float64[np.ndarray, " d"] = field(repr=False)
    middle: Float64[np.ndarray, " d"] = field(repr=False)

    def place(self, embeddings: Float[np.ndarray, "n d"]) -> Float64[np.ndarray, " n"]:
        """Where rows lie along the axis."""
        placed: Float64[np.ndarray, " n"] = (embeddings.astype(np.float64) - self.middle) @ self.direction
        return placed


def fit_discriminant(embeddings: Float[np.ndarray, "n d"], classes: Int64[np.ndarray, " n"]) -> DiscriminantAxis:
    """The first axis of Fisher's linear discriminant analysis, with Ledoit and Wolf's shrinkage.

    Args:
        embeddings: One row per slide.
        classes: Number of each row's class; along the axis, later classes lie higher on the whole.

    Raises:
        EvaluationError: If there are fewer than two classes, as many classes as rows, or embeddings are not finite.

    References:
        Fisher 1936; O. Ledoit and M. Wolf 2004.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    n_classes = len(np.unique(classes))
    if n_classes < 2 or n_classes >= len(classes) or not np.isfinite(embeddings).all():
        raise EvaluationError(
            f"A discriminant needs finite embeddings of two classes or more, and several of one. Got {len(classes)} "
            f"rows of {n_classes} classes."
        )
    wide = embeddings.astype(np.float64)
    fitted = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto", n_components=1).fit(wide, classes)
    direction, middle = np.asarray(fitted.scalings_[:, 0], np.float64), wide.mean(axis=0)
    rises = np.corrcoef((wide - middle) @ direction, classes)[0, 1] >= 0
    return DiscriminantAxis(direction if rises else -direction, middle)
