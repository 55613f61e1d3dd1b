"""Stacks of linear layers between instances and logits."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from microtome.errors import ConfigError

_ACTIVATIONS: dict[str, type[nn.Module]] = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


def mlp(
    n_in: int, hidden: Sequence[int], n_out: int, *, activation: str = "sigmoid", dropout: float = 0.0
) -> nn.Sequential:
    """Hidden layers ``{j}.0``, each with activation and dropout, and a last linear layer ``{n_hidden}``.

    Args:
        n_in: Length of the input.
        hidden: Lengths in between; none makes it one linear layer.
        n_out: Length of the output.
        activation: ``sigmoid``, ``relu``, ``tanh`` or ``gelu``.
        dropout: Share of the hidden values that training leaves out.

    Raises:
        ConfigError: If the activation is none of these.

    Example:
        >>> [name for name, _ in mlp(20, [8], 1).named_parameters()]
        ['0.0.weight', '0.0.bias', '1.weight', '1.bias']
    """
    if activation not in _ACTIVATIONS:
        raise ConfigError(f"Activations are {', '.join(_ACTIVATIONS)}. Got {activation!r}.")
    widths = [n_in, *hidden]
    layers: list[nn.Module] = [
        nn.Sequential(nn.Linear(a, b), _ACTIVATIONS[activation](), nn.Dropout(dropout)) for a, b in pairwise(widths)
    ]
    return nn.Sequential(*layers, nn.Linear(widths[-1], n_out))
