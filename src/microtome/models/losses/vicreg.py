"""VICReg: views agree, no dimension collapses, no two say the same."""

from itertools import combinations
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.errors import ConfigError
from microtome.models.losses.gather import gather


class VICRegLosses(NamedTuple):
    """Invariance, variance and covariance, unweighted, and their weighted sum."""

    inv: Float[Tensor, ""]
    var: Float[Tensor, ""]
    cov: Float[Tensor, ""]
    loss: Float[Tensor, ""]


def vicreg(
    features: Float[Tensor, "n v d"],
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
) -> VICRegLosses:
    """Variance, invariance, covariance of the views of a batch; those of all processes count as one.

    Args:
        features: Views of each sample; not normalised.
        invariance: Weight of the mean squared difference between two views, the mean over their pairs.
        variance: Weight of what the standard deviation of a dimension lacks to 1, the mean over dimensions and views.
        covariance: Weight of the squared covariances of different dimensions, their sum over d, the mean over views.

    Returns:
        The losses, in float32 or wider.

    Raises:
        ConfigError: If there are fewer than two samples: they have no variance.

    References:
        Bardes, Ponce and LeCun 2022; specs/fastglioma.md section 3, stage 2 (which weighs 10, 10, 1).
    """
    joint = gather(features)
    n = len(joint)
    if n < 2:
        raise ConfigError(f"VICReg needs at least two samples in a batch, got {n}.")
    with torch.autocast(features.device.type, enabled=False):
        views = joint.to(torch.promote_types(joint.dtype, torch.float32)).unbind(1)
        pairs = [(a - b).square().mean() for a, b in combinations(views, 2)]
        inv = torch.stack(pairs).mean() if pairs else joint.new_zeros((), dtype=views[0].dtype)
        var = torch.stack([(1 - (view.var(0) + 1e-4).sqrt()).relu().mean() for view in views]).mean()
        cov = torch.stack([_off_diagonal(view) for view in views]).mean()
    return VICRegLosses(inv, var, cov, invariance * inv + variance * var + covariance * cov)


def _off_diagonal(view: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Squared covariances of different dimensions, summed, over the number of dimensions."""
    n, d = view.shape
    centred = view - view.mean(0)
    squares = (centred.T @ centred / (n - 1)).square()
    return (squares.sum() - squares.diagonal().sum()) / d
