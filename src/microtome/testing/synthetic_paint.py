"""The painter of a synthetic slide: stains laid in layers, then turned into light.

A region is painted as amounts of haematoxylin, eosin and blood per pixel, absorbed after Lambert and Beer. Every
random thing hangs on its place on the slide, so that regions painted apart fit together.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Float32, UInt8, UInt16
from scipy.spatial import cKDTree

from microtome.geometry import Box
from microtome.testing.synthetic_cells import Cells, Nuclei, Rings, glands_in, scatter, vessels_in
from microtome.testing.synthetic_layout import Layout, unit_cells

ALIGN = 64  # a painted region begins and ends at multiples of this many level-0 pixels
_REACH_UM = 26.0  # nothing drawn from a point within a region reaches further than this
_PERIOD = 1021  # of the repeated grain; prime, so that it beats with no tile size
_PEN_INK = {"blue": (1.5, 0.9, 0.25), "green": (1.6, 0.45, 1.2), "black": (1.7, 1.7, 1.6)}


@dataclass(frozen=True, slots=True)
class Staining:
    """How strongly and in which hue a section is stained: OD of R, G, B per unit of stain, and factors."""

    haematoxylin: tuple[float, float, float] = (0.58, 0.77, 0.42)
    eosin: tuple[float, float, float] = (0.16, 0.72, 0.44)
    blood: tuple[float, float, float] = (0.16, 0.92, 0.74)
    strength_h: float = 1.0
    strength_e: float = 1.0
    glass: tuple[float, float, float] = (243.0, 242.0, 244.0)


@dataclass(slots=True)
class Layers:
    """A region while it is painted; float arrays are amounts of stain, byte arrays are coverage 0..255."""

    box: Box
    tissue: Float32[np.ndarray, "h w"]
    haematoxylin: Float32[np.ndarray, "h w"]
    eosin: Float32[np.ndarray, "h w"]
    nuclei: UInt8[np.ndarray, "h w"]
    epithelium: Float32[np.ndarray, "h w"]
    blood: Float32[np.ndarray, "h w"]
    lumen: UInt8[np.ndarray, "h w"]
    fields: dict[str, Float32[np.ndarray, "h w"]] = field(default_factory=dict)

    @property
    def origin(self) -> tuple[int, int]:
        """Top-left corner, level-0 pixels."""
        return self.box.x, self.box.y

    def pick(self, layer: np.ndarray, xy: np.ndarray) -> np.ndarray:
        """A layer's values at points (level-0 px) inside of the region."""
        x = np.clip(xy[:, 0].astype(np.intp) - self.box.x, 0, self.box.width - 1)
        y = np.clip(xy[:, 1].astype(np.intp) - self.box.y, 0, self.box.height - 1)
        return np.asarray(layer[y, x])


