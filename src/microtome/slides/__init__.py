"""Open slides and read their pixels."""

from importlib import import_module
from typing import Any

_HOME = {"Slide": "base", "open_slide": "open", "explain_readers": "open", "list_slides": "listing"}

__all__ = ["Slide", "explain_readers", "list_slides", "open_slide"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module's attribute can be anything
    if name not in _HOME:
        raise AttributeError(f"module 'microtome.slides' has no attribute {name!r}")
    return getattr(import_module(f"microtome.slides.{_HOME[name]}"), name)
