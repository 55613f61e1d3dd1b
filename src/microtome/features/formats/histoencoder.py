"""HistoEncoder's ``<slide_id>/features.parquet``: one row per tile, one column per feature.

References:
    HistoEncoder 0.1.1, specification section 1: ``path`` (text), ``x``, ``y``, ``w``, ``h`` (int64, level-0 pixels),
    ``feat1`` ... ``featD`` (float32). Tables of slides have no ``path``, those of bare tensors only features. Where
    ``max_samples`` was set, there are ``features_1.parquet``, ``features_2.parquet``, ... which HistoEncoder's own
    clustering does not read; here they are, in order.
"""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64, Shaped

from microtome.errors import ConfigError, CorruptOutputError, MissingOutputError
from microtome.features.formats.format import Format
from microtome.features.formats.table import NAME, FeatureTable, Part
from microtome.storage import written_whole

FEATURES, CHUNK = "features.parquet", re.compile(r"features_(\d+)\.parquet")
_BOX = ("x", "y", "w", "h")
_FEATURE = re.compile(r"feat(\d+)")


def write(path: Path, table: FeatureTable) -> None:
    """Write the table.

    Raises:
        ConfigError: If corners are known and tile sizes are not, which no column says.
        OutputWriteError: If it cannot be written.
    """
    columns: dict[str, pa.Array] = {}
    if NAME in table.columns:
        columns["path"] = pa.array(table.columns[NAME].tolist(), pa.string())
    if table.boxes is None and table.coords is not None:
        raise ConfigError(
            f"histoencoder needs the size of tiles, and that of '{table.slide_id}' is not known. Pass --coords."
        )
    if table.boxes is not None:
        columns |= {name: pa.array(table.boxes[:, index]) for index, name in enumerate(_BOX)}
    features = np.ascontiguousarray(table.features.T)
    columns |= {f"feat{index + 1}": pa.array(column) for index, column in enumerate(features)}
    with written_whole(path) as temporary:
        pq.write_table(pa.table(columns), temporary)


def chunks(path: Path) -> tuple[Path, ...]:
    """The further files of a table that was written in parts."""
    if CHUNK.fullmatch(path.name) is None:
        return ()
    found = [(int(match[1]), p) for p in path.parent.iterdir() if (match := CHUNK.fullmatch(p.name))]
    return tuple(p for _, p in sorted(found) if p != path)


def read(path: Path, slide_id: str) -> FeatureTable:
    """Read the table, in all of its parts.

    Raises:
        MissingOutputError: If nothing is there.
        CorruptOutputError: If it is truncated, lacks a part, has other columns, or holds NaN.
    """
    files = (path, *chunks(path))
    try:
        numbers = [int(match[1]) for file in files if (match := CHUNK.fullmatch(file.name))]
        if numbers and numbers != [*range(numbers[0], numbers[0] + len(numbers))]:
            raise ValueError(f"of its parts {numbers} one is missing")  # noqa: TRY301 - explained below
        table = pa.concat_tables([pq.read_table(file) for file in files])
        return _table(slide_id, table)
    except FileNotFoundError as error:
        raise MissingOutputError(f"There are no features at '{path}'.") from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise CorruptOutputError(f"'{path}' cannot be used as HistoEncoder features: {error}.") from error


def _table(slide_id: str, table: pa.Table) -> FeatureTable:
    names = table.column_names
    if len(set(names)) != len(names):
        raise ValueError("a column comes twice")
    numbers = sorted(int(match[1]) for name in names if (match := _FEATURE.fullmatch(name)))
    if not numbers or numbers != [*range(1, len(numbers) + 1)]:
        raise ValueError("it needs the columns feat1, feat2, ... without a gap")
    holes = [name for name in names if table[name].null_count]
    if holes:
        raise ValueError(f"column {holes[0]} has empty cells")
    columns = [_numbers(table, f"feat{number}", "f") for number in numbers]
    features = np.stack(columns, axis=1)
    if not np.isfinite(features).all():
        raise ValueError("its features hold NaN or infinity")
    text = {NAME: np.array(table["path"].to_pylist(), object)} if "path" in names else {}
    used = {"path", *_BOX, *(f"feat{number}" for number in numbers)}
    notes = tuple(f"column {name} was not read" for name in names if name not in used)
    return FeatureTable(slide_id, features, boxes=_boxes(table), columns=text, notes=notes)


def _boxes(table: pa.Table) -> Int64[np.ndarray, "n 4"] | None:
    there = [name for name in _BOX if name in table.column_names]
    if not there:
        return None
    if len(there) != 4:
        raise ValueError(f"of x, y, w, h it has only {', '.join(there)}")
    return np.stack([_numbers(table, name, "iu") for name in _BOX], axis=1).astype(np.int64)


def _numbers(table: pa.Table, name: str, kinds: str) -> Shaped[np.ndarray, " n"]:
    column = table[name].to_numpy()
    if column.dtype.kind not in kinds:
        raise ValueError(f"column {name} holds {table[name].type}")
    return np.asarray(column)


HISTOENCODER = Format(
    name="histoencoder",
    made_by="HistoEncoder, over HistoPrep's folders",
    layout="{slide_id}/" + FEATURES,
    holds=frozenset({Part.COORDS, Part.SIZE, Part.SIZES, Part.NAMES}),
    dtypes=("float32",),
    default_dtype="float32",
    read=read,
    write=write,
    note="Tile names are its column `path`. Tables in parts (`features_1.parquet`, ...) are read as one.",
    more_files=chunks,
)
