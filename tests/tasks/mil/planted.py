"""Bags with a planted signal, and small models that find it."""

import json
from functools import cache
from typing import Any

import numpy as np
import torch

from microtome.cohort.targets import Target
from microtome.features.store import FeatureStore
from microtome.models.aggregators.registry import build_aggregator
from microtome.models.objectives import build_objective
from microtome.tasks.mil.digests import Digests
from microtome.tasks.mil.features_recipe import FeaturesRecipe
from microtome.tasks.mil.jobs import ModelSpec
from microtome.tasks.mil.model_folder import TrainedModel

DIM = 8
N_PLANTED = 5
SMALL: dict[str, dict[str, Any]] = {
    "transmil": {"dim": 16, "n_heads": 2},
    "transmil_nystrom": {"n_landmarks": 4},
    "transmil_original": {"dim": 16, "n_landmarks": 4},
    "transmil_millab": {"dim": 16, "n_landmarks": 4},
    "dsmil_millab": {"dim": 16, "n_queries": 8},
    "hiptmil": {"dim": 24},
    "chowder": {"n_top": 4, "n_bottom": 4},
}
TRAINED = {**SMALL, "dsmil_original": {"logits": "mean"}}
"""Of models that are trained: the authors' DSMIL has a loss on each stream, else its scores would stay random."""
TARGET = Target("tumour", "binary", ("label",), ("normal", "tumour"))
RECIPE: dict[str, object] = {
    "card_name": "made-up",
    "card_pooling": "cls",
    "card_mean": [0.5],
    "weights_sha256": "ab" * 32,
    "precision": "fp32",
    "tile_level": None,
    "tile_fill": "white",
}
ATTRS: dict[str, str | int | float] = {
    "encoder": "made-up",
    "mpp": 0.5,
    "slide_mpp": 0.25,
    "patch_size": 224,
    "precision": "fp32",
}
FEATURES = FeaturesRecipe(
    DIM,
    "made-up",
    "ab" * 32,
    224,
    0.5,
    None,
    "fp32",
    {"card_mean": [0.5], "card_pooling": "cls", "tile_fill": "white"},
)


def planted_bag(rng, *, positive, n=40, n_planted=N_PLANTED):
    """Noise; in a positive bag the first ``n_planted`` tiles lie apart."""
    bag = rng.normal(size=(n, DIM)).astype(np.float32)
    if positive:
        bag[:n_planted, 0] += 6
    return bag


def grid_boxes(n):
    rows = np.arange(n)
    return np.stack([rows % 8 * 448, rows // 8 * 448, np.full(n, 448), np.full(n, 448)], axis=1)


def write_planted(folder, slides, *, recipe=RECIPE, attrs=ATTRS, n=40):
    """A store of slides: name → whether it has the signal."""
    rng = np.random.default_rng(1)
    store = FeatureStore(folder)
    for slide_id, positive in slides.items():
        store.write(slide_id, planted_bag(rng, positive=positive, n=n), grid_boxes(n), recipe=recipe, attrs=attrs)
    return store


@cache
def trained_module(name, n_outputs=1, seed=0):
    """A model that tells bags with the signal from others."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    module = build_aggregator(name, DIM, n_outputs, **TRAINED.get(name, {}))
    rate = 1e-3 if name.startswith(("transmil", "hiptmil")) else 1e-2
    optimiser = torch.optim.Adam(module.parameters(), rate)
    for _ in range(80):
        labels = torch.from_numpy((rng.random(8) < 0.5).astype(np.float32))
        bags = np.stack([planted_bag(rng, positive=bool(label), n=25) for label in labels])
        logits = module(torch.from_numpy(bags)).logits
        wanted = torch.stack([labels if i == 0 else 1 - labels for i in range(n_outputs)], dim=1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return module.eval().requires_grad_(requires_grad=False)


def trained_model(name="abmil", *, n_members=1, **changes):
    """The same as a model of a folder."""
    values: dict[str, Any] = {
        "spec": ModelSpec(name, TRAINED.get(name, {})),
        "target": TARGET,
        "objective": "bce",
        "objective_state": build_objective(TARGET).state(),
        "members": [trained_module(name, seed=seed).state_dict() for seed in range(n_members)],
        "features": FEATURES,
        "training_patients": Digests.of(["patient-a"]),
        "training_slides": Digests.of(["slide-a"]),
        "mean_features": np.full(DIM, 0.1, np.float32),
    }
    return TrainedModel(**{**values, **changes})


def random_model(target, objective=None, name="abmil", **changes):
    """A model of any target with random weights."""
    reading = build_objective(target, objective).fitted(changes.pop("values", np.zeros((0, 1))))
    torch.manual_seed(0)
    module = build_aggregator(name, DIM, reading.n_outputs, **SMALL.get(name, {}))
    state = {"objective": reading.name, "objective_state": json.loads(json.dumps(dict(reading.state())))}
    return trained_model(
        name, **{"spec": ModelSpec(name, SMALL.get(name, {})), "target": target, "members": [module.state_dict()],
                 **state, **changes}
    )  # fmt: skip
