"""Splits of a cohort by patient, at every level."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64


@dataclass(frozen=True, slots=True)
class Split:
    """Rows on the two sides of a split.

    Attributes:
        train: Row numbers, rising.
        test: Row numbers, rising; none of them in ``train``, and no patient on both sides.
    """

    train: Int64[np.ndarray, " n"]
    test: Int64[np.ndarray, " m"]


@dataclass(frozen=True, slots=True)
class OuterSplit:
    """An outer fold with its inner ones.

    Attributes:
        repeat: Number of the repeat, from 0.
        fold: Number of the fold, from 0.
        train: Rows to develop the model on.
        test: Rows that judge it.
        inner: Splits of ``train``; row numbers are those of the whole table. Empty where there is no inner level.
    """

    repeat: int
    fold: int
    train: Int64[np.ndarray, " n"]
    test: Int64[np.ndarray, " m"]
    inner: tuple[Split, ...] = ()
