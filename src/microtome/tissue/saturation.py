"""Tissue as CLAM finds it: saturated pixels, closed, and the contours of what is large enough."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
from jaxtyping import Bool, Int32, UInt8

from microtome.errors import ConfigError, TissueError
from microtome.geometry import Box
from microtome.slides.base import Slide
from microtome.tissue.method import FoundMask, TissueMethod, check_range, level_index

_REFERENCE_PX0 = 512  # areas are counted in squares of this side
_MAX_LEVEL_PX = 100_000_000

_PRESETS: dict[str, dict[str, Any]] = {
    "default": {"sthresh": 8, "mthresh": 7, "close": 4, "a_t": 100, "a_h": 16, "max_n_holes": 8},
    "bwh_biopsy": {"sthresh": 15, "mthresh": 11, "close": 2, "a_t": 1, "a_h": 1, "max_n_holes": 2},
    "bwh_resection": {"sthresh": 15, "mthresh": 11, "close": 4, "a_t": 100, "a_h": 16, "max_n_holes": 8},
    "tcga": {"sthresh": 8, "mthresh": 7, "close": 4, "a_t": 16, "a_h": 4, "max_n_holes": 8},
}


@dataclass(frozen=True, eq=False)
class Contour:
    """The outline of a piece of tissue and of the holes in it.

    The points are the centres of the pixels on the border, as OpenCV gives them, so the outline runs half a pixel
    inside of the piece.

    Attributes:
        outline: Points x y, level-0 pixels, truncated to whole ones.
        holes: The same for each hole.
    """

    outline: Int32[np.ndarray, "n 2"]
    holes: tuple[Int32[np.ndarray, "_ 2"], ...] = ()


@dataclass(frozen=True)
class Saturation(TissueMethod):
    """HSV saturation above a threshold, median-filtered before and closed after; large contours, large holes.

    Attributes:
        sthresh: Threshold on the saturation, 0..255.
        mthresh: Side of the median filter, odd, in pixels of the level.
        close: Side of the square of the closing; 0 for none.
        use_otsu: Use Otsu's threshold in place of ``sthresh``.
        a_t: Least area of a piece (less its holes), in squares of 512 level-0 pixels.
        a_h: Least area of a hole, in the same.
        max_n_holes: Of each piece only so many, the largest, are holes.
        seg_level: Pyramid level; -1 takes the best for a downsample of 64.

    References:
        CLAM (53e2409), ``WholeSlideImage.segmentTissue``; parameters under their names there.
    """

    name: ClassVar[str] = "saturation"
    version: ClassVar[int] = 1

    sthresh: int = 8
    mthresh: int = 7
    close: int = 4
    use_otsu: bool = False
    a_t: float = 100.0
    a_h: float = 16.0
    max_n_holes: int = 8
    seg_level: int = -1

    def __post_init__(self) -> None:
        check_range(self.name, "sthresh", self.sthresh, 0, 255)
        check_range(self.name, "mthresh", self.mthresh, 1, 255)
        check_range(self.name, "close", self.close, 0, 10_000)
        check_range(self.name, "a_t", self.a_t, 0)
        check_range(self.name, "a_h", self.a_h, 0)
        check_range(self.name, "max_n_holes", self.max_n_holes, 0)
        check_range(self.name, "seg_level", self.seg_level, -1)
        if self.mthresh % 2 == 0:
            raise ConfigError(f"mthresh of tissue method 'saturation' must be odd. Got {self.mthresh}.")

    @classmethod
    def preset(cls, name: str) -> "Saturation":
        """Parameters under one of CLAM's preset names.

        Raises:
            ConfigError: If there is no such preset.

        Example:
            >>> Saturation.preset("bwh_biopsy").sthresh
            15
        """
        if name not in _PRESETS:
            raise ConfigError(f"preset must be one of {', '.join(_PRESETS)}. Got {name!r}.")
        return cls(**_PRESETS[name])

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> "Saturation":
        """As for every method; ``preset`` names values that the others then replace."""
        others = {key: value for key, value in parameters.items() if key != "preset"}
        base = cls.preset(str(parameters["preset"])) if "preset" in parameters else cls()
        return cls(**{**vars(base), **cls.parsed(others)})

    def find_mask(self, slide: Slide) -> FoundMask:
        """The contours filled at the level, each point of a border counted as tissue."""
        level = slide.levels[self._level(slide)]
        _, contours = self._contours(slide)
        mask = np.zeros((level.size.height, level.size.width), np.uint8)
        for outline, holes in contours:
            x, y, w, h = cv2.boundingRect(outline)
            piece = np.zeros((h, w), np.uint8)
            cv2.drawContours(piece, [outline], -1, 1, cv2.FILLED, offset=(-x, -y))
            for hole in holes:
                cv2.drawContours(piece, [hole], -1, 0, cv2.FILLED, offset=(-x, -y))
                cv2.drawContours(piece, [hole], -1, 1, 1, offset=(-x, -y))  # a hole's contour runs on tissue
            mask[y : y + h, x : x + w] |= piece
        return FoundMask(mask.astype(bool), Box.of(slide.size))

    def find_contours(self, slide: Slide) -> list[Contour]:
        """The contours that CLAM keeps, in its order, level-0 pixels."""
        scale, contours = self._contours(slide)
        return [
            Contour(_scaled(outline, scale), tuple(_scaled(h, scale) for h in holes)) for outline, holes in contours
        ]

    def find_saturated(self, slide: Slide) -> Bool[np.ndarray, "h w"]:
        """Pixels of the level that are saturated, after median and closing."""
        level = slide.levels[self._level(slide)]
        if level.size.area > _MAX_LEVEL_PX:
            raise TissueError(
                f"Slide '{slide.name}': the level to look at has {level.size.width} × {level.size.height} px, more "
                f"than {_MAX_LEVEL_PX:,}. Pass seg_level= of a smaller level, or --tissue-method auto."
            )
        image = slide.read(Box.of(slide.size), size=level.size)
        return self._binary(np.ascontiguousarray(cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[:, :, 1]))

    def _binary(self, saturation: UInt8[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
        smooth = cv2.medianBlur(saturation, self.mthresh)
        flag = cv2.THRESH_OTSU if self.use_otsu else cv2.THRESH_BINARY
        _, binary = cv2.threshold(smooth, 0 if self.use_otsu else self.sthresh, 255, flag)
        if self.close > 0:
            binary = cv2.morphologyEx(binary, cv2.MORPH_CLOSE, np.ones((self.close, self.close), np.uint8))
        return np.asarray(binary > 0)

    def _contours(self, slide: Slide) -> tuple[tuple[float, float], list[tuple[np.ndarray, list[np.ndarray]]]]:
        """Level-0 pixels per pixel of the level, and kept contours with kept holes in pixels of the level."""
        level = slide.levels[self._level(slide)]
        scale = (level.downsample_x, level.downsample_y)
        square = int(_REFERENCE_PX0**2 / (scale[0] * scale[1]))
        found, hierarchy = cv2.findContours(
            self.find_saturated(slide).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
        )
        points = [np.asarray(contour) for contour in found]
        parents: list[int] = [] if not points else np.asarray(hierarchy)[0, :, 3].tolist()
        holes_of: dict[int, list[np.ndarray]] = {i: [] for i, parent in enumerate(parents) if parent < 0}
        for index, parent in enumerate(parents):
            if parent >= 0:
                holes_of[parent].append(points[index])
        kept = []
        for index, holes in holes_of.items():
            area = cv2.contourArea(points[index]) - sum(cv2.contourArea(h) for h in holes)
            if area > 0 and area > self.a_t * square:
                kept.append((points[index], self._large(holes, square)))
        return scale, kept

    def _large(self, holes: Sequence[np.ndarray], square: int) -> list[np.ndarray]:
        largest = sorted(holes, key=cv2.contourArea, reverse=True)[: self.max_n_holes]
        return [hole for hole in largest if cv2.contourArea(hole) > self.a_h * square]

    def _level(self, slide: Slide) -> int:
        if self.seg_level >= 0:
            return level_index(slide, self.seg_level, self.name)
        # the largest downsample that is at most 64, as OpenSlide chooses
        below = [i for i, level in enumerate(slide.levels) if (level.downsample_x + level.downsample_y) / 2 <= 64]
        return below[-1] if below else 0


def _scaled(points: np.ndarray, scale: tuple[float, float]) -> Int32[np.ndarray, "n 2"]:
    return np.asarray((points.reshape(-1, 2) * np.array(scale)).astype(np.int32))
