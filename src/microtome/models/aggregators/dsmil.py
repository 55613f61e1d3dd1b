"""DSMIL: attention to whatever is like the instance that scores highest. Two published forms."""

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from microtome.errors import ConfigError
from microtome.models.aggregators.base import Aggregator, AggregatorOutput, pool, weigh
from microtome.models.aggregators.layers import mlp

STREAMS = ("mean", "bag", "max")
"""What DSMIL's logits are: those of the bag, those of its highest instance, or the mean of both."""


_ASIDE = {"mean": (), "bag": ("scores.",), "max": ("queries.", "values.", "norm.", "head.", "mlp.")}


class Streams(nn.Module):
    """How the two streams of a DSMIL meet.

    Args:
        logits: One of :data:`STREAMS`.

    Raises:
        ConfigError: If it is none of them.
    """

    def __init__(self, logits: str) -> None:
        super().__init__()
        if logits not in STREAMS:
            raise ConfigError(f"DSMIL's logits are {', '.join(STREAMS)}. Got {logits!r}.")
        self.logits = logits

    def forward(self, highest: Float[Tensor, "b c"], bag: Float[Tensor, "b c"]) -> Float[Tensor, "b c"]:
        """One logit per output."""
        if self.logits == "mean":
            return (highest + bag) / 2
        return bag if self.logits == "bag" else highest


def critical(
    scores: Float[Tensor, "b n c"],
    queries: Float[Tensor, "b n q"],
    mask: Bool[Tensor, "b n"],
    held: Int64[Tensor, " c"] | None = None,
) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b n c"]]:
    """The highest score of each output, and how much each instance's query is like that of the one which has it.

    ``held`` says which instance that is, whatever the scores are.
    """
    if held is None:
        highest, index = scores.masked_fill(~mask[..., None], -torch.inf).max(dim=1)
    else:
        index = held.expand(len(scores), -1)
        highest = scores.gather(1, index[:, None])[:, 0]
    chosen = queries.gather(1, index[..., None].expand(-1, -1, queries.shape[-1]))
    return highest, queries @ chosen.transpose(1, 2)


class _Choosing(Aggregator):
    """An aggregator that looks up the instance with the highest score of each output."""

    _held: Tensor | None = None

    @abstractmethod
    def _scores(self, features: Float[Tensor, "b n d"]) -> Float[Tensor, "b n c"]:
        """The instances' scores."""

    @contextmanager
    def holding(self, features: Float[Tensor, "n d"]) -> Iterator[None]:
        """A context in which the instances looked up are those with the highest scores in this bag."""
        with torch.no_grad():
            self._held = self._scores(features[None])[0].argmax(dim=0)
        try:
            yield
        finally:
            self._held = None


