"""Tables of predictions: one row per slide, biopsy or patient and model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from microtome.cohort.targets import Labels, Target, Unit
from microtome.errors import CorruptOutputError, EvaluationError, MissingOutputError
from microtome.storage import written_whole
from microtome.storage.recipe import plain_value

_METADATA = b"microtome"
_KEY = ("id", "repeat", "fold")
_SUM_TOLERANCE = 2e-3  # probabilities that were rounded to half precision
_UNITS: tuple[Unit, ...] = ("slide", "biopsy", "patient")


@dataclass(frozen=True)
class Predictions:
    """What models say of slides, biopsies or patients; checked when made.

    Attributes:
        table: ``id``, ``<unit>_id`` (slide_id, biopsy_id or patient_id), ``patient_id``, ``fold`` and ``repeat``
            (int64; 0 where there is one model), ``target``, ``target_type``, then by type: binary (both classes),
            multiclass and multilabel ``p_<class>``; regression ``value``; ordinal ``grade`` (0 for the lowest class;
            may lie between two) and ``p_ge_<class>`` of every class but the lowest; survival ``risk`` (higher: sooner)
            and, where known, ``time`` and ``event``. ``in_training`` (bool) where it is known whether the patient was
            in training. Each (id, repeat, fold) occurs once. Further columns may follow.
        target: What is predicted.
        attrs: Plain values that go with the table: model, features, how folds were made.
        unit: What a row is.

    Raises:
        EvaluationError: If a column is missing, an id is empty or occurs twice for one model, a number is not finite,
            a probability lies outside of 0..1, or those of exclusive classes do not sum to one; the sentence names
            the row.
    """

    table: pd.DataFrame
    target: Target
    attrs: Mapping[str, Any] = field(default_factory=dict)
    unit: Unit = "slide"

    def __post_init__(self) -> None:
        table = self.table.reset_index(drop=True)
        object.__setattr__(self, "table", _checked(table, self.target, self.unit))

    def __len__(self) -> int:
        return len(self.table)

    def write(self, path: str | Path) -> Path:
        """Write the table whole: ``.parquet`` (with target and attrs), or ``.csv`` (the table only).

        Returns:
            The path.

        Raises:
            EvaluationError: If the suffix is another.
            OutputWriteError: If it cannot be written.
        """
        path = Path(path)
        if path.suffix not in (".parquet", ".csv"):
            raise EvaluationError(f"Predictions are written as .parquet or .csv. Got '{path}'.")
        with written_whole(path) as temporary:
            if path.suffix == ".csv":
                self.table.to_csv(temporary, index=False, lineterminator="\n")
            else:
                said = {"target": self.target.as_dict(), "unit": self.unit, "attrs": plain_value(dict(self.attrs))}
                content = pa.Table.from_pandas(self.table, preserve_index=False)
                metadata = {**(content.schema.metadata or {}), _METADATA: json.dumps(said, sort_keys=True).encode()}
                pq.write_table(content.replace_schema_metadata(metadata), temporary)
        return path


def value_columns(target: Target) -> tuple[str, ...]:
    """Columns that a table of this target's predictions must have beside the ids.

    Example:
        >>> value_columns(Target("grade", "ordinal", ("grade",), ("1", "2", "3")))
        ('grade', 'p_ge_2', 'p_ge_3')
    """
    if target.type == "regression":
        return ("value",)
    if target.type == "survival":
        return ("risk",)
    if target.type == "ordinal":
        return ("grade", *(f"p_ge_{name}" for name in target.classes[1:]))
    return tuple(f"p_{name}" for name in target.classes)


def predictions_table(
    labels: Labels,
    columns: Mapping[str, np.ndarray],
    *,
    fold: int = 0,
    repeat: int = 0,
    in_training: Sequence[bool] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> Predictions:
    """Predictions of rows that have labels: those of ``labels.take(rows)``.

    Args:
        labels: The rows, in the order of the columns.
        columns: What ``Objective.columns`` gives: name → (n,) values.
        fold: Number of the fold whose test side they are.
        repeat: Number of the repeat.
        in_training: Whether each row's patient was in training.
        attrs: Plain values that go with the table.

    Returns:
        The table; survival gets ``time`` and ``event`` of the labels.

    Raises:
        EvaluationError: As :class:`Predictions`.
    """
    known = {"fold": np.full(len(labels), fold), "repeat": np.full(len(labels), repeat), **columns}
    if labels.target.type == "survival":
        known |= {"time": labels.values[:, 0], "event": labels.values[:, 1]}
    return predictions_of(
        labels.target,
        labels.ids,
        labels.patient_ids,
        known,
        unit=labels.unit,
        in_training=in_training,
        attrs=attrs,
    )


def predictions_of(
    target: Target,
    ids: Sequence[str],
    patient_ids: Sequence[str],
    columns: Mapping[str, np.ndarray],
    *,
    unit: Unit = "slide",
    in_training: Sequence[bool] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> Predictions:
    """Predictions of rows that need no labels.

    Args:
        target: What is predicted.
        ids: slide_id, biopsy_id or patient_id of each row, as the unit is.
        patient_ids: Patient of each row.
        columns: Name → (n,) values; ``fold`` and ``repeat`` too, 0 where they are absent.
        unit: What a row is.
        in_training: Whether each row's patient was in training.
        attrs: Plain values that go with the table.

    Raises:
        EvaluationError: As :class:`Predictions`, and if the columns have different lengths.
    """
    content: dict[str, Any] = {"id": list(ids), f"{unit}_id": list(ids), "patient_id": list(patient_ids)}
    content |= {"fold": np.zeros(len(ids), np.int64), "repeat": np.zeros(len(ids), np.int64)}
    given = dict(columns) if in_training is None else {**columns, "in_training": np.asarray(in_training, bool)}
    lengths = {name: len(values) for name, values in {**content, **given}.items()}
    if len(set(lengths.values())) > 1:
        raise EvaluationError(f"Columns of predictions must have one length. Got {lengths}.")
    content |= {name: given.pop(name) for name in ("fold", "repeat") if name in given}
    content |= {"target": [target.name] * len(ids), "target_type": [target.type] * len(ids)}
    return Predictions(pd.DataFrame({**content, **given}), target, dict(attrs or {}), unit)


def concat_predictions(parts: Sequence[Predictions]) -> Predictions:
    """One table of several of the same target, unit and columns, in their order; ``attrs`` of the first.

    Raises:
        EvaluationError: If there are none, or they differ in target, unit or columns, or one (id, repeat, fold)
            occurs twice.
    """
    if not parts:
        raise EvaluationError("There are no predictions to put together.")
    first = parts[0]
    for part in parts[1:]:
        for what, one, other in (
            ("targets", first.target, part.target),
            ("units", first.unit, part.unit),
            ("columns", sorted(first.table.columns), sorted(part.table.columns)),
        ):
            if one != other:
                raise EvaluationError(f"Predictions of different {what} cannot be put together: {one} and {other}.")
    return replace(first, table=pd.concat([part.table for part in parts], ignore_index=True))


def read_predictions(path: str | Path, *, target: Target | None = None) -> Predictions:
    """Read what :meth:`Predictions.write` wrote, or a table of the same columns by somebody else.

    Args:
        path: ``.parquet`` or ``.csv``.
        target: What is predicted. A table that does not carry it (CSV, or somebody else's) says so by its columns
            ``target``, ``target_type`` and ``p_*``, but for ordinal and survival targets, where it must be given.

    Raises:
        MissingOutputError: If there is no such file.
        CorruptOutputError: If it cannot be read.
        EvaluationError: As :class:`Predictions`; if the target cannot be told, or another one is given than is
            written there.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingOutputError(f"There are no predictions at '{path}'.")
    if path.suffix not in (".parquet", ".csv"):
        raise EvaluationError(f"Predictions are read from .parquet or .csv. Got '{path}'.")
    table, said = _read_table(path)
    by_column: list[Unit] = [unit for unit in _UNITS if f"{unit}_id" in table.columns]
    unit: Unit = said["unit"] if "unit" in said else [*by_column, "slide"][0]
    written: Target | None = said.get("target")
    if target is not None and written is not None and target != written:
        raise EvaluationError(f"'{path}' holds predictions of {written}, not of {target}.")
    table = _with_defaults(table, unit)
    try:
        return Predictions(table, target or written or _told_target(table), said.get("attrs", {}), unit)
    except EvaluationError as error:
        raise EvaluationError(f"'{path}': {error}") from error


def _read_table(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    try:
        if path.suffix == ".csv":
            text = dict.fromkeys(("id", "slide_id", "biopsy_id", "patient_id", "target", "target_type"), str)
            return pd.read_csv(
                path, dtype=text, encoding="utf-8-sig", float_precision="round_trip", keep_default_na=False
            ), {}
        content = pq.read_table(path)
        metadata = content.schema.metadata or {}
        said: dict[str, Any] = {}
        if _METADATA in metadata:
            said = json.loads(metadata[_METADATA])
            said["target"] = Target.from_dict(said["target"])
            _UNITS.index(said["unit"])
        return content.to_pandas(), said
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        raise CorruptOutputError(f"Predictions '{path}' cannot be read: {error}. Make them again.") from error


def _with_defaults(table: pd.DataFrame, unit: Unit) -> pd.DataFrame:
    """Somebody else's table with the columns that follow from others."""
    table = table.copy()
    if "id" not in table and f"{unit}_id" in table:
        table["id"] = table[f"{unit}_id"]
    for name in ("fold", "repeat"):
        if name not in table:
            table[name] = 0
    return table


def _told_target(table: pd.DataFrame) -> Target:
    """The target that the columns of a table show.

    Raises:
        EvaluationError: If they do not.
    """
    if not {"target", "target_type"} <= set(table.columns) or not len(table):
        raise EvaluationError("the table does not say what is predicted (target, target_type). Pass the target.")
    name, kind = str(table["target"].iloc[0]), str(table["target_type"].iloc[0])
    classes = tuple(str(c)[2:] for c in table.columns if str(c).startswith("p_"))
    if kind == "regression":
        return Target(name, "regression", (name,))
    if kind == "multilabel":
        return Target(name, "multilabel", classes, classes)
    if kind == "binary" and len(classes) == 2:
        return Target(name, "binary", (name,), classes)
    if kind == "multiclass":
        return Target(name, "multiclass", (name,), classes)
    raise EvaluationError(
        f"a table alone does not say all of the {kind} target {name!r}. Pass the target and its type."
    )


def _checked(table: pd.DataFrame, target: Target, unit: Unit) -> pd.DataFrame:
    """The table with ids as text, numbers as numbers, and nothing wrong."""
    needed = dict.fromkeys(
        ("id", f"{unit}_id", "patient_id", "fold", "repeat", "target", "target_type", *value_columns(target))
    )
    absent = [name for name in needed if name not in table.columns]
    if absent:
        raise EvaluationError(
            f"Predictions of the {target.type} target {target.name!r} lack the column {', '.join(absent)}. They have: "
            f"{', '.join(map(str, table.columns))}."
        )
    for name in dict.fromkeys(("id", f"{unit}_id", "patient_id")):
        _refuse(table, table[name].isna() | (table[name].astype(str) == ""), f"{name} is empty")
        table = table.assign(**{name: table[name].astype(str)})
    for name in ("fold", "repeat"):
        numbers = _numbers(table, name)
        _refuse(table, (numbers < 0) | (numbers % 1 != 0), f"{name} must be a whole number from 0", numbers)
        table = table.assign(**{name: numbers.astype(np.int64)})
    for name, said in (("target", target.name), ("target_type", target.type)):
        _refuse(table, table[name] != said, f"{name} must be {said!r}", table[name])
    known = [name for name in ("time", "event") if target.type == "survival" and name in table.columns]
    table = table.assign(**{name: _numbers(table, name) for name in (*value_columns(target), *known)})
    twice = table.duplicated(list(_KEY))
    _refuse(table, twice, "id occurs twice for one repeat and fold")
    _check_values(table, target)
    if "in_training" in table.columns:
        _refuse(table, ~table["in_training"].isin([True, False]), "in_training must be true or false")
        table = table.assign(in_training=table["in_training"].astype(bool))
    return table


def _check_values(table: pd.DataFrame, target: Target) -> None:
    shares = [name for name in value_columns(target) if name.startswith("p_")]
    for name in shares:
        _refuse(table, (table[name] < 0) | (table[name] > 1), f"{name} must lie in 0..1", table[name])
    if target.type in ("binary", "multiclass") and shares:
        total = table[shares].sum(axis=1)
        _refuse(table, (total - 1).abs() > _SUM_TOLERANCE, f"{' + '.join(shares)} must be 1", total)
    if target.type == "ordinal":
        top = len(target.classes) - 1
        _refuse(table, (table["grade"] < 0) | (table["grade"] > top), f"grade must lie in 0..{top}", table["grade"])


def _numbers(table: pd.DataFrame, name: str) -> "pd.Series[Any]":
    numbers = pd.to_numeric(table[name], errors="coerce")
    _refuse(
        table,
        ~np.isfinite(numbers.to_numpy(np.float64, na_value=np.nan)),
        f"{name} must be a finite number",
        table[name],
    )
    return numbers


def _refuse(table: pd.DataFrame, wrong: Any, rule: str, got: Any = None) -> None:  # noqa: ANN401 - series or arrays
    """Raise where ``wrong`` holds, naming the first such row."""
    rows = np.flatnonzero(np.asarray(wrong, dtype=bool))
    if not len(rows):
        return
    row = table.iloc[rows[0]]
    said = "" if got is None else f" Got {pd.Series(got).iloc[rows[0]]!r}."
    raise EvaluationError(
        f"Row {rows[0]} of the predictions (id {row['id']!r}, repeat {row['repeat']}, fold {row['fold']}; {len(rows)} "
        f"such rows): {rule}.{said}"
    )
