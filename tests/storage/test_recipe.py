"""Recipes and their digests."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microtome.storage import (
    digest,
    recipe_changes,
    recipe_text,
)

_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
_recipes = st.dictionaries(st.sampled_from("abcdef"), _values, max_size=4)


@given(_recipes, st.randoms())
def test_digest_does_not_depend_on_order(recipe: dict[str, Any], random: Any) -> None:
    items = list(recipe.items())
    random.shuffle(items)
    assert digest(dict(items)) == digest(recipe)
    assert len(digest(recipe)) == 32


@given(_recipes, st.sampled_from("abcdef"), _values)
def test_digest_changes_with_every_value_and_the_change_is_named(recipe: dict[str, Any], key: str, value: Any) -> None:
    other = {**recipe, key: value}
    same = recipe_text(recipe) == recipe_text(other)
    assert (digest(recipe) == digest(other)) == same
    changes = recipe_changes(recipe_text(recipe), recipe_text(other))
    assert [c.split(":")[0] for c in changes] == ([] if same else [key])


@pytest.mark.parametrize(("one", "two"), [(1, 1.0), (1, True), (0, False), ("1", 1), (None, "absent"), ([], {})])
def test_values_that_python_or_a_reader_may_confuse_are_told_apart(one: Any, two: Any) -> None:
    assert digest({"a": one}) != digest({"a": two})
    assert len(recipe_changes(recipe_text({"a": one}), recipe_text({"a": two}))) == 1


def test_arrays_count_by_value_dtype_and_shape() -> None:
    grid = np.arange(6)
    distinct = {digest({"a": a}) for a in (grid, grid + 1, grid.astype(np.int32), grid.reshape(2, 3), grid.tolist())}
    assert len(distinct) == 5
    assert digest({"a": grid}) == digest({"a": grid.copy()[::1]})


def test_changes_are_short_and_name_added_and_removed_values() -> None:
    old, new = recipe_text({"a": 1, "long": "x" * 200}), recipe_text({"b": 2, "long": "y" * 200})
    changes = recipe_changes(old, new)
    assert changes[:2] == ["a: 1 → absent", "b: absent → 2"]
    assert len(changes[2]) < 140
    with pytest.raises(ValueError, match="JSON object"):
        recipe_changes("[]", "{}")
