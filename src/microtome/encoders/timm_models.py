"""``timm:<name>`` and ``hf-hub:<repository>``: any network that timm knows, fed as its published transform feeds it."""

import json
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib import import_module
from math import floor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microtome.encoders.base import Card
from microtome.encoders.published import Published, timm_network
from microtome.errors import ConfigError, UnknownEncoderError, WeightsError

if TYPE_CHECKING:
    from microtome.encoders.checkpoints import Checkpoint

TIMM, HUB = "timm:", "hf-hub:"

_TIMM_PAPER = "https://github.com/huggingface/pytorch-image-models"
_TIMM_CITATION = "Wightman, PyTorch Image Models, https://doi.org/10.5281/zenodo.4414861"
_RULES = ("checkpoint_filter_fn", "_filter_fn", "pretrained_filter_fn")  # names of timm's functions, per module
# End of a tensor's name → common networks that have it, for telling what a file is.
_COMMON = {
    "layer1.0.conv1.weight": ("resnet18", "resnet34", "resnet50", "resnet101", "wide_resnet50_2"),
    "layers.0.blocks.0.attn.qkv.weight": ("swin_tiny_patch4_window7_224", "swin_base_patch4_window7_224"),
    "stages.0.blocks.0.conv_dw.weight": ("convnext_tiny", "convnext_small", "convnext_base"),
    "cls_attn_blocks.0.attn.q.weight": ("xcit_small_12_p16_224", "xcit_medium_24_p16_224"),
    "blocks.0.0.conv_dw.weight": ("efficientnet_b0", "mobilenetv3_large_100"),
    "denseblock1.denselayer1.conv1.weight": ("densenet121",),
}
_VIT_SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large"}
_USE = "Research only: a general network of timm. Its own page says what it was trained for."


@dataclass(frozen=True)
class _Source:
    """A network of timm as somebody published it: architecture, constructor arguments (JSON), pretrained config."""

    architecture: str
    arguments: str
    config: Any


def find(name: str, weights: str | Path | None = None) -> Published:
    """An encoder of timm by name.

    Args:
        name: ``timm:`` and a name of timm, with or without the tag of its weights; ``hf-hub:`` and a repository laid
            out as timm does (``config.json`` with ``architecture``).
        weights: The file that will be loaded, if any; a ``config.json`` beside it stands for the repository's.

    Raises:
        UnknownEncoderError: If timm has no such network.
        WeightsError: If a repository's ``config.json`` cannot be had, or is not timm's.
        ConfigError: If the network gives no vector, or wants what no tile is.
    """
    if weights is None or weights == "none" or not name.startswith(HUB):
        return _find(name, "")
    beside = Path(weights).with_name("config.json")
    return _find(name, str(beside) if beside.is_file() else "")


@lru_cache(maxsize=32)
def _find(name: str, config: str) -> Published:
    if name.startswith(TIMM):
        source, repo = _known_to_timm(name), ""
    else:
        repo, revision = _repository(name)
        source = _on_the_hub(name, repo, revision, config)
    build = timm_network(source.architecture, **json.loads(source.arguments))
    card, square_only = _card(name, source, repo)
    return Published(
        card=card,
        build=build,
        head=_head_names(source),
        adapt=_Adapt(source.architecture),
        square_only=square_only,
    )


def _known_to_timm(name: str) -> _Source:
    import timm

    wanted = name.removeprefix(TIMM)
    architecture, _, tag = wanted.partition(".")
    try:
        known = timm.is_model(architecture)
        config = timm.get_pretrained_cfg(wanted) if known else None
    except RuntimeError:  # no such tag
        config = None
    if config is None:
        names = timm.list_models(f"{architecture}*", pretrained=True) if tag else []
        near = get_close_matches(wanted.lower(), names or timm.list_models(), n=3, cutoff=0.5)
        hint = f"Did you mean {', '.join(repr(TIMM + n) for n in near)}? " if near else ""
        raise UnknownEncoderError(
            f"timm {timm.__version__} has no network {wanted!r}. {hint}timm.list_models() lists all of them."
        )
    return _Source(architecture, "{}", config)


def _repository(name: str) -> tuple[str, str | None]:
    repo, _, revision = name.removeprefix(HUB).partition("@")
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise UnknownEncoderError(f"{name!r} does not name a repository. Pass {HUB}owner/repository.")
    return repo, revision or None


def _on_the_hub(name: str, repo: str, revision: str | None, beside: str) -> _Source:
    import timm
    from timm.models import PretrainedCfg

    from microtome.encoders.hub import fetch_config, read_config

    config = dict(read_config(Path(beside)) if beside else fetch_config(repo, revision))
    architecture = config.get("architecture")
    if not isinstance(architecture, str):
        raise WeightsError(
            f"config.json of '{repo}' names no architecture of timm. It is laid out for another library; see microtome "
            "encoders for those that are known by name."
        )
    if not timm.is_model(architecture):
        raise UnknownEncoderError(f"{name!r} is a {architecture!r}, which timm {timm.__version__} does not have.")
    stated = config.get("pretrained_cfg", config)
    fields = PretrainedCfg.__dataclass_fields__
    known = {key: value for key, value in stated.items() if key in fields}
    arguments = json.dumps(config.get("model_args") or {}, sort_keys=True)
    return _Source(architecture, arguments, PretrainedCfg(**known))


