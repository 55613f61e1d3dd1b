"""The aggregators by name. Listing them needs no torch."""

import inspect
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

from microtome.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from microtome.models.aggregators.base import Aggregator


@dataclass(frozen=True, slots=True)
class Entry:
    """One aggregator of the registry.

    Attributes:
        module: Where its class is, below ``microtome.models.aggregators``.
        kind: The class.
        title: What it is, in a few words.
        options: What makes it this form of the class; a caller's options come on top.
    """

    module: str
    kind: str
    title: str
    options: "Mapping[str, object]" = field(default_factory=dict)


AGGREGATORS: dict[str, Entry] = {
    "meanpool": Entry("mean_pool", "MeanPool", "layers on the mean vector"),
    "chowder": Entry("chowder", "Chowder", "layers on the highest and lowest instance scores"),
    "abmil": Entry("abmil", "ABMIL", "mean weighed by gated attention"),
    "dsmil": Entry("dsmil", "DSMIL", "attention to what is like the highest instance, as HistoSSLscaling has it"),
    "dsmil_original": Entry("dsmil", "OriginalDSMIL", "the same, as its authors have it"),
    "dsmil_millab": Entry("dsmil", "MilLabDSMIL", "the same, as MIL-Lab has it"),
    "transmil": Entry("transmil", "TransMIL", "transformer on a square of instances, as HistoSSLscaling has it"),
    "transmil_nystrom": Entry("transmil", "TransMIL", "the same with Nyström attention", {"n_landmarks": 256}),
    "transmil_original": Entry("transmil", "OriginalTransMIL", "the same, as its authors have it"),
    "transmil_millab": Entry(
        "transmil", "OriginalTransMIL", "the same, as MIL-Lab has it", {"n_heads": 4, "kept": "last"}
    ),
    "hiptmil": Entry("hiptmil", "HIPTMIL", "transformer without positions, then gated attention"),
    "clam_sb": Entry("clam", "ClamSB", "gated attention and an instance loss"),
    "clam_mb": Entry("clam", "ClamMB", "the same with a branch per class"),
}
"""Every aggregator by name."""


def list_aggregators() -> tuple[str, ...]:
    """Names of the aggregators, sorted; :data:`AGGREGATORS` says what each is.

    Example:
        >>> "abmil" in list_aggregators()
        True
    """
    return tuple(sorted(AGGREGATORS))


def build_aggregator(name: str, n_features: int, n_outputs: int, **options: Any) -> "Aggregator":  # noqa: ANN401 - each class has its own
    """A new aggregator with random weights.

    Args:
        name: One of :func:`list_aggregators`.
        n_features: Length of an instance's vector.
        n_outputs: Number of logits.
        options: Arguments of the class.

    Raises:
        ConfigError: If no aggregator goes by this name, or its class does not take an option or its value.

    Example:
        >>> sum(p.numel() for p in build_aggregator("abmil", 768, 1).parameters())
        156418
    """
    if name not in AGGREGATORS:
        near = get_close_matches(name, AGGREGATORS, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise ConfigError(f"There is no aggregator '{name}'.{hint} There are {', '.join(list_aggregators())}.")
    entry = AGGREGATORS[name]
    kind: type[Aggregator] = getattr(import_module(f"microtome.models.aggregators.{entry.module}"), entry.kind)
    known = _options(kind)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(f"Aggregator '{name}' has no option '{unknown[0]}'. It has {', '.join(known)}.")
    return kind(n_features, n_outputs, **{**entry.options, **options})


def list_options(name: str) -> tuple[str, ...]:
    """Names of the options that an aggregator of this name takes; none where there is no such aggregator.

    Example:
        >>> list_options("meanpool")
        ('hidden', 'activation')
    """
    if name not in AGGREGATORS:
        return ()
    entry = AGGREGATORS[name]
    return tuple(_options(getattr(import_module(f"microtome.models.aggregators.{entry.module}"), entry.kind)))


def _options(kind: type) -> list[str]:
    """Keyword arguments of the class; where it hands them on, those of the class above it."""
    return [
        name
        for above in kind.__mro__
        if "__init__" in vars(above) and above.__module__.startswith("microtome.models.aggregators.")
        for name, parameter in inspect.signature(above).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
