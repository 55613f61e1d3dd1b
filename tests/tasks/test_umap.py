import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.manifold import trustworthiness
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from microtome.errors import ConfigError, CorruptOutputError, EncoderOutputError
from microtome.storage import recipe_text
from microtome.tasks.cluster import Clusters, cluster_features
from microtome.tasks.umap import (
    UMAP_FILE,
    UmapPoints,
    _neighbours,
    read_umap,
    read_umap_recipe,
    umap_features,
    umap_recipe,
    write_umap,
)
from tests.tasks.feature_fakes import FakeStore, blobs, split, store_of


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return blobs(240, n_features=60)[1]


@pytest.fixture(scope="module")
def store() -> FakeStore:
    return store_of(split(blobs(240, n_features=60)[0], 4))


@pytest.fixture(scope="module")
def clusters(store: FakeStore) -> Clusters:
    return cluster_features(store, n_clusters=4)


@pytest.fixture(scope="module")
def points(store: FakeStore, clusters: Clusters) -> UmapPoints:
    return umap_features(store, clusters)


def test_all_tiles_are_laid_out_where_they_are_few(store: FakeStore, clusters: Clusters, points: UmapPoints) -> None:
    assert len(points) == 240
    assert points.slide_ids == tuple(name for name in sorted(store) for _ in range(60))
    np.testing.assert_array_equal(points.rows, np.tile(np.arange(60), 4))
    x = np.concatenate([store[name].features for name in sorted(store)])
    np.testing.assert_array_equal(points.clusters, clusters.assign(x))


def test_groups_stay_together_and_apart(store: FakeStore, points: UmapPoints, labels: np.ndarray) -> None:
    nearest = NearestNeighbors(n_neighbors=6).fit(points.xy).kneighbors(return_distance=False)
    assert (labels[nearest] == labels[:, None]).mean() > 0.98
    x = np.concatenate([store[name].features for name in sorted(store)])
    assert trustworthiness(x, points.xy, n_neighbors=10) > 0.85


def test_a_seed_gives_the_same_picture_whatever_the_order_and_threads(
    store: FakeStore, clusters: Clusters, points: UmapPoints
) -> None:
    backwards = FakeStore(reversed(store.items()))
    with threadpool_limits(limits=(os.cpu_count() or 1) + 1):
        again = umap_features(backwards, clusters)
    np.testing.assert_array_equal(points.xy, again.xy)
    assert points.slide_ids == again.slide_ids
    assert points.recipe_text == again.recipe_text
    assert not np.array_equal(points.xy, umap_features(store, clusters, seed=1).xy)


def test_the_sample_is_even_over_slides(clusters: Clusters) -> None:
    x, _ = blobs(240, n_features=60)
    store = store_of({"large": x[:200], "small": x[200:210], "middle": x[210:]})
    points = umap_features(store, clusters, n_points=60)
    counts = {name: points.slide_ids.count(name) for name in store}
    assert counts == {"large": 25, "small": 10, "middle": 25}
    assert all(np.all(np.diff(points.rows[np.array(points.slide_ids) == name]) > 0) for name in store)


@pytest.mark.parametrize("n", [4, 5, 9])
def test_a_handful_of_tiles(n: int) -> None:
    store = store_of({"a": np.random.default_rng(n).standard_normal((n, 3))})
    points = umap_features(store, cluster_features(store, n_clusters=2))
    assert points.xy.shape == (n, 2)
    assert np.isfinite(points.xy).all()


def test_one_feature_is_enough() -> None:
    store = store_of({"a": np.arange(30.0)[:, None] ** 2})
    points = umap_features(store, cluster_features(store, n_clusters=2))
    assert np.isfinite(points.xy).all()


def test_repeated_tiles_are_laid_out() -> None:
    store = store_of({"a": np.repeat(np.eye(6), 20, axis=0)})
    points = umap_features(store, cluster_features(store, n_clusters=3))
    assert np.isfinite(points.xy).all()


def test_neighbours_are_exact() -> None:
    x = np.random.default_rng(0).standard_normal((80, 7)).astype(np.float32)
    indices, distances = _neighbours(x, 6)
    full = cdist(x, x)
    np.testing.assert_array_equal(indices, np.argsort(full, axis=1)[:, :6])
    np.testing.assert_allclose(distances, np.sort(full, axis=1)[:, :6], atol=1e-5)


def test_too_few_tiles_are_refused() -> None:
    store = store_of({"a": np.eye(3)})
    clusters = cluster_features(store, n_clusters=2)
    with pytest.raises(ConfigError, match="There are 3 tiles, too few"):
        umap_features(store, clusters)


@pytest.mark.parametrize("rows", [np.ones((20, 3)), np.repeat(np.eye(3), 9, axis=0)])
def test_tiles_that_do_not_differ_are_refused(rows: np.ndarray) -> None:
    store = store_of({"a": rows})
    clusters = cluster_features(store, n_clusters=1)
    with pytest.raises(ConfigError, match="fewer than 4 differ"):
        umap_features(store, clusters)


@pytest.mark.parametrize("setting", [{"n_points": 3}, {"n_neighbors": 1}, {"min_dist": 1.5}, {"seed": -1}])
def test_settings_out_of_range_are_refused(store: FakeStore, clusters: Clusters, setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        umap_features(store, clusters, **setting)


def test_nan_and_other_encoders_are_refused(clusters: Clusters) -> None:
    with pytest.raises(EncoderOutputError, match="NaN"):
        umap_features(store_of({"a": np.full((9, 60), np.nan)}), clusters)
    with pytest.raises(ConfigError, match="made from 60"):
        umap_features(store_of({"a": np.random.default_rng(0).random((9, 5))}), clusters)


def test_written_points_come_back(tmp_path: Path, store: FakeStore, clusters: Clusters, points: UmapPoints) -> None:
    write_umap(tmp_path / UMAP_FILE, points)
    table = read_umap(tmp_path / UMAP_FILE)
    assert list(table.columns) == ["slide_id", "row", "umap_x", "umap_y", "cluster"]
    np.testing.assert_array_equal(table[["umap_x", "umap_y"]], points.xy)
    assert tuple(table["slide_id"]) == points.slide_ids
    np.testing.assert_array_equal(table["cluster"], points.clusters)
    assert read_umap_recipe(tmp_path / UMAP_FILE) == recipe_text(umap_recipe(store, clusters))
    assert read_umap_recipe(tmp_path / "absent.parquet") == ""
    with pytest.raises(CorruptOutputError):
        read_umap(tmp_path / "absent.parquet")


def test_every_setting_changes_what_decides_the_picture(store: FakeStore, clusters: Clusters) -> None:
    settings: list[Any] = [
        {},
        {"n_points": 9},
        {"seed": 9},
        {"n_neighbors": 9},
        {"min_dist": 0.9},
        {"slide_ids": ["s0"]},
    ]
    texts = {recipe_text(umap_recipe(store, clusters, **s)) for s in settings}
    texts.add(recipe_text(umap_recipe(store, cluster_features(store, n_clusters=3))))
    assert len(texts) == 7
