"""Aggregators against the outputs of the original implementations, through files in the published layouts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from microtome.encoders.aggregator_layouts import AGGREGATOR_LAYOUTS, HIPT_LGP
from microtome.encoders.checkpoints import read_checkpoint
from microtome.encoders.key_maps import KeyMap, load_layout
from microtome.models.aggregators.base import Aggregator
from microtome.models.aggregators.chowder import Chowder
from microtome.models.aggregators.clam import Clam
from microtome.models.aggregators.dsmil import OriginalDSMIL
from microtome.models.aggregators.hiptmil import HiptSlide
from microtome.models.aggregators.registry import build_aggregator
from microtome.models.smooth_svm import smooth_svm_loss
from tests.conftest import golden_cases, require_case
from tests.encoders.golden import assert_close, fill, read_case

N_METADATA = 3  # columns in front of the reference's features, which it leaves out


@pytest.fixture(autouse=True)
def _without_gradients_on_one_thread():
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(n_threads)


def through_file(weights: dict[str, Any], folder: Path, model: nn.Module, layouts: tuple[KeyMap, ...]) -> None:
    """Give the model weights that were written to a file and read back."""
    path = folder / "weights.pth"
    torch.save(weights, path)
    model.load_state_dict(load_layout(read_checkpoint(path).content, layouts, encoder="case"), strict=True)
    path.unlink()
    model.eval()


def normal(seed: int, shape: list[int]) -> NDArray[np.float32]:
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape, dtype=np.float32)


def bags(description: dict[str, Any]) -> Iterator[tuple[str, Tensor, Tensor, dict[str, Any]]]:
    """Name, features, mask and description of each batch of a ``mil_`` case."""
    for batch in description["inputs"]["batches"]:
        x = normal(batch["input_seed"], batch["shape"])[..., N_METADATA:]
        mask = np.arange(x.shape[1]) < np.array(batch["lengths"])[:, None]
        yield batch["name"], torch.from_numpy(x * mask[..., None]), torch.from_numpy(mask), batch


class Seen:
    """What went through some modules of a model in its last pass."""

    def __init__(self, model: nn.Module, *names: str) -> None:
        self.outputs: dict[str, Any] = {}
        self.inputs: dict[str, Any] = {}
        for name in names:
            model.get_submodule(name).register_forward_hook(self._keep(name))

    def _keep(self, name: str) -> Any:
        def hook(_module: nn.Module, given: tuple[Any, ...], result: Any) -> None:
            self.inputs[name], self.outputs[name] = given[0], result

        return hook


def mil_options(made: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and options of ours that mean the reference's class and its arguments."""
    name = made["class"].lower()
    if name == "chowder":
        hidden = made["tiles_mlp_hidden"] or ()
        options = {"n_top": made["n_top"], "n_bottom": made["n_bottom"], "score_hidden": hidden}
        return name, {**options, "hidden": made["mlp_hidden"], "activation": made["mlp_activation"].lower()}
    if name == "abmil":
        options = {"dim": made["d_model_attention"], "temperature": made["temperature"]}
        return name, {**options, "hidden": made["mlp_hidden"], "activation": made["mlp_activation"].lower()}
    if name == "dsmil":
        sizes = {"n_queries": made["d_tiles_queries"], "n_values": made["d_tiles_values"]}
        return name, {**sizes, "pass_values": made["passing_values"], "hidden": made["mlp_hidden"]}
    if name == "transmil" and made.get("kw_cor"):
        return "transmil_nystrom", {"dim": made["proj_dim"], "n_landmarks": made["kw_cor"]["num_landmarks"]}
    return name, {}


def built(case: Path, folder: Path, **more: Any) -> Aggregator:
    description, _ = read_case(case)
    made = description["constructor"]
    name, options = mil_options(made)
    model = build_aggregator(name, made["in_features"], made["out_features"], **options, **more)
    through_file({**fill(case)}, folder, model, AGGREGATOR_LAYOUTS[name])
    assert sum(p.numel() for p in model.parameters()) == description["weights"]["n_parameters"]
    return model


