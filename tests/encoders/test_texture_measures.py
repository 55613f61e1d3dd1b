"""Each measure against a drawing whose answer is known, or against a plain or foreign implementation."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import regionprops

from microtome.encoders.texture import TEXTURE_FEATURES, Texture
from microtome.encoders.texture_measures import _pattern_values, find_nuclei
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
    concentrations = rng.uniform(0.1, 1.0, (128, 128, 2))
    image = stained(concentrations)
    density = -np.log(image / 255.0)
    h, e, _ = np.moveaxis(
        density @ np.linalg.inv(np.vstack([HE_MATRIX, np.cross(*HE_MATRIX) / np.linalg.norm(np.cross(*HE_MATRIX))])),
        -1,
        0,
    )
    values = measures(image)
    assert values["h_std"] == pytest.approx(h.std(), rel=1e-4)
    assert values["e_std"] == pytest.approx(e.std(), rel=1e-4)
    assert values["h_e_correlation"] == pytest.approx(np.corrcoef(h.ravel(), e.ravel())[0, 1], abs=1e-4)
    od = density.mean(-1)
    assert values["od_q5"] == pytest.approx(np.quantile(od, 0.05), abs=0.01)
    assert values["od_q95"] == pytest.approx(np.quantile(od, 0.95), abs=0.01)


def test_asymmetry_says_which_pixels_are_few():
    few_dark, few_bright = np.full((64, 64, 2), (0.2, 0.3)), np.full((64, 64, 2), (0.9, 0.3))
    few_dark[:, :8, 0], few_bright[:, :8, 0] = 0.9, 0.2
    assert measures(stained(few_dark))["h_asymmetry"] > 0.9
    assert measures(stained(few_bright))["h_asymmetry"] < -0.9


# -- texture and edges ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("period", "level"), [(4, 0), (8, 1), (16, 2), (32, 3), (64, 4)])
def test_detail_is_found_at_its_scale(period, level):
    values = measures(stripes(period))
    rises = [values[f"h_rise_{px}px"] for px in (2, 4, 8, 16, 32)]
    assert np.argmax(np.cumsum([values["h_energy_1px"], *rises])) == level


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
    mirrored = np.pad(steps.astype(int), 1, mode="reflect")
    ring = [(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)]
    counts = np.zeros(4)
    for y in range(40):
        for x in range(50):
            darker = [mirrored[y + 1 + dy, x + 1 + dx] > steps[y, x] + 3 for dy, dx in ring]
            n, changes = (
                sum(darker),
                sum(a != b for a, b in zip(darker, darker[1:] + darker[:1], strict=True)),
            )
            if changes > 2:
                counts[3] += 1
            elif n:
                counts[0 if n <= 2 else 1 if n <= 5 else 2] += 1
    np.testing.assert_allclose(_pattern_values(steps)[:4], counts / steps.size, atol=1e-12)


def test_noise_below_the_tolerance_makes_no_pattern():
    assert not any(_pattern_values(np.tile(np.array([[100, 103], [103, 100]], np.uint8), (32, 32))))


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
    h = np.where(picture == 1, np.float32(1), np.float32(0.1))
    labels, kept, areas, centres = find_nuclei(h)
    regions = [region for region in regionprops(labels) if region.label in kept]
    np.testing.assert_array_equal([region.area for region in regions], areas)
    np.testing.assert_allclose([region.centroid[::-1] for region in regions], centres)
    expected = np.mean([1 - region.axis_minor_length / region.axis_major_length for region in regions])
    values = measures(stained(np.stack([h, np.full_like(h, 0.3)], -1)))
    assert values["nuclei_elongation"] == pytest.approx(expected, abs=0.01)


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
    assert np.abs(a - b).max() < 0.35
    assert np.abs(a - b).mean() < 0.05 * np.abs(a - other).mean()


@pytest.mark.parametrize("turn", [lambda t: t[::-1], lambda t: t[:, ::-1], lambda t: t.transpose(1, 0, 2)])
def test_turning_a_tile_changes_little(turn):
    tile = tissue_like(225)  # odd, so that a pyramid's samples fall on the same pixels
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
