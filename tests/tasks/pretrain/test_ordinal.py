"""Stage 3: the score, and its calibration."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from microtome.encoders.srh_dump import SrhDump, dump_path, write_dump
from microtome.encoders.srh_use import band_of
from microtome.errors import CohortError, ConfigError
from microtome.tasks.pretrain.optimisers import OptimiserSettings
from microtome.tasks.pretrain.ordinal import (
    OrdinalSettings,
    OrdinalTask,
    fit_score_calibration,
    grades_of,
    score_metrics,
)
from microtome.tasks.pretrain.tokens import TokenSlide
from microtome.tasks.training import TrainingSettings, train
from tests.tasks.pretrain.material import Stopped, stop_after, weights, write_tokens

QUICK = OrdinalSettings(views=None, batch_size=8, optimiser=OptimiserSettings(learning_rate=1e-3))


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    return write_tokens(tmp_path_factory.mktemp("tokens"), n_patients=12)


def ordinal(slides, **changes):
    return OrdinalTask(slides[:16], dataclasses.replace(QUICK, **changes), valid=slides[16:])


@pytest.mark.parametrize("objective", ["pairwise", "cumulative_link", "cross_entropy"])
def test_each_objective_learns_the_planted_degree(slides, objective):
    task = ordinal(slides, objective=objective)
    before = task.validate(0)
    result = train(task, TrainingSettings(n_epochs=10))
    assert result.metrics["mean_auroc"] > max(0.9, before["mean_auroc"])
    assert result.metrics["spearman"] > 0.7
    predicted = task.predict(slides[16:]).table
    above = predicted[["p_ge_1", "p_ge_2", "p_ge_3"]].to_numpy()
    assert (np.diff(above, axis=1) <= 0).all()
    np.testing.assert_array_equal(predicted["grade"], (above > 0.5).sum(axis=1))
    assert (np.abs(predicted["grade"] - grades_of(slides[16:])) <= 1).mean() > 0.8


def test_what_is_frozen_stays_and_what_is_not_does_not(slides):
    for finetune in (False, True):
        task = ordinal(slides, finetune=finetune)
        before = weights(task)
        train(task, TrainingSettings(n_epochs=1))
        after = weights(task)
        moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
        assert moved == ({"head", "bb"} if finetune else {"head"})


@pytest.mark.parametrize("ties", ["none", "same", "lower", "upper"])
@pytest.mark.parametrize("objective", ["pairwise", "cumulative_link"])
def test_a_batch_of_one_degree_is_no_nan(slides, ties, objective):
    task = ordinal(slides, ties=ties, objective=objective)
    tokens, _ = next(iter(task.batches(0, 0)))
    loss = task.step((tokens, torch.full((8, 1), 2.0))).loss
    loss.backward()
    assert np.isfinite(float(loss.detach()))
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in task.scorer.parameters())
    if (objective, ties) == ("pairwise", "none"):
        assert float(loss.detach()) == 0


def test_a_killed_training_goes_on_to_the_same_weights(slides, tmp_path):
    loop = TrainingSettings(n_epochs=3, checkpoint_every_steps=1, tensorboard=False, monitor="mean_auroc")
    views = dataclasses.replace(QUICK, views=OrdinalSettings().views, objective="cumulative_link")
    whole = OrdinalTask(slides[:16], views, valid=slides[16:])
    train(whole, loop)
    with pytest.raises(Stopped):
        train(stop_after(OrdinalTask(slides[:16], views, valid=slides[16:]), 3), loop, tmp_path)
    resumed = OrdinalTask(slides[:16], views, valid=slides[16:])
    assert train(resumed, loop, tmp_path).n_steps == 6
    for key, value in weights(whole).items():
        torch.testing.assert_close(weights(resumed)[key], value, rtol=0, atol=0)


def test_weights_are_of_the_published_layout(slides, shared):
    layout = json.loads((shared / "golden" / "fastglioma_stages" / "layout.json").read_text())
    found = {f"scorer:model.{name}": list(value.shape) for name, value in weights(ordinal(slides)).items()}
    assert found == {name: entry["shape"] for name, entry in layout.items() if name.startswith("scorer:")}


def test_slides_without_degrees_or_of_one_are_refused(slides):
    ungraded = [dataclasses.replace(slides[0], grade=""), *slides[1:]]
    with pytest.raises(CohortError, match=r"P00\.0.*degree"):
        OrdinalTask(ungraded, QUICK)
    with pytest.raises(CohortError, match="one degree"):
        OrdinalTask([dataclasses.replace(slide, grade="1") for slide in slides], QUICK)
    with pytest.raises(CohortError, match="4"):
        grades_of([dataclasses.replace(slides[0], grade="4")])


def test_a_slide_of_one_patch_is_learned_from_whole(slides, tmp_path):
    path = dump_path(tmp_path, "Q", "1")
    path.parent.mkdir(parents=True)
    write_dump(path, SrhDump(np.ones((1, 512), np.float32), np.zeros((1, 2), np.int64)))
    lonely = TokenSlide("Q", "1", (path,), "3")
    views = dataclasses.replace(QUICK, views=OrdinalSettings().views, batch_size=17)
    tokens, _ = next(iter(OrdinalTask([*slides[:16], lonely], views).batches(0, 0)))
    assert sum(len(grid) == 1 and float(vectors.min()) == float(vectors.max()) == 1 for vectors, grid in tokens) == 1


@settings(max_examples=12, deadline=None)
@given(
    scale=st.floats(0.05, 20),
    offset=st.floats(-50, 50),
    seed=st.integers(0, 100),
    kind=st.sampled_from(["affine", "isotonic"]),
)
def test_calibrated_scores_lie_in_the_band_of_their_degree(scale, offset, seed, kind):
    """Whatever the scale of the logits: the pairwise loss leaves it open."""
    rng = np.random.default_rng(seed)
    grades = np.repeat(np.arange(4), 25)
    clean = grades + rng.uniform(-0.3, 0.3, len(grades))
    found = fit_score_calibration(scale * clean + offset, grades, kind=kind)
    scores = found.apply(scale * clean + offset)
    bands = np.array([band_of(score).grade for score in scores])
    assert ((bands >= 2) == (grades >= 2)).all()  # tumour or not
    assert (np.diff(scores[np.argsort(clean)]) >= 0).all()
    assert (bands == grades).mean() > (0.99 if kind == "isotonic" else 0.85)
    middle = (0.25, 0.5, 0.85)
    np.testing.assert_allclose(found.cuts, middle, atol=1e-6 if kind == "isotonic" else 0.2)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), noise=st.floats(0.1, 1.5))
def test_a_calibration_keeps_the_order_and_halves_at_the_likeliest_cut(seed, noise):
    rng = np.random.default_rng(seed)
    grades = rng.integers(0, 4, 80)
    logits = grades + noise * rng.standard_normal(80)
    assume(len(set(grades.tolist())) == 4)
    for kind in ("affine", "isotonic"):
        found = fit_score_calibration(logits, grades, kind=kind)
        scores = found.apply(np.sort(logits))
        assert (np.diff(scores) >= 0).all()
        assert found.cuts[1] == pytest.approx(0.5, abs=1e-6)
        assert found.n_slides == 80


def test_what_cannot_be_calibrated_is_refused():
    grades = np.array([0, 0, 1, 1, 2, 2])
    rising = grades + np.array([0.0, 0.1] * 3)
    with pytest.raises(CohortError, match="two degrees"):
        fit_score_calibration(rising, np.zeros(6, np.int64), kind="affine")
    with pytest.raises(CohortError, match="does not rise"):
        fit_score_calibration(-rising, grades, kind="affine")
    with pytest.raises(CohortError, match="does not rise"):
        fit_score_calibration(np.zeros(6), grades, kind="affine")
    with pytest.raises(CohortError, match="four degrees"):
        fit_score_calibration(rising, grades, kind="isotonic")
    with pytest.raises(ConfigError, match="finite"):
        fit_score_calibration(np.full(6, np.nan), grades, kind="affine")
    assert fit_score_calibration(rising, grades, kind="affine").scale > 0


def test_metrics_of_scores():
    grades = np.array([0, 1, 2, 3])
    assert score_metrics(np.array([0.1, 0.2, 0.3, 0.4]), grades) == {"mean_auroc": 1.0, "spearman": 1.0}
    swapped = score_metrics(np.array([0.1, 0.3, 0.2, 0.4]), grades)
    assert swapped["mean_auroc"] == pytest.approx((1 + 0.75 + 1) / 3)
    assert np.isnan(score_metrics(np.ones(4), np.zeros(4, np.int64))["mean_auroc"])
