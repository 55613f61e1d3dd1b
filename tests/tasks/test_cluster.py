import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, pairwise_distances_argmin_min
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from microtome.errors import ConfigError, CorruptOutputError, EncoderOutputError
from microtome.features.store import FeatureStore
from microtome.storage import recipe_text
from microtome.tasks import cluster as cluster_module
from microtome.tasks.cluster import (
    CENTROIDS_FILE,
    SUMMARY_FILE,
    Clusters,
    assign_clusters,
    cluster_features,
    cluster_recipe,
    load_clusters,
    measure_features,
    read_assignment,
    read_summary,
    typical_tiles,
)
from microtome.tasks.feature_rows import FeatureRows
from tests.tasks.feature_fakes import FakeStore, blobs, boxes_of, split, store_of


def same(a: Clusters, b: Clusters) -> bool:
    arrays = ("centroids", "mean", "scale", "counts")
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in arrays) and a.inertia == b.inertia


def test_finds_blobs_and_numbers_them_by_size() -> None:
    x, labels = blobs()
    clusters = cluster_features(store_of(split(x, 3)), n_clusters=4)
    found = clusters.assign(x)
    assert adjusted_rand_score(labels, found) == 1.0
    np.testing.assert_array_equal(clusters.counts, np.sort(np.bincount(labels))[::-1])
    np.testing.assert_array_equal(np.bincount(found), clusters.counts)


def test_centroids_are_the_means_of_their_members_and_inertia_is_scikit_learns() -> None:
    x, _ = blobs(seed=1)
    clusters = cluster_features(store_of(split(x, 2)), n_clusters=4)
    scaled = StandardScaler().fit_transform(x.astype(np.float64))
    found = clusters.assign(x)
    means = np.stack([scaled[found == k].mean(axis=0) for k in range(4)])
    np.testing.assert_allclose(clusters.centroids, means, atol=1e-4)
    reference = KMeans(4, n_init=10, random_state=0).fit(scaled)
    assert clusters.inertia == pytest.approx(reference.inertia_, rel=1e-3)


def test_assignment_is_scikit_learns_nearest_centroid() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(3.0, 5.0, (500, 8)).astype(np.float32)
    clusters = cluster_features(store_of(split(x, 2)), n_clusters=7)
    nearest, distance = pairwise_distances_argmin_min(clusters.standardise(x), clusters.centroids)
    found, away = clusters.assign_with_distance(x)
    np.testing.assert_array_equal(found, nearest)
    np.testing.assert_allclose(away, distance, rtol=1e-3)


def test_more_rows_than_the_sample_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "_SAMPLE_ROWS", 256)
    monkeypatch.setattr(cluster_module, "_SAMPLE_PER_CLUSTER", 16)
    rng = np.random.default_rng(2)
    x = rng.standard_normal((6000, 10)).astype(np.float32) + 1.5 * rng.choice(3, (6000, 1))
    store = store_of(split(x[np.argsort(x[:, 0])], 4))  # slides differ, as they do
    clusters = cluster_features(store, n_clusters=6, batch_size=1024)
    assert clusters.counts.sum() == 6000
    scaled = StandardScaler().fit_transform(x.astype(np.float64))
    full = KMeans(6, n_init=4, random_state=0).fit(scaled).inertia_
    assert clusters.inertia < 1.03 * full
    # the pass over all rows improves on the sample's own centroids
    monkeypatch.setattr(cluster_module, "_refine", lambda centroids, batches, seed: centroids)
    assert clusters.inertia < cluster_features(store, n_clusters=6, batch_size=1024).inertia


