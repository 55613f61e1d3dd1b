"""Self-attention of a whole bag: exact, and Nyström's approximation for bags too large for that.

Both take (b, n, d) tokens whose first is the class token, and give the new tokens beside the class token's attention.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from microtome.errors import ConfigError

_PINV_ITERATIONS = 6
_CONV_KERNEL = 33


def _heads(x: Float[Tensor, "b n d"], n_heads: int) -> Float[Tensor, "b heads n e"]:
    return x.reshape(*x.shape[:2], n_heads, -1).transpose(1, 2)


def _check_heads(dim: int, n_heads: int) -> None:
    if n_heads < 1 or dim % n_heads:
        raise ConfigError(f"The length of a token must be a multiple of the number of heads, got {dim} and {n_heads}.")


class FullAttention(nn.Module):
    """Softmax attention of every token to every token.

    Args:
        dim: Length of a token.
        n_heads: Number of heads; ``dim`` is a multiple of it.
        dropout: Share of the output's values that training leaves out.

    Raises:
        ConfigError: If ``dim`` is no multiple of ``n_heads``.
    """

    def __init__(self, dim: int, n_heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        _check_heads(dim, n_heads)
        self.n_heads = n_heads
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(dropout))

    def forward(self, x: Float[Tensor, "b n d"]) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b m"]]:
        """New tokens, and the class token's attention to the m others, the mean over heads; it sums to one."""
        q, k, v = (_heads(part, self.n_heads) for part in self.to_qkv(x).chunk(3, dim=-1))
        out = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        row = (q[:, :, :1] @ k[:, :, 1:].transpose(-1, -2)) / math.sqrt(q.shape[-1])
        wide = torch.promote_types(row.dtype, torch.float32)
        return self.to_out(out), row.to(wide).softmax(dim=-1).mean(dim=1)[:, 0]


class NystromAttention(nn.Module):
    """Attention through landmarks: linear in the number of tokens.

    Zeros are put in front of the tokens until their number is a multiple of the landmarks'. Releases of the package
    that published models use differ in which rows of the result they then take, and with the same weights the logits
    differ: a checkpoint must say which.

    Args:
        dim: Length of a token.
        n_heads: Number of heads; ``dim`` is a multiple of it.
        n_landmarks: Number of landmarks, each the mean of neighbouring tokens.
        kept: ``last`` takes the tokens' own rows (nystrom-attention 0.0.14, HistoSSLscaling); ``first`` takes the
            first rows (0.0.9, which the authors of TransMIL pin).
        dropout: Share of the output's values that training leaves out.
        scale_over_batch: Whether the start of the pseudo-inverse is scaled by the largest sums in the whole batch,
            as published, so that a bag's result depends on the others; otherwise by each bag's own.

    Raises:
        ConfigError: If a number cannot be, or ``kept`` is neither.

    References:
        https://arxiv.org/abs/2102.03902; specs histossl section 3 and corrections, related originals.
    """

    def __init__(
        self,
        dim: int,
        n_heads: int,
        *,
        n_landmarks: int = 256,
        kept: str = "last",
        dropout: float = 0.0,
        scale_over_batch: bool = False,
    ) -> None:
        super().__init__()
        _check_heads(dim, n_heads)
        if n_landmarks < 1:
            raise ConfigError(f"Nyström attention needs at least one landmark, got {n_landmarks}.")
        if kept not in ("first", "last"):
            raise ConfigError(f"Rows kept of Nyström attention are 'first' or 'last'. Got {kept!r}.")
        self.n_heads = n_heads
        self.n_landmarks = n_landmarks
        self.kept = kept
        self.scale_over_batch = scale_over_batch
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(dropout))
        padding = (_CONV_KERNEL // 2, 0)
        self.res_conv = nn.Conv2d(n_heads, n_heads, (_CONV_KERNEL, 1), padding=padding, groups=n_heads, bias=False)

    def forward(self, x: Float[Tensor, "b n d"]) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b m"]]:
        """New tokens, and the approximate attention of the class token to the m others, the mean over heads.

        The latter may be negative and need not sum to one.
        """
        n = x.shape[1]
        front = -n % self.n_landmarks
        x = functional.pad(x, (0, 0, front, 0))
        q, k, v = (_heads(part, self.n_heads) for part in self.to_qkv(x).chunk(3, dim=-1))
        wide = torch.promote_types(q.dtype, torch.float32)
        q, k = q.to(wide) / math.sqrt(q.shape[-1]), k.to(wide)
        q_marks, k_marks = (
            part.reshape(*part.shape[:2], self.n_landmarks, -1, part.shape[-1]).mean(dim=3) for part in (q, k)
        )
        to_marks = (q @ k_marks.transpose(-1, -2)).softmax(dim=-1)
        inverse = self._invert((q_marks @ k_marks.transpose(-1, -2)).softmax(dim=-1))
        from_marks = (q_marks @ k.transpose(-1, -2)).softmax(dim=-1)
        out = (to_marks @ inverse) @ (from_marks @ v.to(wide)) + self.res_conv(v)
        out = self.to_out(out.to(v.dtype).transpose(1, 2).flatten(2))
        own = 0 if self.kept == "first" else front
        row = ((to_marks[:, :, own : own + 1] @ inverse) @ from_marks).mean(dim=1)[:, 0]
        return out[:, own : own + n], row[:, front + 1 :]

    def _invert(self, a: Float[Tensor, "b heads l l"]) -> Float[Tensor, "b heads l l"]:
        """Moore and Penrose's inverse, by iteration."""
        over = (0, 1, 2) if self.scale_over_batch else (1, 2)
        largest = a.sum(dim=-1).amax(dim=over, keepdim=True) * a.sum(dim=-2).amax(dim=over, keepdim=True)
        z = a.transpose(-1, -2) / largest[..., None]
        eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
        for _ in range(_PINV_ITERATIONS):
            az = a @ z
            z = 0.25 * z @ (13 * eye - az @ (15 * eye - az @ (7 * eye - az)))
        return z
