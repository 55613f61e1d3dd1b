"""What every store of features must do. Subclass :class:`StoreContract` in a test module and give it a store."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import pytest
from jaxtyping import Float, Int64

from microtome.errors import ConfigError, EncoderOutputError, MissingOutputError
from microtome.features.store import FeatureStore
from microtome.features.writer import BagPlan

RECIPE: Mapping[str, object] = {"encoder": "example", "tile_px": 224}


def example_features(n: int, dim: int = 4, *, seed: int = 0, dtype: str = "float32") -> Float[np.ndarray, "n d"]:
    """Some finite features."""
    features: Float[np.ndarray, "n d"] = np.random.default_rng(seed).normal(size=(n, dim)).astype(dtype)
    return features


def example_boxes(n: int, side: int = 448) -> Int64[np.ndarray, "n 4"]:
    """Boxes in a row, all of one size."""
    boxes = np.zeros((n, 4), np.int64)
    boxes[:, 0] = np.arange(n) * side
    boxes[:, 2:] = side
    return boxes


class StoreContract(ABC):
    """Tests over a store of features; ``store`` is the one thing to implement, as a pytest fixture."""

    @pytest.fixture
    @abstractmethod
    def store(self) -> FeatureStore:
        """A store that is empty and may be written."""

    def test_a_new_store_is_empty(self, store: FeatureStore) -> None:
        """Nothing is in it, and asking says so by name."""
        assert len(store) == 0
        assert list(store) == []
        assert "A" not in store
        with pytest.raises(MissingOutputError, match=r"no features at .*A"):
            _ = store["A"]
        with pytest.raises(KeyError):
            _ = store["A"]

    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    @pytest.mark.parametrize("n", [0, 1, 7])
    def test_what_is_written_is_read(self, store: FeatureStore, n: int, dtype: str) -> None:
        """Features come back to the bit, with their places and attributes."""
        features, boxes = example_features(n, dtype=dtype), example_boxes(n)
        store.write("A", features, boxes, recipe=RECIPE, attrs={"mpp": 0.5, "encoder": "example"})
        bag = store["A"]
        assert bag.features.dtype == features.dtype
        assert bag.features.tobytes() == features.tobytes()
        assert bag.features.shape == (n, 4)
        np.testing.assert_array_equal(bag.boxes, boxes)
        np.testing.assert_array_equal(bag.coords, boxes[:, :2])
        assert (bag.mpp, bag.encoder, len(bag), bag.dim, bag.n_unreadable) == (0.5, "example", n, 4, 0)
        store.check("A")

    def test_boxes_of_many_sizes(self, store: FeatureStore) -> None:
        """Tiles need not be of one size."""
        boxes = example_boxes(3)
        boxes[1, 2:] = 100, 50
        store.write("A", example_features(3), boxes, recipe=RECIPE)
        np.testing.assert_array_equal(store["A"].boxes, boxes)

    def test_random_rows(self, store: FeatureStore) -> None:
        """Any rows, in any order, repeated or not."""
        features = example_features(100)
        store.write("A", features, example_boxes(100), recipe=RECIPE)
        rows = np.array([99, 0, 50, 50, 7])
        np.testing.assert_array_equal(store["A"].features[rows], features[rows])

    def test_features_cannot_be_changed(self, store: FeatureStore) -> None:
        """A bag is read-only."""
        store.write("A", example_features(3), example_boxes(3), recipe=RECIPE)
        with pytest.raises(ValueError, match="read-only"):
            store["A"].features[0, 0] = 1

    def test_slides_come_sorted(self, store: FeatureStore) -> None:
        """Order does not depend on when they were written, and names with dots and spaces are kept."""
        names = ["b", "a.b", "a", "Ü (2)"]
        for index, name in enumerate(names):
            store.write(name, example_features(2, seed=index), example_boxes(2), recipe=RECIPE)
        assert list(store) == sorted(names)
        assert len(store) == 4
        assert all(name in store for name in names)
        assert [store[name].slide_id for name in store] == sorted(names)

    def test_writing_again_replaces(self, store: FeatureStore) -> None:
        """The last one counts, and what was open before stays as it was."""
        first, second = example_features(3, seed=1), example_features(5, seed=2)
        store.write("A", first, example_boxes(3), recipe=RECIPE)
        before = store["A"]
        store.write("A", second, example_boxes(5), recipe={**RECIPE, "tile_px": 256})
        np.testing.assert_array_equal(store["A"].features, second)
        np.testing.assert_array_equal(before.features, first)

    def test_recipe_is_kept(self, store: FeatureStore) -> None:
        """As canonical text, the same whatever the order of its values."""
        store.write("A", example_features(1), example_boxes(1), recipe={"b": 2, "a": [1, None]})
        assert store.recipe_text("A") == '{"a":[1,null],"b":2}'

    @pytest.mark.parametrize("name", ["../A", "a/b", "", ".hidden", "a\\b", "a\x00", "trailing.", "x" * 300])
    def test_names_cannot_leave_the_folder(self, store: FeatureStore, name: str) -> None:
        """Neither written nor found."""
        with pytest.raises(ConfigError):
            store.write(name, example_features(1), example_boxes(1), recipe=RECIPE)
        assert name not in store

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_values_must_be_finite(self, store: FeatureStore, value: float) -> None:
        """Else nothing is written."""
        features = example_features(3)
        features[1, 2] = value
        with pytest.raises(EncoderOutputError):
            store.write("A", features, example_boxes(3), recipe=RECIPE)
        assert "A" not in store

    def test_written_batch_by_batch(self, store: FeatureStore) -> None:
        """Nothing is there until it is sealed; unreadable tiles have no row."""
        features, boxes = example_features(5), example_boxes(7)
        plan = _plan(boxes, batch_size=3)
        with store.create("A", plan) as writer:
            writer.append(features[:2], {1: "torn"})
            writer.append(features[2:4], {3: "lost"})
            writer.append(features[4:], {})
            assert "A" not in store
            assert list(store) == []
            writer.seal()
        bag = store["A"]
        np.testing.assert_array_equal(bag.features, features)
        np.testing.assert_array_equal(bag.boxes, boxes[[0, 2, 4, 5, 6]])
        np.testing.assert_array_equal(bag.rows, [0, 2, 4, 5, 6])
        np.testing.assert_array_equal(bag.unreadable, boxes[[1, 3]])
        assert bag.unreadable_errors == ("torn", "lost")
        assert sorted(p.name for p in store.folder.iterdir()) == ["A.h5"]

    def test_interrupted_writing_goes_on(self, store: FeatureStore) -> None:
        """What was committed is kept, whether the writer was closed or not, and the file is the same."""
        features, plan = example_features(7), _plan(example_boxes(7), batch_size=2)
        with store.create("whole", plan) as writer:
            for index in range(4):
                writer.append(features[2 * index : 2 * index + 2], {})
            writer.seal()
        for index in range(4):
            with store.create("A", plan) as writer:
                assert writer.n_batches == index
                writer.append(features[2 * index : 2 * index + 2], {})
        with store.create("A", plan) as writer:
            writer.seal()
        assert store.path("A").read_bytes() == store.path("whole").read_bytes()

    def test_interrupted_writing_of_another_recipe_is_discarded(self, store: FeatureStore) -> None:
        """Nothing of it gets into the new file."""
        features, boxes = example_features(4), example_boxes(4)
        with store.create("A", _plan(boxes, recipe="one")) as writer:
            writer.append(features[:2], {})
        for other in (_plan(boxes, recipe="two"), _plan(boxes, recipe="one", batch_size=4)):
            with store.create("A", other) as writer:
                assert writer.n_batches == 0
                writer.discard()


def _plan(boxes: Int64[np.ndarray, "n 4"], *, recipe: str = "0", batch_size: int = 2) -> BagPlan:
    return BagPlan(recipe, np.arange(len(boxes)), boxes, dim=4, dtype="float32", batch_size=batch_size)
