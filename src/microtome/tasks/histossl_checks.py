"""Whether a download of HistoSSL's data is whole: what should be there, how often, under which names, with labels.

References:
    HistoSSL (73f1d19), specification section 6: its tests of raw data (existence, counts, uniqueness of ids, null
    labels and paths) and of features.
"""

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from microtome.cohort.table import MISSING, read_cells
from microtome.cohort.targets import read_labels
from microtome.errors import MicrotomeError
from microtome.features.formats.format import plain_slide_name
from microtome.features.formats.tiles_npy import TILE_FEATURES, TILE_IDS
from microtome.storage import written_whole
from microtome.storage.pickles import load_plain, read_npy
from microtome.tasks.catalogue import read_task
from microtome.tasks.histossl_layout import CAMELYON16, TILE_PARTS, HistoSSLFolder, find_histossl
from microtome.tasks.task_definitions import TASKS
from microtome.tiles.images import is_image
from microtome.tiles.tile_set import NCT_CLASSES, WILDS_TABLE

CAMELYON16_COUNTS = {"train": 269, "test": 130}
NCT, WILDS = "NCT-CRC_FULL", "CAMELYON17-WILDS_FULL"
NCT_COUNTS = {"train": 100_000, "valid": 7_180}
WILDS_COUNTS = {"train": 335_996, "valid": 34_904, "test": 85_054}
STATISTICS = "tcga_statistics.pk"

