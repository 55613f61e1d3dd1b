"""Files of fixed splits, by id: CLAM's, tables of folds or sides, and our JSON."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from microtome.cohort.table import MISSING, SYNONYMS, read_cells
from microtome.errors import CohortError
from microtome.storage import write_json

FORMAT = "microtome splits 1"
SIDE_COLUMNS = ("split", "set", "subset", "dataset", "partition")
"""Names of a column that says on which side a row is."""

_SIDES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip
_CLAM_FILE = re.compile(r"splits?_(\d+)(_bool)?\.csv")
_FOLD_COLUMN = re.compile(r"fold(?:_(\d+))?", re.IGNORECASE)
_ID_COLUMNS = ("slide_id", "biopsy_id", "patient_id", "id", "filename", "image_id")

Rows = list[tuple[int, list[str]]]


@dataclass(frozen=True, slots=True)
class FileSplit:
    """A split as a file has it: names in place of rows; ``inner`` holds (train, test) of the inner splits."""

    repeat: int
    fold: int
    train: tuple[str, ...]
    test: tuple[str, ...]
    inner: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()
    name: str = ""
    leaky: bool = False


def read_file_splits(path: Path) -> list[FileSplit]:
    """Read a file or folder of splits; the kinds are those of :func:`~microtome.cohort.splits.read_splits`.

    Raises:
        CohortError: If it is none of them, or contradicts itself.
    """
    if path.is_dir():
        return _read_clam_folder(path)
    if path.suffix.lower() == ".json":
        return _read_json(path)
    rows = read_cells(path)
    header = [cell.casefold() for cell in rows[0][1]] if rows else []
    if {"train", "test"} <= set(header):
        match = _CLAM_FILE.fullmatch(path.name)
        return [_read_clam(path, header, rows[1:], int(match[1]) if match else 0)]
    return _read_fold_table(path, header, rows[1:])


def write_file_splits(path: Path, unit: str, splits: Sequence[FileSplit]) -> None:
    """Write splits as JSON, whole."""
    folds = [
        {
            "repeat": s.repeat,
            "fold": s.fold,
            "name": s.name,
            "leaky": s.leaky,
            "train": list(s.train),
            "test": list(s.test),
            "inner": [{"train": list(train), "test": list(test)} for train, test in s.inner],
        }
        for s in splits
    ]
    write_json(path, {"format": FORMAT, "unit": unit, "folds": folds})


def _read_clam_folder(folder: Path) -> list[FileSplit]:
    """One fold per ``splits_<k>.csv``, or ``splits_<k>_bool.csv`` where the former is absent."""
    files: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        match = _CLAM_FILE.fullmatch(path.name)
        if match and (match[2] is None or int(match[1]) not in files):
            files[int(match[1])] = path
    if not files:
        raise CohortError(f"'{folder}' holds no splits_0.csv. Name the file, or the folder, of the splits.")
    return [split for fold in sorted(files) for split in read_file_splits(files[fold])]


def _read_clam(path: Path, header: Sequence[str], rows: Rows, fold: int) -> FileSplit:
    """Columns train, val, test: of ids, or of True and False with the ids in the first column."""
    places = {side: header.index(side) for side in ("train", "val", "test") if side in header}
    sides: dict[str, list[str]] = {side: [] for side in ("train", "val", "test")}
    flags = {cells[places["train"]].casefold() for _, cells in rows if len(cells) > places["train"]} - {""}
    named = bool(flags) and flags <= {"true", "false"}
    if named and 0 in places.values():
        raise CohortError(f"'{path}' holds True and False, but no first column with the ids that they are of.")
    for line, cells in rows:
        if len(cells) != len(header):
            raise CohortError(f"'{path}', line {line}: the row has {len(cells)} cells, the header {len(header)}.")
        for side, place in places.items():
            if named and cells[place].casefold() == "true":
                sides[side].append(cells[0])
            elif not named and cells[place] not in MISSING:
                sides[side].append(cells[place])
    ids = [name for side in sides.values() for name in side]
    _check_once(path, ids)
    train, val, test = (tuple(sides[side]) for side in ("train", "val", "test"))
    return FileSplit(0, fold, train + val, test, ((train, val),) if val else ())


def _read_fold_table(path: Path, header: Sequence[str], rows: Rows) -> list[FileSplit]:
    """Ids with their fold, or with their side."""
    place = _id_place(header)
    folds = {int(match[1] or 0): i for i, name in enumerate(header) if (match := _FOLD_COLUMN.fullmatch(name))}
    side = [header.index(name) for name in SIDE_COLUMNS if name in header]
    if place is None or len(folds) + len(side) == 0 or (folds and side) or len(side) > 1:
        raise CohortError(
            f"'{path}' is no file of splits: it needs columns train and test, or a column of ids ({_ID_COLUMNS[0]}, "
            f"...) and one of fold or {', '.join(SIDE_COLUMNS)}. It has: {', '.join(header) or 'nothing'}."
        )
    needed = max([place, *folds.values(), *side])
    for line, cells in rows:
        if len(cells) <= needed or any(cells[i] in MISSING for i in (place, *folds.values(), *side)):
            raise CohortError(f"'{path}', line {line}: the id, the fold or the side is missing.")
    ids = [cells[place] for _, cells in rows]
    _check_once(path, ids)
    if side:
        return [_of_sides(path, place, side[0], rows)]
    made = []
    for repeat, column in sorted(folds.items()):
        of = dict(zip(ids, [_fold_number(path, line, cells[column]) for line, cells in rows], strict=True))
        for number, fold in enumerate(sorted(set(of.values()))):
            test = tuple(name for name in ids if of[name] == fold)
            made.append(FileSplit(repeat, number, tuple(name for name in ids if of[name] != fold), test))
    return made


def _of_sides(path: Path, place: int, column: int, rows: Rows) -> FileSplit:
    sides: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for line, cells in rows:
        side = _SIDES.get(cells[column].casefold())
        if side is None:
            raise CohortError(f"'{path}', line {line}: {cells[column]!r} must be train, val or test.")
        sides[side].append(cells[place])
    train, val, test = (tuple(sides[side]) for side in ("train", "val", "test"))
    return FileSplit(0, 0, train + val, test, ((train, val),) if val else ())


def _id_place(header: Sequence[str]) -> int | None:
    meant = [SYNONYMS.get(name, name) for name in header]
    for name in _ID_COLUMNS:
        if name in meant:
            return meant.index(name)
    return header.index("") if "" in header[:1] else None


def _fold_number(path: Path, line: int, cell: str) -> int:
    try:
        number = float(cell)
    except ValueError:
        number = -1.0
    if number < 0 or number != int(number):
        raise CohortError(f"'{path}', line {line}: fold {cell!r} must be a whole number from 0.")
    return int(number)


def _check_once(path: Path, ids: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise CohortError(f"'{path}' names {name!r} twice. Each id is on one side, once.")
        seen.add(name)


def _read_json(path: Path) -> list[FileSplit]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CohortError(f"Splits '{path}' cannot be read: {error}.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CohortError(f"'{path}' is no file of splits: it lacks the format {FORMAT!r}.")
    try:
        return [_from_json(fold) for fold in content["folds"]]
    except (KeyError, TypeError, ValueError) as error:
        raise CohortError(f"'{path}' is damaged: a fold lacks a part ({error!r}).") from error


def _from_json(fold: Any) -> FileSplit:  # noqa: ANN401 - whatever the file holds
    inner = tuple((_names(split["train"]), _names(split["test"])) for split in fold["inner"])
    train, test = _names(fold["train"]), _names(fold["test"])
    if not isinstance(fold["name"], str) or not isinstance(fold["leaky"], bool):
        raise TypeError("name or leaky")
    return FileSplit(int(fold["repeat"]), int(fold["fold"]), train, test, inner, fold["name"], fold["leaky"])


def _names(values: Any) -> tuple[str, ...]:  # noqa: ANN401 - whatever the file holds
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError("names must be text")
    return tuple(values)
