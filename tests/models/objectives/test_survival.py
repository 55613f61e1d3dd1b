import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import grad, vmap

from microtome.cohort.targets import Target
from microtome.errors import ConfigError
from tests.conftest import golden_cases, require_case
from tests.models.objectives.build import build_objective

TARGET = Target("os", "survival", ("time", "event"))


def batch(scores, times, events, dtype=torch.float64):
    logits = torch.tensor(np.asarray(scores), dtype=dtype)[:, None]
    return logits, torch.tensor(np.stack([times, events], axis=1), dtype=torch.float64)


def slow_log_likelihood(scores, times, events, ties):
    """Minus the partial log-likelihood, straight from the textbook."""
    total = 0.0
    for time in np.unique(times[events > 0]):
        at_risk = np.exp(scores[times >= time]).sum()
        tied = (times == time) & (events > 0)
        n_tied = int(tied.sum())
        for i in range(n_tied):
            less = i / n_tied * np.exp(scores[tied]).sum() if ties == "efron" else 0.0
            total += np.log(at_risk - less)
        total -= scores[tied].sum()
    return total


@pytest.mark.shared
@pytest.mark.parametrize("case", golden_cases("cox_loss"), ids=lambda p: p.name)
def test_golden_cox_values_and_gradients(case):
    case = require_case(case)
    meta = json.loads((case / "case.json").read_text())
    data = np.load(case / "data.npz")
    rtol, atol = meta["tolerance"]["rtol"], meta["tolerance"]["atol"]
    for of in meta["inputs"]["batches"]:
        name = of["name"]
        scores, times, events = (data[f"{name}_{part}"] for part in ("logits", "time", "event"))
        logits, values = batch(scores, times, events, torch.float32)
        logits.requires_grad_()
        compat = build_objective(TARGET, "cox", compat="histossl")
        loss = compat.loss(logits, values)
        assert loss.item() == pytest.approx(of["reference_mean"], rel=rtol, abs=atol)
        terms = compat.terms(logits, values).detach().numpy()
        assert terms.sum() == pytest.approx(of["reference_sum"], rel=rtol, abs=atol)
        np.testing.assert_allclose(terms, data[f"{name}_reference_terms"], rtol=rtol, atol=atol)
        (slope,) = torch.autograd.grad(loss, logits)
        np.testing.assert_allclose(slope[:, 0], data[f"{name}_grad_mean"], rtol=rtol, atol=atol)
        wide, _ = batch(scores, times, events)
        for ties in ("breslow", "efron"):
            ours = build_objective(TARGET, "cox", ties=ties)
            for library in ("torchsurv", "statsmodels", "lifelines"):
                for form in ("sum", "neg_loglike"):
                    key = f"{library}_{ties}_{form}"
                    if key in of:
                        assert float(ours.terms(wide, values).sum()) == pytest.approx(of[key], rel=rtol), key


@pytest.mark.shared
@pytest.mark.parametrize("case", golden_cases("cox_loss"), ids=lambda p: p.name)
def test_golden_cox_edges(case):
    edge = json.loads((require_case(case) / "case.json").read_text())["edge"]
    signed = np.array(edge["zero_time"]["signed_times"], float)
    logits, values = batch(edge["zero_time"]["scores"], abs(signed), signed > 0)
    loss = build_objective(TARGET, "cox", compat="histossl").loss(logits, values)
    assert loss.item() == pytest.approx(edge["zero_time"]["mean"], rel=1e-6)


@given(
    st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from(["breslow", "efron"]), st.sampled_from([2, 6, 1000])
)
@settings(deadline=None, max_examples=60)
def test_cox_is_the_textbooks_likelihood(n, seed, ties, n_times):
    generator = np.random.default_rng(seed)
    scores = generator.normal(scale=2, size=n)
    times = generator.integers(1, n_times + 1, n).astype(float)
    events = (generator.random(n) < 0.6).astype(float)
    objective = build_objective(TARGET, "cox", ties=ties)
    logits, values = batch(scores, times, events)
    expected = slow_log_likelihood(scores, times, events, ties)
    assert float(objective.terms(logits, values).sum()) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert float(objective.loss(logits, values)) == pytest.approx(expected / max(events.sum(), 1), rel=1e-9, abs=1e-9)


