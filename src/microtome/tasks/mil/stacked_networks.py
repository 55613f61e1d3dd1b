"""The aggregators that many models compute at once. Each says the same as its class in ``models.aggregators``."""

from collections.abc import Callable, Mapping
from typing import cast

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn
from torch.nn import functional

from microtome.models.aggregators.abmil import ABMIL
from microtome.models.aggregators.base import Aggregator
from microtome.models.aggregators.chowder import Chowder
from microtome.models.aggregators.clam import Clam, ClamMB, ClamSB
from microtome.models.aggregators.dsmil import DSMIL
from microtome.models.aggregators.mean_pool import MeanPool
from microtome.tasks.mil.packed import Pack
from microtome.tasks.mil.stacked import Noise, StackedNetwork, StackOutput
from microtome.tasks.mil.stacked_products import each_linear, gated, shared_linear

Params = Mapping[str, Tensor]

_ACTIVATIONS: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    nn.Sigmoid: torch.sigmoid,
    nn.ReLU: torch.relu,
    nn.Tanh: torch.tanh,
    nn.GELU: functional.gelu,
}


def stack_network(model: Aggregator) -> StackedNetwork | None:
    """The network that computes many models of this one's kind at once; None where there is none."""
    kind = _NETWORKS.get(type(model))
    return None if kind is None else kind(model)


def _mlp(p: Params, name: str, layers: nn.Module, x: Tensor, *, first: int = 0) -> Tensor:
    """``mlp()`` of each model, from its layer ``first`` on.

    Args:
        p: All parameters.
        name: Of the stack of layers.
        layers: One of the models' stack.
        x: (m, n, e), or (n, d) that all models share.
        first: Number of the first layer to apply.
    """
    stack = list(cast("nn.Sequential", layers))
    for number, layer in enumerate(stack[first:], first):
        last = number == len(stack) - 1
        key = f"{name}.{number}" if last else f"{name}.{number}.0"
        linear = shared_linear if x.ndim == 2 else each_linear
        x = linear(x, p[f"{key}.weight"], p[f"{key}.bias"])
        if not last:
            x = _ACTIVATIONS[type(cast("nn.Sequential", layer)[1])](x)
    return x


def _of_bags(p: Params, name: str, layers: nn.Module, x: Float32[Tensor, "m b c e"]) -> Float32[Tensor, "m b c k"]:
    """``mlp()`` of each model on the vectors of bags, of all maps alike."""
    m, b, c, e = x.shape
    return _mlp(p, name, layers, x.reshape(m, b * c, e)).reshape(m, b, c, -1)


