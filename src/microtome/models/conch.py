"""CONCH's image side: a ViT's tokens gathered by one learned query, then a layer norm."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class AttentionPooler(nn.Module):
    """CONCH v1: learned queries attend to the tokens.

    Args:
        token_dim: Length of a token.
        dim: Length of a query and of the result.
        n_heads: Heads.
        n_queries: Number of queries.

    References:
        specs encoders, P1.
    """

    def __init__(self, token_dim: int = 768, dim: int = 512, *, n_heads: int = 8, n_queries: int = 1) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(n_queries, dim))
        self.ln_q = nn.LayerNorm(dim, eps=1e-5)
        self.ln_k = nn.LayerNorm(token_dim, eps=1e-5)
        self.attn = nn.MultiheadAttention(dim, n_heads, kdim=token_dim, vdim=token_dim, batch_first=True)

    def forward(self, tokens: Float[Tensor, "b n t"]) -> Float[Tensor, "b q d"]:
        """One vector per query."""
        keys = self.ln_k(tokens)
        queries = self.ln_q(self.query).expand(len(tokens), -1, -1)
        gathered: Tensor = self.attn(queries, keys, keys, need_weights=False)[0]
        return gathered


class PerceiverPooler(nn.Module):
    """CONCH v1.5: the same idea with projections that have no bias, and keys and values in one.

    Args:
        token_dim: Length of a token.
        dim: Length of a query and of the result.
        n_heads: Heads; each projection's rows lie head by head.
        n_queries: Number of queries.

    References:
        specs encoders, P2.
    """

    def __init__(self, token_dim: int = 1024, dim: int = 768, *, n_heads: int = 8, n_queries: int = 1) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Parameter(torch.randn(n_queries, dim))
        self.ln_k = nn.LayerNorm(token_dim, eps=1e-5)
        self.ln_q = nn.LayerNorm(dim, eps=1e-5)
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_kv = nn.Linear(token_dim, 2 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim, bias=False)

    def _by_head(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b h n e"]:
        return x.reshape(*x.shape[:2], self.n_heads, -1).transpose(1, 2)

    def forward(self, tokens: Float[Tensor, "b n t"]) -> Float[Tensor, "b q d"]:
        """One vector per query."""
        queries = self.to_q(self.ln_q(self.query)).expand(len(tokens), -1, -1)
        keys, values = self.to_kv(self.ln_k(tokens)).chunk(2, dim=-1)
        gathered = functional.scaled_dot_product_attention(
            self._by_head(queries), self._by_head(keys), self._by_head(values)
        )
        out: Tensor = self.to_out(gathered.transpose(1, 2).flatten(2))
        return out


class ConchFeatures(nn.Module):
    """Trunk, pooler of one query, layer norm: CONCH's image vector before its contrastive projection, not scaled.

    Parameters carry the published names ``trunk``, ``attn_pool_contrast`` and ``ln_contrast``.

    Args:
        trunk: Gives all tokens after its final norm, the class token included.
        pooler: Gathers them by one query.
        dim: Length of the result.
    """

    def __init__(self, trunk: nn.Module, pooler: AttentionPooler | PerceiverPooler, dim: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.attn_pool_contrast = pooler
        self.ln_contrast = nn.LayerNorm(dim, eps=1e-5)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Features, (b, dim)."""
        gathered: Tensor = self.attn_pool_contrast(self.trunk(images))[:, 0]
        out: Tensor = self.ln_contrast(gathered)
        return out
