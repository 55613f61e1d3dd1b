"""Writing one slide's features: appended batch by batch while they are made, sealed into one file at the end."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64, Shaped

from microtome.errors import ConfigError, CorruptOutputError, EncoderOutputError
from microtome.features.bag import BagContent, Plain, write_bag_file
from microtome.features.journal import Journal, JournalBatch, JournalHead
from microtome.storage import write_errors_explained, written_whole


@dataclass(frozen=True)
class BagPlan:
    """What will be written for one slide.

    Attributes:
        recipe_digest: Digest of what decides the features; an interrupted writing with another one is discarded.
        rows: Tiles of the source that are asked for, ascending.
        boxes: x y w h of each of them, level-0 pixels.
        dim: Length of a feature vector.
        dtype: ``float32`` or ``float16``.
        batch_size: Number of tiles per batch. Batch i is ``rows[i * batch_size : (i + 1) * batch_size]``.
        attrs: Attributes of the file.
        coords_attrs: Attributes of ``coords``, for readers of other programs.
        columns: What else is known of each tile asked for, by name.
    """

    recipe_digest: str
    rows: Int64[np.ndarray, " n"]
    boxes: Int64[np.ndarray, "n 4"]
    dim: int
    dtype: str
    batch_size: int
    attrs: Mapping[str, Plain] = field(default_factory=dict)
    coords_attrs: Mapping[str, Plain] = field(default_factory=dict)
    columns: Mapping[str, Shaped[np.ndarray, "n ..."]] = field(default_factory=dict)

    @property
    def n_batches(self) -> int:
        """Number of batches in all."""
        return -(-len(self.rows) // self.batch_size)

    def batch_rows(self, index: int) -> Int64[np.ndarray, " n"]:
        """Tiles of the source in one batch."""
        return self.rows[index * self.batch_size : (index + 1) * self.batch_size]


class BagWriter:
    """Takes batches in order and seals them into ``path``. A context manager that keeps what is committed.

    While it runs, batches stand in a hidden file beside ``path``; what a killed process committed there is gone on
    with if the plan is the same, and discarded if not.

    Args:
        path: The file to be.
        plan: What will be written.

    Raises:
        OutputWriteError: If the folder cannot be written.
    """

    def __init__(self, path: Path, plan: BagPlan) -> None:
        self.path, self.plan = path, plan
        head = JournalHead(plan.recipe_digest, plan.dim, plan.dtype, len(plan.rows), plan.batch_size)
        self._journal = Journal(partial_path(path), head)

    @property
    def n_batches(self) -> int:
        """Batches committed so far; the next one to append."""
        return self._journal.n_batches

    @property
    def n_tiles(self) -> int:
        """Tiles in them, readable or not."""
        return self._journal.n_rows + self._journal.n_unreadable

    @property
    def n_unreadable(self) -> int:
        """Tiles in them that could not be decoded."""
        return self._journal.n_unreadable

    @property
    def is_complete(self) -> bool:
        """Whether every batch is committed."""
        return self.n_batches == self.plan.n_batches

    def append(self, features: Float[np.ndarray, "n d"], unreadable: Mapping[int, str]) -> None:
        """Commit the next batch.

        Args:
            features: One row per readable tile of the batch, in order; finite once they are of the plan's dtype.
            unreadable: Tile of the source → why it could not be decoded. It gets no row.

        Raises:
            ConfigError: If the plan has no further batch, or tiles and features do not add up to the next one.
            EncoderOutputError: If a feature is not finite, or does not fit the dtype.
            OutputWriteError: If it cannot be written.
        """
        asked = self.plan.batch_rows(self.n_batches)
        rows = asked[~np.isin(asked, list(unreadable))]
        if not len(asked) or features.shape != (len(rows), self.plan.dim):
            raise ConfigError(
                f"Batch {self.n_batches} of '{self.path.name}' has {len(asked)} tiles, {len(unreadable)} of them "
                f"unreadable. Got features of shape {features.shape} for dimension {self.plan.dim}."
            )
        if len(rows) + len(unreadable) != len(asked):
            raise ConfigError(f"Batch {self.n_batches} of '{self.path.name}' does not hold all unreadable tiles given.")
        self._journal.append(JournalBatch(rows, self._cast(features), unreadable))

    def seal(self) -> Path:
        """Make one contiguous file of all batches, by rename, and remove what was needed meanwhile.

        Returns:
            Path of the file.

        Raises:
            ConfigError: If a batch is missing.
            CorruptOutputError: If what was committed can no longer be read.
            OutputWriteError: If it cannot be written.
        """
        if not self.is_complete:
            raise ConfigError(
                f"'{self.path.name}' has {self.n_batches} of {self.plan.n_batches} batches. Append the others first."
            )
        self._write(self._content(), (batch.features for batch in self._journal.batches()))
        self._journal.remove()
        return self.path

    def close(self) -> None:
        """Stop here; what is committed is kept for the next writer with this plan."""
        self._journal.close()

    def discard(self) -> None:
        """Stop here and delete what was committed."""
        self._journal.remove()

    def __enter__(self) -> "BagWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, content: BagContent, blocks: Iterator[Float[np.ndarray, "_ d"]]) -> None:
        """Write the finished file, whole. Another format overrides it."""
        with written_whole(self.path) as temporary:
            write_bag_file(temporary, content, blocks, dim=self.plan.dim, dtype=self.plan.dtype)

    def _cast(self, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        with np.errstate(over="ignore"):
            cast = features.astype(self.plan.dtype)
        if np.isfinite(cast).all():
            return cast
        if np.isfinite(features).all():
            raise EncoderOutputError(
                f"Features up to {np.abs(features).max():g} do not fit {self.plan.dtype}. Store them as float32."
            )
        raise EncoderOutputError(
            f"The encoder gave NaN or infinity for {int((~np.isfinite(features)).any(axis=1).sum())} tile(s) of "
            f"'{self.path.stem}'. Try precision fp32; if it stays, the encoder or its weights are at fault."
        )

    def _content(self) -> BagContent:
        rows, unreadable = self._committed()
        position = {int(row): i for i, row in enumerate(self.plan.rows)} if unreadable else {}
        lost = np.array(sorted(unreadable), np.int64)
        kept = np.searchsorted(self.plan.rows, rows)
        return BagContent(
            boxes=self.plan.boxes[kept],
            rows=rows,
            unreadable=self.plan.boxes[[position[int(row)] for row in lost]].reshape(-1, 4),
            unreadable_rows=lost,
            unreadable_errors=tuple(unreadable[int(row)] for row in lost),
            attrs=self.plan.attrs,
            coords_attrs=self.plan.coords_attrs,
            columns={name: column[kept] for name, column in self.plan.columns.items()},
        )

    def _committed(self) -> tuple[Int64[np.ndarray, " n"], dict[int, str]]:
        rows: list[Int64[np.ndarray, " n"]] = [np.zeros(0, np.int64)]
        unreadable: dict[int, str] = {}
        with write_errors_explained(self.path):
            for batch in self._journal.batches():
                rows.append(batch.rows)
                unreadable.update(batch.unreadable)
        together = np.concatenate(rows)
        if len(together) + len(unreadable) != len(self.plan.rows):
            self._journal.remove()
            raise CorruptOutputError(
                f"What was written for '{self.path.name}' was changed by somebody else. It is deleted: run again."
            )
        return together, unreadable


def partial_path(path: Path) -> Path:
    """Where batches stand while ``path`` is being made."""
    return path.with_name(f".{path.name}.partial")
