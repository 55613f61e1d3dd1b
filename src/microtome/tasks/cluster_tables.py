"""The files of a cluster folder: a table of tiles per slide, a summary; and the typical tiles of clusters.

``<slide_id>.parquet`` has one row per row of the slide's features: x, y, w, h (level-0 px), cluster,
distance. ``summary.csv`` has one row per cluster.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Int, Int64

from microtome.errors import ConfigError, CorruptOutputError
from microtome.storage import safe_name, written_whole

if TYPE_CHECKING:
    import pandas as pd

SUMMARY_FILE = "summary.csv"
_RECIPE_KEY = b"microtome_recipe"


@dataclass(frozen=True, slots=True)
class ClusterSummary:
    """One row of summary.csv.

    Attributes:
        cluster: Its number.
        n_tiles: Tiles assigned to it, over all slides.
        share: Their share of all tiles, 0..1, to six decimals.
        n_slides: Slides that have at least one of them.
    """

    cluster: int
    n_tiles: int
    share: float
    n_slides: int


def write_assignment(
    path: Path,
    boxes: Int[np.ndarray, "n 4"],
    clusters: Int64[np.ndarray, " n"],
    distances: Float32[np.ndarray, " n"],
    *,
    recipe: str,
) -> None:
    """Write the clusters of one slide's tiles whole: x, y, w, h (level-0 px), cluster, distance."""
    write_table(
        path,
        {
            **{name: boxes[:, i].astype(np.int64) for i, name in enumerate("xywh")},
            "cluster": clusters.astype(np.int32),
            "distance": distances,
        },
        recipe=recipe,
    )


def write_table(path: Path, columns: Mapping[str, Any], *, recipe: str) -> None:
    """Write a parquet table whole, with what decided it in its metadata."""
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table(dict(columns)).replace_schema_metadata({_RECIPE_KEY: recipe.encode()})
    with written_whole(path) as temporary:
        parquet.write_table(table, temporary)


def read_assignment(path: Path) -> "pd.DataFrame":
    """Read the clusters of one slide's tiles: columns x, y, w, h (level-0 px), cluster, distance.

    Raises:
        CorruptOutputError: If the file is absent or is no such table.
    """
    return read_table(path, ("x", "y", "w", "h", "cluster", "distance"))


def read_table(path: Path, columns: Sequence[str]) -> "pd.DataFrame":
    """Read a parquet table that must have these columns.

    Raises:
        CorruptOutputError: If it cannot be read, or lacks one.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table: pd.DataFrame = parquet.read_table(path, columns=list(columns), partitioning=None).to_pandas()
        return table[list(columns)]
    except (OSError, pa.ArrowException, KeyError) as error:
        raise CorruptOutputError(
            f"'{path}' cannot be read as a table of {', '.join(columns)} ({error}). Delete it and cluster again."
        ) from error


def read_table_recipe(path: Path) -> str:
    """What decided the table that is there; empty where there is none, or it does not say."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return str((parquet.read_schema(path).metadata or {}).get(_RECIPE_KEY, b"").decode())
    except (OSError, pa.ArrowException, UnicodeDecodeError):
        return ""


def write_summary(path: Path, summary: Sequence[ClusterSummary]) -> None:
    """Write summary.csv whole: cluster, n_tiles, share, n_slides."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["cluster", "n_tiles", "share", "n_slides"])
    writer.writerows([s.cluster, s.n_tiles, f"{s.share:.6f}", s.n_slides] for s in summary)
    with written_whole(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", newline="")


def read_summary(path: Path) -> list[ClusterSummary]:
    """Read summary.csv.

    Raises:
        CorruptOutputError: If it is absent or is no such table.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [
                ClusterSummary(int(r["cluster"]), int(r["n_tiles"]), float(r["share"]), int(r["n_slides"]))
                for r in csv.DictReader(file)
            ]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise CorruptOutputError(f"'{path}' is not a cluster summary ({error}). Cluster again.") from error


@dataclass(frozen=True, slots=True)
class TypicalTile:
    """A tile near its cluster's centroid.

    Attributes:
        slide_id: Its slide.
        row: Its row in the slide's features and in ``<slide_id>.parquet``.
        box: x, y, w, h, level-0 px.
        distance: To the centroid, standardised units.
    """

    slide_id: str
    row: int
    box: tuple[int, int, int, int]
    distance: float


def typical_tiles(
    folder: Path, slide_ids: Sequence[str], *, n_per_cluster: int = 8, max_per_slide: int = 2
) -> dict[int, list[TypicalTile]]:
    """For each cluster, the tiles nearest to its centroid, spread over slides.

    At most ``max_per_slide`` tiles come from one slide, unless that leaves places empty; the next nearest
    fill those.

    Args:
        folder: The cluster folder that :func:`assign_clusters` wrote.
        slide_ids: Slides to choose from.
        n_per_cluster: Tiles per cluster.
        max_per_slide: Tiles of one slide per cluster.

    Returns:
        Cluster → its tiles, nearest first; every cluster of the summary is there, an empty one with no tiles.

    Raises:
        ConfigError: If a number is below 1.
        CorruptOutputError: If a table is absent or damaged.
    """
    if n_per_cluster < 1 or max_per_slide < 1:
        raise ConfigError(f"n_per_cluster and max_per_slide must be at least 1. Got {n_per_cluster}, {max_per_slide}.")
    nearest: dict[int, list[TypicalTile]] = {k: [] for k in range(len(read_summary(folder / SUMMARY_FILE)))}
    for slide_id in sorted(set(slide_ids)):
        for cluster, tiles in _nearest_of_slide(folder, slide_id, n_per_cluster).items():
            merged = sorted([*nearest[cluster], *tiles], key=_nearness)
            nearest[cluster] = _spread(merged, n_per_cluster, max_per_slide, spare=n_per_cluster)
    return {k: sorted(_spread(t, n_per_cluster, max_per_slide), key=_nearness) for k, t in nearest.items()}


def _nearness(tile: TypicalTile) -> tuple[float, str, int]:
    return tile.distance, tile.slide_id, tile.row


def _nearest_of_slide(folder: Path, slide_id: str, n: int) -> dict[int, list[TypicalTile]]:
    table = read_assignment(folder / f"{safe_name(slide_id)}.parquet")
    cluster, distance = table["cluster"].to_numpy(), table["distance"].to_numpy()
    boxes = table[["x", "y", "w", "h"]].to_numpy(np.int64)
    found: dict[int, list[TypicalTile]] = {}
    for row in np.lexsort((distance, cluster)):
        tiles = found.setdefault(int(cluster[row]), [])
        if len(tiles) < n:
            x, y, w, h = (int(v) for v in boxes[row])
            tiles.append(TypicalTile(slide_id, int(row), (x, y, w, h), float(distance[row])))
    return found


def _spread(tiles: Sequence[TypicalTile], n: int, max_per_slide: int, *, spare: int = 0) -> list[TypicalTile]:
    """Take ``n`` tiles, at most some per slide; the nearest others fill up, and ``spare`` more of those."""
    taken: dict[str, int] = {}
    first: list[TypicalTile] = []
    others: list[TypicalTile] = []
    for tile in tiles:
        taken[tile.slide_id] = taken.get(tile.slide_id, 0) + 1
        (first if taken[tile.slide_id] <= max_per_slide and len(first) < n else others).append(tile)
    return [*first, *others[: n - len(first) + spare]]
