"""The bags of a cohort: one per row of its labels, memory-mapped, read when they are needed.

Nothing stays open and nothing is kept: a read maps the file, and the system's page cache decides what stays in
memory. So a cohort may be larger than memory, and have more slides than a process may have open files.
"""

import hashlib
import mmap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float, Int64

from microtome.cohort.targets import Labels
from microtome.errors import CohortError, ConfigError, CorruptOutputError, MissingOutputError
from microtome.features.bag import Bag
from microtome.features.formats.format import Format
from microtome.features.formats.registry import find_files
from microtome.features.store import FeatureStore
from microtome.tasks.mil.features_recipe import FeaturesRecipe, features_recipe, read_laying

if TYPE_CHECKING:
    from microtome.features.formats.table import FeatureTable

Draw = Literal["random", "first"]
"""How instances are drawn where a bag has more than are wanted."""

_NAMED = 5  # slides that a message names
_KINDS = (np.float16, np.float32, np.float64)


@dataclass(frozen=True, slots=True)
class _Part:
    """The features of one slide, and how to get at them."""

    slide_id: str
    n: int
    open: Callable[[], np.ndarray]
    coords: Callable[[], np.ndarray]


class BagSet:
    """One bag of features per row of labels. Made by :func:`open_bags`.

    Args:
        ids: The unit of each row.
        parts: The slides of each row.
        recipe: What the features of all have in common.
        max_instances: Instances drawn of a bag in each epoch of training; None takes all.
        draw: ``random``, or the ``first`` ones of each bag.
        seed: Of that draw.

    Attributes:
        ids: The unit of each row.
        recipe: How the features came about, the same for all bags.
        lengths: (n,) instances of each bag, all of them.
        max_instances: As given.
        draw: As given.
    """

    def __init__(
        self,
        ids: tuple[str, ...],
        parts: tuple[tuple[_Part, ...], ...],
        recipe: FeaturesRecipe,
        *,
        max_instances: int | None = None,
        draw: Draw = "random",
        seed: int = 0,
    ) -> None:
        if max_instances is not None and max_instances < 1:
            raise ConfigError(f"max_instances must be at least 1, got {max_instances}. Pass None to take all.")
        if draw not in ("random", "first"):
            raise ConfigError(f"Instances are drawn 'random' or 'first'. Got {draw!r}.")
        self.ids = ids
        self.recipe = recipe
        self.max_instances = max_instances
        self.draw = draw
        self.seed = seed
        self.lengths: Int64[np.ndarray, " n"] = np.array([sum(p.n for p in row) for row in parts], np.int64)
        self._parts = parts

    def __len__(self) -> int:
        """How many rows."""
        return len(self._parts)

    @property
    def n_features(self) -> int:
        """Length of a feature vector."""
        return self.recipe.n_features

    def drawn_length(self, row: int) -> int:
        """How many instances of a row an epoch of training sees."""
        n = int(self.lengths[row])
        return n if self.max_instances is None else min(n, self.max_instances)

    def drawn(self, row: int, epoch: int) -> Int64[np.ndarray, " m"] | None:
        """Which instances of a row an epoch sees, rising; None where all. Depends on seed, epoch and id alone."""
        n, m = int(self.lengths[row]), self.drawn_length(row)
        if m == n:
            return None
        if self.draw == "first":
            return np.arange(m, dtype=np.int64)
        key = hashlib.sha256(f"{self.seed}\0{epoch}\0{self.ids[row]}".encode()).digest()
        chosen = np.random.default_rng(np.frombuffer(key, np.uint32)).choice(n, m, replace=False, shuffle=False)
        return np.sort(chosen).astype(np.int64)

    def read(self, row: int, epoch: int | None = None) -> Float[np.ndarray, "n d"]:
        """Features of a row, slide after slide, as they are stored.

        Args:
            row: Which.
            epoch: Whose draw of ``max_instances``; None reads all instances.

        Returns:
            (n, d) float16, float32 or float64, finite. May be a view of the file: not to be changed.

        Raises:
            CorruptOutputError: If a file has changed since it was opened.
        """
        rows = None if epoch is None else self.drawn(row, epoch)
        parts = self._parts[row]
        if len(parts) == 1:
            features = self._opened(parts[0])
            return features if rows is None else features[rows]
        found, start = [], 0
        for part in parts:
            features = self._opened(part)
            if rows is not None:
                low, high = np.searchsorted(rows, (start, start + part.n))
                features = features[rows[low:high] - start]
            found.append(features)
            start += part.n
        return np.concatenate(found)

    def coords(self, row: int) -> Int64[np.ndarray, "n 2"]:
        """Where the tiles of a row lie (level-0 pixels of their slides), slide after slide.

        Raises:
            OutputError: If the features do not say it.
        """
        return np.concatenate([part.coords() for part in self._parts[row]])

    def slides(self, row: int) -> tuple[tuple[str, int], ...]:
        """The slides of a row and how many instances each has, in the order of :meth:`read`."""
        return tuple((part.slide_id, part.n) for part in self._parts[row])

    def _opened(self, part: _Part) -> Float[np.ndarray, "n d"]:
        features = part.open()
        if features.shape != (part.n, self.n_features):
            raise CorruptOutputError(
                f"The features of '{part.slide_id}' were ({part.n}, {self.n_features}) and are now {features.shape}: "
                "they changed during the run. Start again."
            )
        return features