class DSMIL(_Choosing):
    """DSMIL as HistoSSLscaling trains it: unscaled attention and one head shared by all outputs.

    The attention is one map per output, (b, n, c), each a distribution.

    Args:
        n_features: Length of an instance's vector.
        n_outputs: Number of logits.
        n_queries: Length of a query.
        n_values: Length of a value; used with ``pass_values`` only.
        pass_values: Whether the bag is summed over projections instead of over the vectors as they came.
        hidden: Lengths of the layers between vector and score, vector and query, and bag and logit.
        logits: One of :data:`STREAMS`.

    References:
        specs histossl section 3, corrections 4 and 5. The reference gives (b, 1, c) or (c, 1) for more than one
        output, which its own metrics cannot take; here it is (b, c).
    """

    def __init__(
        self,
        n_features: int,
        n_outputs: int,
        *,
        n_queries: int = 32,
        n_values: int = 32,
        pass_values: bool = False,
        hidden: Sequence[int] = (200, 100),
        logits: str = "mean",
    ) -> None:
        super().__init__(n_features, n_outputs)
        self.pass_values = pass_values
        self.streams = Streams(logits)
        self.aside = _ASIDE[logits] if pass_values else (*_ASIDE[logits], "values.")
        self.scores = mlp(n_features, hidden, n_outputs)
        self.queries = mlp(n_features, hidden, n_queries)
        self.values = nn.Linear(n_features, n_values)
        self.mlp = mlp(n_values if pass_values else n_features, hidden, 1)

    def aggregate(self, features: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> AggregatorOutput:
        """Logits of the highest instance and of the bag."""
        highest, alike = critical(self.scores(features), self.queries(features), mask, self._held)
        attention = weigh(alike, mask)
        bag = pool(attention, self.values(features) if self.pass_values else features)
        return AggregatorOutput(self.streams(highest, self.mlp(bag)[..., 0]), attention)

    def _scores(self, features: Float[Tensor, "b n d"]) -> Float[Tensor, "b n c"]:
        found: Tensor = self.scores(features)
        return found


class _ScaledDSMIL(_Choosing):
    """What the authors' and MIL-Lab's form share; a subclass sets ``scores queries values head`` and what is around.

    Attributes:
        scale: Factor of the similarities.
    """

    scale: float
    project: nn.Module
    scores: nn.Module
    queries: nn.Module
    values: nn.Module
    norm: nn.Module
    head: nn.Module
    streams: Streams

    def aggregate(self, features: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> AggregatorOutput:
        """Logits of the stream that was asked for."""
        highest, bag, attention = self._both(features, mask)
        return AggregatorOutput(self.streams(highest, bag), attention)

    def both(
        self, features: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"] | None = None
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"]]:
        """Logits of the highest instance and of the bag, for a loss on each; arguments as :meth:`forward`."""
        highest, bag, _ = self._both(*self.clean(features, mask))
        return highest, bag

    def _both(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.project(features)
        highest, alike = critical(self.scores(x), self.queries(x), mask, self._held)
        attention = weigh(alike * self.scale, mask)
        return highest, self.head(self.norm(pool(attention, self.values(x))))[..., 0], attention

    def _scores(self, features: Float[Tensor, "b n d"]) -> Float[Tensor, "b n c"]:
        found: Tensor = self.scores(self.project(features))
        return found


class OriginalDSMIL(_ScaledDSMIL):
    """DSMIL as its authors train it: scaled attention, and a head that sees the bags of all outputs at once.

    The attention is one map per output, (b, n, c), each a distribution.

    Args:
        n_features: Length of an instance's vector.
        n_outputs: Number of logits.
        n_queries: Length of a query; similarities are divided by its square root.
        deep_queries: Whether queries come from two layers, or from one linear layer.
        pass_values: Whether the bag is summed over a projection instead of over the vectors as they came.
        dropout: Share of the vectors' values that training leaves out before that projection.
        logits: One of :data:`STREAMS`. The authors predict from ``bag`` and train on the mean of the *losses* of
            ``bag`` and ``max``: :meth:`both` gives them apart.

    References:
        https://arxiv.org/abs/2011.08939; specs histossl corrections, related originals.
    """

    def __init__(
        self,
        n_features: int,
        n_outputs: int,
        *,
        n_queries: int = 128,
        deep_queries: bool = True,
        pass_values: bool = False,
        dropout: float = 0.0,
        logits: str = "bag",
    ) -> None:
        super().__init__(n_features, n_outputs)
        self.streams = Streams(logits)
        self.project = nn.Identity()
        self.scores = nn.Linear(n_features, n_outputs)
        deep = (nn.ReLU(), nn.Linear(n_queries, n_queries), nn.Tanh()) if deep_queries else ()
        self.queries = nn.Sequential(nn.Linear(n_features, n_queries), *deep)
        self.scale = 1 / math.sqrt(n_queries)
        self.values = nn.Identity()
        if pass_values:
            self.values = nn.Sequential(nn.Dropout(dropout), nn.Linear(n_features, n_features), nn.ReLU())
        self.norm = nn.Identity()
        self.head = nn.Conv1d(n_outputs, n_outputs, kernel_size=n_features)
        self.aside = _ASIDE[logits]


class MilLabDSMIL(_ScaledDSMIL):
    """DSMIL as MIL-Lab publishes it: on a projection of the vectors, and with normalised bags.

    The attention is one map per output, (b, n, c), each a distribution.

    Args:
        n_features: Length of an instance's vector.
        n_outputs: Number of logits.
        dim: Length of the projection.
        n_queries: Length of a query; similarities are divided by its square root.
        dropout: Share of the projection's values that training leaves out.
        logits: One of :data:`STREAMS`.

    References:
        specs histossl corrections, related originals.
    """

    def __init__(
        self,
        n_features: int,
        n_outputs: int,
        *,
        dim: int = 512,
        n_queries: int = 384,
        dropout: float = 0.25,
        logits: str = "mean",
    ) -> None:
        super().__init__(n_features, n_outputs)
        self.streams = Streams(logits)
        self.project = nn.Sequential(nn.Linear(n_features, dim), nn.ReLU(), nn.Dropout(dropout))
        self.scores = nn.Linear(dim, n_outputs)
        self.queries = nn.Linear(dim, n_queries)
        self.scale = 1 / math.sqrt(n_queries)
        self.values = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Conv1d(n_outputs, n_outputs, kernel_size=dim)
        self.aside = _ASIDE[logits]
