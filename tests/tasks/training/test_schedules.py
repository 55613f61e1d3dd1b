import math

import pytest
import torch

from microtome.errors import ConfigError
from microtome.tasks.training.schedules import constant, cosine_warmup, step_lr


def rates(make, n):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = make(optimizer)
    found = []
    for _ in range(n):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_cosine_rises_over_the_warm_up_and_falls_to_nothing():
    found = rates(lambda o: cosine_warmup(o, 100, warmup=0.1), 101)
    assert found[:11] == pytest.approx([0.2 * i for i in range(11)])
    assert found[55] == pytest.approx(1.0)  # half-way down
    assert found[32] == pytest.approx(1 + math.cos(math.pi * 22 / 90))
    assert found[100] == pytest.approx(0, abs=1e-12)


def test_a_whole_number_is_steps_and_one_is_one_step():
    assert rates(lambda o: cosine_warmup(o, 10, warmup=4), 5) == pytest.approx([0, 0.5, 1, 1.5, 2])
    assert rates(lambda o: cosine_warmup(o, 10, warmup=1), 2) == pytest.approx([0, 2])
    assert rates(lambda o: cosine_warmup(o, 10, warmup=0), 1) == [2]


def test_more_than_half_a_wave_never_goes_below_nothing():
    assert min(rates(lambda o: cosine_warmup(o, 20, warmup=0, n_cycles=2.0), 20)) >= 0


def test_steps_down_by_epochs_or_steps():
    assert rates(lambda o: step_lr(o, step_size=2, gamma=0.5, unit="step"), 5) == [2, 2, 1, 1, 0.5]
    assert rates(lambda o: step_lr(o, step_size=1, gamma=0.5, steps_per_epoch=3), 7) == [2, 2, 2, 1, 1, 1, 0.5]


def test_constant_stays():
    assert rates(constant, 3) == [2, 2, 2]


@pytest.mark.parametrize("warmup", [-1, 1.5, -0.1])
def test_a_warm_up_that_makes_no_sense_is_refused(warmup):
    with pytest.raises(ConfigError, match="warmup"):
        rates(lambda o: cosine_warmup(o, 10, warmup=warmup), 1)


def test_a_step_size_that_makes_no_sense_is_refused():
    with pytest.raises(ConfigError, match="step_size"):
        rates(lambda o: step_lr(o, step_size=0), 1)
