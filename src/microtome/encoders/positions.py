"""Position tables brought to another grid, each by the rule of the code that the weights come from."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from microtome.errors import ConfigError, WeightsError
from microtome.models.vit import stretch_grid

Grid = tuple[int, int]
Map = Float[Tensor, "1 d r c"]
NewMap = Float[Tensor, "1 d p q"]


def _timm(table: Map, grid: Grid) -> NewMap:
    """Bicubic, antialiased, to the new size."""
    return functional.interpolate(table, size=grid, mode="bicubic", align_corners=False, antialias=True)


def _hf_dinov2(table: Map, grid: Grid) -> NewMap:
    """Bicubic, not antialiased, to the new size."""
    return functional.interpolate(table, size=grid, mode="bicubic", align_corners=False)


def _conch_v1_5(table: Map, grid: Grid) -> NewMap:
    """Bilinear to 14 x 14 where it is not that already, then by DINO's rule, also for a table that would fit."""
    if table.shape[-2:] != (14, 14):
        table = functional.interpolate(table, size=(14, 14), mode="bilinear", align_corners=False)
    return stretch_grid(table, grid)


POSITION_RULES: dict[str, Callable[[Map, Grid], NewMap]] = {
    "timm": _timm,
    "hf_dinov2": _hf_dinov2,
    "hf_dinov2_registers": _timm,
    "dino": stretch_grid,
    "conch_v1_5": _conch_v1_5,
}


def resample_positions(
    table: Float[Tensor, "1 n d"], grid: Grid, *, rule: str, n_prefix: int
) -> Float[Tensor, "1 m d"]:
    """A position table for another grid.

    Args:
        table: Rows of the prefix tokens, then those of a square grid, row by row.
        grid: Rows and columns wanted.
        rule: By the code that the weights come from: ``timm`` (antialiased), ``hf_dinov2`` (not),
            ``hf_dinov2_registers`` (antialiased), ``dino`` (scale + 0.1, not antialiased), ``conch_v1_5`` (bilinear
            to 14 x 14, then ``dino``).
        n_prefix: Rows of prefix tokens, which stay as they are.

    Returns:
        Table of n_prefix + rows * columns; ``table`` itself where the grid is the same, but for ``conch_v1_5``.

    Raises:
        ConfigError: If there is no such rule.
        WeightsError: If the table is not that of a square grid.

    References:
        specs encoders, Traps.

    Example:
        >>> resample_positions(torch.zeros(1, 1 + 37 * 37, 8), (16, 16), rule="hf_dinov2", n_prefix=1).shape
        torch.Size([1, 257, 8])
    """
    if rule not in POSITION_RULES:
        raise ConfigError(f"There is no rule {rule!r} for position tables. There are: {', '.join(POSITION_RULES)}.")
    n_rows = table.shape[1] - n_prefix
    side = math.isqrt(max(n_rows, 0))
    if side == 0 or side * side != n_rows:
        raise WeightsError(
            f"A position table of {table.shape[1]} rows with {n_prefix} prefix tokens is not that of a square grid. "
            "Pass the weights of this encoder."
        )
    if (side, side) == grid and rule != "conch_v1_5":
        return table
    rows = table[:, n_prefix:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resampled = POSITION_RULES[rule](rows.to(torch.float32), grid).to(table.dtype)
    return torch.cat([table[:, :n_prefix], resampled.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
