"""Two processes hold their views against each other's, as one would that has the joint batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from microtome.tasks.training import train
from tests.tasks.pretrain.joint import LOOP, tasks
from tests.tasks.pretrain.material import weights, write_tokens

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_two_processes_end_with_the_weights_of_one(tmp_path, free_port):
    script = Path(__file__).with_name("joint.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
    command += [f"--master-port={free_port}", str(script), str(tmp_path / "tokens"), str(tmp_path)]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=True, timeout=400)
    for name, task in tasks(write_tokens(tmp_path / "tokens" / "0", n_patients=4), 1).items():
        start = weights(task)
        train(task, LOOP)
        first, second = (torch.load(tmp_path / f"{name}-{rank}.pt") for rank in range(2))
        moved = 0.0
        for key, value in weights(task).items():
            torch.testing.assert_close(first[key], second[key], rtol=0, atol=0)
            torch.testing.assert_close(first[key], value, rtol=1e-4, atol=1e-6)
            moved = max(moved, float((value - start[key]).abs().max()))
        assert moved > 1e-4
