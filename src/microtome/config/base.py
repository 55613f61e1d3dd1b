"""What every verb's configuration is made of: flat, frozen, unknown keys refused."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from microtome.errors import ConfigError

OptionsT = TypeVar("OptionsT", bound="Options")

_MIB = 1024 * 1024
_UNITS = {"K": 1024, "M": _MIB, "G": 1024 * _MIB}


class Options(BaseModel):
    """Base of every group: frozen, unknown keys refused, defaults checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def resolve(kind: type[OptionsT], *layers: Mapping[str, Any]) -> OptionsT:
    """Build a configuration from layers of values, a later one winning over an earlier one.

    Args:
        kind: The verb's class.
        layers: Values by field name, for example those of a file, then those of the flags.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: If a key is unknown or a value is not allowed; the sentence names it.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged.update(layer)
    try:
        return kind(**merged)
    except ValidationError as error:
        raise ConfigError(explain(kind, error)) from error


def explain(kind: type[Options], error: ValidationError) -> str:
    """Say in a sentence what pydantic refused, and the nearest name of an unknown setting."""
    parts = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            near = get_close_matches(name, kind.model_fields, 1)
            parts.append(f"There is no setting {name!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
        else:
            reason = problem["msg"].removeprefix("Value error, ")
            parts.append(f"{name}: {reason}. Got {problem['input']!r}." if name else reason)
    return " ".join(parts)


def read_bytes(text: str) -> int:
    """Read a size such as ``512M``, ``2G`` or ``1048576`` as bytes.

    Raises:
        ConfigError: If it is not a positive number with an optional K, M or G.

    Example:
        >>> read_bytes("512M")
        536870912
    """
    plain = text.strip().upper().removesuffix("B").removesuffix("I")
    unit = _UNITS.get(plain[-1:], 1)
    number = plain[:-1] if plain[-1:] in _UNITS else plain
    try:
        size = int(float(number) * unit)
    except (ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise ConfigError(f"memory must be a size such as 512M or 2G. Got {text!r}.")
    return size
