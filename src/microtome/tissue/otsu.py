"""Tissue as HistoPrep finds it: grey values at or below Otsu's threshold, times a factor."""

from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from microtome.errors import TissueError
from microtome.geometry import Box
from microtome.slides.base import Slide
from microtome.tissue.method import FoundMask, TissueMethod, check_range, level_index

_MAX_LEVEL_PX = 400_000_000


@dataclass(frozen=True)
class Otsu(TissueMethod):
    """Grey values, blurred, at or below a threshold: Otsu's times ``multiplier``, or a given one.

    Attributes:
        threshold: Grey value, 0..255; None takes Otsu's over all pixels that are neither 0 nor 255.
        multiplier: Factor on Otsu's threshold; more finds more.
        sigma: Of the Gaussian, in pixels of the level; 0 for none. The kernel is ``int(3.5 σ + 0.5)`` wide, made odd.
        level: Pyramid level (negative counts from the smallest); None takes the first of which both sides are at
            most ``max_dimension``, else the last.
        max_dimension: See ``level``.

    References:
        HistoPrep 2.0.5, ``SlideReader.get_tissue_mask`` with the command line's defaults; Otsu, IEEE Trans. SMC 9
        (1979). The threshold equals HistoPrep's wherever the decoded pixels do.
    """

    name: ClassVar[str] = "otsu"
    version: ClassVar[int] = 1

    threshold: int | None = None
    multiplier: float = 1.05
    sigma: float = 1.0
    level: int | None = None
    max_dimension: int = 8192

    def __post_init__(self) -> None:
        check_range(self.name, "threshold", self.threshold, 0, 255)
        check_range(self.name, "multiplier", self.multiplier, 0, 100)
        check_range(self.name, "sigma", self.sigma, 0, 1000)
        check_range(self.name, "max_dimension", self.max_dimension, 1)

    def find_mask(self, slide: Slide) -> FoundMask:
        """Find tissue; see the class."""
        threshold, mask = self.find_threshold(slide)
        del threshold
        return FoundMask(mask, Box.of(slide.size))

    def find_threshold(self, slide: Slide) -> tuple[int, Bool[np.ndarray, "h w"]]:
        """The threshold that was used, and the mask of the whole slide at the level."""
        level = slide.levels[self._level(slide)]
        if level.size.area > _MAX_LEVEL_PX:
            raise TissueError(
                f"Slide '{slide.name}': the level to look at has {level.size.width} × {level.size.height} px, more "
                f"than {_MAX_LEVEL_PX:,}. Pass level= of a smaller one, or --tissue-method auto."
            )
        grey = self.blurred(cv2.cvtColor(slide.read(Box.of(slide.size), size=level.size), cv2.COLOR_RGB2GRAY))
        threshold = self.threshold
        if threshold is None:
            found = otsu_between(grey)
            if found is None:
                raise TissueError(
                    f"Slide '{slide.name}': Otsu's threshold needs two different grey values other than 0 and 255, and "
                    "there are none (the slide is empty). Pass threshold=, or --tissue-method auto."
                )
            threshold = min(255, max(0, int(found * self.multiplier + 0.5)))
        return threshold, grey <= threshold

    def blurred(self, grey: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
        """The Gaussian of ``sigma``."""
        if self.sigma == 0:
            return grey
        width = int(3.5 * self.sigma + 0.5)
        width += 1 - width % 2
        return np.asarray(cv2.GaussianBlur(grey, ksize=(width, width), sigmaX=self.sigma, sigmaY=self.sigma))

    def _level(self, slide: Slide) -> int:
        if self.level is not None:
            return level_index(slide, self.level, self.name)
        for index, level in enumerate(slide.levels):
            if max(level.size.width, level.size.height) <= self.max_dimension:
                return index
        return len(slide.levels) - 1


def otsu_between(grey: UInt8[np.ndarray, "..."]) -> int | None:
    """Otsu's threshold over all values other than 0 and 255; None where fewer than two different ones are left."""
    values = grey[(grey != 0) & (grey != 255)]
    if values.size == 0 or values.min() == values.max():
        return None
    return int(cv2.threshold(values.reshape(1, -1), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[0])
