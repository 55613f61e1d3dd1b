"""A picture of the feature space: UMAP of a seeded sample of tiles, drawn evenly from all slides."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Int32, Int64

from microtome.errors import ConfigError
from microtome.storage import recipe_text
from microtome.tasks.cluster import Clusters
from microtome.tasks.cluster_tables import read_table, read_table_recipe, write_table
from microtome.tasks.feature_rows import FeatureRows, FeatureSource, features_digest, sorted_slides

if TYPE_CHECKING:
    import pandas as pd

UMAP_FILE = "umap.parquet"
MIN_POINTS = 4
_PCA_DIMENSIONS = 50
_N_EPOCHS = 200  # the method's own default for large samples; 500 look the same here and take twice as long
_COLUMNS = ("slide_id", "row", "umap_x", "umap_y", "cluster")


@dataclass(frozen=True, eq=False)
class UmapPoints:
    """Tiles on the plane.

    Attributes:
        xy: Positions; only nearness means something, not the axes.
        slide_ids: Each tile's slide.
        rows: Each tile's row in its slide's features.
        clusters: Each tile's cluster.
        recipe_text: What decided them.
    """

    xy: Float32[np.ndarray, "n 2"]
    slide_ids: tuple[str, ...]
    rows: Int64[np.ndarray, " n"]
    clusters: Int64[np.ndarray, " n"]
    recipe_text: str

    def __len__(self) -> int:
        return len(self.slide_ids)


def umap_recipe(
    store: FeatureSource,
    clusters: Clusters,
    *,
    n_points: int = 5000,
    seed: int = 0,
    slide_ids: Sequence[str] | None = None,
    n_neighbors: int = 15,
    min_dist: float = 0.1,
) -> dict[str, object]:
    """What decides the picture: features, clusters and the settings of :func:`umap_features`."""
    wanted = sorted_slides(store, slide_ids)
    return {
        "features": features_digest(store, wanted),
        "clusters": clusters.digest,
        "n_points": n_points,
        "seed": seed,
        "n_neighbors": n_neighbors,
        "min_dist": min_dist,
        "pca": _PCA_DIMENSIONS,
        "n_epochs": _N_EPOCHS,
    }


def umap_features(
    store: FeatureSource,
    clusters: Clusters,
    *,
    n_points: int = 5000,
    seed: int = 0,
    slide_ids: Sequence[str] | None = None,
    n_neighbors: int = 15,
    min_dist: float = 0.1,
) -> UmapPoints:
    """Lay a sample of tiles out on a plane so that similar tiles lie together.

    The sample is drawn as evenly over the slides as their sizes allow, standardised as the clusters are,
    reduced to 50 principal components, and laid out by UMAP on one thread, so that a seed gives the same
    picture each time.

    Args:
        store: Features by slide.
        clusters: Clusters of these features; they give the standardisation and the tiles' cluster numbers.
        n_points: Number of tiles, at least 4; all are taken where there are fewer.
        seed: Decides the sample and the layout.
        slide_ids: Use these slides; None for all in the store.
        n_neighbors: Neighbours that a tile is held near to, at least 2; fewer where there are too few tiles.
        min_dist: Least distance of tiles on the plane, 0..1.

    Returns:
        The tiles, by sorted slide_id and rising row.

    Raises:
        ConfigError: If a setting is out of range, or there are fewer than 4 (distinct) tiles.
        EncoderOutputError: If a feature is NaN or infinite, or slides have features of different length.

    References:
        L. McInnes, J. Healy, J. Melville, *UMAP: uniform manifold approximation and projection*,
        arXiv:1802.03426, as umap-learn computes it. Deviations: principal components first, from which the
        layout also starts.
    """
    if n_points < MIN_POINTS or n_neighbors < 2 or not 0 <= min_dist <= 1:
        raise ConfigError(
            f"UMAP needs n_points of at least {MIN_POINTS}, n_neighbors of at least 2 and min_dist in 0..1. "
            f"Got {n_points}, {n_neighbors} and {min_dist}."
        )
    sample = FeatureRows.sample(store, n_points, slide_ids=slide_ids, seed=seed)
    n = len(sample)
    if n < MIN_POINTS:
        raise ConfigError(f"There are {n} tiles, too few for a UMAP: it needs at least {MIN_POINTS}.")
    features = sample.read(0, n)
    numbers, rows = sample.locate(np.arange(n))
    xy = _lay_out(clusters.standardise(features), seed=seed, n_neighbors=min(n_neighbors, n - 1), min_dist=min_dist)
    recipe = umap_recipe(
        store,
        clusters,
        n_points=n_points,
        seed=seed,
        slide_ids=slide_ids,
        n_neighbors=n_neighbors,
        min_dist=min_dist,
    )
    slides = tuple(sample.slide_ids[i] for i in numbers)
    return UmapPoints(xy, slides, rows, clusters.assign(features), recipe_text(recipe))


def _lay_out(
    x: Float32[np.ndarray, "n d"], *, seed: int, n_neighbors: int, min_dist: float
) -> Float32[np.ndarray, "n 2"]:
    """Principal components, then UMAP, all on one thread."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        components = _principal_components(x)
        if len(np.unique(x, axis=0)) < MIN_POINTS:
            raise ConfigError(
                f"Of {len(x)} tiles fewer than {MIN_POINTS} differ, so there is nothing to lay out. Add "
                "slides, or set umap_points to 0."
            )
        with warnings.catch_warnings():
            # umap-learn remarks on optional parts that are not installed and on choices made here on purpose
            warnings.simplefilter("ignore")
            from umap import UMAP

            model = UMAP(
                n_neighbors=n_neighbors,
                min_dist=min_dist,
                init=_start(components),
                n_epochs=_N_EPOCHS,
                random_state=seed,
                n_jobs=1,
                precomputed_knn=(*_neighbours(components, n_neighbors), None),
            )
            xy: Float32[np.ndarray, "n 2"] = np.asarray(model.fit_transform(components), np.float32)
    if not np.isfinite(xy).all():
        raise ConfigError(f"UMAP of {len(x)} tiles did not converge. Use another seed, or more tiles.")
    return xy


