"""Group the tiles of all slides by their features: seeded mini-batch k-means, streamed, with saved centroids.

The result does not depend on the order of slides on the disk or on the number of threads. Clusters are
numbered from 0 by falling size, and a new slide can be assigned to them at any time.
"""

import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int64

from microtome.errors import ConfigError, CorruptOutputError
from microtome.storage import digest, recipe_text, safe_name, written_whole
from microtome.tasks.cluster_tables import (
    SUMMARY_FILE,
    ClusterSummary,
    TypicalTile,
    read_assignment,
    read_summary,
    read_table_recipe,
    typical_tiles,
    write_assignment,
    write_summary,
)
from microtome.tasks.feature_rows import (
    FeatureRows,
    FeatureSource,
    features_digest,
    finite_rows,
    sorted_slides,
)

__all__ = [
    "CENTROIDS_FILE",
    "SUMMARY_FILE",
    "ClusterSummary",
    "Clusters",
    "TypicalTile",
    "assign_clusters",
    "cluster_features",
    "cluster_recipe",
    "load_clusters",
    "read_assignment",
    "read_summary",
    "typical_tiles",
]

CENTROIDS_FILE = "centroids.npz"
_FORMAT = "microtome-clusters-1"
_DAMAGE = (
    OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error, RuntimeError,
    MemoryError, OverflowError,
)  # fmt: skip  # what numpy and zipfile raise where a file is not as it was written
_CHUNK_ROWS = 8192
_SAMPLE_ROWS = 8192  # at least so many rows are clustered to start with, ...
_SAMPLE_PER_CLUSTER = 128  # ... and this many per cluster
_CONSTANT = 1e-6  # a feature that varies by less than this share of its mean varies by float32 rounding


