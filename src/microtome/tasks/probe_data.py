"""Labelled features of tiles: from images, from an output folder, from HistoSSL's files."""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64
from sklearn.model_selection import StratifiedGroupKFold

from microtome.cohort.table import MISSING
from microtome.config import ExtractConfig
from microtome.config.probing import ProbeConfig
from microtome.errors import ConfigError, EvaluationError, MissingOutputError
from microtome.evaluation.probe_reference import LabelledFeatures
from microtome.features.formats.tiles_npy import TILE_FEATURES, read_tile_features
from microtome.features.store import FeatureStore
from microtome.tiles.tile_set import NCT_CLASSES

TRAIN, VALID, TEST = "train", "valid", "test"
_SPLITS = {"train": TRAIN, "valid": VALID, "val": VALID, "validation": VALID, "test": TEST}
_NCT_NAME = re.compile(rf"({'|'.join(sorted(NCT_CLASSES))})-(TCGA-)?\w+")


@dataclass(frozen=True, eq=False)
class TileTable:
    """Features of tiles with what is known of each.

    Attributes:
        name: Of the set.
        encoder: Name of the encoder; empty where nobody says it.
        features: (n, d).
        labels: Class of each tile; empty where it has none.
        splits: ``train``, ``valid`` or ``test`` of each tile; empty where nobody says it.
        patients: Patient of each tile; empty where nobody says it.
    """

    name: str
    encoder: str
    features: Float[np.ndarray, "n d"]
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    patients: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ProbeData:
    """Tiles to learn from and tiles to judge by.

    Attributes:
        classes: Names of the classes, sorted.
        train: To learn from.
        judged: To judge by.
        train_patients: Patient of each; None where they are not known.
        judged_patients: Likewise.
        judged_split: ``valid`` or ``test``.
        counts: How many tiles are where, and how many were left out for what reason.
    """

    classes: tuple[str, ...]
    train: LabelledFeatures
    judged: LabelledFeatures
    train_patients: tuple[str, ...] | None
    judged_patients: tuple[str, ...] | None
    judged_split: str
    counts: Mapping[str, int]


def find_tile_table(config: ProbeConfig) -> TileTable:
    """The tiles that the settings name; features of images are extracted first.

    Raises:
        ConfigError: If the settings name none.
        EvaluationError: If there are no features of tiles, or several sets.
        MicrotomeError: If features cannot be extracted or read.
    """
    folder = config.features if config.tiles is None else _extract(config)
    if folder is None:
        raise ConfigError("Pass tiles (--tiles, a folder of labelled images) or features (--features).")
    if not folder.is_dir():
        raise MissingOutputError(f"'{folder}' is no folder of features.")
    said = {} if config.labels is None else _read_labels(config.labels)
    if (folder / TILE_FEATURES).is_file():
        features, ids = read_tile_features(folder)
        rows = [said.get(name) or _of_name(name) for name in ids] if not said else [said.get(name, {}) for name in ids]
        return _table(folder.name, folder.parent.name, features, rows)
    return _read_output(folder, said)


