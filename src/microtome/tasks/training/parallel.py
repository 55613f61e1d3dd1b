"""Several processes on one training, as ``torchrun`` starts them: who is who, and what they tell each other."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from microtome.errors import ConfigError

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which of how many processes this one is.

    Attributes:
        rank: From 0; the first writes the files.
        world: How many there are.
        local: Number of this process on its machine, and so of its GPU.
    """

    rank: int = 0
    world: int = 1
    local: int = 0


def ranks() -> Ranks:
    """This process's place, from the environment that ``torchrun`` makes; alone where there is none.

    Raises:
        ConfigError: If the environment contradicts itself.
    """
    world = _number("WORLD_SIZE", 1)
    rank = _number("RANK", 0)
    if not 0 <= rank < world:
        raise ConfigError(f"RANK={rank} is not among the {world} processes of WORLD_SIZE. Start them with torchrun.")
    return Ranks(rank, world, _number("LOCAL_RANK", rank))


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    try:
        return int(text) if text else default
    except ValueError:
        raise ConfigError(f"The environment variable {name} must be a whole number, got {text!r}.") from None


@contextmanager
def joined(place: Ranks, device: torch.device) -> Iterator[None]:
    """Let the processes talk, over NCCL where they are on GPUs and Gloo where not; nothing to do for one alone.

    For a task too that builds its modules or reads its data before training and needs the others for that; where
    they talk already, they go on.
    """
    if place.world == 1 or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def spread_weights(modules: Iterable[nn.Module], place: Ranks) -> None:
    """Give every process the first one's weights and buffers."""
    if place.world > 1:
        for module in modules:
            for tensor in [*module.parameters(), *module.buffers()]:
                dist.broadcast(tensor.detach(), 0)


def spread_buffers(modules: Iterable[nn.Module], place: Ranks) -> None:
    """Give every process the first one's buffers (running statistics)."""
    if place.world > 1:
        for module in modules:
            for tensor in module.buffers():
                dist.broadcast(tensor, 0)


def average_gradients(parameters: Iterable[Tensor], place: Ranks) -> None:
    """Replace gradients by their means over the processes.

    A process without a gradient of a parameter counts as one whose gradient is zero; a parameter of which none has one
    stays without.
    """
    if place.world == 1:
        return
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        if parameter.requires_grad:
            kinds[parameter.dtype, parameter.device].append(parameter)
    for (dtype, device), alike in kinds.items():
        there = torch.tensor([p.grad is not None for p in alike], dtype=dtype, device=device)
        flat = torch.cat([there, *((p if p.grad is None else p.grad).detach().flatten() for p in alike)])
        start = len(alike)
        for parameter in alike:
            if parameter.grad is None:
                flat[start : start + parameter.numel()] = 0
            start += parameter.numel()
        dist.all_reduce(flat)
        flat /= place.world
        pieces = torch.split(flat[len(alike) :], [p.numel() for p in alike])
        for parameter, piece, found in zip(alike, pieces, flat[: len(alike)].tolist(), strict=True):
            if found > 0:
                parameter.grad = piece.view_as(parameter)


def any_of(place: Ranks, *, flag: bool) -> bool:
    """Whether it holds in any process; all learn the same."""
    return flag if place.world == 1 else any(all_of(place, flag))


def all_of(place: Ranks, value: _Value) -> list[_Value]:
    """Every process's value, in their order."""
    if place.world == 1:
        return [value]
    found: list[_Value] = [value] * place.world
    dist.all_gather_object(found, value)
    return found


def first_of(place: Ranks, value: _Value) -> _Value:
    """The first process's value."""
    return all_of(place, value)[0]


def wait_for_all(place: Ranks) -> None:
    """Go on when all processes are here."""
    if place.world > 1:
        dist.barrier()
