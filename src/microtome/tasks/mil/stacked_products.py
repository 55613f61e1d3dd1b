"""Matrix products of many models at once: the layers that take nearly all the time of training on bags.

The first layer of all models sees the same instances, so it is one product; and what comes back to it is one product
too, with no gradient by the instances, which nobody needs. Weights and their gradients are float32; the products are in
the precision of the vectors. Axes: m models, n instances, d length of a vector, h and k lengths in between.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

_LARGE = 1 << 26
"""Multiplications from which on another library's product is worth asking for."""


def onednn_linear() -> Any:  # noqa: ANN401 - an operator of torch
    """OneDNN's float32 product, which torch has for its compiler; None where this torch has none.

    On CPUs that are not Intel's, torch's own float32 product leaves half of the machine unused.
    """
    try:
        return torch.ops.mkldnn._linear_pointwise.default
    except (AttributeError, RuntimeError):
        return None


_ONEDNN = onednn_linear()


def matmul(a: Float[Tensor, "p q"], b: Float[Tensor, "q r"]) -> Float[Tensor, "p r"]:
    """``a @ b``, by the fastest library at hand."""
    if _ONEDNN is not None and a.dtype == torch.float32 and a.device.type == "cpu" and a.numel() * b.shape[1] >= _LARGE:
        product: Tensor = _ONEDNN(_dense(a), _dense(b).t(), None, "none", [], "")
        return product
    return a @ b


def _dense(a: Tensor) -> Tensor:
    """The matrix without gaps between its rows or columns: where there are any, oneDNN takes its slowest way."""
    return a if a.is_contiguous() or a.t().is_contiguous() else a.contiguous()


def batch_matmul(a: Float[Tensor, "m p q"], b: Float[Tensor, "m q r"]) -> Float[Tensor, "m p r"]:
    """``a[i] @ b[i]`` for every i, by the fastest library at hand."""
    if _ONEDNN is None or a.dtype != torch.float32 or a.device.type != "cpu" or a[0].numel() * b.shape[2] < _LARGE:
        return torch.bmm(a, b)
    product = a.new_empty(a.shape[0], a.shape[1], b.shape[2])
    for i in range(len(a)):
        product[i] = matmul(a[i], b[i])
    return product


class _Shared(Function):
    """One input, the weights of many models."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # noqa: ANN401 - torch's context
        m, h, d = weight.shape
        flat = matmul(x, weight.to(x.dtype).reshape(m * h, d).t())
        flat += bias.reshape(m * h).to(x.dtype)
        ctx.save_for_backward(x)
        return flat.view(len(x), m, h).transpose(0, 1).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor]:  # noqa: ANN401 - torch's context
        (x,) = ctx.saved_tensors
        m, n, h = grad.shape
        flat = grad.transpose(0, 1).reshape(n, m * h)
        weight = matmul(flat.t(), x).view(m, h, x.shape[1])
        return None, weight.float(), _column_sums(flat[None]).view(m, h)


class _Each(Function):
    """An input and weights of each model."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # noqa: ANN401 - torch's context
        own = weight.to(x.dtype)
        ctx.save_for_backward(x, own)
        product = batch_matmul(x, own.transpose(1, 2))
        product += bias[:, None].to(x.dtype)
        return product

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401 - torch's context
        x, own = ctx.saved_tensors
        weight = batch_matmul(grad.transpose(1, 2), x)
        return batch_matmul(grad, own), weight.float(), _column_sums(grad)


class _Gated(Function):
    """tanh(x A) · sigmoid(x B), with one product and, as tanh(u) = 2 sigmoid(2u) - 1, one sigmoid.

    torch's tanh takes several times as long as its sigmoid.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, biases: Tensor) -> Tensor:  # noqa: ANN401 - torch's context
        """``weights`` (m, 2k, h): those of tanh, then those of the sigmoid."""
        k = weights.shape[1] // 2
        scale = weights.new_ones(2 * k)
        scale[:k] = 2
        own = weights * scale[:, None]
        both = batch_matmul(x, own.to(x.dtype).transpose(1, 2))
        both += (biases * scale)[:, None].to(x.dtype)
        both.sigmoid_()
        tanh = (both[..., :k] * 2).sub_(1)
        ctx.save_for_backward(x, (own * scale[:, None]).to(x.dtype), both, tanh, scale.square())
        return tanh * both[..., k:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401 - torch's context
        x, twice, both, tanh, scale = ctx.saved_tensors  # the first factor of two is tanh's, the second its argument's
        k = grad.shape[-1]
        inner = torch.empty_like(both)
        torch.mul(grad, both[..., k:], out=inner[..., :k])
        torch.mul(grad, tanh, out=inner[..., k:])
        inner = torch.ops.aten.sigmoid_backward(inner, both)
        weight = batch_matmul(inner.transpose(1, 2), x).float() * scale[:, None]
        return batch_matmul(inner, twice), weight, _column_sums(inner) * scale


class _Pool(Function):
    """Weighted sums of vectors, without the copies that torch's own gradient makes."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, values: Tensor) -> Tensor:  # noqa: ANN401 - torch's context
        ctx.save_for_backward(weights, values)
        return torch.bmm(weights, values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:  # noqa: ANN401 - torch's context
        weights, values = ctx.saved_tensors
        by_values = torch.bmm(weights.transpose(1, 2), grad) if ctx.needs_input_grad[1] else None
        return torch.bmm(values, grad.transpose(1, 2)).transpose(1, 2), by_values


def _column_sums(x: Tensor) -> Tensor:
    """Sums over instances (m, n, k) → (m, k), in float32 without a copy of x in it."""
    if x.dtype == torch.float32:
        return x.sum(dim=1)
    return torch.bmm(x.new_ones(1, 1, x.shape[1]).expand(len(x), -1, -1), x)[:, 0].float()


def weighted_sums(weights: Float[Tensor, "m k n"], values: Float[Tensor, "m n e"]) -> Float[Tensor, "m k e"]:
    """``weights @ values`` of each model."""
    out: Tensor = _Pool.apply(weights, values)
    return out


def shared_linear(
    x: Float[Tensor, "n d"], weight: Float[Tensor, "m h d"], bias: Float[Tensor, "m h"]
) -> Float[Tensor, "m n h"]:
    """A linear layer of every model on one input, which has no gradient. In memory models lie within instances."""
    out: Tensor = _Shared.apply(x, weight, bias)
    return out


def each_linear(
    x: Float[Tensor, "m n d"], weight: Float[Tensor, "m h d"], bias: Float[Tensor, "m h"]
) -> Float[Tensor, "m n h"]:
    """A linear layer of every model on an input of its own."""
    out: Tensor = _Each.apply(x, weight, bias)
    return out


def gated(
    x: Float[Tensor, "m n h"], weights: Float[Tensor, "m k2 h"], biases: Float[Tensor, "m k2"]
) -> Float[Tensor, "m n k"]:
    """Tanh of one linear layer times the sigmoid of another; ``weights`` has the first's rows, then the second's."""
    out: Tensor = _Gated.apply(x, weights, biases)
    return out
