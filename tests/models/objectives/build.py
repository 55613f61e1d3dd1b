"""Building objectives without a type, for tests that look at what only some of them have."""

from typing import Any

from microtome.models import objectives


def build_objective(*args: Any, **options: Any) -> Any:
    return objectives.build_objective(*args, **options)
