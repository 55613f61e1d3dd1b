import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.errors import EvaluationError
from microtome.evaluation.discriminant import fit_discriminant


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_the_axis_finds_the_planted_direction_and_rises_with_the_classes(seed):
    rng = np.random.default_rng(seed)
    classes = np.repeat(np.arange(4), 30)
    planted = rng.standard_normal(12)
    planted /= np.linalg.norm(planted)
    rows = rng.standard_normal((120, 12)) + 3 * classes[:, None] * planted + 7
    axis = fit_discriminant(rows.astype(np.float32), classes)
    cosine = axis.direction @ planted / np.linalg.norm(axis.direction)
    assert cosine > 0.9
    assert np.corrcoef(axis.place(rows), classes)[0, 1] > 0.9
    assert abs(axis.place(rows).mean()) < 1e-6


def test_more_numbers_than_rows_are_no_obstacle():
    rng = np.random.default_rng(0)
    classes = np.repeat(np.arange(3), 8)
    direction = rng.standard_normal(512)
    rows, others = (rng.standard_normal((24, 512)) + classes[:, None] * direction / 2 for _ in range(2))
    placed = fit_discriminant(rows, classes).place(others)
    assert np.corrcoef(placed, classes)[0, 1] > 0.9


def test_what_has_no_axis_is_refused():
    rows = np.ones((4, 3)) * np.arange(4)[:, None]
    for classes, values in (([0, 0, 0, 0], rows), ([0, 1, 2, 3], rows), ([0, 0, 1, 1], rows * np.nan)):
        with pytest.raises(EvaluationError, match="discriminant"):
            fit_discriminant(values, np.array(classes))