class Painter:
    """Paints any region of one planned slide.

    Args:
        layout: The plan.
        mpp: µm per level-0 pixel.
        seed: Decides everything random.
        staining: Colours.
        ink: Colour of the pen, where the plan has a stroke.
    """

    def __init__(self, layout: Layout, mpp: float, seed: int, staining: Staining, ink: str = "blue") -> None:
        self._layout, self._mpp, self._seed, self._staining = layout, mpp, seed, staining
        self._ink = np.array(_PEN_INK[ink], np.float32)
        rng = np.random.default_rng([seed, 2])
        self._slant = float(rng.uniform(0, np.pi))
        self._fibre = _periodic(rng, (1024, 1024), 1.3)
        self._grain = _periodic(rng, (_PERIOD, _PERIOD), 0.9)
        self._shot = _periodic(rng, (_PERIOD, _PERIOD), 0.6)
        self._margin = max(ALIGN, -(-int(_REACH_UM / mpp) // ALIGN) * ALIGN)

    def light(self, box: Box) -> UInt8[np.ndarray, "h w 3"]:
        """Bright-field RGB of a box whose corners are multiples of :data:`ALIGN`."""
        wide = self._widened(box)
        light, shot = self._inner(self._illumination(wide), box, wide), self._repeated(self._shot, box)
        if self._is_bare(wide):
            planes = [light, light, light]
        else:
            passed = (cv2.exp(-density) for density in self._density(self._layers(wide)))
            planes = [self._inner(plane, box, wide) * light for plane in self._focused(passed, wide)]
        noise = shot * np.float32(1.1)
        bright = zip(planes, self._staining.glass, strict=True)
        return np.asarray(cv2.merge([cv2.convertScaleAbs(p * np.float32(glass) + noise) for p, glass in bright]))

    def fluorescence(self, box: Box) -> UInt16[np.ndarray, "h w 2"]:
        """Counts of two dyes, nuclei and epithelium, of a box as in :meth:`light`; background about 200."""
        wide = self._widened(box)
        planes = [np.zeros((box.height, box.width), np.float32)] * 2
        if not self._is_bare(wide):
            layers = self._layers(wide)
            dapi = layers.haematoxylin * layers.tissue * np.float32(9000)
            green = (layers.epithelium * np.float32(1.2) + layers.eosin * np.float32(0.25)) * layers.tissue
            planes = [self._inner(p, box, wide) for p in self._focused([dapi, green * np.float32(8000)], wide)]
        noise = (self._repeated(self._shot, box), self._repeated(self._grain, box))
        counts = [p + n * (12 + np.sqrt(p) * np.float32(0.8)) + 200 for p, n in zip(planes, noise, strict=True)]
        return np.asarray(np.clip(np.stack(counts, axis=2), 0, 65535).astype(np.uint16))

    # -- frames -------------------------------------------------------------------------------------------

    def _widened(self, box: Box) -> Box:
        m = self._margin
        return Box(box.x - m, box.y - m, box.width + 2 * m, box.height + 2 * m)

    def _inner(self, array: np.ndarray, box: Box, wide: Box) -> np.ndarray:
        y, x = box.y - wide.y, box.x - wide.x
        return array[y : y + box.height, x : x + box.width]

    def _is_bare(self, wide: Box) -> bool:
        """Whether there is nothing but glass."""
        return float(self._layout.crop("tissue", wide).max()) < -12 and float(self._layout.crop("pen", wide).max()) <= 0

    def _px(self, um: float) -> float:
        return um / self._mpp

    # -- noise --------------------------------------------------------------------------------------------

    def _noise(self, box: Box, cell_um: float, salt: int) -> Float32[np.ndarray, "h w"]:
        """Smooth noise of about unit spread with bumps of about ``cell_um``."""
        cell = int(np.clip(2 ** round(np.log2(self._px(cell_um))), 2, ALIGN))
        ix = np.arange(box.x // cell - 2, box.right // cell + 2)
        iy = np.arange(box.y // cell - 2, box.bottom // cell + 2)
        values = unit_cells(*np.meshgrid(ix, iy), self._seed, salt) * 2 - 1
        full = cv2.resize(values, None, fx=cell, fy=cell, interpolation=cv2.INTER_CUBIC)
        return np.asarray(full[2 * cell : 2 * cell + box.height, 2 * cell : 2 * cell + box.width]) * np.float32(1.6)

    def _repeated(self, texture: np.ndarray, box: Box) -> np.ndarray:
        rows = np.arange(box.y, box.bottom) % len(texture)
        columns = np.arange(box.x, box.right) % len(texture)
        return np.asarray(texture[rows][:, columns])

    # -- layers -------------------------------------------------------------------------------------------

    def _layers(self, box: Box) -> Layers:
        names = ("tissue", "tumour", "gland", "fat", "lymph", "nest", "warp_u", "warp_v", "stain", "pen")
        fields = {name: self._layout.crop(name, box) for name in names}
        shape = (box.height, box.width)
        edge = fields["tissue"] + self._noise(box, 12, 1) * np.float32(3.0) + self._noise(box, 4, 2) * np.float32(1.0)
        layers = Layers(
            box=box,
            tissue=_ramp(edge, 0.0, 1.6),
            haematoxylin=np.zeros(shape, np.float32),
            eosin=np.zeros(shape, np.float32),
            nuclei=np.zeros(shape, np.uint8),
            epithelium=np.zeros(shape, np.float32),
            blood=np.zeros(shape, np.float32),
            lumen=np.zeros(shape, np.uint8),
            fields=fields,
        )
        self._paint_stroma(layers)
        self._paint_tumour(layers)
        self._paint_glands(layers)
        self._paint_vessels(layers)
        self._paint_fat(layers)
        self._paint_nuclei(layers)
        return layers

    def _paint_stroma(self, layers: Layers) -> None:
        """Wavy collagen with clefts, looser between glands."""
        box, fields = layers.box, layers.fields
        x = (np.arange(box.x, box.right, dtype=np.float32) * np.float32(self._mpp))[None, :]
        y = (np.arange(box.y, box.bottom, dtype=np.float32) * np.float32(self._mpp))[:, None]
        cos, sin = np.float32(np.cos(self._slant)), np.float32(np.sin(self._slant))
        u = x * cos + y * sin + fields["warp_u"]
        v = (
            y * cos
            - x * sin
            + fields["warp_v"]
            + self._noise(box, 30, 3) * np.float32(3.4)
            + self._noise(box, 12, 4) * np.float32(0.7)
        )
        coarse = self._sampled(u * np.float32(1 / 26), v * np.float32(1 / 3.6))
        fine = self._sampled(u * np.float32(1 / 9), v * np.float32(1 / 0.9))
        loose = _ramp(fields["gland"], -0.1, 0.1)
        cleft = _ramp(coarse + fine * np.float32(0.35) + loose * np.float32(0.25), -1.75, -1.25)
        cleft *= np.float32(0.88)
        cleft += np.float32(0.12)
        eosin = coarse * np.float32(0.13)
        eosin += fine * np.float32(0.085)
        eosin -= loose * np.float32(0.16)
        eosin += self._repeated(self._grain, box) * np.float32(0.03)
        eosin += np.float32(0.56)
        np.multiply(np.clip(eosin, 0.12, 1.4, out=eosin), cleft, out=layers.eosin)
        layers.haematoxylin[:] = (_ramp(fine, 0.5, 2) + loose) * np.float32(0.03) + np.float32(0.045)

    def _sampled(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """The endless fibre texture at places given in its own pixels; both arrays are used up."""
        side = len(self._fibre)
        u -= np.float32(side * np.floor(float(u.min()) / side))  # cv2.remap wraps, but counts in 16 bits
        v -= np.float32(side * np.floor(float(v.min()) / side))
        return cv2.remap(self._fibre, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)

    def _paint_tumour(self, layers: Layers) -> None:
        """Nests of crowded cells with scant stroma between them, gaps, and necrosis in the middle."""
        inside = layers.fields["tumour"] > 0
        if not inside.any():
            return
        nest, box = layers.fields["nest"], layers.box
        ragged = nest + self._noise(box, 8, 5) * np.float32(0.07)
        sheet = _ramp(np.abs(ragged), 0.15, 0.22) * _ramp(layers.fields["tumour"], -2, 2)
        gap = _ramp(ragged, 1.22, 1.27) * sheet
        grain = self._repeated(self._grain, box)
        mottle = self._noise(box, 6, 6)
        eosin = np.float32(0.40) + mottle * np.float32(0.05) + grain * np.float32(0.05)
        haze = np.float32(0.27) + mottle * np.float32(0.05) + grain * np.float32(0.03)
        _lay(layers.eosin, eosin, sheet)
        _lay(layers.haematoxylin, haze, sheet)
        _lay(layers.eosin, np.float32(0.03), gap)
        _lay(layers.haematoxylin, np.float32(0.01), gap)
        layers.lumen[:] = np.maximum(layers.lumen, (gap * 255).astype(np.uint8))
        np.maximum(layers.epithelium, sheet * (1 - gap), out=layers.epithelium)
        layers.fields["sheet"] = sheet

    def _paint_glands(self, layers: Layers) -> None:
        glands = glands_in(self._layout, layers.box, self._mpp, self._seed)
        if not len(glands):
            return
        wall, hollow = (np.zeros_like(layers.nuclei) for _ in range(2))
        glands.filled(wall, layers.origin, np.ones(len(glands)))
        glands.filled(hollow, layers.origin, glands.lumen)
        cover, empty = _share(wall), _share(hollow)
        grain, mottle = self._repeated(self._grain, layers.box), self._noise(layers.box, 5, 7)
        _lay(layers.eosin, np.float32(0.36) + mottle * np.float32(0.05) + grain * np.float32(0.03), cover)
        _lay(layers.haematoxylin, np.float32(0.14) + mottle * np.float32(0.03), cover)
        goblets = np.zeros_like(layers.nuclei)
        self._goblets(glands).drawn(goblets, layers.origin)
        pale = _share(goblets)
        _lay(layers.eosin, np.float32(0.10), pale)
        _lay(layers.haematoxylin, np.float32(0.07), pale)
        mucus = np.float32(0.025) + mottle * np.float32(0.012)
        _lay(layers.eosin, mucus, empty)
        _lay(layers.haematoxylin, mucus, empty)
        np.maximum(layers.lumen, hollow, out=layers.lumen)
        np.maximum(layers.epithelium, cover * (1 - empty), out=layers.epithelium)
        self._basal_nuclei(glands).drawn(layers.nuclei, layers.origin)
        layers.fields["wall"] = cover

    def _goblets(self, glands: Rings) -> Nuclei:
        """Pale drops of mucus between nuclei and lumen."""
        places, directions, owners = glands.along(0.66, self._px(8.5))
        chance = unit_cells(places[:, 0].astype(np.int64), places[:, 1].astype(np.int64), self._seed, 31)
        keep = (chance < 0.62) & (glands.lumen[owners] < 0.46)
        places, directions, chance = places[keep], directions[keep], chance[keep]
        n = len(places)
        return Nuclei(
            places, self._px(4.6) * (0.8 + 0.5 * chance), np.full(n, self._px(3.1)), directions, np.full(n, 2.0),
            np.full(n, 0.05), chance * 6,
        )  # fmt: skip

    def _basal_nuclei(self, glands: Rings) -> Nuclei:
        """A palisade of long nuclei at the foot of the epithelium."""
        places, directions, _ = glands.along(0.87, self._px(5.0))
        a, b = (
            unit_cells(places[:, 0].astype(np.int64), places[:, 1].astype(np.int64), self._seed, s) for s in (32, 33)
        )
        n = len(places)
        return Nuclei(
            places, self._px(3.3) * (0.85 + 0.4 * a), self._px(1.9) * (0.85 + 0.3 * b), directions + (a - 0.5) * 0.5,
            0.95 + 0.4 * b, np.full(n, 0.05), a * 6,
        )  # fmt: skip

    def _paint_vessels(self, layers: Layers) -> None:
        vessels = vessels_in(self._layout, layers.box, self._mpp, self._seed)
        if not len(vessels):
            return
        wall, hollow = (np.zeros_like(layers.nuclei) for _ in range(2))
        vessels.filled(wall, layers.origin, np.ones(len(vessels)))
        vessels.filled(hollow, layers.origin, vessels.lumen)
        cover, empty = _share(wall), _share(hollow)
        _lay(layers.eosin, np.float32(0.72) + self._noise(layers.box, 3, 8) * np.float32(0.06), cover)
        _lay(layers.haematoxylin, np.float32(0.06), cover)
        _lay(layers.eosin, np.float32(0.02), empty)
        _lay(layers.haematoxylin, np.float32(0.0), empty)
        np.maximum(layers.lumen, hollow, out=layers.lumen)
        full = vessels.cells.draw(5) < 0.6
        bloody = np.zeros_like(layers.nuclei)
        Rings(vessels.cells.kept(full), vessels.radius[full], vessels.lumen[full]).filled(
            bloody, layers.origin, vessels.lumen[full] * np.float32(0.93)
        )
        self._paint_blood(layers, bloody)
        places, directions, _ = vessels.along(0.88, self._px(13))
        n = len(places)
        Nuclei(
            places, np.full(n, self._px(4.0)), np.full(n, self._px(1.1)), directions + np.pi / 2, np.full(n, 1.15),
            np.full(n, 0.04), directions,
        ).drawn(layers.nuclei, layers.origin)  # fmt: skip

    def _paint_blood(self, layers: Layers, bloody: np.ndarray) -> None:
        cells = scatter(layers.box, self._px(6.4), self._seed, 103, jitter=0.8)
        cells = cells.kept((layers.pick(bloody, cells.xy) > 128) & (cells.draw(0) < 0.86))
        n, discs = len(cells), np.zeros_like(layers.nuclei)
        size = self._px(3.0) * cells.draw(1, 0.85, 1.1)
        Nuclei(
            cells.xy, size, size * cells.draw(2, 0.8, 1), cells.draw(3, 0, 3.14), cells.draw(4, 1.2, 2),
            np.full(n, 0.03), cells.draw(5, 0, 6),
        ).drawn(discs, layers.origin)  # fmt: skip
        rim = cv2.GaussianBlur(discs, (0, 0), max(0.6, self._px(1.0)))
        layers.blood[:] = _share(discs) * np.float32(0.85) - _share(rim) * np.float32(0.2)
        np.clip(layers.blood, 0, 1, out=layers.blood)

    def _paint_fat(self, layers: Layers) -> None:
        """Empty rounded cells with thin walls: the Voronoi diagram of scattered points."""
        fat, box = layers.fields["fat"], layers.box
        if not ((fat > -0.1) & (layers.fields["tissue"] > 0)).any():
            return
        reach = round(self._px(120))
        wide = Box(box.x - reach, box.y - reach, box.width + 2 * reach, box.height + 2 * reach)
        seeds = scatter(wide, self._px(47), self._seed, 104, jitter=0.7).xy
        is_fat = (self._layout.at("fat", seeds) > 0) & (self._layout.at("tumour", seeds) < -30)
        is_fat &= self._layout.at("tissue", seeds) > 18
        xy = np.stack(np.meshgrid(np.arange(box.x + 2, box.right, 4), np.arange(box.y + 2, box.bottom, 4)), axis=2)
        rows, columns = np.nonzero(fat[2::4, 2::4] > -0.15)
        near, which = (np.asarray(a) for a in cKDTree(seeds).query(xy[rows, columns], k=2))
        gap: np.ndarray = np.zeros(xy.shape[:2], np.float32)
        gap[rows, columns] = np.where(is_fat[which[:, 0]], (near[:, 1] - near[:, 0]) * self._mpp, 0)
        gap = cv2.resize(gap, (box.width, box.height), interpolation=cv2.INTER_LINEAR)
        gap = gap + self._noise(box, 8, 9) * np.float32(0.9) * np.minimum(gap, 1)
        rim = _ramp(layers.fields["tissue"], 4, 6)
        hollow = _ramp(gap, 1.8, 4.0) * rim
        near_fat = _ramp(gap, 0.1, 1.0) * rim
        layers.eosin *= 1 - hollow
        layers.haematoxylin *= 1 - hollow
        _lay(layers.eosin, np.float32(0.5), near_fat * (1 - hollow))
        np.maximum(layers.lumen, (hollow * 255).astype(np.uint8), out=layers.lumen)

    # -- nuclei -------------------------------------------------------------------------------------------

    def _paint_nuclei(self, layers: Layers) -> None:
        dots = np.zeros_like(layers.nuclei)
        self._fibroblasts(layers).drawn(layers.nuclei, layers.origin)
        self._lymphocytes(layers).drawn(layers.nuclei, layers.origin)
        if "sheet" in layers.fields:
            tumour, nucleoli = self._tumour_nuclei(layers)
            tumour.drawn(layers.nuclei, layers.origin)
            nucleoli.drawn(dots, layers.origin)
        ink = layers.nuclei.astype(np.float32) * np.float32(2 / 255)
        soft = cv2.GaussianBlur(ink, (0, 0), self._px(1.2))
        clumps = self._repeated(self._grain, layers.box) * np.float32(0.13) + self._noise(
            layers.box, 1.5, 10
        ) * np.float32(0.10)
        body = np.clip(ink * (np.float32(1.22) + clumps) - soft * np.float32(0.36), 0, None)
        body += _share(dots) * np.float32(0.55) * (ink > 0)
        layers.haematoxylin += body
        layers.eosin *= 1 - np.float32(0.45) * np.minimum(ink, 1)

    def _free(self, layers: Layers, cells: Cells) -> np.ndarray:
        """Points on tissue and in no lumen, vacuole or vessel."""
        return np.asarray((layers.pick(layers.lumen, cells.xy) < 20) & (layers.pick(layers.tissue, cells.xy) > 0.7))

    def _stromal(self, layers: Layers, cells: Cells) -> np.ndarray:
        free = self._free(layers, cells)
        for name in ("sheet", "wall"):
            if name in layers.fields:
                free &= layers.pick(layers.fields[name], cells.xy) < 0.3
        return free

    def _fibroblasts(self, layers: Layers) -> Nuclei:
        """Thin nuclei that lie along the fibres."""
        cells = scatter(layers.box, self._px(17), self._seed, 105, jitter=0.95)
        cells = cells.kept(self._stromal(layers, cells) & (cells.draw(0) < 0.72))
        step = np.array([16.0, 0.0])
        gx = self._layout.at("warp_v", cells.xy + step) - self._layout.at("warp_v", cells.xy - step)
        gy = self._layout.at("warp_v", cells.xy + step[::-1]) - self._layout.at("warp_v", cells.xy - step[::-1])
        gx = gx / (32 * self._mpp) - np.sin(self._slant)
        gy = gy / (32 * self._mpp) + np.cos(self._slant)
        return Nuclei(
            cells.xy, self._px(1) * cells.draw(1, 3.4, 6.4), self._px(1) * cells.draw(2, 0.9, 1.7),
            np.arctan2(-gx, gy) + cells.draw(3, -0.3, 0.3), cells.draw(4, 0.85, 1.35),
            cells.draw(5, 0.0, 0.14), cells.draw(6, 0, 6.28),
        )  # fmt: skip

    def _lymphocytes(self, layers: Layers) -> Nuclei:
        """Small round dark nuclei: packed in aggregates, loose around glands and at the tumour's front."""
        cells = scatter(layers.box, self._px(6.9), self._seed, 106, jitter=0.62)
        crowd = _ramp(layers.pick(layers.fields["lymph"], cells.xy), 0.75, 1.15) * np.float32(0.94)
        around = _ramp(layers.pick(layers.fields["gland"], cells.xy), -0.1, 0.1) * np.float32(0.20)
        front = np.exp(-((layers.pick(layers.fields["tumour"], cells.xy) / 60) ** 2)) * np.float32(0.22)
        chance = np.maximum(np.maximum(crowd, around), front) + np.float32(0.012)
        cells = cells.kept(self._stromal(layers, cells) & (cells.draw(0) < chance))
        size = self._px(1) * cells.draw(1, 2.3, 3.1)
        return Nuclei(
            cells.xy, size, size * cells.draw(2, 0.78, 1), cells.draw(3, 0, 3.14), cells.draw(4, 1.1, 1.55),
            cells.draw(5, 0.0, 0.07), cells.draw(6, 0, 6.28),
        )  # fmt: skip

    def _tumour_nuclei(self, layers: Layers) -> tuple[Nuclei, Nuclei]:
        """Large crowded nuclei of all shapes, with nucleoli; a few in division."""
        cells = scatter(layers.box, self._px(10.2), self._seed, 107, jitter=0.72)
        cells = cells.kept(
            self._free(layers, cells) & (layers.pick(layers.fields["sheet"], cells.xy) > 0.6) & (cells.draw(0) < 0.95)
        )
        dividing = cells.draw(9) < 0.012
        size = self._px(1) * np.where(dividing, 3.0, 3.5 + 3.0 * cells.draw(1) ** 2.2)
        ink = np.where(dividing, 2.0, cells.draw(4, 0.75, 1.45))
        nuclei = Nuclei(
            cells.xy, size * 1.12, size * cells.draw(2, 0.62, 1.02), cells.draw(3, 0, 3.14), ink,
            np.where(dividing, 0.3, cells.draw(5, 0.02, 0.13)), cells.draw(6, 0, 6.28),
        )  # fmt: skip
        seen = cells.draw(7) < 0.55
        spots = cells.kept(seen)
        offset = np.stack([spots.draw(10, -1, 1), spots.draw(11, -1, 1)], axis=1) * self._px(1.3)
        radius = self._px(1) * spots.draw(12, 0.7, 1.2)
        n = len(spots)
        nucleoli = Nuclei(spots.xy + offset, radius, radius, np.zeros(n), np.full(n, 2.0), np.zeros(n), np.zeros(n))
        return nuclei, nucleoli

    # -- light --------------------------------------------------------------------------------------------

    def _density(self, layers: Layers) -> list[Float32[np.ndarray, "h w"]]:
        """Optical density of R, G, B."""
        staining = self._staining
        strength = layers.fields["stain"] * layers.tissue
        h = layers.haematoxylin * strength
        strength *= 1 - layers.blood
        e = layers.eosin * strength
        b = layers.blood * layers.tissue
        ink = layers.fields["pen"]
        streaks = (
            _ramp(ink, 0.4, 0.6) * (np.float32(0.9) + self._noise(layers.box, 40, 11) * np.float32(0.12))
            if ink.any()
            else None
        )
        planes = []
        for c in range(3):
            density = h * np.float32(staining.haematoxylin[c] * staining.strength_h)
            density += e * np.float32(staining.eosin[c] * staining.strength_e)
            density += b * np.float32(staining.blood[c])
            if streaks is not None:
                density += streaks * self._ink[c]
            planes.append(density)
        return planes

    def _focused(self, planes: Iterable[np.ndarray], box: Box) -> list[np.ndarray]:
        """The objective's own softness, and defocus where the plan has it."""
        share = self._layout.crop("blur", box)
        defocused = bool((share > 0).any())
        out = []
        for plane in planes:
            sharp = cv2.GaussianBlur(plane, (0, 0), max(0.45, self._px(0.28)))
            if defocused:
                sharp += (cv2.GaussianBlur(plane, (0, 0), self._px(3.2)) - sharp) * share
            out.append(sharp)
        return out

    def _illumination(self, box: Box) -> Float32[np.ndarray, "h w"]:
        """Uneven light, and dust on the glass."""
        light = self._layout.crop("light", box)
        reach = round(self._px(20))
        wide = Box(box.x - reach, box.y - reach, box.width + 2 * reach, box.height + 2 * reach)
        specks = scatter(wide, self._px(420), self._seed, 108, jitter=0.95)
        specks = specks.kept(specks.draw(0) < 0.35)
        if not len(specks):
            return light
        layer = np.zeros((box.height, box.width), np.uint8)
        size = self._px(1) * specks.draw(1, 1.0, 5.0)
        Nuclei(
            specks.xy, size, size * specks.draw(2, 0.3, 1), specks.draw(3, 0, 3.14), specks.draw(4, 0.3, 1.2),
            specks.draw(5, 0.05, 0.3), specks.draw(6, 0, 6.28),
        ).drawn(layer, (box.x, box.y))  # fmt: skip
        shadow = cv2.GaussianBlur(layer, (0, 0), self._px(0.9)).astype(np.float32)
        return np.asarray(light * (1 - shadow * np.float32(0.6 / 255)))


def _periodic(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> Float32[np.ndarray, "h w"]:
    """Noise of unit spread that continues over its own edges."""
    pad = 8
    raw = np.pad(rng.standard_normal(shape, np.float32), pad, mode="wrap")
    smooth = cv2.GaussianBlur(raw, (0, 0), sigma)[pad:-pad, pad:-pad]
    return np.asarray((smooth - smooth.mean()) / smooth.std(), np.float32)


def _ramp(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 up to ``low``, 1 from ``high`` on, straight between."""
    scaled = (values - np.float32(low)) * np.float32(1 / (high - low))
    return np.asarray(np.clip(scaled, 0, 1))


def _share(layer: UInt8[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    return layer.astype(np.float32) * np.float32(1 / 255)


def _lay(below: np.ndarray, above: np.ndarray | np.float32, cover: np.ndarray) -> None:
    """Replace what is below by what is above, as far as it covers."""
    below += (above - below) * cover
