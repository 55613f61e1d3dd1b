"""Small copies of the zoo's networks, with weights that let no mistake hide."""

import torch
from torch import nn


def fill_randomly(network: nn.Module, seed: int = 0) -> nn.Module:
    """Weights of size one over the root of the fan-in, vectors around one or zero; counters stay."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in network.state_dict().items():
            if not tensor.is_floating_point():
                continue
            values = torch.randn(tensor.shape, generator=generator)
            if key.endswith("running_var"):
                values = (1 + 0.1 * values).abs()
            elif tensor.ndim <= 1:
                values = 0.2 * values + float(key.endswith(("weight", "gamma", "gamma1", "gamma2")))
            elif key.split(".")[-1] not in ("cls_token", "reg_token", "pos_embed", "query"):
                values /= tensor[0].numel() ** 0.5
            tensor.copy_(values)
    return network.eval()
