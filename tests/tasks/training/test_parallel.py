import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from microtome.errors import ConfigError, RecipeMismatchError
from microtome.tasks.training import train
from microtome.tasks.training.order import batch_rows, epoch_order, n_joint_batches
from microtome.tasks.training.parallel import Ranks, ranks
from tests.tasks.training.tasks import JOINT, joint_task, weights

SCRIPT = Path(__file__).with_name("tasks.py")
REPOSITORY = Path(__file__).resolve().parents[3]


def torchrun(folder, stop_at, port):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--master-addr=127.0.0.1", f"--master-port={port}", str(SCRIPT), str(folder), "joint", str(stop_at)]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=True, timeout=200)


@pytest.mark.slow
def test_two_processes_stopped_and_resumed_end_with_the_weights_of_one(tmp_path, free_port):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    one = joint_task()
    result = train(one, JOINT)
    torch.set_num_threads(before)
    folder = tmp_path / "joint"
    torchrun(folder, 5, free_port)
    assert (folder / "state.pt").exists()
    assert not (folder / "last.safetensors").exists()
    torchrun(folder, 0, free_port)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for key, value in weights(one).items():
        assert torch.equal(first[key], second[key])
        torch.testing.assert_close(first[key], value, rtol=1e-4, atol=1e-6)
    with pytest.raises(RecipeMismatchError, match="processes: 2 → 1"):
        train(joint_task(), JOINT, folder)
    assert result.n_steps == 9
    assert len((folder / "validation.csv").read_text().splitlines()) == 1 + JOINT.n_epochs  # written by one of them


@given(st.integers(1, 200), st.integers(1, 8), st.integers(1, 4), st.integers(0, 3))
def test_the_processes_share_out_what_one_would_do(n, batch_size, world, epoch):
    if n < batch_size * world:
        with pytest.raises(ConfigError, match="do not fill"):
            n_joint_batches(n, batch_size, Ranks(0, world))
        return
    order = epoch_order(n, seed=3, epoch=epoch)
    for number in range(n_joint_batches(n, batch_size, Ranks(0, world))):
        parts = [batch_rows(order, number, batch_size, Ranks(rank, world)) for rank in range(world)]
        assert {len(part) for part in parts} == {batch_size}
        assert np.array_equal(np.concatenate(parts), batch_rows(order, number, batch_size * world))


def test_epochs_have_orders_of_their_own():
    assert not np.array_equal(epoch_order(50, seed=0, epoch=0), epoch_order(50, seed=0, epoch=1))
    assert not np.array_equal(epoch_order(50, seed=0, epoch=0), epoch_order(50, seed=1, epoch=0))
    assert np.array_equal(epoch_order(50, seed=0, epoch=1), epoch_order(50, seed=0, epoch=1))


def test_alone_where_nobody_says_otherwise(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert ranks() == Ranks(0, 1, 0)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert ranks() == Ranks(3, 4, 1)


@pytest.mark.parametrize(("name", "value"), [("RANK", "2"), ("RANK", "-1"), ("WORLD_SIZE", "two"), ("WORLD_SIZE", "0")])
def test_an_environment_that_contradicts_itself_is_refused(monkeypatch, name, value):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=name):
        ranks()
