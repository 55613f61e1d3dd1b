import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microtome.errors import ConfigError, EvaluationError
from microtome.tasks.mil.selection import select
from tests.conftest import golden_cases, require_case


@pytest.mark.parametrize("case", golden_cases("nested_cv_selection"), ids=lambda case: case.name)
def test_golden_selection_of_the_reference(case):
    """The reference's choice, its off-by-one included, and what it reports of the retrained models."""
    case = require_case(case)
    described = json.loads((case / "case.json").read_text())
    with np.load(case / "data.npz") as data:
        curves = data["inner_val_curves"].astype(np.float64)
        final = [data[f"final_curves_{o}"] for o in range(len(curves))]
    grid, tolerance = described["inputs"]["grid_order"], described["tolerance"]
    reported = []
    for wanted in described["outputs"]["selected"]:
        chosen = select(curves[wanted["outer_split"]], compat="histossl")
        assert grid[chosen.point] == [wanted["learning_rate"], wanted["weight_decay"]]
        assert chosen.n_epochs == wanted["num_epochs"]
        assert chosen.best_epochs[chosen.point] == wanted["best_epoch_zero_based"]
        reported.append(float(final[wanted["outer_split"]][chosen.n_epochs - 1]))
    np.testing.assert_allclose(reported, described["outputs"]["reported_per_fold"], **tolerance)
    np.testing.assert_allclose(np.mean(reported), described["outputs"]["reported_mean"], **tolerance)
    np.testing.assert_allclose(np.std(reported), described["outputs"]["reported_std"], **tolerance)


def test_an_index_is_one_less_than_the_number_of_epochs():
    curves = np.zeros((1, 2, 6))
    curves[..., 5] = 1.0
    assert select(curves).n_epochs == 6
    assert select(curves, compat="histossl").n_epochs == 5


def test_not_a_number_never_wins_but_with_the_reference():
    curves = np.array([[[0.5, np.nan, 0.6]], [[0.4, 0.55, 0.5]]])
    assert (select(curves).point, select(curves).n_epochs) == (0, 3)
    chosen = select(curves, compat="histossl")
    assert (chosen.point, chosen.n_epochs) == (0, 1)
    assert np.isnan(chosen.score)


def test_a_model_that_fails_in_one_fold_does_not_win_by_the_others():
    curves = np.array([[[0.99], [np.nan]], [[0.6], [0.6]]])
    assert select(curves).point == 1


def test_a_fold_that_cannot_be_judged_is_left_out_and_told():
    curves = np.array([[[0.5, 0.7], [np.nan, np.nan]], [[0.6, 0.6], [np.nan, np.nan]]])
    chosen = select(curves)
    assert (chosen.point, chosen.n_epochs, chosen.score, chosen.left_out) == (0, 2, 0.7, (1,))


@pytest.mark.parametrize("curves", [np.full((2, 3, 4), np.nan), np.zeros((0, 3, 4)), np.zeros((2, 0, 4))])
def test_nothing_to_choose_from_is_an_error(curves):
    with pytest.raises(EvaluationError):
        select(curves)


def test_every_point_failing_somewhere_is_an_error():
    with pytest.raises(EvaluationError, match="learning rate"):
        select(np.array([[[0.5], [np.nan]], [[np.nan], [0.5]]]))


def test_an_unknown_compat_is_refused():
    with pytest.raises(ConfigError):
        select(np.zeros((1, 1, 1)), compat="clam")


@given(
    st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**31), st.randoms(use_true_random=False)
)
def test_the_choice_is_the_highest_mean_whatever_the_order_of_folds(points, folds, epochs, seed, shuffler):
    curves = np.random.default_rng(seed).random((points, folds, epochs))
    chosen = select(curves)
    means = curves.mean(axis=1)
    assert chosen.score == pytest.approx(means.max())
    assert means[chosen.point, chosen.n_epochs - 1] == pytest.approx(means.max())
    order = list(range(folds))
    shuffler.shuffle(order)
    assert select(curves[:, order]).score == pytest.approx(chosen.score)


def test_of_equal_ones_the_first_point_and_the_fewest_epochs_win():
    chosen = select(np.full((3, 2, 4), 0.5))
    assert (chosen.point, chosen.n_epochs) == (0, 1)
