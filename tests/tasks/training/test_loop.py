import dataclasses
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from microtome.errors import (
    ClaimedError,
    ConfigError,
    CorruptOutputError,
    MissingOutputError,
    RecipeMismatchError,
    TrainingError,
    WeightsError,
)
from microtome.storage import Claim, LineProgress
from microtome.tasks.training import StepResult, TrainingSettings, TrainingStoppedError, train
from microtome.tasks.training.checkpoint import Checkpoints, read_weights
from tests.tasks.training.tasks import N_ROWS, SETTINGS, Regression, weights

SCRIPT = Path(__file__).with_name("tasks.py")
REPOSITORY = Path(__file__).resolve().parents[3]
STEPS = 12  # 12 batches in threes of 5, 5 and 2, for four epochs


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Weights, logs and result of a training that nobody interrupted."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("unbroken")
    task = Regression()
    result = train(task, SETTINGS, folder)
    return folder, weights(task), result


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def assert_same_training(folder, unbroken):
    other, expected, result = unbroken
    assert_same(load_file(folder / "last.safetensors"), expected)
    assert_same(load_file(folder / "best.safetensors"), load_file(other / "best.safetensors"))
    for name in ("train.csv", "validation.csv"):
        assert (folder / name).read_text() == (other / name).read_text()
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in other.iterdir())
    again = train(Regression(), SETTINGS, folder)
    assert figures(again) == figures(result)


def figures(result):
    """What a training came to, as text: a metric that is not a number equals itself."""
    return repr(dataclasses.replace(result, last=None, best=None))


def test_training_lowers_the_loss_and_sees_every_row_once_an_epoch(unbroken):
    folder, _, result = unbroken
    table = pd.read_csv(folder / "validation.csv")
    assert table["mse"].iloc[-1] < 0.6 * table["mse"].iloc[0]
    task = Regression()
    train(task, dataclasses.replace(SETTINGS, n_epochs=2))
    assert sorted(task.seen) == sorted([*range(N_ROWS), *range(N_ROWS)])
    assert result.n_steps == STEPS
    assert result.n_epochs == 4


def test_without_a_folder_the_weights_are_the_same_and_nothing_is_written(unbroken, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = Regression()
    result = train(task, SETTINGS)
    assert_same(weights(task), unbroken[1])
    assert (result.last, result.best) == (None, None)
    assert figures(result) == figures(unbroken[2])
    assert list(tmp_path.iterdir()) == []


def test_one_step_is_that_of_torch():
    task = Regression(norm=False, dropout=0.0)
    train(task, dataclasses.replace(SETTINGS, n_epochs=1, accumulate=12, clip=None, monitor=None))
    other = Regression(norm=False, dropout=0.0)
    optimizer = other.optimizer()
    other.scheduler(optimizer, 1)
    ((other.net(other.x) - other.y) ** 2).mean().backward()
    optimizer.step()
    for a, b in zip(task.net.parameters(), other.net.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("accumulate", [1, 5])
def test_clipping_bounds_what_a_step_moves(accumulate):
    class Plain(Regression):
        def optimizer(self):
            return torch.optim.SGD(self.net.parameters(), lr=1.0)

        def scheduler(self, optimizer, n_steps):
            return None

    task = Plain(norm=False)
    before = torch.cat([p.detach().flatten().clone() for p in task.net.parameters()])
    train(task, TrainingSettings(n_epochs=1, accumulate=12, clip=0.01))
    after = torch.cat([p.detach().flatten() for p in task.net.parameters()])
    assert float((after - before).norm()) == pytest.approx(0.01, rel=1e-3)


def test_best_weights_are_those_of_the_best_validation(unbroken):
    folder, _, result = unbroken
    task = Regression()
    read_weights(folder / "best.safetensors", task.modules())
    task.net.eval()
    with torch.no_grad():
        assert task.validate(0)["mse"] == pytest.approx(result.best_metrics["mse"], abs=0)
    table = pd.read_csv(folder / "validation.csv")
    assert table["epoch"].iloc[int(table["mse"].argmin())] == result.best_epoch
    assert table["mse"].min() == result.best_metrics["mse"]


def test_the_callers_generators_are_left_alone():
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 - the global one is what is tested
    expected = (torch.rand(3), np.random.rand(3))  # noqa: NPY002 - as above
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 - the global one is what is tested
    task = Regression.__new__(Regression)
    state = torch.get_rng_state()
    Regression.__init__(task)
    torch.set_rng_state(state)
    train(task, dataclasses.replace(SETTINGS, n_epochs=1))
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])  # noqa: NPY002 - as above


