"""Pixels and small slides in many formats, made on the spot."""

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from microtome.geometry import Size
from microtome.slides.pyramid import Canvas


def coordinates(height: int, width: int, channels: int = 3, dtype: str = "uint8") -> np.ndarray:
    """Pixels that say where they are, with smooth change, so that JPEG keeps them roughly."""
    y, x = np.mgrid[:height, :width]
    full = 255 if dtype == "uint8" else 4000
    parts = [x * full // width, y * full // height, (x + y) * full // (width + height), (x * y) % full]
    return np.stack([parts[c % 4] + c // 4 for c in range(channels)], axis=2).astype(dtype)


def noise(height: int, width: int, channels: int = 3, dtype: str = "uint8") -> np.ndarray:
    """Pixels without a pattern."""
    full = 255 if dtype == "uint8" else 4000
    return np.random.default_rng(3).integers(0, full, (height, width, channels)).astype(dtype)


def canvas_of(image: np.ndarray, mpp: float | None = 0.5, downsamples: tuple[int, ...] = (1, 2, 4)) -> Canvas:
    """A writer's canvas over an array."""
    names = ("R", "G", "B") if image.shape[2] == 3 and image.dtype == np.uint8 else None
    return Canvas(
        read=lambda box: image[box.y : box.bottom, box.x : box.right],
        size=Size(image.shape[1], image.shape[0]),
        mpp=mpp,
        downsamples=downsamples,
        channels=names or tuple(f"stain {c}" for c in range(image.shape[2])),
        dtype="uint16" if image.dtype == np.uint16 else "uint8",
    )


def write_pages(path: Path, image: np.ndarray, **tags: Any) -> None:
    """A TIFF of one image as tifffile writes it."""
    samples = image.shape[2] if image.ndim == 3 else 1
    tags.setdefault("photometric", "rgb" if samples in (3, 4) else "minisblack")
    tifffile.imwrite(path, image, metadata=None, **tags)


def save_png(path: Path, image: np.ndarray, **options: Any) -> None:
    """A PNG of an array."""
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(path, **options)
