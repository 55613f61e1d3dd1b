"""A model that is trained alone: its own module, behind the interface of many."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.func import functional_call

from microtome.models.aggregators.base import Aggregator
from microtome.models.aggregators.clam import Clam
from microtome.tasks.mil.packed import Pack
from microtome.tasks.mil.stacked import Noise, StackedNetwork, StackOutput


class KeyedDropout(nn.Module):
    """Dropout whose draw depends on seed, epoch, row and layer alone, as that of stacked models does.

    Args:
        layer: Its name in the model.
        share: Of the values that are left out.
    """

    def __init__(self, layer: str, share: float) -> None:
        super().__init__()
        self.layer = layer
        self.share = share
        self.noise: Noise | None = None
        self.row = 0

    def forward(self, x: Float[Tensor, "*b n e"]) -> Float[Tensor, "*b n e"]:
        """Leave values of one bag out, where there is noise."""
        if self.noise is None or self.share == 0:
            return x
        shape = (x.shape[-2], x.shape[-1])
        return x * self.noise.of_bag(self.layer, self.noise.seeds[0], self.row, shape, self.share, x)


class _InstanceLoss(nn.Module):
    """CLAM's forward pass with its instance loss."""

    def __init__(self, model: Clam) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and loss."""
        output, loss = self.model.forward_with_instances(features, classes)
        return output.logits, loss


class OneByOne(StackedNetwork):
    """One model, computed by its own module, bag after bag; m is 1.

    Args:
        model: The module; its dropout is replaced by one that can be repeated.
        bf16: Whether matrix products are in bf16.
    """

    def __init__(self, model: Aggregator, *, bf16: bool) -> None:
        super().__init__(model)
        self.bf16 = bf16
        for name, layer in list(model.named_modules()):
            if type(layer) is nn.Dropout:
                parent = model.get_submodule(name.rpartition(".")[0])
                setattr(parent, name.rpartition(".")[2], KeyedDropout(name, layer.p))
        self._dropouts = [layer for layer in model.modules() if isinstance(layer, KeyedDropout)]
        self._with_instances = _InstanceLoss(model) if isinstance(model, Clam) else None

    def __call__(
        self, p: Mapping[str, Tensor], pack: Pack, noise: Noise | None, classes: Int64[Tensor, " b"]
    ) -> StackOutput:
        """Logits of one bag after the other."""
        own = {name: value[0] for name, value in p.items()}
        self.model.train(noise is not None)
        found = []
        with torch.random.fork_rng(_devices(pack.features)), self._cast(pack.features):
            for i, features in enumerate(torch.split(pack.features, list(pack.lengths))):
                self._set_noise(noise, pack.rows[i])
                found.append(self._of_bag(own, features[None], classes[i : i + 1]))
        logits = torch.cat([each[0] for each in found]).float()[None]
        losses = [each[1] for each in found if each[1] is not None]
        return StackOutput(logits, torch.stack(losses).float()[None] if losses else None)

    def _of_bag(self, p: dict[str, Tensor], features: Tensor, classes: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.instance_loss and self._with_instances is not None:
            inner = {f"model.{name}": value for name, value in p.items()}
            return cast("tuple[Tensor, Tensor]", functional_call(self._with_instances, inner, (features, classes)))
        return functional_call(self.model, p, (features,)).logits, None

    def _set_noise(self, noise: Noise | None, row: int) -> None:
        if noise is None:
            torch.manual_seed(0)
        else:  # for whatever draws from torch's own generator, such as attention's dropout
            torch.manual_seed(noise.key("", noise.seeds[0], row))
        for layer in self._dropouts:
            layer.noise, layer.row = noise, row

    def _cast(self, like: Tensor) -> AbstractContextManager[Any]:
        return torch.autocast(like.device.type, torch.bfloat16) if self.bf16 else nullcontext()


def _devices(like: Tensor) -> list[torch.device]:
    return [like.device] if like.device.type == "cuda" else []