def logits_of(expected: dict[str, NDArray[Any]], name: str, n_outputs: int) -> NDArray[Any]:
    """The reference's logits; its DSMIL has them in other shapes."""
    return expected[f"{name}_logits"].reshape(-1, n_outputs)


def check_loss(logits: Tensor, batch: dict[str, Any]) -> None:
    labels = torch.tensor(batch["labels"])
    if logits.shape[1] == 1:
        loss = functional.binary_cross_entropy_with_logits(logits[:, 0], labels)
    else:
        loss = functional.cross_entropy(logits, labels.long())
    assert float(loss) == pytest.approx(batch["loss"], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    "case",
    [case for kind in ("meanpool", "chowder", "abmil", "dsmil") for case in golden_cases(f"mil_{kind}")],
    ids=lambda c: c.name,
)
def test_golden_mil(case, tmp_path):
    description, expected = read_case(require_case(case))
    stated = description["tolerance"]
    model = built(case, tmp_path)
    for name, features, mask, batch in bags(description):
        output = model(features, mask)
        assert_close(output.logits, logits_of(expected, name, model.n_outputs), stated)
        check_loss(output.logits, batch)
        attention = expected.get(f"{name}_attention")
        if attention is not None:
            ours = output.attention
            assert_close(ours.transpose(1, 2) if "dsmil" in case.name else ours, attention, stated)
        if isinstance(model, Chowder):
            scores = np.nan_to_num(expected[f"{name}_tile_scores"])
            assert_close(output.attention, scores, stated)
            assert_close(model.extremes(output.attention, mask), expected[f"{name}_extreme_scores"], stated)


@pytest.mark.parametrize("case", golden_cases("mil_meanpool"), ids=lambda c: c.name)
def test_golden_meanpool_mean(case, tmp_path):
    description, expected = read_case(require_case(case))
    model = built(case, tmp_path)
    seen = Seen(model, "mlp")
    for name, features, mask, _ in bags(description):
        model(features, mask)
        assert_close(seen.inputs["mlp"], expected[f"{name}_mean_features"], description["tolerance"])


@pytest.mark.parametrize("case", [*golden_cases("mil_abmil"), *golden_cases("mil_dsmil")], ids=lambda c: c.name)
def test_golden_bag_embedding(case, tmp_path):
    description, expected = read_case(require_case(case))
    model = built(case, tmp_path)
    seen = Seen(model, "mlp")
    for name, features, mask, _ in bags(description):
        model(features, mask)
        assert_close(seen.inputs["mlp"], expected[f"{name}_bag_embedding"], description["tolerance"])


@pytest.mark.parametrize("case", golden_cases("mil_hiptmil"), ids=lambda c: c.name)
@pytest.mark.parametrize("compat", [None, "histossl"])
def test_golden_hiptmil(case, compat, tmp_path):
    description, expected = read_case(require_case(case))
    stated = description["tolerance"]
    model = built(case, tmp_path, compat=compat)
    seen = Seen(model, "layers.1", "attention", "rho")
    for name, features, mask, batch in bags(description):
        output = model(features, mask)
        assert_close(output.logits, expected[f"{name}_logits"], stated)
        check_loss(output.logits, batch)
        assert_close(output.attention[0, :, 0], expected[f"{name}_attention"], stated)
        assert_close(seen.outputs["attention"][0, :, 0], expected[f"{name}_attention_logits"], stated)
        assert_close(seen.inputs["rho"], expected[f"{name}_bag_embedding"], stated)
        ends = seen.outputs["layers.1"][0, [0, -1]]
        assert_close(ends, expected[f"{name}_transformer_tokens_first_and_last"], stated)


def is_plain(batch: dict[str, Any]) -> bool:
    return len(set(batch["lengths"])) == 1


