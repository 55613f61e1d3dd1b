"""Small means for stacks of tiles that lie below each other."""

from typing import Any

import cv2 as _cv2
import numpy as np
from jaxtyping import Float32, Float64, Int64, Shaped, UInt8

cv2: Any = _cv2  # OpenCV's stubs know no numbers as operands, which its functions take

BINOMIAL_3 = np.array([1, 2, 1], dtype=np.float32) / 4
BINOMIAL_5 = np.array([1, 4, 6, 4, 1], dtype=np.float32) / 16
MEAN_3 = np.full(3, 1 / 3, dtype=np.float32)
MEAN_5 = np.full(5, 1 / 5, dtype=np.float32)


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


def filter_each(stack: Float32[np.ndarray, "n h w"], kernel: Float32[np.ndarray, " k"]) -> Float32[np.ndarray, "n h w"]:
    """Separable filter of each tile by itself, mirrored at its border as :func:`pad` does."""
    h, w = stack.shape[1:]
    margin = len(kernel) // 2
    padded = pad(stack, margin)
    # sepFilter2D sums anew at each pixel; a box filter's running sums would carry rounding from tile to tile.
    smooth = cv2.sepFilter2D(padded.reshape(-1, w + 2 * margin), -1, kernel, kernel)
    inner: np.ndarray = smooth.reshape(padded.shape)[:, margin : margin + h, margin : margin + w]
    return inner


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


def find_runs(apart: UInt8[np.ndarray, "n H W"]) -> tuple[Int64[np.ndarray, " r"], Int64[np.ndarray, " r"]]:
    """Where horizontal runs of ones start in the flat masks, and how long they are; none crosses a row's end."""
    n, h, w = apart.shape
    walled = np.zeros((n * h, w + 1), dtype=np.uint8)
    walled[:, :w] = apart.reshape(-1, w)
    flat = walled.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if flat[0]:
        changes = np.concatenate([[0], changes])
    start, end = changes[::2], changes[1::2]
    return start - start // (w + 1), end - start
