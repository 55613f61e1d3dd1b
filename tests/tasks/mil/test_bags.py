import resource

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microtome.cohort.targets import Labels
from microtome.errors import CohortError, ConfigError, CorruptOutputError
from microtome.features.formats.registry import find_format
from microtome.features.formats.table import ADDRESS, FeatureTable
from microtome.features.store import FeatureStore
from microtome.tasks.mil.bags import BagSet, open_bags
from tests.tasks.mil.bag_stores import labels_of, planted, write_bag


def bag(n, d=4, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def test_rows_are_what_was_stored(tmp_path):
    store = FeatureStore(tmp_path)
    for i in range(3):
        write_bag(store, f"s{i}", bag(i + 1, seed=i))
    bags, labels = open_bags(tmp_path, labels_of(["s2", "s0"], [1, 0]))
    assert labels.ids == ("s2", "s0")
    assert bags.lengths.tolist() == [3, 1]
    np.testing.assert_array_equal(bags.read(0), bag(3, seed=2))
    assert bags.coords(0).tolist() == [[0, 0], [1, 0], [2, 0]]
    assert (bags.n_features, bags.recipe.encoder) == (4, "e")
    with pytest.raises(ValueError, match="read-only"):
        bags.read(0)[0] = 0


@pytest.mark.parametrize("name", ["clam-h5", "clam-pt", "histossl", "safetensors", "microtome"])
def test_foreign_formats_are_read_as_they_are(tmp_path, name):
    kind = find_format(name)
    for i in range(2):
        n = 3 + i
        boxes = np.array([[8 * j, 0, 8, 8] for j in range(n)], np.int64)
        address = np.array([[3, j, 0] for j in range(n)], np.int64)
        table = FeatureTable(f"s{i}", bag(n, seed=i), boxes=boxes, columns={ADDRESS: address})
        path = kind.path(tmp_path, f"s{i}")
        path.parent.mkdir(parents=True, exist_ok=True)
        kind.write(path, table)
    bags, labels = open_bags(tmp_path, labels_of(["s0", "s1", "s9"], [1, 0, 1]))
    assert labels.ids == ("s0", "s1")
    assert labels.excluded == {"s9": "no features"}
    for row in range(2):
        np.testing.assert_array_equal(bags.read(row), bag(3 + row, seed=row))


def test_a_row_joins_its_slides(tmp_path):
    store = FeatureStore(tmp_path)
    for name, n in {"a": 3, "b": 5, "c": 0}.items():
        write_bag(store, name, bag(n, seed=n))
    slides = (("a", "b"), ("gone", "c"), ("b", "gone"))
    bags, labels = open_bags(store, labels_of(["p0", "p1", "p2"], [0, 1, 1], slides=slides), max_instances=4)
    assert labels.ids == ("p0", "p2")
    assert labels.slide_ids == (("a", "b"), ("b",))
    assert labels.excluded == {"gone": "no features", "c": "no tile has features"}
    whole = np.concatenate([bag(3, seed=3), bag(5, seed=5)])
    np.testing.assert_array_equal(bags.read(0), whole)
    drawn = bags.drawn(0, 7)
    assert drawn is not None
    np.testing.assert_array_equal(bags.read(0, 7), whole[drawn])
    assert bags.slides(0) == (("a", 3), ("b", 5))


@given(seed=st.integers(0, 9), epoch=st.integers(0, 9), most=st.integers(1, 12))
def test_draws_depend_on_seed_epoch_and_id_alone(tmp_path_factory, seed, epoch, most):
    folder = tmp_path_factory.getbasetemp() / "draws"
    if not folder.exists():
        for name in ("a", "b"):
            write_bag(FeatureStore(folder), name, bag(10))
    both, _ = open_bags(folder, labels_of(["a", "b"], [0, 1]), max_instances=most, seed=seed)
    alone, _ = open_bags(folder, labels_of(["b"], [1]), max_instances=most, seed=seed)
    drawn = both.drawn(1, epoch)
    if most >= 10:
        assert drawn is None
        return
    assert drawn is not None
    np.testing.assert_array_equal(drawn, alone.drawn(0, epoch))
    assert len(set(drawn.tolist())) == most == both.drawn_length(1)
    assert drawn.tolist() == sorted(drawn.tolist())
    np.testing.assert_array_equal(both.read(1, epoch), bag(10)[drawn])
    assert len(both.read(1)) == 10


def test_draws_differ_between_epochs_and_cover_the_bag(tmp_path):
    write_bag(FeatureStore(tmp_path), "a", bag(20))
    bags, _ = open_bags(tmp_path, labels_of(["a"], [0]), max_instances=5)
    drawn = [tuple(np.asarray(bags.drawn(0, epoch)).tolist()) for epoch in range(40)]
    assert len(set(drawn)) > 35
    assert {i for each in drawn for i in each} == set(range(20))
    first, _ = open_bags(tmp_path, labels_of(["a"], [0]), max_instances=5, draw="first")
    np.testing.assert_array_equal(first.drawn(0, 3), [0, 1, 2, 3, 4])


def test_nan_is_refused_and_its_slides_are_named(tmp_path):
    for name, value in {"good": 0.0, "bad": np.nan, "worse": np.inf}.items():
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["features"] = np.full((2, 4), value, np.float32)
            file["coords"] = np.zeros((2, 2), np.int32)
    with pytest.raises(CorruptOutputError, match=r"2 slide\(s\).*'bad'.*NaN.*'worse'"):
        open_bags(tmp_path, labels_of(["good", "bad", "worse"], [0, 1, 0]))


@pytest.mark.parametrize(
    ("other", "said"),
    [({"features": bag(2, d=5)}, "n_features: 4 → 5"), ({"encoder": "f"}, "encoder: e → f"), ({"mpp": 1.0}, "mpp")],
)
def test_features_of_several_kinds_are_refused(tmp_path, other, said):
    store = FeatureStore(tmp_path)
    write_bag(store, "a", bag(2), mpp=0.5)
    features = other.pop("features", bag(2))
    write_bag(store, "odd", features, **{"mpp": 0.5, **other})
    with pytest.raises(ConfigError, match=f"'a'.*'odd': .*{said}"):
        open_bags(store, labels_of(["a", "odd"], [0, 1]))


def test_nothing_left_is_an_error(tmp_path):
    with pytest.raises(CohortError, match="'x': no features"):
        open_bags(FeatureStore(tmp_path), labels_of(["x"], [0]))
    with pytest.raises(ConfigError, match="no features"):
        open_bags(tmp_path, labels_of(["x"], [0]))


def test_a_file_that_shrank_is_noticed(tmp_path):
    write_bag(FeatureStore(tmp_path), "a", bag(1000))
    bags, _ = open_bags(tmp_path, labels_of(["a"], [0]))
    (tmp_path / "a.h5").write_bytes(b"")
    with pytest.raises(CorruptOutputError, match="cannot be read any more"):
        bags.read(0)


def test_more_slides_than_open_files(tmp_path):
    store, n = FeatureStore(tmp_path), 120
    for i in range(n):
        write_bag(store, f"s{i}", bag(2, seed=i))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, before[1]))
    try:
        bags, _ = open_bags(store, labels_of([f"s{i}" for i in range(n)], [0] * n))
        kept = [bags.read(row).copy() for row in range(n)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    np.testing.assert_array_equal(kept[77], bag(2, seed=77))


def test_settings_that_cannot_be(tmp_path):
    bags, labels = planted(tmp_path)
    assert isinstance(bags, BagSet)
    assert isinstance(labels, Labels)
    with pytest.raises(ConfigError, match="max_instances"):
        open_bags(tmp_path, labels, max_instances=0)
