"""Stage 1, with a network without depth where the network is not what is tested."""

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
import torch

from microtome.errors import CohortError, ConfigError
from microtome.models.losses import hierarchical_contrastive
from microtome.tasks.pretrain.augment import Augment
from microtome.tasks.pretrain.hidisc import HiDiscSettings, HiDiscTask
from microtome.tasks.pretrain.optimisers import OptimiserSettings
from microtome.tasks.pretrain.patches import PatchPatient, PatchViews
from microtome.tasks.training import TrainingSettings, train
from tests.tasks.pretrain.material import Stopped, patients, stop_after, weights

VIEWS = PatchViews(crop_px=32, augment=Augment(("flip", "noise"), 0.5))
QUICK = HiDiscSettings(batch_size=3, optimiser=OptimiserSettings(learning_rate=0.01))


def loss_of(task, batch):
    with torch.no_grad():
        return float(task.step(batch).loss)


def hidisc(n=9, *, valid=(), views=VIEWS, **settings):
    return HiDiscTask(patients(n), views, dataclasses.replace(QUICK, **settings), valid=valid)


@pytest.mark.usefixtures("tiny")
def test_batches_follow_from_seed_epoch_and_place_alone():
    task = hidisc()
    expected = [list(task.batches(epoch, 0)) for epoch in (0, 1)]
    assert [len(batches) for batches in expected] == [task.n_batches()] * 2
    assert not torch.equal(expected[0][0], expected[1][0])
    later = list(hidisc(workers=3).batches(1, 2))
    for a, b in zip(later, expected[1][2:], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    other = next(iter(hidisc(seed=1).batches(0, 0)))
    assert not torch.equal(other, expected[0][0])


@pytest.mark.usefixtures("tiny")
def test_rare_diagnoses_come_as_often_as_common_ones_unless_told_otherwise():
    """Three of nine patients are normal: balanced, an epoch has six of each diagnosis."""
    assert hidisc().n_batches() == 4
    assert hidisc(balance=False).n_batches() == 3
    task = hidisc()
    labels = [patient.label for patient in patients(9)]
    assert Counter(labels[row] for row in task._order(3)) == {"normal": 6, "hgg": 6}


@pytest.mark.usefixtures("tiny")
def test_the_loss_is_that_of_the_three_levels_on_vectors_of_length_one():
    task = hidisc(levels=(1.0, 0.5, 0.0))
    batch = next(iter(task.batches(0, 0)))
    found = task.step(batch)
    vectors = task.projection(task.encoder(batch.flatten(0, 3))).reshape(3, 2, 2, 2, -1)
    losses = hierarchical_contrastive(vectors / vectors.norm(dim=-1, keepdim=True))
    assert float(found.loss.detach()) == pytest.approx(float((losses.patient + 0.5 * losses.slide).detach()), rel=1e-5)
    assert float(found.logs["patch_loss"]) == pytest.approx(float(losses.patch.detach()), rel=1e-5)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("loss", ["hidisc", "simclr"])
def test_training_lowers_the_loss(loss):
    task = hidisc(loss=loss, views=dataclasses.replace(VIEWS, augment=Augment((), 0)))
    batch = next(iter(task.batches(0, 0)))
    before = loss_of(task, batch)
    train(task, TrainingSettings(n_epochs=10))
    assert loss_of(task, batch) < before - 0.05


@pytest.mark.usefixtures("tiny")
def test_simclr_knows_no_patients():
    task = hidisc(loss="simclr")
    batch = next(iter(task.batches(0, 0)))
    mixed = batch[torch.tensor([2, 0, 1])].transpose(1, 2)  # other patients, slides as patches
    assert loss_of(task, batch) == pytest.approx(loss_of(task, mixed), rel=1e-5)
    assert loss_of(hidisc(), batch) != pytest.approx(loss_of(hidisc(), mixed), rel=1e-4)


@pytest.mark.usefixtures("tiny")
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path):
    settings = TrainingSettings(n_epochs=3, checkpoint_every_steps=1, tensorboard=False)
    whole = hidisc()
    train(whole, settings)
    with pytest.raises(Stopped):
        train(stop_after(hidisc(), 6), settings, tmp_path)
    resumed = hidisc(workers=1)
    result = train(resumed, settings, tmp_path)
    assert result.n_steps == 12
    for key, value in weights(whole).items():
        torch.testing.assert_close(weights(resumed)[key], value, rtol=0, atol=0)


@pytest.mark.usefixtures("tiny")
def test_watched_patients_are_judged_by_the_middle_of_their_patches():
    task = hidisc(valid=patients(12)[9:])
    task.encoder.eval()
    with torch.no_grad():
        found = task.validate(0)
    assert set(task.encoder.sides) == {32}
    assert found["knn_accuracy"] == 1.0  # rough and smooth patches are far apart
    assert hidisc().validate(0) == {}


@pytest.mark.usefixtures("tiny")
def test_a_look_at_a_large_study_is_short(monkeypatch):
    monkeypatch.setattr("microtome.tasks.pretrain.hidisc._PROBED_SLIDES", 4)
    task = hidisc(30, valid=patients(33)[30:])
    with torch.no_grad():
        labels = task._probed(task._patients, ["hgg", "normal"]).labels
    assert len(labels) == 12  # three patches of each of four slides
    assert set(labels.tolist()) <= {0, 1}


@pytest.mark.usefixtures("tiny")
def test_a_watched_diagnosis_that_nobody_learns_from_is_refused_at_once():
    stranger = PatchPatient("P50", "metastasis", patients(1)[0].slides)
    with pytest.raises(CohortError, match=r"P50.*metastasis"):
        hidisc(valid=[stranger])


@pytest.mark.usefixtures("tiny")
def test_too_few_patients_for_a_batch_are_refused():
    with pytest.raises(ConfigError, match="fill a batch"):
        hidisc(1, batch_size=5)


@pytest.mark.parametrize("channels", [3, 1])
def test_weights_are_of_the_published_layout(shared, channels):
    layout = json.loads((shared / "golden" / "fastglioma_stages" / "layout.json").read_text())
    views = PatchViews("three_channels" if channels == 3 else "ch2_only")
    task = HiDiscTask(patients(3), views, dataclasses.replace(QUICK, batch_size=1))
    found = {f"hidisc:model.{name}": list(value.shape) for name, value in weights(task).items()}
    expected = {name: entry["shape"] for name, entry in layout.items() if name.startswith("hidisc:")}
    expected["hidisc:model.bb.conv1.weight"][1] = channels
    assert found == expected


@pytest.mark.usefixtures("tiny")
def test_the_same_seed_gives_the_same_start_and_leaves_the_callers_chance_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    a, b, c = hidisc(), hidisc(), hidisc(seed=4)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(a.projection.layers[0].weight, b.projection.layers[0].weight)
    assert not torch.equal(a.projection.layers[0].weight, c.projection.layers[0].weight)
    assert np.isfinite(loss_of(a, next(iter(a.batches(0, 0)))))
