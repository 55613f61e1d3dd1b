import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from microtome.tasks.mil.stacked_order import batches_of, plan_packs
from microtome.tasks.training.order import epoch_order


@st.composite
def cohorts(draw):
    m, n = draw(st.integers(1, 5)), draw(st.integers(1, 20))
    members = np.array(draw(st.lists(st.booleans(), min_size=m * n, max_size=m * n))).reshape(m, n)
    sizes = draw(st.lists(st.one_of(st.none(), st.integers(1, 6)), min_size=m, max_size=m))
    lengths = np.array(draw(st.lists(st.integers(1, 50), min_size=n, max_size=n)), np.int64)
    return members, sizes, lengths, epoch_order(n, seed=draw(st.integers(0, 99)), epoch=draw(st.integers(0, 9)))


def test_every_epoch_has_an_order_of_its_own():
    orders = [tuple(epoch_order(30, seed=seed, epoch=epoch)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4
    assert all(sorted(order) == list(range(30)) for order in orders)
    assert orders[0] == tuple(epoch_order(30, seed=0, epoch=0))


@given(cohorts())
def test_each_model_takes_its_members_in_order_in_whole_batches(cohort):
    members, sizes, _, order = cohort
    batches = batches_of(order, members, sizes)
    for model, size in enumerate(sizes):
        own = [row for row in order if members[model, row]]
        full = len(own) if size is None else min(size, len(own))
        n_steps = len(own) // full if own else 0
        taken = [row for row in order if batches.weights[model, row] > 0]
        assert taken == own[: n_steps * full]
        assert np.flatnonzero(batches.due[model]).tolist() == sorted(taken[full - 1 :: full] if own else [])
        assert np.isclose(batches.weights[model].sum(), n_steps)


@given(cohorts(), st.sampled_from([0, 30, 10_000]))
def test_packs_hold_every_bag_once_and_nobody_steps_within(cohort, launch):
    members, sizes, lengths, order = cohort
    batches = batches_of(order, members, sizes)
    seen = batches.weights > 0
    done: list[list[int]] = [[] for _ in sizes]
    for plan in plan_packs(order, seen, batches.due, lengths, launch):
        assert seen[:, list(plan.rows)].any(axis=0).all()
        assert list(plan.models) == np.flatnonzero(seen[:, list(plan.rows)].any(axis=1)).tolist()
        for model in range(len(sizes)):
            own = [row for row in plan.rows if seen[model, row]]
            steps = [row for row in own if batches.due[model, row]]
            assert steps in ([], own[-1:])
            assert (model in plan.due) == bool(steps)
            done[model] += own
    assert done == [[row for row in order if seen[model, row]] for model in range(len(sizes))]


@given(cohorts())
def test_without_a_cost_of_starting_nothing_is_computed_in_vain(cohort):
    members, sizes, lengths, order = cohort
    seen = batches_of(order, members, sizes).weights > 0
    for plan in plan_packs(order, seen, None, lengths, 0):
        assert seen[np.ix_(plan.models, plan.rows)].all()
