"""FastGlioma as a whole: patch encoder, slide transformer, score head, and what else its file carries.

One file of the published layout holds all three. The stages of training leave the patch encoder in one file and the
rest in another.

References:
    specs FastGlioma section 1.5.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int
from torch import Tensor, nn

from microtome.encoders.base import Encoder
from microtome.encoders.checkpoints import Checkpoint, check_finite, compare, read_checkpoint
from microtome.encoders.families.fastglioma import ENCODERS
from microtome.encoders.filled import fill_network, filled_card
from microtome.encoders.hardware import Wanted
from microtome.encoders.hub import fetch, fetch_weights
from microtome.encoders.key_maps import KEY_MAPS, load_layout
from microtome.encoders.network import NetworkEncoder
from microtome.encoders.published import Published
from microtome.encoders.srh_preprocess import SrhPreprocess
from microtome.encoders.srh_reference import Calibration, Familiar, read_calibration
from microtome.errors import ConfigError, EncoderOutputError, WeightsError
from microtome.models.fastglioma import N_PREFIX, SrhScorer, SrhSlideTransformer
from microtome.models.resnet34 import ResNet34, folded
from microtome.models.srh import SRH_MODES

MODELS = {"fastglioma-highres": "fastglioma-highres-tokenizer", "fastglioma-lowres": "fastglioma-lowres-tokenizer"}
"""Published models, and their patch encoders."""

PATCH_INPUTS = ("highres", "lowres", *SRH_MODES)
"""What a network sees: the published two, or one of the ways of seeing the channels at full resolution."""

MARK = "microtome."
"""Tensors of ours in a model's file start with it; all others are the network's."""

_PATCH_LAYOUTS = ("fastglioma", "hidisc")


@dataclass(frozen=True)
class SlideOutput:
    """What the slide level gives for one slide.

    Attributes:
        logit: The score's, before the sigmoid.
        embedding: The slide's vector.
        attention: Of the class token to each patch in the last block, mean over heads; sums to less than one, as the
            prefix tokens take their share.
    """

    logit: float
    embedding: Float32[np.ndarray, " d"]
    attention: Float32[np.ndarray, " n"]


@dataclass(frozen=True)
class SrhModel:
    """A model ready to score.

    Attributes:
        name: ``fastglioma-highres``, ``fastglioma-lowres``, or the file's name.
        patch_input: What its patch encoder sees, one of :data:`PATCH_INPUTS`.
        tokenizer: Patches to vectors; None where there is none in the file and none was given: it then scores saved
            embeddings.
        scorer: Vectors and places to a logit; fp32 on the CPU.
        weights_sha256: Of the file; of both files, in turn, where there are two.
        origin: ``published``, ``file`` or ``filled``.
        calibration: Of its score; None for the plain sigmoid.
        familiar: Slides that it was validated on; None where the file has none.
        network: The patch encoder's network, with its weights.
    """

    name: str
    patch_input: str
    tokenizer: Encoder | None
    scorer: SrhScorer
    weights_sha256: str
    origin: str
    calibration: Calibration | None = None
    familiar: Familiar | None = None
    network: nn.Module | None = field(default=None, repr=False)

    @property
    def recipe(self) -> dict[str, object]:
        """What decides a score beside the pixels."""
        runtime = {} if self.tokenizer is None else {f"tokenizer_{k}": v for k, v in self.tokenizer.recipe.items()}
        return {"model": self.name, "patch_input": self.patch_input, "weights_sha256": self.weights_sha256, **runtime}

    def see_slide(self, features: Float32[np.ndarray, "n d"], grid: Int[np.ndarray, "n 2"]) -> SlideOutput:
        """Score the patches of one slide, or of a part of it.

        Args:
            features: Vectors of its patches.
            grid: Row and column of each.

        Raises:
            EncoderOutputError: If what goes in or comes out is not finite.
        """
        if not np.isfinite(features).all():
            raise EncoderOutputError("Vectors of patches must be finite. Got NaN or infinity: make them again.")
        x, places = torch.from_numpy(np.ascontiguousarray(features))[None], torch.from_numpy(np.array(grid))[None]
        with torch.inference_mode():
            embedding = self.scorer.slide(x, places)
            logit = self.scorer.head(embedding)
            attention = self.scorer.slide.last_attention(x, places)[0, :, 0, N_PREFIX:].mean(dim=0)
        if not bool(torch.isfinite(logit).all()):
            raise EncoderOutputError("The score is NaN or infinite: the model's weights are at fault.")
        return SlideOutput(float(logit), embedding[0].numpy(), attention.numpy())


def load_srh_model(
    model: str,
    *,
    weights: str | Path | None = None,
    tokenizer: Path | None = None,
    patch_input: str | None = None,
    repo: str | None = None,
    wanted: Wanted = Wanted(),  # noqa: B008 - a tuple
) -> SrhModel:
    """Load a model to score with.

    Args:
        model: ``fastglioma-highres``, ``fastglioma-lowres``, or a file: published layout, our safetensors, or the
            checkpoint of the scorer's own training.
        weights: File in place of the published one of a named model; ``"none"`` to fill the network by rule: its
            scores mean nothing.
        tokenizer: File of the patch encoder where ``model`` is a scorer alone.
        patch_input: What the patch encoder sees; None for what the model's name or file says.
        repo: Where ``model`` names a file of a repository of the hub.
        wanted: How the patch encoder is run.

    Raises:
        ConfigError: If there is no such model or input.
        WeightsError: If weights cannot be had or read, or are of another resolution.
    """
    if patch_input is not None and patch_input not in PATCH_INPUTS:
        raise ConfigError(f"patch_input must be one of {', '.join(PATCH_INPUTS)}. Got {patch_input!r}.")
    if model in MODELS and weights == "none":
        return _filled(model, patch_input or model.rpartition("-")[2], wanted)
    if weights == "none":
        raise ConfigError(f"weights 'none' fills a model by name: {' or '.join(MODELS)}. Got {model!r}.")
    path, stated = _find(model, weights, repo)
    checkpoint = _read(path)
    return _from_file(model, checkpoint, patch_input or stated, tokenizer, wanted)


def load_patch_network(path: Path, patch_input: str) -> nn.Module:
    """The patch encoder's network in a file: published layout, ours, or that of its own training.

    Args:
        path: The file.
        patch_input: What it sees, one of :data:`PATCH_INPUTS`.

    Raises:
        WeightsError: If the file has none, or one of another resolution.
    """
    patches = _without_ours(_read(path))
    return _patch_network(patches, check_input(patches, patch_input))


def load_slide_transformer(path: Path) -> SrhSlideTransformer:
    """The slide transformer in a file: published layout, ours, or that of stage 2 or 3.

    Raises:
        WeightsError: If the file has none.
    """
    prefix = "model.bb.mil."
    named = _tensors(_read(path)).items()
    tensors = {name.removeprefix(prefix): value for name, value in named if name.startswith(prefix)}
    if not tensors:
        raise WeightsError(f"'{path}' holds no slide transformer ({prefix}*). Pass the weights of stage 2.")
    transformer = SrhSlideTransformer()
    _fill(transformer, tensors, path)
    return transformer


def _find(model: str, weights: str | Path | None, repo: str | None) -> tuple[Path, str | None]:
    """The file, and the input that the model's name says."""
    if model in MODELS:
        card = ENCODERS[MODELS[model]].card
        return (fetch_weights(card) if weights is None else Path(weights)), model.rpartition("-")[2]
    if weights is not None:
        raise ConfigError(f"weights goes with a model by name: {' or '.join(MODELS)}. Got the model {model!r}.")
    path = Path(model)
    if path.is_file():
        return path, None
    if repo is not None:
        return fetch(repo, (model,), None, gated=True), None
    raise WeightsError(
        f"There is no model {model!r}: neither a file nor one of {', '.join(MODELS)}. Check the path, or pass a name."
    )