@pytest.mark.parametrize("streamed", [False, True])
def test_result_depends_on_the_seed_and_not_on_order_or_threads(
    streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if streamed:
        monkeypatch.setattr(cluster_module, "_SAMPLE_ROWS", 300)
        monkeypatch.setattr(cluster_module, "_SAMPLE_PER_CLUSTER", 16)
    x = np.random.default_rng(4).standard_normal((3000, 5)).astype(np.float32)
    parts = split(x, 5)
    first = cluster_features(store_of(parts), n_clusters=5, seed=1)
    backwards = store_of(dict(reversed(parts.items())))
    assert same(first, cluster_features(backwards, n_clusters=5, seed=1))
    assert first.digest == cluster_features(backwards, n_clusters=5, seed=1).digest
    with threadpool_limits(limits=1):
        assert same(first, cluster_features(store_of(parts), n_clusters=5, seed=1))
    with threadpool_limits(limits=(os.cpu_count() or 1) + 1):
        assert same(first, cluster_features(store_of(parts), n_clusters=5, seed=1))
    assert not same(first, cluster_features(store_of(parts), n_clusters=5, seed=2))


def test_standardisation_is_scikit_learns_across_chunks() -> None:
    rng = np.random.default_rng(0)
    x = np.hstack([1e4 + rng.standard_normal((20000, 2)), 1e-3 * rng.standard_normal((20000, 2))]).astype(np.float32)
    mean, scale = measure_features(FeatureRows.select(store_of(split(x, 3))))
    reference = StandardScaler().fit(x.astype(np.float64))
    np.testing.assert_allclose(mean, reference.mean_, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(scale, reference.scale_, rtol=1e-5)


def test_constant_features_have_no_weight() -> None:
    x, labels = blobs()
    wide = np.hstack([x, np.full((len(x), 1), 0.1), np.full((len(x), 1), 1e6), np.zeros((len(x), 1))])
    clusters = cluster_features(store_of(split(wide, 2)), n_clusters=4)
    np.testing.assert_array_equal(clusters.scale[-3:], 1.0)
    np.testing.assert_allclose(clusters.centroids[:, -3:], 0.0, atol=1e-6)
    assert adjusted_rand_score(labels, clusters.assign(wide.astype(np.float32))) == 1.0


def test_half_precision_features_give_the_same_groups() -> None:
    x, labels = blobs()
    clusters = cluster_features(store_of(split(x, 2), np.float16), n_clusters=4)
    assert adjusted_rand_score(labels, clusters.assign(x.astype(np.float16))) == 1.0


def test_one_cluster_is_the_mean() -> None:
    x, _ = blobs()
    clusters = cluster_features(store_of(split(x, 2)), n_clusters=1)
    np.testing.assert_allclose(clusters.centroids, 0, atol=1e-5)
    assert clusters.counts.tolist() == [len(x)]


def test_large_slides_are_capped() -> None:
    x, _ = blobs(600)
    store = store_of({"large": x[:550], "small": x[550:]})
    clusters = cluster_features(store, n_clusters=3, max_rows_per_slide=60)
    assert clusters.counts.sum() == 60 + 50


def test_slides_can_be_chosen() -> None:
    x, _ = blobs(600)
    store = store_of(split(x, 3))
    chosen = cluster_features(store, n_clusters=3, slide_ids=["s2", "s0"])
    alone = cluster_features(FakeStore({k: store[k] for k in ("s0", "s2")}), n_clusters=3)
    assert same(chosen, alone)


def test_too_few_tiles_are_refused_with_the_numbers() -> None:
    with pytest.raises(ConfigError, match="There are 5 tiles, too few for 6 clusters"):
        cluster_features(store_of({"a": np.eye(5)}), n_clusters=6)


def test_as_many_clusters_as_tiles() -> None:
    clusters = cluster_features(store_of({"a": np.eye(5)}), n_clusters=5)
    assert sorted(clusters.assign(np.eye(5, dtype=np.float32)).tolist()) == [0, 1, 2, 3, 4]


def test_too_few_distinct_tiles_are_refused() -> None:
    with pytest.raises(ConfigError, match="only 2 distinct"):
        cluster_features(store_of({"a": np.repeat(np.eye(2), 10, axis=0)}), n_clusters=3)


@pytest.mark.parametrize("setting", ["n_clusters", "n_init", "batch_size", "max_rows_per_slide"])
def test_settings_below_one_are_refused(setting: str) -> None:
    zero: Any = {setting: 0}
    with pytest.raises(ConfigError, match=setting):
        cluster_features(store_of({"a": np.eye(5)}), **zero)


def test_nan_is_refused_in_fitting_and_assigning() -> None:
    x, _ = blobs(100)
    clusters = cluster_features(store_of({"a": x}), n_clusters=2)
    bad = x.copy()
    bad[3, 0] = np.nan
    with pytest.raises(EncoderOutputError, match="'a'"):
        cluster_features(store_of({"a": bad}), n_clusters=2)
    with pytest.raises(EncoderOutputError, match="row 3"):
        clusters.assign(bad)


@pytest.mark.parametrize("n", [0, 4])
def test_features_of_another_length_are_refused(n: int) -> None:
    x, _ = blobs(100)
    clusters = cluster_features(store_of({"a": x}), n_clusters=2)
    with pytest.raises(ConfigError, match="5 values per tile, the clusters were made from 6"):
        clusters.assign(np.zeros((n, 5), np.float32))


def test_saved_clusters_come_back(tmp_path: Path) -> None:
    x, _ = blobs()
    clusters = cluster_features(store_of(split(x, 2)), n_clusters=4)
    clusters.save(tmp_path / "deep" / CENTROIDS_FILE)
    loaded = load_clusters(tmp_path / "deep" / CENTROIDS_FILE)
    assert same(clusters, loaded)
    assert loaded.digest == clusters.digest
    assert loaded.recipe_text == clusters.recipe_text
    assert [p.name for p in (tmp_path / "deep").iterdir()] == [CENTROIDS_FILE]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"text", None])