@dataclass(frozen=True, eq=False)
class Clusters:
    """Centroids, and the standardisation that they live in.

    Attributes:
        centroids: One per row, in standardised units: ``(feature - mean) / scale``.
        mean: Mean of each feature over the rows fitted.
        scale: Standard deviation of each feature over the rows fitted; 1 where it is constant.
        counts: Rows fitted that belong to each cluster; falling.
        inertia: Sum of squared distances of the rows fitted to their centroids, standardised units.
        recipe_text: What decided them, as :func:`microtome.storage.recipe_text` writes it.
    """

    centroids: Float32[np.ndarray, "k d"]
    mean: Float32[np.ndarray, " d"]
    scale: Float32[np.ndarray, " d"]
    counts: Int64[np.ndarray, " k"]
    inertia: float
    recipe_text: str

    def __len__(self) -> int:
        return len(self.centroids)

    @property
    def digest(self) -> str:
        """Identifies these centroids; outputs made with them carry it."""
        return digest({"recipe": self.recipe_text, "centroids": self.centroids, "mean": self.mean, "scale": self.scale})

    def standardise(self, features: Float[np.ndarray, "n m"]) -> Float32[np.ndarray, "n d"]:
        """Bring features into the units of the centroids.

        Raises:
            ConfigError: If they have another length than those fitted.
        """
        if features.shape[1] != len(self.mean):
            raise ConfigError(
                f"Features have {features.shape[1]} values per tile, the clusters were made from "
                f"{len(self.mean)}. Use features of the same encoder, or cluster these anew."
            )
        x: Float32[np.ndarray, "n d"] = (features.astype(np.float32, copy=False) - self.mean) / self.scale
        return x

    def assign(self, features: Float[np.ndarray, "n m"]) -> Int64[np.ndarray, " n"]:
        """Find the nearest centroid of each row.

        Args:
            features: Raw features, of the same encoder as those fitted.

        Returns:
            Cluster numbers, 0 to k - 1.

        Raises:
            ConfigError: If the features have another length than those fitted.
            EncoderOutputError: If they hold NaN or infinity.
        """
        return self.assign_with_distance(features)[0]

    def assign_with_distance(
        self, features: Float[np.ndarray, "n m"], *, slide_id: str = "(given)"
    ) -> tuple[Int64[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
        """Find the nearest centroid of each row, and the Euclidean distance to it in standardised units."""
        clusters, distances = np.empty(len(features), np.int64), np.empty(len(features), np.float32)
        with _one_blas_thread():
            for start in range(0, len(features), _CHUNK_ROWS):
                part = slice(start, start + _CHUNK_ROWS)
                x = self.standardise(finite_rows(features[part], slide_id, first=start))
                clusters[part] = _nearest(x, self.centroids)
                distances[part] = np.linalg.norm(x - self.centroids[clusters[part]], axis=1)
        if not len(features):
            self.standardise(features)  # a wrong length is wrong without rows too
        return clusters, distances

    def save(self, path: Path) -> None:
        """Write an ``.npz`` file whole.

        Raises:
            OutputWriteError: If it cannot be written.
        """
        with written_whole(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                format=np.array(_FORMAT),
                centroids=self.centroids,
                mean=self.mean,
                scale=self.scale,
                counts=self.counts,
                inertia=np.array(self.inertia),
                recipe=np.array(self.recipe_text),
            )


def load_clusters(path: Path) -> Clusters:
    """Read clusters that :meth:`Clusters.save` wrote.

    Raises:
        CorruptOutputError: If the file is absent, damaged or something else.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            form = str(file["format"])
            loaded = Clusters(
                file["centroids"],
                file["mean"],
                file["scale"],
                file["counts"],
                float(file["inertia"]),
                str(file["recipe"]),
            )
    except _DAMAGE as error:
        raise CorruptOutputError(
            f"'{path}' cannot be read as cluster centroids ({type(error).__name__}: {error}). Delete it and "
            "cluster again."
        ) from error
    if form != _FORMAT:
        raise CorruptOutputError(f"'{path}' has format {form!r}, this version reads {_FORMAT!r}. Cluster again.")
    return loaded


def cluster_recipe(
    store: FeatureSource,
    *,
    n_clusters: int = 8,
    seed: int = 0,
    slide_ids: Sequence[str] | None = None,
    max_rows_per_slide: int | None = None,
    n_init: int = 4,
    batch_size: int = 4096,
) -> dict[str, object]:
    """What decides the clusters: the features' recipes and the settings of :func:`cluster_features`.

    Compare ``storage.recipe_text`` of it with ``load_clusters(path).recipe_text`` to know whether a file
    still holds.
    """
    wanted = sorted_slides(store, slide_ids)
    return {
        "features": features_digest(store, wanted),
        "n_slides": len(wanted),
        "method": "standardise, k-means++ and Lloyd on a sample, one mini-batch pass",
        "n_clusters": n_clusters,
        "seed": seed,
        "max_rows_per_slide": max_rows_per_slide,
        "n_init": n_init,
        "batch_size": batch_size,
    }


def cluster_features(
    store: FeatureSource,
    *,
    n_clusters: int = 8,
    seed: int = 0,
    slide_ids: Sequence[str] | None = None,
    max_rows_per_slide: int | None = None,
    n_init: int = 4,
    batch_size: int = 4096,
) -> Clusters:
    """Group the tiles of all slides by mini-batch k-means on standardised features.

    Features are standardised by their mean and standard deviation over the rows used. k-means++ and Lloyd's
    iterations run on a seeded sample of rows (at least 8192, and 128 per cluster), ``n_init`` times, and the
    start of least inertia is kept. Where there are more rows than the sample, one mini-batch pass over all of
    them follows, in batches mixed from all slides. Memory holds the sample and one batch, however many rows
    there are.

    Args:
        store: Features by slide.
        n_clusters: Number of clusters, at least 1.
        seed: Decides the sample, the starts, the rows drawn and the order of batches.
        slide_ids: Use these slides; None for all in the store.
        max_rows_per_slide: Use at most this many rows of each slide, drawn by the seed, so that large slides
            do not outweigh the others; None for all.
        n_init: Number of starts.
        batch_size: Rows per mini-batch.

    Returns:
        The clusters, numbered by falling number of rows.

    Raises:
        ConfigError: If a setting is out of range, there are fewer (distinct) rows than clusters, or there is
            no slide.
        EncoderOutputError: If a feature is NaN or infinite, or slides have features of different length.

    References:
        D. Sculley, *Web-scale k-means clustering*, WWW 2010; D. Arthur and S. Vassilvitskii, *k-means++: the
        advantages of careful seeding*, SODA 2007. Both as scikit-learn implements them. Deviation: batches
        are made of runs of 256 rows drawn without replacement, so that each row is read once.
    """
    for name, value in (("n_clusters", n_clusters), ("n_init", n_init), ("batch_size", batch_size)):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1. Got {value}.")
    recipe = cluster_recipe(
        store,
        n_clusters=n_clusters,
        seed=seed,
        slide_ids=slide_ids,
        max_rows_per_slide=max_rows_per_slide,
        n_init=n_init,
        batch_size=batch_size,
    )
    rows = FeatureRows.select(store, slide_ids=slide_ids, max_rows_per_slide=max_rows_per_slide, seed=seed)
    if n_clusters > len(rows):
        raise ConfigError(
            f"There are {len(rows)} tiles, too few for {n_clusters} clusters. Ask for at most {len(rows)} "
            "clusters, or add slides."
        )
    mean, scale = measure_features(rows)
    rng = np.random.default_rng([seed, 1])
    with _one_blas_thread():
        sample = (_draw_sample(rows, n_clusters, rng) - mean) / scale
        centroids = _fit_sample(sample, n_clusters, seed=seed, n_init=n_init)
        if len(rows) > len(sample):
            batches = ((x - mean) / scale for x in rows.shuffled(rng, batch_size))
            centroids = _refine(centroids, batches, seed=seed)
        counts, inertia = _count(((x - mean) / scale for x in rows.chunks()), centroids)
    # equal sizes: by position, so that the numbering never depends on the start
    order = np.lexsort((*centroids.T[::-1], -counts))
    return Clusters(centroids[order], mean, scale, counts[order], inertia, recipe_text(recipe))


def measure_features(rows: FeatureRows) -> tuple[Float32[np.ndarray, " d"], Float32[np.ndarray, " d"]]:
    """Mean and standard deviation of each feature, in one pass; 1 for the deviation of a constant feature.

    References:
        T. F. Chan, G. H. Golub, R. J. LeVeque, *Updating formulae and a pairwise algorithm for computing
        sample variances*, 1979.
    """
    n, mean, squares = 0, np.zeros(rows.n_features), np.zeros(rows.n_features)
    for x in rows.chunks():
        part_mean = x.mean(axis=0, dtype=np.float64)
        delta = part_mean - mean
        total = n + len(x)
        squares += ((x - part_mean) ** 2).sum(axis=0) + delta**2 * (n * len(x) / total)
        mean += delta * (len(x) / total)
        n = total
    scale = np.sqrt(squares / n)
    scale[scale <= _CONSTANT * np.abs(mean)] = 1.0
    scale[scale < np.finfo(np.float32).tiny] = 1.0
    return mean.astype(np.float32), scale.astype(np.float32)


def _one_blas_thread() -> Any:  # noqa: ANN401 - threadpoolctl's context manager has no public type
    """Sums in one order, so that rounding does not depend on the number of threads."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(limits=1)


def _draw_sample(rows: FeatureRows, n_clusters: int, rng: np.random.Generator) -> Float32[np.ndarray, "n d"]:
    size = min(len(rows), max(_SAMPLE_ROWS, _SAMPLE_PER_CLUSTER * n_clusters))
    if size == len(rows):
        return rows.read(0, size)
    return rows.take(np.sort(rng.choice(len(rows), size, replace=False)).astype(np.int64))


def _fit_sample(
    sample: Float32[np.ndarray, "n d"], n_clusters: int, *, seed: int, n_init: int
) -> Float32[np.ndarray, "k d"]:
    """The best of several k-means on the sample."""
    from sklearn.cluster import KMeans

    n_distinct = len(np.unique(sample, axis=0)) if n_clusters > 1 else 1
    if n_distinct < n_clusters:
        raise ConfigError(
            f"The tiles have only {n_distinct} distinct feature vectors, too few for {n_clusters} clusters. "
            "Ask for fewer."
        )
    found = KMeans(n_clusters, init="k-means++", n_init=n_init, max_iter=100, random_state=seed).fit(sample)
    centroids: Float32[np.ndarray, "k d"] = found.cluster_centers_.astype(np.float32)
    return centroids


def _refine(
    centroids: Float32[np.ndarray, "k d"], batches: Iterable[np.ndarray], *, seed: int
) -> Float32[np.ndarray, "k d"]:
    """One mini-batch pass."""
    from sklearn.cluster import MiniBatchKMeans

    # No cluster is given up for a random row: each won rows of the sample, and a small one may be a rare
    # tissue.
    model = MiniBatchKMeans(
        len(centroids),
        init=centroids,
        n_init=1,
        reassignment_ratio=0.0,
        random_state=seed,
        compute_labels=False,
    )
    for batch in batches:
        model.partial_fit(batch)
    refined: Float32[np.ndarray, "k d"] = model.cluster_centers_.astype(np.float32)
    return refined


def _count(
    chunks: Iterable[np.ndarray], centroids: Float32[np.ndarray, "k d"]
) -> tuple[Int64[np.ndarray, " k"], float]:
    """Rows of each cluster, and the inertia."""
    counts, inertia = np.zeros(len(centroids), np.int64), 0.0
    for x in chunks:
        nearest = _nearest(x, centroids)
        counts += np.bincount(nearest, minlength=len(centroids))
        inertia += float(((x - centroids[nearest]) ** 2).sum(dtype=np.float64))
    return counts, inertia


def _nearest(x: Float32[np.ndarray, "n d"], centroids: Float32[np.ndarray, "k d"]) -> Int64[np.ndarray, " n"]:
    """Index of the nearest centroid; of equally near ones the first."""
    # |x - c|² = |x|² - 2 x·c + |c|²; |x|² is the same for all centroids
    score = (centroids**2).sum(axis=1) - 2.0 * (x @ centroids.T)
    nearest: Int64[np.ndarray, " n"] = score.argmin(axis=1).astype(np.int64)
    return nearest


def _assigned(path: Path, recipe: str) -> Int64[np.ndarray, " n"] | None:
    """The clusters in a table that is there, if it was made so and can be read."""
    if read_table_recipe(path) != recipe:
        return None
    try:
        found: Int64[np.ndarray, " n"] = read_assignment(path)["cluster"].to_numpy().astype(np.int64)
    except CorruptOutputError:  # damaged since; it is quickly made again
        return None
    return found


def assign_clusters(
    store: FeatureSource, clusters: Clusters, folder: Path, *, slide_ids: Sequence[str] | None = None
) -> list[ClusterSummary]:
    """Assign every tile of every slide and write the cluster folder: tables, summary and centroids.

    ``<slide_id>.parquet`` has one row per row of the features, in their order: x, y, w, h (level-0 px),
    cluster, distance (to the centroid, standardised units). A table that is there from the same features and
    clusters is kept.

    Args:
        store: Features by slide.
        clusters: What to assign to.
        folder: Where to write.
        slide_ids: These slides; None for all in the store.

    Returns:
        One row per cluster, as written to ``summary.csv``.

    Raises:
        ConfigError: If a slide has no features, or features of another length.
        EncoderOutputError: If a feature is NaN or infinite.
        OutputWriteError: If a file cannot be written.
    """
    n_tiles = np.zeros(len(clusters), np.int64)
    n_slides = np.zeros(len(clusters), np.int64)
    for slide_id in sorted_slides(store, slide_ids):
        path = folder / f"{safe_name(slide_id)}.parquet"
        recipe = recipe_text({"clusters": clusters.digest, "features": features_digest(store, [slide_id])})
        found = _assigned(path, recipe)
        if found is None:
            bag = store[slide_id]
            found, distances = clusters.assign_with_distance(bag.features, slide_id=slide_id)
            write_assignment(path, bag.boxes, found, distances, recipe=recipe)
        here = np.bincount(found, minlength=len(clusters))
        n_tiles += here
        n_slides += here > 0
    total = max(int(n_tiles.sum()), 1)
    summary = [
        ClusterSummary(k, int(n), round(int(n) / total, 6), int(s))
        for k, (n, s) in enumerate(zip(n_tiles, n_slides, strict=True))
    ]
    write_summary(folder / SUMMARY_FILE, summary)
    clusters.save(folder / CENTROIDS_FILE)
    return summary
