"""What a model fits: a target of a type, read from the label columns of a cohort."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float64, Int64

from microtome.cohort.table import Cohort
from microtome.errors import CohortError, ConfigError

TargetType = Literal["binary", "multiclass", "multilabel", "regression", "ordinal", "survival"]
Unit = Literal["slide", "biopsy", "patient"]


@dataclass(frozen=True, slots=True)
class Target:
    """A quantity to predict.

    Attributes:
        name: What it is called, also in file names.
        type: Which kind of quantity.
        columns: Label columns of the cohort that hold it: one; several for multilabel (one per class); two for
            survival (time, event).
        classes: binary: (negative, positive); multiclass: in the order of the logits; ordinal: rising grades;
            multilabel: one per column; none for regression and survival.
    """

    name: str
    type: TargetType
    columns: tuple[str, ...]
    classes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values, from which :meth:`from_dict` makes the target again."""
        return {"name": self.name, "type": self.type, "columns": list(self.columns), "classes": list(self.classes)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Target":
        """The target that :meth:`as_dict` wrote."""
        return cls(values["name"], values["type"], tuple(values["columns"]), tuple(values["classes"]))


@dataclass(frozen=True, slots=True)
class Labels:
    """The target's values of the units (slides, biopsies or patients) that have one; rows in one fixed order.

    Attributes:
        target: What the values are of.
        ids: The unit of each row: its slide_id, biopsy_id or patient_id.
        patient_ids: The patient of each row.
        slide_ids: The slides of each row, in the order of the cohort.
        values: (n, k) float64. binary: 0 or 1; multiclass and ordinal: number of the class; multilabel: 0, 1 or NaN
            where it is missing, one column per class; regression: the number; survival: time, and 1 for an event or 0
            for a censored time.
        excluded: Slide → why it is not among the rows.
        unit: What a row is.
    """

    target: Target
    ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    slide_ids: tuple[tuple[str, ...], ...]
    values: Float64[np.ndarray, "n k"]
    excluded: Mapping[str, str] = field(default_factory=dict)
    unit: Unit = "slide"

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Int64[np.ndarray, " m"]) -> "Labels":
        """The same with some of the rows, in their order."""
        return Labels(
            self.target,
            tuple(self.ids[i] for i in rows),
            tuple(self.patient_ids[i] for i in rows),
            tuple(self.slide_ids[i] for i in rows),
            self.values[rows],
            self.excluded,
            self.unit,
        )


NOT_KNOWN = frozenset({"#n/a", "'--", "--", "not reported", "not available", "not evaluated", "unknown"})
"""Cells of clinical tables, in small letters, that say that a label is not known; so does anything in [brackets]."""

POSITIVE_PAIRS = (
    ("0", "1"), ("false", "true"), ("no", "yes"), ("n", "y"), ("negative", "positive"), ("neg", "pos"), ("-", "+"),
    ("normal", "tumor"), ("normal", "tumour"), ("normal_tissue", "tumor_tissue"), ("absent", "present"),
    ("wt", "mut"), ("wild type", "mutated"), ("wildtype", "mutant"), ("wildtype", "mutated"), ("control", "case"),
    ("mss", "msi-h"), ("mss", "msih"), ("mss", "msi"), ("msi-l", "msi-h"), ("nonmsih", "msih"), ("mss", "msimut"),
    ("alive", "dead"), ("living", "deceased"), ("benign", "malignant"),
)  # fmt: skip
"""(negative, positive) labels, in small letters, whose meaning nobody can mistake."""

_CENSORED = frozenset({"0", "false", "no", "alive", "living", "censored", "0:living", "0:alive"})
_EVENT = frozenset({"1", "true", "yes", "dead", "deceased", "died", "event", "1:deceased", "1:dead"})
_CODED_EVENT = re.compile(r"([01]):.+")  # cBioPortal: 0:DiseaseFree, 1:Recurred/Progressed
_TIME_NAMES = ("{}.time", "{}_time", "{}_months", "{}_days", "time_{}", "{}time")
_EVENT_NAMES = ("{}", "{}_event", "{}.event", "{}_status", "event_{}", "{}event")