def test_damaged_centroids_are_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / CENTROIDS_FILE
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CorruptOutputError, match="cluster again"):
        load_clusters(path)


def test_arrays_of_something_else_are_no_centroids(tmp_path: Path) -> None:
    path = tmp_path / CENTROIDS_FILE
    np.savez(path, centroids=np.zeros((2, 2)))
    with pytest.raises(CorruptOutputError):
        load_clusters(path)
    np.savez(path, format=np.array({"a": 1}, dtype=object))
    with pytest.raises(CorruptOutputError, match="allow_pickle"):
        load_clusters(path)


def test_every_setting_and_recipe_changes_what_decides_the_clusters() -> None:
    x, _ = blobs(60)
    store = store_of(split(x, 3))
    base = cluster_recipe(store)
    others: list[Any] = [{name: 3} for name in ("n_clusters", "seed", "max_rows_per_slide", "n_init", "batch_size")]
    variants = [cluster_recipe(store, **other) for other in [*others, {"slide_ids": ["s0", "s1"]}]]
    texts = {recipe_text(r) for r in [base, *variants]}
    assert len(texts) == 1 + len(variants)
    settings: Any = {"n_clusters": 3, "seed": 5, "n_init": 2}
    assert cluster_features(store, **settings).recipe_text == recipe_text(cluster_recipe(store, **settings))


def test_real_store_gives_tables_summary_and_centroids(tmp_path: Path) -> None:
    x, _ = blobs(300)
    store = FeatureStore(tmp_path / "features")
    for name, part in split(x, 3).items():
        store.write(name, part, boxes_of(len(part)), recipe={"slide": name})
    store.write("blank", np.zeros((0, x.shape[1]), np.float32), boxes_of(0), recipe={"slide": "blank"})
    clusters = cluster_features(store, n_clusters=4)
    folder = tmp_path / "clusters"
    summary = assign_clusters(store, clusters, folder)

    tables = {name: read_assignment(folder / f"{name}.parquet") for name in store}
    found = np.concatenate([tables[f"s{i}"]["cluster"] for i in range(3)])
    np.testing.assert_array_equal(found, clusters.assign(x))
    np.testing.assert_array_equal(tables["s1"][["x", "y", "w", "h"]], store["s1"].boxes)
    assert len(tables["blank"]) == 0
    assert summary == read_summary(folder / SUMMARY_FILE)
    assert [s.n_tiles for s in summary] == clusters.counts.tolist()
    assert sum(s.share for s in summary) == pytest.approx(1.0)
    assert [s.n_slides for s in summary] == [
        sum(bool((tables[name]["cluster"] == k).any()) for name in store) for k in range(4)
    ]
    assert same(load_clusters(folder / CENTROIDS_FILE), clusters)
    assert {p.name for p in folder.iterdir()} == {
        CENTROIDS_FILE, SUMMARY_FILE, "blank.parquet", "s0.parquet", "s1.parquet", "s2.parquet",
    }  # fmt: skip