def open_bags(
    features: Path | FeatureStore,
    labels: Labels,
    *,
    max_instances: int | None = None,
    draw: Draw = "random",
    seed: int = 0,
) -> tuple[BagSet, Labels]:
    """Open the features of labelled slides.

    Args:
        features: A folder of feature files of any format that ``microtome convert`` reads, or an open store.
        labels: Whose features are wanted; a row may join several slides.
        max_instances: Instances drawn of a bag in each epoch of training; None takes all. Predictions see all.
        draw: ``random`` draws anew in every epoch; ``first`` takes the first ones always.
        seed: Of that draw.

    Returns:
        The bags, and the labels of the rows that have one. Slides without features or without a tile are counted in
        ``excluded``; a row goes where none of its slides is left.

    Raises:
        ConfigError: If there are no features at all, or they are of different encoders, recipes or lengths; the slides
            are named.
        CorruptOutputError: If features cannot be read or hold NaN; the slides are named.
        CohortError: If no row has features.
    """
    source = _source(features)
    opened, excluded, recipe = _open_all(source, [s for slides in labels.slide_ids for s in slides])
    kept = [i for i, slides in enumerate(labels.slide_ids) if any(s in opened for s in slides)]
    if not kept or recipe is None:
        reasons = "; ".join(f"'{slide}': {why}" for slide, why in list(excluded.items())[:_NAMED])
        raise CohortError(f"No row of the labels has features ({reasons}). Do the slide_ids match the files' names?")
    folder = features.folder if isinstance(features, FeatureStore) else Path(features)
    recipe = replace(recipe, laying=read_laying(folder))
    slides = tuple(tuple(s for s in labels.slide_ids[i] if s in opened) for i in kept)
    left = labels.take(np.array(kept, np.int64))
    left = replace(left, slide_ids=slides, excluded={**labels.excluded, **excluded})
    parts = tuple(tuple(opened[s] for s in row) for row in slides)
    bags = BagSet(left.ids, parts, recipe, max_instances=max_instances, draw=draw, seed=seed)
    return bags, left


Source = Callable[[str], Bag]


def _source(features: Path | FeatureStore) -> Source:
    """Slide → its bag."""
    if isinstance(features, FeatureStore):
        return features.__getitem__
    folder = Path(features)
    if any(folder.glob("*.h5")):
        return FeatureStore(folder).__getitem__
    kind, files = find_files(folder)
    return lambda slide_id: _foreign(kind, files, slide_id)


def _foreign(kind: Format, files: Mapping[str, Path], slide_id: str) -> Bag:
    if slide_id not in files:
        raise MissingOutputError(f"There are no features of '{slide_id}'.")
    table: "FeatureTable" = kind.read(files[slide_id], slide_id)
    nothing = np.zeros((0, 4), np.int64)
    return Bag(slide_id, table.features, table.corners, table.boxes, nothing, table.attrs, columns=table.columns)


