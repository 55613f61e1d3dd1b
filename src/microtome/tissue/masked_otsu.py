"""Tissue as MONAI and NCRF find it before they look for tumour: Otsu's thresholds on RGB and on saturation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float64, UInt8

from microtome.errors import ConfigError
from microtome.geometry import Box, Size
from microtome.slides.base import Slide
from microtome.tissue.method import FoundMask, TissueMethod, check_range, level_index, otsu_threshold


@dataclass(frozen=True)
class MaskedOtsu(TissueMethod):
    """(R ≤ Otsu's of R, or G, or B alike) and saturation > Otsu's of saturation, over the whole slide.

    Attributes:
        level: Pyramid level to look at; None goes by ``mpp``. MONAI and NCRF use 6.
        mpp: Resolution to look at, µm/px; None goes by ``level``. By default 16 µm/px, near level 6 of a slide at
            0.25 µm/px.
        min_rgb: Each of R, G and B must be above this (NCRF: 50); None leaves that out (MONAI).

    References:
        MONAI 1.6 ``ForegroundMask(hsv_threshold={"S": "otsu"})``, whose RGB thresholds stay active, as in the bundle
        ``pathology_tumor_detection`` 0.6.2; NCRF ``tissue_mask.py``. Otsu's threshold is scikit-image's, over 256
        bins. Saturation is (max - min) / max, not quantised.
    """

    name: ClassVar[str] = "masked-otsu"
    version: ClassVar[int] = 1

    level: int | None = None
    mpp: float | None = 16.0
    min_rgb: int | None = None

    def __post_init__(self) -> None:
        check_range(self.name, "mpp", self.mpp, 0.01, 1000)
        check_range(self.name, "min_rgb", self.min_rgb, 0, 255)
        if (self.level is None) == (self.mpp is None):
            raise ConfigError(
                "Tissue method 'masked-otsu' works at a level or at a resolution: give one of level and mpp, and None "
                f"for the other. Got level={self.level} and mpp={self.mpp}."
            )

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> "MaskedOtsu":
        """As for every method; where only ``level`` is given, ``mpp`` is None."""
        values = cls.parsed(parameters)
        if values.get("level") is not None:
            values.setdefault("mpp", None)
        return cls(**values)

    def find_mask(self, slide: Slide) -> FoundMask:
        """Find tissue; see the class."""
        box = Box.of(slide.size)
        return FoundMask(self.foreground(slide.read(box, size=self._size(slide))), box)

    def foreground(self, image: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
        """The rule itself, over one image."""
        dark = np.zeros(image.shape[:2], bool)
        for channel in range(3):
            plane = image[:, :, channel]
            dark |= plane <= otsu_threshold(plane)
        saturation = saturation_of(image)
        mask = dark & (saturation > otsu_threshold(saturation))
        return np.asarray(mask if self.min_rgb is None else mask & (image.min(axis=2) > self.min_rgb))

    def _size(self, slide: Slide) -> Size:
        if self.mpp is None:
            return slide.levels[level_index(slide, self.level or 0, self.name)].size
        scale = slide.mpp / self.mpp
        return Size(max(1, round(slide.size.width * scale)), max(1, round(slide.size.height * scale)))


def saturation_of(image: UInt8[np.ndarray, "h w 3"]) -> Float64[np.ndarray, "h w"]:
    """Saturation of HSV, (max - min) / max, 0..1; 0 for black."""
    high, low = image.max(axis=2).astype(np.float64), image.min(axis=2)
    return np.asarray(np.divide(high - low, high, out=np.zeros_like(high), where=high > 0))
