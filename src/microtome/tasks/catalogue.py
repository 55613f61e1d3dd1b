"""Named tasks: from published clinical tables and folders of slides to a cohort and a target."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from microtome.cohort.groups import tcga_patient, tcga_site
from microtome.cohort.table import MISSING, Cohort, CohortSlide, read_cells
from microtome.cohort.targets import Target
from microtome.errors import CohortError, ConfigError
from microtome.features.formats.format import plain_slide_name
from microtome.storage import hash_file
from microtome.tasks.histossl_layout import CAMELYON16, HistoSSLFolder, find_histossl
from microtome.tasks.task_definitions import ENCODER_NAMES, PUBLISHED_SOURCE, TASKS, TableKind, TaskDefinition

_SUFFIX = "_prediction"
_BY_NAME = {task.name: task for task in TASKS}
_PATIENT_COLUMNS = ("bcr_patient_barcode", "patient_id", "patient id", "patient", "case_id", "_patient")
_COHORT_WORDS = frozenset(
    word for task in TASKS for group in task.table_names for word in group
) | {"luad", "lusc", "kirc", "kirp", "kich", "read"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Published:
    """A value that somebody published: mean and standard deviation over test folds, 0..1, and who says so."""

    mean: float
    sd: float | None
    source: str


@dataclass(frozen=True, slots=True)
class Task:
    """A task with its slides.

    Attributes:
        definition: What it is.
        cohort: The slides of its cohorts; label columns: those of the target, ``cohort``, ``site`` (TCGA) and
            ``split`` (Camelyon16: train or test). A slide that the tables do not know has no label.
        target: What is predicted.
        tables: The clinical tables that were read.
    """

    definition: TaskDefinition
    cohort: Cohort
    target: Target
    tables: tuple[Path, ...] = ()


def list_tasks() -> tuple[str, ...]:
    """Names of the tasks that are shipped."""
    return tuple(_BY_NAME)


def task_definition(name: str) -> TaskDefinition:
    """A shipped task by its name, with or without ``_prediction``.

    Raises:
        ConfigError: If there is none.
    """
    for form in (name, name + _SUFFIX):
        if form in _BY_NAME:
            return _BY_NAME[form]
    near = get_close_matches(name, _BY_NAME, 1, cutoff=0.5)
    raise ConfigError(
        f"There is no task {name!r}.{f' Did you mean {near[0]!r}?' if near else ''} See `microtome tasks`."
    )


def find_published(task: str, encoder: str) -> Published | None:
    """What was published of a task with an encoder, or None.

    Args:
        task: A shipped task's name; any other has no published value.
        encoder: Our name of the encoder, or HistoSSL's.
    """
    definition = _BY_NAME.get(task) or _BY_NAME.get(task + _SUFFIX)
    name = ENCODER_NAMES.get(encoder.casefold())
    if definition is None or name is None or name not in definition.published:
        return None
    mean, sd = definition.published[name]
    return Published(round(mean / 100, 5), round(sd / 100, 5), PUBLISHED_SOURCE)


def read_task(
    name: str,
    data_dir: str | Path,
    *,
    encoder: str | None = None,
    tables: Sequence[Path] | None = None,
    with_test: bool = False,
) -> Task:
    """Read a task from HistoSSL's folders.

    Args:
        name: The task.
        data_dir: Folder with ``raw`` and ``preprocessed``.
        encoder: Take the slides that have features of this encoder; None for all that are there in any form.
        tables: The clinical tables; None to find them below ``raw``.
        with_test: Keep Camelyon16's 130 test slides, which the task leaves out; ``split`` tells them apart.

    Returns:
        The task with its slides.

    Raises:
        ConfigError: If there is no such task, or no such folder.
        MissingOutputError: If there are no features of the encoder.
        CohortError: If there are no slides, no table can be told to be the task's, or it contradicts itself.
    """
    definition, folder = task_definition(name), find_histossl(data_dir)
    slides = {cohort: _slides_of(folder, cohort, encoder) for cohort in definition.cohorts}
    absent = [cohort for cohort, found in slides.items() if not found]
    if absent:
        what = f"features of {encoder!r} for" if encoder else "slides, coordinates or features of"
        raise CohortError(f"'{folder.root}' has no {what} {' and '.join(absent)}, which {definition.name} needs.")
    found = find_tables(definition, folder) if tables is None else tuple(tables)
    return task_cohort(definition, slides, found, with_test=with_test)


def task_cohort(
    definition: TaskDefinition,
    slides: Mapping[str, Mapping[str, Path | None]],
    tables: Sequence[Path] = (),
    *,
    with_test: bool = False,
) -> Task:
    """Give slides the labels of their patients.

    Args:
        definition: The task.
        slides: Cohort (``TCGA_COAD``) → slide_id or name of the slide's file → the file, or None.
        tables: The clinical tables.
        with_test: As in :func:`read_task`.

    Raises:
        CohortError: If a table lacks a column or says different things of one patient, a slide's name is no TCGA
            barcode (no name of Camelyon16), or none of the slides is in the tables.
    """
    if definition.table != "none" and not tables:
        raise CohortError(f"{definition.name} needs a table of {definition.table}. Pass its file.")
    known = _read_tables(definition, tables)
    rows = [(cohort, name, path) for cohort, files in slides.items() for name, path in files.items()]
    made = [_slide(definition, known, cohort, name, path) for cohort, name, path in rows]
    made = [slide for slide in made if with_test or slide.labels.get("split") != "test"]
    if not any(slide.labels[definition.target.columns[0]] is not None for slide in made):
        raise CohortError(
            f"None of the {len(made)} slides is in {_listed(tables)}: the first is {made[0].slide_id!r}, the first "
            f"patient there {next(iter(known), 'absent')!r}."
            if made
            else f"{definition.name} has no slides."
        )
    return Task(definition, Cohort(tuple(made), tuple(made[0].labels)), definition.target, tuple(tables))


def find_tables(definition: TaskDefinition, folder: HistoSSLFolder) -> tuple[Path, ...]:
    """The clinical tables of a task: by the words in their names, or the only one that names no cohort.

    Raises:
        CohortError: If there is none, or several that differ.
    """
    if definition.table == "none":
        return ()
    if definition.table == "camelyon16":
        listed = [file for file in folder.clinical(CAMELYON16) if "target" in _header(file)]
        if not listed:
            raise CohortError(
                f"'{folder.root}' has no table with a column target: it belongs below raw/slides_classification/"
                f"{CAMELYON16}/clinical."
            )
        return tuple(listed)
    files = folder.clinical(definition.cohorts[0], definition.table)
    words = {file: frozenset(_words(file.stem)) for file in files}
    for group in definition.table_names:
        of_word = [[file for file in files if word in words[file]] for word in group]
        if all(of_word):
            return tuple(_one_of(same) for same in of_word)
    general = [file for file in files if not words[file] & _COHORT_WORDS]
    if len(general) == 1:
        return (general[0],)
    needed = " or ".join(" and ".join(group) for group in definition.table_names)
    raise CohortError(
        f"'{folder.root}' has no table of {definition.table} for {definition.name}: below raw/slides_classification/"
        f"TCGA/clinical/{definition.table} a file with {needed} in its name is looked for. There are: "
        f"{', '.join(file.name for file in files) or 'none'}. Pass tables."
    )


def _one_of(files: Sequence[Path]) -> Path:
    """The file, where one or several copies are there (the README's and the code's name)."""
    if len(files) > 1 and len({hash_file(file) for file in files}) > 1:
        raise CohortError(f"{_listed(files)} may all be the table that is looked for, and differ. Pass tables.")
    return files[0]


def _header(path: Path) -> list[str]:
    rows = read_cells(path)
    return [cell.casefold() for cell in rows[0][1]] if rows else []


def _words(stem: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in stem.casefold()).split()


def _slides_of(folder: HistoSSLFolder, cohort: str, encoder: str | None) -> dict[str, Path | None]:
    """Slides that are there, by id, with their files where these are there too."""
    files = folder.slides([cohort])
    if encoder is not None:
        ids: Iterable[str] = folder.features([cohort], encoder)
    else:
        tiled = [folder.coords([cohort], side) for side in folder.sides()]
        encoded = [folder.features([cohort], name) for name in folder.encoders()]
        ids = sorted({slide_id for found in (files, *tiled, *encoded) for slide_id in found})
    return {slide_id: files.get(slide_id) for slide_id in ids}


def _slide(
    definition: TaskDefinition, known: Mapping[str, Sequence[str | None]], cohort: str, name: str, path: Path | None
) -> CohortSlide:
    slide_id = plain_slide_name(name)
    if definition.table == "camelyon16":
        patient, facts = slide_id, {"cohort": cohort, "split": _camelyon16_side(slide_id)}
        key = slide_id.casefold()
    else:
        patient = key = tcga_patient(slide_id)
        facts = {"cohort": cohort, "site": tcga_site(slide_id)}
    columns = definition.target.columns
    if definition.table == "none":
        cells: Sequence[str | None] = [cohort.removeprefix("TCGA_")]
    else:
        cells = known.get(key, [None] * len(columns))
    labels = {column: _mapped(definition, cell) for column, cell in zip(columns, cells, strict=True)}
    return CohortSlide(slide_id, patient, path, labels={**labels, **facts})


def _mapped(definition: TaskDefinition, cell: str | None) -> str | None:
    if cell is None or cell in MISSING:
        return None
    if cell.casefold() in definition.dropped:
        return cell  # is none of the classes, so that it is counted under its name
    return definition.mapping.get(cell.casefold(), cell if definition.otherwise is None else definition.otherwise)


def _camelyon16_side(slide_id: str) -> str:
    side = slide_id.casefold().partition("_")[0]
    if side not in ("normal", "tumor", "test"):
        raise CohortError(f"Slide {slide_id!r} has no name of Camelyon16: normal_*, tumor_* or test_*.")
    return "test" if side == "test" else "train"


def _read_tables(definition: TaskDefinition, tables: Sequence[Path]) -> dict[str, tuple[str | None, ...]]:
    """Patient (Camelyon16: slide, in small letters) → cells of the task's columns.

    Raises:
        CohortError: If two rows say different things of one.
    """
    known: dict[str, tuple[str | None, ...]] = {}
    for path in tables:
        for line, key, cells in _read_clinical(path, definition.table, definition.columns):
            row = tuple(None if cell in MISSING else cell for cell in cells)
            if known.setdefault(key, row) != row:
                raise CohortError(
                    f"'{path}', line {line}: {key!r} has {', '.join(cells)}, and elsewhere "
                    f"{', '.join(str(cell) for cell in known[key])}. Correct the table."
                )
    return known


def _read_clinical(path: Path, kind: TableKind, columns: Sequence[str]) -> list[tuple[int, str, list[str]]]:
    """(line, patient, cells) of a table; lines that begin with ``#`` are comments, as cBioPortal has them."""
    rows = [(line, cells) for line, cells in read_cells(path) if not cells[0].startswith("#")]
    if kind == "msi":
        is_header = bool(rows) and not rows[0][1][0].upper().startswith("TCGA-")
        places: tuple[int, ...] = (0, 1)
        rows = rows[1:] if is_header else rows
    else:
        places, rows = _places(path, kind, columns, rows[0][1] if rows else []), rows[1:]
    found = []
    for line, cells in rows:
        if len(cells) <= max(places) or not cells[places[0]]:
            raise CohortError(f"'{path}', line {line}: the row has no patient or no {', '.join(columns)}.")
        name = cells[places[0]]
        try:
            key = plain_slide_name(name).casefold() if kind == "camelyon16" else tcga_patient(name)
        except CohortError as error:
            raise CohortError(f"'{path}', line {line}: {error}") from error
        found.append((line, key, [cells[place] for place in places[1:]]))
    if not found:
        raise CohortError(f"'{path}' holds no patients.")
    return found


def _places(path: Path, kind: TableKind, columns: Sequence[str], header: Sequence[str]) -> tuple[int, ...]:
    """Where the patient and the columns stand; ``Patient ID`` and ``PATIENT_ID`` are the same."""
    plain = [name.casefold().replace("_", " ") for name in header]
    ids = [name.replace("_", " ") for name in _PATIENT_COLUMNS] if kind != "camelyon16" else ["", "image id", "slide"]
    patient = [plain.index(name) for name in ids if name in plain]
    wanted = [name.casefold().replace("_", " ") for name in columns]
    absent = [name for name, form in zip(columns, wanted, strict=True) if form not in plain]
    if not patient or absent:
        lacking = ", ".join(absent) or "patient (bcr_patient_barcode, patient_id, Patient ID)"
        raise CohortError(f"'{path}' is no table of {kind}: it lacks {lacking}. It has: {', '.join(header)}.")
    return (patient[0], *(plain.index(form) for form in wanted))


def _listed(tables: Sequence[Path]) -> str:
    return ", ".join(f"'{path}'" for path in tables) or "no table"
