"""Models trained together against the same models alone, and against a loop of plain PyTorch."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from microtome.cohort.targets import Target
from microtome.errors import ConfigError, RecipeMismatchError, TrainingError
from microtome.features.store import FeatureStore
from microtome.models.objectives import build_objective
from microtome.storage import QuietProgress
from microtome.tasks.mil.bags import open_bags
from microtome.tasks.mil.jobs import Hyper, ModelSpec, TrainJob
from microtome.tasks.mil.stacked import initial_model
from microtome.tasks.mil.train_jobs import choose_machine, train_jobs, why_one_by_one
from microtome.tasks.training.order import epoch_order
from tests.tasks.mil.bag_stores import BINARY, LENGTHS, labels_of, planted, write_bag

THREE = Target("kind", "multiclass", ("kind",), ("a", "b", "c"))
SURVIVAL = Target("os", "survival", ("time", "event"))
VALUE = Target("age", "regression", ("age",))
BATCHED: dict[str, dict[str, Any]] = {
    "meanpool": {"hidden": [5]},
    "chowder": {"n_top": 3, "n_bottom": 2},
    "abmil": {"dim": 8, "temperature": 0.7},
    "dsmil": {"hidden": [9, 5], "n_queries": 4},
    "clam_sb": {},
    "clam_mb": {"subtyping": True, "instance_loss": "ce"},
}
N = len(LENGTHS)


def jobs_of(n_epochs=3, batch_size=3, *, slower=1, **more):
    """Models with different members, rates, decays, seeds and numbers of epochs."""
    jobs = []
    for fold in range(3):
        test = np.arange(fold, N, 3)
        train = np.setdiff1d(np.arange(N), test)
        for rate, decay in ((1e-2, 0.0), (1e-3, 1e-1)):
            hyper = Hyper(rate / slower, decay, n_epochs + (fold == 2), batch_size + fold, seed=fold % 2, **more)
            jobs.append(TrainJob(f"{fold}-{rate}-{decay}", train, test, hyper))
    return jobs


def run(jobs, material, name, *, precision="fp32", target=BINARY, objective=None, **options):
    spec = ModelSpec(name, options.pop("spec", BATCHED.get(name, {})))
    bags, labels = material
    return train_jobs(
        jobs, bags, labels, spec, build_objective(target, objective), device="cpu", precision=precision, **options
    )


def centred(logits, axis):
    """Logits less what an objective cannot see: what all classes, or all subjects of a risk set, have in common.

    Its gradient is zero but for rounding, and Adam makes steps of any gradient.
    """
    return logits if axis is None else logits - logits.mean(axis=axis, keepdims=True)


def assert_same(a, b, atol=1e-3, axis=None):
    for x, y in zip(a, b, strict=True):
        assert x.key == y.key
        np.testing.assert_allclose(centred(x.logits, axis), centred(y.logits, axis), atol=atol, rtol=0)
        np.testing.assert_allclose(x.train_loss, y.train_loss, atol=atol, rtol=0)


def by_hand(job, material, spec, objective):
    """Padded batches, autograd, torch's Adam."""
    bags, labels = material
    values = torch.from_numpy(labels.values).float()
    model = initial_model(spec, bags.n_features, objective.n_outputs, job.hyper.seed)
    optimizer = torch.optim.Adam(model.parameters(), job.hyper.learning_rate, weight_decay=job.hyper.weight_decay)
    fitted = objective.fitted(labels.values[job.train])
    logits, losses = [], []
    for epoch in range(job.hyper.n_epochs):
        order = epoch_order(len(labels), seed=0, epoch=epoch)
        own = order[np.isin(order, job.train)]
        size = job.hyper.batch_size if objective.per_bag else job.hyper.risk_batch or len(own)
        size, of_steps = min(size, len(own)), []
        for rows in own[: len(own) // size * size].reshape(-1, size):
            optimizer.zero_grad()
            loss = fitted.loss(model(*padded(bags, rows)).logits, values[rows])
            loss.backward()
            optimizer.step()
            of_steps.append(loss.item())
        with torch.no_grad():
            logits.append(model.eval()(*padded(bags, job.test)).logits.numpy())
        losses.append(np.mean(of_steps))
    return np.stack(logits), np.array(losses)


def padded(bags, rows):
    each = [torch.from_numpy(np.array(bags.read(int(row)))) for row in rows]
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(bag), dtype=torch.bool) for bag in each], batch_first=True)
    return torch.nn.utils.rnn.pad_sequence(each, batch_first=True), mask