_NCT_FOLDERS = {
    "train": ("NCT-CRC-HE-100K-NONORM", "NCT-CRC-HE-100K"),
    "valid": ("NCT-CRC-VAL-HE-7K", "CRC-VAL-HE-7K"),  # the README's name and the code's
}
_NCT_TABLES = ("labels", "clinical")
_CENTRES = {"train": ("0", "3", "4"), "valid": ("1",), "test": ("2",)}


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one part.

    Attributes:
        part: Which: a cohort, a task, a data set of tiles.
        check: What was looked at.
        text: What is there, in words.
        failures: What is wrong, one by one.
        absent: Nothing of it is there, so nothing was looked at.
    """

    part: str
    check: str
    text: str
    failures: tuple[str, ...] = ()
    absent: bool = False

    @property
    def passed(self) -> bool | None:
        """Whether all is well; None where nothing was looked at."""
        return None if self.absent else not self.failures


def inspect_histossl(data_dir: str | Path) -> tuple[Finding, ...]:
    """Check a download of HistoSSL's ``raw`` and ``preprocessed``.

    Checked are: slides (existence, names that occur once), Camelyon16's 269 and 130; coordinates and features of each
    slide, their form and number; every task's tables, patients and labels, and the counts of ``tcga_statistics.pk``
    where it is there; NCT-CRC's 100 000 and 7 180 tiles and Camelyon17-WILDS' 335 996, 34 904 and 85 054, their names,
    labels, files and features. Features are not read through: ``microtome convert`` does.

    Args:
        data_dir: The folder.

    Returns:
        What was found, part by part.

    Raises:
        ConfigError: If the folder holds neither.
    """
    folder = find_histossl(data_dir)
    cohorts = list(dict.fromkeys(cohort for task in TASKS for cohort in task.cohorts))
    found: list[Finding] = []
    for cohort in cohorts:
        found.extend(_check_cohort(folder, cohort))
    found.extend(_check_tasks(folder))
    found.extend(_check_tiles(folder, NCT, NCT_COUNTS, _nct_tiles))
    found.extend(_check_tiles(folder, WILDS, WILDS_COUNTS, _wilds_tiles))
    return tuple(found)


def write_findings(path: Path, findings: Sequence[Finding]) -> None:
    """Write what was found as CSV, whole: one row per failure, one per part without."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["part", "check", "verdict", "what"])
    for f in findings:
        verdict = {True: "ok", False: "failed", None: "absent"}[f.passed]
        for what in f.failures or (f.text,):
            writer.writerow([f.part, f.check, verdict, what])
    with written_whole(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", newline="")


def _check_cohort(folder: HistoSSLFolder, cohort: str) -> Iterator[Finding]:
    """Slides, coordinates and features of a cohort."""
    files = folder.slide_files(cohort)
    names = Counter(plain_slide_name(file.name) for file in files)
    coords = {side: _caught(folder.coords, [cohort], side) for side in folder.sides()}
    features = {encoder: _caught(folder.features, [cohort], encoder) for encoder in folder.encoders()}
    tiled = {side: found for side, found in coords.items() if found != {}}
    encoded = {encoder: found for encoder, found in features.items() if found != {}}
    if not (names or tiled or encoded):
        yield Finding(cohort, "slides", "nothing of it is there", absent=True)
        return
    ids = set(names) or {i for found in (*tiled.values(), *encoded.values()) if isinstance(found, dict) for i in found}
    yield _slides(cohort, files, names, ids)
    for side, found in tiled.items():
        yield _arrays(cohort, f"coords_{side}", found, ids, _coords_wrong)
    for encoder, found in encoded.items():
        yield _arrays(cohort, f"features of {encoder}", found, ids, _features_wrong)


def _slides(cohort: str, files: Sequence[Path], names: Mapping[str, int], ids: set[str]) -> Finding:
    failures = [f"{n} files are called {name!r}" for name, n in names.items() if n > 1]
    failures += [f"'{file}' is empty" for file in files if file.stat().st_size == 0]
    if cohort == CAMELYON16:
        of = Counter("test" if name.casefold().startswith("test") else "train" for name in ids)
        failures += [f"{of[k]} slides of {k}, not {n}" for k, n in CAMELYON16_COUNTS.items() if of[k] != n]
    text = f"{len(files)} files" if files else f"no files; {len(ids)} slides have coordinates or features"
    return Finding(cohort, "slides", text, tuple(failures))


def _arrays(
    cohort: str,
    check: str,
    found: dict[str, Path] | str,
    ids: set[str],
    wrong: Callable[[np.ndarray], str],
) -> Finding:
    """Every slide has its file, and the files have one form."""
    if isinstance(found, str):
        return Finding(cohort, check, "cannot be listed", (found,))
    failures = [f"slide {name!r} has none" for name in sorted(ids - set(found))]
    failures += [f"'{found[name]}' is of no slide that is there" for name in sorted(set(found) - ids)]
    widths: Counter[int] = Counter()
    n_rows = 0
    for name, path in found.items():
        try:
            array = read_npy(path)
        except (OSError, MicrotomeError) as error:
            failures.append(str(error))
            continue
        if reason := wrong(array):
            failures.append(f"'{path}' ({name}) {reason}")
        else:
            widths[array.shape[1]] += 1
            n_rows += len(array)
    if len(widths) > 1:
        failures.append(f"files of different width: {', '.join(f'{n} of {w}' for w, n in sorted(widths.items()))}")
    return Finding(cohort, check, f"{len(found)} files, {n_rows} tiles", tuple(failures))


def _coords_wrong(array: np.ndarray) -> str:
    ok = array.ndim == 2 and array.shape[1] == 3 and array.dtype.kind in "iu"
    return "" if ok and len(array) else f"is {array.dtype} {array.shape}, not whole numbers (tiles, 3)"


def _features_wrong(array: np.ndarray) -> str:
    ok = array.ndim == 2 and array.shape[1] > 3 and array.dtype == np.float32
    return "" if ok and len(array) else f"is {array.dtype} {array.shape}, not float32 (tiles, 3 + length)"


def _check_tasks(folder: HistoSSLFolder) -> Iterator[Finding]:
    """Whether each task's tables can be read, and who has a label."""
    statistics: dict[str, tuple[int, int]] = {}
    try:
        statistics = _read_statistics(folder)
    except (OSError, MicrotomeError, AttributeError, TypeError, ValueError, LookupError) as error:
        yield Finding("TCGA", STATISTICS, "cannot be read", (str(error),))
    for task in TASKS:
        there = {c: bool(_caught(folder.slides, [c]) or _any_array(folder, c)) for c in task.cohorts}
        if not all(there.values()):
            lacking = ", ".join(cohort for cohort, ok in there.items() if not ok)
            yield Finding(task.name, "labels", f"nothing is there of {lacking}", absent=True)
            continue
        try:
            read = read_task(task.name, folder.root)
            labels = read_labels(read.cohort, read.target)
        except MicrotomeError as error:
            yield Finding(task.name, "labels", "cannot be read", (str(error),))
            continue
        reasons = Counter(labels.excluded.values())
        left_out = "".join(f"; {n} without: {reason}" for reason, n in reasons.most_common())
        failures = []
        if task.table == "camelyon16":  # every slide has one; TCGA's tables have gaps
            failures = [f"slide {slide!r}: {reason}" for slide, reason in sorted(labels.excluded.items())]
        patients, slides = len(set(labels.patient_ids)), len(labels)
        expected = statistics.get(task.name)
        if expected is not None and expected != (patients, slides):
            failures.append(
                f"{patients} patients and {slides} slides with a label, {STATISTICS} says {expected[0]} and "
                f"{expected[1]}"
            )
        text = f"{slides} slides of {patients} patients{left_out}"
        yield Finding(task.name, "labels", text, tuple(failures))


def _any_array(folder: HistoSSLFolder, cohort: str) -> bool:
    return any(folder.coords([cohort], side) for side in folder.sides()) or any(
        folder.features([cohort], encoder) for encoder in folder.encoders()
    )


def _read_statistics(folder: HistoSSLFolder) -> dict[str, tuple[int, int]]:
    """Task → (patients, slides) of ``tcga_statistics.pk``, [cohort][label] → (patients, slides, distribution).

    Its names are matched by the words of a task's name; what matches none is passed over.
    """
    places = [folder.root] if folder.raw is None else [folder.root, folder.raw]
    files = [
        file for place in places for file in (place / STATISTICS, *place.glob(f"*/{STATISTICS}")) if file.is_file()
    ]
    if not files:
        return {}
    counts = {
        (str(cohort).casefold().removeprefix("tcga_"), str(label).casefold()): (int(row[0]), int(row[1]))
        for cohort, of_label in load_plain(files[0]).items()
        for label, row in of_label.items()
    }
    keys = {task.name: task.name.removeprefix("tcga_").removesuffix("_prediction").partition("_") for task in TASKS}
    return {name: counts[c, label] for name, (c, _, label) in keys.items() if (c, label) in counts}


@dataclass(slots=True)
class _Tiles:
    """Tiles of a data set: split → names; what is wrong with them."""

    names: dict[str, list[str]]
    failures: list[str]


def _check_tiles(
    folder: HistoSSLFolder, name: str, counts: Mapping[str, int], list_tiles: Callable[[Path], _Tiles]
) -> Iterator[Finding]:
    raw = folder.tile_folders(name)
    encoded = [] if folder.preprocessed is None else list(_tile_features(folder.preprocessed, name))
    if not raw and not encoded:
        yield Finding(name, "tiles", "nothing of it is there", absent=True)
    for place in raw:
        tiles = list_tiles(place)
        failures = list(tiles.failures)
        for split, expected in counts.items():
            if len(tiles.names.get(split, ())) != expected:
                failures.append(f"{len(tiles.names.get(split, ()))} tiles of {split}, not {expected}")
        failures += _twice(i for ids in tiles.names.values() for i in ids)
        text = ", ".join(f"{len(ids)} {split}" for split, ids in tiles.names.items()) or "no tiles"
        yield Finding(name, "tiles", text, tuple(failures))
    for encoder, file in encoded:
        yield _tile_arrays(name, encoder, file, sum(counts.values()))


def _tile_features(preprocessed: Path, name: str) -> Iterator[tuple[str, Path]]:
    for part in TILE_PARTS:
        for file in sorted((preprocessed / part / "features").glob(f"*/{name}/{TILE_FEATURES}")):
            yield file.parent.parent.name, file


def _tile_arrays(name: str, encoder: str, file: Path, expected: int) -> Finding:
    check = f"features of {encoder}"
    try:
        features, ids = read_npy(file), read_npy(file.with_name(TILE_IDS))
    except (OSError, MicrotomeError) as error:
        return Finding(name, check, "cannot be read", (str(error),))
    failures = []
    if features.ndim != 2 or features.dtype != np.float32:
        failures.append(f"'{file}' is {features.dtype} {features.shape}, not float32 (tiles, length)")
    if len(features) != expected:
        failures.append(f"'{file}' has {len(features)} rows, not {expected}")
    if ids.shape != (len(features),):
        failures.append(f"'{file.with_name(TILE_IDS)}' is {ids.shape}, not ({len(features)},)")
    failures += _twice(str(i) for i in ids.ravel())
    return Finding(name, check, f"{len(features)} tiles", tuple(failures))


def _nct_tiles(root: Path) -> _Tiles:
    """Folders of classes below both parts, and tables of labels where there are any."""
    tiles = _Tiles({}, [])
    for split, names in _NCT_FOLDERS.items():
        folders = [folder for name in names if (folder := root / name).is_dir()]
        if not folders:
            tiles.failures.append(f"'{root}' has no folder {' or '.join(names)}")
            continue
        for folder in folders[:1]:
            classes = {sub.name: sub for sub in sorted(folder.iterdir()) if sub.is_dir()}
            tiles.failures += [f"'{folder}' has no class {name}" for name in sorted(NCT_CLASSES - set(classes))]
            tiles.failures += [f"'{classes[name]}' is no class" for name in sorted(set(classes) - NCT_CLASSES)]
            tiles.names[split] = [file.stem for sub in classes.values() for file in sub.iterdir() if is_image(file)]
    for folder in (root / name for name in _NCT_TABLES):
        for table in sorted(folder.glob("*.csv")) if folder.is_dir() else []:
            tiles.failures += _table_wrong(table, "image_id", "label")
    return tiles


def _wilds_tiles(root: Path) -> _Tiles:
    """``metadata.csv`` and its patches."""
    tables = sorted((*root.glob(WILDS_TABLE), *root.glob(f"*/{WILDS_TABLE}")))
    if not tables:
        return _Tiles({}, [f"'{root}' has no {WILDS_TABLE}"])
    tiles = _Tiles({split: [] for split in _CENTRES}, [])
    split_of = {centre: split for split, centres in _CENTRES.items() for centre in centres}
    with tables[0].open(newline="", encoding="utf-8-sig") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            try:
                slide = f"patient_{int(row['patient']):03d}_node_{int(row['node'])}"
                name = f"patch_{slide}_x_{int(row['x_coord'])}_y_{int(row['y_coord'])}"
                split, label = split_of[row["center"]], row["tumor"]
            except (KeyError, TypeError, ValueError) as error:
                tiles.failures.append(f"'{tables[0]}', line {number}: {error!r} is missing or cannot be read")
                continue
            if label is None or label.strip() in MISSING:
                tiles.failures.append(f"'{tables[0]}', line {number}: the label of {name!r} is missing")
            tiles.names[split].append(f"{slide}/{name}")
    patches = tables[0].parent / "patches"
    there = {f"{file.parent.name}/{file.stem}" for file in patches.glob("*/*.png")}
    listed = (name for names in tiles.names.values() for name in names)
    tiles.failures += [f"'{patches / name}.png' is not there" for name in listed if name not in there]
    return tiles


def _table_wrong(path: Path, id_column: str, label_column: str) -> list[str]:
    """Ids that occur twice and labels that are missing, in a table that has these columns."""
    try:
        rows = read_cells(path)
    except MicrotomeError as error:
        return [str(error)]
    header = [cell.casefold() for cell in rows[0][1]] if rows else []
    if id_column not in header:
        return [f"'{path}' has no column {id_column}"]
    failures = [f"'{path}': {text}" for text in _twice(cells[header.index(id_column)] for _, cells in rows[1:])]
    if label_column in header:
        place = header.index(label_column)
        failures += [f"'{path}', line {line}: the label is missing" for line, row in rows[1:] if row[place] in MISSING]
    return failures


def _twice(names: Iterable[str]) -> list[str]:
    return [f"{name!r} occurs {n} times" for name, n in Counter(names).items() if n > 1]


def _caught(list_files: Callable[..., dict[str, Path]], *arguments: object) -> dict[str, Path] | str:
    """Files by slide, or why they cannot be told apart."""
    try:
        return list_files(*arguments)
    except MicrotomeError as error:
        return str(error)
