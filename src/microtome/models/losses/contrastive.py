"""Contrastive losses: what belongs together is near, and far from the rest."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from microtome.errors import ConfigError
from microtome.models.losses.gather import gather


def supervised_contrastive(
    features: Float[Tensor, "b v d"],
    labels: Int[Tensor, " b"] | None = None,
    *,
    temperature: float = 0.07,
    base_temperature: float = 0.07,
    anchors: str = "all",
) -> Float[Tensor, ""]:
    """How much likelier than by chance each view finds those of its own group among all others.

    The batches of all processes count as one. An anchor that is alone in its group adds nothing to the mean.

    Args:
        features: Views of each sample, of length 1.
        labels: Samples of one label are one group; None: each sample is a group of its own.
        temperature: Similarities are divided by it.
        base_temperature: The loss is multiplied by ``temperature / base_temperature``.
        anchors: ``all`` views look for their group, or ``one``: the first of each sample.

    Returns:
        The loss, in float32 or wider.

    Raises:
        ConfigError: If a temperature is not above 0, or ``anchors`` is neither of the two.

    References:
        Khosla et al. 2020; specs/fastglioma.md section 3, stage 1.
    """
    _check(temperature, base_temperature, anchors)
    joint = gather(features)
    groups = torch.arange(len(joint), device=joint.device) if labels is None else gather(labels)
    return _contrast(joint, groups, temperature, base_temperature, anchors)


def sim_clr(features: Float[Tensor, "b v d"], *, temperature: float = 0.07) -> Float[Tensor, ""]:
    """Contrastive loss without labels: the views of a sample belong together.

    Args:
        features: Views of each sample, of length 1.
        temperature: Similarities are divided by it.

    References:
        Chen et al. 2020 (NT-Xent).
    """
    return supervised_contrastive(features, temperature=temperature, base_temperature=temperature)


class HierarchicalLosses(NamedTuple):
    """Contrastive losses at the levels of patients, slides and patches, unweighted, and their weighted sum."""

    patient: Float[Tensor, ""]
    slide: Float[Tensor, ""]
    patch: Float[Tensor, ""]
    sum: Float[Tensor, ""]


def hierarchical_contrastive(
    features: Float[Tensor, "b s p t d"],
    *,
    weights: Sequence[float] = (1.0, 1.0, 1.0),
    temperature: float = 0.07,
    base_temperature: float = 0.07,
    anchors: str = "all",
) -> HierarchicalLosses:
    """HiDisc: patches of a patient belong together, those of a slide too, and views of a patch too.

    Args:
        features: Of b patients, s slides of each, p patches of each, t views of each; of length 1. The processes'
            patients are different ones.
        weights: Of patients, slides and patches in the sum.
        temperature: As in :func:`supervised_contrastive`.
        base_temperature: Likewise.
        anchors: Likewise.

    References:
        Jiang et al. 2023; specs/fastglioma.md section 3, stage 1.
    """
    _check(temperature, base_temperature, anchors)
    joint = gather(features)
    levels = []
    for level in range(3):  # patients, slides, patches are the groups
        members = joint.flatten(0, level).flatten(1, -2)
        groups = torch.arange(len(members), device=joint.device)
        levels.append(_contrast(members, groups, temperature, base_temperature, anchors))
    total = sum(
        (weight * loss for weight, loss in zip(weights, levels, strict=True)), start=torch.zeros_like(levels[0])
    )
    patient, slide, patch = levels
    return HierarchicalLosses(patient, slide, patch, total)


def _check(temperature: float, base_temperature: float, anchors: str) -> None:
    if not temperature > 0 or not base_temperature > 0:
        raise ConfigError(f"Temperatures must be above 0, got {temperature} and {base_temperature}.")
    if anchors not in ("all", "one"):
        raise ConfigError(f"anchors must be all or one, got '{anchors}'.")


def _contrast(
    features: Float[Tensor, "b v d"],
    groups: Int[Tensor, " b"],
    temperature: float,
    base_temperature: float,
    anchors: str,
) -> Float[Tensor, ""]:
    """The loss of one joint batch."""
    b, v, _ = features.shape
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    contrast = wide.transpose(0, 1).flatten(0, 1)  # the first views of all samples, then the second ones
    groups = groups.repeat(v)
    n = b if anchors == "one" else b * v
    with torch.autocast(features.device.type, enabled=False):
        similar = contrast[:n] @ contrast.T / temperature
    itself = torch.eye(n, b * v, dtype=torch.bool, device=features.device)
    log_shares = similar - similar.masked_fill(itself, -torch.inf).logsumexp(dim=1, keepdim=True)
    friends = (groups[:n, None] == groups) & ~itself
    n_friends = friends.sum(dim=1)
    found = torch.where(friends, log_shares, 0).sum(dim=1) / n_friends.clamp(min=1)
    return -(temperature / base_temperature) * found.sum() / (n_friends > 0).sum().clamp(min=1)
