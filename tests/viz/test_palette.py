import itertools

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from microtome.errors import ConfigError
from microtome.viz.palette import (
    CATEGORICAL,
    categorical_colors,
    colors_of,
    hex_color,
    ink_on,
    relative_luminance,
)

# Machado, Oliveira, Fernandes 2009, severity 1.0, on linear RGB
SIGHT = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
HE = np.array([[228, 170, 205], [205, 130, 180], [150, 100, 165], [110, 75, 150]])  # eosin to haematoxylin


def lab(rgb: np.ndarray, sight: str) -> np.ndarray:
    v = rgb / 255.0
    linear = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ SIGHT[sight].T, 0, 1)
    srgb = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    converted: np.ndarray = rgb2lab(srgb[None])[0]
    return converted


def least_difference(colors: np.ndarray, sight: str) -> float:
    points = lab(colors, sight)
    return min(float(deltaE_ciede2000(a, b)) for a, b in itertools.combinations(points, 2))


@pytest.mark.parametrize(("sight", "eight", "twelve", "tissue"), [
    ("normal", 18, 18, 20), ("protanopia", 11, 11, 9), ("deuteranopia", 11, 11, 9),
])  # fmt: skip
def test_colours_are_told_apart(sight: str, eight: float, twelve: float, tissue: float) -> None:
    colors = categorical_colors(12)
    assert least_difference(colors[:8], sight) > eight
    assert least_difference(colors, sight) > twelve
    points, he = lab(colors, sight), lab(HE, sight)
    assert min(float(deltaE_ciede2000(a, b)) for a in points for b in he) > tissue


def test_no_generated_colour_has_the_hue_of_tissue() -> None:
    colors = categorical_colors(200)[12:] / 255.0
    high, low = colors.max(axis=1), colors.min(axis=1)
    hue = np.empty(len(colors))
    r, g, b = colors.T
    span = high - low
    hue = np.where(
        high == r, ((g - b) / span) % 6, np.where(high == g, (b - r) / span + 2, (r - g) / span + 4)
    ) / 6  # fmt: skip
    assert not ((hue > 0.745) & (hue < 0.955)).any()


@pytest.mark.parametrize("n", [0, 1, 12, 13, 1024])
def test_a_category_keeps_its_colour(n: int) -> None:
    colors = categorical_colors(n)
    assert colors.shape == (n, 3)
    assert len(np.unique(colors, axis=0)) == n
    np.testing.assert_array_equal(colors, categorical_colors(1024)[:n])


def test_names_of_colours() -> None:
    assert [hex_color(c) for c in categorical_colors(12)] == list(CATEGORICAL)
    np.testing.assert_array_equal(colors_of(np.array([2, 0, 20])), categorical_colors(21)[[2, 0, 20]])
    assert colors_of(np.zeros(0, np.int64)).shape == (0, 3)


def test_text_on_a_colour_can_be_read() -> None:
    for color in categorical_colors(64):
        light, dark = 1.05 / (relative_luminance(color) + 0.05), (relative_luminance(color) + 0.05) / 0.05
        assert (ink_on(color) == "#000000") == (dark > light)
        assert max(light, dark) > 4.5


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="Got -1"):
        categorical_colors(-1)
    with pytest.raises(ConfigError, match="Got -1"):
        colors_of(np.array([0, -1]))
