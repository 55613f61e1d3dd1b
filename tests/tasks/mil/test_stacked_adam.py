import numpy as np
import torch
from torch import nn

from microtome.tasks.mil.stacked_adam import StackedAdam, rows_of


def test_equals_torch_for_models_that_step_at_different_times():
    rng = np.random.default_rng(0)
    start, rates, decays = (
        torch.randn(4, 7, generator=torch.Generator().manual_seed(0)),
        [1e-1, 1e-2, 1e-3, 1e-2],
        [0, 0.1, 0, 1],
    )
    table = nn.Parameter(start.clone())
    used = torch.tensor([1.0, 1, 1, 0, 1, 1, 1])
    ours = StackedAdam(table, rates, decays, used)
    alone = [nn.Parameter(start[i, used > 0].clone()) for i in range(4)]
    theirs = [torch.optim.Adam([p], lr=rates[i], weight_decay=decays[i]) for i, p in enumerate(alone)]
    for _ in range(30):
        due = np.flatnonzero(rng.random(4) < 0.6).tolist()
        gradients = torch.from_numpy(rng.normal(size=(len(due), 7))).float()
        for part in (0.25, 0.75):
            if due:
                ours.add(due, part * gradients)
        ours.step_models(due)
        for i, gradient in zip(due, gradients, strict=True):
            alone[i].grad = gradient[used > 0].clone()
            theirs[i].step()
        ours.step()
    for i, parameter in enumerate(alone):
        torch.testing.assert_close(table.data[i, used > 0], parameter.data, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(table.data[:, 3], start[:, 3], rtol=0, atol=0)


def test_goes_on_from_its_state():
    def fresh():
        return StackedAdam(nn.Parameter(torch.ones(2, 3)), [0.1, 0.1], [0, 0], torch.ones(3))

    first = fresh()
    first.add([0, 1], torch.ones(2, 3))
    first.step_models([0])
    second = fresh()
    second.table.data.copy_(first.table.data)
    second.gradients.copy_(first.gradients)
    second.load_state_dict(first.state_dict())
    for each in (first, second):
        each.add([0, 1], torch.full((2, 3), 0.5))
        each.step_models([0, 1])
    assert torch.equal(first.table, second.table)


def test_rows_that_follow_each_other_are_a_view():
    table = torch.arange(12).reshape(4, 3)
    assert rows_of(table, [1, 2]).data_ptr() == table[1].data_ptr()
    assert rows_of(table, [0, 2]).tolist() == [[0, 1, 2], [6, 7, 8]]
