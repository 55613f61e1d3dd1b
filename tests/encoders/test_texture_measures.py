"""Each measure against a drawing whose answer is known, or against a plain or foreign implementation."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate1d
from scipy.ndimage import label as scipy_label
from skimage.measure import regionprops

from microtome.encoders.texture import TEXTURE_FEATURES, Texture
from microtome.encoders.texture_measures import _pattern_values
from microtome.encoders.texture_objects import find_blobs, measure_blobs
from microtome.encoders.texture_stacks import BINOMIAL_5, filter_each, find_runs, pad
from microtome.stain import HE_MATRIX

NAMES = [name for name, _ in TEXTURE_FEATURES]
GROUND = (0.05, 0.35)  # haematoxylin and eosin between nuclei
NUCLEUS = (1.0, 0.2)


def stained(concentrations):
    """RGB of haematoxylin and eosin concentrations, (..., 2)."""
    return np.rint(255 * np.exp(-np.asarray(concentrations) @ HE_MATRIX)).astype(np.uint8)


def measures(image):
    return dict(zip(NAMES, Texture().encode(image[None])[0].tolist(), strict=True))


def draw_nuclei(centres, axes=(7, 7), angle=0.0, side=256):
    mask = np.zeros((side, side), np.uint8)
    for x, y in centres:
        cv2.ellipse(mask, (int(x), int(y)), axes, angle, 0, 360, 1, -1)
    return np.where(mask[..., None] == 1, np.array(NUCLEUS), np.array(GROUND))


def lattice(step, side=256):
    ticks = np.arange(step // 2, side, step)
    return [(x, y) for y in ticks for x in ticks]


def stripes(period, side=256, axis=1):
    wave = 0.4 + 0.3 * np.sin(2 * np.pi * np.arange(side) / period)
    h = np.broadcast_to(wave if axis == 1 else wave[:, None], (side, side))
    return stained(np.stack([h, np.full((side, side), 0.3)], axis=-1))


# -- colour -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("h", "e"), [(0.8, 0.0), (0.0, 0.8), (0.5, 0.5), (0.3, 0.1)])
def test_stain_shares_of_a_flat_tile(h, e):
    values = measures(stained(np.full((64, 64, 2), (h, e))))
    assert values["h_share"] == pytest.approx(h / (h + e), abs=0.02)
    blue = (np.array([h, e]) @ HE_MATRIX)[2] / (np.array([h, e]) @ HE_MATRIX).sum()
    assert values["blue_share"] == pytest.approx(blue, abs=0.02)
    assert values["ground_h"] == pytest.approx(h, abs=0.02)
    assert values["ground_e"] == pytest.approx(e, abs=0.02)
    for flat in (
        "h_std",
        "e_std",
        "residual_std",
        "h_asymmetry",
        "h_e_correlation",
        "ground_od_std",
        "edge_share_",
    ):
        assert values.get(flat, 0.0) == pytest.approx(0, abs=1e-3)


def test_moments_and_quantiles_are_numpys():
    rng = np.random.default_rng(3)
    # Pixels in pairs of two, so that averaging to half the size changes nothing.
    image = stained(rng.uniform(0.1, 1.0, (64, 64, 2))).repeat(2, axis=0).repeat(2, axis=1)
    density = -np.log(image / 255.0)
    across = np.cross(*HE_MATRIX)
    h, e, _ = np.moveaxis(density @ np.linalg.inv(np.vstack([HE_MATRIX, across / np.linalg.norm(across)])), -1, 0)
    values = measures(image)
    assert values["h_std"] == pytest.approx(h.std(), rel=1e-4)
    assert values["e_std"] == pytest.approx(e.std(), rel=1e-4)
    # Both variances have that of the noise, 0.01 OD, on top.
    expected = np.cov(h.ravel(), e.ravel(), bias=True)[0, 1] / np.hypot(h.std(), 0.01) / np.hypot(e.std(), 0.01)
    assert values["h_e_correlation"] == pytest.approx(expected, abs=1e-4)
    assert values["blue_share"] == pytest.approx(density[..., 2].mean() / density.mean() / 3, abs=1e-4)
    low, middle, high = np.quantile(h, (0.05, 0.5, 0.95))
    assert values["h_asymmetry"] == pytest.approx((high + low - 2 * middle) / (high - low + 0.02), abs=0.02)
    od = density.mean(-1)
    assert values["od_q5"] == pytest.approx(np.quantile(od, 0.05), abs=0.01)
    assert values["od_q95"] == pytest.approx(np.quantile(od, 0.95), abs=0.01)


def test_ratios_fade_out_on_empty_glass():
    rng = np.random.default_rng(4)
    glass = np.clip(rng.normal(250, 1.5, (20, 128, 128, 3)), 0, 255).astype(np.uint8)
    glass[::2, ..., 0] -= 2  # a slightly other white is no other tissue
    features = dict(zip(NAMES, Texture().encode(glass).T, strict=True))
    for name, neutral in (("h_share", 0.5), ("blue_share", 1 / 3), ("h_e_correlation", 0), ("h_asymmetry", 0)):
        np.testing.assert_allclose(features[name], neutral, atol=0.2, err_msg=name)
        assert features[name].std() < 0.03, name
    for name in ("coherence_fine", "direction_fine", "coherence_coarse", "direction_coarse"):
        assert (features[name] < 0.1).all(), name


def test_asymmetry_says_which_pixels_are_few():
    few_dark, few_bright = np.full((64, 64, 2), (0.2, 0.3)), np.full((64, 64, 2), (0.9, 0.3))
    few_dark[:, :8, 0], few_bright[:, :8, 0] = 0.9, 0.2
    assert measures(stained(few_dark))["h_asymmetry"] > 0.9
    assert measures(stained(few_bright))["h_asymmetry"] < -0.9


# -- texture and edges ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("period", "level"), [(6, 0), (12, 1), (24, 2), (48, 3), (96, 4)])
def test_detail_is_found_at_its_scale(period, level):
    values = measures(stripes(period, side=384))
    rises = [values[f"h_rise_{px}px"] for px in (4, 8, 16, 32)]
    assert np.argmax(np.cumsum([values["h_energy_2px"], *rises])) == level


def test_finer_stripes_have_steeper_edges():
    assert measures(stripes(32))["edge_fine"] < measures(stripes(8))["edge_fine"] - 0.5


def test_spots_and_holes_differ_in_sign():
    spots = draw_nuclei(lattice(32), axes=(5, 5))
    holes = spots.copy()
    holes[..., 0] = spots[..., 0].max() + spots[..., 0].min() - spots[..., 0]
    assert measures(stained(spots))["h_skew_4px"] > 0.2
    assert measures(stained(holes))["h_skew_4px"] < -0.2


def test_stains_that_go_together_or_against_each_other():
    wave = 0.2 * np.sin(2 * np.pi * np.arange(128) / 8)
    h = np.broadcast_to(0.5 + wave, (128, 128))
    together = measures(stained(np.stack([h, h], -1)))
    against = measures(stained(np.stack([h, 1 - h], -1)))
    assert together["h_e_correlation"] > 0.9
    assert against["h_e_correlation"] < -0.9
    assert together["h_e_detail_2px"] > 0.8
    assert against["h_e_detail_2px"] < -0.8


def test_direction_of_stripes_and_of_noise():
    rng = np.random.default_rng(0)
    noise = stained(np.stack([rng.uniform(0.2, 0.8, (256, 256)), np.full((256, 256), 0.3)], -1))
    for key in ("direction_fine", "coherence_fine"):
        assert measures(stripes(8))[key] > 0.95
        assert measures(stripes(8, axis=0))[key] > 0.95
        assert measures(noise)[key] < 0.5
    assert measures(noise)["direction_fine"] < 0.05
    assert measures(stripes(32))["direction_coarse"] > 0.95


def test_stripes_that_turn_agree_nearby_but_not_over_the_tile():
    halves = np.concatenate([stripes(8)[:128], stripes(8, axis=0)[:128]])
    values = measures(halves)
    assert values["coherence_fine"] > 0.85
    assert values["direction_fine"] < 0.15


def test_patterns_are_those_of_a_plain_count():
    rng = np.random.default_rng(5)
    steps = cv2.GaussianBlur(rng.integers(0, 255, (40, 50), dtype=np.uint8), (3, 3), 1)
    whole = steps.astype(int)
    ring = [(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)]
    counts = np.zeros(4)
    for y in range(1, 39):
        for x in range(1, 49):
            darker = [whole[y + dy, x + dx] > whole[y, x] + 3 for dy, dx in ring]
            n, changes = (
                sum(darker),
                sum(a != b for a, b in zip(darker, darker[1:] + darker[:1], strict=True)),
            )
            if changes > 2:
                counts[3] += 1
            elif n:
                counts[0 if n <= 2 else 1 if n <= 5 else 2] += 1
    np.testing.assert_allclose(np.ravel(_pattern_values([steps[None]])), counts / (38 * 48), atol=1e-12)


def test_noise_below_the_tolerance_makes_no_pattern():
    assert not np.any(_pattern_values([np.tile(np.array([[100, 103], [103, 100]], np.uint8), (1, 32, 32))]))


# -- nuclei and lumen -------------------------------------------------------------------------------------------


def test_nuclei_on_a_lattice():
    centres = lattice(32)
    values = measures(stained(draw_nuclei(centres)))
    assert values["nuclei_density"] == pytest.approx(np.log1p(64 * 1e4 / 256**2), rel=1e-6)
    # 149 pixels are drawn; the outline lies up to a pixel further out, where smoothed haematoxylin leaves the ground.
    assert np.log(149) <= values["nuclei_size"] <= np.log(149 * (8 / 7) ** 2) + 0.05
    assert values["nuclei_size_std"] < 0.05
    assert values["nuclei_spacing"] == pytest.approx(32, abs=0.2)
    assert values["nuclei_regularity"] == pytest.approx(2, abs=0.02)  # a square lattice has twice the random spacing
    assert values["nuclei_elongation"] < 0.05
    assert values["nuclei_share"] == pytest.approx(64 * np.exp(values["nuclei_size"]) / 256**2, rel=0.01)
    assert GROUND[0] + 0.7 < values["nuclei_h"] < NUCLEUS[0]  # the rim of the outline is ground
    assert values["ground_h"] == pytest.approx(GROUND[0], abs=0.1)


def test_clumped_nuclei_are_less_regular():
    clumps = [(x + dx, y + dy) for x, y in lattice(85) for dx in (-9, 9) for dy in (-9, 9)]
    assert measures(stained(draw_nuclei(clumps, axes=(6, 6))))["nuclei_regularity"] < 0.95


@pytest.mark.parametrize("angle", [0, 30, 90, 135])
def test_long_nuclei_and_their_direction(angle):
    values = measures(stained(draw_nuclei(lattice(43), axes=(14, 5), angle=angle)))
    assert values["nuclei_elongation"] == pytest.approx(1 - 6 / 15, abs=0.06)  # the outline lies a pixel further out
    assert values["nuclei_alignment"] == pytest.approx(values["nuclei_elongation"], abs=0.02)


def test_nuclei_in_all_directions_are_not_aligned():
    tiles = [draw_nuclei(lattice(43), axes=(14, 5), angle=angle)[:, :128] for angle in (0, 90)]
    values = measures(stained(np.concatenate(tiles, axis=1)))
    assert values["nuclei_alignment"] < 0.1 < values["nuclei_elongation"]


def test_elongation_is_scikit_images():
    rng = np.random.default_rng(2)
    picture = np.zeros((256, 256), np.uint8)
    for x, y in lattice(43):
        cv2.ellipse(
            picture,
            (int(x), int(y)),
            (12, int(rng.integers(5, 12))),
            float(rng.uniform(0, 180)),
            0,
            360,
            1,
            -1,
        )
    cells = picture.reshape(128, 2, 128, 2).max(axis=(1, 3))
    regions = [r for r in regionprops(scipy_label(cells)[0]) if 30 <= 4 * r.area <= 3000]
    nuclei = measure_blobs(np.stack([np.zeros_like(cells), cells, cells[::-1]]))
    first = nuclei.tile == 1
    assert first.sum() == (nuclei.tile == 2).sum() == len(regions)
    np.testing.assert_array_equal(nuclei.area_px[first], [4 * r.area for r in regions])
    centres = [(2 * r.centroid[1] + 0.5, 2 * r.centroid[0] + 0.5) for r in regions]
    np.testing.assert_allclose(nuclei.centre_px[first], centres, atol=1 / 64)
    # A pixel's own extent, a variance of 1/12, is left out by scikit-image.
    squares = [[length**2 / 16 + 1 / 12 for length in (r.axis_minor_length, r.axis_major_length)] for r in regions]
    expected = [1 - (short / long) ** 0.5 for short, long in squares]
    np.testing.assert_allclose(nuclei.elongation[first], expected, atol=1e-9)
    steep = [abs(np.cos(r.orientation)) for r in regions]
    np.testing.assert_allclose(np.abs(np.sin(nuclei.angle[first])), steep, atol=1e-6)


def test_runs_are_those_of_a_plain_walk():
    masks = (np.random.default_rng(6).random((3, 6, 9)) < 0.6).astype(np.uint8)
    masks[0, 0, :2] = masks[-1, -1, -2:] = 1  # at both ends
    expected, flat = [], masks.ravel()
    for i in range(flat.size):
        if flat[i] and (i % 9 == 0 or not flat[i - 1]):
            end = i
            while end < flat.size and flat[end] and (end == i or end % 9):
                end += 1
            expected.append((i, end - i))
    start, length = find_runs(masks)
    assert list(zip(start.tolist(), length.tolist(), strict=True)) == expected


@pytest.mark.parametrize("shape", [(2, 7, 5), (3, 2, 9), (2, 1, 3), (1, 1, 1)])
def test_each_tile_is_filtered_as_if_alone(shape):
    stack = np.random.default_rng(7).random(shape, dtype=np.float32)
    for tile, padded in zip(stack, pad(stack, 2), strict=True):
        if min(shape[1:]) > 1:
            np.testing.assert_array_equal(padded, np.pad(tile, 2, mode="symmetric"))
    smooth = filter_each(stack, BINOMIAL_5)
    for tile, filtered in zip(stack, smooth, strict=True):
        alone = tile.astype(float)
        for axis in (0, 1):
            alone = correlate1d(alone, BINOMIAL_5.astype(float), axis=axis, mode="reflect")
        np.testing.assert_allclose(filtered, alone, atol=1e-6)


def test_blobs_exceed_their_surroundings():
    h = np.full((2, 112, 112), 0.1, np.float32)
    h[0, 50:60, 50:60] = 0.6
    h[1] = 0.5
    h[1, 50:60, 50:60] = 0.55  # dark, but not darker than what lies around
    blobs = find_blobs(h, h.reshape(2, 28, 4, 28, 4).mean(axis=(2, 4)))
    assert blobs[0, 51:59, 51:59].all()
    assert blobs[0].sum() <= 12**2
    assert not blobs[1].any()


def test_specks_and_slabs_are_no_nuclei():
    specks = draw_nuclei(lattice(32), axes=(1, 1))
    slab = draw_nuclei([(128, 128)], axes=(60, 60))
    for image in (specks, slab):
        assert measures(stained(image))["nuclei_density"] == 0


def test_one_nucleus_has_no_neighbour():
    values = measures(stained(draw_nuclei([(128, 128)])))
    assert values["nuclei_density"] == pytest.approx(np.log1p(1e4 / 256**2))
    assert (values["nuclei_spacing"], values["nuclei_regularity"]) == (64, 1)


def test_holes_in_tissue():
    tissue = np.full((256, 256, 3), stained((0.2, 0.6)), dtype=np.uint8)
    for x, y in lattice(64):
        cv2.circle(tissue, (int(x), int(y)), 20, (255, 255, 255), -1)
    values = measures(tissue)
    assert values["white_share"] == pytest.approx(16 * np.pi * 20**2 / 256**2, rel=0.05)
    assert values["white_pieces"] == pytest.approx(np.log1p(16 * 1e4 / 256**2))
    assert values["white_depth"] == pytest.approx(
        np.log1p(20 / 3), abs=0.1
    )  # mean depth of a disc: a third of its radius


def test_ink_is_dark():
    tile = np.full((128, 128, 3), 240, np.uint8)
    tile[:, :32] = 5
    assert measures(tile)["dark_share"] == pytest.approx(np.log1p(25), abs=0.01)


# -- all together -----------------------------------------------------------------------------------------------


def tissue_like(side, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, side, (side * side // 900, 2))
    drawn = draw_nuclei(centres, axes=(7, 5), side=side)
    fibres = cv2.GaussianBlur(rng.normal(0, 1.5, (side, side)), (0, 0), 4, sigmaY=1.5)
    return stained(np.clip(drawn + fibres[..., None] * (0.02, 0.1), 0, None))


def test_a_tile_twice_as_large_with_the_same_content_measures_the_same():
    small = tissue_like(224)
    large = np.concatenate([small, small[:, ::-1]], axis=1)
    large = np.concatenate([large, large[::-1]], axis=0)
    a, b = Texture().encode(small[None])[0], Texture().encode(large[None])[0]
    other = Texture().encode(stripes(16)[None])[0]
    # Only objects and structures that the border cut differ: far less than tissue differs from stripes.
    assert (np.abs(a - b) / np.maximum(np.abs(a), 1)).max() < 0.2
    assert np.abs(a - b).mean() < 0.05 * np.abs(a - other).mean()


@pytest.mark.parametrize("turn", [lambda t: t[::-1], lambda t: t[:, ::-1], lambda t: t.transpose(1, 0, 2)])
def test_turning_a_tile_changes_little(turn):
    tile = tissue_like(224)
    a, b = Texture().encode(np.stack([tile, turn(tile)]))
    np.testing.assert_allclose(b, a, atol=0.05)


RANGES = {"0 to 1": (0, 1), "-1 to 1": (-1, 1)}


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(32, 70),
    st.integers(32, 70),
    st.sampled_from(["noise", "flat", "two"]),
)
def test_any_tile_gives_finite_values_in_the_documented_ranges(seed, height, width, kind):
    rng = np.random.default_rng(seed)
    low, high = np.sort(rng.integers(0, 256, 2))
    if kind == "noise":
        tile = rng.integers(low, high + 1, (height, width, 3), dtype=np.uint8)
    elif kind == "flat":
        tile = np.full((height, width, 3), rng.integers(0, 256, 3, dtype=np.uint8))
    else:
        tile = np.where(rng.random((height, width, 1)) < 0.5, np.uint8(low), np.uint8(high)).repeat(3, axis=2)
    values = Texture().encode(tile[None])[0]
    assert np.isfinite(values).all()
    for (name, meaning), value in zip(TEXTURE_FEATURES, values, strict=True):
        for words, (least, most) in RANGES.items():
            if f", {words}" in meaning:
                assert least - 1e-6 <= value <= most + 1e-6, name
