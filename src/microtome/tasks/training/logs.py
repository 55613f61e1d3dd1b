"""Logs of a training: CSV, and the same for TensorBoard. A resumed training's log is that of an unbroken one."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from microtome.errors import CorruptOutputError
from microtome.storage import write_errors_explained, write_text


class CsvLog:
    """Rows with a ``step``, appended as they come.

    A column that comes later is added to all rows.

    Args:
        path: The file.
        upto: Rows of later steps, which a resumed training will write again, are removed.

    Raises:
        CorruptOutputError: If the file there is not such a log.
        OutputWriteError: If it cannot be written.
    """

    def __init__(self, path: Path, upto: int) -> None:
        self._path = path
        self._columns: list[str] = []
        rows: list[dict[str, str]] = []
        if path.exists():
            with path.open(encoding="utf-8", newline="") as file:
                reader = csv.DictReader(file)
                rows = [row for row in reader if _step(row, path) <= upto]
                self._columns = list(reader.fieldnames or [])
        self._write_all(rows)

    def add(self, row: Mapping[str, object]) -> None:
        """Append a row; the file holds it when this returns."""
        new = [name for name in row if name not in self._columns]
        if new:
            rows = []
            if self._columns:
                with self._path.open(encoding="utf-8", newline="") as file:
                    rows = list(csv.DictReader(file))
            self._columns += new
            self._write_all(rows)
        with write_errors_explained(self._path), self._path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    def _write_all(self, rows: list[dict[str, str]]) -> None:
        text = io.StringIO(newline="")
        if self._columns:
            writer = csv.DictWriter(text, self._columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        write_text(self._path, text.getvalue())


def _step(row: Mapping[str, str | None], path: Path) -> int:
    """A row's step; one that a kill cut off counts as of a step to come."""
    if "step" not in row:
        raise CorruptOutputError(f"'{path}' is not a log of a training: it has no column 'step'. Move it away.")
    if any(value is None for value in row.values()):
        return 2**62
    return int(row["step"] or 2**62)


class Logs:
    """Everything that a training logs into its folder.

    Args:
        folder: Of the training.
        step: From which it goes on.
        tensorboard: Whether TensorBoard's files are written too.
    """

    def __init__(self, folder: Path, step: int, *, tensorboard: bool) -> None:
        self._csv = {kind: CsvLog(folder / f"{kind}.csv", step) for kind in ("train", "validation")}
        self._board: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # takes a second to import

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def add(self, kind: str, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """One row of ``train`` or ``validation``."""
        self._csv[kind].add({"step": step, "epoch": epoch, **{name: repr(value) for name, value in values.items()}})
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flush what is still held."""
        if self._board is not None:
            self._board.close()
