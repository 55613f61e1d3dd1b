"""Smooth support-vector loss for the highest class."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional


def smooth_svm_loss(
    logits: Float[Tensor, "b c"], targets: Int64[Tensor, " b"], *, margin: float = 1.0, temperature: float = 1.0
) -> Float[Tensor, ""]:
    """Smooth top-1 support-vector loss, the mean over b.

    A softmax cross entropy in which every wrong class has ``margin`` added to its logit.

    Args:
        logits: One per class.
        targets: The right class.
        margin: By how much the right class should lead.
        temperature: Towards 0 the loss becomes the hard one, the largest excess.

    Returns:
        At least 0.

    References:
        https://arxiv.org/abs/1802.07595 with k = 1; specs CLAM section 5. Exact for every temperature above 0, where
        the reference takes the hard loss for logits that are 1000 temperatures apart.

    Example:
        >>> float(smooth_svm_loss(torch.tensor([[9.0, 0.0]]), torch.tensor([0]))) < 1e-3
        True
    """
    wrong = 1 - functional.one_hot(targets, logits.shape[1]).to(logits.dtype)
    own = logits.gather(1, targets[:, None])
    excess = (logits + margin * wrong - own) / temperature
    return (temperature * torch.logsumexp(excess, dim=1)).mean()
