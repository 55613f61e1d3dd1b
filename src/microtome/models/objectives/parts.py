"""The gradient of a loss over many bags, holding the memory of one."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

_Part = TypeVar("_Part")


def backward_in_parts(
    loss: Callable[[Tensor], Tensor],
    forward: Callable[[_Part], Tensor],
    parts: Sequence[_Part],
    *,
    backward: Callable[[Tensor], None] | None = None,
    device: torch.device | None = None,
) -> Float[Tensor, ""]:
    """Add the gradient of a loss that compares bags with each other, going backward through one part at a time.

    First the logits of all parts without a gradient, then the loss's gradient by the logits, then each part once more,
    backward from there. That is the very gradient of the whole, at the price of a second pass forward; what is drawn
    at random (dropout) is drawn alike in both.

    Args:
        loss: Of the logits of all parts, joined along their last axis but one (bags).
        forward: Logits (..., b, c) of a part.
        parts: Whatever ``forward`` takes: bags, or batches of them.
        backward: What goes backward from a scalar; a task of the training loop passes its own
            ``backward``, which scales.
        device: Whose generator, beside the CPU's, ``forward`` may draw from; None for the CPU alone.

    Returns:
        The loss, without a gradient.
    """
    back = backward or torch.Tensor.backward
    drawn: list[list[Tensor]] = []
    said: list[Tensor] = []
    with torch.no_grad():
        for part in parts:
            drawn.append(_generators(device))
            said.append(forward(part))
    logits = torch.cat(said, dim=-2).requires_grad_()
    with torch.enable_grad():
        value = loss(logits)
        (slopes,) = torch.autograd.grad(value.sum(), logits)
        with _restored(device):
            for part, before, slope in zip(
                parts, drawn, torch.split(slopes, [s.shape[-2] for s in said], dim=-2), strict=True
            ):
                _set_generators(before, device)
                back((forward(part) * slope).sum())
    return value.detach()


def _generators(device: torch.device | None) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device is not None and device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def _set_generators(states: list[Tensor], device: torch.device | None) -> None:
    torch.set_rng_state(states[0])
    if device is not None and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)


@contextmanager
def _restored(device: torch.device | None) -> Iterator[None]:
    """Leave the generators where they are found."""
    states = _generators(device)
    try:
        yield
    finally:
        _set_generators(states, device)
