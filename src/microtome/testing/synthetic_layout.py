"""Where things lie on a synthetic slide: outlines of tissue and tumour, and slowly varying fields.

Everything here lives on a coarse grid of one node per 16 level-0 pixels, small enough to hold for a whole slide.
Outlines are the zero crossings of fields that are linear between nodes, so that the polygons and what the painter
paints from the same fields agree.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import shapely
from jaxtyping import Float, Float32, UInt32
from skimage.measure import find_contours

from microtome.geometry import Box, Size

STEP = 16  # level-0 pixels between nodes
_RIM = 4  # nodes beyond the canvas on every side, so that its border is like its inside


@dataclass(frozen=True, slots=True)
class Layout:
    """The plan of one slide.

    Attributes:
        size: Level 0, in pixels.
        fields: Name → values at the nodes; node (r, c) lies at level-0 ((c − rim) · 16, (r − rim) · 16).
            ``tissue`` and ``tumour`` are signed distances in µm (inside positive); ``gland``, ``fat``, ``lymph`` and
            ``vessel`` are propensities around 0; ``warp_u`` and ``warp_v`` bend the fibres, in µm; ``stain`` and
            ``light`` are factors around 1; ``blur`` is the share of defocus; ``pen`` the ink, 0..1.
        tissue: Outlines, level-0 pixels.
        tumour: Outlines, level-0 pixels; inside of the tissue.
        pen: Outlines of ink, level-0 pixels.
    """

    size: Size
    fields: dict[str, Float32[np.ndarray, "r c"]]
    tissue: shapely.MultiPolygon
    tumour: shapely.MultiPolygon
    pen: shapely.MultiPolygon

    def crop(self, name: str, box: Box) -> Float32[np.ndarray, "h w"]:
        """A field at every pixel of a box whose corners lie on nodes; linear between nodes."""
        c, r = box.x // STEP + _RIM, box.y // STEP + _RIM
        field = self.fields[name]
        rows = np.clip(np.arange(r - 1, r + box.height // STEP + 1), 0, field.shape[0] - 2)
        columns = np.clip(np.arange(c - 1, c + box.width // STEP + 1), 0, field.shape[1] - 2)
        # Node (r, c) stands at a pixel corner; cv2.resize thinks of cell centres, half a cell further: average pairs.
        at = field[np.ix_(rows, columns)] + field[np.ix_(rows + 1, columns)]
        at = (at + field[np.ix_(rows, columns + 1)] + field[np.ix_(rows + 1, columns + 1)]) * np.float32(0.25)
        full = cv2.resize(at, None, fx=STEP, fy=STEP, interpolation=cv2.INTER_LINEAR)
        return np.asarray(full[STEP : STEP + box.height, STEP : STEP + box.width])

    def at(self, name: str, xy: Float[np.ndarray, "n 2"]) -> Float32[np.ndarray, " n"]:
        """A field at points (level-0 pixels)."""
        field = self.fields[name]
        place = xy / STEP + _RIM
        x = np.clip(place[:, 0], 0, field.shape[1] - 1.001)
        y = np.clip(place[:, 1], 0, field.shape[0] - 1.001)
        c, r = x.astype(np.intp), y.astype(np.intp)
        fx, fy = x - c, y - r
        top = field[r, c] * (1 - fx) + field[r, c + 1] * fx
        bottom = field[r + 1, c] * (1 - fx) + field[r + 1, c + 1] * fx
        return np.asarray(top * (1 - fy) + bottom * fy, np.float32)


def hash_cells(ix: np.ndarray, iy: np.ndarray, seed: int, salt: int) -> UInt32[np.ndarray, "..."]:
    """A random 32-bit number for each cell of an endless grid; the same for the same cell, seed and salt."""
    with np.errstate(over="ignore"):
        h = (ix.astype(np.int64).astype(np.uint32) * np.uint32(0x8DA6B343)) ^ (
            iy.astype(np.int64).astype(np.uint32) * np.uint32(0xD8163841)
        )
        h = h ^ np.uint32((seed * 0x9E3779B1 + salt * 0x85EBCA77 + 0x165667B1) & 0xFFFFFFFF)
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
            h = (h ^ (h >> np.uint32(shift))) * np.uint32(factor)
    return np.asarray(h, np.uint32)


def unit_cells(ix: np.ndarray, iy: np.ndarray, seed: int, salt: int) -> Float32[np.ndarray, "..."]:
    """A random number in [0, 1) for each cell of an endless grid."""
    return np.asarray((hash_cells(ix, iy, seed, salt) >> np.uint32(8)).astype(np.float32) * np.float32(2**-24))


def smooth_noise(shape: tuple[int, int], cell: float, seed: int, salt: int) -> Float32[np.ndarray, "r c"]:
    """Noise of about unit spread whose bumps are ``cell`` nodes wide."""
    cell = max(1.0, cell)
    turn = np.float32(0.4 + 1.3 * salt)  # a lattice of its own slant for each, so that no slide shows the axes
    rows, columns = (np.arange(n, dtype=np.float32) / np.float32(cell) for n in shape)
    u = columns[None, :] * np.cos(turn) + rows[:, None] * np.sin(turn)
    v = rows[:, None] * np.cos(turn) - columns[None, :] * np.sin(turn)
    ix = np.arange(int(u.min()) - 3, int(u.max()) + 4)
    iy = np.arange(int(v.min()) - 3, int(v.max()) + 4)
    values = unit_cells(*np.meshgrid(ix, iy), seed, salt) * 2 - 1
    fine = cv2.resize(values, None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC)
    u, v = ((a - i[0]) * 8 for a, i in ((u, ix), (v, iy)))
    out = cv2.remap(fine, u.astype(np.float32), v.astype(np.float32), cv2.INTER_LINEAR)
    return np.asarray(out * np.float32(1.6), np.float32)


def fractal_noise(shape: tuple[int, int], cell: float, seed: int, salt: int, octaves: int = 4) -> np.ndarray:
    """Noise with bumps of ``cell`` nodes and, weaker, of each half of it."""
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        total += smooth_noise(shape, cell / 2**octave, seed, salt * 31 + octave) * np.float32(0.5**octave)
    return total / np.float32(1.2)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a slide is to have."""

    tumour: bool = True
    pen: bool = False
    defocus: bool = False


