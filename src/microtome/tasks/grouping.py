"""Clusters of all slides' tiles, the UMAP picture, and montages of typical tiles: what the report shows of features."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from microtome.config import RunConfig
from microtome.errors import ConfigError, CorruptOutputError, MicrotomeError, OutputError
from microtome.features.store import FeatureStore
from microtome.storage import recipe_text, remove_leftovers_in
from microtome.tasks.cluster import (
    CENTROIDS_FILE,
    Clusters,
    assign_clusters,
    cluster_features,
    cluster_recipe,
    load_clusters,
)
from microtome.tasks.cluster_tables import TypicalTile, typical_tiles
from microtome.tasks.extraction import open_source
from microtome.tasks.umap import (
    MIN_POINTS,
    UMAP_FILE,
    read_umap_recipe,
    umap_features,
    umap_recipe,
    write_umap,
)
from microtome.tasks.work import Work, held

TILES_PER_MONTAGE = 12


def group_slides(work: Work, config: RunConfig, store: FeatureStore) -> None:
    """Cluster the tiles of all slides still in the job, and draw what the report needs.

    A cohort with fewer tiles than clusters gets a note in the record and no clusters: that is not a slide's fault.
    """
    sizes = _bag_sizes(work, store)
    slide_ids, n_tiles = list(sizes), sum(sizes.values())
    if n_tiles < config.n_clusters:
        work.record.notes.append(
            f"No clusters: {n_tiles} tile(s) on {len(slide_ids)} slide(s), fewer than the {config.n_clusters} clusters "
            "asked for. Pass a smaller --n-clusters, or add slides."
        )
        return
    try:
        with held(work.folder.clusters / CENTROIDS_FILE):  # it stands for the whole folder
            remove_leftovers_in(work.folder.clusters)
            _group(work, config, store, slide_ids)
    except ConfigError as error:  # too few tiles differ: the slides are fine, there is nothing to group
        work.record.notes.append(f"No clusters: {error}")


def _bag_sizes(work: Work, store: FeatureStore) -> dict[str, int]:
    """Number of tiles of each slide that has any; one whose features were damaged meanwhile leaves the job."""
    sizes = {}
    for entry in work.alive:
        try:
            sizes[entry.slide_id] = len(store[entry.slide_id])
        except OutputError as error:
            work.fail(entry.slide_id, "clusters", error)
    return {slide_id: n for slide_id, n in sizes.items() if n > 0}


def _group(work: Work, config: RunConfig, store: FeatureStore, slide_ids: Sequence[str]) -> None:
    with work.stage("clusters", len(slide_ids)):
        clusters = find_clusters(work.folder.clusters / CENTROIDS_FILE, config, store, slide_ids)
        assign_clusters(store, clusters, work.folder.clusters, slide_ids=slide_ids)
        work.progress.advance(n_slides=len(slide_ids))
    with work.stage("montages", len(clusters)):
        draw_montages(work, slide_ids)
    if config.umap_points >= MIN_POINTS:
        with work.stage("umap", 0):
            lay_out(work.folder.clusters / UMAP_FILE, config, store, clusters, slide_ids)


def find_clusters(path: Path, config: RunConfig, store: FeatureStore, slide_ids: Sequence[str]) -> Clusters:
    """The clusters at ``path`` if they were made from these features and settings, else new ones."""
    wanted = cluster_recipe(store, n_clusters=config.n_clusters, seed=config.seed, slide_ids=slide_ids)
    if path.exists():
        try:
            there = load_clusters(path)
        except CorruptOutputError:
            there = None  # made anew below
        if there is not None and there.recipe_text == recipe_text(wanted):
            return there
    return cluster_features(store, n_clusters=config.n_clusters, seed=config.seed, slide_ids=slide_ids)


def lay_out(path: Path, config: RunConfig, store: FeatureStore, clusters: Clusters, slide_ids: Sequence[str]) -> None:
    """Write the UMAP table, unless the one there is of the same features, clusters and settings."""
    wanted = umap_recipe(store, clusters, n_points=config.umap_points, seed=config.seed, slide_ids=slide_ids)
    if read_umap_recipe(path) == recipe_text(wanted):
        return
    points = umap_features(store, clusters, n_points=config.umap_points, seed=config.seed, slide_ids=slide_ids)
    write_umap(path, points)


def draw_montages(work: Work, slide_ids: Sequence[str]) -> None:
    """Write ``clusters/montage_<k>.jpg``, the tiles nearest to each centroid, read again from the slides."""
    from microtome.viz.montage import draw_strip
    from microtome.viz.overlay import write_jpeg

    chosen = typical_tiles(work.folder.clusters, slide_ids, n_per_cluster=TILES_PER_MONTAGE)
    images = read_typical(work, [tile for tiles in chosen.values() for tile in tiles])
    for cluster, tiles in chosen.items():
        shown = [images[tile.slide_id, tile.box] for tile in tiles if (tile.slide_id, tile.box) in images]
        strip = draw_strip(shown, n_places=TILES_PER_MONTAGE, tile_px=112)
        write_jpeg(work.folder.clusters / f"montage_{cluster}.jpg", strip)
        work.progress.advance(n_slides=1)


def read_typical(work: Work, tiles: Sequence[TypicalTile]) -> dict[tuple[str, tuple[int, int, int, int]], np.ndarray]:
    """Read tiles for pictures, slide by slide; a slide that can no longer be read has none and a note says so."""
    by_slide: dict[str, list[TypicalTile]] = {}
    for tile in tiles:
        by_slide.setdefault(tile.slide_id, []).append(tile)
    entries = {entry.slide_id: entry for entry in work.entries}
    images = {}
    for slide_id, wanted in by_slide.items():
        try:
            with open_source(work, entries[slide_id]) as source:
                rows = {tuple(box): row for row, box in enumerate(source.boxes.tolist())}
                found = source.read(np.array([rows[tile.box] for tile in wanted], np.int64))
        except (MicrotomeError, OSError) as error:
            work.record.notes.append(f"Montages lack slide {slide_id}: {error}")
            continue
        for tile, image, readable in zip(wanted, found.images, found.readable, strict=True):
            if readable:
                images[slide_id, tile.box] = image
    return images