def _principal_components(x: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "n c"]:
    """At most 50 principal components, in a fixed orientation."""
    from sklearn.decomposition import PCA

    n_components = min(_PCA_DIMENSIONS, *x.shape)
    if not np.ptp(x, axis=0).any():
        return np.zeros((len(x), n_components), np.float32)
    components: Float32[np.ndarray, "n c"] = PCA(n_components, svd_solver="full").fit_transform(x)
    return components


def _neighbours(x: Float32[np.ndarray, "n c"], k: int) -> tuple[Int32[np.ndarray, "n k"], Float32[np.ndarray, "n k"]]:
    """The exact nearest neighbours of each row, itself first, and their distances.

    At some thousand points this is quicker than umap-learn's approximate search, which is compiled on first
    use.
    """
    from sklearn.neighbors import NearestNeighbors

    distances, indices = NearestNeighbors(n_neighbors=k - 1, algorithm="brute").fit(x).kneighbors()
    own = np.arange(len(x))[:, None]
    return (
        np.hstack([own, indices]).astype(np.int32),
        np.hstack([np.zeros_like(own), distances]).astype(np.float32),
    )


def _start(components: Float32[np.ndarray, "n c"]) -> Float32[np.ndarray, "n 2"]:
    """Start from the first two components: they are never degenerate, as a spectral start can be."""
    two = np.zeros((len(components), 2), np.float32)
    two[:, : min(2, components.shape[1])] = components[:, :2]
    start: Float32[np.ndarray, "n 2"] = two * (10.0 / np.abs(two).max())
    # tiles of equal features must not start on one spot: nothing would part them
    return (start + np.random.default_rng(0).normal(scale=1e-3, size=start.shape)).astype(np.float32)


def write_umap(path: Path, points: UmapPoints) -> None:
    """Write a parquet table whole: slide_id, row, umap_x, umap_y, cluster.

    Raises:
        OutputWriteError: If it cannot be written.
    """
    columns = {
        "slide_id": list(points.slide_ids),
        "row": points.rows,
        "umap_x": points.xy[:, 0],
        "umap_y": points.xy[:, 1],
        "cluster": points.clusters.astype(np.int32),
    }
    write_table(path, columns, recipe=points.recipe_text)


def read_umap(path: Path) -> "pd.DataFrame":
    """Read the table that :func:`write_umap` wrote.

    Raises:
        CorruptOutputError: If it is absent or is no such table.
    """
    return read_table(path, _COLUMNS)


def read_umap_recipe(path: Path) -> str:
    """What decided the table that is there; empty where there is none, or it does not say."""
    return read_table_recipe(path)
