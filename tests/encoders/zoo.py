"""Encoders of the zoo cut to two blocks, at their own width, and files of theirs as they are published."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from microtome.encoders.base import Card
from microtome.encoders.key_maps import KEY_MAPS
from microtome.encoders.published import Published
from microtome.encoders.registry import find_published
from tests.encoders.small_networks import fill_randomly
from tests.encoders.test_key_maps import with_extras

PLAIN: dict[str, Any] = {"device": "cpu", "precision": "fp32", "runtime": "torch"}
WITH_TABLES = ("ctranspath", "prostate")  # their networks hold values that no state dict has


def cut(network: nn.Module) -> nn.Module:
    """At most two blocks in a row, of wide ones one."""
    for module in list(network.modules()):
        blocks = getattr(module, "blocks", None)
        if isinstance(blocks, nn.Sequential | nn.ModuleList):
            width = max(parameter.shape[0] for parameter in blocks[0].parameters())
            module.blocks = blocks[: 2 if width < 4000 else 1]
        for stage in ("layer1", "layer2", "layer3", "layer4"):  # of a ResNet
            if isinstance(getattr(module, stage, None), nn.Sequential):
                setattr(module, stage, getattr(module, stage)[:1])
    return network


def build_cut(name: str, build: Callable[[], nn.Module]) -> nn.Module:
    """The network cut, with random weights."""
    if any(part in name for part in WITH_TABLES):
        return fill_randomly(cut(build()))
    with torch.device("meta"):
        network = cut(build())
    hidden = {key for key, _ in network.named_buffers()} - set(network.state_dict())
    assert not hidden, f"{hidden} would have no values"
    return fill_randomly(network.to_empty(device="cpu"))


def small(name: str) -> Published:
    """The encoder with its network cut to two blocks."""
    encoder = find_published(name, None)
    assert isinstance(encoder, Published)
    return replace(encoder, build=partial(build_cut, name, encoder.build))


def write_file(encoder: Published, network: nn.Module, layout: str, folder: Path) -> Path:
    """The network's weights as they are published, among what else such a file holds; a folder for parts."""
    if not encoder.parts:
        path = folder / "weights.pth"
        torch.save(with_extras(KEY_MAPS[layout].publish(network.state_dict()), layout), path)
        return path
    for file, part, _ in encoder.parts:
        state = network.get_submodule(part).state_dict()
        torch.save(with_extras(KEY_MAPS[layout].publish(state), layout), folder / file)
    return folder


def tiles(encoder: Published, n: int, side: int | None = None, seed: int = 0) -> np.ndarray:
    """Tiles of the encoder's own kind: coarse colour under fine noise."""
    rng = np.random.default_rng(seed)
    side = side or card_side(encoder.card)
    top = np.iinfo(encoder.dtype).max
    coarse = rng.integers(0, top, (n, 8, 8, encoder.channels)).repeat(-(-side // 8), 1).repeat(-(-side // 8), 2)
    fine = rng.integers(0, top, (n, side, side, encoder.channels))
    return (coarse[:, :side, :side] * 0.7 + fine * 0.3).astype(encoder.dtype)


def card_side(card: Card) -> int:
    """The card's tile; of regions two by two tiles."""
    return 512 if card.tile_px == 4096 else card.tile_px
