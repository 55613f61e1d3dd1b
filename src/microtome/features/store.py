"""A folder of features, one HDF5 file per slide. Needs neither torch nor an encoder to be read."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

import microtome
from microtome.errors import ConfigError, EncoderOutputError
from microtome.features.bag import Bag, BagContent, Plain, check_bag, read_bag, write_bag_file
from microtome.features.writer import BagPlan, BagWriter
from microtome.storage import digest, recipe_text, safe_name, written_whole

__all__ = ["Bag", "BagPlan", "BagWriter", "FeatureStore", "features_folder_name"]

_SUFFIX = ".h5"


class FeatureStore:
    """A folder of features: ``slide_id`` → :class:`Bag`. Slides come in the order of their names.

    Args:
        folder: Where the files are; it is made when something is written.

    Example:
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> boxes = np.array([[0, 0, 448, 448], [448, 0, 448, 448]])
        >>> _ = store.write("A12", np.eye(2, dtype=np.float32), boxes, recipe={"encoder": "example"})
        >>> list(store), store["A12"].features.shape, store["A12"].coords.tolist()
        (['A12'], (2, 2), [[0, 0], [448, 0]])
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def __repr__(self) -> str:
        return f"FeatureStore('{self.folder}')"

    def path(self, slide_id: str) -> Path:
        """Where a slide's features are, or will be.

        Raises:
            ConfigError: If the slide_id cannot be a file name.
        """
        return self.folder / f"{safe_name(slide_id)}{_SUFFIX}"

    def __getitem__(self, slide_id: str) -> Bag:
        """Open a slide's features; they stay on the disk, memory-mapped.

        Raises:
            MissingOutputError: If there are none.
            CorruptOutputError: If the file is truncated, damaged or of another layout.
        """
        return read_bag(self.path(slide_id), slide_id)

    def __contains__(self, slide_id: object) -> bool:
        try:
            return isinstance(slide_id, str) and self.path(slide_id).is_file()
        except ConfigError:
            return False

    def __iter__(self) -> Iterator[str]:
        if not self.folder.is_dir():
            return iter(())
        files = (path for path in self.folder.iterdir() if path.suffix == _SUFFIX and not path.name.startswith("."))
        return iter(sorted(path.stem for path in files if path.is_file()))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def recipe_text(self, slide_id: str) -> str | None:
        """What decided a slide's features; None in a file of another program. Errors as in ``store[slide_id]``."""
        text = self[slide_id].attrs.get("recipe")
        return None if text is None else str(text)

    def check(self, slide_id: str) -> None:
        """Read all of a slide's features and compare them with the checksum that was stored with them.

        Raises:
            MissingOutputError: If there are none.
            CorruptOutputError: If they are not what was written.
        """
        check_bag(self.path(slide_id), self[slide_id])

    def create(self, slide_id: str, plan: BagPlan) -> BagWriter:
        """Begin, or go on with, writing a slide's features batch by batch.

        Hold the claim (:class:`microtome.storage.Claim`) of :meth:`path` while using it.

        Args:
            slide_id: Whose features they are.
            plan: What will be written.

        Returns:
            A writer; what an interrupted one with the same plan had committed is kept.

        Raises:
            OutputWriteError: If the folder cannot be written.
        """
        return BagWriter(self.path(slide_id), plan)

    def write(
        self,
        slide_id: str,
        features: Float[np.ndarray, "n d"],
        boxes: Int64[np.ndarray, "n 4"],
        *,
        recipe: Mapping[str, object],
        attrs: Mapping[str, Plain] | None = None,
    ) -> Path:
        """Write a slide's features at once, whole; what is there is replaced.

        Args:
            slide_id: Whose features they are.
            features: float32 or float16, finite.
            boxes: x y w h of each row's tile, level-0 pixels.
            recipe: What decided them.
            attrs: Attributes of the file, for example ``mpp`` and ``encoder``.

        Returns:
            Path of the file.

        Raises:
            EncoderOutputError: If a feature is not finite.
            ConfigError: If they are neither float32 nor float16.
            OutputWriteError: If the file cannot be written.
        """
        if features.dtype not in (np.float32, np.float16):
            raise ConfigError(f"Features must be float32 or float16. Got {features.dtype}.")
        if not np.isfinite(features).all():
            raise EncoderOutputError(f"The features of '{slide_id}' hold NaN or infinity; they cannot be stored.")
        nothing = np.zeros((0, 4), np.int64)
        content = BagContent(
            boxes=boxes,
            rows=np.arange(len(boxes)),
            unreadable=nothing,
            unreadable_rows=nothing[:, 0],
            unreadable_errors=(),
            attrs={"slide_id": slide_id, **(attrs or {}), **recipe_attributes(recipe)},
        )
        path = self.path(slide_id)
        with written_whole(path) as temporary:
            write_bag_file(temporary, content, [features], dim=features.shape[1], dtype=features.dtype.name)
        return path


def recipe_attributes(recipe: Mapping[str, object]) -> dict[str, Plain]:
    """The attributes that say what decided a file."""
    return {
        "recipe": recipe_text(recipe),
        "recipe_digest": digest(recipe),
        "microtome_version": microtome.__version__,
    }


def features_folder_name(
    encoder: str, tile_px: int, mpp: float | None, *, level: int | None = None, laid: str | None = None
) -> str:
    """Name of the folder for one encoder at one tile size and resolution.

    Args:
        encoder: The encoder's name; ``/`` and ``:`` become ``-``.
        tile_px: Side of a tile, in output pixels.
        mpp: Resolution asked for, µm per tile pixel; None where tiles are laid by level or nobody knows it.
        level: Pyramid level in whose pixels tiles are laid; level 0 if neither is given.
        laid: What to say instead where tiles were laid elsewhere, at a resolution of their own.

    Raises:
        ConfigError: If it cannot be a folder's name.

    Example:
        >>> features_folder_name("org/model:v2", 224, 0.5)
        'org-model-v2_224px_0.5'
        >>> features_folder_name("texture", 256, None, level=1)
        'texture_256px_lvl1'
    """
    slug = encoder.replace("/", "-").replace(":", "-")
    scale = laid or (f"{mpp:g}" if mpp is not None else f"lvl{level or 0}")
    return safe_name(f"{slug}_{tile_px}px_{scale}", what="folder of features")