@pytest.mark.parametrize("name", list(BATCHED))
def test_together_is_alone(tmp_path, name):
    material = planted(tmp_path)
    assert why_one_by_one(ModelSpec(name)) is None
    together = run(jobs_of(), material, name, together=True)
    assert_same(together, run(jobs_of(), material, name, together=False))
    assert_same(together[3:4], run(jobs_of()[3:4], material, name))
    assert [r.logits.shape for r in together] == [(3, 4, 1)] * 4 + [(4, 4, 1)] * 2
    moved = [np.abs(r.logits[-1] - r.logits[0]).max() for r in together]
    assert min(moved) > 1e-4


@pytest.mark.parametrize("name", [name for name in BATCHED if "clam" not in name])
def test_together_is_what_plain_pytorch_gives(tmp_path, name):
    material, spec = planted(tmp_path), ModelSpec(name, BATCHED[name])
    for job, result in zip(jobs_of(), run(jobs_of(), material, name), strict=True):
        logits, losses = by_hand(job, material, spec, build_objective(BINARY))
        np.testing.assert_allclose(result.logits, logits, atol=1e-3)
        np.testing.assert_allclose(result.train_loss, losses, atol=1e-3)


def test_clam_without_its_instance_loss_and_dropout_is_what_plain_pytorch_gives(tmp_path):
    material, options = planted(tmp_path), {"dropout": 0.0, "instance_weight": 0.0}
    results = run(jobs_of(), material, "clam_sb", spec=options)
    for job, result in zip(jobs_of(), results, strict=True):
        logits, _ = by_hand(job, material, ModelSpec("clam_sb", options), build_objective(BINARY))
        np.testing.assert_allclose(result.logits, logits, atol=1e-3)


@pytest.mark.parametrize("name", list(BATCHED))
def test_several_outputs(tmp_path, name):
    material = planted(tmp_path, np.arange(N) % 3, THREE)
    together = run(jobs_of(2), material, name, target=THREE)
    assert_same(together, run(jobs_of(2), material, name, target=THREE, together=False), axis=2)
    assert together[0].logits.shape == (2, 4, 3)


def test_instance_loss_of_clam_counts_by_its_weight(tmp_path):
    material, losses = planted(tmp_path), {}
    for weight in (0.0, 0.3, 0.6):
        spec = {"dropout": 0.0, "instance_weight": weight}
        job = replace(jobs_of()[0], hyper=Hyper(1e-12, 0, 1, 8))
        (result,) = run([job], material, "clam_mb", spec=spec)
        losses[weight] = float(result.train_loss[0])
    assert losses[0.6] - losses[0.3] == pytest.approx(losses[0.3] - losses[0.0], abs=1e-5)
    assert abs(losses[0.3] - losses[0.0]) > 1e-3
    default = run([job], material, "clam_mb", spec={"dropout": 0.0})
    assert float(default[0].train_loss[0]) == pytest.approx(losses[0.3], abs=1e-6)
    with pytest.raises(ConfigError, match="instance loss"):
        run([job], planted(tmp_path / "v", np.arange(N), VALUE), "clam_sb", target=VALUE, spec={"instance_weight": 0.3})


@pytest.mark.parametrize("risk_batch", [None, 4])
def test_cox_sees_its_whole_risk_set(tmp_path, risk_batch):
    rng = np.random.default_rng(3)
    values = np.stack([rng.integers(1, 9, N), rng.random(N) < 0.7], axis=1)
    material, jobs = planted(tmp_path, values, SURVIVAL), jobs_of(risk_batch=risk_batch, slower=10)
    together = run(jobs, material, "abmil", target=SURVIVAL)
    assert_same(together, run(jobs, material, "abmil", target=SURVIVAL, together=False), axis=1)
    for job, result in zip(jobs, together, strict=True):
        logits, losses = by_hand(job, material, ModelSpec("abmil", BATCHED["abmil"]), build_objective(SURVIVAL))
        np.testing.assert_allclose(centred(result.logits, 1), centred(logits, 1), atol=1e-3)
        np.testing.assert_allclose(result.train_loss, losses, atol=1e-3)