@pytest.mark.slow
@pytest.mark.parametrize("case", golden_cases("mil_transmil"), ids=lambda c: c.name)
def test_golden_transmil(case, tmp_path):
    """With the reference's faults every batch; without them those that have no padding."""
    description, expected = read_case(require_case(case))
    stated = description["tolerance"]
    model = built(case, tmp_path, compat="histossl")
    seen = Seen(model, "norm", "blocks.0", "positions")
    for name, features, mask, batch in bags(description):
        output = model(features, mask)
        assert_close(output.logits, expected[f"{name}_logits"], stated)
        check_loss(output.logits, batch)
        assert_close(seen.outputs["norm"][:, 0], expected[f"{name}_cls_feature"], stated)
        first = seen.outputs["blocks.0"][0][:, [0, -1]]
        assert_close(first, expected[f"{name}_after_first_block_cls_and_last"], stated)
        after = seen.outputs["positions"][:, [0, -1]]
        assert_close(after, expected[f"{name}_after_ppeg_cls_and_last"], stated)
    ours = built(case, tmp_path)
    for name, features, mask, batch in bags(description):
        logits = ours(features, mask).logits
        difference = np.abs(logits.numpy() - expected[f"{name}_logits"]).max()
        if is_plain(batch):
            assert_close(logits, expected[f"{name}_logits"], stated)
        else:
            assert difference > 1e-3, "the padding took part"


def loose_bags(description: dict[str, Any]) -> Iterator[tuple[str, Tensor, dict[str, Any]]]:
    for batch in description["inputs"]["batches"]:
        x = torch.from_numpy(normal(batch["input_seed"], batch["shape"]))
        yield batch["name"], x if x.ndim == 3 else x[None], batch


@pytest.mark.parametrize("case", golden_cases("orig_dsmil"), ids=lambda c: c.name)
def test_golden_original_dsmil(case, tmp_path):
    description, expected = read_case(require_case(case))
    stated, made = description["tolerance"], description["constructor"]
    model = OriginalDSMIL(
        made["input_size"], made["output_class"], deep_queries=made["nonlinear"], pass_values=made["passing_v"]
    )
    through_file({**fill(case)}, tmp_path, model, AGGREGATOR_LAYOUTS["dsmil_original"])
    seen = Seen(model, "scores", "head")
    for name, features, batch in loose_bags(description):
        output = model(features)
        highest, bag = model.both(features)
        assert_close(bag, expected[f"{name}_bag_logits"], stated)
        assert_close(highest[0], expected[f"{name}_max_logits"], stated)
        assert_close(output.logits, expected[f"{name}_bag_logits"], stated)
        assert_close(output.attention[0], expected[f"{name}_attention"], stated)
        assert_close(seen.outputs["scores"][0], expected[f"{name}_instance_logits"], stated)
        assert_close(seen.inputs["head"], expected[f"{name}_bag_embedding"], stated)
        target = torch.zeros_like(bag)
        target[:, 0] = 1
        losses = [functional.binary_cross_entropy_with_logits(stream, target) for stream in (bag, highest)]
        assert float(sum(losses)) / 2 == pytest.approx(batch["loss"], rel=1e-4)


@pytest.mark.parametrize("case", golden_cases("millab_dsmil"), ids=lambda c: c.name)
def test_golden_millab_dsmil(case, tmp_path):
    description, expected = read_case(require_case(case))
    stated, made = description["tolerance"], description["constructor"]
    sizes = {"dim": made["embed_dim"], "n_queries": made["attn_dim"]}
    model = build_aggregator("dsmil_millab", made["in_dim"], made["num_classes"], **sizes)
    weights = {f"model.{key}": value for key, value in fill(case).items()}
    through_file(weights, tmp_path, model, AGGREGATOR_LAYOUTS["dsmil_millab"])
    seen = Seen(model, "head")
    for name, features, _ in loose_bags(description):
        output = model(features)
        assert_close(output.logits, expected[f"{name}_logits"], stated)
        assert_close(output.attention, expected[f"{name}_attention"], stated)
        assert_close(seen.inputs["head"], expected[f"{name}_slide_feats"], stated)


