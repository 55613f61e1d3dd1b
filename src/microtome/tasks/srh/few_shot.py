"""Likeness of patches to a few support patches of each class.

References:
    specs FastGlioma section 4: the original shows such maps without code or formula. Here: the mean cosine similarity
    to the nearest few tumour supports minus that to the nearest normal ones, both of the patch encoder's vectors as
    seen from the mean of all supports, through a logistic function whose temperature is that of the encoder's own
    training, so that slides can be compared. The nearest ones alone, as supports of one class are of several kinds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64

from microtome.encoders.srh_model import SrhModel
from microtome.encoders.srh_reference import sigmoid, unit_rows
from microtome.errors import ConfigError, NoTilesError
from microtome.slides.srh_tiff import read_srh_patch
from microtome.tasks.srh.thumbnails import CHUNK
from microtome.tiles.opensrh import is_opensrh, read_opensrh
from microtome.tiles.srh import SRH_SIDE

TEMPERATURE = 0.07
"""Of the contrastive loss that the patch encoder was trained with."""

NEAREST = 5
"""Supports of each class that a patch is compared with."""

_CLASSES = (("normal",), ("tumour", "tumor"))
_SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True, eq=False)
class Supports:
    """Vectors of support patches.

    Attributes:
        normal: Of normal tissue, seen from the middle, of length one.
        tumour: Of tumour, likewise.
        middle: Between the means of the two.
        files: All of them, for the record.
    """

    normal: Float32[np.ndarray, "n d"]
    tumour: Float32[np.ndarray, "m d"]
    middle: Float32[np.ndarray, " d"]
    files: tuple[str, ...]

    @classmethod
    def of(
        cls, normal: Float32[np.ndarray, "n d"], tumour: Float32[np.ndarray, "m d"], files: tuple[str, ...] = ()
    ) -> "Supports":
        """Of vectors as the patch encoder gives them."""
        middle = (normal.mean(axis=0) + tumour.mean(axis=0)) / 2
        return cls(unit_rows(normal - middle), unit_rows(tumour - middle), middle, files)

    def likeness(self, features: Float32[np.ndarray, "k d"]) -> Float64[np.ndarray, " k"]:
        """0 like the normal ones, 1 like the tumour, 0.5 like both alike."""
        unit = unit_rows(features - self.middle)
        near = [np.sort(unit @ each.T, axis=1)[:, -NEAREST:].mean(axis=1) for each in (self.tumour, self.normal)]
        return sigmoid((near[0] - near[1]).astype(np.float64) / TEMPERATURE)


def list_supports(folder: Path, *, n: int, without: frozenset[str]) -> tuple[list[Path], list[Path]]:
    """Files of the normal and the tumour supports.

    Args:
        folder: With ``normal/`` and ``tumour/`` (or ``tumor/``) in it, or the root of an OpenSRH data set.
        n: Patches of each class to take from a data set, spread over its slides; folders give all.
        without: Slides of the data set that may give none.

    Raises:
        NoTilesError: If a class has none.
        ConfigError: If the folder is neither.
    """
    if is_opensrh(folder):
        slides = [slide for slide in read_opensrh(folder).slides if slide.name not in without]
        ends = [(slide.kinds[0], slide.kinds[0] + slide.kinds[1]) for slide in slides]
        pools = (
            [list(slide.patches[:normal]) for slide, (normal, _) in zip(slides, ends, strict=True)],
            [list(slide.patches[normal:tumour]) for slide, (normal, tumour) in zip(slides, ends, strict=True)],
        )
        found = tuple(_spread(pool, n) for pool in pools)
    else:
        found = tuple(_in_folder(folder, names) for names in _CLASSES)
    for names, files in zip(_CLASSES, found, strict=True):
        if not files:
            raise NoTilesError(f"'{folder}' gives no support patches of class {names[0]!r}. Add some.")
    return found[0], found[1]


def _spread(pools: Sequence[list[Path]], n: int) -> list[Path]:
    """Up to n files, one of each pool in turn."""
    longest = max(map(len, pools), default=0)
    turns = [pool[i] for i in range(longest) for pool in pools if i < len(pool)]
    return turns[:n]


def _in_folder(folder: Path, names: Sequence[str]) -> list[Path]:
    there = [folder / name for name in names if (folder / name).is_dir()]
    if not there:
        raise ConfigError(
            f"'{folder}' has no folder '{names[0]}': supports are a folder with normal/ and tumour/ in it, a few "
            "patches in each, or the root of an OpenSRH data set."
        )
    return sorted(p for p in there[0].iterdir() if p.suffix.lower() in _SUFFIXES and not p.name.startswith("."))


def encode_supports(model: SrhModel, normal: Sequence[Path], tumour: Sequence[Path], *, flip: bool = False) -> Supports:
    """Vectors of support patches.

    Args:
        model: With a patch encoder.
        normal: Files of normal tissue.
        tumour: Files of tumour.
        flip: Whether CH3 comes first in them.

    Raises:
        ConfigError: If the model has no patch encoder.
        SlideOpenError: If a patch cannot be read, or has another size.
        ChannelError: If its channels are others.
    """
    if model.tokenizer is None:
        raise ConfigError("A few-shot map needs a patch encoder, and the model has none. Pass --tokenizer FILE.")

    def encode(files: Sequence[Path]) -> Float32[np.ndarray, "n d"]:
        assert model.tokenizer is not None  # noqa: S101 - for the type checker: see above
        images = np.stack([read_srh_patch(f, side=SRH_SIDE)[:: -1 if flip else 1].transpose(1, 2, 0) for f in files])
        parts = [model.tokenizer.encode(images[i : i + CHUNK]) for i in range(0, len(images), CHUNK)]
        return np.concatenate(parts)

    return Supports.of(encode(normal), encode(tumour), tuple(str(f) for f in (*normal, *tumour)))
