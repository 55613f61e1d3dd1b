"""Stage 2: the slide transformer by views of a slide."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from microtome.encoders.srh_dump import SrhDump, dump_path, write_dump
from microtome.errors import CohortError, ConfigError, TileError
from microtome.models.losses import vicreg
from microtome.tasks.pretrain.optimisers import OptimiserSettings
from microtome.tasks.pretrain.slide_ssl import SlideSslSettings, SlideSslTask
from microtome.tasks.pretrain.tokens import TokenSlide
from microtome.tasks.training import TrainingSettings, train
from tests.tasks.pretrain.material import Stopped, stop_after, weights, write_tokens

QUICK = SlideSslSettings(optimiser=OptimiserSettings(learning_rate=3e-4))


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    return write_tokens(tmp_path_factory.mktemp("tokens"), n_patients=4, n_tags=2)


def loss_of(task, batch):
    with torch.no_grad():
        return float(task.step(batch).loss)


def same(a, b):
    return all(np.array_equal(x, y) for one, two in zip(a, b, strict=True) for x, y in zip(one, two, strict=True))


def test_views_follow_from_seed_epoch_and_place_alone(slides):
    task = SlideSslTask(slides, QUICK)
    expected = [list(task.batches(epoch, 0)) for epoch in (0, 1)]
    assert [len(batches) for batches in expected] == [2, 2]
    later = next(iter(SlideSslTask(slides, QUICK).batches(1, 1)))
    for a, b in zip(later, expected[1][1], strict=True):
        assert same(a, b)
    assert not same(expected[0][0][0], expected[1][0][0])
    other = next(iter(SlideSslTask(slides, dataclasses.replace(QUICK, seed=1)).batches(0, 0)))
    assert not same(other[0], expected[0][0][0])


def test_the_views_of_a_slide_share_no_patch_and_take_their_vectors_from_any_tag(slides):
    task = SlideSslTask(slides, QUICK)
    tags = set()
    for epoch in range(6):
        for (one, here), (two, there) in (views for batch in task.batches(epoch, 0) for views in batch):
            assert not {*map(tuple, here.tolist())} & {*map(tuple, there.tolist())}
            for vectors, places in ((one, here), (two, there)):
                for tag in range(2):
                    dumps = [slide.read(tag) for slide in slides]
                    if any(
                        np.array_equal(vectors, dump.embeddings[[dump.grid.tolist().index(p) for p in places.tolist()]])
                        for dump in dumps
                    ):
                        tags.add(tag)
    assert tags == {0, 1}


def test_the_loss_is_vicreg_of_the_projected_views(slides):
    task = SlideSslTask(slides, QUICK)
    batch = next(iter(task.batches(0, 0)))
    with torch.no_grad():
        vectors = torch.stack(
            [
                torch.cat(
                    [
                        task.projection(task.transformer(torch.from_numpy(x)[None], torch.from_numpy(p)[None]))
                        for x, p in views
                    ]
                )
                for views in batch
            ]
        )
        result = task.step(batch)
    parts = vicreg(vectors, invariance=10, variance=10, covariance=1)
    assert float(result.loss) == pytest.approx(float(parts.loss), rel=1e-5)
    assert float(result.logs["var"]) == pytest.approx(float(parts.var), rel=1e-5)


@pytest.mark.parametrize("loss", ["vicreg", "simclr"])
def test_training_lowers_the_loss_and_keeps_the_registers_apart(slides, loss):
    task = SlideSslTask(slides, dataclasses.replace(QUICK, loss=loss), valid=slides)
    batch = next(iter(task.batches(0, 0)))
    before = loss_of(task, batch)
    tokens = task.transformer.cls_token.detach()[0]
    apart = torch.pdist(tokens).min()
    assert float(apart) > 0.1
    result = train(task, TrainingSettings(n_epochs=6))
    assert loss_of(task, batch) < 0.95 * before
    assert torch.pdist(task.transformer.cls_token.detach()[0]).min() > 0.5 * apart
    assert np.isfinite(result.metrics["valid_loss"])


def test_a_killed_training_goes_on_to_the_same_weights(slides, tmp_path):
    settings = TrainingSettings(n_epochs=2, checkpoint_every_steps=1, tensorboard=False)
    whole = SlideSslTask(slides, QUICK)
    train(whole, settings)
    with pytest.raises(Stopped):
        train(stop_after(SlideSslTask(slides, QUICK), 3), settings, tmp_path)
    resumed = SlideSslTask(slides, QUICK)
    assert train(resumed, settings, tmp_path).n_steps == 4
    for key, value in weights(whole).items():
        torch.testing.assert_close(weights(resumed)[key], value, rtol=0, atol=0)


def test_weights_are_of_the_published_layout(slides, shared):
    layout = json.loads((shared / "golden" / "fastglioma_stages" / "layout.json").read_text())
    task = SlideSslTask(slides, QUICK)
    found = {f"slide_ssl:model.{name}": list(value.shape) for name, value in weights(task).items()}
    assert found == {name: entry["shape"] for name, entry in layout.items() if name.startswith("slide_ssl:")}


def test_what_cannot_be_learned_from_is_refused(slides, tmp_path):
    with pytest.raises(CohortError, match="no slides"):
        SlideSslTask([], QUICK)
    with pytest.raises(ConfigError, match="fill a batch"):
        SlideSslTask(slides[:3], QUICK)
    path = dump_path(tmp_path, "P", "1")
    path.parent.mkdir(parents=True)
    write_dump(path, SrhDump(np.ones((1, 512), np.float32), np.zeros((1, 2), np.int64)))
    with pytest.raises(TileError, match=r"P\.1.*1 patch"):
        SlideSslTask([*slides, TokenSlide("P", "1", (path,))], QUICK)