def test_tables_are_redone_only_where_features_or_clusters_changed(tmp_path: Path) -> None:
    x, _ = blobs(200)
    store = store_of(split(x, 2))
    clusters = cluster_features(store, n_clusters=3)
    assign_clusters(store, clusters, tmp_path)
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.parquet")}
    assign_clusters(store, clusters, tmp_path)
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.parquet")} == before
    assign_clusters(store, cluster_features(store, n_clusters=2), tmp_path)
    assert read_assignment(tmp_path / "s0.parquet")["cluster"].max() == 1


def test_a_torn_table_is_redone(tmp_path: Path) -> None:
    x, _ = blobs(100)
    store = store_of({"a": x})
    clusters = cluster_features(store, n_clusters=3)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 torn")
    assign_clusters(store, clusters, tmp_path)
    np.testing.assert_array_equal(read_assignment(tmp_path / "a.parquet")["cluster"], clusters.assign(x))


def test_reading_what_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptOutputError, match="cannot be read"):
        read_assignment(tmp_path / "absent.parquet")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    with pytest.raises(CorruptOutputError, match="cannot be read"):
        read_assignment(tmp_path / "torn.parquet")
    (tmp_path / "summary.csv").write_text("a,b\n1,2\n")
    with pytest.raises(CorruptOutputError, match="is not a cluster summary"):
        read_summary(tmp_path / "summary.csv")


def written(tmp_path: Path, parts: dict[str, np.ndarray], n_clusters: int) -> tuple[Clusters, list[str]]:
    store = store_of(parts)
    clusters = cluster_features(store, n_clusters=n_clusters)
    assign_clusters(store, clusters, tmp_path)
    return clusters, list(parts)


def test_typical_tiles_are_the_nearest_of_each_slide(tmp_path: Path) -> None:
    x, _ = blobs(400)
    parts = split(x, 4)
    _, slides = written(tmp_path, parts, 3)
    tiles = typical_tiles(tmp_path, slides, n_per_cluster=6, max_per_slide=2)
    for k in range(3):
        assert len(tiles[k]) == 6
        distances = [t.distance for t in tiles[k]]
        assert distances == sorted(distances)
        for name in slides:
            table = read_assignment(tmp_path / f"{name}.parquet")
            own = table[table["cluster"] == k].sort_values("distance")
            here = [t for t in tiles[k] if t.slide_id == name]
            assert len(here) <= 2
            assert [t.row for t in here] == own.index[: len(here)].tolist()
            assert all(t.box == tuple(table.loc[t.row, ["x", "y", "w", "h"]].astype(int)) for t in here)


def test_places_left_empty_by_few_slides_are_filled(tmp_path: Path) -> None:
    x, _ = blobs(100)
    _, slides = written(tmp_path, {"only": x}, 2)
    tiles = typical_tiles(tmp_path, slides, n_per_cluster=8, max_per_slide=2)
    table = read_assignment(tmp_path / "only.parquet")
    for k in (0, 1):
        own = table[table["cluster"] == k].sort_values("distance")
        assert [t.row for t in tiles[k]] == own.index[:8].tolist()


def test_typical_tiles_do_not_depend_on_the_order_of_slides(tmp_path: Path) -> None:
    x, _ = blobs(300)
    _, slides = written(tmp_path, split(x, 5), 3)
    assert typical_tiles(tmp_path, slides) == typical_tiles(tmp_path, slides[::-1])
    with pytest.raises(ConfigError, match="at least 1"):
        typical_tiles(tmp_path, slides, n_per_cluster=0)
