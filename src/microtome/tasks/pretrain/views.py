"""Views of a slide's tokens: split, crop, mask.

References:
    specs FastGlioma section 3, stage 2.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from microtome.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SlideViews:
    """How two views of a slide are drawn.

    Attributes:
        split: Share of the tokens that one of the views draws from; the other has the rest.
        area: Least and greatest area of the crop, in cells of the grid. The published training names two pairs, this
            and (50, 150).
        aspect: Least and greatest ratio of its sides.
        kept: Least and greatest share of the cropped tokens that stay; one stays always.

    Raises:
        ConfigError: If a range is empty or out of place.
    """

    split: float = 0.7
    area: tuple[float, float] = (100.0, 200.0)
    aspect: tuple[float, float] = (0.5, 2.0)
    kept: tuple[float, float] = (0.1, 0.8)

    def __post_init__(self) -> None:
        ranges = {"area": self.area, "aspect": self.aspect, "kept": self.kept}
        for name, (low, high) in ranges.items():
            if not 0 < low <= high:
                raise ConfigError(f"{name} must be two rising numbers above 0. Got {low} and {high}.")
        if not 0 < self.split < 1 or self.kept[1] > 1:
            raise ConfigError(f"split and kept are shares in 0..1. Got {self.split} and {self.kept[1]}.")

    def draw(
        self, grid: Int64[np.ndarray, "n 2"], rng: np.random.Generator
    ) -> tuple[Int64[np.ndarray, " a"], Int64[np.ndarray, " b"]]:
        """Rows of the tokens of two views; no token is in both, and each has at least one.

        Args:
            grid: Row and column of each token, at least two tokens.
            rng: Where chance comes from.
        """
        n = len(grid)
        if n < 2:
            raise ConfigError(f"Two views need two patches. Got {n}.")
        order = rng.permutation(n)
        n_first = min(n - 1, max(1, round(self.split * n)))
        parts = [order[:n_first], order[n_first:]]
        if rng.random() < 0.5:
            parts.reverse()
        first, second = (self._mask(self._crop(grid, rows, rng), rng) for rows in parts)
        return first, second

    def _crop(
        self, grid: Int64[np.ndarray, "n 2"], rows: Int64[np.ndarray, " m"], rng: np.random.Generator
    ) -> Int64[np.ndarray, " k"]:
        centre = grid[rng.choice(rows)]
        area, aspect = rng.uniform(*self.area), rng.uniform(*self.aspect)
        half = np.maximum(1, np.rint(np.sqrt([area / aspect, area * aspect]) / 2))
        inside = (np.abs(grid[rows] - centre) < half).all(axis=1)
        cropped: Int64[np.ndarray, " k"] = rows[inside]
        return cropped

    def _mask(self, rows: Int64[np.ndarray, " m"], rng: np.random.Generator) -> Int64[np.ndarray, " k"]:
        n_kept = max(1, int(rng.uniform(*self.kept) * len(rows)))
        kept: Int64[np.ndarray, " k"] = np.sort(rng.choice(rows, n_kept, replace=False))
        return kept
