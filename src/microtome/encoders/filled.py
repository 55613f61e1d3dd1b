"""Weights by rule: to try a network out where its published weights are not at hand. Their features mean nothing."""

import hashlib
import zlib
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from microtome.encoders.base import Card

FILL_RULE = "filled-1"
"""Name of the rule; another rule gets another name, and so another hash of the weights."""


def fill_array(name: str, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
    """Values of one tensor, decided by its name and shape alone.

    Normal values over the root of the fan-in; vectors are 0.1 times normal values, around 1 where they scale
    (``weight``) and around 0 where they shift; variances lie around 1. The same on every machine and with every
    version of torch.

    Args:
        name: Of the tensor in the network's state dict.
        shape: Of the tensor; () for a scalar.

    Returns:
        Float32 values.

    Example:
        >>> fill_array("fc.weight", (2, 3)).shape
        (2, 3)
    """
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(f"0:{name}".encode())))
    values = rng.standard_normal(shape, dtype=np.float32) if shape else np.asarray(rng.standard_normal(), np.float32)
    if name.endswith("running_var"):
        filled = np.abs(1 + np.float32(0.1) * values)
    elif values.ndim <= 1:
        filled = np.float32(name.endswith("weight") and values.ndim == 1) + np.float32(0.1) * values
    else:
        filled = values / np.sqrt(np.prod(shape[1:]))
    return np.asarray(filled, dtype=np.float32)


def fill_network(network: nn.Module, image: tuple[int, int, int]) -> str:
    """Fill a network's parameters and running statistics; leave its fixed tables (positions, indices) as built.

    Batch normalisation must know how large its input is, else signals die out over depth: its statistics are scaled,
    layer by layer, to what noise brings there, rounded to a power of two so that they do not hang on a machine's
    rounding.

    Args:
        network: To be filled; it is set to evaluate.
        image: Channels, height and width of what it sees.

    Returns:
        A hash of the rule and all values, in place of a weights file's.
    """
    network.eval()
    parameters = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    with torch.no_grad():
        for name, tensor in network.state_dict(keep_vars=True).items():
            if name in parameters or name.endswith(("running_mean", "running_var")):
                tensor.copy_(torch.from_numpy(fill_array(name, tuple(tensor.shape))))
        _scale_statistics(network, image)
    whole = hashlib.sha256(FILL_RULE.encode())
    for name, tensor in network.state_dict().items():
        whole.update(f"{name} {tuple(tensor.shape)}".encode())
        whole.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return whole.hexdigest()


def _scale_statistics(network: nn.Module, image: tuple[int, int, int]) -> None:
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.running_var is not None]
    if not layers:
        return
    seen: set[int] = set()

    def scale(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if id(layer) not in seen and isinstance(layer.running_var, Tensor) and isinstance(layer.running_mean, Tensor):
            seen.add(id(layer))
            power = float(arguments[0].square().mean())
            rounded = 2.0 ** round(np.log2(power)) if power > 0 else 1.0
            layer.running_var.mul_(rounded)
            layer.running_mean.mul_(rounded**0.5)

    hooks = [layer.register_forward_pre_hook(scale) for layer in layers]
    try:
        network(torch.from_numpy(_noise(image)))
    finally:
        for hook in hooks:
            hook.remove()


def _noise(image: tuple[int, int, int]) -> Float32[np.ndarray, "2 c h w"]:
    """Two images of fine and coarse noise, of variance 1."""
    channels, height, width = image
    rng = np.random.Generator(np.random.PCG64(0))
    coarse = rng.standard_normal((2, channels, height // 16 + 1, width // 16 + 1), dtype=np.float32)
    fine = rng.standard_normal((2, channels, height, width), dtype=np.float32)
    grown = coarse.repeat(16, axis=2).repeat(16, axis=3)[:, :, :height, :width]
    return (grown + fine) * np.float32(0.5**0.5)


def filled_card(card: Card) -> Card:
    """The card of a network with these weights: nobody trained it, and it is for nothing but trying out."""
    return replace(
        card,
        repo="",
        url="",
        file="",
        revision=FILL_RULE,
        sha256="",
        licence="none: filled by rule",
        gated=False,
        trained_on=(),
        intended_use="Trying out and testing only: its weights are filled by rule, its features mean nothing.",
    )