def find_target(
    cohort: Cohort,
    name: str,
    *,
    type: TargetType | None = None,  # noqa: A002 - what the column of predictions and the flag are called
    columns: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    positive: str | None = None,
) -> Target:
    """Say what is to be predicted: from the labels where they leave no doubt, as told otherwise.

    Two different labels make a binary target, more that are no numbers a multi-class one. Regression, ordinal,
    multi-label and survival targets are made only where ``type`` says so.

    Args:
        cohort: The slides with their labels.
        name: The target's name; also the label column, where ``columns`` names none.
        type: Kind of the target; None to tell it from the labels.
        columns: Label columns: one; one per class for multilabel; (time, event) for survival, found by name otherwise
            (``OS.time`` and ``OS`` for ``OS``, say).
        classes: Order of the classes: (negative, positive); of logits; rising grades. Slides with another label are
            excluded by :func:`read_labels`.
        positive: The positive class of a binary target, where the labels do not show it (``1``, ``yes``, ``MSI-H``).

    Returns:
        The target.

    Raises:
        CohortError: If a column does not exist, has no labels, or only one.
        ConfigError: If it is in doubt what the target is; the sentence says what to pass.
    """
    if type is not None and type not in get_args(TargetType):
        raise ConfigError(f"type must be one of {', '.join(get_args(TargetType))}. Got {type!r}.")
    if columns is not None and len(set(columns)) != len(columns):
        raise ConfigError(f"columns of {name!r} must differ. Got {', '.join(columns)}.")
    if type == "survival":
        _none_given(name, type, classes=classes, positive=positive)
        return Target(name, type, _survival_columns(cohort, name, columns))
    if type == "multilabel":
        return _multilabel(cohort, name, columns, classes, positive)
    if columns is not None and len(columns) != 1:
        raise ConfigError(
            f"{name!r} has {len(columns)} columns ({', '.join(columns)}). Pass one, or type multilabel or survival."
        )
    column = name if columns is None else columns[0]
    found = Counter(label for label in cohort.labels(column).values() if not _is_unknown(label))
    if not found:
        raise CohortError(f"No slide has a label in column {column!r}. Name another column, or fill it.")
    if type == "regression":
        _none_given(name, type, classes=classes, positive=positive)
        return Target(name, type, (column,))
    kind = type or _told_type(cohort, column, found, classes, positive)
    return Target(name, kind, (column,), _ordered_classes(column, kind, found, classes, positive))


def read_labels(cohort: Cohort, target: Target, *, unit: Unit = "slide") -> Labels:
    """Read the target's values of each slide, biopsy or patient.

    Args:
        cohort: The slides with their labels.
        target: What to read.
        unit: What a row is. A biopsy's or a patient's slides must agree; one without a label takes that of the others.

    Returns:
        The rows, in the order in which their first slide stands in the cohort, and every slide that is in none of
        them with the reason: the label is missing, or is none of the classes, or the survival time is not positive.

    Raises:
        CohortError: If a column does not exist; a value cannot be read (a regression value or time that is no finite
            number, an event or multi-label code that is not known); slides of one biopsy or patient disagree; no rows
            are left; all have one class, or all survival times are censored.
    """
    unknown = [column for column in target.columns if column not in cohort.label_columns]
    if unknown:
        cohort.labels(unknown[0])  # raises, and says which there are
    excluded: dict[str, str] = {}
    known: dict[str, tuple[float, ...]] = {}
    for slide in cohort.slides:
        cells = [slide.labels[column] for column in target.columns]
        values = _read_values(target, slide.slide_id, cells)
        if isinstance(values, str):
            excluded[slide.slide_id] = values
        else:
            known[slide.slide_id] = values
    members = _members(cohort, unit, excluded)
    rows = {key: ids for key, ids in members.items() if any(i in known for i in ids)}
    values_of = {key: _agreed(target, unit, key, {i: known[i] for i in ids if i in known}) for key, ids in rows.items()}
    used = {slide_id for ids in rows.values() for slide_id in ids}
    patients = {slide.slide_id: slide.patient_id for slide in cohort.slides}
    labels = Labels(
        target,
        tuple(rows),
        tuple(patients[ids[0]] for ids in rows.values()),
        tuple(tuple(ids) for ids in rows.values()),
        np.array(list(values_of.values()), np.float64).reshape(len(rows), _width(target)),
        {slide_id: reason for slide_id, reason in excluded.items() if slide_id not in used},
        unit,
    )
    check_labels(labels)
    return labels


