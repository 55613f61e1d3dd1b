"""How logits are held against a target: losses, and what the logits say in the target's own terms.

Listing the objectives needs no torch.
"""

import inspect
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

from microtome.cohort.targets import Target, TargetType
from microtome.errors import ConfigError

if TYPE_CHECKING:
    from microtome.models.objectives.base import Objective

COMPATS = ("histossl",)
"""References whose form of an objective can be asked for."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One objective of the registry.

    Attributes:
        module: Where its class is, below ``microtome.models.objectives``.
        kind: The class.
        types: Types of target that it takes.
        title: What it is, in a few words.
    """

    module: str
    kind: str
    types: tuple[TargetType, ...]
    title: str


OBJECTIVES: dict[str, Entry] = {
    "bce": Entry("classes", "BinaryCrossEntropy", ("binary",), "cross-entropy of one logit"),
    "multilabel_bce": Entry(
        "classes", "MultilabelCrossEntropy", ("multilabel",), "cross-entropy of each class by itself"
    ),
    "mse": Entry("regression", "SquaredError", ("regression",), "squared error of the standardised value"),
    "huber": Entry("regression", "HuberError", ("regression",), "squared error, absolute where it is large"),
    "cumulative_link": Entry(
        "ordinal", "CumulativeLink", ("ordinal",), "a cross-entropy per threshold, in order (CORAL)"
    ),
    "pairwise": Entry("ordinal", "Pairwise", ("ordinal",), "which of two bags has the higher grade (FastGlioma)"),
    "cross_entropy": Entry(
        "classes", "CrossEntropy", ("multiclass", "binary", "ordinal"), "cross-entropy of one logit per class"
    ),
    "cox": Entry("survival", "Cox", ("survival",), "partial likelihood of proportional hazards"),
    "discrete_hazard": Entry("hazard", "DiscreteHazard", ("survival",), "likelihood of hazards in bins of time"),
}
"""Every objective by name; the first that takes a type of target is its default."""


def list_objectives(target_type: TargetType | None = None) -> tuple[str, ...]:
    """Names of the objectives, of all or of those for one type of target; the default first.

    Example:
        >>> list_objectives("survival")
        ('cox', 'discrete_hazard')
    """
    return tuple(name for name, entry in OBJECTIVES.items() if target_type is None or target_type in entry.types)


def default_objective(target: Target) -> str:
    """Name of the objective that a target is fitted with where none is chosen."""
    return list_objectives(target.type)[0]


def build_objective(
    target: Target,
    name: str | None = None,
    *,
    compat: str | None = None,
    **options: Any,  # noqa: ANN401 - each class has its own
) -> "Objective":
    """An objective for a target; ``build_objective(target, **objective.state())`` makes the same again.

    Args:
        target: What is fitted.
        name: One of ``list_objectives(target.type)``; its default where None.
        compat: ``"histossl"`` for the reference's form of it, where that differs: Cox with its order of ties, mean
            over all subjects.
        options: Arguments of the class.

    Raises:
        ConfigError: If no objective goes by this name, it does not take this type of target, or its class does not
            take an option or its value.
    """
    name = name or default_objective(target)
    if name not in OBJECTIVES:
        near = get_close_matches(name, OBJECTIVES, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise ConfigError(f"There is no objective '{name}'.{hint} There are {', '.join(sorted(OBJECTIVES))}.")
    entry = OBJECTIVES[name]
    if target.type not in entry.types:
        raise ConfigError(
            f"Objective '{name}' is for {' or '.join(entry.types)} targets; '{target.name}' is {target.type}. "
            f"Choose one of {', '.join(list_objectives(target.type))}."
        )
    if compat is not None and compat not in COMPATS:
        raise ConfigError(f"compat must be {' or '.join(COMPATS)}, got '{compat}'.")
    kind: type[Objective] = getattr(import_module(f"microtome.models.objectives.{entry.module}"), entry.kind)
    known = [
        p.name for p in inspect.signature(kind).parameters.values() if p.kind is p.KEYWORD_ONLY and p.name != "compat"
    ]
    unknown = sorted(set(options) - set(known))
    if unknown:
        has = f"It has {', '.join(known)}." if known else "It has none."
        raise ConfigError(f"Objective '{name}' has no option '{unknown[0]}'. {has}")
    return kind(target, compat=compat, **options)