def plan_layout(size: Size, mpp: float, seed: int, wishes: Wishes) -> Layout:
    """Plan a slide.

    Args:
        size: Level 0, in pixels.
        mpp: µm per pixel; structures have their size on the glass.
        seed: Decides everything random.
        wishes: What is to be on it.

    Returns:
        The plan; the same for the same arguments.
    """
    shape = (-(-size.height // STEP) + 2 * _RIM + 1, -(-size.width // STEP) + 2 * _RIM + 1)
    node_um = STEP * mpp
    rng = np.random.default_rng([seed, 1])
    tissue = _tissue_field(shape, size, rng, seed)
    tissue_um = _signed_distance(tissue, node_um)
    tumour_um = _tumour_field(tissue_um, node_um, rng, seed) if wishes.tumour else np.full(shape, -1e4, np.float32)

    def wave(length_um: float, salt: int, octaves: int = 3) -> np.ndarray:
        return fractal_noise(shape, length_um / node_um, seed, salt, octaves)

    extent_um = min(size.width, size.height) * mpp
    fields = {
        "tissue": tissue_um,
        "tumour": tumour_um,
        "gland": wave(extent_um * 0.22, 11) + np.float32(0.15),
        "fat": _fat_field(tissue_um, wave(extent_um * 0.2, 12)),
        "lymph": wave(170, 13, 2) - np.float32(0.2),
        "vessel": wave(300, 14, 2),
        "nest": wave(75, 21, 3),
        "warp_u": wave(900, 15) * np.float32(140) + wave(180, 16, 2) * np.float32(14),
        "warp_v": wave(1100, 17) * np.float32(260) + wave(160, 18, 2) * np.float32(16),
        "stain": 1 + np.float32(0.07) * wave(extent_um * 0.3, 19),
        "light": 1 + np.float32(0.012) * wave(extent_um * 0.6, 20, 1),
        "pen": _pen_field(shape, tissue_um, node_um, rng) if wishes.pen else np.zeros(shape, np.float32),
        "blur": _blur_field(shape, tissue_um, node_um, rng) if wishes.defocus else np.zeros(shape, np.float32),
    }
    fields = {name: np.ascontiguousarray(field, np.float32) for name, field in fields.items()}
    outline = outlines(tissue_um, size)
    inside = shapely.intersection(outlines(tumour_um, size), outline)
    pen = outlines(fields["pen"] - np.float32(0.5), size)
    return Layout(size=size, fields=fields, tissue=outline, tumour=_polygons_of(inside), pen=pen)


def outlines(field: np.ndarray, size: Size, *, simplify_px0: float = 2.0) -> shapely.MultiPolygon:
    """Polygons of where a field is positive, holes kept, in level-0 pixels, clipped to the canvas."""
    padded = np.pad(field, 1, constant_values=min(-1.0, float(field.min())))
    contours = find_contours(padded, 0.0)  # type: ignore[no-untyped-call]  # scikit-image has no types
    rings = [shapely.Polygon((c[:, ::-1] - 1 - _RIM) * STEP).buffer(0) for c in contours if len(c) >= 4]
    # Rings nest: a ring within an odd number of others is a hole. Symmetric difference says the same.
    shape: shapely.geometry.base.BaseGeometry = shapely.MultiPolygon()
    for ring in sorted(rings, key=lambda r: -r.area):
        shape = shapely.symmetric_difference(shape, ring)
    canvas = shapely.box(0, 0, size.width, size.height)
    return _polygons_of(shapely.intersection(shapely.simplify(shape, simplify_px0), canvas))


def _polygons_of(shape: shapely.geometry.base.BaseGeometry) -> shapely.MultiPolygon:
    """The polygons of a geometry, without its points and lines and slivers."""
    flat = shapely.get_parts(shapely.get_parts(shape))  # a collection may hold multi-polygons
    return shapely.MultiPolygon([p for p in flat if p.geom_type == "Polygon" and p.area > STEP**2])


def _signed_distance(inside: np.ndarray, node_um: float) -> np.ndarray:
    """Signed distance in µm to the edge of a soft field's positive part, sharp to a fraction of a node."""
    mask = (inside > 0).astype(np.uint8)
    within = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    without = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5)
    distance = np.where(mask > 0, within - 0.5, 0.5 - without).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(distance, (0, 0), 1.5) * np.float32(node_um))