def _read(path: Path) -> Checkpoint:
    """A weights file; the tensors of a safetensors file lie under ``state_dict`` as those of a checkpoint do."""
    checkpoint = read_checkpoint(path)
    if "state_dict" in checkpoint.content:
        return checkpoint
    return replace(checkpoint, content={"state_dict": dict(checkpoint.content)})


def _tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    found = checkpoint.content["state_dict"]
    if not isinstance(found, Mapping):
        raise WeightsError(f"'{checkpoint.path}' has a state_dict that is no table of tensors. Pass a checkpoint.")
    return {str(name): value for name, value in found.items() if isinstance(value, Tensor)}


def stage_of(names: Mapping[str, Any]) -> str:
    """Which training stage's layout a state dict has: ``published``, ``hidisc``, ``slide-ssl`` or ``scorer``.

    Raises:
        WeightsError: If none.
    """
    patches = "model.backbone.conv1.weight" in names
    slide = "model.bb.mil.cls_token" in names
    head = "model.head.layers.0.weight" in names
    if slide and head:
        return "published" if patches else "scorer"
    if slide:
        return "slide-ssl"
    if "model.bb.conv1.weight" in names:
        return "hidisc"
    raise WeightsError(
        f"The weights are in none of FastGlioma's layouts: they have {len(names)} tensors, among them "
        f"{', '.join(repr(name) for name in list(names)[:3])}. Pass its published file, or that of a training stage."
    )


