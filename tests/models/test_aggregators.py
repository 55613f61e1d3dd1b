"""Aggregators: what is special to each, the registry, the references' faults, layouts that are not golden cases."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from microtome.encoders.aggregator_layouts import AGGREGATOR_LAYOUTS
from microtome.encoders.key_maps import load_layout
from microtome.errors import ConfigError, WeightsError
from microtome.models.aggregators.attention import FullAttention, NystromAttention
from microtome.models.aggregators.base import pool, weigh
from microtome.models.aggregators.chowder import Chowder
from microtome.models.aggregators.clam import ClamMB, ClamSB
from microtome.models.aggregators.hiptmil import HIPTMIL, HiptSlide
from microtome.models.aggregators.mean_pool import MeanPool
from microtome.models.aggregators.registry import AGGREGATORS, build_aggregator, list_aggregators
from microtome.models.aggregators.transmil import PositionConvolutions, TransMIL
from microtome.models.smooth_svm import smooth_svm_loss

SIZES = {"transmil_nystrom": {"n_landmarks": 4}, "transmil_original": {"dim": 16}, "transmil_millab": {"dim": 16}}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("meanpool", {}, 769),
        ("chowder", {}, 109_570),
        ("chowder", {"n_top": 5, "n_bottom": 5, "score_hidden": (), "hidden": (200, 100)}, 23_170),
        ("abmil", {}, 156_418),
        ("dsmil", {}, 549_742),
        ("hiptmil", {}, 705_410),
        ("transmil", {}, 53_683_969),
    ],
)
def test_parameter_counts_are_those_of_the_published_configurations(name, options, count):
    with torch.device("meta"):
        model = build_aggregator(name, 768, 1, **options)
    assert sum(p.numel() for p in model.parameters()) == count


def test_listing_imports_no_torch():
    code = (
        "import sys; from microtome.models.aggregators.registry import list_aggregators; "
        "print(list_aggregators()); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "transmil_nystrom" in done.stdout


def test_every_class_of_the_registry_says_what_its_attention_is():
    for name in list_aggregators():
        doc = type(build_aggregator(name, 16, 2, **SIZES.get(name, {}))).__doc__
        assert doc is not None
        assert "attention is " in doc.replace("\n    ", " "), name
    assert set(AGGREGATOR_LAYOUTS) == set(AGGREGATORS)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ab-mil", {}, "Did you mean 'abmil'"),
        ("abmil", {"heat": 2}, "no option 'heat'. It has dim, temperature"),
        ("clam_mb", {"sizes": "big"}, "no option 'sizes'. It has size"),
        ("abmil", {"temperature": 0}, "above 0"),
        ("abmil", {"activation": "swish"}, "swish"),
        ("chowder", {"n_top": 0, "n_bottom": 0}, "n_top=0"),
        ("dsmil", {"logits": "sum"}, "sum"),
        ("transmil", {"n_heads": 5}, "multiple"),
        ("transmil", {"compat": "clam"}, "clam"),
        ("transmil_nystrom", {"n_landmarks": 0}, "landmark"),
        ("transmil_original", {"kept": "middle"}, "middle"),
        ("clam_sb", {"size": "huge"}, "huge"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build_aggregator(name, 16, 1, **options)


@pytest.mark.parametrize(("n_features", "n_outputs"), [(0, 1), (4, 0)])
def test_no_features_or_outputs_are_refused(n_features, n_outputs):
    with pytest.raises(ConfigError, match="at least one"):
        build_aggregator("meanpool", n_features, n_outputs)


@pytest.mark.parametrize("name", [name for name in list_aggregators() if name not in ("meanpool",)])
def test_published_names_come_back_and_strangers_are_refused(name):
    model = build_aggregator(name, 16, 2, **SIZES.get(name, {}))
    layouts = AGGREGATOR_LAYOUTS[name]
    published = layouts[0].publish(model.state_dict()) if name not in ("chowder", "dsmil") else None
    if published is None:  # layouts by depth: the one that fits the default
        layout = next(one for one in layouts if one.name.endswith({"chowder": "1", "dsmil": "2"}[name]))
        published = layout.publish(model.state_dict())
    back = load_layout(published, layouts, encoder=name)
    assert {key: value.data_ptr() for key, value in back.items()} == {
        key: value.data_ptr() for key, value in model.state_dict().items()
    }
    assert name.startswith("clam") or set(published) != set(back)
    with pytest.raises(WeightsError, match=r"model\.stranger|stranger"):
        load_layout({**published, "stranger.weight": torch.zeros(1)}, layouts, encoder=name)
    own = load_layout(model.state_dict(), layouts, encoder=name)
    assert set(own) == set(model.state_dict())


def test_softmax_leaves_out_what_is_not_there():
    scores, mask = torch.randn(2, 5, 3), torch.tensor([[True] * 5, [True, False, True, False, False]])
    weights = weigh(scores, mask)
    torch.testing.assert_close(weights[1, [0, 2]], scores[1, [0, 2]].softmax(dim=0))
    values = torch.randn(2, 5, 4)
    expected = torch.stack([weights[i].T @ values[i] for i in range(2)])
    torch.testing.assert_close(pool(weights, values), expected)


def test_mean_of_a_large_bag_in_half_precision_does_not_saturate():
    model = MeanPool(4, 1).to(torch.bfloat16)
    model.load_state_dict({"mlp.0.weight": torch.ones(1, 4), "mlp.0.bias": torch.zeros(1)})
    logits = model(torch.ones(1, 5000, 4, dtype=torch.bfloat16)).logits
    assert logits.item() == 4


def test_chowder_fills_up_short_bags_with_zeros():
    model = Chowder(4, 1, n_top=3, n_bottom=2)
    scores = torch.tensor([[[-2.0], [5.0], [0.0]]])
    short = model.extremes(scores, torch.tensor([[True, True, False]]))
    assert short[0, :, 0].tolist() == [5, -2, 0, -2, 5]
    assert model.extremes(scores[:, :1], torch.ones(1, 1, dtype=torch.bool))[0, :, 0].tolist() == [-2, 0, 0, -2, 0]


def test_full_attention_is_torch_s_and_its_row_the_class_token_s():
    attention, x = FullAttention(8, 2).eval(), torch.randn(2, 6, 8)
    out, row = attention(x)
    other = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    with torch.no_grad():
        other.in_proj_weight.copy_(attention.to_qkv.weight)
        other.in_proj_bias.zero_()
        other.out_proj.load_state_dict(attention.to_out[0].state_dict())
    expected, weights = other(x, x, x)
    torch.testing.assert_close(out, expected)
    assert row.shape == (2, 5)
    per_head = other(x, x, x, average_attn_weights=False)[1][:, :, 0, 1:]
    torch.testing.assert_close(row, (per_head / per_head.sum(-1, keepdim=True)).mean(1))
    assert weights.shape == (2, 6, 6)


def test_nystrom_with_a_landmark_per_token_is_exact_attention():
    nystrom, full, x = NystromAttention(8, 2, n_landmarks=6), FullAttention(8, 2), torch.randn(1, 6, 8)
    full.to_qkv.load_state_dict(nystrom.to_qkv.state_dict())
    full.to_out.load_state_dict(nystrom.to_out.state_dict())
    nn.init.zeros_(nystrom.res_conv.weight)
    with torch.no_grad():
        nystrom.to_qkv.weight[:16] *= 12  # sharper attention, whose matrix the iteration inverts well
        full.to_qkv.weight[:16] *= 12
    torch.testing.assert_close(nystrom(x)[0], full(x)[0], rtol=0.05, atol=0.02)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 9])
def test_attention_to_copies_counts_for_their_instance(n):
    """Bags of 3 and 5 do not fill their square: the first instances stand in it twice."""
    model = TransMIL(8, 1, n_heads=2).eval()
    nn.init.zeros_(model.get_parameter("blocks.1.attention.to_qkv.weight"))
    side = int(np.ceil(np.sqrt(n)))
    attention = model(torch.randn(1, n, 8)).attention[0, :, 0]
    times = torch.tensor([2.0 if i < side * side - n else 1.0 for i in range(n)])
    torch.testing.assert_close(attention, times / side**2)


def test_position_convolutions_lay_tokens_out_row_by_row():
    layer = PositionConvolutions(1, depthwise=True)
    state = {key: torch.zeros_like(value) for key, value in layer.state_dict().items()}
    state["convs.0.weight"][0, 0, 0, 1] = 1  # the token above
    layer.load_state_dict(state)
    tokens = torch.arange(10.0).reshape(1, 10, 1)
    got = layer(tokens)[0, :, 0]
    assert got.tolist() == [0, 1, 2, 3, 4 + 1, 5 + 2, 6 + 3, 7 + 4, 8 + 5, 9 + 6]


def padded() -> tuple[torch.Tensor, torch.Tensor]:
    features = torch.randn(2, 9, 16)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 4:] = False
    return features, mask


@pytest.mark.parametrize("options", [{}, {"n_landmarks": 4}])
def test_transmil_s_published_fault_is_kept_on_demand(options):
    ours = TransMIL(16, 2, **options).eval()
    theirs = TransMIL(16, 2, compat="histossl", **options).eval()
    theirs.load_state_dict(ours.state_dict())
    features, mask = padded()
    zeros = features.masked_fill(~mask[..., None], 0)
    torch.testing.assert_close(theirs(features, mask).logits, theirs(zeros).logits)
    difference = (theirs(features, mask).logits - ours(features, mask).logits).abs().amax(1)
    assert difference[1] > 1e-3
    if not options:
        torch.testing.assert_close(theirs(features, mask).attention.sum(1), torch.ones(2, 1))
        assert difference[0] < 1e-5


def test_hiptmil_s_published_faults_are_kept_on_demand():
    theirs = HIPTMIL(16, 1, dim=24, compat="histossl").eval()
    first, second = (layer.state_dict() for layer in theirs.layers)
    assert all(torch.equal(first[key], second[key]) for key in first)
    features, mask = padded()
    with pytest.raises(ConfigError, match="one bag at a time, got 2"):
        theirs(features, mask)
    ours = HIPTMIL(16, 1, dim=24).eval()
    weights = [ours.get_parameter(f"layers.{i}.linear1.weight") for i in (0, 1)]
    assert not torch.equal(*weights)
    ours.load_state_dict(theirs.state_dict())
    one, own = features[1:], mask[1:]
    zeros = one.masked_fill(~own[..., None], 0)
    torch.testing.assert_close(theirs(one, own).logits, ours(zeros).logits)
    assert (ours(one, own).logits - ours(zeros).logits).abs().max() > 1e-4


def test_hipt_slide_ignores_absent_regions_and_refuses_other_grids():
    model = HiptSlide(2, n_features=4, grid=(2, 3)).eval()
    tokens = torch.randn(2, 3, 6, 4)
    mask = torch.tensor([[True] * 3, [True, True, False]])
    alone = model(tokens[1:, :2])
    tokens[1, 2] = torch.nan
    together = model(tokens, mask)
    torch.testing.assert_close(together.logits[1:], alone.logits)
    torch.testing.assert_close(together.attention[1:, :2], alone.attention)
    with pytest.raises(ConfigError, match="2 x 3 tiles, got 5"):
        model(tokens[:, :, :5])
    with pytest.raises(ConfigError, match="without an instance"):
        model(tokens, mask & False)


@pytest.mark.parametrize("kind", [ClamSB, ClamMB])
@pytest.mark.parametrize("subtyping", [False, True])
@pytest.mark.parametrize("loss", ["svm", "ce"])
def test_instance_loss_of_a_batch_is_the_mean_of_its_bags_and_trains_the_classifiers(kind, subtyping, loss):
    model = kind(16, 3, subtyping=subtyping, instance_loss=loss, n_attended=3).eval()
    features, mask = padded()
    labels = torch.tensor([2, 0])
    output, total = model.forward_with_instances(features, labels, mask)
    torch.testing.assert_close(output, model(features, mask))
    each = [
        model.forward_with_instances(features[i : i + 1, : int(mask[i].sum())], labels[i : i + 1])[1] for i in (0, 1)
    ]
    torch.testing.assert_close(total, torch.stack(each).mean())
    total.backward()
    asked = [layer.weight.grad is not None for layer in model.instance_classifiers]
    assert asked == ([True] * 3 if subtyping else [True, False, True])
    assert model.attention_net[0].weight.grad.isfinite().all()


def test_clam_asks_all_instances_of_a_bag_with_few():
    asked = ClamSB(16, 1, n_attended=8).instances(torch.randn(3, 16), 1)
    assert asked.targets.tolist() == [1, 1, 1, 0, 0, 0]
    assert asked.classes.tolist() == [1] * 6
    with pytest.raises(ConfigError, match="0 to 1, got 2"):
        ClamSB(16, 1).instances(torch.randn(3, 16), 2)


def test_smooth_svm_loss_is_cross_entropy_with_a_margin():
    logits, targets = torch.randn(5, 4), torch.tensor([0, 3, 1, 1, 2])
    shifted = logits + 1 - functional.one_hot(targets, 4)
    torch.testing.assert_close(smooth_svm_loss(logits, targets), functional.cross_entropy(shifted, targets))
    plain = smooth_svm_loss(logits, targets, margin=0)
    torch.testing.assert_close(plain, functional.cross_entropy(logits, targets))


def test_smooth_svm_loss_goes_to_the_hard_one():
    logits, targets = torch.tensor([[3.0, 1.0], [0.0, 9.0], [2.0, 2.5]]), torch.tensor([0, 0, 1])
    hard = torch.tensor([0.0, 10.0, 0.5]).mean()
    torch.testing.assert_close(smooth_svm_loss(logits, targets, temperature=1e-3), hard, rtol=0, atol=1e-3)
    assert smooth_svm_loss(1e6 * logits, targets).isfinite()
