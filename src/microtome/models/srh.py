"""Stimulated Raman histology: from the two raw channels to what a network sees, and the patch encoder."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from microtome.errors import ConfigError
from microtome.models.resnet34 import ResNet34

SRH_MODES = ("three_channels", "ch2_only", "ch3_only", "diff_only")
"""How the two channels may be seen."""

FULL_SCALE = 65536.0
"""Divisor of the raw 16-bit values."""

DIFFERENCE_BASE = 5000.0 / FULL_SCALE
"""Added to CH3 - CH2 so that little of it falls below zero."""

KEPT_ROWS = 5
"""The fast scan is simulated by every fifth row."""


class SrhInput(nn.Module):
    """Raw CH2 and CH3 to network input in 0..1.

    No percentiles, no mean, no standard deviation: full scale, the difference CH3 - CH2 plus a base, a clamp.

    Args:
        mode: ``three_channels`` gives (difference, CH2, CH3); the others give one of them.
        low_resolution: Whether to simulate a fast scan: every fifth row, stretched back to all rows.

    Raises:
        ConfigError: If the mode is not one of the four.

    References:
        specs FastGlioma section 1.1. ``lowres`` there is ``ch2_only`` with ``low_resolution``.

    Example:
        >>> import torch
        >>> raw = torch.tensor([6554.0, 13107.0]).reshape(1, 2, 1, 1)
        >>> [round(float(v), 3) for v in SrhInput()(raw).flatten()]
        [0.176, 0.1, 0.2]
    """

    def __init__(self, mode: str = "three_channels", *, low_resolution: bool = False) -> None:
        super().__init__()
        if mode not in SRH_MODES:
            raise ConfigError(f"SRH channels are seen as {', '.join(SRH_MODES)}. Got {mode!r}.")
        self.mode = mode
        self.low_resolution = low_resolution

    @property
    def channels(self) -> int:
        """Channels that come out."""
        return 3 if self.mode == "three_channels" else 1

    def forward(self, raw: Shaped[Tensor, "b 2 h w"]) -> Float[Tensor, "b c h w"]:
        """Network input, float32 in 0..1.

        Args:
            raw: Raw 16-bit values, of any number type; CH2 (2845 per cm) first, CH3 (2930 per cm) second.
        """
        ch2, ch3 = (raw.to(torch.float32) / FULL_SCALE).unbind(dim=1)
        difference = ch3 - ch2 + DIFFERENCE_BASE
        seen = {
            "three_channels": (difference, ch2, ch3),
            "ch2_only": (ch2,),
            "ch3_only": (ch3,),
            "diff_only": (difference,),
        }[self.mode]
        image = torch.stack(seen, dim=1).clamp(0, 1)
        if not self.low_resolution:
            return image
        return skip_rows(image)


def skip_rows(image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Keep every fifth row and stretch them over the others, as a fast scan would look."""
    size = (image.shape[-2], image.shape[-1])
    return functional.interpolate(image[..., ::KEPT_ROWS, :], size=size, mode="bilinear", antialias=True)


def srh_resnet34(channels: int = 3) -> nn.Module:
    """FastGlioma's patch encoder: ResNet-34 without its classifier, torchvision's names.

    Args:
        channels: 3, or 1 where one channel is seen; only the first convolution differs.

    Returns:
        Network; (b, channels, h, w) to (b, 512), the global average, not scaled to length one.

    References:
        specs FastGlioma section 1.2.
    """
    return ResNet34(channels)