def check_labels(labels: Labels) -> None:
    """Make sure that there is something to learn from: rows, two classes, an event.

    Raises:
        CohortError: If there is not; the sentence counts the exclusions.
    """
    name, values = labels.target.name, labels.values
    reasons = Counter(labels.excluded.values()).most_common(3)
    left_out = "; ".join(f"{n} slides: {reason}" for reason, n in reasons)
    left_out = f" Excluded: {left_out}." if reasons else ""
    if not len(labels):
        raise CohortError(f"No {labels.unit} has a usable label of {name!r}.{left_out}")
    if labels.target.type == "survival":
        if not values[:, 1].any():
            raise CohortError(
                f"All {len(labels)} survival times of {name!r} are censored: there is no event to learn from. Check "
                f"the codes in column {labels.target.columns[1]!r} (1 is an event).{left_out}"
            )
        return
    constant = [j for j in range(values.shape[1]) if len(np.unique(values[~np.isnan(values[:, j]), j])) < 2]
    if constant:
        what = labels.target.columns[constant[0]]
        raise CohortError(
            f"All {len(labels)} labels in column {what!r} of {name!r} are alike: there is nothing to tell apart."
            f"{left_out}"
        )


def _told_type(
    cohort: Cohort, column: str, found: Counter[str], classes: Sequence[str] | None, positive: str | None
) -> TargetType:
    """Kind of a target that the labels show.

    Raises:
        ConfigError: If they leave it in doubt.
        CohortError: If there is one label only.
    """
    times = [c for c in cohort.label_columns if c.casefold() in {t.format(column.casefold()) for t in _TIME_NAMES}]
    if times:
        raise ConfigError(
            f"Column {column!r} stands beside {times[0]!r}: is it an event with its time? Pass type survival, or the "
            "type that you mean."
        )
    if classes is not None or positive is not None:
        return "binary" if classes is None or len(classes) == 2 else "multiclass"
    if len(found) == 1:
        raise CohortError(
            f"All {found.total()} labels in column {column!r} are {_listed(found)}: there is nothing to tell apart."
        )
    if len(found) == 2:
        return "binary"
    numbers = [label for label in found if _as_number(label) is not None]
    if len(numbers) == len(found):
        raise ConfigError(
            f"Column {column!r} holds {len(found)} different numbers: values, grades or classes? Pass type "
            "regression, ordinal or multiclass."
        )
    if numbers or len(found) == found.total():
        what = f"numbers ({numbers[0]}) and words" if numbers else f"{len(found)} labels that each occur once"
        raise ConfigError(
            f"Column {column!r} holds {what}: it is in doubt what to predict. Pass the type, and classes with those "
            "that count."
        )
    return "multiclass"


def _ordered_classes(
    column: str, kind: TargetType, found: Counter[str], classes: Sequence[str] | None, positive: str | None
) -> tuple[str, ...]:
    if positive is not None and kind != "binary":
        raise ConfigError(f"positive is of binary targets; column {column!r} is {kind}. Leave it out.")
    if classes is None:
        return _binary_order(column, found, positive) if kind == "binary" else _natural_order(column, kind, found)
    absent = [c for c in classes if c not in found]
    wrong_number = (kind == "binary" and len(classes) != 2) or len(classes) < 2
    if wrong_number or len(set(classes)) != len(classes) or absent:
        raise ConfigError(
            f"classes of {column!r} must be {'two' if kind == 'binary' else 'at least two'} different labels that "
            f"occur. Got {', '.join(classes)}; the column holds {_listed(found)}."
        )
    if positive not in (None, classes[-1]):
        raise ConfigError(f"classes say that {classes[-1]!r} is positive, positive says {positive!r}. Pass one.")
    return tuple(classes)


