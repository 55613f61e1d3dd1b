import numpy as np
import pandas as pd
import pytest
import shapely
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.cluster import contingency_matrix

from microtome.errors import ConfigError, EvaluationError
from microtome.evaluation.clusters import (
    adjusted_rand_score,
    cluster_purity,
    normalized_mutual_info_score,
    purity_score,
    region_labels,
)

pairs = st.lists(st.tuples(st.sampled_from(["tumour", "stroma", "fat"]), st.integers(0, 4)), min_size=1, max_size=40)


def test_purity_of_the_textbook_example() -> None:
    # Manning et al. 2008, figure 16.4: 17 points, purity 12/17
    clusters = [0] * 6 + [1] * 6 + [2] * 5
    labels = ["x"] * 5 + ["o"] + ["x"] + ["o"] * 4 + ["d"] + ["x"] * 2 + ["d"] * 3
    assert purity_score(labels, clusters) == pytest.approx(12 / 17)
    assert normalized_mutual_info_score(labels, clusters) == pytest.approx(0.36, abs=0.01)
    assert {k: p.label for k, p in cluster_purity(labels, clusters).items()} == {0: "x", 1: "o", 2: "d"}


@settings(deadline=None)  # the first call imports scikit-learn
@given(pairs)
def test_scores_are_scikit_learns(drawn: list[tuple[str, int]]) -> None:
    labels, clusters = zip(*drawn, strict=True)
    table = contingency_matrix(labels, clusters)
    assert purity_score(labels, clusters) == pytest.approx(table.max(axis=0).sum() / table.sum())
    assert adjusted_rand_score(labels, clusters) == pytest.approx(sklearn.metrics.adjusted_rand_score(labels, clusters))
    assert normalized_mutual_info_score(labels, clusters) == pytest.approx(
        sklearn.metrics.normalized_mutual_info_score(labels, clusters)
    )


@settings(deadline=None)
@given(pairs, st.randoms())
def test_scores_do_not_depend_on_order_or_names(drawn: list[tuple[str, int]], random: object) -> None:
    shuffled = list(drawn)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis' generator of random numbers
    labels, clusters = zip(*drawn, strict=True)
    others, renamed = zip(*((a, 10 - b) for a, b in shuffled), strict=True)
    for score in (purity_score, adjusted_rand_score, normalized_mutual_info_score):
        assert score(labels, clusters) == pytest.approx(score(others, renamed))


@settings(deadline=None)  # the first call imports scikit-learn
@given(pairs)
def test_purity_of_clusters_adds_up(drawn: list[tuple[str, int]]) -> None:
    labels, clusters = zip(*drawn, strict=True)
    parts = cluster_purity(labels, clusters)
    assert list(parts) == sorted(set(clusters))
    assert sum(p.n for p in parts.values()) == len(labels)
    assert sum(p.n * p.purity for p in parts.values()) / len(labels) == pytest.approx(purity_score(labels, clusters))
    for k, part in parts.items():
        own = [a for a, b in drawn if b == k]
        assert part.purity == pytest.approx(own.count(part.label) / len(own))


def test_a_tie_takes_the_first_label() -> None:
    assert cluster_purity(["b", "a"], [0, 0])[0].label == "a"


def test_columns_of_a_table_and_arrays_are_taken() -> None:
    table = pd.DataFrame({"label": ["a", "b", "b"], "cluster": [0, 1, 1]})
    assert purity_score(table["label"].to_numpy(), table["cluster"].to_numpy()) == 1.0
    assert purity_score(np.array([1.0, 2.0, 2.0]), np.array([0, 1, 1], np.int32)) == 1.0


