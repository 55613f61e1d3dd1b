"""What holds for every objective, and what holds for those of classes and numbers."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import grad, vmap

from microtome.cohort.targets import Target
from microtome.errors import ConfigError
from microtome.models.objectives import OBJECTIVES, default_objective, list_objectives
from microtome.models.objectives.parts import backward_in_parts
from tests.models.objectives.build import build_objective

TARGETS = {
    "binary": Target("msi", "binary", ("msi",), ("MSS", "MSI-H")),
    "multiclass": Target("subtype", "multiclass", ("subtype",), ("a", "b", "c")),
    "multilabel": Target("genes", "multilabel", ("x", "y"), ("x", "y")),
    "regression": Target("age", "regression", ("age",)),
    "ordinal": Target("grade", "ordinal", ("grade",), ("1", "2", "3")),
    "survival": Target("os", "survival", ("time", "event")),
}
EVERY = [(name, kind) for name, entry in OBJECTIVES.items() for kind in entry.types]


def drawn_values(kind, shape, seed=0):
    """Values of a target, as float64, for rows of any shape."""
    generator = np.random.default_rng(seed)
    if kind == "survival":
        return np.stack([generator.integers(1, 6, shape), generator.random(shape) < 0.7], axis=-1).astype(float)
    if kind == "regression":
        return generator.normal(50, 10, (*shape, 1))
    n = len(TARGETS[kind].classes)
    if kind == "multilabel":
        values = generator.integers(0, 2, (*shape, n)).astype(float)
        values[..., 0, 0] = np.nan
        return values
    return generator.integers(0, n, (*shape, 1)).astype(float)


def made(name, kind, **options):
    return build_objective(TARGETS[kind], name, **options).fitted(drawn_values(kind, (200,), seed=9))


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_many_models_at_once_are_each_by_itself(name, kind):
    objective = made(name, kind)
    values = torch.tensor(drawn_values(kind, (7,)))
    logits = torch.tensor(np.random.default_rng(1).normal(size=(3, 7, objective.n_outputs)))
    expected = torch.stack([objective.loss(x, values) for x in logits])
    slopes = torch.stack([grad(objective.loss)(x, values) for x in logits])
    torch.testing.assert_close(vmap(objective.loss, (0, None))(logits, values), expected)
    torch.testing.assert_close(vmap(grad(objective.loss), (0, None))(logits, values), slopes)
    torch.testing.assert_close(objective.loss(logits, values), expected)
    if objective.per_bag:
        losses = objective.bag_losses(logits, values)
        assert losses.shape == (3, 7)
        torch.testing.assert_close(losses.mean(-1), expected)
    else:
        with pytest.raises(NotImplementedError, match=name):
            objective.bag_losses(logits, values)


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_the_gradient_is_that_of_the_value(name, kind):
    objective = made(name, kind)
    values = torch.tensor(drawn_values(kind, (6,)))
    logits = torch.tensor(np.random.default_rng(1).normal(size=(6, objective.n_outputs)), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: objective.loss(x, values), logits)


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_rows_without_values_are_as_if_they_were_not_there(name, kind):
    objective = made(name, kind)
    values = torch.tensor(drawn_values(kind, (5,)))
    logits = torch.tensor(np.random.default_rng(1).normal(size=(5, objective.n_outputs)))
    gaps = torch.cat([values[:2], torch.full((2, values.shape[1]), torch.nan), values[2:]])
    padded = torch.cat([logits[:2], torch.full((2, logits.shape[1]), 3.0), logits[2:]]).requires_grad_()
    loss = objective.loss(padded, gaps)
    assert loss.item() == pytest.approx(float(objective.loss(logits, values)), rel=1e-12)
    (slope,) = torch.autograd.grad(loss, padded)
    assert torch.isfinite(slope).all()
    assert not slope[2:4].any()


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_a_batch_of_nothing_has_no_loss_and_no_gradient(name, kind):
    objective = made(name, kind)
    logits = torch.zeros(3, objective.n_outputs, requires_grad=True)
    loss = objective.loss(logits, torch.full((3, drawn_values(kind, (1,)).shape[1]), torch.nan))
    (slope,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0
    assert not slope.any()


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_huge_logits_and_low_precision_stay_finite_and_in_fp32(name, kind):
    objective = made(name, kind)
    values = torch.tensor(drawn_values(kind, (4,)))
    logits = torch.tensor([300.0, -300.0, 200.0, 0.0], dtype=torch.bfloat16)[:, None].expand(4, objective.n_outputs)
    loss = objective.loss(logits, values)
    assert loss.dtype in (torch.float32, torch.float64)
    assert torch.isfinite(loss)
    for column in objective.columns(logits.float().numpy()).values():
        assert np.isfinite(column).all()


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_state_is_plain_and_makes_the_same_again(name, kind):
    objective = made(name, kind)
    state = json.loads(json.dumps(dict(objective.state())))
    again = build_objective(TARGETS[kind], **state)
    assert type(again) is type(objective)
    assert again.state() == objective.state()
    logits = np.random.default_rng(1).normal(size=(5, objective.n_outputs)).astype(np.float32)
    for key, column in objective.columns(logits).items():
        assert np.array_equal(again.columns(logits)[key], column)


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_columns_are_those_of_a_table_of_predictions(name, kind):
    from microtome.cohort.predictions import value_columns

    objective = made(name, kind)
    columns = objective.columns(np.zeros((2, objective.n_outputs), np.float32))
    assert tuple(columns) == value_columns(TARGETS[kind])


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_following_the_gradient_leads_to_the_right_predictions(name, kind):
    objective = made(name, kind)
    values = torch.tensor(drawn_values(kind, (20,), seed=3)).nan_to_num()
    logits = nn.Parameter(torch.zeros(20, objective.n_outputs))
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(100):
        optimizer.zero_grad()
        objective.loss(logits, values).backward()
        optimizer.step()
    final = logits.detach().numpy()
    columns = objective.read_from(final, values.numpy()).columns(final)
    if kind == "regression":
        assert columns["value"] == pytest.approx(values[:, 0].numpy(), abs=1)
    elif kind == "survival":
        events = values[:, 1] > 0
        assert np.corrcoef(columns["risk"][events], values[events, 0])[0, 1] < -0.8
    elif kind == "ordinal":
        assert columns["grade"].tolist() == values[:, 0].tolist()
    elif kind == "multilabel":
        assert np.stack(list(columns.values()), 1).round().tolist() == values.tolist()
    else:
        assert np.stack(list(columns.values()), 1).argmax(1).tolist() == values[:, 0].tolist()


def test_class_losses_are_those_of_torch():
    logits = torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    classes = torch.tensor(drawn_values("multiclass", (9,)))
    found = made("cross_entropy", "multiclass").loss(logits, classes)
    torch.testing.assert_close(found, nn.functional.cross_entropy(logits, classes[:, 0].long()))
    labels = torch.tensor(drawn_values("binary", (9,)))
    found = made("bce", "binary").loss(logits[:, :1], labels)
    torch.testing.assert_close(found, nn.functional.binary_cross_entropy_with_logits(logits[:, :1], labels))
    found = made("huber", "regression", mean=0.0).error(logits)
    torch.testing.assert_close(found, nn.functional.huber_loss(logits, logits * 0, reduction="none"))


def test_a_missing_label_of_one_class_leaves_the_others():
    objective = build_objective(TARGETS["multilabel"])
    logits = torch.tensor([[2.0, -1.0], [0.5, 0.5]], requires_grad=True)
    values = torch.tensor([[torch.nan, 1.0], [0.0, 1.0]])
    losses = objective.bag_losses(logits, values)
    expected = nn.functional.softplus(torch.tensor([1.0, 0.5, -0.5]))
    torch.testing.assert_close(losses.detach(), torch.stack([expected[0], (expected[1] + expected[2]) / 2]))
    (slope,) = torch.autograd.grad(losses.sum(), logits)
    assert slope[0, 0] == 0


def test_regression_is_in_units_of_the_training_rows():
    values = np.array([[10.0], [20.0], [np.nan], [30.0]])
    objective = build_objective(TARGETS["regression"]).fitted(values)
    assert objective.mean == 20
    assert objective.columns(np.array([[0.0], [1.0]]))["value"].tolist() == [20, 20 + np.std([10, 20, 30])]
    assert float(objective.loss(torch.zeros(1, 1), torch.tensor([[20.0]]))) == 0
    constant = build_objective(TARGETS["regression"]).fitted(np.full((3, 1), 5.0))
    assert constant.scale == 1
    with pytest.raises(ConfigError, match="age"):
        build_objective(TARGETS["regression"]).fitted(np.array([[np.nan]]))


def test_a_fitted_huber_keeps_its_options():
    objective = build_objective(TARGETS["regression"], "huber", delta=0.3).fitted(np.array([[1.0], [2.0]]))
    assert (objective.delta, objective.mean) == (0.3, 1.5)


@pytest.mark.parametrize(
    ("kind", "name", "options", "match"),
    [
        ("binary", "bec", {}, "Did you mean 'bce'"),
        ("binary", "cox", {}, "is binary.*bce, cross_entropy"),
        ("binary", "bce", {"delta": 1}, "has no option 'delta'. It has none"),
        ("regression", "huber", {"width": 1}, "It has mean, scale, delta"),
        ("survival", "cox", {"compat": "clam"}, "histossl"),
        ("regression", "mse", {"scale": 0.0}, "scale"),
        ("regression", "huber", {"delta": -1.0}, "delta"),
    ],
)
def test_what_there_is_not_is_refused(kind, name, options, match):
    with pytest.raises(ConfigError, match=match):
        build_objective(TARGETS[kind], name, **options)


def test_every_type_of_target_has_a_default():
    assert {kind: default_objective(target) for kind, target in TARGETS.items()} == {
        "binary": "bce",
        "multiclass": "cross_entropy",
        "multilabel": "multilabel_bce",
        "regression": "mse",
        "ordinal": "cumulative_link",
        "survival": "cox",
    }
    assert set(list_objectives()) == set(OBJECTIVES)


def test_listing_needs_no_torch():
    code = "import sys, microtome.models.objectives as o; o.list_objectives(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- gradients in parts


class Bags(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 1))

    def forward(self, bag):
        return self.net(bag).mean(0, keepdim=True)


@pytest.mark.parametrize(("name", "kind"), [("cox", "survival"), ("pairwise", "ordinal"), ("bce", "binary")])
def test_a_gradient_in_parts_is_that_of_the_whole(name, kind):
    objective = made(name, kind)
    values = torch.tensor(drawn_values(kind, (6,)))
    generator = torch.Generator().manual_seed(1)
    bags = [torch.randn(n, 4, generator=generator) for n in (3, 1, 5, 2, 2, 4)]
    net = Bags()
    torch.manual_seed(2)
    expected = objective.loss(torch.cat([net(bag) for bag in bags]), values)
    expected.backward()
    drawn = torch.rand(1)
    slopes = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    torch.manual_seed(2)
    found = backward_in_parts(lambda logits: objective.loss(logits, values), net, bags)
    torch.testing.assert_close(found, expected.detach())
    assert not found.requires_grad
    for parameter, slope in zip(net.parameters(), slopes, strict=True):
        torch.testing.assert_close(parameter.grad, slope)
    assert torch.equal(torch.rand(1), drawn)  # the generator is where it would have been
