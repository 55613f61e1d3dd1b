"""A table of slides: whose each is, where its file is, its resolution where the file does not say, labels.

Ids are text: ``007`` stays ``007``. Labels are text too, without the ``.0`` that whole numbers gain when a
table with gaps passes through software that knows no missing whole numbers.
"""

import codecs
import csv
import io
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from microtome.errors import CohortError, ConfigError, DuplicateSlideError
from microtome.storage import safe_name, write_text

SLIDE_COLUMNS = ("slide_id", "path", "patient_id", "biopsy_id", "mpp")
"""Columns with a meaning of their own; every other column is a label."""

SYNONYMS = {"slide": "slide_id", "patient": "patient_id", "case_id": "patient_id"}
"""Names under which tables of other software hold the same."""

MISSING = frozenset({"", "NA", "N/A", "NaN", "nan", "<NA>"})
"""Cells that say that nothing is known."""

TCGA_BARCODE = re.compile(r"(TCGA-([A-Z0-9]{2})-[A-Z0-9]{4})(?![A-Z0-9]).*", re.IGNORECASE)
"""A barcode of TCGA: patient and tissue source site are its first two groups."""

_WHOLE_AS_FLOAT = re.compile(r"(-?(?:0|[1-9]\d*))\.0+")
_SEPARATORS = (",", ";", "\t")


