import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from microtome.errors import ConfigError
from microtome.models.losses import gather, hierarchical_contrastive, sim_clr, supervised_contrastive, vicreg
from tests.conftest import golden_cases, require_case

CASES = golden_cases("fastglioma_losses")


@pytest.fixture(params=CASES, ids=lambda p: p.name)
def golden(request):
    case = require_case(request.param)
    meta = json.loads((case / "case.json").read_text())
    return meta, dict(np.load(case / "data.npz")), float(meta["tolerance"]["losses"].split()[0])


def hidisc_options(settings) -> dict[str, Any]:
    inner = settings.get("supcon_loss_params", {})
    options = {key: inner[key] for key in ("temperature", "base_temperature") if key in inner}
    levels = ("patient", "slide", "patch")
    return {
        **options,
        "anchors": inner.get("contrast_mode", "all"),
        "weights": [settings.get(f"lambda_{level}", 1.0) for level in levels],
    }


@pytest.mark.shared
def test_golden_hierarchical_losses_and_gradient(golden):
    meta, data, rtol = golden
    for j, settings in enumerate(meta["inputs"]["hidisc_settings"]):
        features = torch.from_numpy(data["in_hidisc_features"]).requires_grad_()
        losses = hierarchical_contrastive(features, **hidisc_options(settings))
        weights = hidisc_options(settings)["weights"]
        for level, weight in zip(("patient", "slide", "patch"), weights, strict=True):
            assert getattr(losses, level).item() == pytest.approx(
                float(data[f"out_hidisc{j}_{level}_loss"]), rel=rtol
            ), weight
        assert losses.sum.item() == pytest.approx(float(data[f"out_hidisc{j}_sum_loss"]), rel=rtol)
        if f"out_hidisc{j}_grad" in data:
            (slope,) = torch.autograd.grad(losses.sum, features)
            np.testing.assert_allclose(slope, data[f"out_hidisc{j}_grad"], atol=meta["tolerance"]["gradients"])


@pytest.mark.shared
def test_golden_contrastive_losses(golden):
    _, data, rtol = golden
    features = torch.from_numpy(data["in_hidisc_features"]).flatten(1, -2)
    labels = torch.from_numpy(data["in_supcon_labels"])
    forms: dict[str, Any] = {"unsupervised": {}, "one": {"anchors": "one"}, "labels": {"labels": labels}}
    for name, options in forms.items():
        found = supervised_contrastive(features, **options)
        assert found.item() == pytest.approx(float(data[f"out_supcon_{name}"]), rel=rtol), name


@pytest.mark.shared
def test_golden_vicreg_losses(golden):
    meta, data, rtol = golden
    views = [key.removeprefix("in_vicreg_") for key in data if key.startswith("in_vicreg_")]
    assert views
    names = {"sim_coeff": "invariance", "std_coeff": "variance", "cov_coeff": "covariance"}
    for name in views:
        for j, settings in enumerate(meta["inputs"]["vicreg_settings"]):
            options = {names[key]: float(value) for key, value in settings.items()}
            losses = vicreg(torch.from_numpy(data[f"in_vicreg_{name}"]), **options)
            for part in ("inv", "var", "cov", "loss"):
                expected = float(data[f"out_vicreg_{name}_{j}_{part}"])
                assert getattr(losses, part).item() == pytest.approx(expected, rel=rtol), (name, part)


def unit(*shape, seed=0, dtype=torch.float64):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype), dim=-1)


def test_sim_clr_is_a_choice_among_all_others():
    features = unit(5, 2, 8)
    both = torch.cat([features[:, 0], features[:, 1]])
    similar = (both @ both.T / 0.2).fill_diagonal_(-torch.inf)
    partner = torch.arange(10).roll(5)
    torch.testing.assert_close(sim_clr(features, temperature=0.2), cross_entropy(similar, partner))


def test_groups_of_one_label_are_the_same_as_groups_of_views():
    features = unit(3, 4, 8)
    labels = torch.arange(3).repeat_interleave(4)
    torch.testing.assert_close(
        supervised_contrastive(features.flatten(0, 1)[:, None], labels), supervised_contrastive(features)
    )


