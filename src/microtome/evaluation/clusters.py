"""How well clusters agree with labels: purity, adjusted Rand index, normalised mutual information.

Also labels of tiles from outlined regions, so that clusters can be held against a person's outlines.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from jaxtyping import Float64, Int, Int64, Shaped
from shapely.geometry.base import BaseGeometry

from microtome.errors import ConfigError, EvaluationError

Labels = Sequence[object] | Shaped[np.ndarray, "..."]
"""One label per tile: strings or whole numbers."""


@dataclass(frozen=True, slots=True)
class ClusterPurity:
    """How pure one cluster is.

    Attributes:
        n: Tiles in it.
        label: The commonest label among them; of equally common ones the first in sorted order.
        purity: Share of them that have it, 0..1.
    """

    n: int
    label: Any
    purity: float


def purity_score(labels: Labels, clusters: Labels) -> float:
    """Share of tiles whose label is the commonest one in their cluster.

    Args:
        labels: What each tile is.
        clusters: Which cluster each tile is in.

    Returns:
        0..1; 1 where each cluster holds one label. It rises with the number of clusters, so compare it at
        equal numbers, and with the share of the commonest label, which one cluster would have.

    Raises:
        EvaluationError: If the two differ in length, are empty or hold missing values.

    References:
        C. D. Manning, P. Raghavan, H. Schütze, *Introduction to Information Retrieval*, 2008, section 16.3.

    Example:
        >>> purity_score(["tumour", "tumour", "stroma", "stroma"], [0, 0, 0, 1])
        0.75
    """
    _, _, table = _contingency(labels, clusters)
    return float(table.max(axis=0).sum() / table.sum())


def cluster_purity(labels: Labels, clusters: Labels) -> dict[Any, ClusterPurity]:
    """Purity of each cluster.

    Args:
        labels: What each tile is.
        clusters: Which cluster each tile is in.

    Returns:
        Cluster → its size, commonest label and that label's share, in the order of the clusters' numbers or
        names.

    Raises:
        EvaluationError: If the two differ in length, are empty or hold missing values.

    Example:
        >>> cluster_purity(["tumour", "tumour", "stroma", "stroma"], [0, 0, 0, 1])[1]
        ClusterPurity(n=1, label='stroma', purity=1.0)
    """
    label_names, cluster_names, table = _contingency(labels, clusters)
    found = {}
    for j, cluster in enumerate(cluster_names):
        n, best = int(table[:, j].sum()), int(table[:, j].argmax())
        found[cluster] = ClusterPurity(n, label_names[best], float(table[best, j] / n))
    return found


def adjusted_rand_score(labels: Labels, clusters: Labels) -> float:
    """Agreement of pairs: are two tiles of one label in one cluster, corrected for chance.

    Args:
        labels: What each tile is.
        clusters: Which cluster each tile is in.

    Returns:
        1 where the partitions are the same, 0 expected by chance, down to -0.5.

    Raises:
        EvaluationError: If the two differ in length, are empty or hold missing values.

    References:
        L. Hubert and P. Arabie, *Comparing partitions*, J. Classification 1985; as scikit-learn computes it.

    Example:
        >>> adjusted_rand_score(["a", "a", "b", "b"], [1, 1, 0, 0])
        1.0
    """
    from sklearn.metrics import adjusted_rand_score as score

    return float(score(*_codes(labels, clusters)))


def normalized_mutual_info_score(labels: Labels, clusters: Labels) -> float:
    """Information that labels and clusters share, over the mean of their entropies.

    Args:
        labels: What each tile is.
        clusters: Which cluster each tile is in.

    Returns:
        0..1; 1 where the partitions are the same. Not corrected for chance.

    Raises:
        EvaluationError: If the two differ in length, are empty or hold missing values.

    References:
        As scikit-learn computes it, with the arithmetic mean.

    Example:
        >>> normalized_mutual_info_score(["a", "a", "b", "b"], [1, 1, 0, 0])
        1.0
    """
    from sklearn.metrics import normalized_mutual_info_score as score

    return float(score(*_codes(labels, clusters)))


def region_labels(
    boxes: Int[np.ndarray, "n 4"],
    regions: Mapping[str, BaseGeometry | Sequence[BaseGeometry]],
    *,
    min_share: float = 0.5,
    other: str = "other",
) -> Shaped[np.ndarray, " n"]:
    """Label each tile by the region that covers most of it.

    Args:
        boxes: Tiles: x y w h, level-0 px.
        regions: Label → its polygon or polygons, level-0 px. Of regions that cover a tile equally, the first
            wins.
        min_share: Least share of the tile that the region must cover, over 0 and at most 1.
        other: Label of tiles that no region covers so far.

    Returns:
        One label per tile.

    Raises:
        ConfigError: If ``min_share`` is out of range, ``other`` is the label of a region, or a box is empty.

    Example:
        >>> boxes = np.array([[0, 0, 10, 10], [100, 0, 10, 10]])
        >>> region_labels(boxes, {"tumour": shapely.box(0, 0, 10, 6)}).tolist()
        ['tumour', 'other']
    """
    if not 0 < min_share <= 1:
        raise ConfigError(f"min_share must be over 0 and at most 1. Got {min_share}.")
    if other in regions:
        raise ConfigError(f"{other!r} is the label of a region and of tiles outside of all. Pass another other=.")
    best, winner = np.zeros(len(boxes)), np.full(len(boxes), len(regions))
    for i, region in enumerate(regions.values()):
        share = _covered_share(boxes, region)
        better = share > best
        best[better], winner[better] = share[better], i
    # areas of polygons carry rounding errors; half of a tile is half
    winner[best < min_share * (1 - 1e-9)] = len(regions)
    labels: Shaped[np.ndarray, " n"] = np.array([*regions, other])[winner]
    return labels


def _covered_share(
    boxes: Int[np.ndarray, "n 4"], region: BaseGeometry | Sequence[BaseGeometry]
) -> Float64[np.ndarray, " n"]:
    """Share of each box that the region covers."""
    if len(boxes) and boxes[:, 2:].min() <= 0:
        raise ConfigError("A tile must be at least 1 px wide and high.")
    x, y, w, h = boxes.T.astype(np.float64)
    # union: overlapping polygons of one label count once, and a self-touching outline is made valid
    whole = shapely.make_valid(shapely.union_all([shapely.make_valid(p) for p in np.atleast_1d(np.array(region))]))
    shapely.prepare(whole)
    tiles = shapely.box(x, y, x + w, y + h)
    share = shapely.covers(whole, tiles).astype(np.float64)
    crossing = (share == 0) & shapely.intersects(whole, tiles)
    share[crossing] = shapely.area(shapely.intersection(whole, tiles[crossing])) / (w * h)[crossing]
    capped: Float64[np.ndarray, " n"] = np.minimum(share, 1.0)
    return capped


def _contingency(labels: Labels, clusters: Labels) -> tuple[list[Any], list[Any], Int64[np.ndarray, "l k"]]:
    """Names of labels, names of clusters, and how many tiles have each pair."""
    first, second = _checked(labels, clusters)
    label_names, label_codes = np.unique(first, return_inverse=True)
    cluster_names, cluster_codes = np.unique(second, return_inverse=True)
    table = np.zeros((len(label_names), len(cluster_names)), np.int64)
    np.add.at(table, (label_codes, cluster_codes), 1)
    return label_names.tolist(), cluster_names.tolist(), table


def _codes(labels: Labels, clusters: Labels) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    first, second = (np.unique(part, return_inverse=True)[1].astype(np.int64) for part in _checked(labels, clusters))
    return first, second


def _checked(labels: Labels, clusters: Labels) -> tuple[Shaped[np.ndarray, " n"], Shaped[np.ndarray, " n"]]:
    first, second = _plain(labels, "labels"), _plain(clusters, "clusters")
    if len(first) != len(second):
        raise EvaluationError(f"There are {len(first)} labels and {len(second)} clusters. Give one of each per tile.")
    if not len(first):
        raise EvaluationError("There are no labels to compare. Give at least one tile.")
    return first, second


def _plain(values: Labels, what: str) -> Shaped[np.ndarray, " n"]:
    """One-dimensional array of strings or whole numbers.

    Raises:
        EvaluationError: If it is something else, or values are missing.
    """
    # as objects: numpy would turn a list of strings and numbers into strings
    array = values if isinstance(values, np.ndarray) else np.array(list(values), dtype=object)
    if array.ndim != 1:
        raise EvaluationError(f"The {what} must be one per tile. Got an array of shape {array.shape}.")
    n_missing = sum(map(_is_missing, array)) if array.dtype.kind in "Of" else 0
    if n_missing:
        raise EvaluationError(f"{n_missing} of the {what} are missing. Leave those tiles out of both.")
    if array.dtype.kind == "O":
        if len({isinstance(v, str) for v in array}) > 1:
            raise EvaluationError(f"The {what} mix text and numbers. Use one of them.")
        array = np.array(array.tolist())
    if array.dtype.kind == "f" and not np.array_equal(array, np.floor(array)):
        raise EvaluationError(f"The {what} are measurements, not classes. Give strings or whole numbers.")
    return array


def _is_missing(value: object) -> bool:
    try:
        return value is None or bool(value != value)
    except TypeError:  # the missing value of a table, which answers no comparison
        return True
