"""Random changes of SRH patches that leave what they show. Each draws from a generator of its own: threads may share.

References:
    specs FastGlioma section 3, stage 1: each with probability 0.3.
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float
from torch import Tensor, from_numpy
from torchvision.transforms.v2 import functional as change

from microtome.errors import ConfigError
from microtome.models.srh import skip_rows

Augmentation = Callable[[Tensor, np.random.Generator], Tensor]

P = 0.3
"""Probability of each change."""


def _noise(image: Tensor, rng: np.random.Generator) -> Tensor:
    noise = rng.standard_normal(tuple(image.shape), dtype=np.float32)
    return (image + float(rng.uniform(0.01, 0.1)) * from_numpy(noise)).clamp(0, 1)


def _shift(image: Tensor, rng: np.random.Generator) -> Tensor:
    height, width = image.shape[-2:]
    moved = [round(rng.uniform(-0.1, 0.1) * width), round(rng.uniform(-0.3, 0.3) * height)]
    shifted: Tensor = change.affine(
        image, angle=float(rng.uniform(-10, 10)), translate=moved, scale=1.0, shear=[0.0, 0.0]
    )
    return shifted


def _crop(image: Tensor, rng: np.random.Generator) -> Tensor:
    top, left, height, width = random_box(
        image.shape[-2], image.shape[-1], rng, share=(0.08, 1.0), ratio=(3 / 4, 4 / 3)
    )
    cropped: Tensor = change.resized_crop(image, top, left, height, width, list(image.shape[-2:]), antialias=True)
    return cropped


def _erase(image: Tensor, rng: np.random.Generator) -> Tensor:
    top, left, height, width = random_box(image.shape[-2], image.shape[-1], rng, share=(0.02, 0.33), ratio=(0.3, 3.3))
    erased = image.clone()
    erased[:, top : top + height, left : left + width] = 0
    return erased


def _drop_color(image: Tensor, rng: np.random.Generator) -> Tensor:
    kept = int(rng.integers(image.shape[0]))
    return image[kept : kept + 1].expand_as(image).clone()


AUGMENTATIONS: Mapping[str, Augmentation] = {
    "skip_rows": lambda image, rng: skip_rows(image[None])[0],
    "flip": lambda image, rng: change.horizontal_flip(image),
    "flip_rows": lambda image, rng: change.vertical_flip(image),
    "noise": _noise,
    "autocontrast": lambda image, rng: change.autocontrast(image),
    "solarize": lambda image, rng: change.solarize(image, 0.2),
    "sharpen": lambda image, rng: change.adjust_sharpness(image, 2.0),
    "blur": lambda image, rng: change.gaussian_blur(image, [5, 5], [1.0, 1.0]),
    "shift": _shift,
    "crop": _crop,
    "erase": _erase,
    "drop_color": _drop_color,
}
"""Every change by name, in the order in which they are applied. ``crop`` takes a part and stretches it to full size."""

STRONG = tuple(name for name in AUGMENTATIONS if name != "drop_color")
"""Those of the published training (its colour jitter is of strength 0 and changes nothing)."""


class Augment:
    """Some of the changes, each with a probability.

    Args:
        names: Of :data:`AUGMENTATIONS`.
        p: Probability of each.

    Raises:
        ConfigError: If there is no such change, or ``p`` is no probability.
    """

    def __init__(self, names: tuple[str, ...] = STRONG, p: float = P) -> None:
        unknown = sorted(set(names) - set(AUGMENTATIONS))
        if unknown:
            raise ConfigError(f"There is no augmentation {unknown[0]!r}. There are {', '.join(AUGMENTATIONS)}.")
        if not 0 <= p <= 1:
            raise ConfigError(f"The probability of an augmentation is 0..1. Got {p}.")
        self.names, self.p = tuple(name for name in AUGMENTATIONS if name in names), p

    def __call__(self, image: Float[Tensor, "c h w"], rng: np.random.Generator) -> Float[Tensor, "c h w"]:
        """A changed copy of an image in 0..1."""
        for name in self.names:
            if rng.random() < self.p:
                image = AUGMENTATIONS[name](image, rng)
        return image.clamp(0, 1)


def random_box(
    height: int, width: int, rng: np.random.Generator, *, share: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """A box of a random share of the area and a random ratio of its sides: top, left, height, width.

    As torchvision draws it: ten attempts, then all of the image.
    """
    for _ in range(10):
        area = height * width * rng.uniform(*share)
        aspect = np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1])))
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    return 0, 0, height, width