def test_an_anchor_without_friends_says_nothing():
    features = unit(3, 1, 8).requires_grad_()
    loss = supervised_contrastive(features)
    (slope,) = torch.autograd.grad(loss, features)
    assert loss.item() == 0
    assert not slope.any()


@pytest.mark.parametrize("anchors", ["all", "one"])
def test_gradients_are_those_of_the_values(anchors):
    features = unit(2, 2, 2, 2, 4).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: hierarchical_contrastive(x, anchors=anchors, temperature=0.5).sum, features
    )
    assert torch.autograd.gradcheck(lambda x: vicreg(x).loss, unit(5, 3, 4).requires_grad_())


def test_what_agrees_and_spreads_costs_little_in_vicreg():
    spread = torch.eye(4, dtype=torch.float64).repeat(50, 1) * 4
    same = torch.stack([spread, spread], dim=1)
    assert vicreg(same).inv.item() == 0
    assert vicreg(same).var.item() == 0
    collapsed = vicreg(torch.ones(6, 2, 4))
    assert collapsed.var.item() == pytest.approx(1 - 1e-2)
    assert collapsed.cov.item() == 0
    double = same[..., [0, 0, 1, 1]]
    assert vicreg(double).cov > vicreg(same).cov


def test_low_precision_is_computed_in_fp32():
    features = unit(4, 2, 8)
    low = features.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        for loss in (sim_clr(low), vicreg(low).loss):
            assert loss.dtype == torch.float32
        assert sim_clr(low).item() == pytest.approx(sim_clr(low.double()).item(), rel=1e-5)


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"base_temperature": -1.0}, {"anchors": "two"}])
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(ConfigError):
        supervised_contrastive(unit(2, 2, 4), **wrong)
    with pytest.raises(ConfigError):
        hierarchical_contrastive(unit(2, 2, 2, 2, 4), **wrong)
    with pytest.raises(ConfigError, match="two samples"):
        vicreg(unit(1, 2, 4))


def test_alone_nothing_is_gathered():
    rows = torch.arange(3)
    assert gather(rows) is rows


LOSSES = {
    "hierarchical": (lambda x: hierarchical_contrastive(x).sum, (4, 2, 2, 2)),
    "vicreg": (lambda x: vicreg(x).loss, (6, 2)),
    "labels": (lambda x: supervised_contrastive(x, (x[:, 0, 0] > 0).long()), (6, 2)),
}


def slopes_of(name, place=None):
    """Loss of a linear map of a batch, or of this process's share of it, and the gradient of the map."""
    loss_of, shape = LOSSES[name]
    torch.manual_seed(0)
    weight = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    x = unit(*shape, 5, seed=3)
    if place is not None:
        x = x.chunk(place.world)[place.rank]
    loss = loss_of(normalize(x @ weight, dim=-1))
    loss.backward()
    return loss.detach(), weight


def as_one_of_several(folder):
    """What a process of the test below does."""
    from microtome.tasks.training.parallel import average_gradients, joined, ranks

    torch.set_num_threads(1)
    place = ranks()
    with joined(place, torch.device("cpu")):
        found = {}
        for name in LOSSES:
            loss, weight = slopes_of(name, place)
            average_gradients([weight], place)
            found[name] = (loss, weight.grad)
        torch.save(found, Path(folder) / f"{place.rank}.pt")


@pytest.mark.slow
def test_two_processes_see_one_batch(tmp_path, free_port):
    repository = Path(__file__).resolve().parents[3]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import as_one_of_several as f; f({str(tmp_path)!r})"],
            env={
                **os.environ,
                "PYTHONPATH": str(repository),
                "RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(free_port),
            },
        )
        for rank in range(2)
    ]
    try:
        assert [process.wait(120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name in LOSSES:
            loss, weight = slopes_of(name)
            torch.testing.assert_close(found[name][0], loss)
            torch.testing.assert_close(found[name][1], weight.grad)
