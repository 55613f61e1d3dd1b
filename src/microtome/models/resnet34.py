"""ResNet-34 under torchvision's names, without the import of torchvision, which takes longer than torch itself."""

from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a way around them."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(into, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample: nn.Module | None = None
        if stride != 1 or into != out:
            self.downsample = nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d p q"]:
        """Convolve twice, add the input (brought to shape), rectify."""
        around = x if self.downsample is None else self.downsample(x)
        inner = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        return functional.relu(self.bn2(self.conv2(inner)).add_(around), inplace=True)


class ResNet34(nn.Module):
    """The trunk of ResNet-34, with the global average and without a classifier.

    Args:
        channels: Of the images.

    References:
        He et al. 2016, as torchvision builds it: Kaiming initialisation by fan-out, batch norms 1 and 0.
    """

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = _stage(64, 64, 3, 1)
        self.layer2 = _stage(64, 128, 4, 2)
        self.layer3 = _stage(128, 256, 6, 2)
        self.layer4 = _stage(256, 512, 3, 2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 512"]:
        """The average of the last stage over the image."""
        x = self.maxpool(functional.relu(self.bn1(self.conv1(x)), inplace=True))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        pooled: Tensor = functional.adaptive_avg_pool2d(x, 1).flatten(1)
        return pooled


def folded(network: ResNet34) -> ResNet34:
    """A copy for inference whose convolutions do the work of the batch norms behind them.

    Args:
        network: Stays as it is.

    Returns:
        The same function up to rounding, with fewer passes over memory.
    """
    copy = deepcopy(network).eval()
    for holder in copy.modules():
        if isinstance(holder, ResNet34 | BasicBlock):
            for conv, norm in (("conv1", "bn1"), ("conv2", "bn2")):
                if hasattr(holder, norm):
                    setattr(holder, conv, _joined(getattr(holder, conv), getattr(holder, norm)))
                    setattr(holder, norm, nn.Identity())
        if isinstance(holder, BasicBlock) and isinstance(holder.downsample, nn.Sequential):
            holder.downsample = nn.Sequential(_joined(*holder.downsample))
    return copy


def _joined(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution for a convolution without bias and the batch norm behind it; it takes over the weights."""
    assert norm.running_mean is not None  # noqa: S101 - for the type checker: it has statistics
    assert norm.running_var is not None  # noqa: S101 - likewise
    with torch.no_grad():
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        conv.weight.mul_(scale[:, None, None, None])
        conv.bias = nn.Parameter(norm.bias - norm.running_mean * scale)
    return conv


def _stage(into: int, out: int, n_blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(into, out, stride)
    return nn.Sequential(first, *(BasicBlock(out, out, 1) for _ in range(n_blocks - 1)))
