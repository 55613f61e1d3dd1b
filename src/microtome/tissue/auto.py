"""Tissue without tuning: on bright-field stains by colour and texture, on a dark background by signal."""

from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Shaped, UInt8

from microtome.errors import ConfigError
from microtome.geometry import Size
from microtome.slides.base import Slide
from microtome.tissue.method import FoundMask, TissueMethod, check_range, otsu_threshold
from microtome.tissue.pen import find_ink
from microtome.tissue.shapes import closed, grown, opened, reached, without_small, without_small_holes

_UNIT_UM = 8.0  # lengths below are in units of this; without a resolution, of a thousandth of the image's side
_GLASS = 243.0  # what an empty slide looks like where none of it is to be seen


@dataclass(frozen=True)
class Auto(TissueMethod):
    """Tissue without tuning.

    Bright field: density over the glass (estimated from the slide itself). What has colour is a candidate; what has
    strong colour, or colour and texture, makes it tissue together with the weaker colour around it. So glass, grey
    borders, shadows, coverslip edges and bubbles, which have no colour, are left out, and ink is told by its hue
    (:mod:`microtome.tissue.pen`). Dark background (fluorescence): signal over the background's noise, averaged over
    cells. Then gaps are closed, specks dropped, small holes filled, and the outline is moved outwards a little.

    Attributes:
        mpp: Resolution to look at, µm/px, where the slide's is known.
        max_px: Longest side of the image looked at, at most.
        min_px: Longest side at least, as far as level 0 has it: small slides are looked at more closely.
        colour: Density between the most and the least absorbed channel above which a pixel is a candidate.
        strong_colour: The same above which it is tissue.
        texture: Standard deviation of density above which half of ``strong_colour`` does.
        faint: A slide on which nothing is denser than this, and little (5 %) is coloured, is empty.
        signal: On a dark background: least share of the slide's brightest signal, averaged over 16 µm, that is
            tissue; where signal and background are further apart the limit lies between them, up to 4 times this.
        closing_um: Gaps up to twice this are closed.
        min_area_um2: Least area of a piece; at most 0.05 % of the slide.
        max_hole_um2: Holes up to this area are filled.
        margin_um: The outline is moved outwards by this, and by up to ``margin_px0`` where there is little tissue.
        margin_px0: Margin where tissue is a vanishing share of the slide, level-0 pixels (at most 48 µm; without a
            resolution at most 3.3 % of the longest side); from 10 % upwards it is ``margin_um``.
        remove_ink: Leave out pen marks.

    References:
        Own method. Density as in Ruifrok & Johnston, Anal. Quant. Cytol. Histol. 23 (2001). Compared with the
        published methods in the documentation's chapter on tissue.
    """

    name: ClassVar[str] = "auto"
    version: ClassVar[int] = 1

    mpp: float = 8.0
    max_px: int = 2048
    min_px: int = 1024
    colour: float = 0.05
    strong_colour: float = 0.2
    texture: float = 0.03
    faint: float = 0.45
    signal: float = 0.04
    closing_um: float = 32.0
    min_area_um2: float = 10_000.0
    max_hole_um2: float = 12_800.0
    margin_um: float = 12.0
    margin_px0: float = 48.0
    remove_ink: bool = True

    def __post_init__(self) -> None:
        check_range(self.name, "mpp", self.mpp, 0.01, 1000)
        check_range(self.name, "max_px", self.max_px, 16, 20_000)
        check_range(self.name, "min_px", self.min_px, 1, 20_000)
        for field in ("colour", "strong_colour", "texture", "faint", "signal"):
            check_range(self.name, field, getattr(self, field), 0.001, 5)
        for field in ("closing_um", "min_area_um2", "max_hole_um2", "margin_um", "margin_px0"):
            check_range(self.name, field, getattr(self, field), 0)
        if self.min_px > self.max_px or self.colour > self.strong_colour:
            raise ConfigError(
                "Tissue method 'auto' needs min_px at most max_px and colour at most strong_colour. Got min_px="
                f"{self.min_px}, max_px={self.max_px}, colour={self.colour} and strong_colour={self.strong_colour}."
            )

    def find_mask(self, slide: Slide) -> FoundMask:
        """Find tissue; see the class."""
        box, mpp0 = slide.bounds, slide.resolution.mpp
        size = self._size(box.size, mpp0)
        scale = box.width / size.width  # level-0 pixels per pixel of the image
        longest = max(size.width, size.height)
        # of a small field a piece is small, and 8 µm would be coarse
        unit = max(1.0, longest / 1000) if mpp0 is None else min(_UNIT_UM / (mpp0 * scale), max(1.0, longest / 300))
        if slide.is_rgb or slide.view is not None:
            image = slide.read(box, size=size)
            found = self._on_dark(image, unit) if is_dark(image) else self._on_bright(image, unit)
        else:
            found = self._on_dark(slide.read_raw(box, size=size), unit)
        return FoundMask(self._finished(*found, unit, self._margin(found[0], unit, scale, box.size, mpp0)), box)

    def _size(self, whole: Size, mpp0: float | None) -> Size:
        longest = max(whole.width, whole.height)
        wanted = self.max_px if mpp0 is None else max(self.min_px, round(longest * mpp0 / self.mpp))
        return whole.fitted(min(wanted, self.max_px))

    def _on_bright(
        self, image: UInt8[np.ndarray, "h w 3"], unit: float
    ) -> tuple[Bool[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
        """Tissue and ink."""
        glass = glass_colour(image)
        density = density_over(cv2.GaussianBlur(image, (0, 0), max(unit, 0.7)), glass)
        least, densest = extremes(density)
        grey = is_grey(image)
        colour = densest / 2 if grey else densest - least
        rough = _texture(mean_of(density_over(cv2.GaussianBlur(image, (0, 0), 0.7), glass)), 2.5 * unit)
        ink = find_ink(density, unit) if self.remove_ink else np.zeros(densest.shape, bool)
        around = grown(ink, 2 * unit)
        # the coloured fringe of a dark line or edge is weak beside its density
        purity = colour / (mean_of(density) + 0.01)
        weak = (colour > self._least_colour(colour, densest)) & (purity > 0.2) & ~around
        weak &= (rough > 0.4 * self.texture) | (colour > 0.75 * self.strong_colour)
        textured = (colour > 0.75 * self.strong_colour) & (rough > self.texture)
        plain = colour > (np.inf if grey else self.strong_colour)  # grey without texture is no tissue
        strong = (plain | textured) & (purity > 0.3) & (densest > self.strong_colour)
        strong = opened(strong & ~around, 1)
        tissue = reached(weak & grown(strong, 120.0 / _UNIT_UM * unit), strong)
        if tissue.any() and tissue.mean() < 0.05 and np.percentile(densest[tissue], 95) < self.faint:
            tissue = np.zeros_like(tissue)
        return tissue, around

    def _least_colour(self, colour: Float32[np.ndarray, "h w"], densest: Float32[np.ndarray, "h w"]) -> float:
        """``colour``, raised where the glass itself is noisier, but not to more than twice."""
        glass = colour[densest < 0.06]
        if glass.size < 100:
            return self.colour
        middle = np.median(glass)
        noise = float(middle + 5 * 1.4826 * np.median(np.abs(glass - middle)))
        return min(max(self.colour, noise), 2 * self.colour)

    def _on_dark(
        self, image: Shaped[np.ndarray, "h w c"], unit: float
    ) -> tuple[Bool[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
        """Tissue by signal; no ink."""
        signal = signal_over_background(image, 2 * unit)
        # between background and signal on a logarithmic scale: cells may be thousands of times as bright
        between = float(np.exp(otsu_threshold(np.log(np.maximum(signal, 0) + 0.005)))) - 0.005
        least = min(max(between, self.signal), 4 * self.signal)
        return reached(signal > least, signal > 2 * least), np.zeros(signal.shape, bool)

    def _finished(
        self, tissue: Bool[np.ndarray, "h w"], ink: Bool[np.ndarray, "h w"], unit: float, margin: float
    ) -> Bool[np.ndarray, "h w"]:
        """Gaps closed, specks dropped, outline moved outwards, holes filled; ink is in none of it."""
        per_um2 = unit**2 / _UNIT_UM**2
        mask = opened(closed(tissue, self.closing_um / _UNIT_UM * unit), 1.5 * unit) & ~ink
        least = min(self.min_area_um2 * per_um2, 0.0005 * mask.size)
        mask = without_small(mask, least)
        mask = without_small_holes(grown(mask, margin), self.max_hole_um2 * per_um2)
        return without_small(mask & ~ink, least)

    def _margin(
        self, tissue: Bool[np.ndarray, "h w"], unit: float, scale: float, whole: Size, mpp0: float | None
    ) -> float:
        """Pixels of the image by which the outline is moved outwards."""
        least = self.margin_um / _UNIT_UM * unit if mpp0 is None else self.margin_um / (mpp0 * scale)
        limit_px0 = 0.033 * max(whole.width, whole.height) if mpp0 is None else 48.0 / mpp0
        most = max(least, min(self.margin_px0, limit_px0) / scale)
        return least + (most - least) * max(0.0, 1 - float(tissue.mean()) / 0.1)


def extremes(image: Shaped[np.ndarray, "h w 3"]) -> tuple[Shaped[np.ndarray, "h w"], Shaped[np.ndarray, "h w"]]:
    """Least and greatest of three channels (numpy's own reduction of a last axis of three is slow)."""
    first, second, third = cv2.split(image)
    return np.asarray(cv2.min(cv2.min(first, second), third)), np.asarray(cv2.max(cv2.max(first, second), third))


def mean_of(image: Float32[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w"]:
    """Mean of three channels."""
    return np.asarray(cv2.transform(image, np.full((1, 3), 1 / 3, np.float32)))


def is_dark(image: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Whether an image has a dark background: much is dark, and hardly anything is white."""
    least, greatest = extremes(image)
    return bool((greatest < 60).mean() > 0.4 and (least > 170).mean() < 0.05)


def is_grey(image: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Whether all three channels are the same."""
    least, greatest = extremes(image)
    return bool((least == greatest).all())


def glass_colour(image: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, " 3"]:
    """Colour of the empty glass: the most frequent bright colour that is not pink, a usual one if there is none."""
    smooth = cv2.GaussianBlur(image, (0, 0), 1.0)
    low, high = extremes(smooth)
    red, green, blue = cv2.split(smooth)
    pink = cv2.subtract(cv2.min(red, blue), green) > 9  # saturates at 0
    glass = (low > 180) & (high - low <= 40) & ~pink
    if glass.mean() < 0.002:
        return np.full(3, _GLASS, np.float32)
    counts = np.convolve(np.bincount(low[glass], minlength=256), np.ones(5), mode="same")
    brightest = int(np.searchsorted(np.cumsum(counts), 0.99 * counts.sum()))
    counts[: max(0, brightest - 45)] = 0  # a pale piece of tissue may be more frequent than the glass
    near = glass & (np.abs(low.astype(np.int16) - int(counts.argmax())) <= 5)
    return np.asarray(np.median(smooth[near], axis=0), np.float32)


def density_over(image: UInt8[np.ndarray, "h w 3"], glass: Float32[np.ndarray, " 3"]) -> Float32[np.ndarray, "h w 3"]:
    """Optical density over the glass, natural logarithm; nothing is less dense than glass."""
    values = np.arange(256, dtype=np.float32)[:, None]
    table = np.maximum(0, np.log((glass + 1) / (values + 1))).astype(np.float32)
    return np.asarray(cv2.LUT(image, table.reshape(1, 256, 3)))


def blurred(image: Shaped[np.ndarray, "..."], sigma: float) -> Float32[np.ndarray, "..."]:
    """Gaussian blur, as float."""
    return np.asarray(cv2.GaussianBlur(image.astype(np.float32), (0, 0), sigma))


def _texture(density: np.ndarray, sigma: float) -> Float32[np.ndarray, "h w"]:
    """Local standard deviation."""
    mean = blurred(density, sigma)
    return np.asarray(np.sqrt(np.maximum(0, blurred(density * density, sigma) - mean * mean)))


def signal_over_background(image: Shaped[np.ndarray, "h w c"], sigma: float) -> Float32[np.ndarray, "h w"]:
    """The strongest channel's signal over its background, 0..1, averaged by a Gaussian.

    Per channel, background is the most frequent value and 1 is the 99.8th percentile, or 12 times the background's
    noise (its spread downwards) if that is more: a channel of noise alone must not look like signal.
    """
    strongest = np.zeros(image.shape[:2], np.float32)
    for index in range(image.shape[2]):
        channel = image[:, :, index].astype(np.float32)
        low, high = np.percentile(channel, [0.1, 99.8])
        if high <= low:
            continue
        counts, edges = np.histogram(channel, bins=256, range=(low, high))
        peak = int(np.convolve(counts, np.ones(5), mode="same")[:192].argmax())
        background = float(edges[peak] + edges[peak + 1]) / 2
        below = channel[channel < background]
        noise = float(np.sqrt(np.mean((below - background) ** 2))) if below.size else 0.0
        reach = max(high - background, 12 * noise)
        strongest = np.maximum(strongest, blurred(np.minimum((channel - background) / reach, 1), sigma))
    return strongest