@pytest.mark.parametrize("kept", ["last", "first"])
@pytest.mark.parametrize("case", golden_cases("orig_transmil"), ids=lambda c: c.name)
def test_golden_original_transmil(case, kept, tmp_path):
    description, expected = read_case(require_case(case))
    stated, made = description["tolerance"], description["constructor"]
    sizes = {"dim": made["dim"], "n_heads": made["heads"], "n_landmarks": made["num_landmarks"], "kept": kept}
    model = build_aggregator("transmil_original", made["in_features"], made["n_classes"], **sizes)
    through_file({**fill(case)}, tmp_path, model, AGGREGATOR_LAYOUTS["transmil_original"])
    suffix = "_keep_first" if kept == "first" else ""
    seen = Seen(model, "blocks.0", "norm")
    for name, features, _ in loose_bags(description):
        logits = model(features).logits
        assert_close(logits, expected[f"{name}_logits{suffix}"], stated)
        assert_close(seen.outputs["norm"][:, 0], expected[f"{name}_cls_feature{suffix}"], stated)
        if kept == "last":
            first = seen.outputs["blocks.0"][0][:, [0, -1]]
            assert_close(first, expected[f"{name}_after_layer1_cls_and_last"], stated)
            assert_close(logits.softmax(dim=1), expected[f"{name}_prob"], stated)


@pytest.mark.parametrize("kept", ["last", "first"])
@pytest.mark.parametrize("case", golden_cases("millab_transmil"), ids=lambda c: c.name)
def test_golden_millab_transmil(case, kept, tmp_path):
    description, expected = read_case(require_case(case))
    stated, made = description["tolerance"], description["constructor"]
    sizes = {"dim": made["embed_dim"], "n_heads": made["num_heads"], "kept": kept}
    model = build_aggregator("transmil_millab", made["in_dim"], made["num_classes"], **sizes)
    weights = {f"model.{key}": value for key, value in fill(case).items()}
    through_file(weights, tmp_path, model, AGGREGATOR_LAYOUTS["transmil_millab"])
    seen = Seen(model, "blocks.0", "norm")
    for name, features, _ in loose_bags(description):
        logits = model(features).logits
        assert_close(logits, expected[f"{name}_logits{'_keep_first' if kept == 'first' else ''}"], stated)
        if kept == "last":
            assert_close(seen.outputs["norm"][:, 0], expected[f"{name}_slide_feats"], stated)
            tokens = seen.outputs["blocks.0"][0]
            alike = (tokens[:, 1:] @ tokens[:, 0, :, None])[..., 0]
            atol = {"atol": stated["attention_atol"], "rtol": stated["rtol"]}
            assert_close(alike, expected[f"{name}_attention"], atol)


