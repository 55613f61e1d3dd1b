"""Stimulated Raman tiles as FastGlioma's networks want them."""

import numpy as np
from jaxtyping import Float32, Shaped
from torch import Tensor, nn

from microtome.encoders.base import Card
from microtome.encoders.preprocess import plan_geometry
from microtome.models.srh import SrhInput


class SrhPreprocess(nn.Module):
    """Raw 16-bit tiles, CH2 and CH3, to the network's input.

    Args:
        card: The encoder's.
        tile: Height and width of the tiles.
        low_resolution: Whether the network sees a simulated fast scan.
        mode: How the two channels are seen, one of :data:`microtome.models.srh.SRH_MODES`; None for what is published:
            CH2 alone where it is a fast scan, otherwise all three.

    Raises:
        TileSizeError: If the encoder does not take tiles of this size.
    """

    dtype = np.dtype("uint16")

    def __init__(self, card: Card, tile: tuple[int, int], *, low_resolution: bool, mode: str | None = None) -> None:
        super().__init__()
        plan_geometry(card, tile)
        published = "ch2_only" if low_resolution else "three_channels"
        self.see = SrhInput(mode or published, low_resolution=low_resolution)

    def forward(self, images: Shaped[Tensor, "n h w 2"]) -> Float32[Tensor, "n c h w"]:
        """Prepare a batch of raw values, of any integer type: channels first, scaled, 0..1."""
        seen: Tensor = self.see(images.permute(0, 3, 1, 2))
        return seen