@dataclass(frozen=True, slots=True)
class CohortSlide:
    """One row: a slide.

    Attributes:
        slide_id: Its name; files of results are named after it.
        patient_id: Whose it is; where nobody says it, the patient in a TCGA barcode, or the slide itself.
        path: Its file, or None where the table does not say.
        mpp: Its resolution, µm per level-0 pixel, or None where the table does not say.
        biopsy_id: Which of the patient's specimens it is of, or None.
        labels: Label column → this slide's label, or None where it is missing.
    """

    slide_id: str
    patient_id: str
    path: Path | None = None
    mpp: float | None = None
    biopsy_id: str | None = None
    labels: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cohort:
    """Slides with their patients and labels; each slide_id occurs once.

    Attributes:
        slides: The rows, in the order of the table.
        label_columns: Names of the label columns, in the order of the table.

    Raises:
        DuplicateSlideError: If two slides have one slide_id.
        CohortError: If a slide lacks a label column, or one file has two slide_ids.

    Example:
        >>> cohort = Cohort((CohortSlide("a1", "a"), CohortSlide("a2", "a")))
        >>> len(cohort), cohort.patient_ids
        (2, ('a',))
    """

    slides: tuple[CohortSlide, ...]
    label_columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        by_id: dict[str, CohortSlide] = {}
        by_path: dict[Path, CohortSlide] = {}  # absolute, without dots
        for slide in self.slides:
            if (twin := by_id.setdefault(slide.slide_id, slide)) is not slide:
                raise DuplicateSlideError(
                    f"slide_id {slide.slide_id!r} occurs twice: {_described(twin)} and {_described(slide)}. "
                    "Give each slide an id of its own."
                )
            if slide.path is not None and (twin := by_path.setdefault(_plain(slide.path), slide)) is not slide:
                raise CohortError(
                    f"'{slide.path}' is listed as slide {twin.slide_id!r} and as {slide.slide_id!r}. List "
                    "each file once."
                )
            if set(slide.labels) != set(self.label_columns):
                raise CohortError(
                    f"Slide {slide.slide_id!r} has the labels {sorted(slide.labels)}, the cohort "
                    f"{sorted(self.label_columns)}. Give every slide every label, None where it is missing."
                )

    def __len__(self) -> int:
        return len(self.slides)

    def __contains__(self, slide_id: str) -> bool:
        return any(slide.slide_id == slide_id for slide in self.slides)

    def __getitem__(self, slide_id: str) -> CohortSlide:
        for slide in self.slides:
            if slide.slide_id == slide_id:
                return slide
        near = get_close_matches(slide_id, [s.slide_id for s in self.slides], 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise CohortError(f"There is no slide {slide_id!r} in the cohort of {len(self)} slides.{hint}")

    @property
    def slide_ids(self) -> tuple[str, ...]:
        """Slide ids, in the order of the table."""
        return tuple(slide.slide_id for slide in self.slides)

    @property
    def patient_ids(self) -> tuple[str, ...]:
        """Patients, each once, in the order in which they first occur."""
        return tuple(dict.fromkeys(slide.patient_id for slide in self.slides))

    def labels(self, column: str) -> dict[str, str]:
        """Labels of one column: slide_id → label, without the slides whose label is missing.

        Raises:
            CohortError: If there is no such column.
        """
        if column not in self.label_columns:
            raise CohortError(
                f"There is no label column {column!r}. The table's label columns are: "
                f"{', '.join(self.label_columns) or 'none'}."
            )
        found = ((slide.slide_id, slide.labels[column]) for slide in self.slides)
        return {slide_id: label for slide_id, label in found if label is not None}


def _plain(path: Path) -> Path:
    """The path with its dots worked out, without asking the disk."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links: two links are two names


def _described(slide: CohortSlide) -> str:
    where = f"'{slide.path}'" if slide.path is not None else "a row without a path"
    return f"{where} (patient {slide.patient_id!r})"


def read_cohort(path: str | Path, *, columns: Mapping[str, str] | None = None) -> Cohort:
    """Read a table of slides: CSV (comma or semicolon) or TSV, UTF-8 with or without a byte-order mark.

    Columns: ``slide_id`` or ``slide`` (required); ``path`` (relative ones from the table's folder); ``patient_id``,
    ``patient`` or ``case_id`` (where the column is absent, a slide that is named by a TCGA barcode is of the patient in
    it, and any other one of a patient of its own); ``biopsy_id``; ``mpp`` (µm per level-0 pixel). All other columns are
    labels. A cell that is empty, NA, N/A, NaN, nan or <NA> is missing. In a label column of numbers, ``1.0`` is read as
    ``1``. Spaces around cells are dropped, and so is an unnamed first column (row numbers).

    Args:
        path: The table.
        columns: The table's own name for a column, where it differs: ``{"slide_id": "slide", "patient_id":
            "patient"}``.

    Returns:
        The slides in the order of the table.

    Raises:
        CohortError: If the file is absent, empty, no text table, lacks slide_id, or a row contradicts the
            header, has no id, or an mpp that is no positive number.
        DuplicateSlideError: If two rows have one slide_id; both are named.
        ConfigError: If ``columns`` names a column that the table lacks, or a meaning that does not exist.
    """
    path = Path(path)
    header, rows = _read_rows(path)
    names = _known_columns(path, header, columns or {})
    label_columns = tuple(h for h in header if h not in names.values())
    tidy = {column: _tidy_labels([row[column] for _, row in rows]) for column in label_columns}
    lines: dict[str, int] = {}
    slides: list[CohortSlide] = []
    for i, (line, row) in enumerate(rows):
        cells = {meaning: row[name] for meaning, name in names.items()}
        slide = _read_slide(path, line, cells, {column: tidy[column][i] for column in label_columns})
        if slide.slide_id in lines:
            first = slides[[s.slide_id for s in slides].index(slide.slide_id)]
            raise DuplicateSlideError(
                f"slide_id {slide.slide_id!r} occurs twice in '{path}': line {lines[slide.slide_id]}, "
                f"{_described(first)}, and line {line}, {_described(slide)}. Give each slide an id of its "
                "own."
            )
        lines[slide.slide_id] = line
        slides.append(slide)
    return Cohort(tuple(slides), label_columns)


def write_cohort(path: str | Path, cohort: Cohort) -> None:
    """Write a cohort as CSV, whole; :func:`read_cohort` reads the same again.

    Columns that nothing is known of are left out, and relative paths become absolute. In a label column of numbers
    alone, ``1.0`` comes back as ``1``.

    Raises:
        CohortError: If a label column has the name of another column, or a label would be read as missing.
    """
    known = [name for name in SLIDE_COLUMNS if any(getattr(slide, name) is not None for slide in cohort.slides)]
    clash = [n for n in cohort.label_columns if SYNONYMS.get(n.casefold(), n.casefold()) in SLIDE_COLUMNS or not n]
    if clash:
        raise CohortError(f"The label column {clash[0]!r} has the name of a column of slides. Rename it.")
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*known, *cohort.label_columns])
    for slide in cohort.slides:
        for column, label in slide.labels.items():
            if label is not None and (label in MISSING or label != label.strip()):
                raise CohortError(f"Slide {slide.slide_id!r}: {label!r} in {column!r} would be read as something else.")
        cells = {name: getattr(slide, name) for name in known}
        if slide.path is not None:
            cells["path"] = _plain(slide.path)
        cells |= {column: slide.labels[column] for column in cohort.label_columns}
        writer.writerow("" if cell is None else cell for cell in cells.values())
    write_text(Path(path), text.getvalue())


def _read_slide(path: Path, line: int, cells: Mapping[str, str], labels: Mapping[str, str | None]) -> CohortSlide:
    slide_id = cells["slide_id"]
    for name in ("slide_id", "patient_id"):
        if name in cells and cells[name] in MISSING:
            raise CohortError(f"'{path}', line {line}: {name} is {cells[name]!r}. Every row needs one.")
    try:
        safe_name(slide_id)
    except ConfigError as error:
        raise CohortError(f"'{path}', line {line}: {error}") from error
    file = cells.get("path", "")
    biopsy_id = cells.get("biopsy_id", "")
    return CohortSlide(
        slide_id=slide_id,
        patient_id=cells.get("patient_id", _patient_in(slide_id)),
        path=None if file in MISSING else path.parent / file,
        mpp=_read_mpp(path, line, cells.get("mpp", "")),
        biopsy_id=None if biopsy_id in MISSING else biopsy_id,
        labels=labels,
    )


def _patient_in(slide_id: str) -> str:
    """Patient in a TCGA barcode; any other slide is a patient of its own."""
    barcode = TCGA_BARCODE.fullmatch(slide_id)
    return slide_id if barcode is None else barcode[1].upper()


def _read_mpp(path: Path, line: int, text: str) -> float | None:
    if text in MISSING:
        return None
    try:
        mpp = float(text)
    except ValueError:
        mpp = math.nan
    if not (math.isfinite(mpp) and mpp > 0):
        raise CohortError(
            f"'{path}', line {line}: mpp is {text!r}. It must be a positive number with a decimal point, µm "
            "per level-0 pixel, such as 0.25, or empty."
        )
    return mpp


def _tidy_labels(cells: Sequence[str]) -> list[str | None]:
    """Missing cells as None; where all others are numbers, whole ones without ``.0``."""
    present = [cell for cell in cells if cell not in MISSING]
    if all(map(_is_number, present)):
        cells = [match.group(1) if (match := _WHOLE_AS_FLOAT.fullmatch(c)) else c for c in cells]
    return [None if cell in MISSING else cell for cell in cells]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _known_columns(path: Path, header: Sequence[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Meaning → the table's own column, for the columns with a meaning.

    Raises:
        CohortError: If slide_id is absent.
        ConfigError: If ``columns`` names what does not exist.
    """
    for meaning, name in columns.items():
        if meaning not in SLIDE_COLUMNS:
            raise ConfigError(f"columns must rename some of {', '.join(SLIDE_COLUMNS)}. Got {meaning!r}.")
        if name not in header:
            raise ConfigError(f"Cohort table '{path}' has no column {name!r}. It has: {', '.join(header)}.")
    names = {**_meant_columns(path, [h for h in header if h not in columns.values()]), **columns}
    if "slide_id" not in names:
        one = "; only one column was found, so the separator may be another than comma, semicolon or tab"
        raise CohortError(
            f"Cohort table '{path}' has no column slide_id. It has: {', '.join(header)}"
            f"{one if len(header) == 1 else ''}. Name the column of slide ids slide_id."
        )
    return names


def _meant_columns(path: Path, header: Sequence[str]) -> dict[str, str]:
    """Meaning → column, by the column's name or a synonym; case does not count.

    Raises:
        CohortError: If two columns mean the same.
    """
    found: dict[str, list[str]] = {}
    for name in header:
        meaning = SYNONYMS.get(name.casefold(), name.casefold())
        if meaning in SLIDE_COLUMNS:
            found.setdefault(meaning, []).append(name)
    for meaning, names in found.items():
        if len(names) > 1 and meaning not in names:
            raise CohortError(
                f"Cohort table '{path}' has {' and '.join(names)}, which both mean {meaning}. Name one of "
                f"them {meaning}."
            )
    return {meaning: meaning if meaning in names else names[0] for meaning, names in found.items()}


def _read_rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Header, and rows with the line on which each ends.

    Raises:
        CohortError: If it is no table, or a row has another number of cells than the header.
    """
    header: list[str] = []
    rows = []
    for line, cells in read_cells(path):
        if not header:
            header = _checked_header(path, cells)
            continue
        rows.append((line, _named(path, line, header, cells)))
    if not rows:
        what = "has a header but no slides" if header else "is empty"
        raise CohortError(f"Cohort table '{path}' {what}. Write one row per slide below a header with slide_id.")
    return [name for name in header if name], rows


def read_cells(path: Path) -> list[tuple[int, list[str]]]:
    """Cells of a text table as they stand, without spaces around them: the header, if any, is a row like the others.

    Args:
        path: CSV (comma or semicolon) or TSV, UTF-8 with or without a byte-order mark.

    Returns:
        The line on which a row ends, and its cells; empty rows are left out.

    Raises:
        CohortError: If the file is absent or no text table.
    """
    text = _read_text(path)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_separator(text), strict=True)
    rows = []
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise CohortError(f"'{path}', line {reader.line_num}: no table can be read ({error}).") from error
    return rows


def _named(path: Path, line: int, header: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    """Column → cell; the unnamed column of row numbers is left out."""
    if len(cells) < len(header) or any(cells[len(header) :]):
        raise CohortError(
            f"'{path}', line {line}: the row has {len(cells)} cells, the header {len(header)} "
            f"({', '.join(header)}). Quote cells that hold the separator."
        )
    return {name: cell for name, cell in zip(header, cells, strict=False) if name}


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CohortError(f"Cohort table '{path}' cannot be read: {error.strerror}.") from error
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise CohortError(f"'{path}' is a spreadsheet file. Save the sheet as CSV (UTF-8) and pass that.")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise CohortError(f"'{path}' is UTF-16 text. Save it as CSV in UTF-8.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CohortError(f"'{path}' is not UTF-8 text (byte {error.start}). Save it as CSV in UTF-8.") from error
    if "\0" in text:
        raise CohortError(f"'{path}' is not a text table: it holds zero bytes. Pass a CSV or TSV file.")
    return text


def _separator(text: str) -> str:
    """The separator that occurs most often in the header outside of quotes."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    bare = re.sub(r'"[^"]*"', "", first)
    return max(_SEPARATORS, key=bare.count)


def _checked_header(path: Path, names: list[str]) -> list[str]:
    while names and not names[-1]:  # a separator at the end of each line
        names = names[:-1]
    empty = [str(i + 1) for i, name in enumerate(names) if not name]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise CohortError(f"Cohort table '{path}' has the column {', '.join(twice)} more than once. Rename one.")
    if empty and empty != ["1"]:
        raise CohortError(f"Cohort table '{path}' has no name for column {', '.join(empty)}. Name it or delete it.")
    return names