@pytest.mark.parametrize(("target", "objective"), [(SURVIVAL, "discrete_hazard"), (VALUE, None)])
def test_objectives_that_learn_from_the_training_rows(tmp_path, target, objective):
    rng = np.random.default_rng(3)
    values = np.stack([rng.integers(1, 90, N), rng.random(N) < 0.7], axis=1)[:, : 1 + (target is SURVIVAL)]
    material = planted(tmp_path, values, target)
    together = run(jobs_of(), material, "abmil", target=target, objective=objective)
    assert len({json.dumps(dict(result.objective), default=str) for result in together}) == 3
    for job, result in zip(jobs_of(), together, strict=True):
        logits, _ = by_hand(job, material, ModelSpec("abmil", BATCHED["abmil"]), build_objective(target, objective))
        np.testing.assert_allclose(result.logits, logits, atol=1e-3)


@pytest.mark.parametrize("name", ["transmil", "hiptmil"])
def test_models_that_cannot_be_stacked_say_so(tmp_path, name):
    class Notes(QuietProgress):
        said: list[str] = []

        def note(self, text):
            self.said.append(text)

    material, notes = planted(tmp_path, d=8), Notes()
    small = {"transmil": {"dim": 8, "n_heads": 2, "dropout": 0.2}, "hiptmil": {"dim": 12}}[name]
    results = run(jobs_of(1)[:2], material, name, spec=small, progress=notes)
    assert "one after the other" in notes.said[-1]
    assert name in str(why_one_by_one(ModelSpec(name)))
    again = run(jobs_of(1)[:2], material, name, spec=small)
    assert_same(results, again, atol=0)
    with pytest.raises(ConfigError, match="together=True"):
        run(jobs_of(1)[:2], material, name, spec=small, together=True)


def test_draws_of_instances(tmp_path):
    planted(tmp_path)
    bags, labels = open_bags(tmp_path, labels_of([f"s{i:02d}" for i in range(N)], np.arange(N) % 2), max_instances=5)
    together = run(jobs_of(), (bags, labels), "abmil")
    assert_same(together, run(jobs_of(), (bags, labels), "abmil", together=False))
    every = run(jobs_of(), planted(tmp_path / "all"), "abmil")
    assert np.abs(together[0].logits - every[0].logits).max() > 1e-3


def test_bf16_is_near_fp32(tmp_path):
    material, jobs = planted(tmp_path), [replace(job, hyper=Hyper(1e-3, 0, 2, 4)) for job in jobs_of()]
    for name in BATCHED:
        exact = run(jobs, material, name, spec={**BATCHED[name], **({"dropout": 0.0} if "clam" in name else {})})
        near = run(
            jobs,
            material,
            name,
            precision="bf16",
            spec={**BATCHED[name], **({"dropout": 0.0} if "clam" in name else {})},
        )
        assert_same(exact, near, atol=0.05)
    assert choose_machine("cpu", "bf16").precision == "bf16"


def test_what_came_of_it_is_the_model(tmp_path):
    bags, labels = material = planted(tmp_path)
    (result, *_) = run(jobs_of(), material, "abmil")
    model = initial_model(ModelSpec("abmil", BATCHED["abmil"]), bags.n_features, 1, 99)
    model.load_state_dict(dict(result.state))
    with torch.no_grad():
        logits = model(*padded(bags, jobs_of()[0].test)).logits.numpy()
    np.testing.assert_allclose(logits, result.logits[-1], atol=1e-5)
    assert len(labels) == N


