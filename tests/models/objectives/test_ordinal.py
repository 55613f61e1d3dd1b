import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.cohort.targets import Target
from microtome.errors import ConfigError
from microtome.models.objectives.ordinal import CoralHead, fit_proportional_odds
from tests.conftest import golden_cases, require_case
from tests.models.objectives.build import build_objective

GRADES = Target("grade", "ordinal", ("grade",), ("0", "1", "2", "3"))
TIES = ("none", "same", "lower", "upper")


@pytest.mark.shared
@pytest.mark.parametrize("case", golden_cases("fastglioma_losses"), ids=lambda p: p.name)
@pytest.mark.parametrize("ties", TIES)
def test_golden_pairwise_values_and_gradients(case, ties):
    case = require_case(case)
    tolerance = json.loads((case / "case.json").read_text())["tolerance"]
    data = np.load(case / "data.npz")
    names = [key.removeprefix("in_ord_").removesuffix("_scores") for key in data if key.endswith("_scores")]
    assert names
    objective = build_objective(GRADES, "pairwise", ties=ties)
    for name in names:
        scores = torch.from_numpy(data[f"in_ord_{name}_scores"]).requires_grad_()
        grades = torch.from_numpy(data[f"in_ord_{name}_labels"])[:, None].double()
        loss = objective.loss(scores, grades)
        (slope,) = torch.autograd.grad(loss, scores)
        expected = float(data[f"out_ord_{name}_{ties}"])
        if np.isnan(expected):  # one grade only: the original divides 0 by 0
            assert loss.item() == 0
            assert not slope.any()
            continue
        assert float(loss.detach()) == pytest.approx(expected, rel=float(tolerance["losses"].split()[0]))
        np.testing.assert_allclose(slope, data[f"out_ord_{name}_{ties}_grad"], atol=tolerance["gradients"])


def slow_pairwise(scores, grades, ties):
    rows = []
    for i in range(len(scores)):
        losses = []
        for j in range(len(scores)):
            if i == j or (ties == "none" and grades[i] == grades[j]):
                continue
            aim = 1.0 if grades[i] > grades[j] else 0.0
            if grades[i] == grades[j]:
                aim = {"same": 0.5, "lower": 0.0, "upper": 1.0}[ties]
            d = scores[i] - scores[j]
            losses.append(-aim * np.log(1 / (1 + np.exp(-d))) - (1 - aim) * np.log(1 - 1 / (1 + np.exp(-d))))
        if losses:
            rows.append(np.mean(losses))
    return np.mean(rows) if rows else 0.0


