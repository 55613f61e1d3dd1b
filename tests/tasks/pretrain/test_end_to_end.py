"""The three stages on a synthetic graded study, from patches on disk to scores of slides that nobody learned from."""

import csv
import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from microtome.cohort import read_cohort
from microtome.cohort.predictions import read_predictions
from microtome.config import HiDiscConfig, OrdinalConfig, SlideSslConfig
from microtome.config.srh import ScoreConfig
from microtome.encoders.srh_model import load_slide_transformer
from microtome.encoders.srh_reference import unit_rows
from microtome.evaluation.evaluate import evaluate
from microtome.models.fastglioma import SrhSlideTransformer
from microtome.models.srh import srh_resnet34
from microtome.slides.srh_tiff import read_srh_patch
from microtome.tasks.pretrain.optimisers import OptimiserSettings
from microtome.tasks.pretrain.ordinal import OrdinalSettings, OrdinalTask, score_metrics
from microtome.tasks.pretrain.patches import PatchViews
from microtome.tasks.pretrain.slide_ssl import see_slides
from microtome.tasks.pretrain.stages import fit_ordinal, pretrain_hidisc, pretrain_slide_ssl
from microtome.tasks.pretrain.tokens import PatchEncoder, list_tokens
from microtome.tasks.score import score
from microtome.tasks.training import TrainingSettings, train
from microtome.testing.srh_sample import write_srh_sample

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # a minute or two on two idle cores