def _ellipse(
    shape: tuple[int, int], centre: tuple[float, float], axes: tuple[float, float], angle: float
) -> np.ndarray:
    """1 at the centre, 0 on the ellipse, negative outside; centre and axes in shares of the canvas."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    scale = max(shape)
    dx, dy = (x - centre[0] * shape[1]) / scale, (y - centre[1] * shape[0]) / scale
    u = (dx * np.cos(angle) + dy * np.sin(angle)) / axes[0]
    v = (dy * np.cos(angle) - dx * np.sin(angle)) / axes[1]
    return np.asarray(1 - np.hypot(u, v), np.float32)


def _tissue_field(shape: tuple[int, int], size: Size, rng: np.random.Generator, seed: int) -> np.ndarray:
    """A section: one large piece with a bay and holes, or a large and a small piece."""
    scale = max(shape)
    aspect = min(size.width, size.height) / max(size.width, size.height)
    angle = rng.uniform(0, np.pi)
    pieces = [
        (
            (0.5 + rng.uniform(-0.05, 0.05), 0.5 + rng.uniform(-0.05, 0.05)),
            (0.42, 0.33 + rng.uniform(0, 0.06)),
        )
    ]
    if rng.random() < 0.5:
        side = rng.uniform(0, 2 * np.pi)
        pieces[0] = ((0.5 - 0.09 * np.cos(side), 0.5 - 0.09 * np.sin(side)), (0.37, 0.31))
        pieces.append(((0.5 + 0.34 * np.cos(side), 0.5 + 0.34 * np.sin(side)), (0.16, 0.12)))
    soft = np.full(shape, -9.0, np.float32)
    for centre, axes in pieces:
        soft = np.maximum(soft, _ellipse(shape, centre, (axes[0] * aspect, axes[1] * aspect), angle))
    field = soft + 0.22 * fractal_noise(shape, scale * 0.22, seed, 1, 6)
    holes = fractal_noise(shape, scale * 0.09, seed, 2, 3) + 0.5 * soft
    deep = np.clip((soft - 0.15) * 4, 0, 1)
    holes_at = np.quantile(holes[soft > 0.15], 0.03)
    field = np.where((holes < holes_at) & (deep > 0), -0.1, field).astype(np.float32)
    y, x = np.ogrid[: shape[0], : shape[1]]
    margin = (np.minimum(np.minimum(y, shape[0] - 1 - y), np.minimum(x, shape[1] - 1 - x)) - _RIM) / min(shape)
    ragged = margin + 0.05 * fractal_noise(shape, scale * 0.1, seed, 4, 5) * np.clip(margin / 0.08, 0, 1)
    field = field - (np.clip(1 - ragged / 0.2, 0, 1) ** 2 * 1.4).astype(np.float32)
    return _without_specks(cv2.GaussianBlur(field, (0, 0), 1.5), least=0.01)


def _without_specks(field: np.ndarray, *, least: float) -> np.ndarray:
    """Fill pinholes and drop fragments that are smaller than a share of the canvas."""
    for sign in (1, -1):
        count, labels, stats, _ = cv2.connectedComponentsWithStats((sign * field > 0).astype(np.uint8), connectivity=4)
        limit = least * field.size if sign > 0 else 0.0008 * field.size
        for label in range(1, count):
            if stats[label, cv2.CC_STAT_AREA] < limit:
                field = np.where(labels == label, np.float32(-sign * 0.05), field)
    return np.asarray(field, np.float32)


def _tumour_field(tissue_um: np.ndarray, node_um: float, rng: np.random.Generator, seed: int) -> np.ndarray:
    """An invasive mass of about a quarter of the tissue, irregular at its edge, in the depth of the section."""
    area = float((tissue_um > 0).sum())
    radius = np.sqrt(0.26 * area / np.pi)  # in nodes
    depth = np.minimum(tissue_um / node_um, radius * 0.8)
    candidates = np.argwhere(depth > 0.75 * depth.max())
    r, c = candidates[rng.integers(len(candidates))]
    y, x = np.mgrid[: tissue_um.shape[0], : tissue_um.shape[1]].astype(np.float32)
    soft = 1 - np.hypot(x - c, y - r) / radius
    soft = soft + 0.28 * fractal_noise(tissue_um.shape, radius * 0.8, seed, 3, 5)
    cut = np.quantile(soft[tissue_um > 0], 0.75)  # whatever the shape, a quarter of the tissue
    inner = np.minimum(soft - cut, (tissue_um / node_um - 3) * 0.05)
    return _signed_distance(_without_specks(inner.astype(np.float32), least=0.002), node_um)


def _fat_field(tissue_um: np.ndarray, wave: np.ndarray) -> np.ndarray:
    """Fat lies near the section's edge, in about a twentieth of the tissue."""
    near = wave - 0.004 * np.clip(tissue_um, 0, 600)
    inside = near[tissue_um > 0]
    return np.asarray(near - (np.quantile(inside, 0.95) if inside.size else 9), np.float32)