def divide(table: TileTable, config: ProbeConfig, protocol: str) -> ProbeData:
    """Training and judged tiles of a protocol.

    Args:
        table: All tiles.
        config: Says which split is judged, and which classes are left out.
        protocol: ``reference`` or ``modern``.

    Raises:
        EvaluationError: If a side is empty, or a class is on one side only.
        ConfigError: If a class to leave out is not there.
    """
    labels = np.array(table.labels)
    excluded = _excluded(set(table.labels) - {""}, config, protocol)
    usable = (labels != "") & ~np.isin(labels, excluded)
    counts = {"without label": int((labels == "").sum()), "of excluded classes": int(np.isin(labels, excluded).sum())}
    splits, wanted = _split(table, usable, config, protocol)
    classes = tuple(sorted({str(name) for name in labels[usable]}))
    number = {name: i for i, name in enumerate(classes)}
    sides = []
    for split in (TRAIN, wanted):
        rows = np.flatnonzero(usable & (splits == split))
        if not len(rows):
            raise EvaluationError(f"No labelled tile of '{table.name}' is of the split {split}.")
        counts[split] = len(rows)
        patients = tuple(table.patients[i] for i in rows)
        found = LabelledFeatures(
            np.asarray(table.features[rows], np.float32), np.array([number[labels[i]] for i in rows], np.int64)
        )
        absent = sorted(set(classes) - {classes[i] for i in found.labels})
        if absent:
            raise EvaluationError(f"The split {split} of '{table.name}' lacks the class {', '.join(absent)}.")
        sides.append((found, patients if all(patients) else None))
    counts["in other splits"] = int(usable.sum()) - counts[TRAIN] - counts[wanted]
    (train, train_patients), (judged, judged_patients) = sides
    if train_patients and judged_patients and (both := sorted(set(train_patients) & set(judged_patients))):
        raise EvaluationError(
            f"Patient {both[0]} (and {len(both) - 1} more) of '{table.name}' is in train and in {wanted}. Split by "
            "patient."
        )
    return ProbeData(classes, train, judged, train_patients, judged_patients, wanted, counts)


def _excluded(known: set[str], config: ProbeConfig, protocol: str) -> list[str]:
    if config.excluded is None:
        nct = known <= NCT_CLASSES and len(known) > 2
        return ["BACK"] if protocol == "reference" and nct and "BACK" in known else []
    unknown = sorted(set(config.excluded) - known)
    if unknown:
        raise ConfigError(f"exclude names the class {', '.join(unknown)}. There are: {', '.join(sorted(known))}.")
    return list(config.excluded)


def _split(table: TileTable, usable: np.ndarray, config: ProbeConfig, protocol: str) -> tuple[np.ndarray, str]:
    splits = np.array(table.splits)
    if not any(table.splits):
        if config.judge_on == TEST:
            raise EvaluationError(f"Nothing says which tiles of '{table.name}' are of the split test.")
        return _drawn_split(table, usable, config), VALID
    if "" in splits[usable]:
        raise EvaluationError(f"Some labelled tiles of '{table.name}' have a split and some have none. Complete it.")
    has_test = TEST in splits[usable]
    return splits, config.judge_on or (TEST if protocol == "modern" and has_test else VALID)


def _drawn_split(table: TileTable, usable: np.ndarray, config: ProbeConfig) -> np.ndarray:
    """A share of the patients (of the tiles, where patients are not known), stratified by class."""
    rows = np.flatnonzero(usable)
    known = all(table.patients[i] for i in rows)
    groups = np.array([table.patients[i] if known else str(i) for i in rows])
    labels = np.array([table.labels[i] for i in rows])
    n_parts = max(2, round(1 / config.valid_share))
    rarest = min((int((labels == name).sum()) for name in set(labels)), default=0)
    if len(set(groups)) < n_parts or rarest < n_parts:
        raise EvaluationError(
            f"'{table.name}' has no split of its own, {len(set(groups))} {'patients' if known else 'tiles'} and "
            f"{rarest} tiles of the rarest class: too few to judge by {config.valid_share:g} of them. Give more tiles, "
            "or a table with a column split."
        )
    parts = StratifiedGroupKFold(n_parts, shuffle=True, random_state=config.seed)
    train, valid = next(parts.split(labels, labels, groups))
    splits = np.full(len(table.labels), "", "<U5")
    splits[rows[train]], splits[rows[valid]] = TRAIN, VALID
    return splits