@given(st.integers(1, 12), st.integers(0, 2**32 - 1), st.sampled_from(TIES))
@settings(deadline=None, max_examples=40)
def test_pairwise_is_a_mean_over_pairs(n, seed, ties):
    generator = np.random.default_rng(seed)
    scores, grades = generator.normal(size=n), generator.integers(0, 4, n).astype(float)
    objective = build_objective(GRADES, "pairwise", ties=ties)
    loss = objective.loss(torch.tensor(scores)[:, None], torch.tensor(grades)[:, None])
    assert loss.item() == pytest.approx(slow_pairwise(scores, grades, ties), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("ties", TIES)
def test_pairwise_gradient_is_that_of_its_value(ties):
    generator = np.random.default_rng(0)
    logits = torch.tensor(generator.normal(size=(7, 1)), requires_grad=True)
    grades = torch.tensor(generator.integers(0, 3, (7, 1)).astype(float))
    objective = build_objective(GRADES, "pairwise", ties=ties)
    assert torch.autograd.gradcheck(lambda x: objective.loss(x, grades), logits)


def test_until_it_was_read_a_pairwise_score_ranks_and_does_not_grade():
    columns = build_objective(GRADES, "pairwise").columns(np.array([[-3.0], [0.1], [0.2], [3.0]]))
    assert list(columns) == ["grade", "p_ge_1", "p_ge_2", "p_ge_3"]
    for values in columns.values():
        assert (np.diff(values) > 0).all()
    assert 0 <= columns["grade"].min() < columns["grade"].max() <= 3


def test_reading_finds_the_cut_points_that_made_the_grades():
    generator = np.random.default_rng(0)
    scores = generator.normal(loc=40, scale=3, size=40_000)
    slope, cuts = 0.8, np.array([30.0, 32.0, 33.5])
    above = 1 / (1 + np.exp(-(slope * scores[:, None] - cuts)))
    grades = (generator.random((len(scores), 1)) < above).sum(axis=1)
    found = build_objective(GRADES, "pairwise").read_from(scores[:, None], grades[:, None].astype(float))
    assert found.slope == pytest.approx(slope, rel=0.03)
    assert np.asarray(found.cuts) == pytest.approx(cuts, rel=0.03)
    columns = found.columns(scores[:, None])
    for i, name in enumerate(("1", "2", "3"), 1):
        assert columns[f"p_ge_{name}"].mean() == pytest.approx((grades >= i).mean(), abs=0.01)
    again = build_objective(GRADES, **found.state())
    assert np.array_equal(again.columns(scores[:5, None])["p_ge_2"], columns["p_ge_2"][:5])


@pytest.mark.parametrize(
    "grades",
    [[0, 0, 1, 1, 2, 2, 3, 3], [3, 3, 2, 2, 1, 1, 0, 0], [0, 0, 0, 0, 3, 3, 3, 3], [1] * 8],
    ids=["perfect", "reversed", "two grades", "one grade"],
)
def test_reading_stands_grades_that_have_no_best_cut_points(grades):
    values = np.array(grades, float)[:, None]
    logits = np.arange(8.0)[:, None]
    found = build_objective(GRADES, "pairwise").read_from(logits, values)
    columns = found.columns(logits)
    assert all(np.isfinite(column).all() for column in columns.values())
    if grades == sorted(grades):
        assert columns["grade"].tolist() == grades
    assert (columns["p_ge_1"] >= columns["p_ge_2"]).all()
    assert (columns["p_ge_2"] >= columns["p_ge_3"]).all()


def test_reading_without_scores_is_refused():
    with pytest.raises(ConfigError, match="scores"):
        fit_proportional_odds(np.zeros(0), np.zeros(0, int), n_classes=3)
    with pytest.raises(ConfigError, match="finite"):
        fit_proportional_odds(np.array([np.nan, 1.0]), np.array([0, 1]), n_classes=3)


@pytest.mark.parametrize("name", ["cumulative_link", "cross_entropy", "pairwise"])
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 50))
@settings(deadline=None, max_examples=20)
def test_being_at_or_above_a_grade_is_never_likelier_than_being_above_a_lower_one(name, seed, scale):
    objective = build_objective(GRADES, name)
    logits = np.random.default_rng(seed).normal(scale=scale, size=(6, objective.n_outputs))
    columns = objective.columns(logits)
    above = np.stack([columns[f"p_ge_{name}"] for name in GRADES.classes[1:]], axis=1)
    assert (np.diff(above, axis=1) <= 0).all()
    assert ((above >= 0) & (above <= 1)).all()


@pytest.mark.parametrize("ordered", [True, False])
def test_a_cumulative_link_is_the_mean_of_its_thresholds(ordered):
    objective = build_objective(GRADES, "cumulative_link", ordered=ordered)
    logits = torch.tensor([[1.5, 0.2, -0.7]], dtype=torch.float64)
    above = np.array([objective.columns(logits.numpy())[f"p_ge_{k}"][0] for k in (1, 2, 3)])
    for grade in range(4):
        passed = np.arange(3) < grade
        expected = -np.log(np.where(passed, above, 1 - above)).mean()
        assert float(objective.loss(logits, torch.tensor([[float(grade)]]))) == pytest.approx(expected)


def test_coral_learns_shared_thresholds_in_order():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 1, generator=generator)
    grades = (x + 0.3 * torch.randn(400, 1, generator=generator) > torch.tensor([-1.0, 0.0, 1.0])).sum(1, keepdim=True)
    layer, head = torch.nn.Linear(1, 1), CoralHead(4)
    optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=0.1)
    objective = build_objective(GRADES, "cumulative_link", ordered=False)
    for _ in range(150):
        optimizer.zero_grad()
        objective.loss(head(layer(x)), grades.double()).backward()
        optimizer.step()
    assert (head.biases.diff() < 0).all()
    found = objective.columns(head(layer(x)).detach().numpy())["grade"]
    assert (found == grades[:, 0].numpy()).mean() > 0.7


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ConfigError, match="ties"):
        build_objective(GRADES, "pairwise", ties="equal")
    with pytest.raises(ConfigError, match="3 rising"):
        build_objective(GRADES, "pairwise", cuts=[0.0, 1.0])
    with pytest.raises(ConfigError, match="3 rising"):
        build_objective(GRADES, "pairwise", cuts=[0.0, 1.0, 0.5])
