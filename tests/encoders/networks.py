"""Small networks and tiles for the tests of runtimes."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn


class Normalise(nn.Module):
    """8-bit tiles to what a network takes, without resizing."""

    mean: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.6, 0.5, 0.6])[:, None, None], persistent=False)

    def forward(self, images):
        return (images.permute(0, 3, 1, 2).to(torch.float32) / 255 - self.mean) / 0.25


class Small(nn.Module):
    """Convolution, norm, mean: (n, 3, h, w) to (n, 8)."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.calls: list[int] = []

    def forward(self, x):
        if not torch.compiler.is_exporting():
            self.calls.append(len(x))
        return torch.relu(self.norm(self.convolution(x))).mean(dim=(2, 3))


class Means(nn.Module):
    """Mean of each channel: what comes out can be told by hand."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


def small(seed=0):
    torch.manual_seed(seed)
    return Small().eval()


def scaled(name, seed=0):
    """A network of timm whose random weights keep activations in range, as trained ones do."""
    import timm

    torch.manual_seed(seed)
    network = timm.create_model(name, num_classes=0, pretrained=False).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                fan_in = parameter[0].numel() if parameter.shape[0] > 1 else parameter.shape[-1]
                parameter.normal_(0, min(0.5, fan_in**-0.5))
    return network


def real_tiles(shared: Path, n=6, side=224):
    """Tiles of colorectal tissue."""
    files = sorted((shared / "data" / "tiles" / "nct_crc_A").rglob("*.png"))
    chosen = files[:: max(1, len(files) // n)][:n]
    return np.stack([np.asarray(Image.open(f).convert("RGB").resize((side, side))) for f in chosen])
