import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.errors import AttributionError
from microtome.models.aggregators.base import Aggregator, AggregatorOutput
from microtome.models.aggregators.registry import build_aggregator, list_aggregators
from microtome.tasks.mil.attribution import integrate_gradients, mean_logits
from tests.tasks.mil.planted import DIM, SMALL


def build(name, n_outputs=2, seed=0, **options):
    torch.manual_seed(seed)
    return build_aggregator(name, DIM, n_outputs, **{**SMALL.get(name, {}), **options}).eval()


def a_bag(n, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(0.5, 1, (n, DIM)).astype(np.float32))


@pytest.mark.parametrize(("n", "level"), [(1, 0.5), (3, 0.0), (20, 0.5)])
@pytest.mark.parametrize("name", list_aggregators())
def test_attributions_of_every_model_sum_to_the_change_of_its_logits(name, n, level):
    module, bag, baseline = build(name), a_bag(n), torch.full((DIM,), level)
    found = integrate_gradients([module], bag, baseline)
    with torch.no_grad():
        last, first = module(bag[None]).logits[0].numpy(), module(baseline.expand(1, n, -1)).logits[0].numpy()
    allowed = np.maximum(0.01 * np.abs(last - first), 1e-3)
    assert found.values.shape == (n, 2)
    np.testing.assert_allclose(found.logits, last, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.baseline, first, rtol=1e-5, atol=1e-6)
    assert (np.abs(found.values.sum(axis=0) - (last - first)) <= allowed + 1e-6).all()
    np.testing.assert_allclose(found.gap, np.abs(found.values.sum(axis=0) - (last - first)), atol=1e-5)


def test_of_a_linear_model_they_are_known_exactly():
    module = build("meanpool")
    bag, baseline = a_bag(7), torch.full((DIM,), 0.3)
    weight = module.mlp[0].weight.detach().numpy().astype(np.float64)
    expected = (bag - baseline).numpy() @ weight.T / 7
    np.testing.assert_allclose(integrate_gradients([module], bag, baseline).values, expected, atol=1e-6)


def test_adaptive_pieces_agree_with_many_equal_steps():
    module, bag, baseline = build("abmil"), 3 * a_bag(12), torch.zeros(DIM)
    total = np.zeros((12, 2))
    n_steps = 400
    for step in range(n_steps):
        point = (bag * (step + 0.5) / n_steps).requires_grad_()
        logits = module(point[None]).logits[0]
        for c in range(2):
            (slope,) = torch.autograd.grad(logits[c], point, retain_graph=c == 0)
            total[:, c] += (slope * bag).sum(dim=1).numpy() / n_steps
    found = integrate_gradients([module], bag, baseline, tolerance=1e-4)
    np.testing.assert_allclose(found.values, total, atol=2e-3)
    assert found.n_evaluations < n_steps


def test_members_are_explained_as_their_average():
    modules = [build("abmil", seed=seed) for seed in range(3)]
    bag, baseline = a_bag(9), torch.zeros(DIM)
    together = integrate_gradients(modules, bag, baseline, tolerance=1e-3)
    alone = [integrate_gradients([module], bag, baseline, tolerance=1e-3) for module in modules]
    np.testing.assert_allclose(together.values, np.mean([one.values for one in alone], axis=0), atol=3e-3)
    np.testing.assert_allclose(together.logits, mean_logits(modules, bag[None])[0].detach().numpy())


def test_large_bags_go_through_one_place_at_a_time_with_the_same_result(monkeypatch):
    module, bag, baseline = build("clam_mb"), a_bag(20), torch.zeros(DIM)
    together = integrate_gradients([module], bag, baseline)
    monkeypatch.setattr("microtome.tasks.mil.attribution._BATCH_BYTES", 1)
    one_by_one = integrate_gradients([module], bag, baseline)
    np.testing.assert_allclose(one_by_one.values, together.values, atol=1e-5)


class Jumping(Aggregator):
    """A logit with a jump in the middle of the way."""

    def aggregate(self, features, mask):
        total = features.mean(dim=(1, 2))[:, None]
        return AggregatorOutput(total + (total > 0.2).float(), mask.float()[..., None])


def test_what_cannot_be_made_complete_is_refused():
    bag = torch.ones(4, DIM)
    with pytest.raises(AttributionError, match=r"logit 0 .* allowed"):
        integrate_gradients([Jumping(DIM, 1)], bag, torch.zeros(DIM))


def test_too_few_gradients_are_refused():
    module = build("hiptmil")
    with pytest.raises(AttributionError, match="after 16 gradients"):
        integrate_gradients([module], 20 * a_bag(5), torch.zeros(DIM), tolerance=1e-6, max_evaluations=16)


@pytest.mark.parametrize("name", ["dsmil", "dsmil_original", "dsmil_millab"])
def test_a_held_choice_changes_nothing_at_both_ends_and_is_let_go(name):
    module, bag = build(name), a_bag(15)
    same = torch.full((1, 15, DIM), 0.4)
    free = [module(x).logits for x in (bag[None], same)]
    other = module(a_bag(15, seed=5)[None]).logits
    with module.holding(bag):
        held = [module(x).logits for x in (bag[None], same)]
        changed = module(a_bag(15, seed=5)[None]).logits
    for one, two in zip(free, held, strict=True):
        torch.testing.assert_close(one, two)
    assert not torch.allclose(changed, other)
    torch.testing.assert_close(module(a_bag(15, seed=5)[None]).logits, other)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 12), st.integers(0, 1000), st.floats(0.1, 20))
def test_whatever_the_bag_the_sum_holds(n, seed, size):
    module, bag = build("chowder", 1), size * a_bag(n, seed)
    found = integrate_gradients([module], bag, torch.zeros(DIM))
    change = found.logits - found.baseline
    assert abs(found.values.sum() - change[0]) <= max(0.01 * abs(change[0]), 1e-3) + 1e-9
