import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.color import rgb2hed, rgb_from_hed, separate_stains

from microtome.errors import ConfigError
from microtome.stain import HE_MATRIX, HE_VECTORS, od_table, optical_density, unmix_stains, unmixing_matrix

SKIMAGE_SCALE = -np.log(1e-6)  # scikit-image divides optical density by this, and clips at 0


@pytest.fixture
def image():
    return np.random.default_rng(1).integers(1, 256, (20, 30, 3), dtype=np.uint8)


def test_optical_density_is_the_negative_natural_logarithm(image):
    expected = -np.log(image.astype(np.float64) / 255)
    np.testing.assert_allclose(optical_density(image), expected, atol=1e-6)
    assert optical_density(image).dtype == np.float32


def test_black_counts_as_one_grey_level():
    black, one = optical_density(np.array([0, 1], dtype=np.uint8))
    assert black == one == np.float32(np.log(255))


def test_what_is_brighter_than_the_background_absorbs_nothing():
    values = optical_density(np.array([255, 240, 120], dtype=np.uint8), background=240)
    np.testing.assert_allclose(values, [0, 0, np.log(2)], atol=1e-6)
    assert not np.signbit(values).any()


@pytest.mark.parametrize("background", [0, -1, 256, float("nan")])
def test_a_background_that_is_no_intensity_is_refused(background):
    with pytest.raises(ConfigError, match="background"):
        od_table(background)


def test_vectors_are_the_published_ones():
    np.testing.assert_array_equal(HE_VECTORS, rgb_from_hed[:2])
    np.testing.assert_allclose(np.linalg.norm(HE_MATRIX, axis=1), 1)
    np.testing.assert_allclose(np.cross(HE_MATRIX, HE_VECTORS), 0, atol=1e-12)


def test_three_dyes_are_unmixed_as_scikit_image_does(image):
    ours = unmix_stains(image, rgb_from_hed)
    np.testing.assert_allclose(np.maximum(ours, 0) / SKIMAGE_SCALE, rgb2hed(image), atol=1e-6)


def test_two_dyes_and_the_residual_are_unmixed_as_scikit_image_does(image):
    ours = unmix_stains(image)
    theirs = separate_stains(image, unmixing_matrix())
    np.testing.assert_allclose(np.maximum(ours, 0) / SKIMAGE_SCALE, theirs, atol=1e-6)


def test_two_dyes_are_the_least_squares_solution(image):
    density = optical_density(image).reshape(-1, 3).astype(np.float64)
    solution, *_ = np.linalg.lstsq(HE_MATRIX.T, density.T, rcond=None)
    np.testing.assert_allclose(unmix_stains(image).reshape(-1, 3)[:, :2], solution.T, atol=1e-5)
    np.testing.assert_allclose(unmixing_matrix()[:, :2], np.linalg.pinv(HE_MATRIX), atol=1e-12)


@given(arrays(np.float64, (5, 2), elements=st.floats(0, 1.5)))
def test_mixed_dyes_come_back(concentrations):
    mixed = 255 * np.exp(-concentrations @ HE_MATRIX)
    back = unmix_stains(np.rint(mixed).astype(np.uint8))
    # Rounding to 8 bits moves a density by 0.5 / intensity.
    error = (0.5 / mixed).max() * np.abs(unmixing_matrix()).sum(axis=0).max()
    np.testing.assert_allclose(back[:, :2], concentrations, atol=1.1 * error + 1e-5)
    assert np.abs(back[:, 2]).max() <= 1.1 * error + 1e-5


def test_leading_axes_are_kept(image):
    batch = np.stack([image, image[::-1]])
    np.testing.assert_array_equal(unmix_stains(batch)[1], unmix_stains(image[::-1]))
    assert unmix_stains(image[0, 0]).shape == (3,)


@pytest.mark.parametrize(
    "stains",
    [
        np.array([[1.0, 0, 0]]),
        np.array([[0.5, 0.5, 0.5], [1.0, 1.0, 1.0]]),
        np.array([[0.5, 0.5, 0.5], [0.0, 0.0, 0.0]]),
        np.array([[0.5, np.nan, 0.5], [0.0, 0.0, 1.0]]),
    ],
)
def test_vectors_that_cannot_be_told_apart_are_refused(stains):
    with pytest.raises(ConfigError, match="stains"):
        unmixing_matrix(stains)


def test_the_default_vectors_cannot_be_changed_in_place():
    with pytest.raises(ValueError, match="read-only"):
        HE_MATRIX[0, 0] = 1
