"""CLAM: gated attention with one branch or one per class, and a loss on the instances it attends to most and least."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from microtome.errors import ConfigError
from microtome.models.aggregators.base import Aggregator, AggregatorOutput, pool, weigh
from microtome.models.slide_encoders import GatedAttention
from microtome.models.smooth_svm import smooth_svm_loss

_HIDDEN = {"small": 256, "big": 384}
_DIM = 512
_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"svm": smooth_svm_loss, "ce": functional.cross_entropy}


class InstanceTargets(NamedTuple):
    """What CLAM's instance classifiers were asked about one bag.

    Attributes:
        logits: (k, 2), not in the bag, in the bag; class by class, of each first the instances attended to most.
        targets: (k,), 1 where attention says that the instance is of the class.
        classes: (k,), whose classifier was asked.
    """

    logits: Float[Tensor, "k 2"]
    targets: Int64[Tensor, " k"]
    classes: Int64[Tensor, " k"]


class Clam(Aggregator):
    """What both forms of CLAM share.

    Args:
        n_features: Length of an instance's vector.
        n_outputs: Number of logits. With one, labels are 0 and 1.
        size: ``small`` or ``big``, the width of the attention.
        dropout: Of projection and attention.
        n_attended: How many instances at either end of the attention the instance loss looks at; all, where a bag
            has fewer.
        subtyping: Whether classes exclude each other, so that the other classes' most attended instances count as
            not of their class.
        instance_loss: ``svm`` (smooth top-1) or ``ce``.
        instance_weight: Share of the instance loss in the loss of training, 0 to 1 exclusive; the rest is the bags'.
            None is the published 0.3 where the target is classes, and 0 where it is not.

    Raises:
        ConfigError: If a setting is none of these.
    """

    aside = ("instance_classifiers.",)

    def __init__(  # noqa: PLR0913 - the options of the published model
        self,
        n_features: int,
        n_outputs: int,
        *,
        size: str = "small",
        dropout: float = 0.25,
        n_attended: int = 8,
        subtyping: bool = False,
        instance_loss: str = "svm",
        instance_weight: float | None = None,
    ) -> None:
        super().__init__(n_features, n_outputs)
        if instance_weight is not None and not 0 <= instance_weight < 1:
            raise ConfigError(f"CLAM's instance_weight must be at least 0 and below 1, got {instance_weight}.")
        if size not in _HIDDEN or instance_loss not in _LOSSES or n_attended < 1:
            raise ConfigError(
                f"CLAM's size is small or big, its instance loss svm or ce, n_attended at least 1. Got {size!r}, "
                f"{instance_loss!r} and {n_attended}."
            )
        self.n_attended = n_attended
        self.subtyping = subtyping
        self.kind = instance_loss
        self.instance_weight = instance_weight
        self.n_classes = max(n_outputs, 2)
        self.attention_net = nn.Sequential(
            nn.Linear(n_features, _DIM),
            nn.ReLU(),
            nn.Dropout(dropout),
            GatedAttention(_DIM, _HIDDEN[size], self.n_maps, dropout=dropout),
        )
        self.instance_classifiers = nn.ModuleList(nn.Linear(_DIM, 2) for _ in range(self.n_classes))

    @property
    @abstractmethod
    def n_maps(self) -> int:
        """Number of attention branches."""

    @abstractmethod
    def classify(self, pooled: Float[Tensor, "b m e"]) -> Float[Tensor, "b c"]:
        """Logits of the pooled vectors, one vector per branch."""

    def aggregate(self, features: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> AggregatorOutput:
        """Logits of the branches' averages."""
        return self._attend(features, mask)[0]

    def forward_with_instances(
        self,
        features: Float[Tensor, "b n d"],
        labels: Int64[Tensor, " b"],
        mask: Bool[Tensor, "b n"] | None = None,
    ) -> tuple[AggregatorOutput, Float[Tensor, ""]]:
        """What :meth:`forward` gives, beside the instance loss of the same pass.

        The published total is 0.7 of the bags' loss and 0.3 of this.

        Args:
            features: As :meth:`forward`.
            labels: The class of each bag.
            mask: As :meth:`forward`.

        Returns:
            The output, and the mean over bags of the sum over classes (with ``subtyping``, of their mean).

        Raises:
            ConfigError: As :meth:`forward`.
        """
        output, hidden, mask = self._attend_all(features, mask)
        losses = []
        for i, own in enumerate(mask):
            asked = self._ask(hidden[i, own], output.attention[i, own], int(labels[i]))
            losses.append(self._instance_loss(asked))
        return output, torch.stack(losses).mean()

    def _instance_loss(self, asked: InstanceTargets) -> Tensor:
        groups = [asked.classes == c for c in sorted(set(asked.classes.tolist()))]
        loss = _LOSSES[self.kind]
        each = [loss(asked.logits[own], asked.targets[own]) for own in groups]
        total = torch.stack(each).sum()
        return total / self.n_classes if self.subtyping else total

    def instances(self, features: Float[Tensor, "n d"], label: int) -> InstanceTargets:
        """What the instance classifiers say of one bag, and what its attention says that they should.

        Args:
            features: The bag, without padding.
            label: Its class.
        """
        output, hidden, _ = self._attend_all(features[None], None)
        return self._ask(hidden[0], output.attention[0], label)

    def _attend_all(self, features: Tensor, mask: Tensor | None) -> tuple[AggregatorOutput, Tensor, Tensor]:
        features, mask = self.clean(features, mask)
        return *self._attend(features, mask), mask

    def _attend(self, features: Tensor, mask: Tensor) -> tuple[AggregatorOutput, Tensor]:
        hidden = self.attention_net[:3](features)
        attention = weigh(self.attention_net[3](hidden), mask)
        return AggregatorOutput(self.classify(pool(attention, hidden)), attention), hidden

    def _ask(self, hidden: Float[Tensor, "n e"], attention: Float[Tensor, "n m"], label: int) -> InstanceTargets:
        """Ask the label's classifier about both ends of the attention, with subtyping the others' about the top."""
        if not 0 <= label < self.n_classes:
            raise ConfigError(f"Labels are 0 to {self.n_classes - 1}, got {label}.")
        k = min(self.n_attended, len(hidden))
        logits, targets, classes = [], [], []
        for c in range(self.n_classes) if self.subtyping else [label]:
            scores = attention[:, min(c, self.n_maps - 1)]
            chosen = scores.topk(k).indices
            if c == label:
                chosen = torch.cat([chosen, scores.topk(k, largest=False).indices])
            own = torch.zeros(len(chosen), dtype=torch.int64, device=hidden.device)
            logits.append(self.instance_classifiers[c](hidden[chosen]))
            classes.append(own + c)
            own[: k if c == label else 0] = 1
            targets.append(own)
        return InstanceTargets(torch.cat(logits), torch.cat(targets), torch.cat(classes))