def _open_all(
    source: Source, slide_ids: Iterable[str]
) -> tuple[dict[str, _Part], dict[str, str], FeaturesRecipe | None]:
    """The features of the slides that have any, why the others have none, and the recipe of all."""
    opened: dict[str, _Part] = {}
    excluded: dict[str, str] = {}
    broken: dict[str, str] = {}
    first: tuple[str, FeaturesRecipe] | None = None
    other: dict[str, list[str]] = {}
    for slide_id in dict.fromkeys(slide_ids):
        try:
            bag = source(slide_id)
        except MissingOutputError:
            excluded[slide_id] = "no features"
            continue
        except CorruptOutputError as error:
            broken[slide_id] = str(error)
            continue
        if len(bag) == 0:
            excluded[slide_id] = "no tile has features"
            continue
        found = features_recipe(bag)
        first = first or (slide_id, found)
        if different := [*first[1].conflicts(found), *first[1].unsaid(found)]:
            other[slide_id] = different
        opened[slide_id] = _Part(slide_id, len(bag), _reopener(source, bag), _coords_of(source, slide_id))
    if broken:
        raise CorruptOutputError(_listed("Features of {n} slide(s) cannot be used", broken))
    if first and other:
        changes = {slide: "; ".join(each) for slide, each in other.items()}
        what = f"Features of {{n}} slide(s) are of another kind than those of '{first[0]}'"
        raise ConfigError(_listed(what, changes).rstrip(".") + ". Keep each kind in a folder of its own.")
    return opened, excluded, first[1] if first else None


def _listed(what: str, slides: Mapping[str, str]) -> str:
    named = " | ".join(f"'{slide}': {why}" for slide, why in list(slides.items())[:_NAMED])
    more = f" and {len(slides) - _NAMED} more." if len(slides) > _NAMED else ""
    return f"{what.format(n=len(slides))}: {named}{more}"


def _coords_of(source: Source, slide_id: str) -> Callable[[], np.ndarray]:
    return lambda: source(slide_id).coords


def _reopener(source: Source, bag: Bag) -> Callable[[], np.ndarray]:
    """How to get at a bag's features again: by mapping the same bytes of the file, or by reading it anew."""
    features = bag.features
    if features.dtype.type not in _KINDS:
        raise CorruptOutputError(
            f"The features of '{bag.slide_id}' are {features.dtype}; float16, float32 or float64 is needed."
        )
    mapped = _Mapped.of(features)
    slide_id = bag.slide_id
    return mapped.open if mapped is not None else lambda: source(slide_id).features


@dataclass(frozen=True, slots=True)
class _Mapped:
    """An array that lies in a file as it is."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[np.generic]

    @classmethod
    def of(cls, array: np.ndarray) -> "_Mapped | None":
        """Where the bytes of a memory-mapped array, or of a part of one, lie; None where it is not mapped."""
        root: object = array
        while isinstance(root, np.ndarray) and not isinstance(root.base, mmap.mmap):
            root = root.base
        if not isinstance(root, np.memmap) or root.filename is None or root.offset is None:
            return None
        start = array.__array_interface__["data"][0] - root.__array_interface__["data"][0]
        return cls(Path(root.filename), int(root.offset) + start, array.shape, array.strides, array.dtype)

    def open(self) -> np.ndarray:
        """Map it again, read-only.

        Raises:
            CorruptOutputError: If the file is gone or shorter.
        """
        n = sum((size - 1) * step for size, step in zip(self.shape, self.strides, strict=True)) + self.dtype.itemsize
        try:
            flat = np.memmap(self.path, np.uint8, mode="r", offset=self.offset, shape=(n,))
        except (OSError, ValueError) as error:
            raise CorruptOutputError(f"The features at '{self.path}' cannot be read any more: {error}.") from error
        return np.ndarray(self.shape, self.dtype, buffer=flat, strides=self.strides)