def _from_file(
    name: str, checkpoint: Checkpoint, patch_input: str | None, tokenizer: Path | None, wanted: Wanted
) -> SrhModel:
    stage = stage_of(_tensors(checkpoint))
    if stage not in ("published", "scorer"):
        what = "patches alone" if stage == "hidisc" else "slides without a score head"
        raise WeightsError(
            f"'{checkpoint.path}' is of the stage '{stage}', which is for {what}: nothing in it gives a score. Pass "
            "the published file, or a scorer (--model) with its patch encoder (--tokenizer)."
        )
    if stage == "published" and tokenizer is not None:
        raise ConfigError(f"'{checkpoint.path}' has a patch encoder of its own. Leave tokenizer out.")
    scorer = SrhScorer()
    own = _without_ours(checkpoint)
    _fill(scorer, load_layout(own.content, [KEY_MAPS["fastglioma-slide"]], encoder=name), checkpoint.path)
    patches = own if stage == "published" else None if tokenizer is None else _without_ours(_read(tokenizer))
    said = _metadata(checkpoint.path)
    stated = patch_input or said.get("patch_input")
    hashes = checkpoint.sha256 if tokenizer is None or patches is None else f"{checkpoint.sha256}+{patches.sha256}"
    known = None if name not in MODELS else ENCODERS[MODELS[name]].card.sha256
    origin = "published" if known and known == checkpoint.sha256 else "file"
    encoder, network = None, None
    if patches is not None:
        stated = check_input(patches, stated)
        network = _patch_network(patches, stated)
        encoder = NetworkEncoder(
            _published_for(stated),
            _for_inference(network),
            wanted=wanted,
            weights_hash=patches.sha256,
            weights_origin=origin,
        )
    return SrhModel(
        name=name if name in MODELS else Path(name).name,
        patch_input=stated or "unknown",
        tokenizer=encoder,
        scorer=scorer.eval(),
        weights_sha256=hashes,
        origin=origin,
        calibration=read_calibration(said["calibration"]) if "calibration" in said else None,
        familiar=_familiar(checkpoint, said),
        network=network,
    )


def _without_ours(checkpoint: Checkpoint) -> Checkpoint:
    network = {name: value for name, value in _tensors(checkpoint).items() if not name.startswith(MARK)}
    return replace(checkpoint, content={"state_dict": network})


def _patch_network(patches: Checkpoint, patch_input: str) -> nn.Module:
    published = _published_for(patch_input)
    network: nn.Module = published.build()
    layouts = [KEY_MAPS[name] for name in _PATCH_LAYOUTS]
    _fill(network, load_layout(patches.content, layouts, encoder=published.card.name), patches.path)
    return network