def _extract(config: ProbeConfig) -> Path:
    from microtome.tasks.run import run

    shared = {
        name: getattr(config, name) for name in ("out", "overwrite", "workers", "quiet", "encoder", "weights", "seed")
    }
    more = ("device", "precision", "runtime", "batch_size", "memory", "min_coverage", "allow_mpp_mismatch", "n_tiles")
    tiles = ("tiles", "tiles_layout", "mpp", "assume_card_mpp", "tile_px")
    settings = ExtractConfig(**shared, **{name: getattr(config, name) for name in (*more, *tiles)})
    result = run(settings)
    if result.failed:
        failure = result.record.failed[0]
        raise EvaluationError(f"The features of '{config.tiles}' could not be made: {failure}.")
    return config.out


def _read_output(folder: Path, said: Mapping[str, Mapping[str, str]]) -> TileTable:
    """Features of a set of tiles in an output folder of ``microtome extract --tiles``."""
    stores = sorted(path for path in (folder / "features").glob("*") if path.is_dir())
    found = [(store, name) for path in stores for store in [FeatureStore(path)] for name in store]
    tables = {name: folder / "tiles" / f"{name}.csv" for _, name in found}
    found = [(store, name) for store, name in found if tables[name].is_file()]
    if len(found) != 1:
        listed = ", ".join(f"{store.folder.name}/{name}" for store, name in found) or "none"
        raise EvaluationError(
            f"'{folder}' must hold the features of one set of tiles, of one encoder, with its table tiles/<set>.csv. "
            f"Found: {listed}. Pass the folder that `microtome extract --tiles` wrote."
        )
    store, name = found[0]
    bag = store[name]
    with tables[name].open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    rows = [lines[int(row)] for row in (np.arange(len(bag)) if bag.rows is None else bag.rows)]
    if said:
        rows = [dict(said.get(row["id"], {})) for row in rows]
    return _table(name, str(bag.attrs.get("encoder", "")), bag.features, rows)


def _table(name: str, encoder: str, features: Float[np.ndarray, "n d"], rows: Sequence[Mapping[str, str]]) -> TileTable:
    if not any(row.get("label") for row in rows):
        raise EvaluationError(f"No tile of '{name}' has a label. Pass --labels, a table with columns id and label.")
    splits = []
    for row in rows:
        split = row.get("split", "").casefold()
        if split and split not in _SPLITS:
            raise EvaluationError(f"A tile of '{name}' is of the split {split!r}. It must be train, valid or test.")
        splits.append(_SPLITS.get(split, ""))
    return TileTable(
        name,
        encoder,
        features,
        tuple(row.get("label", "") for row in rows),
        tuple(splits),
        tuple(row.get("patient", "") for row in rows),
    )


def _of_name(name: str) -> Mapping[str, str]:
    """What the name of a tile of NCT-CRC says: its class, and whether it is of the validation set (from TCGA)."""
    match = _NCT_NAME.fullmatch(Path(name).stem)
    return {} if match is None else {"label": match[1], "split": VALID if match[2] else TRAIN}


def _read_labels(path: Path) -> dict[str, Mapping[str, str]]:
    """A table of tiles by id.

    Raises:
        EvaluationError: If it cannot be read, lacks a column, or names a tile twice.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = [name.strip() for name in reader.fieldnames or []]
            if not {"id", "label"} <= set(header):
                raise EvaluationError(
                    f"'{path}' must have the columns id and label. It has: {', '.join(header) or 'none'}."
                )
            said: dict[str, Mapping[str, str]] = {}
            for row in reader:
                cells = {str(k).strip(): (v or "").strip() for k, v in row.items() if k is not None}
                if cells["id"] in said:
                    raise EvaluationError(f"'{path}' names the tile {cells['id']!r} twice.")
                said[cells["id"]] = {key: "" if value in MISSING else value for key, value in cells.items()}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise EvaluationError(f"'{path}' cannot be read as a table of labels: {error}.") from error
    return said


def class_counts(labels: Int64[np.ndarray, " n"], classes: Sequence[str]) -> dict[str, int]:
    """Tiles per class."""
    return {name: int((labels == number).sum()) for number, name in enumerate(classes)}
