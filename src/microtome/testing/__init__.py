"""For tests, of microtome and of what is built on it: synthetic slides, damage, and contract suites.

The names below are loaded when first used; the contract suites are modules of their own, because they need pytest.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "ArraySlide": "array_slide",
    "BigSlide": "big_slides",
    "SampleSlide": "synthetic_sample",
    "SyntheticSlide": "synthetic_section",
    "break_tile": "damage",
    "coordinate_canvas": "coordinates",
    "coordinate_slide": "coordinates",
    "decode_origin": "coordinates",
    "encode_origin": "coordinates",
    "synthetic_slide": "synthetic_section",
    "write_dicom": "dicom",
    "write_sample": "synthetic_sample",
    "write_svs_like": "big_slides",
}

__all__ = sorted(_HOME)  # noqa: PLE0605 - a list of strings; ruff cannot see through sorted()


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module's attribute can be anything
    if name not in _HOME:
        raise AttributeError(f"module 'microtome.testing' has no attribute {name!r}")
    value = getattr(import_module(f"microtome.testing.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
