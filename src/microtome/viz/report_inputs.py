"""What the report reads from an output folder, and nothing else: tables, records, frames, tile tables.

Anything may be absent, since a run may have failed early or gone only as far as the tissue. A file that is there but
damaged is an error of its own, which the report shows beside the slide that it belongs to.
"""

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Float32, Int64

from microtome.errors import ConfigError, CorruptOutputError, MissingOutputError
from microtome.storage import safe_name

SLIDE_COLUMNS = (
    "slide_id", "path", "status", "reader", "width", "height", "mpp", "mpp_source", "tissue_mm2", "n_tiles",
    "n_unreadable", "seconds", "error",
)  # fmt: skip
_NUMBERS = {
    "width": int, "height": int, "mpp": float, "tissue_mm2": float, "n_tiles": int, "n_unreadable": int,
    "seconds": float,
}  # fmt: skip
_RECIPE_KEY = b"microtome_recipe"


@dataclass(frozen=True, slots=True)
class Frame:
    """What a thumbnail shows.

    Attributes:
        box: x, y, width and height of the region, level-0 pixels.
        size: Width and height of the thumbnail, in its own pixels.
    """

    box: tuple[float, float, float, float]
    size: tuple[int, int]

    @property
    def scale(self) -> tuple[float, float]:
        """Thumbnail pixels per level-0 pixel, across and down."""
        return self.size[0] / self.box[2], self.size[1] / self.box[3]


@dataclass(frozen=True, slots=True)
class ClusterRow:
    """One row of ``clusters/summary.csv``, its cells as they stand in the file."""

    cluster: int
    n_tiles: str
    share: str
    n_slides: str


@dataclass(frozen=True, eq=False, slots=True)
class UmapTable:
    """Tiles on the plane.

    Attributes:
        xy: Positions.
        slide_ids: Each tile's slide.
        clusters: Each tile's cluster.
        made_from: What decided the clusters, as a digest; empty where the file does not say.
    """

    xy: Float32[np.ndarray, "n 2"]
    slide_ids: tuple[str, ...]
    clusters: Int64[np.ndarray, " n"]
    made_from: str = ""


@dataclass(frozen=True, eq=False, slots=True)
class ClusteredTiles:
    """Tiles of one slide and their clusters.

    Attributes:
        boxes: x, y, w, h, level-0 pixels.
        clusters: Each tile's cluster.
        made_from: What decided the clusters, as a digest; empty where the file does not say.
    """

    boxes: Int64[np.ndarray, "n 4"]
    clusters: Int64[np.ndarray, " n"]
    made_from: str = ""


@dataclass(frozen=True, slots=True)
class UnreadableTile:
    """A tile that could not be decoded: its box (x, y, w, h, level-0 pixels) and why."""

    box: tuple[int, int, int, int]
    error: str


