"""One batch out of those of all processes, through which gradients find their way back."""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor
from torch.autograd import Function


def gather(rows: Shaped[Tensor, "b ..."]) -> Shaped[Tensor, "n ..."]:
    """Join the rows of all processes, in their order; alone, and where ``torch.distributed`` does not run, the same.

    Every process has as many rows as the others. The gradient of a row is the sum of those that the processes' losses
    give it; where each computes the loss of the joint batch, the mean of the processes' gradients of the weights is
    then the gradient of that loss.

    Args:
        rows: This process's.

    Returns:
        Those of all, of the same dtype.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    if rows.is_floating_point():
        joint: Tensor = _Gather.apply(rows)
        return joint
    return _joined(rows)


def _joined(rows: Tensor) -> Tensor:
    rows = rows.detach().contiguous()
    pieces = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(pieces, rows)
    return torch.cat(pieces)


class _Gather(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:  # noqa: ANN401 - torch's context
        ctx.n = len(rows)
        return _joined(rows)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:  # noqa: ANN401 - torch's context
        whole = slope.contiguous().clone()
        dist.all_reduce(whole)
        start = dist.get_rank() * ctx.n
        return whole[start : start + ctx.n]
