import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microtome.errors import ConfigError, EncoderOutputError
from microtome.tasks.feature_rows import BLOCK_ROWS, FeatureRows, even_quotas, features_digest
from tests.tasks.feature_fakes import FakeBag, FakeStore, boxes_of, store_of


def numbered(sizes: dict[str, int]) -> FakeStore:
    """Each row says its slide and its row."""
    return store_of(
        {name: np.stack([np.full(n, i), np.arange(n)], axis=1) for i, (name, n) in enumerate(sorted(sizes.items()))}
    )


def test_reads_any_range_across_slides() -> None:
    rows = FeatureRows.select(numbered({"b": 5, "a": 3, "empty": 0, "c": 4}))
    whole = np.concatenate(list(rows.chunks(2)))
    assert len(rows) == 12
    expected = [(0, r) for r in range(3)] + [(1, r) for r in range(5)] + [(2, r) for r in range(4)]
    np.testing.assert_array_equal(whole, expected)
    for start in range(12):
        for stop in range(start + 1, 13):
            np.testing.assert_array_equal(rows.read(start, stop), whole[start:stop])


def test_take_and_locate_agree_with_read() -> None:
    rows = FeatureRows.select(numbered({"a": 30, "b": 50}), max_rows_per_slide=20, seed=3)
    numbers = np.array([0, 5, 19, 20, 39])
    slides, found = rows.locate(numbers)
    np.testing.assert_array_equal(rows.take(numbers), np.concatenate([rows.read(i, i + 1) for i in numbers.tolist()]))
    np.testing.assert_array_equal(rows.take(numbers), np.stack([slides, found], axis=1))


def test_shuffled_visits_each_row_once_in_mixed_batches() -> None:
    rows = FeatureRows.select(numbered({f"s{i}": 4 * BLOCK_ROWS + 17 for i in range(5)}))
    batches = list(rows.shuffled(np.random.default_rng(0), batch_rows=4 * BLOCK_ROWS))
    seen = np.concatenate(batches)
    assert len(np.unique(seen, axis=0)) == len(seen) == len(rows)
    assert max(len(batch) for batch in batches) <= 4 * BLOCK_ROWS
    assert np.mean([len(np.unique(batch[:, 0])) for batch in batches]) > 2


def test_rows_drawn_of_a_slide_do_not_depend_on_other_slides() -> None:
    sizes = {"a": 100, "b": 200, "c": 300}
    alone = FeatureRows.select(numbered({"b": 200}), max_rows_per_slide=50, seed=7)
    together = FeatureRows.select(numbered(sizes), max_rows_per_slide=50, seed=7)
    np.testing.assert_array_equal(alone.rows[0], together.rows[together.slide_ids.index("b")])
    other = FeatureRows.select(numbered(sizes), max_rows_per_slide=50, seed=8)
    assert not np.array_equal(other.rows[1], together.rows[1])


@given(st.lists(st.integers(0, 30), min_size=1, max_size=12), st.integers(0, 200), st.integers(0, 5))
def test_quotas_are_even_and_complete(sizes: list[int], n_rows: int, seed: int) -> None:
    named = {f"s{i}": n for i, n in enumerate(sizes)}
    quotas = even_quotas(named, n_rows, seed=seed)
    assert sum(quotas.values()) == min(n_rows, sum(sizes))
    assert all(0 <= quotas[s] <= named[s] for s in named)
    # nobody has two rows more than a slide that could have given more
    able = [q for s, q in quotas.items() if q < named[s]]
    assert not able or max(quotas.values()) <= min(able) + 1


def test_features_of_different_length_are_refused_by_name() -> None:
    store = store_of({"a": np.zeros((3, 4)), "b": np.zeros((3, 5))})
    with pytest.raises(EncoderOutputError, match=r"'a' and 'b' have features of 4 and 5"):
        FeatureRows.select(store)


def test_an_empty_slide_may_have_any_length() -> None:
    assert len(FeatureRows.select(store_of({"a": np.zeros((3, 4)), "b": np.zeros((0, 5))}))) == 3


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_refused_with_slide_and_row(value: float) -> None:
    x = np.zeros((9, 2))
    x[6, 1] = value
    rows = FeatureRows.select(store_of({"a": np.zeros((4, 2)), "b": x}))
    with pytest.raises(EncoderOutputError, match=r"'b' hold NaN or infinity \(row 6"):
        rows.read(0, len(rows))


@pytest.mark.parametrize(
    ("slide_ids", "match"), [(["a", "x"], "first 'x'"), ([], "no slide was given"), (["empty"], "no tiles")]
)
def test_slides_without_features_are_refused(slide_ids: list[str], match: str) -> None:
    store = store_of({"a": np.zeros((3, 4)), "empty": np.zeros((0, 4))})
    with pytest.raises(ConfigError, match=match):
        FeatureRows.select(store, slide_ids=slide_ids)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(ConfigError, match="seed"):
        FeatureRows.select(store_of({"a": np.zeros((3, 4))}), seed=seed)


class Nameless(FakeStore):
    """Files of other software, which do not say how they were made."""

    def recipe_text(self, slide_id: str) -> None:
        return None


def test_features_without_recipe_are_identified_by_their_values() -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    first, same = Nameless(a=FakeBag(x, boxes_of(4))), Nameless(a=FakeBag(x.copy(), boxes_of(4)))
    assert features_digest(first, ["a"]) == features_digest(same, ["a"])
    same["a"].features[3, 2] += 1
    assert features_digest(first, ["a"]) != features_digest(same, ["a"])