def _card(name: str, source: _Source, repo: str) -> tuple[Card, bool]:
    from timm.data.config import resolve_data_config

    config = source.config
    data = resolve_data_config(pretrained_cfg=config.to_dict())  # type: ignore[no-untyped-call]  # timm's
    channels, height, width = data["input_size"]
    if channels != 3 or height != width:
        raise ConfigError(f"Encoder '{name}' sees {width}×{height} px of {channels} channels, which no square tile is.")
    side = floor(height / data["crop_pct"])  # as timm's transform has it
    squash = data["crop_mode"] == "squash"
    crop = None if squash and side == height else height
    paper = config.paper_ids if isinstance(config.paper_ids, str) else next(iter(config.paper_ids or ()), "")
    card = Card(
        name=name,
        dim=_measure_dim(name, source, height),
        input_px=height,
        tile_px=side,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        resize=side,
        crop=crop,
        interpolation=data["interpolation"],
        size_policy="resize",
        modality="brightfield",
        pooling="timm's own",
        precision="fp32",
        repo=repo or config.hf_hub_id or "",
        file=config.hf_hub_filename or "",
        revision=_revision(name),
        licence=config.license or "not stated by timm: see the network's page",
        paper=paper.replace("arXiv:", "https://arxiv.org/abs/") or config.origin_url or _TIMM_PAPER,
        citation=f"{paper + '; ' if paper else ''}{_TIMM_CITATION}",
        code=_TIMM_PAPER,
        trained_on=(config.tag,) if config.tag else (),
        intended_use=_USE,
    )
    oblong_differs = data["crop_mode"] == "border" or (squash and crop is not None)
    return card, oblong_differs


def _revision(name: str) -> str:
    return name.partition("@")[2] if name.startswith(HUB) else ""


def _measure_dim(name: str, source: _Source, side: int) -> int:
    """Length of the vector, found by running the network without values."""
    import torch

    try:
        with torch.device("meta"):
            network = timm_network(source.architecture, **json.loads(source.arguments))()
            shape = tuple(network(torch.empty(1, 3, side, side)).shape)
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise ConfigError(
            f"'{name}' cannot be built as an encoder: {str(error).splitlines()[0].rstrip('.')}. Choose another network."
        ) from error
    if len(shape) != 2:
        raise ConfigError(
            f"'{name}' gives an output of shape {shape} per tile, not a vector: its pooling is left to the user. See "
            "microtome encoders for whether it is known by a name of its own."
        )
    return int(shape[1])


def _head_names(source: _Source) -> frozenset[str]:
    """Tensors of the classifier, which the network is built without."""
    import timm

    known = timm.get_pretrained_cfg(source.architecture)
    stated = source.config.classifier or (known.classifier if known is not None else None) or ()
    classifiers = (stated,) if isinstance(stated, str) else stated
    return frozenset(f"{layer}.{kind}" for layer in classifiers for kind in ("weight", "bias"))


@dataclass(frozen=True)
class _Adapt:
    """timm's own rule for files of an architecture that were made with other names (older timm, the authors' code)."""

    architecture: str

    def __call__(self, tensors: dict[str, Any], network: Any) -> dict[str, Any]:  # noqa: ANN401 - an nn.Module
        """Tensors under today's names; as they came where timm has no rule."""
        import timm

        module = import_module(timm.models.model_entrypoint(self.architecture).__module__)
        rules = (getattr(module, rule, None) for rule in _RULES)
        rule = next((rule for rule in rules if rule is not None), None)
        if rule is None:
            return tensors
        adapted: dict[str, Any] = rule(dict(tensors), network)
        for name, tensor in adapted.items():
            before = tensors.get(name)
            if "pos" in name and before is not None and before.shape != tensor.shape:
                return tensors  # positions of another image size: a tile would be seen otherwise than in training
        return adapted


def guess_architecture(checkpoint: "Checkpoint") -> str:
    """Which common network of timm a file is of; empty where none."""
    import timm
    import torch

    from microtome.encoders.checkpoints import fit_checkpoint

    for architecture in filter(timm.is_model, _candidates(checkpoint)):
        with torch.device("meta"):
            wanted = timm.create_model(architecture, num_classes=0).state_dict()
        source = _Source(architecture, "{}", timm.get_pretrained_cfg(architecture))
        if fit_checkpoint(checkpoint, wanted, head=_head_names(source)).is_whole:
            return architecture
    return ""


def _candidates(checkpoint: "Checkpoint") -> list[str]:
    """Networks that a file may be of, told by the names of single tensors, without building any."""
    from microtome.encoders.checkpoints import state_dicts

    found: list[str] = []
    for _, tensors in state_dicts(checkpoint.content):
        for end, architectures in _COMMON.items():
            if any(name.endswith(end) for name in tensors):
                found.extend(architectures)
        for name, tensor in tensors.items():
            if name.endswith("patch_embed.proj.weight") and tensor.ndim == 4 and len(tensor) in _VIT_SIZES:
                found.append(f"vit_{_VIT_SIZES[len(tensor)]}_patch{tensor.shape[-1]}_224")
    return found