def test_a_planted_signal_is_learnt(tmp_path):
    jobs = [replace(job, hyper=Hyper(1e-2, 0, 30, 4)) for job in jobs_of()[:1]]
    bags, labels = planted(tmp_path, lengths=(6,) * 48, values=np.arange(48) % 2)
    job = TrainJob("a", np.arange(36), np.arange(36, 48), jobs[0].hyper)
    (result,) = run([job], (bags, labels), "abmil", precision="auto")
    right = (result.logits[-1, :, 0] > 0) == (labels.values[job.test, 0] > 0)
    assert right.mean() >= 0.9
    assert result.train_loss[-1] < 0.3 < result.train_loss[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": np.array([], np.int64)}, "no row to train on"),
        ({"train": np.array([0, 0])}, "names a row twice"),
        ({"test": np.array([N])}, "not among"),
        ({"hyper": Hyper(n_epochs=0)}, "n_epochs"),
        ({"hyper": Hyper(learning_rate=0.0)}, "learning rate"),
        ({"key": "1"}, "one key"),
    ],
)
def test_jobs_that_cannot_be(tmp_path, change, said):
    job = TrainJob("0", np.arange(4), np.arange(4, 8))
    with pytest.raises(ConfigError, match=said):
        run([replace(job, **change), replace(job, key="1")], planted(tmp_path), "abmil")


def test_a_model_that_diverges_is_named(tmp_path):
    store = FeatureStore(tmp_path)
    for i in range(4):
        write_bag(store, f"s{i}", np.full((2, 3), 3e38, np.float32))
    material = open_bags(store, labels_of([f"s{i}" for i in range(4)], [0, 1, 0, 1]))
    job = TrainJob("wild", np.arange(3), np.arange(3, 4), Hyper(1.0, 0, 3))
    with pytest.raises(TrainingError):
        run([job], material, "meanpool", spec={})


def test_no_test_rows_and_fewer_bags_than_a_batch(tmp_path):
    job = TrainJob("all", np.arange(3), np.array([], np.int64), Hyper(1e-2, 0, 2, 16))
    (result,) = run([job], planted(tmp_path), "abmil")
    assert result.logits.shape == (2, 0, 1)
    assert result.train_loss[1] != result.train_loss[0]


def test_finished_jobs_are_read_and_others_refused(tmp_path):
    material, folder, epochs = planted(tmp_path / "features"), tmp_path / "run", []

    def counted(done, total):
        epochs.append((done, total))

    first = run(jobs_of()[:4], material, "abmil", folder=folder, on_epoch=counted)
    assert epochs == [(1, 3), (2, 3), (3, 3)]
    assert not (folder / "under_way").exists()
    epochs.clear()
    second = run(jobs_of(), material, "abmil", folder=folder, on_epoch=counted)
    assert epochs == [(i + 1, 4) for i in range(4)]
    assert_same(first, second[:4], atol=0)
    for a, b in zip(first, second, strict=False):
        assert a.state.keys() == b.state.keys()
        assert all(torch.equal(a.state[name], b.state[name]) for name in a.state)
        assert a.objective == b.objective
    changed = [replace(jobs_of()[0], hyper=Hyper(5e-2))]
    with pytest.raises(RecipeMismatchError, match=r"hyper_learning_rate: 0\.01 → 0\.05"):
        run(changed, material, "abmil", folder=folder)


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    from tests.tasks.mil import test_train_jobs as t
    from microtome.tasks.mil.bags import open_bags
    folder, die_at = Path(sys.argv[1]), int(sys.argv[2])
    labels = t.labels_of([f"s{i:02d}" for i in range(t.N)], t.np.arange(t.N) % 2)
    def on_epoch(done, total):
        if done == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
    t.run(t.jobs_of(), open_bags(folder / "features", labels), "clam_sb", folder=folder / "run", on_epoch=on_epoch)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_and_comes_to_the_same(tmp_path):
    material = planted(tmp_path / "features")
    for die_at in (2, 4):
        command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path), str(die_at)]
        died = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": "."}, capture_output=True, text=True, check=False
        )
        assert died.returncode == -signal.SIGKILL, died.stderr
    time.sleep(0.01)
    epochs = []
    resumed = run(jobs_of(), material, "clam_sb", folder=tmp_path / "run", on_epoch=lambda done, _: epochs.append(done))
    assert epochs[0] > 2
    assert epochs[-1] == 4
    straight = run(jobs_of(), material, "clam_sb")
    assert_same(resumed, straight, atol=0)