@dataclass(frozen=True, slots=True)
class OutputFiles:
    """An output folder as the report sees it: where each file lies, and how it is read."""

    root: Path

    def read_slide_rows(self) -> list[dict[str, str]]:
        """Rows of slides.csv, cells as they stand in the file.

        Raises:
            MissingOutputError: If the table is not there.
            CorruptOutputError: If it lacks a column or a cell, or is no text.
        """
        path = self.root / "slides.csv"
        try:
            with path.open(encoding="utf-8", newline="") as file:
                table = csv.DictReader(file)
                rows = list(table)
                missing = [name for name in SLIDE_COLUMNS if name not in (table.fieldnames or ())]
        except FileNotFoundError as error:
            raise MissingOutputError(
                f"'{self.root}' holds no slides.csv, so there is nothing to report. Name the output folder of a run."
            ) from error
        except (OSError, csv.Error, UnicodeDecodeError) as error:
            raise _corrupt(path, error) from error
        if missing:
            raise _corrupt(path, f"column {missing[0]} is missing")
        for row in rows:
            if any(row[name] is None for name in SLIDE_COLUMNS):
                raise _corrupt(path, "a row is shorter than the header")
            for name, kind in _NUMBERS.items():
                if row[name] and not _is(kind, row[name]):
                    raise _corrupt(path, f"{name} of {row['slide_id']!r} is {row[name]!r}, not a number")
        return rows

    def read_run(self) -> dict[str, Any]:
        """The record run.json; empty where there is none, as after a kill between the two tables.

        Raises:
            CorruptOutputError: If it is no JSON object.
        """
        path = self.root / "run.json"
        return _json_object(path) if path.is_file() else {}

    def slide_file(self, folder: str, slide_id: str, suffix: str) -> Path | None:
        """A file of one slide; None where it is not there, or where its name could lead out of the folder."""
        try:
            path = self.root / folder / f"{safe_name(slide_id)}{suffix}"
        except ConfigError:
            return None
        return path if path.is_file() else None

    def read_frame(self, slide_id: str) -> Frame | None:
        """What the slide's thumbnail covers; None where there is none.

        Raises:
            CorruptOutputError: If the file makes no sense.
        """
        path = self.slide_file("thumbnails", slide_id, ".json")
        if path is None:
            return None
        record = _json_object(path)
        try:
            x, y, w, h = (float(v) for v in record["box"])
            width, height = (int(v) for v in record["size"])
        except (KeyError, TypeError, ValueError) as error:
            raise _corrupt(path, error) from error
        if not (w > 0 and h > 0 and width > 0 and height > 0 and np.isfinite((x, y, w, h)).all()):
            raise _corrupt(path, "an empty frame")
        return Frame((x, y, w, h), (width, height))

    def read_cluster_rows(self) -> list[ClusterRow]:
        """Rows of the cluster summary; empty where clusters were not made, or not to the end.

        Raises:
            CorruptOutputError: If the table makes no sense.
        """
        path = self.root / "clusters" / "summary.csv"
        if not path.is_file():
            return []
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows = [
                    ClusterRow(int(row["cluster"]), row["n_tiles"], row["share"], row["n_slides"])
                    for row in csv.DictReader(file)
                ]
            for row in rows:
                _ = int(row.n_tiles), float(row.share), int(row.n_slides)
        except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
            raise _corrupt(path, error) from error
        if [row.cluster for row in rows] != list(range(len(rows))):
            raise _corrupt(path, "its clusters are not numbered 0, 1, 2, ...")
        return rows

    def read_clusters_of(self, slide_id: str) -> ClusteredTiles | None:
        """A slide's tiles and their clusters; None where there are none.

        Raises:
            CorruptOutputError: If the table cannot be read.
        """
        path = self.slide_file("clusters", slide_id, ".parquet")
        if path is None:
            return None
        table, made_from = _columns(path, ("x", "y", "w", "h", "cluster"))
        try:
            boxes = np.stack([table[name].astype(np.int64) for name in "xywh"], axis=1)
            clusters = table["cluster"].astype(np.int64)
        except (TypeError, ValueError) as error:
            raise _corrupt(path, error) from error
        if len(clusters) and clusters.min() < 0:
            raise _corrupt(path, "a cluster below 0")
        return ClusteredTiles(boxes, clusters, made_from)

    def read_tile_boxes(self, slide_id: str) -> Int64[np.ndarray, "n 4"] | None:
        """Boxes of all tiles laid on a slide (x, y, w, h, level-0 pixels); None where none were laid.

        Raises:
            CorruptOutputError: If the file cannot be read.
        """
        path = self.slide_file("tiles", slide_id, ".h5")
        if path is None:
            return None
        from microtome.tiles.store import read_tiles

        return read_tiles(path).boxes

    def read_unreadable(self, slide_id: str, n: int) -> list[UnreadableTile]:
        """The tiles of a slide that could not be decoded, from the features that were made of it.

        Args:
            slide_id: Whose.
            n: How many slides.csv says that there are; features that say otherwise are of another run.

        Returns:
            The tiles; empty where no features say.

        Raises:
            CorruptOutputError: If a feature file cannot be read.
        """
        from microtome.features.store import FeatureStore

        for folder in sorted(p for p in (self.root / "features").glob("*") if p.is_dir()):
            store = FeatureStore(folder)
            if slide_id in store and store[slide_id].n_unreadable == n:
                bag = store[slide_id]
                boxes = [(x, y, w, h) for x, y, w, h in bag.unreadable.tolist()]
                return [UnreadableTile(b, e) for b, e in zip(boxes, bag.unreadable_errors, strict=True)]
        return []

    def read_umap(self) -> UmapTable | None:
        """The UMAP of a sample of tiles; None where there is none.

        Raises:
            CorruptOutputError: If the table cannot be read.
        """
        path = self.root / "clusters" / "umap.parquet"
        if not path.is_file():
            return None
        table, made_from = _columns(path, ("slide_id", "umap_x", "umap_y", "cluster"))
        try:
            xy = np.stack([table["umap_x"], table["umap_y"]], axis=1).astype(np.float32)
            clusters = table["cluster"].astype(np.int64)
        except (TypeError, ValueError) as error:
            raise _corrupt(path, error) from error
        if not np.isfinite(xy).all():
            raise _corrupt(path, "a position is not finite")
        slide_ids = tuple(map(str, table["slide_id"]))
        return UmapTable(xy, slide_ids, clusters, made_from) if slide_ids else None

    def find_montage(self, cluster: int) -> Path | None:
        """The picture of a cluster's typical tiles; None where it was not drawn."""
        for suffix in (".jpg", ".png"):
            path = self.root / "clusters" / f"montage_{cluster}{suffix}"
            if path.is_file():
                return path
        return None


def _is(kind: type[int] | type[float], cell: str) -> bool:
    try:
        return math.isfinite(kind(cell))
    except ValueError:
        return False


def _json_object(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise _corrupt(path, error) from error
    if not isinstance(record, dict):
        raise _corrupt(path, f"a JSON {type(record).__name__} instead of an object")
    return record


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _columns(path: Path, names: tuple[str, ...]) -> tuple[Mapping[str, np.ndarray], str]:
    """Columns of a parquet table, and the digest of the clusters that it was made from, where it says."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path, columns=list(names), partitioning=None)
        columns = {name: table.column(name).to_numpy() for name in names}
    except (OSError, KeyError, pa.ArrowException) as error:
        raise _corrupt(path, error) from error
    return columns, _clusters_digest((table.schema.metadata or {}).get(_RECIPE_KEY, b""))


def _clusters_digest(recipe: bytes) -> str:
    try:
        record = json.loads(recipe)
    except ValueError:
        return ""  # a table that does not say what it was made from
    return str(record.get("clusters", "")) if isinstance(record, dict) else ""


def _corrupt(path: Path, why: object) -> CorruptOutputError:
    return CorruptOutputError(f"'{path}' cannot be read for the report: {why}. Delete it and run again.")
