"""A synthetic H&E-like slide of any size whose tissue and tumour are known.

Any box can be painted without the rest of the slide, and comes out the same whatever else was painted before.
"""

import threading
from collections import OrderedDict
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Shaped

from microtome.errors import ConfigError
from microtome.geometry import Box, Size
from microtome.slides.pyramid import Canvas
from microtome.testing.synthetic_layout import Wishes, plan_layout
from microtome.testing.synthetic_paint import Painter, Staining

PenColour = Literal["blue", "green", "black"]

PAINTER_VERSION = 1  # rises when the same arguments give other pixels
_BLOCK = 512
_KEPT_BLOCKS = 24
_LEAST_PX = 256
_BAND_PX = 2048


class SyntheticSlide:
    """Pixels and known truth of one synthetic slide; safe to read from many threads.

    Args:
        seed: Decides everything random.
        size: Level 0, in pixels, each side at least 256; a number means a square.
        mpp: µm per pixel, 0.1 to 4; structures have their size on the glass.
        tumour: Whether a tumour is planted; it takes about a quarter of the tissue.
        pen: Colour of a felt-tip stroke over the section's edge, or None.
        defocus: Whether a round patch of the section lies out of focus.
        modality: ``brightfield`` (8-bit RGB), or ``fluorescence`` (the same section as 16-bit counts of two dyes on
            a dark background).

    Attributes:
        tissue: Outlines of the section with its holes, level-0 pixels. Glands' lumens, fat and clefts lie inside.
        tumour: Outlines of the planted tumour, level-0 pixels; empty without one.
        pen: Outlines of the ink, level-0 pixels; empty without.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        size: Size | int = 8192,
        mpp: float = 0.5,
        tumour: bool = True,
        pen: PenColour | None = None,
        defocus: bool = False,
        modality: Literal["brightfield", "fluorescence"] = "brightfield",
    ) -> None:
        self.size = Size(size, size) if isinstance(size, int) else size
        if min(self.size.width, self.size.height) < _LEAST_PX:
            raise ConfigError(
                f"A synthetic slide is at least {_LEAST_PX} px wide and high. "
                f"Got {self.size.width} × {self.size.height}."
            )
        if not 0.1 <= mpp <= 4:
            raise ConfigError(f"A synthetic slide's mpp must be 0.1 to 4 µm/px. Got {mpp}.")
        if pen not in (None, "blue", "green", "black"):
            raise ConfigError(f"pen must be blue, green, black or None. Got {pen!r}.")
        if modality not in ("brightfield", "fluorescence"):
            raise ConfigError(f"modality must be brightfield or fluorescence. Got {modality!r}.")
        if seed < 0:
            raise ConfigError(f"seed must be at least 0. Got {seed}.")
        self.seed, self.mpp, self.modality = seed, mpp, modality
        self.channels = ("R", "G", "B") if modality == "brightfield" else ("DAPI", "FITC")
        self.recipe: dict[str, object] = {
            "painter": PAINTER_VERSION, "seed": seed, "width": self.size.width, "height": self.size.height, "mpp": mpp,
            "tumour": tumour, "pen": pen, "defocus": defocus, "modality": modality,
        }  # fmt: skip
        layout = plan_layout(self.size, mpp, seed, Wishes(tumour=tumour, pen=pen is not None, defocus=defocus))
        self.tissue = layout.tissue
        self.tumour = layout.tumour
        self.pen = layout.pen
        self._painter = Painter(layout, mpp, seed, _staining_of(seed), pen or "blue")
        self._blocks: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, box: Box, *, downsample: int = 1) -> Shaped[np.ndarray, "h w c"]:
        """Paint a region.

        Args:
            box: Where, in level-0 pixels, inside of the slide; sides are multiples of ``downsample``.
            downsample: Level-0 pixels per pixel out, a power of 2; each pixel is the mean of its level-0 pixels.

        Returns:
            RGB uint8 (h, w, 3), or for fluorescence counts uint16 (h, w, 2).

        Raises:
            ConfigError: If the box reaches out of the slide or does not divide.

        Example:
            >>> slide = SyntheticSlide(7, size=512)
            >>> slide.read(Box(100, 60, 32, 16)).shape
            (16, 32, 3)
        """
        if not Box.of(self.size).contains(box):
            raise ConfigError(f"{box} reaches out of a slide of {self.size.width} × {self.size.height} px.")
        if downsample < 1 or downsample & (downsample - 1) or box.width % downsample or box.height % downsample:
            raise ConfigError(
                f"downsample must be a power of 2 that divides the box's sides. Got {downsample} for {box}."
            )
        if downsample == 1:
            return self._assembled(box)
        rows = max(1, _BAND_PX // downsample) * downsample
        bands = []
        for y in range(box.y, box.bottom, rows):
            band = self._assembled(Box(box.x, y, box.width, min(rows, box.bottom - y)))
            small = (band.shape[1] // downsample, band.shape[0] // downsample)
            bands.append(cv2.resize(band, small, interpolation=cv2.INTER_AREA))
        return np.concatenate(bands)

    def canvas(self, downsamples: tuple[int, ...] = (1, 4, 16)) -> Canvas:
        """The slide as something to be written."""
        kind: Literal["uint8", "uint16"] = "uint8" if self.modality == "brightfield" else "uint16"
        return Canvas(self.read, self.size, self.mpp, downsamples=downsamples, channels=self.channels, dtype=kind)

    def _assembled(self, box: Box) -> np.ndarray:
        """Put a region together from blocks of one fixed grid, which is what makes it the same each time."""
        dtype = np.uint8 if self.modality == "brightfield" else np.uint16
        out = np.empty((box.height, box.width, len(self.channels)), dtype)
        for row in range(box.y // _BLOCK, -(-box.bottom // _BLOCK)):
            for column in range(box.x // _BLOCK, -(-box.right // _BLOCK)):
                where = Box(column * _BLOCK, row * _BLOCK, _BLOCK, _BLOCK)
                part = box.intersection(where)
                if part is None:
                    continue
                block = self._block(where)
                target = out[part.y - box.y : part.bottom - box.y, part.x - box.x : part.right - box.x]
                target[:] = block[part.y - where.y : part.bottom - where.y, part.x - where.x : part.right - where.x]
        return out

    def _block(self, where: Box) -> np.ndarray:
        key = (where.x, where.y)
        with self._lock:
            if key in self._blocks:
                self._blocks.move_to_end(key)
                return self._blocks[key]
        paint = self._painter.light if self.modality == "brightfield" else self._painter.fluorescence
        block: np.ndarray = paint(where)
        with self._lock:
            self._blocks[key] = block
            while len(self._blocks) > _KEPT_BLOCKS:
                self._blocks.popitem(last=False)
        return block


def synthetic_slide(seed: int = 0, *, size_px: int = 8192, mpp: float = 0.5) -> SyntheticSlide:
    """A square bright-field slide with a planted tumour; :class:`SyntheticSlide` has more to choose from.

    Args:
        seed: Decides everything random.
        size_px: Side, level-0 pixels.
        mpp: µm per pixel.

    Returns:
        The slide; nothing is painted before it is read.

    Raises:
        ConfigError: If it is smaller than 256 px or the mpp is not 0.1 to 4 µm/px.
    """
    return SyntheticSlide(seed, size=size_px, mpp=mpp)


def _staining_of(seed: int) -> Staining:
    """Laboratories and batches differ: strength of both dyes, and a little in hue."""
    rng = np.random.default_rng([seed, 3])
    plain = Staining()
    hue_h, hue_e = rng.uniform(0.94, 1.06, 3), rng.uniform(0.93, 1.07, 3)
    red_h, green_h, blue_h = (float(a * b) for a, b in zip(plain.haematoxylin, hue_h, strict=True))
    red_e, green_e, blue_e = (float(a * b) for a, b in zip(plain.eosin, hue_e, strict=True))
    return Staining(
        haematoxylin=(red_h, green_h, blue_h),
        eosin=(red_e, green_e, blue_e),
        strength_h=float(rng.uniform(0.88, 1.2)),
        strength_e=float(rng.uniform(0.8, 1.18)),
    )
