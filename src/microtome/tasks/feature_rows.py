"""Rows of features over many slides, read in an order that depends on a seed and the slide ids alone.

Which slides lie first on the disk, how a dictionary is ordered and how many threads run have no part in it.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Int, Int64

from microtome.errors import ConfigError, EncoderOutputError
from microtome.storage import digest

BLOCK_ROWS = 256
"""Rows that lie together on the disk and are read at once."""
_CHUNK_ROWS = 8192
_OPEN_SLIDES = 128  # memory maps held open; each holds a file descriptor


@runtime_checkable
class SlideFeatures(Protocol):
    """Features of one slide, and where their tiles lie."""

    @property
    def features(self) -> Float[np.ndarray, "n d"]:
        """One row per tile."""
        ...

    @property
    def boxes(self) -> Int[np.ndarray, "n 4"]:
        """Their tiles: x y w h, level-0 pixels."""
        ...


@runtime_checkable
class FeatureSource(Protocol):
    """Features of many slides by slide_id, such as :class:`microtome.features.store.FeatureStore`."""

    def __iter__(self) -> Iterator[str]:
        """Slide ids, in any order."""
        ...

    def __getitem__(self, slide_id: str) -> Any:  # noqa: ANN401 - a SlideFeatures; each source has its own class
        """Features of one slide."""
        ...

    def recipe_text(self, slide_id: str) -> str | None:
        """What decided them; None where a file of other software does not say."""
        ...


def slide_rng(seed: int, slide_id: str) -> np.random.Generator:
    """A generator for one slide: the same whatever the other slides are."""
    name = int.from_bytes(hashlib.sha256(slide_id.encode()).digest()[:8], "little")
    return np.random.default_rng([seed, name])


def check_seed(seed: int) -> None:
    """Raise unless the seed is one that every generator here takes.

    Raises:
        ConfigError: If it is negative or needs more than 32 bits.
    """
    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed must be a whole number from 0 to {2**32 - 1}. Got {seed}.")


def features_digest(source: FeatureSource, slide_ids: Sequence[str]) -> str:
    """Identify the features of these slides: by what decided them, or else by their values."""
    return digest({slide_id: _recipe_or_values(source, slide_id) for slide_id in slide_ids})


def _recipe_or_values(source: FeatureSource, slide_id: str) -> str:
    text = source.recipe_text(slide_id)
    if text is not None:
        return text
    features = source[slide_id].features
    values = hashlib.sha256(f"{features.dtype.str} {features.shape}".encode())
    for start in range(0, len(features), _CHUNK_ROWS):
        values.update(np.ascontiguousarray(features[start : start + _CHUNK_ROWS]).tobytes())
    return values.hexdigest()


def sorted_slides(source: FeatureSource, slide_ids: Sequence[str] | None) -> list[str]:
    """The slides to use, sorted, each once.

    Raises:
        ConfigError: If one of them has no features, or there are none at all.
    """
    there = set(source)
    wanted = sorted(there if slide_ids is None else set(slide_ids))
    missing = [slide_id for slide_id in wanted if slide_id not in there]
    if missing:
        raise ConfigError(f"{len(missing)} slide(s) have no features, first {missing[0]!r}. Extract them first.")
    if not wanted:
        raise ConfigError("There are no features to work on: no slide was given. Extract features first.")
    return wanted


@dataclass(frozen=True, eq=False)
class FeatureRows:
    """Some rows of some slides, addressed by one running number in the order of the sorted slide ids.

    Attributes:
        source: Where the features are.
        slide_ids: Sorted slides that have at least one row.
        rows: For each of them, the rows used, rising.
        n_features: Length of a row.
    """

    source: FeatureSource
    slide_ids: tuple[str, ...]
    rows: tuple[Int64[np.ndarray, " n"] | range, ...]
    n_features: int
    _starts: Int64[np.ndarray, " m"] = field(init=False, repr=False)
    _open: Callable[[str], Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        starts = np.concatenate([[0], np.cumsum([len(r) for r in self.rows])]).astype(np.int64)
        object.__setattr__(self, "_starts", starts)
        # one cache per instance: its slides are this source's
        object.__setattr__(self, "_open", lru_cache(_OPEN_SLIDES)(self.source.__getitem__))

    @classmethod
    def select(
        cls,
        source: FeatureSource,
        *,
        slide_ids: Sequence[str] | None = None,
        max_rows_per_slide: int | None = None,
        seed: int = 0,
    ) -> "FeatureRows":
        """Take all rows of the slides, or at most some of each, drawn by the seed.

        Raises:
            ConfigError: If there is no slide, no row, or a setting cannot be honoured.
            EncoderOutputError: If the slides' features differ in length.
        """
        check_seed(seed)
        if max_rows_per_slide is not None and max_rows_per_slide < 1:
            raise ConfigError(f"max_rows_per_slide must be at least 1. Got {max_rows_per_slide}.")
        wanted = sorted_slides(source, slide_ids)
        sizes, width = _sizes(source, wanted)
        limit = max(sizes.values()) if max_rows_per_slide is None else max_rows_per_slide
        return cls._drawn(source, sizes, dict.fromkeys(sizes, limit), width, seed)

    @classmethod
    def sample(
        cls, source: FeatureSource, n_rows: int, *, slide_ids: Sequence[str] | None = None, seed: int = 0
    ) -> "FeatureRows":
        """Draw ``n_rows`` rows, as evenly over the slides as their sizes allow; all where there are fewer.

        Raises:
            ConfigError: If there is no slide or no row.
            EncoderOutputError: If the slides' features differ in length.
        """
        check_seed(seed)
        wanted = sorted_slides(source, slide_ids)
        sizes, width = _sizes(source, wanted)
        return cls._drawn(source, sizes, even_quotas(sizes, n_rows, seed=seed), width, seed)

    @classmethod
    def _drawn(
        cls, source: FeatureSource, sizes: dict[str, int], quotas: dict[str, int], width: int, seed: int
    ) -> "FeatureRows":
        rows: dict[str, Int64[np.ndarray, " n"] | range] = {}
        for slide_id, size in sizes.items():
            quota = quotas[slide_id]
            if quota >= size > 0:
                rows[slide_id] = range(size)
            elif quota > 0 and size > 0:
                rows[slide_id] = np.sort(slide_rng(seed, slide_id).choice(size, quota, replace=False)).astype(np.int64)
        return cls(source, tuple(rows), tuple(rows.values()), width)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, start: int, stop: int) -> Float32[np.ndarray, "n d"]:
        """Read the rows of these running numbers.

        Raises:
            EncoderOutputError: If one of them holds NaN or infinity.
        """
        parts = []
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        for slide in range(first, len(self.slide_ids)):
            begin = int(self._starts[slide])
            if begin >= stop:
                break
            rows = self.rows[slide][max(start - begin, 0) : stop - begin]
            parts.append(self._read_slide(self.slide_ids[slide], rows))
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def take(self, numbers: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n d"]:
        """Read the rows of these rising running numbers."""
        slides, rows = self.locate(numbers)
        parts = [self._read_slide(self.slide_ids[s], rows[slides == s]) for s in np.unique(slides)]
        return np.concatenate(parts)

    def locate(self, numbers: Int64[np.ndarray, " n"]) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Which slide (an index into ``slide_ids``) and which row of it each running number is."""
        slides = (np.searchsorted(self._starts, numbers, side="right") - 1).astype(np.int64)
        rows = np.empty(len(numbers), np.int64)
        for slide in np.unique(slides):
            here = slides == slide
            rows[here] = np.asarray(self.rows[slide])[numbers[here] - self._starts[slide]]
        return slides, rows

    def chunks(self, n_rows: int = _CHUNK_ROWS) -> Iterator[Float32[np.ndarray, "n d"]]:
        """All rows once, in order, some thousands at a time."""
        for start in range(0, len(self), n_rows):
            yield self.read(start, min(start + n_rows, len(self)))

    def shuffled(self, rng: np.random.Generator, batch_rows: int) -> Iterator[Float32[np.ndarray, "n d"]]:
        """All rows once, in batches of blocks from all over the slides.

        A block is a run of rows that lie together, so that a disk reads in runs and memory holds one batch.
        """
        blocks = rng.permutation(-(-len(self) // BLOCK_ROWS))
        per_batch = max(1, batch_rows // BLOCK_ROWS)
        for i in range(0, len(blocks), per_batch):
            starts = np.sort(blocks[i : i + per_batch]) * BLOCK_ROWS
            yield np.concatenate([self.read(int(s), min(int(s) + BLOCK_ROWS, len(self))) for s in starts])

    def _read_slide(self, slide_id: str, rows: Int64[np.ndarray, " n"] | range) -> Float32[np.ndarray, "n d"]:
        index = slice(rows.start, rows.stop) if isinstance(rows, range) else rows
        bag = self._open(slide_id)
        return finite_rows(bag.features[index], slide_id, first=rows[0] if isinstance(rows, range) else None)


def finite_rows(
    features: Float[np.ndarray, "n d"], slide_id: str, *, first: int | None = None
) -> Float32[np.ndarray, "n d"]:
    """The rows as float32.

    Raises:
        EncoderOutputError: If one holds NaN or infinity.
    """
    x = np.asarray(features, dtype=np.float32)
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        bad = int(np.argmin(finite))
        where = f"row {bad + first}" if first is not None else "a sampled row"
        raise EncoderOutputError(
            f"Features of slide {slide_id!r} hold NaN or infinity ({where}, {int((~finite).sum())} row(s) of "
            f"{len(x)} read). Extract them again with --overwrite; where it persists, the encoder or its "
            "precision is at fault."
        )
    return x


def _sizes(source: FeatureSource, slide_ids: Sequence[str]) -> tuple[dict[str, int], int]:
    """Rows of each slide, and the one length that all rows have."""
    sizes: dict[str, int] = {}
    widths: dict[int, str] = {}
    for slide_id in slide_ids:
        n, d = source[slide_id].features.shape
        sizes[slide_id] = int(n)
        if n:
            widths.setdefault(int(d), slide_id)
    if len(widths) > 1:
        (a, one), (b, other) = sorted(widths.items())[:2]
        raise EncoderOutputError(
            f"Slides {one!r} and {other!r} have features of {a} and {b} values: they come from different "
            "encoders. Use a folder of one encoder."
        )
    if not widths:
        raise ConfigError(f"The {len(slide_ids)} slide(s) have no tiles, so there is nothing to group.")
    return sizes, next(iter(widths))


def even_quotas(sizes: dict[str, int], n_rows: int, *, seed: int) -> dict[str, int]:
    """Share ``n_rows`` over slides as evenly as their sizes allow.

    Where even shares leave a remainder, the seed decides which slides give one row more.

    Returns:
        Rows to take of each slide; they sum to ``min(n_rows, all rows)``.

    Example:
        >>> even_quotas({"a": 2, "b": 10, "c": 10}, 12, seed=0)
        {'a': 2, 'b': 5, 'c': 5}
    """
    left, quotas = n_rows, dict.fromkeys(sizes, 0)
    # smallest first: what it cannot give is shared by the larger ones
    order = sorted(sizes, key=lambda s: (sizes[s], slide_rng(seed, s).random()))
    for i, slide_id in enumerate(order):
        quotas[slide_id] = min(sizes[slide_id], left // (len(order) - i))
        left -= quotas[slide_id]
    return quotas