@pytest.mark.parametrize("score", [purity_score, cluster_purity, adjusted_rand_score, normalized_mutual_info_score])
@pytest.mark.parametrize(
    ("labels", "clusters", "match"),
    [
        (["a", "b"], [0], "2 labels and 1 clusters"),
        ([], [], "no labels"),
        (["a", None], [0, 1], "1 of the labels are missing"),
        (["a", float("nan")], [0, 1], "1 of the labels are missing"),
        (["a", pd.NA], [0, 1], "1 of the labels are missing"),
        (["a", "b"], np.array([0, np.nan]), "1 of the clusters are missing"),
        (["a", 1], [0, 1], "mix text and numbers"),
        (np.array([0.1, 0.2]), [0, 1], "measurements"),
        (np.array([["a"], ["b"]]), [0, 1], "shape"),
    ],
)
def test_what_cannot_be_compared_is_refused(score, labels, clusters, match) -> None:
    with pytest.raises(EvaluationError, match=match):
        score(labels, clusters)


def box(x: float, y: float, w: float, h: float) -> shapely.Polygon:
    return shapely.box(x, y, x + w, y + h)


GRID = np.array([[x, y, 10, 10] for y in range(0, 40, 10) for x in range(0, 40, 10)])


def test_tiles_take_the_region_that_covers_most_of_them() -> None:
    tiles = np.array([[0, 0, 10, 10]] * 1)
    assert region_labels(tiles, {"a": box(0, 0, 10, 6), "b": box(0, 0, 10, 7)}).tolist() == ["b"]
    assert region_labels(tiles, {"a": box(0, 0, 10, 5)}).tolist() == ["a"]
    assert region_labels(tiles, {"a": box(0, 0, 10, 4.9)}).tolist() == ["other"]
    assert region_labels(tiles, {"a": box(0, 0, 10, 10), "b": box(0, 0, 20, 20)}).tolist() == ["a"]
    assert region_labels(tiles, {"a": box(0, 0, 10, 3)}, min_share=0.3).tolist() == ["a"]
    assert region_labels(tiles, {}, other="none").tolist() == ["none"]
    assert region_labels(np.zeros((0, 4), np.int64), {"a": box(0, 0, 1, 1)}).tolist() == []


def test_shares_are_those_of_a_rastered_circle() -> None:
    circle = shapely.Point(20, 20).buffer(13, quad_segs=64)
    y, x = np.mgrid[0:400, 0:400] / 10 + 0.05
    mask = (x - 20) ** 2 + (y - 20) ** 2 <= 13**2
    shares = np.array([mask[10 * b[1] : 10 * b[1] + 100, 10 * b[0] : 10 * b[0] + 100].mean() for b in GRID])
    expected = np.where(shares >= 0.5, "tumour", "other")
    assert set(expected) == {"tumour", "other"}
    assert region_labels(GRID, {"tumour": circle}).tolist() == expected.tolist()


def test_holes_parts_and_overlaps_count_once() -> None:
    ring = box(0, 0, 40, 40).difference(box(10, 10, 20, 20))
    found = region_labels(GRID, {"wall": ring, "lumen": box(10, 10, 20, 20)}).reshape(4, 4)
    assert (found[1:3, 1:3] == "lumen").all()
    assert (found == "lumen").sum() == 4
    half = [box(0, 0, 3, 10), box(0, 0, 3, 10), box(2, 0, 2, 10)]  # 0.4 of the tile; 0.8 if counted twice
    assert region_labels(GRID[:1], {"a": half}).tolist() == ["other"]
    parts = shapely.MultiPolygon([box(0, 0, 10, 3), box(0, 7, 10, 3)])
    assert region_labels(GRID[:1], {"a": parts}).tolist() == ["a"]


def test_an_outline_that_crosses_itself_is_taken() -> None:
    bow = shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
    assert region_labels(GRID[:1], {"a": bow}).tolist() == ["a"]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [({"min_share": 0.0}, "min_share"), ({"min_share": 1.1}, "min_share"), ({"other": "a"}, "label of a region")],
)
def test_bad_settings_are_refused(arguments, match) -> None:
    with pytest.raises(ConfigError, match=match):
        region_labels(GRID, {"a": box(0, 0, 1, 1)}, **arguments)


def test_empty_boxes_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1 px"):
        region_labels(np.array([[0, 0, 0, 10]]), {"a": box(0, 0, 1, 1)})
