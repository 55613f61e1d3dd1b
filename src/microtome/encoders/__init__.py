"""Pixels to vectors: what is known about published encoders, and how they are loaded and run."""

from importlib import import_module
from typing import Any

_HOME = {
    "Card": "base",
    "Encoder": "base",
    "cards_table": "registry",
    "list_encoders": "registry",
    "load_encoder": "registry",
    "read_card": "registry",
}

__all__ = ["Card", "Encoder", "cards_table", "list_encoders", "load_encoder", "read_card"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module's attribute can be anything
    if name not in _HOME:
        raise AttributeError(f"module 'microtome.encoders' has no attribute {name!r}")
    return getattr(import_module(f"microtome.encoders.{_HOME[name]}"), name)