class StopsAt(Regression):
    """Ctrl-C in the middle of a step."""

    def __init__(self, n_steps, **options):
        super().__init__(**options)
        self.stop_at = n_steps

    def step(self, batch):
        if self.n_steps + 1 == self.stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        return super().step(batch)


@pytest.mark.parametrize("at", [1, 4, 5, 12, 13, 29, 47, 48])
def test_after_ctrl_c_anywhere_it_goes_on_to_the_very_same_weights_and_logs(at, unbroken, tmp_path):
    with pytest.raises(TrainingStoppedError, match="goes on from there"):
        train(StopsAt(at), SETTINGS, tmp_path)
    assert (tmp_path / "state.pt").exists()
    assert not (tmp_path / "last.safetensors").exists()
    train(Regression(), SETTINGS, tmp_path)
    assert_same_training(tmp_path, unbroken)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_stopping_again_and_again_changes_nothing(unbroken, tmp_path):
    for at in (3, 9, 20, 23, 40):
        with pytest.raises(TrainingStoppedError):
            train(StopsAt(at), SETTINGS, tmp_path)
    train(Regression(), SETTINGS, tmp_path)
    assert_same_training(tmp_path, unbroken)


@pytest.mark.slow
@given(
    at=st.integers(1, 36),
    accumulate=st.integers(1, 13),
    validate_every=st.integers(1, 4),
    checkpoint_every=st.integers(1, 4),
    log_every=st.integers(1, 5),
)
@settings(deadline=None, max_examples=6)
def test_whatever_the_settings_a_stop_changes_nothing(at, tmp_path_factory, **cadence):
    chosen = dataclasses.replace(SETTINGS, n_epochs=3, checkpoint_every_steps=None, **cadence)
    whole, parts = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("parts")
    train(Regression(), chosen, whole)
    with pytest.raises(TrainingStoppedError):
        train(StopsAt(at), chosen, parts)
    train(Regression(), chosen, parts)
    for name in ("last.safetensors", "best.safetensors", "train.csv", "validation.csv"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_very_same_weights_and_logs(unbroken, tmp_path):
    steps = []
    for how in ("step 8", "rename 9", "step 20", "rename 6"):
        process = subprocess.run(
            [sys.executable, str(SCRIPT), str(tmp_path), *how.split()],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            check=False,
        )
        assert process.returncode == -signal.SIGKILL
        state = Checkpoints(tmp_path).read()
        steps.append(0 if state is None else state["position"]["step"])
    assert steps == sorted(steps)
    assert 0 == steps[0] < steps[1] < steps[2] < STEPS
    assert not (tmp_path / "last.safetensors").exists()
    train(Regression(), SETTINGS, tmp_path)
    assert_same_training(tmp_path, unbroken)


def test_a_finished_training_is_not_done_again(unbroken):
    folder, expected, result = unbroken
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    task = Regression()
    assert repr(train(task, SETTINGS, folder)) == repr(result)
    assert task.n_steps == 48  # its own state came back; no step was made
    assert task.seen == []
    assert_same(weights(task), expected)
    after = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert {k: v for k, v in before.items() if k != "training.json"} == {
        k: v for k, v in after.items() if k != "training.json"
    }


@pytest.mark.parametrize(
    ("change", "match"), [({"clip": 1.0}, "clip: 0.5 → 1.0"), ({"n_epochs": 5}, "n_epochs"), ({"seed": 8}, "seed")]
)
def test_another_training_in_the_folder_is_refused(unbroken, change, match):
    with pytest.raises(RecipeMismatchError, match=match):
        train(Regression(), dataclasses.replace(SETTINGS, **change), unbroken[0])


def test_another_task_in_the_folder_is_refused(unbroken):
    with pytest.raises(RecipeMismatchError, match="batch_size"):
        train(Regression(batch_size=8), SETTINGS, unbroken[0])


def test_what_changes_no_number_may_change(unbroken):
    again = train(Regression(), dataclasses.replace(SETTINGS, checkpoint_every=3), unbroken[0])
    assert repr(again) == repr(unbroken[2])


def test_other_modules_are_named(unbroken, tmp_path):
    with pytest.raises(TrainingStoppedError):
        train(StopsAt(20), SETTINGS, tmp_path)
    with pytest.raises(WeightsError, match="'net'"):
        train(Regression(norm=False), SETTINGS, tmp_path)


def test_weights_that_are_missing_damaged_or_of_others_are_named(unbroken, tmp_path):
    with pytest.raises(MissingOutputError, match="no weights"):
        read_weights(tmp_path / "last.safetensors", Regression().modules())
    (tmp_path / "last.safetensors").write_bytes(b"not weights")
    with pytest.raises(CorruptOutputError, match="cannot be read as weights"):
        read_weights(tmp_path / "last.safetensors", Regression().modules())
    with pytest.raises(WeightsError, match="'other'"):
        read_weights(unbroken[0] / "last.safetensors", {"other": Regression().net})
    with pytest.raises(WeightsError, match="other modules"):
        read_weights(unbroken[0] / "last.safetensors", {})


def test_a_damaged_checkpoint_is_named(tmp_path):
    with pytest.raises(TrainingStoppedError):
        train(StopsAt(20), SETTINGS, tmp_path)
    state = tmp_path / "state.pt"
    state.write_bytes(state.read_bytes()[:200])
    with pytest.raises(CorruptOutputError, match=r"state\.pt"):
        train(Regression(), SETTINGS, tmp_path)


def test_one_process_trains_in_a_folder(tmp_path):
    with Claim(tmp_path / "state.pt"), pytest.raises(ClaimedError):
        train(Regression(), SETTINGS, tmp_path)


@pytest.mark.parametrize("folder", [True, False])
def test_a_loss_that_is_not_finite_ends_it_and_says_where(tmp_path, folder):
    task = Regression(spoil=18)
    with pytest.raises(TrainingError, match=r"loss is nan at epoch 1, batch 5 \(step 4\)"):
        train(task, SETTINGS, tmp_path if folder else None)
    assert all(torch.isfinite(p).all() for p in task.net.parameters())
    if folder:
        saved = load_file(next(tmp_path.glob("last-*.safetensors")))
        assert all(torch.isfinite(value.float()).all() for value in saved.values())


class Overflowing(Regression):
    """A finite loss whose gradient is not."""

    def step(self, batch):
        result = super().step(batch)
        zero = sum((p * 0).sum() for p in self.net.parameters())
        assert isinstance(zero, torch.Tensor)
        return StepResult(result.loss + (zero.sqrt() if self.n_steps == 48 else zero), result.logs)


def test_a_gradient_that_is_not_finite_ends_it():
    with pytest.raises(TrainingError, match="gradient"):
        train(Overflowing(norm=False), SETTINGS)


def test_weights_that_are_not_finite_are_never_written(tmp_path):
    settings = dataclasses.replace(SETTINGS, clip=None, monitor=None)
    with pytest.raises(TrainingError, match=r"weights 'net\."):
        train(Overflowing(norm=False), settings, tmp_path)
    assert not (tmp_path / "last.safetensors").exists()


def test_going_backward_in_parts_is_the_same_as_at_once():
    class InParts(Regression):
        def step(self, batch):
            total = torch.zeros(())
            for row in batch:
                loss = ((self.net(self.x[row][None]) - self.y[row]) ** 2).sum() / len(batch)
                self.backward(loss)
                total += loss.detach()
            return StepResult(total)

    settings = dataclasses.replace(SETTINGS, clip=None)
    one, other = Regression(norm=False, dropout=0.0), InParts(norm=False, dropout=0.0)
    train(one, settings)
    train(other, settings)
    for a, b in zip(one.net.parameters(), other.net.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_bf16_computes_in_bf16_and_keeps_weights_in_fp32():
    kinds = set()

    class Looking(Regression):
        def step(self, batch):
            result = super().step(batch)
            kinds.add(self.net(self.x).dtype)
            return result

    task = Looking(norm=False)
    train(task, dataclasses.replace(SETTINGS, precision="bf16", n_epochs=1))
    assert kinds == {torch.bfloat16}
    assert task.net[0].weight.dtype == torch.float32


def test_fp16_is_refused_on_a_cpu():
    with pytest.raises(ConfigError, match="fp16 is for GPUs"):
        train(Regression(), dataclasses.replace(SETTINGS, precision="fp16"))


def test_patience_ends_it_early(tmp_path):
    class Worsening(Regression):
        def validate(self, epoch):
            return {"mse": [3.0, 2.0, float("nan"), 2.5, 1.0][epoch]}

    settings = dataclasses.replace(SETTINGS, n_epochs=5, patience=2)
    result = train(Worsening(), settings, tmp_path)
    assert (result.n_epochs, result.best_epoch, result.best_metrics) == (4, 1, {"mse": 2.0})


@pytest.mark.parametrize(("every", "epochs"), [(0, []), (1, [0, 1, 2, 3]), (3, [2, 3])])
def test_validation_comes_when_it_is_due(every, epochs):
    seen = []

    class Counting(Regression):
        def validate(self, epoch):
            seen.append((epoch, self.net.training, torch.is_grad_enabled()))
            return {}

    train(Counting(), dataclasses.replace(SETTINGS, validate_every=every, monitor=None))
    assert seen == [(epoch, False, False) for epoch in epochs]


def test_a_monitor_that_is_no_metric_is_named():
    with pytest.raises(ConfigError, match="monitor='auroc' is not a metric of this task; it has mse"):
        train(Regression(), dataclasses.replace(SETTINGS, monitor="auroc"))


def test_frozen_modules_can_stay_in_evaluation_mode():
    class Frozen(Regression):
        def begin_epoch(self, epoch):
            self.net[1].eval()

    task = Frozen()
    train(task, dataclasses.replace(SETTINGS, validate_every=1))
    assert task.net[1].num_batches_tracked == 0


@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_wrong_number_of_batches_is_noticed(wrong):
    class Wrong(Regression):
        def n_batches(self):
            return 12 + wrong

        def batches(self, epoch, start):
            return [np.arange(4)] * 12

    with pytest.raises(ConfigError, match="said that an epoch has"):
        train(Wrong(), SETTINGS)


def test_nothing_to_train_is_named():
    class Empty(Regression):
        def modules(self):
            return {"net": nn.Identity()}

    with pytest.raises(ConfigError, match="nothing to train"):
        train(Empty(), SETTINGS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_epochs": 0},
        {"accumulate": 0},
        {"clip": 0.0},
        {"clip": float("nan")},
        {"validate_every": -1},
        {"patience": 3},
        {"monitor": "mse", "validate_every": 0},
        {"log_every": 0},
        {"checkpoint_every_steps": 0},
        {"seed": -1},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError):
        TrainingSettings(**{"n_epochs": 1, **wrong})


def test_progress_tells_steps_and_pace():
    said: list[str] = []

    class Stream:
        def write(self, text, /):
            said.append(text)

        def flush(self):
            pass

        def isatty(self):
            return False

    train(Regression(), dataclasses.replace(SETTINGS, n_epochs=1), progress=LineProgress(Stream(), every_s=0))
    assert said[1].startswith("train: 2/3 steps, ")
    assert "steps/s" in said[1]
    assert "left" in said[1]


def test_it_trains_in_a_thread_too(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(train(Regression(), SETTINGS, tmp_path)))
    thread.start()
    thread.join()
    assert results[0].n_steps == STEPS


def test_tensorboard_says_every_step_once_after_a_resumption(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = dataclasses.replace(SETTINGS, tensorboard=True)
    with pytest.raises(TrainingStoppedError):
        train(StopsAt(29), settings, tmp_path)
    train(Regression(), settings, tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("validation/mse")] == [3, 6, 9, 12]
    table = pd.read_csv(tmp_path / "train.csv")
    assert [event.step for event in events.Scalars("train/loss")] == table["step"].tolist()
    found = [event.value for event in events.Scalars("train/loss")]
    assert found == pytest.approx(table["loss"].tolist(), rel=1e-6)
