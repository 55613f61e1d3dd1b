"""Small means for stacks of tiles that lie below each other."""

from typing import Any

import cv2 as _cv2
import numpy as np
from jaxtyping import Float32, Float64, Shaped, UInt8

cv2: Any = _cv2  # OpenCV's stubs know no numbers as operands, which its functions take


def pad(stack: Float32[np.ndarray, "n h w"], margin: int) -> Float32[np.ndarray, "n H W"]:
    """Mirror each tile at its border, the edge pixel repeated; a margin wider than the tile repeats its far pixel."""
    n, h, w = stack.shape
    padded = np.empty((n, h + 2 * margin, w + 2 * margin), dtype=np.float32)
    padded[:, margin : margin + h, margin : margin + w] = stack
    for i in range(margin):
        near, far = margin + min(i, h - 1), margin + max(h - 1 - i, 0)
        padded[:, margin - 1 - i] = padded[:, near]
        padded[:, margin + h + i] = padded[:, far]
    for i in range(margin):
        near, far = margin + min(i, w - 1), margin + max(w - 1 - i, 0)
        padded[:, :, margin - 1 - i] = padded[:, :, near]
        padded[:, :, margin + w + i] = padded[:, :, far]
    return padded


def spaced(masks: UInt8[np.ndarray, "n h w"]) -> UInt8[np.ndarray, "n H w"]:
    """Masks with one or two empty rows below each, so that what is connected in the tall image lies in one tile.

    The number of rows is even: labelling looks at pairs of rows, and every tile must meet it in the same way.
    """
    n, h, w = masks.shape
    apart = np.zeros((n, h + 2 - h % 2, w), dtype=np.uint8)
    apart[:, :h] = masks
    return apart


def count_levels(tile: UInt8[np.ndarray, "h w"]) -> Float64[np.ndarray, "256"]:
    """Pixels of each of the 256 values."""
    counts: np.ndarray = cv2.calcHist([tile], [0], None, [256], [0, 256]).ravel().astype(np.float64)
    return counts


def label(apart: Shaped[np.ndarray, "n H w"]) -> tuple[np.ndarray, int]:
    """4-connected areas of :func:`spaced` masks, numbered by their first pixel; 0 is the background."""
    count, labels = cv2.connectedComponents(apart.reshape(-1, apart.shape[2]), connectivity=4)
    return labels, count
