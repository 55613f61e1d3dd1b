"""Integrated gradients: what each instance of a bag adds to a logit.

The logit's way from a bag in which every instance is the baseline to the bag itself is integrated along a straight
line, x(a) = baseline + a (x - baseline). The line is cut into pieces, each integrated by Gauss and Legendre's rule. How
much a piece must give is known, the logit at its end less that at its start, so pieces that miss it are halved until
all of them together are within the tolerance.

References:
    https://arxiv.org/abs/1703.01365. The published form has equal steps; models with layer norms or sorted scores bend
    sharply in a few places, for which equal steps would be far too many.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from microtome.errors import AttributionError
from microtome.models.aggregators.base import Aggregator

TOLERANCE = 0.01
"""Share of the logit's change by which the sum of the attributions may miss it."""

_FLOOR = 1e-3  # of a logit: below it, float32 and not the integration decides
_NODES = 4
_PIECES = 4
_MAX_EVALUATIONS = 4000
_LEAST_WIDTH = 1e-9  # narrower, it is a jump
_BATCH_BYTES = 48 * 1024 * 1024


@dataclass(frozen=True, slots=True, eq=False)
class Attribution:
    """What the instances of a bag add to its logits.

    Attributes:
        values: (n, c) of each instance to each logit.
        logits: (c,) of the bag.
        baseline: (c,) of the bag whose instances are all the baseline.
        gap: (c,) by how much ``values.sum(0) + baseline`` misses ``logits``, at most.
        n_evaluations: How many gradients were computed.
    """

    values: Float64[np.ndarray, "n c"]
    logits: Float64[np.ndarray, " c"]
    baseline: Float64[np.ndarray, " c"]
    gap: Float64[np.ndarray, " c"]
    n_evaluations: int


@dataclass(eq=False)
class _Piece:
    """A piece of the line: the logits at its ends and what the rule gives for it."""

    start: float
    stop: float
    at_start: Float64[np.ndarray, " c"]
    at_stop: Float64[np.ndarray, " c"]
    values: Float64[np.ndarray, "n c"]

    @property
    def miss(self) -> Float64[np.ndarray, " c"]:
        """By how much the rule misses what the piece must give."""
        found: Float64[np.ndarray, " c"] = self.values.sum(axis=0) - (self.at_stop - self.at_start)
        return found

    @property
    def gap(self) -> Float64[np.ndarray, " c"]:
        """The same without its sign."""
        found: Float64[np.ndarray, " c"] = np.abs(self.miss)
        return found


def mean_logits(modules: Sequence[Aggregator], features: Float[Tensor, "b n d"]) -> Float[Tensor, "b c"]:
    """Logits of bags of one length, averaged over models, in float64."""
    total: Tensor = torch.stack([module(features).logits.double() for module in modules]).mean(dim=0)
    return total


def integrate_gradients(
    modules: Sequence[Aggregator],
    features: Float[Tensor, "n d"],
    baseline: Float[Tensor, " d"],
    *,
    tolerance: float = TOLERANCE,
    max_evaluations: int = _MAX_EVALUATIONS,
) -> Attribution:
    """Attribute the logits, averaged over models, to the instances of one bag.

    Choices among instances that a model makes by its highest score are held as they are for the bag itself
    (:meth:`~microtome.models.aggregators.base.Aggregator.holding`): along the line they would jump, and a jump belongs
    to no instance. At both ends of the line the logits are the model's own.

    Args:
        modules: In evaluation mode, on the features' device.
        features: The bag.
        baseline: What every instance of the baseline's bag is.
        tolerance: Share of the logit's change that may be missed (or 0.001, where that is more).
        max_evaluations: Give up after so many gradients.

    Returns:
        Attributions, complete within the tolerance.

    Raises:
        AttributionError: If they cannot be made complete.
    """
    line = _Line(modules, features, baseline)
    first, last = line.ends()
    allowed = np.maximum(tolerance * np.abs(last - first), _FLOOR)
    with line.held():
        pieces = line.pieces(np.linspace(0, 1, _PIECES + 1), first, last)
        while not _is_complete(pieces, allowed):
            misses = [float((piece.gap / allowed).max()) for piece in pieces]
            worst = pieces[int(np.argmax(misses))]
            if line.n_evaluations >= max_evaluations or worst.stop - worst.start < _LEAST_WIDTH:
                raise _incomplete(worst, pieces, allowed, line.n_evaluations)
            kept = [piece for piece, miss in zip(pieces, misses, strict=True) if miss < max(misses) / 2]
            for piece in [one for one in pieces if one not in kept]:
                middle = (piece.start + piece.stop) / 2
                kept += line.pieces(np.array([piece.start, middle, piece.stop]), piece.at_start, piece.at_stop)
            pieces = kept
    values: Float64[np.ndarray, "n c"] = np.sum([piece.values for piece in pieces], axis=0)
    return Attribution(values, last, first, np.abs(values.sum(axis=0) + first - last), line.n_evaluations)