def _for_inference(network: nn.Module) -> nn.Module:
    return folded(network) if isinstance(network, ResNet34) else network


def _fill(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give a network tensors, all of which must find their like."""
    fit = compare("", "", tensors, network.state_dict())
    if not fit.is_whole:
        raise WeightsError(f"'{path}' is not FastGlioma's: {fit.explanation}. Download it again, or convert it anew.")
    check_finite(path, fit.tensors)
    network.load_state_dict(dict(fit.tensors), strict=False)  # the fit is strict, but for counters of batches


def check_input(checkpoint: Checkpoint, patch_input: str | None) -> str:
    """What the patch encoder in a file sees, from what was stated and the channels of its first convolution.

    Raises:
        WeightsError: If they contradict each other, or one channel is seen and nobody says which.
    """
    names = ("model.backbone.conv1.weight", "model.bb.conv1.weight")
    stem = next((t for n, t in _tensors(checkpoint).items() if n in names), None)
    if stem is None or stem.ndim != 4:
        raise WeightsError(f"'{checkpoint.path}' holds no patch encoder. Pass the published file, or that of stage 1.")
    channels = int(stem.shape[1])
    if patch_input is None:
        if channels == len(("difference", "CH2", "CH3")):
            return "highres"
        raise WeightsError(
            f"The patch encoder in '{checkpoint.path}' sees {channels} channel(s), and the file does not say which. "
            f"Pass --patch-input: lowres for the published fast-scan model, or one of {', '.join(SRH_MODES[1:])}."
        )
    wanted = 3 if patch_input in ("highres", "three_channels") else 1
    if channels != wanted:
        other = "highres" if channels > wanted else "lowres"
        raise WeightsError(
            f"'{checkpoint.path}' is the checkpoint of the other resolution: its patch encoder sees {channels} "
            f"channel(s), but {patch_input} has {wanted}. Pass the file of {patch_input}, or {other}."
        )
    return patch_input


def _published_for(patch_input: str) -> Published:
    name = "fastglioma-highres" if patch_input in ("highres", "three_channels") else "fastglioma-lowres"
    published = ENCODERS[MODELS[name]]
    if patch_input in SRH_MODES:
        see = partial(SrhPreprocess, low_resolution=False, mode=patch_input)
        own = replace(published.card, name=f"fastglioma-{patch_input}")
        return replace(published, card=own, preprocess=see)
    return published


def _filled(model: str, patch_input: str, wanted: Wanted) -> SrhModel:
    published = _published_for(patch_input)
    network, scorer = published.build(), SrhScorer()
    side = published.card.tile_px
    hashes = [
        fill_network(network, (published.sees, side, side)),
        fill_network(scorer, (published.sees, side, side)),
    ]
    filled = replace(published, card=filled_card(published.card))
    tokenizer = NetworkEncoder(
        filled, _for_inference(network), wanted=wanted, weights_hash=hashes[0], weights_origin="filled"
    )
    return SrhModel(model, patch_input, tokenizer, scorer.eval(), "+".join(hashes), "filled", network=network)


def _metadata(path: Path) -> dict[str, str]:
    """What our own files say beside tensors; nothing for checkpoints."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError:
        return {}


def _familiar(checkpoint: Checkpoint, said: Mapping[str, str]) -> Familiar | None:
    found = _tensors(checkpoint).get(f"{MARK}validation_embeddings")
    if found is None:
        return None
    try:
        limit, k, quantile = float(said["ood_limit"]), int(said["ood_neighbours"]), float(said["ood_quantile"])
    except (KeyError, ValueError) as error:
        raise WeightsError(
            f"'{checkpoint.path}' has validation embeddings without a limit that goes with them ({error}). Convert it."
        ) from error
    return Familiar(found.to(torch.float32).numpy(), k, limit, quantile)
