"""Pixels as a network wants them: resized, cropped and normalised in batch, inside the network's graph."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor, nn

from microtome.encoders.base import Card
from microtome.encoders.resampling import resize_matrix
from microtome.errors import ConfigError, TileSizeError


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where the pixels of the network's input come from, along both axes.

    Attributes:
        resized: Height and width after resizing.
        origin: Top and left of the crop in the resized tile.
        size: Height and width of the crop: what the network sees.
    """

    resized: tuple[int, int]
    origin: tuple[int, int]
    size: tuple[int, int]


def plan_geometry(card: Card, tile: tuple[int, int], *, square_only: bool = False) -> Geometry:
    """What the published transform, under the card's size policy, does to a tile of this size.

    Args:
        card: The encoder's.
        tile: Height and width of the tiles.
        square_only: Whether the published transform treats oblong images in a way that the card cannot say.

    Raises:
        TileSizeError: If the encoder does not take tiles of this size.
        ConfigError: If the card crops more than it resizes to.
    """
    if min(tile) < 1:
        raise TileSizeError(f"Encoder '{card.name}' got tiles of {tile[1]}×{tile[0]} px, which have no pixels.")
    as_made_for = tile == (card.tile_px, card.tile_px)
    if card.size_policy == "error" and not as_made_for:
        raise TileSizeError(
            f"Encoder '{card.name}' takes tiles of {card.tile_px}×{card.tile_px} px. Got {tile[1]}×{tile[0]} px. Pass "
            f"--tile-px {card.tile_px}."
        )
    if square_only and tile[0] != tile[1]:
        raise TileSizeError(f"Encoder '{card.name}' takes square tiles. Got {tile[1]}×{tile[0]} px.")
    as_it_is = card.size_policy == "any" or (card.size_policy == "interpolate" and not as_made_for)
    resized = tile if as_it_is or card.resize is None else _resized(tile, card.resize, keep_ratio=card.crop is not None)
    size = resized if as_it_is or card.crop is None else (card.crop, card.crop)
    if min(resized[0] - size[0], resized[1] - size[1]) < 0:
        raise ConfigError(
            f"The card of '{card.name}' crops {size[0]} px of tiles of {resized[1]}×{resized[0]} px. Its resize must "
            "not be smaller than its crop."
        )
    # As torchvision's centre crop rounds: half to even.
    origin = (round((resized[0] - size[0]) / 2), round((resized[1] - size[1]) / 2))
    return Geometry(resized, origin, size)


def _resized(tile: tuple[int, int], side: int, *, keep_ratio: bool) -> tuple[int, int]:
    if not keep_ratio:
        return side, side
    h, w = tile
    return (side, int(side * w / h)) if h <= w else (int(side * h / w), side)


class Preprocess(nn.Module):
    """8-bit tiles to the network's input: resize, centre crop, scale to 0..1, subtract the mean, divide by the std.

    Resizing is one fixed matrix along each axis with Pillow's coefficients, rounded to whole grey levels after each
    pass as Pillow does, so that what a network was published with comes out, on any device and in any runtime: within
    one grey level, where float32 meets a half. (Across before down; where one side shrinks and the other grows, newer
    Pillow takes the cheaper order.) It is made for tiles of one size. It computes in float32 whatever the network's
    precision: its rounding needs it.

    Attributes:
        tile: Height and width of the tiles that it takes.
        size: Height and width of what it gives.
    """

    mean: Tensor
    std: Tensor
    down: Tensor
    across: Tensor

    def __init__(self, card: Card, tile: tuple[int, int], *, square_only: bool = False) -> None:
        super().__init__()
        plan = plan_geometry(card, tile, square_only=square_only)
        self.tile, self.size, self.origin = tile, plan.size, plan.origin
        self.resizes = tuple(n != m for n, m in zip(tile, plan.resized, strict=True))
        for name, axis in (("down", 0), ("across", 1)):
            if self.resizes[axis]:  # no buffer otherwise: torch.export trips over one that is None
                whole = resize_matrix(tile[axis], plan.resized[axis], card.interpolation)
                first = plan.origin[axis]
                matrix = torch.from_numpy(np.ascontiguousarray(whole[first : first + plan.size[axis]]))
                self.register_buffer(name, matrix, persistent=False)
        mean = torch.tensor(card.mean or (0.0,) * 3, dtype=torch.float32)
        std = torch.tensor(card.std or (1.0,) * 3, dtype=torch.float32)
        self.register_buffer("mean", mean[:, None, None], persistent=False)
        self.register_buffer("std", std[:, None, None], persistent=False)

    def forward(self, images: UInt8[Tensor, "n h w 3"]) -> Float32[Tensor, "n 3 H W"]:
        """Prepare a batch.

        Args:
            images: Tiles of the size that it was made for.

        Returns:
            The network's input.
        """
        pixels = self.pixels(images)
        return (pixels / 255 - self.mean) / self.std

    def pixels(self, images: UInt8[Tensor, "n h w 3"]) -> Float32[Tensor, "n 3 H W"]:
        """Only resize and crop: whole grey levels, 0..255."""
        pixels = images.permute(0, 3, 1, 2).to(torch.float32)
        # Across before down, and rounded in between: Pillow's order.
        if self.resizes[1]:
            pixels = _to_levels(pixels @ self.across.T)
        elif self.size[1] != self.tile[1]:
            pixels = pixels[:, :, :, self.origin[1] : self.origin[1] + self.size[1]]
        if self.resizes[0]:
            pixels = _to_levels(self.down @ pixels)
        elif self.size[0] != self.tile[0]:
            pixels = pixels[:, :, self.origin[0] : self.origin[0] + self.size[0]]
        return pixels


def _to_levels(pixels: Float32[Tensor, "n c h w"]) -> Float32[Tensor, "n c h w"]:
    return torch.floor(pixels + 0.5).clamp(0, 255)