def _pen_field(shape: tuple[int, int], tissue_um: np.ndarray, node_um: float, rng: np.random.Generator) -> np.ndarray:
    """A felt-tip stroke that half circles the section, as a pathologist marks a region."""
    rows, columns = np.nonzero(tissue_um > 0)
    centre = (float(columns.mean()), float(rows.mean()))
    reach = 0.9 * min(np.ptp(columns), np.ptp(rows)) / 2
    start = rng.uniform(0, 2 * np.pi)
    angles = np.linspace(start, start + 2.2, 60)
    wobble = 1 + 0.06 * np.sin(3 * angles + rng.uniform(0, 6))
    points = np.stack(
        [centre[0] + reach * wobble * np.cos(angles), centre[1] + reach * wobble * np.sin(angles)], axis=1
    )
    ink = np.zeros(shape, np.uint8)
    width = max(2, round(0.022 * min(shape)))
    cv2.polylines(ink, [np.round(points * 16).astype(np.int32)], isClosed=False, color=255, thickness=width, shift=4)
    soft = cv2.GaussianBlur(ink.astype(np.float32) / 255, (0, 0), max(0.7, 6 / node_um))
    return np.asarray(soft, np.float32)


def _blur_field(shape: tuple[int, int], tissue_um: np.ndarray, node_um: float, rng: np.random.Generator) -> np.ndarray:
    """A round patch of the section that lies out of focus, as under a fold or a bubble."""
    candidates = np.argwhere(tissue_um > 0.4 * tissue_um.max())
    r, c = candidates[rng.integers(len(candidates))]
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    radius = 0.11 * min(shape)
    share = np.clip((radius - np.hypot(x - c, y - r)) * node_um / 60 + 0.5, 0, 1)
    return np.asarray(share, np.float32)
