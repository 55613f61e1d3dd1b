"""TransMIL: a bag laid out as a square, transformer blocks around position convolutions. Two published forms."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from microtome.errors import ConfigError
from microtome.models.aggregators.attention import FullAttention, NystromAttention
from microtome.models.aggregators.base import Aggregator, AggregatorOutput


def check_compat(compat: str | None) -> None:
    """Refuse the name of a reference that is none.

    Raises:
        ConfigError: If it is neither None nor ``histossl``.
    """
    if compat not in (None, "histossl"):
        raise ConfigError(f"compat is None or 'histossl'. Got {compat!r}.")


class _Block(nn.Module):
    """Tokens and the attention to them, added."""

    def __init__(self, dim: int, attention: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = attention

    def forward(self, x: Float[Tensor, "b n d"]) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b m"]]:
        """New tokens, and the class token's attention to the others."""
        change, row = self.attention(self.norm(x))
        return x + change, row


class PositionConvolutions(nn.Module):
    """Tokens in a square, and three convolutions of them, added; the class token passes.

    Args:
        dim: Length of a token.
        depthwise: Whether each of its values is convolved alone.
    """

    def __init__(self, dim: int, *, depthwise: bool) -> None:
        super().__init__()
        groups = dim if depthwise else 1
        self.convs = nn.ModuleList(nn.Conv2d(dim, dim, k, padding=k // 2, groups=groups) for k in (3, 5, 7))

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """As many tokens."""
        side = math.isqrt(x.shape[1] - 1)
        square = x[:, 1:].transpose(1, 2).reshape(len(x), -1, side, side)
        summed: Tensor = sum((conv(square) for conv in self.convs), square)
        return torch.cat([x[:, :1], summed.flatten(2).transpose(1, 2)], dim=1)


class _SquareTransformer(Aggregator):
    """What the two forms of TransMIL share."""

    positional = True
    positions: nn.Module

    def __init__(self, n_features: int, n_outputs: int, *, dim: int) -> None:
        super().__init__(n_features, n_outputs)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.project: nn.Module = nn.Identity()
        self.blocks = nn.ModuleList()
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, n_outputs)

    def aggregate(self, features: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> AggregatorOutput:
        """Each bag by itself where they differ in size: the square is that of the bag, not of the batch."""
        if bool(mask.all()):
            logits, attention = self._whole(features)
            return AggregatorOutput(logits, attention[..., None])
        each = [self._whole(bag[own][None]) for bag, own in zip(features, mask, strict=True)]
        attention = torch.zeros(mask.shape, dtype=each[0][1].dtype, device=mask.device)
        # in the order of the mask: bag by bag
        attention = attention.masked_scatter(mask, torch.cat([row[0] for _, row in each]))
        return AggregatorOutput(torch.cat([logits for logits, _ in each]), attention[..., None])

    def _whole(self, features: Float[Tensor, "b n d"]) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b n"]]:
        """Logits and attention of bags without padding; instances that fill up the square count for themselves."""
        x = self.project(features)
        n = x.shape[1]
        extra = math.ceil(math.sqrt(n)) ** 2 - n
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x, x[:, :extra]], dim=1)
        x, _ = self.blocks[0](x)
        x, row = self.blocks[1](self.positions(x))
        attention = torch.cat([row[:, :extra] + row[:, n:], row[:, extra:n]], dim=1)
        return self.head(self.norm(x)[:, 0]), attention


class TransMIL(_SquareTransformer):
    """TransMIL as HistoSSLscaling trains it: exact attention by default, full position convolutions, no projection.

    The attention is one map, (b, n, 1): that of the class token in the last block, the mean over heads. With exact
    attention it is a distribution (the class token's share to itself left out); with landmarks it is the
    approximation's row, which may be negative and need not sum to one. The order of the instances matters.

    Args:
        n_features: Length of an instance's vector.
        n_outputs: Number of logits.
        dim: Length of a linear projection before everything else; None has none.
        n_heads: Heads of the attention.
        n_landmarks: Of Nyström's approximation; None attends exactly.
        dropout: Share of the attention's output that training leaves out.
        compat: ``histossl`` ignores the mask, so that padding takes part as instances of zeros, and scales
            Nyström's start over the whole batch.

    References:
        https://arxiv.org/abs/2106.00908; specs histossl section 3. The reference's logits of a bag depend on the
        others in its batch; here they do not.
    """

    def __init__(
        self,
        n_features: int,
        n_outputs: int,
        *,
        dim: int | None = None,
        n_heads: int = 8,
        n_landmarks: int | None = None,
        dropout: float = 0.0,
        compat: str | None = None,
    ) -> None:
        check_compat(compat)
        width = n_features if dim is None else dim
        super().__init__(n_features, n_outputs, dim=width)
        self.compat = compat
        self.sums_to_one = n_landmarks is None
        if dim is not None:
            self.project = nn.Sequential(nn.Linear(n_features, dim))

        def attention() -> nn.Module:
            if n_landmarks is None:
                return FullAttention(width, n_heads, dropout=dropout)
            over = compat == "histossl"
            return NystromAttention(width, n_heads, n_landmarks=n_landmarks, dropout=dropout, scale_over_batch=over)

        self.blocks.extend(_Block(width, attention()) for _ in range(2))
        self.positions = PositionConvolutions(width, depthwise=False)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def aggregate(self, features: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> AggregatorOutput:
        """Logits of the class token."""
        if self.compat is None:
            return super().aggregate(features, mask)
        logits, attention = self._whole(features)
        attention = attention * mask
        if self.sums_to_one:
            attention = attention / attention.sum(dim=1, keepdim=True)
        return AggregatorOutput(logits, attention[..., None])


class OriginalTransMIL(_SquareTransformer):
    """TransMIL as its authors and MIL-Lab train it: projection, Nyström attention, depthwise position convolutions.

    The attention is one map, (b, n, 1): the approximate attention of the class token in the last block, the mean over
    heads; it may be negative and need not sum to one. The order of the instances matters.

    Args:
        n_features: Length of an instance's vector.
        n_outputs: Number of logits.
        dim: Length of the projection.
        n_heads: Heads of the attention; the authors have 8, MIL-Lab has 4.
        n_landmarks: Of Nyström's approximation.
        kept: See :class:`NystromAttention`. The authors pin ``first``; MIL-Lab does not pin it.
        dropout: Share of the attention's output that training leaves out.

    References:
        https://arxiv.org/abs/2106.00908; specs histossl corrections, related originals.
    """

    def __init__(
        self,
        n_features: int,
        n_outputs: int,
        *,
        dim: int = 512,
        n_heads: int = 8,
        n_landmarks: int = 256,
        kept: str = "first",
        dropout: float = 0.1,
    ) -> None:
        super().__init__(n_features, n_outputs, dim=dim)
        self.sums_to_one = False
        self.project = nn.Sequential(nn.Linear(n_features, dim), nn.ReLU())
        self.blocks.extend(
            _Block(dim, NystromAttention(dim, n_heads, n_landmarks=n_landmarks, kept=kept, dropout=dropout))
            for _ in range(2)
        )
        self.positions = PositionConvolutions(dim, depthwise=True)
        nn.init.normal_(self.cls_token)
