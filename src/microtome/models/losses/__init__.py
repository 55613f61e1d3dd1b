"""Losses between views of the same thing, for training without labels: contrastive, hierarchical, VICReg.

Each looks at the batches of all processes where ``torch.distributed`` runs (:mod:`microtome.models.losses.gather`).
"""

from microtome.models.losses.contrastive import (
    HierarchicalLosses,
    hierarchical_contrastive,
    sim_clr,
    supervised_contrastive,
)
from microtome.models.losses.gather import gather
from microtome.models.losses.vicreg import VICRegLosses, vicreg

__all__ = [
    "HierarchicalLosses",
    "VICRegLosses",
    "gather",
    "hierarchical_contrastive",
    "sim_clr",
    "supervised_contrastive",
    "vicreg",
]