def _gated_scores(p: Params, name: str, x: Tensor, dropped: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """``GatedAttention`` of each model; with what dropout leaves of its two factors."""
    a, b = f"{name}.attention_a.0", f"{name}.attention_b.0"
    weights = torch.cat([p[f"{a}.weight"], p[f"{b}.weight"]], dim=1)
    biases = torch.cat([p[f"{a}.bias"], p[f"{b}.bias"]], dim=1)
    inner = gated(x, weights, biases)
    if dropped is not None:
        inner = inner * (dropped[0] * dropped[1])
    return each_linear(inner, p[f"{name}.attention_c.weight"], p[f"{name}.attention_c.bias"])


class StackedMeanPool(StackedNetwork):
    """Many :class:`MeanPool`."""

    def __call__(self, p: Params, pack: Pack, noise: Noise | None, classes: Tensor) -> StackOutput:
        """Logits of the means, in float32."""
        return StackOutput(_mlp(p, "mlp", cast("MeanPool", self.model).mlp, pack.means()), None)


class StackedChowder(StackedNetwork):
    """Many :class:`Chowder`."""

    def __call__(self, p: Params, pack: Pack, noise: Noise | None, classes: Tensor) -> StackOutput:
        """Logits of the extreme scores."""
        model = cast("Chowder", self.model)
        scores = _mlp(p, "score", model.score, pack.features)
        missing = max(model.n_top, model.n_bottom) - scores.shape[1]
        highest = _padded(pack.spread(scores, -torch.inf), missing, -torch.inf)
        lowest = _padded(pack.spread(scores, torch.inf), missing, torch.inf)
        top = highest.topk(model.n_top, dim=2).values
        bottom = lowest.topk(model.n_bottom, dim=2, largest=False).values
        picked = torch.cat([top, bottom], dim=2)
        picked = picked.masked_fill(picked.isinf(), 0).transpose(2, 3)
        return StackOutput(_of_bags(p, "mlp", model.mlp, picked)[..., 0], None)


def _padded(scores: Tensor, missing: int, fill: float) -> Tensor:
    return functional.pad(scores, (0, 0, 0, missing), value=fill) if missing > 0 else scores


class StackedABMIL(StackedNetwork):
    """Many :class:`ABMIL`."""

    def __call__(self, p: Params, pack: Pack, noise: Noise | None, classes: Tensor) -> StackOutput:
        """Logits of the weighted averages."""
        model = cast("ABMIL", self.model)
        values = shared_linear(pack.features, p["project.weight"], p["project.bias"])
        attention = pack.attend(_gated_scores(p, "attention", values) / model.temperature)
        return StackOutput(_of_bags(p, "mlp", model.mlp, pack.pool(attention, values))[:, :, 0], None)


class StackedDSMIL(StackedNetwork):
    """Many :class:`DSMIL`."""

    def __call__(self, p: Params, pack: Pack, noise: Noise | None, classes: Tensor) -> StackOutput:
        """Logits of the highest instances and of the bags."""
        model = cast("DSMIL", self.model)
        scores, queries = self._scores_and_queries(p, pack)
        highest, index = pack.spread(scores, -torch.inf).max(dim=2)
        m, b, c = index.shape
        chosen = queries.gather(1, index.reshape(m, b * c, 1).expand(-1, -1, queries.shape[-1]))
        alike = torch.bmm(queries, chosen.transpose(1, 2)).float().reshape(m, -1, b, c).permute(0, 2, 1, 3)
        if b > 1:
            alike = alike.masked_fill(pack.absent[..., None], -torch.inf)
        values = pack.features
        if model.pass_values:
            values = shared_linear(values, p["values.weight"], p["values.bias"])
        bag = _of_bags(p, "mlp", model.mlp, pack.pool(alike.softmax(dim=2), values))[..., 0]
        logits = {"mean": (highest + bag) / 2, "bag": bag, "max": highest}[model.streams.logits]
        return StackOutput(logits, None)

    def _scores_and_queries(self, p: Params, pack: Pack) -> tuple[Tensor, Tensor]:
        """Both stacks of layers; their first ones are one product."""
        model = cast("DSMIL", self.model)
        if len(model.scores) == 1:
            return _mlp(p, "scores", model.scores, pack.features), _mlp(p, "queries", model.queries, pack.features)
        weight = torch.cat([p["scores.0.0.weight"], p["queries.0.0.weight"]], dim=1)
        bias = torch.cat([p["scores.0.0.bias"], p["queries.0.0.bias"]], dim=1)
        activation = _ACTIVATIONS[type(cast("nn.Sequential", model.scores[0])[1])]
        hidden = activation(shared_linear(pack.features, weight, bias))
        a, b = hidden.chunk(2, dim=-1)
        return _mlp(p, "scores", model.scores, a, first=1), _mlp(p, "queries", model.queries, b, first=1)


class StackedClam(StackedNetwork):
    """Many :class:`ClamSB` or :class:`ClamMB`."""

    def __call__(self, p: Params, pack: Pack, noise: Noise | None, classes: Int64[Tensor, " b"]) -> StackOutput:
        """Logits of the branches' averages, and the instance loss."""
        model = cast("Clam", self.model)
        net = "attention_net"
        hidden = torch.relu(shared_linear(pack.features, p[f"{net}.0.weight"], p[f"{net}.0.bias"]))
        hidden, dropped = self._drop(hidden, pack, noise)
        attention = pack.attend(_gated_scores(p, f"{net}.3", hidden, dropped))
        logits = self._classify(p, pack.pool(attention, hidden))
        if not self.instance_loss:
            return StackOutput(logits, None)
        losses, start = [], 0
        for i, n in enumerate(pack.lengths):
            own = slice(start, start + n)
            losses.append(_instance_loss(model, p, hidden[:, own], attention[:, i, own], int(classes[i])))
            start += n
        return StackOutput(logits, torch.stack(losses, dim=1))

    def _drop(self, hidden: Tensor, pack: Pack, noise: Noise | None) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        net = self.model.get_submodule("attention_net")
        share = cast("nn.Dropout", net.get_submodule("2")).p
        if noise is None or share == 0:
            return hidden, None
        hidden = hidden * noise.mask("attention_net.2", pack, hidden.shape[-1], share)
        width = cast("nn.Linear", net.get_submodule("3.attention_a.0")).out_features
        layers = ("attention_net.3.attention_a.2", "attention_net.3.attention_b.2")
        first, second = (noise.mask(layer, pack, width, share) for layer in layers)
        return hidden, (first, second)

    def _classify(self, p: Params, pooled: Float32[Tensor, "m b k e"]) -> Float32[Tensor, "m b c"]:
        if isinstance(self.model, ClamSB):
            return each_linear(pooled[:, :, 0], p["classifiers.weight"], p["classifiers.bias"])
        weight = torch.cat([p[f"classifiers.{i}.weight"] for i in range(pooled.shape[2])], dim=1)
        bias = torch.cat([p[f"classifiers.{i}.bias"] for i in range(pooled.shape[2])], dim=1)
        return (pooled * weight[:, None]).sum(dim=-1) + bias[:, None]


def _instance_loss(model: Clam, p: Params, hidden: Tensor, attention: Tensor, label: int) -> Float32[Tensor, " m"]:
    """CLAM's instance loss of one bag by every model: hidden (m, n, e), attention (m, n, c)."""
    k = min(model.n_attended, hidden.shape[1])
    losses = []
    for c in range(model.n_classes) if model.subtyping else [label]:
        scores = attention[..., min(c, model.n_maps - 1)].detach()
        chosen = scores.topk(k, dim=1).indices
        if c == label:
            chosen = torch.cat([chosen, scores.topk(k, dim=1, largest=False).indices], dim=1)
        vectors = hidden.gather(1, chosen[..., None].expand(-1, -1, hidden.shape[-1])).float()
        name = f"instance_classifiers.{c}"
        logits = each_linear(vectors, p[f"{name}.weight"], p[f"{name}.bias"])
        inside = torch.zeros(chosen.shape[1], dtype=torch.int64, device=chosen.device)
        inside[: k if c == label else 0] = 1
        margin = 1.0 if model.kind == "svm" else 0.0  # the smooth loss is a cross entropy of logits with a margin
        wrong = margin * (1 - functional.one_hot(inside, 2))
        own = logits.gather(2, inside.expand(len(logits), -1)[..., None])
        losses.append(torch.logsumexp(logits + wrong - own, dim=2).mean(dim=1))
    total = torch.stack(losses).sum(dim=0)
    return total / model.n_classes if model.subtyping else total


_NETWORKS: dict[type[Aggregator], type[StackedNetwork]] = {
    MeanPool: StackedMeanPool,
    Chowder: StackedChowder,
    ABMIL: StackedABMIL,
    DSMIL: StackedDSMIL,
    ClamSB: StackedClam,
    ClamMB: StackedClam,
}
