"""How far the vectors of one precision or runtime are from those of the reference."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Shaped

from microtome.errors import EncoderOutputError

MIN_COSINE = 0.999
"""Least cosine similarity to fp32, of the worst tile, at which vectors of a lower precision stand for it."""

_BLOCK_PX = 14  # of random tiles: about the size of what networks look for
_HIGHEST = np.array([255, 235, 255])  # eosin to haematoxylin, roughly
_LOWEST = np.array([90, 40, 110])


class Drift(NamedTuple):
    """Agreement of vectors with the reference's, tile by tile.

    Attributes:
        min_cosine: Cosine similarity of the worst tile, -1..1.
        mean_cosine: Mean over the tiles.
    """

    min_cosine: float
    mean_cosine: float


def measure_drift(
    encode: Callable[[Shaped[np.ndarray, "n h w c"]], Float32[np.ndarray, "n d"]],
    reference: Callable[[Shaped[np.ndarray, "n h w c"]], Float32[np.ndarray, "n d"]],
    images: Shaped[np.ndarray, "n h w c"],
) -> Drift:
    """Compare the vectors that two encoders, or one in two precisions, give for the same tiles.

    Args:
        encode: What is measured: ``encoder.encode`` or ``runtime.run``.
        reference: What it is measured against: the same network in fp32 with torch.
        images: Tiles; take real ones, noise says little.

    Returns:
        Least and mean cosine similarity.

    Raises:
        ValueError: If there is no tile.
        EncoderOutputError: If the shapes differ, or a vector is not finite.
    """
    if not len(images):
        raise ValueError("Drift needs at least one tile. Got none.")
    found = cosines(encode(images), reference(images))
    return Drift(float(found.min()), float(found.mean()))


def cosines(a: Float32[np.ndarray, "..."], b: Float32[np.ndarray, "..."]) -> Float64[np.ndarray, " n"]:
    """Cosine similarity of vectors, row by row; 1 where both are zero, 0 where one is.

    Raises:
        EncoderOutputError: If the shapes differ, or a vector is not finite.
    """
    if a.shape != b.shape or a.ndim != 2:
        raise EncoderOutputError(f"Vectors to compare have one shape, (n, d). Got {a.shape} and {b.shape}.")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise EncoderOutputError("Vectors to compare must be finite. Got NaN or infinity.")
    x, y = (v.astype(np.float64) for v in (a, b))
    norms = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
    product = norms[0] * norms[1]
    both_zero = (norms[0] == 0) & (norms[1] == 0)
    similar = np.divide((x * y).sum(axis=1), product, out=np.zeros(len(x)), where=product > 0)
    found: Float64[np.ndarray, " n"] = np.where(both_zero, 1.0, np.clip(similar, -1, 1))
    return found


def random_tiles(
    n: int, shape: tuple[int, int, int], dtype: np.dtype | None = None, seed: int = 0
) -> Shaped[np.ndarray, "n h w c"]:
    """Tiles of coloured blocks under noise, for checks where no slide is at hand.

    Args:
        n: How many.
        shape: Height, width and channels.
        dtype: An unsigned integer; uint8 if None.
        seed: Another one gives others.

    Returns:
        Distinct tiles that use the dtype's range.
    """
    h, w, c = shape
    rng = np.random.default_rng(seed)
    share = rng.random((n, -(-h // _BLOCK_PX), -(-w // _BLOCK_PX), 1))
    share = share.repeat(_BLOCK_PX, axis=1)[:, :h].repeat(_BLOCK_PX, axis=2)[:, :, :w]
    high, low = np.resize(_HIGHEST, c), np.resize(_LOWEST, c)
    pixels = low + share * (high - low) + rng.normal(0, 8, (n, h, w, c))
    kind = np.dtype(np.uint8 if dtype is None else dtype)
    tiles: np.ndarray = (np.clip(pixels, 0, 255) * (np.iinfo(kind).max / 255)).astype(kind)
    return tiles