def _binary_order(column: str, found: Counter[str], positive: str | None) -> tuple[str, str]:
    """(negative, positive)."""
    if len(found) != 2:
        raise ConfigError(
            f"Column {column!r} holds {len(found)} different labels ({_listed(found)}), a binary target has two. Pass "
            "classes with the negative and the positive one."
        )
    if positive is not None:
        if positive not in found:
            raise ConfigError(
                f"positive {positive!r} does not occur in column {column!r}, which holds {_listed(found)}."
            )
        return next(label for label in found if label != positive), positive
    by_name = {label.casefold(): label for label in found}
    for pair in POSITIVE_PAIRS:
        if set(by_name) == set(pair):
            return by_name[pair[0]], by_name[pair[1]]
    raise ConfigError(f"Which label of column {column!r} is positive: {_listed(found)}? Pass positive.")


def _natural_order(column: str, kind: TargetType, found: Counter[str]) -> tuple[str, ...]:
    if len(found) < 2:
        raise CohortError(f"All labels in column {column!r} are {_listed(found)}: there is nothing to tell apart.")
    numbers = {label: _as_number(label) for label in found}
    if all(number is not None for number in numbers.values()):
        return tuple(sorted(found, key=lambda label: (numbers[label], label)))
    if kind == "ordinal":
        raise ConfigError(f"Column {column!r} holds {_listed(found)}. Pass classes in rising order.")
    return tuple(sorted(found))


def _survival_columns(cohort: Cohort, name: str, columns: Sequence[str] | None) -> tuple[str, str]:
    """(time, event)."""
    if columns is not None:
        if len(columns) != 2:
            raise ConfigError(f"A survival target has two columns, time and event. Got {', '.join(columns)}.")
        for column in columns:
            cohort.labels(column)
        return columns[0], columns[1]
    by_name = {column.casefold(): column for column in cohort.label_columns}
    pairs = [(_TIME_NAMES, "time"), (_EVENT_NAMES, "event")]
    chosen = []
    for patterns, what in pairs:
        found = [by_name[key] for p in patterns if (key := p.format(name.casefold())) in by_name]
        if len(found) != 1:
            raise ConfigError(
                f"The {what} of {name!r} may be any of: {', '.join(found) or 'no column by its name'}. The label "
                f"columns are {', '.join(cohort.label_columns) or 'none'}. Pass columns with time and event."
            )
        chosen.append(found[0])
    return chosen[0], chosen[1]


def _multilabel(
    cohort: Cohort, name: str, columns: Sequence[str] | None, classes: Sequence[str] | None, positive: str | None
) -> Target:
    if columns is None or len(columns) < 2:
        raise ConfigError(f"A multi-label target has a column per class. Pass the columns of {name!r}, at least two.")
    _none_given(name, "multilabel", positive=positive)
    if classes is not None and len(classes) != len(columns):
        raise ConfigError(f"{name!r} has {len(columns)} columns and {len(classes)} classes. Pass one class per column.")
    for column in columns:
        cohort.labels(column)
    return Target(name, "multilabel", tuple(columns), tuple(classes or columns))


def _none_given(name: str, kind: TargetType, **given: object) -> None:
    wrong = [setting for setting, value in given.items() if value is not None]
    if wrong:
        raise ConfigError(f"{' and '.join(wrong)} mean nothing for the {kind} target {name!r}. Leave them out.")


def _read_values(target: Target, slide_id: str, cells: Sequence[str | None]) -> tuple[float, ...] | str:
    """The values of a slide, or why it has none."""
    known = [None if cell is None or _is_unknown(cell) else cell for cell in cells]
    if target.type == "multilabel":
        if not any(known):
            return "label is missing"
        return tuple(_read_flag(target, slide_id, j, cell) for j, cell in enumerate(known))
    if target.type == "survival":
        return _read_survival(target, slide_id, known[0], known[1])
    (cell,) = known
    if cell is None:
        return "label is missing" if cells[0] is None else f"label is {cells[0]!r}"
    if target.type == "regression":
        return (_read_number(target, slide_id, target.columns[0], cell),)
    if cell not in target.classes:
        return f"label {cell!r} is none of the classes"
    return (float(target.classes.index(cell)),)