N_HELD_OUT, N_WATCHED, N_SLIDES = 16, 8, 40
THREADS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """All stages and their outputs, once: a minute or two on two cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    root = tmp_path_factory.mktemp("srh")
    slides = write_srh_sample(root / "study", n_slides=N_SLIDES, patches_across=3, slides_per_patient=1)
    names = [slide.patient_id for slide in slides]
    held_out = names[:N_HELD_OUT]
    sides: dict[str, Any] = {
        "valid": ",".join(names[N_HELD_OUT : N_HELD_OUT + N_WATCHED]),
        "train": ",".join(names[N_HELD_OUT + N_WATCHED :]),
    }
    quick: dict[str, Any] = {"data": root / "study", "quiet": True, "checkpoint_every": 1000, "validate_every": 0}
    hidisc = pretrain_hidisc(
        HiDiscConfig(
            out=root / "hidisc", train=sides["train"] + "," + sides["valid"], valid="none", batch_size=6, n_slides=1,
            crop_px=96, augment="flip,flip_rows", augment_p=0.5, learning_rate=3e-4, n_epochs=18, **quick,
        )
    )  # fmt: skip
    ssl = pretrain_slide_ssl(
        SlideSslConfig(
            out=root / "ssl", tokenizer=hidisc.weights, batch_size=8, learning_rate=1e-4, n_epochs=50,
            kept=(0.5, 0.9), **sides, **quick,
        )
    )  # fmt: skip
    ordinal = fit_ordinal(
        OrdinalConfig(
            out=root / "ordinal", tokenizer=hidisc.weights, embeddings=root / "ssl" / "embeddings", slide=ssl.weights,
            learning_rate=1e-3, n_epochs=60, whole_slides=True, **sides, **quick,
        )
    )  # fmt: skip
    result = score(
        ScoreConfig(
            slides=(str(root / "study"),), studies=",".join(held_out), model=str(ordinal.model), out=root / "score",
            supports=root / "study", n_supports=48, save_embeddings=True, runtime="torch", quiet=True,
        )
    )  # fmt: skip
    assert not result.failed
    torch.set_num_threads(before)
    return {"root": root, "slides": slides, "hidisc": hidisc, "ssl": ssl, "ordinal": ordinal, "score": result}


def truth_of(slide):
    """Share of each patch that is planted, by row and column."""
    return dict(zip(map(tuple, slide.grid.tolist()), slide.infiltrated.tolist(), strict=True))


def tokens_of(folder, slides):
    """Saved vectors of slides with their degrees, in the order of the slides."""
    found = {token.name: token for token in list_tokens(folder)}
    return [replace(found[slide.name], grade=str(slide.grade)) for slide in slides]


def learned_and_held_out(made):
    held_out, others = made["slides"][:N_HELD_OUT], made["slides"][N_HELD_OUT:]
    root = made["root"]
    return tokens_of(root / "ssl" / "embeddings", others), tokens_of(root / "score" / "embeddings", held_out)


def test_scores_of_held_out_slides_follow_the_degree(made):
    predictions = read_predictions(made["root"] / "score" / "predictions" / "ordinal.parquet")
    judged = evaluate(predictions, read_cohort(made["root"] / "study" / "cohort.csv"), n_boot=100)
    assert judged["mean_roc_auc_score"]["n"] == N_HELD_OUT
    assert judged["mean_roc_auc_score"]["estimate"] >= 0.9
    assert judged["spearman_score"]["estimate"] >= 0.7


def test_calibrated_bands_agree(made):
    grades = np.array([slide.grade for slide in made["slides"][:N_HELD_OUT]])
    bands = np.array([row["grade"] for row in made["score"].slides])
    assert all(row["calibrated"] for row in made["score"].slides)
    assert np.mean(bands == grades) > 0.5
    assert np.mean(np.abs(bands - grades) <= 1) > 0.9
    assert np.mean((bands >= 2) == (grades >= 2)) > 0.8


def test_the_few_shot_map_finds_what_was_planted(made):
    planted, likeness = [], []
    for slide in made["slides"][:N_HELD_OUT]:
        truth = truth_of(slide)
        patches = made["root"] / "score" / "maps" / f"{slide.name}.patches.csv"
        for row in csv.DictReader(patches.read_text().splitlines()):
            share = truth[int(row["row"]), int(row["column"])]
            if not 0.2 < share < 0.8:
                planted.append(share > 0.5)
                likeness.append(float(row["few_shot"]))
    assert sum(planted) >= 15
    assert roc_auc_score(planted, likeness) >= 0.9


def test_brightness_alone_does_not_tell_the_degree(made):
    slides = made["slides"]
    for channel in (0, 1):
        means = [np.mean([read_srh_patch(f, side=300)[channel].mean() for f in s.files[::3]]) for s in slides]
        areas = [roc_auc_score([s.grade >= k for s in slides], means) for k in (1, 2, 3)]
        assert 0.3 < np.mean(areas) < 0.7


def test_stage_1_beats_its_untrained_start_on_held_out_patches(made):
    """Nearest neighbours tell infiltrated patches from others; of each slide every other patch is taken."""
    torch.manual_seed(0)  # the very weights that training began with
    untrained = PatchEncoder(srh_resnet34(3), PatchViews(), "")
    sides = made["slides"][N_HELD_OUT:], made["slides"][:N_HELD_OUT]
    vectors = {
        "untrained": [untrained.encode([f for slide in side for f in slide.files[::2]], None) for side in sides],
        "trained": [
            np.concatenate([token.read().embeddings[::2] for token in side]) for side in learned_and_held_out(made)
        ],
    }
    planted = [np.concatenate([slide.infiltrated[::2] for slide in side]) > 0.5 for side in sides]
    found = {}
    for name, (bank, asked) in vectors.items():
        nearest = np.argsort(-unit_rows(asked) @ unit_rows(bank).T, axis=1)[:, :10]
        found[name] = roc_auc_score(planted[1], planted[0][nearest].mean(axis=1))
    assert found["trained"] > found["untrained"] + 0.05, found
    assert found["trained"] > 0.8, found


def test_stage_2_beats_its_untrained_start_on_held_out_slides(made):
    """One part of a slide finds the other part of the same slide among those of all."""
    _, held_out = learned_and_held_out(made)
    dumps = [token.read() for token in held_out]
    torch.manual_seed(0)  # the very weights that training began with
    networks = {"untrained": SrhSlideTransformer()}
    networks["trained"] = load_slide_transformer(made["ssl"].weights)
    found = dict.fromkeys(networks, 0.0)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        orders = [rng.permutation(len(dump.grid)) for dump in dumps]
        for name, network in networks.items():
            with torch.no_grad():
                one, other = (
                    see_slides(
                        network.eval(),
                        [(d.embeddings[o[part]], d.grid[o[part]]) for d, o in zip(dumps, orders, strict=True)],
                        torch.device("cpu"),
                    ).numpy()
                    for part in (slice(None, 5), slice(5, None))
                )
            middle = np.concatenate([one, other]).mean(axis=0)
            nearest = (unit_rows(one - middle) @ unit_rows(other - middle).T).argmax(axis=1)
            found[name] += float(np.mean(nearest == np.arange(len(dumps)))) / 8
    assert found["trained"] > found["untrained"] + 0.05, found


def test_stage_3_beats_its_untrained_start_and_shuffled_degrees_teach_nothing(made):
    learned, held_out = learned_and_held_out(made)
    grades = np.array([int(token.grade) for token in held_out])
    transformer = load_slide_transformer(made["ssl"].weights)
    settings = OrdinalSettings(views=None, optimiser=OptimiserSettings(learning_rate=1e-3))
    untrained = score_metrics(OrdinalTask(learned, settings, transformer=transformer).logits(held_out), grades)
    trained = spearmanr([row["logit"] for row in made["score"].slides], grades).statistic
    assert trained > untrained["spearman"] + 0.2
    chance = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        shuffled = list(learned)
        for degree in range(4):  # every degree's slides get all degrees alike: no shuffle is right by luck
            own = [i for i, token in enumerate(learned) if token.grade == str(degree)]
            for place, number in enumerate(rng.permutation(own)):
                shuffled[number] = replace(learned[number], grade=str((place + seed) % 4))
        task = OrdinalTask(shuffled, settings, transformer=transformer)
        train(task, TrainingSettings(n_epochs=30, validate_every=0))
        chance.append(score_metrics(task.logits(held_out), grades)["mean_auroc"])
    assert abs(np.mean(chance) - 0.5) < 0.2, chance