class ClamSB(Clam):
    """CLAM with a single branch: one average, one classifier. Arguments are those of :class:`Clam`.

    The attention is one map, (b, n, 1), a distribution.

    References:
        https://www.nature.com/articles/s41551-020-00682-w; specs CLAM section 5.
    """

    def __init__(self, n_features: int, n_outputs: int, **options: Any) -> None:  # noqa: ANN401 - Clam checks them
        super().__init__(n_features, n_outputs, **options)
        self.classifiers = nn.Linear(_DIM, n_outputs)

    @property
    def n_maps(self) -> int:
        """One."""
        return 1

    def classify(self, pooled: Float[Tensor, "b m e"]) -> Float[Tensor, "b c"]:
        """Logits of the one average."""
        logits: Tensor = self.classifiers(pooled[:, 0])
        return logits


class ClamMB(Clam):
    """CLAM with a branch per class: each has its average and its classifier. Arguments are those of :class:`Clam`.

    The attention is one map per output, (b, n, c), each a distribution.

    References:
        https://www.nature.com/articles/s41551-020-00682-w; specs CLAM section 5.
    """

    def __init__(self, n_features: int, n_outputs: int, **options: Any) -> None:  # noqa: ANN401 - Clam checks them
        super().__init__(n_features, n_outputs, **options)
        self.classifiers = nn.ModuleList(nn.Linear(_DIM, 1) for _ in range(n_outputs))

    @property
    def n_maps(self) -> int:
        """One per output."""
        return self.n_outputs

    def classify(self, pooled: Float[Tensor, "b m e"]) -> Float[Tensor, "b c"]:
        """Each average's own logit."""
        return torch.cat([layer(pooled[:, i]) for i, layer in enumerate(self.classifiers)], dim=1)