def _read_survival(target: Target, slide_id: str, time: str | None, event: str | None) -> tuple[float, ...] | str:
    if time is None:
        return "survival time is missing"
    if event is None:
        return "event is missing"
    number = _read_number(target, slide_id, target.columns[0], time)
    code = read_event(event)
    if code is None:
        raise CohortError(
            f"Slide {slide_id!r}: event {event!r} in column {target.columns[1]!r} is not known. Write 0 (censored) or "
            "1 (event); 0:LIVING and 1:DECEASED, alive and dead, false and true are read as well."
        )
    if number <= 0:
        return "survival time is not positive"
    return number, code


def read_event(code: str) -> float | None:
    """1 for a code that says that the event was seen, 0 for one of a censored time, None for any other.

    Example:
        >>> read_event("1:DECEASED"), read_event("alive"), read_event("2")
        (1.0, 0.0, None)
    """
    plain = code.strip().casefold()
    if match := _CODED_EVENT.fullmatch(plain):
        plain = match[1]
    number = _as_number(plain)
    if number is not None:
        return number if number in (0, 1) else None
    return 1.0 if plain in _EVENT else 0.0 if plain in _CENSORED else None


def _read_flag(target: Target, slide_id: str, j: int, cell: str | None) -> float:
    if cell is None:
        return math.nan
    for pair in POSITIVE_PAIRS[:7]:
        if cell.casefold() in pair:
            return float(pair.index(cell.casefold()))
    raise CohortError(
        f"Slide {slide_id!r}: {cell!r} in column {target.columns[j]!r} of {target.name!r} must be 0, 1 or empty (yes "
        "and no, true and false, positive and negative are read as well)."
    )


def _read_number(target: Target, slide_id: str, column: str, cell: str) -> float:
    number = _as_number(cell)
    if number is None or not math.isfinite(number):
        raise CohortError(
            f"Slide {slide_id!r}: {cell!r} in column {column!r} of {target.name!r} must be a finite number with a "
            "decimal point, or empty."
        )
    return number


def _members(cohort: Cohort, unit: Unit, excluded: dict[str, str]) -> dict[str, list[str]]:
    """Row → its slides; slides without a biopsy are added to the excluded.

    Raises:
        CohortError: If a biopsy is of two patients, or no slide has one.
    """
    members: dict[str, list[str]] = {}
    patient_of: dict[str, str] = {}
    for slide in cohort.slides:
        key = {"slide": slide.slide_id, "biopsy": slide.biopsy_id, "patient": slide.patient_id}[unit]
        if key is None:
            excluded[slide.slide_id] = "biopsy_id is missing"
            continue
        if patient_of.setdefault(key, slide.patient_id) != slide.patient_id:
            raise CohortError(
                f"Biopsy {key!r} is of the patients {patient_of[key]!r} and {slide.patient_id!r}. Give each biopsy an "
                "id of its own."
            )
        members.setdefault(key, []).append(slide.slide_id)
    if not members:
        raise CohortError("No slide has a biopsy_id. Add the column, or take slides or patients as rows.")
    return members


def _agreed(target: Target, unit: Unit, key: str, values: Mapping[str, tuple[float, ...]]) -> tuple[float, ...]:
    """The values on which the slides of a row agree; NaN yields to a number."""
    agreed = list(next(iter(values.values())))
    for slide_id, row in values.items():
        for j, value in enumerate(row):
            if math.isnan(agreed[j]):
                agreed[j] = value
            elif not math.isnan(value) and value != agreed[j]:
                raise CohortError(
                    f"Slides of {unit} {key!r} have different labels of {target.name!r}: slide {slide_id!r} "
                    f"contradicts {', '.join(repr(i) for i in values if i != slide_id)}. Correct the table, or take "
                    "slides as rows."
                )
    return tuple(agreed)


def _width(target: Target) -> int:
    return {"survival": 2, "multilabel": len(target.columns)}.get(target.type, 1)


def _is_unknown(label: str) -> bool:
    return label.casefold() in NOT_KNOWN or (label.startswith("[") and label.endswith("]"))


def _as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _listed(found: Counter[str]) -> str:
    names = sorted(found)
    return ", ".join(repr(name) for name in names[:8]) + (", ..." if len(names) > 8 else "")