class _Line:
    """The straight line from the baseline's bag to the bag, and the models along it."""

    def __init__(
        self, modules: Sequence[Aggregator], features: Float[Tensor, "n d"], baseline: Float[Tensor, " d"]
    ) -> None:
        self.modules = modules
        self.features = features
        self.baseline = baseline
        self.change = features - baseline
        alone = any(getattr(module, "compat", None) for module in modules)  # such logits depend on the batch
        n_bytes = max(1, features.numel() * features.element_size())
        self.at_once = 1 if alone else int(np.clip(_BATCH_BYTES // n_bytes, 1, _NODES * _PIECES))
        self.n_evaluations = 0

    def ends(self) -> tuple[Float64[np.ndarray, " c"], Float64[np.ndarray, " c"]]:
        """Logits of the baseline's bag and of the bag itself, by the models as they are."""
        with torch.no_grad():
            first, last = (
                mean_logits(self.modules, bag[None])[0].cpu().numpy()
                for bag in (self.baseline.expand_as(self.features), self.features)
            )
        return first, last

    def held(self) -> ExitStack:
        """A context in which the models' choices are those for the bag itself."""
        with ExitStack() as stack:
            for module in self.modules:
                stack.enter_context(module.holding(self.features))
            return stack.pop_all()

    def pieces(
        self, edges: Float64[np.ndarray, " k"], first: Float64[np.ndarray, " c"], last: Float64[np.ndarray, " c"]
    ) -> list[_Piece]:
        """Integrate between edges; the logits at the outermost are known."""
        nodes, weights = np.polynomial.legendre.leggauss(_NODES)
        starts, widths = edges[:-1], np.diff(edges)
        places = (starts[:, None] + widths[:, None] * (nodes + 1) / 2).ravel()
        gradients = np.concatenate([self._gradients(part) for part in self._batches(places)])
        inner = [self._logits(part) for part in self._batches(edges[1:-1])]
        logits = np.concatenate([first[None], *inner, last[None]])
        shares = gradients.reshape(len(starts), _NODES, *gradients.shape[1:])
        values = np.einsum("k,pknc->pnc", weights / 2, shares) * widths[:, None, None]
        return [
            _Piece(float(edges[i]), float(edges[i + 1]), logits[i], logits[i + 1], values[i])
            for i in range(len(starts))
        ]

    def _batches(self, places: Float64[np.ndarray, " k"]) -> Iterator[Tensor]:
        for start in range(0, len(places), self.at_once):
            yield torch.as_tensor(places[start : start + self.at_once], dtype=self.features.dtype).to(
                self.features.device
            )

    def _along(self, scale: Float[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        return torch.addcmul(self.baseline, scale[..., None], self.change)

    def _logits(self, places: Tensor) -> Float64[np.ndarray, "b c"]:
        with torch.no_grad():
            bags = self._along(places[:, None].expand(-1, len(self.features)))
            found: Float64[np.ndarray, "b c"] = mean_logits(self.modules, bags).cpu().numpy()
        return found

    def _gradients(self, places: Tensor) -> Float64[np.ndarray, "b n c"]:
        """How the logits change with each instance's own way along the line: the sum over features comes for free."""
        self.n_evaluations += len(places)
        total: Tensor | float = 0.0
        for module in self.modules:  # one by one: only one graph at a time is in memory
            scale = places[:, None].expand(-1, len(self.features)).clone().requires_grad_()
            logits = module(self._along(scale)).logits.sum(dim=0)
            rows = [
                torch.autograd.grad(logit, scale, retain_graph=i + 1 < len(logits), allow_unused=True)[0]
                for i, logit in enumerate(logits)
            ]
            total = total + torch.stack([torch.zeros_like(scale) if r is None else r for r in rows], dim=-1).double()
        found: Float64[np.ndarray, "b n c"] = (torch.as_tensor(total) / len(self.modules)).cpu().numpy()
        return found


def _is_complete(pieces: Sequence[_Piece], allowed: Float64[np.ndarray, " c"]) -> bool:
    """Whether the sum is within what is allowed, and not because large misses happen to cancel each other."""
    total = np.abs(np.sum([piece.miss for piece in pieces], axis=0))
    return bool((total <= allowed).all() and (np.sum([piece.gap for piece in pieces], axis=0) <= 5 * allowed).all())


def _incomplete(
    worst: _Piece, pieces: Sequence[_Piece], allowed: Float64[np.ndarray, " c"], n_evaluations: int
) -> AttributionError:
    gaps = np.sum([piece.gap for piece in pieces], axis=0)
    at = int(np.argmax(gaps / allowed))
    return AttributionError(
        f"The attributions of logit {at} miss its change by {gaps[at]:.3g} after {n_evaluations} gradients, and "
        f"{allowed[at]:.3g} is allowed; most between {worst.start:.6g} and {worst.stop:.6g} of the way from the "
        "baseline. Pass another baseline, or --maps attention."
    )


def describe_baseline(kind: str) -> str:
    """In words, for records and legends."""
    return {"mean": "every tile as the mean of the training tiles", "zero": "every tile as the zero vector"}[kind]