def clam_files(case: Path) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The weights in the current layout and in each old one that the case describes."""
    weights = fill(case)
    yield "current", weights
    for name, old in read_case(case)[0]["weights"]["checkpoint"]["old_layouts"].items():
        extra = {key: torch.tensor(entry["values"]) for key, entry in old.get("extra_entries_to_drop", {}).items()}
        yield name, {**{theirs: weights[ours] for theirs, ours in old["old_key_to_layout_key"].items()}, **extra}


@pytest.mark.parametrize("case", [*golden_cases("clam_sb_"), *golden_cases("clam_mb_")], ids=lambda c: c.name)
def test_golden_clam(case, tmp_path):
    description, expected = read_case(require_case(case))
    stated, made = description["tolerance"]["float"], description["inputs"]["model"]
    for name, weights in clam_files(case):
        runs = enumerate(description["inputs"]["runs"][: None if name == "current" else 1])
        for j, run in runs:
            options = {"subtyping": run["subtyping"], "instance_loss": run["inst_loss"], "n_attended": made["B"]}
            model = build_aggregator(made["type"], made["embed_dim"], made["n_classes"], size=made["size"], **options)
            assert isinstance(model, Clam)
            through_file({**weights}, tmp_path, model, AGGREGATOR_LAYOUTS[made["type"]])
            check_clam(model, run["label"], expected, f"in_bag{run['bag']}", f"out_{j}", stated)


def check_clam(model: Clam, label: int, expected: dict[str, NDArray[Any]], bag: str, run: str, stated: str) -> None:
    seen = Seen(model, "attention_net.3")
    features = torch.from_numpy(expected[bag])
    targets = torch.tensor([label])
    output, instance_loss = model.forward_with_instances(features[None], targets)
    assert_close(model(features[None]).logits, expected[f"{run}_logits"], stated)
    assert_close(output.logits, expected[f"{run}_logits"], stated)
    assert_close(output.logits.softmax(dim=1), expected[f"{run}_probabilities"], stated)
    assert output.logits.argmax(dim=1).tolist() == expected[f"{run}_prediction"][0].tolist()
    raw = seen.outputs["attention_net.3"][0].T
    assert_close(raw, expected[f"{run}_attention_raw"], stated)
    assert_close(output.attention[0].T, torch.from_numpy(expected[f"{run}_attention_raw"]).softmax(1).numpy(), stated)
    hidden = model.attention_net[:3](features)
    assert_close(output.attention[0].T @ hidden, expected[f"{run}_bag_features"], stated)
    asked = model.instances(features, label)
    assert asked.targets.tolist() == expected[f"{run}_instance_labels"].tolist()
    assert asked.logits.argmax(dim=1).tolist() == expected[f"{run}_instance_predictions"].tolist()
    assert_close(instance_loss, expected[f"{run}_instance_loss"], stated)
    bag_loss = functional.cross_entropy(output.logits, targets)
    assert_close(bag_loss, expected[f"{run}_bag_loss_ce"], stated)
    assert_close(smooth_svm_loss(output.logits, targets), expected[f"{run}_bag_loss_svm"], stated)
    assert_close(0.7 * bag_loss + 0.3 * instance_loss, expected[f"{run}_total_loss"], stated)


@pytest.mark.slow
@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "data-parallel"])
@pytest.mark.parametrize("case", golden_cases("hipt_lgp_fc"), ids=lambda c: c.name)
def test_golden_hipt_slide(case, wrapped, tmp_path):
    description, expected = read_case(require_case(case))
    stated = description["tolerance"]
    model = HiptSlide(description["inputs"]["n_classes"])
    weights = fill(case)
    if wrapped:
        weights = {key.replace("local_vit.", "local_vit.module."): value for key, value in weights.items()}
    through_file({**weights}, tmp_path, model, (HIPT_LGP,))
    seen = Seen(model, "local_vit", "regions.layers.1", "regions.attention", "regions.rho")
    for i, bag in enumerate(description["inputs"]["bags"]):
        output = model(torch.from_numpy(normal(bag["seed"], [1, bag["M"], 256, 384])))
        assert_close(output.logits, expected[f"out_{i}_logits"], stated["features"])
        assert_close(output.logits.softmax(dim=1), expected[f"out_{i}_probabilities"], stated["features"])
        assert output.logits.argmax(dim=1).tolist() == expected[f"out_{i}_prediction"][0].tolist()
        assert_close(seen.outputs["local_vit"], expected[f"out_{i}_region_embeddings"], stated["features"])
        assert_close(seen.outputs["regions.layers.1"][0], expected[f"out_{i}_after_transformer"], stated["features"])
        assert_close(seen.outputs["regions.attention"][0], expected[f"out_{i}_attention_raw"], stated["features"])
        assert_close(output.attention[..., 0], expected[f"out_{i}_attention"], stated["attention"])
        assert seen.inputs["regions.rho"].shape == expected[f"out_{i}_slide_embedding"].shape
