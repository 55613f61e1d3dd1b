"""Recipes: the flat sets of values that decide outputs, as canonical text and as a digest."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from microtome.errors import ConfigError

_SHOWN = 60  # characters of a value in a message


def plain_value(value: Any) -> Any:  # noqa: ANN401 - any value of a recipe comes in, plain JSON comes out
    """Reduce numpy scalars and arrays, paths, tuples and mappings to what JSON has.

    An array stands as its dtype, shape and hash.

    Raises:
        ConfigError: If a value is not finite, or of a kind that cannot be recorded.
    """
    if isinstance(value, np.generic):
        return plain_value(value.item())
    if isinstance(value, np.ndarray):
        return {"dtype": str(value.dtype), "shape": list(value.shape), "sha256": hash_array(value)}
    if isinstance(value, Mapping):
        return {str(key): plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"A recorded value must be finite. Got {value}.")
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise ConfigError(f"A {type(value).__name__} cannot be recorded. Give plain numbers, strings and containers.")


def hash_array(array: Shaped[np.ndarray, "..."]) -> str:
    """SHA-256 of an array's bytes (C order)."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def recipe_text(recipe: Mapping[str, object]) -> str:
    """The canonical text of a recipe: JSON with sorted keys; arrays stand as dtype, shape and hash.

    Example:
        >>> recipe_text({"tile_px": 224, "mpp": 0.5})
        '{"mpp":0.5,"tile_px":224}'
    """
    return json.dumps(plain_value(recipe), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(recipe: Mapping[str, object]) -> str:
    """A digest of the *values* of a recipe: equal when, and only when, all of them are equal.

    Returns:
        32 hexadecimal digits.

    Example:
        >>> digest({"tile_px": 224}) == digest({"tile_px": 224})
        True
        >>> digest({"tile_px": 224}) == digest({"tile_px": 225})
        False
    """
    return hashlib.sha256(recipe_text(recipe).encode()).hexdigest()[:32]


def recipe_changes(old: str, new: str) -> list[str]:
    """Name the values in which two recipe texts differ, as ``name: old → new``, for an error message.

    Raises:
        ValueError: If a text is not that of a recipe.

    Example:
        >>> recipe_changes('{"mpp":0.5,"tile_px":224}', '{"mpp":0.25,"tile_px":224}')
        ['mpp: 0.5 → 0.25']
    """
    before, after = json.loads(old), json.loads(new)
    if not isinstance(before, dict) or not isinstance(after, dict):
        raise ValueError("A recipe's text must be a JSON object.")  # noqa: TRY004 - what is wrong is the text's value
    changes = []
    for key in sorted(before.keys() | after.keys()):
        a, b = (json.dumps(side[key], sort_keys=True) if key in side else "absent" for side in (before, after))
        if a != b:  # of the texts: to Python 1, 1.0 and True are equal, to a digest they are not
            changes.append(f"{key}: {_short(a)} → {_short(b)}")
    return changes


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