def test_efron_is_what_lifelines_maximises():
    from lifelines import CoxPHFitter

    generator = np.random.default_rng(4)
    n = 60
    scores = generator.normal(size=n)
    times, events = generator.integers(1, 12, n).astype(float), (generator.random(n) < 0.7).astype(float)
    table = pd.DataFrame({"x": scores, "time": times, "event": events})
    fitted = CoxPHFitter().fit(table, "time", "event")
    logits, values = batch(scores * fitted.params_["x"], times, events)
    loss = build_objective(TARGET, "cox").terms(logits, values).sum()
    assert loss.item() == pytest.approx(-fitted.log_likelihood_, rel=1e-8)


FORMS = [{"ties": "breslow"}, {"ties": "efron"}, {"compat": "histossl"}]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_cox_gradient_is_that_of_its_value(form):
    generator = np.random.default_rng(1)
    logits, values = batch(
        generator.normal(size=9), generator.integers(1, 4, 9).astype(float), np.array([1, 0, 1, 1, 0, 1, 1, 1, 0.0])
    )
    objective = build_objective(TARGET, "cox", **form)
    assert torch.autograd.gradcheck(lambda x: objective.loss(x, values), logits.requires_grad_())


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_huge_scores_do_not_overflow(form):
    objective = build_objective(TARGET, "cox", **form)
    logits, values = batch([950.0, -900.0, 95.0, 96.0], [3.0, 2.0, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0], torch.float32)
    logits.requires_grad_()
    loss = objective.loss(logits, values)
    (slope,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(loss)
    assert torch.isfinite(slope).all()
    shifted = objective.loss(logits.detach() - 500, values)
    assert float(shifted) == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("n", [1, 5])
def test_without_an_event_there_is_no_loss_and_no_gradient(form, n):
    logits, values = batch(np.linspace(-1, 1, n), np.arange(n) + 1.0, np.zeros(n))
    logits.requires_grad_()
    loss = build_objective(TARGET, "cox", **form).loss(logits, values)
    (slope,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0
    assert not slope.any()


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_batch_of_one_says_nothing(form):
    logits, values = batch([1.7], [3.0], [1.0])
    assert float(build_objective(TARGET, "cox", **form).loss(logits, values)) == 0


@pytest.mark.parametrize("form", FORMS[:2], ids=str)
def test_the_order_of_the_rows_does_not_matter(form):
    generator = np.random.default_rng(2)
    logits, values = batch(generator.normal(size=20), generator.integers(1, 5, 20).astype(float), np.arange(20) % 2)
    objective = build_objective(TARGET, "cox", **form)
    order = torch.from_numpy(generator.permutation(20))
    assert float(objective.loss(logits[order], values[order])) == pytest.approx(float(objective.loss(logits, values)))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_rows_without_values_are_as_if_they_were_not_there(form):
    generator = np.random.default_rng(2)
    logits, values = batch(generator.normal(size=8), generator.integers(1, 4, 8).astype(float), np.arange(8) % 2)
    objective = build_objective(TARGET, "cox", **form)
    padded = torch.cat([torch.full((2, 1), torch.nan), logits[:3], torch.full((1, 1), 40.0), logits[3:]])
    gaps = torch.cat([torch.full((2, 2), torch.nan), values[:3], torch.full((1, 2), torch.nan), values[3:]])
    padded.requires_grad_()
    loss = objective.loss(padded, gaps)
    assert loss.item() == pytest.approx(float(objective.loss(logits, values)), rel=1e-12)
    (slope,) = torch.autograd.grad(loss, padded)
    assert slope[[0, 1, 5]].abs().sum() == 0
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize("form", [{"name": "cox", **form} for form in FORMS] + [{"name": "discrete_hazard"}], ids=str)
@pytest.mark.parametrize("own_values", [True, False])
def test_many_models_at_once_are_each_by_itself(form, own_values):
    generator = np.random.default_rng(5)
    objective = build_objective(TARGET, **form)
    values = torch.tensor(
        np.stack([generator.integers(1, 5, (3, 9)), generator.random((3, 9)) < 0.6], -1), dtype=torch.float64
    )
    values = values if own_values else values[0]
    objective = objective.fitted(values.reshape(-1, 2).numpy())
    logits = torch.tensor(generator.normal(size=(3, 9, objective.n_outputs)), dtype=torch.float64)
    each = values if own_values else values.expand(3, 9, 2)
    expected = torch.stack([objective.loss(x, y) for x, y in zip(logits, each, strict=True)])
    slopes = torch.stack([grad(objective.loss)(x, y) for x, y in zip(logits, each, strict=True)])
    dims = (0, 0 if own_values else None)
    torch.testing.assert_close(vmap(objective.loss, dims)(logits, values), expected)
    torch.testing.assert_close(vmap(grad(objective.loss), dims)(logits, values), slopes)
    torch.testing.assert_close(objective.loss(logits, values), expected)  # axes in front, without vmap


def test_low_precision_logits_are_widened():
    logits, values = batch([0.1, 0.2, 0.3], [3.0, 2.0, 1.0], [1.0, 1.0, 0.0], torch.bfloat16)
    for name in ("cox", "discrete_hazard"):
        objective = build_objective(TARGET, name, **({} if name == "cox" else {"edges": [1.5, 2.0, 2.5]}))
        assert objective.loss(logits.expand(3, objective.n_outputs), values).dtype == torch.float32


def test_the_reference_is_not_ours_where_times_are_tied():
    logits, values = batch([0.3, 1.2, -0.4], [2.0, 2.0, 2.0], [1.0, 0.0, 1.0])
    reference = build_objective(TARGET, "cox", compat="histossl").terms(logits, values).sum()
    for ties in ("breslow", "efron"):
        assert float(build_objective(TARGET, "cox", ties=ties).terms(logits, values).sum()) != pytest.approx(
            float(reference)
        )


# ---- discrete hazards


def test_a_hazard_is_the_likelihood_of_what_happened():
    objective = build_objective(TARGET, "discrete_hazard", n_bins=3, edges=[2.0, 4.0])
    logits = torch.tensor([[0.2, -0.3, 0.9]], dtype=torch.float64)
    h = torch.sigmoid(logits[0])
    for time, event, likelihood in [
        (1.0, 1, h[0]),
        (1.9, 0, torch.tensor(1.0)),
        (2.0, 0, 1 - h[0]),
        (3.0, 1, (1 - h[0]) * h[1]),
        (9.0, 1, (1 - h[0]) * (1 - h[1]) * h[2]),
        (9.0, 0, (1 - h[0]) * (1 - h[1])),
    ]:
        values = torch.tensor([[time, event]], dtype=torch.float64)
        assert float(objective.loss(logits, values)) == pytest.approx(-float(likelihood.log()))


def test_bins_hold_equally_many_events_and_the_censored_do_not_count():
    values = np.array([[float(t), 1.0] for t in range(1, 101)] + [[1000.0, 0.0]] * 50)
    objective = build_objective(TARGET, "discrete_hazard").fitted(values)
    counts = np.bincount(np.searchsorted(objective.edges, values[:100, 0], side="right"))
    assert counts.tolist() == [25, 25, 25, 25]


def test_a_higher_hazard_is_a_higher_risk():
    objective = build_objective(TARGET, "discrete_hazard", edges=[1.0, 2.0, 3.0])
    logits = np.array([[-2.0] * 4, [0.0] * 4, [2.0] * 4, [-2.0, -2.0, 2.0, -2.0]])
    risk = objective.columns(logits)["risk"]
    assert risk[0] < risk[3] < risk[1] < risk[2]
    assert risk[1] == pytest.approx(-(0.5 + 0.25 + 0.125 + 0.0625))


def test_what_a_hazard_cannot_do_is_said():
    with pytest.raises(ConfigError, match="fitted"):
        build_objective(TARGET, "discrete_hazard").loss(torch.zeros(1, 4), torch.ones(1, 2))
    with pytest.raises(ConfigError, match="event"):
        build_objective(TARGET, "discrete_hazard").fitted(np.array([[1.0, 0.0]]))
    with pytest.raises(ConfigError, match="n_bins"):
        build_objective(TARGET, "discrete_hazard", n_bins=1)
    with pytest.raises(ConfigError, match="edges"):
        build_objective(TARGET, "discrete_hazard", n_bins=3, edges=[2.0, 1.0])
    with pytest.raises(ConfigError, match="ties"):
        build_objective(TARGET, "cox", ties="exact")
