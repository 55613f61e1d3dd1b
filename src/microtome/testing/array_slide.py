"""A slide that is an array in memory: the fake for tests of everything above the readers."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8

from microtome.errors import UnreadableRegionError
from microtome.geometry import Box, Size
from microtome.slides.base import Level, Slide
from microtome.slides.resolution import Given, Metadata, resolve_mpp
from microtome.slides.view import View


class ArraySlide(Slide):
    """A slide made of an (H, W, C) array, with a pyramid made by area averaging.

    Args:
        image: Level 0.
        mpp: What its "metadata" says, µm/px; None for a slide without.
        name: Its file stem.
        downsamples: Of the levels below level 0.
        broken: Boxes (level-0 pixels) that cannot be decoded.
        given: A resolution given by a person.
        view: How non-RGB pixels are seen.
    """

    reader: ClassVar[str] = "array"

    def __init__(
        self,
        image: Shaped[np.ndarray, "h w c"],
        *,
        mpp: float | None = 0.5,
        name: str = "array",
        downsamples: tuple[int, ...] = (),
        broken: tuple[Box, ...] = (),
        given: Given | None = None,
        view: View | None = None,
    ) -> None:
        self._arguments = (image, mpp, name, downsamples, broken, given, view)
        self._images = [image, *(_shrunk(image, d) for d in downsamples)]
        self._broken = broken
        self._closed = False
        size = Size(image.shape[1], image.shape[0])
        self.path = Path(f"{name}.array")
        self.levels = tuple(
            Level(Size(i.shape[1], i.shape[0]), size.width / i.shape[1], size.height / i.shape[0]) for i in self._images
        )
        self.bounds = Box.of(size)
        channels = image.shape[2]
        self.channels = ("R", "G", "B") if channels == 3 else tuple(str(c) for c in range(channels))
        self.dtype = image.dtype
        metadata = None if mpp is None else Metadata(mpp, mpp, "array")
        self.resolution = resolve_mpp(self.path, metadata, given)
        self.view = view
        self.properties = {}

    def read_native(self, level: int, box: Box) -> Shaped[np.ndarray, "h w c"]:
        """Crop a level."""
        if self._closed:
            raise ValueError(f"Slide '{self.path.name}' is closed.")
        where = self.levels[level]
        x, y = int(box.x * where.downsample_x), int(box.y * where.downsample_y)
        box0 = Box(x, y, int(box.width * where.downsample_x), int(box.height * where.downsample_y))
        if any(box0.intersection(b) for b in self._broken):
            raise UnreadableRegionError(
                f"Slide '{self.path.name}': region {box0} cannot be decoded (it was broken so)."
            )
        return self._images[level][box.y : box.bottom, box.x : box.right].copy()

    def close(self) -> None:
        """Refuse further reading."""
        self._closed = True

    @property
    def native_recipe(self) -> Mapping[str, str]:
        """Only the reader's name."""
        return {"name": self.reader}

    @property
    def associated_names(self) -> tuple[str, ...]:
        """None."""
        return ()

    def read_associated(self, name: str) -> UInt8[np.ndarray, "h w 3"]:
        """Always raises."""
        raise LookupError(f"Slide '{self.path.name}' has no associated image {name!r}.")

    @property
    def fingerprint(self) -> str:
        """Hash of level 0."""
        return hashlib.sha256(np.ascontiguousarray(self._images[0]).tobytes()).hexdigest()[:32]

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, self._arguments


def _rebuild(
    image: np.ndarray,
    mpp: float | None,
    name: str,
    downsamples: tuple[int, ...],
    *rest: Any,  # noqa: ANN401
) -> ArraySlide:
    broken, given, view = rest
    return ArraySlide(image, mpp=mpp, name=name, downsamples=downsamples, broken=broken, given=given, view=view)


def _shrunk(image: np.ndarray, downsample: int) -> np.ndarray:
    size = (max(1, image.shape[1] // downsample), max(1, image.shape[0] // downsample))
    out: np.ndarray = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return out if out.ndim == 3 else out[:, :, None]
