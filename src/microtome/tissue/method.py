"""What every way of finding tissue has: a name, parameters, and a mask of a slide."""

import math
import types
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import numpy as np
from jaxtyping import Bool, Shaped

from microtome.errors import ConfigError, TissueError
from microtome.geometry import Box
from microtome.slides.base import Slide


class FoundMask(NamedTuple):
    """A mask of tissue, and what it covers, level-0 pixels."""

    mask: Bool[np.ndarray, "h w"]
    box: Box


@dataclass(frozen=True)
class TissueMethod(ABC):
    """A way of finding tissue; its fields are all of its parameters.

    Attributes:
        name: Name by which it is chosen.
        version: Raised whenever the same parameters give another mask.
    """

    name: ClassVar[str]
    version: ClassVar[int]

    @abstractmethod
    def find_mask(self, slide: Slide) -> FoundMask:
        """Find tissue.

        Raises:
            TissueError: If the method cannot work on this slide.
            ChannelError: If it needs RGB pixels and the slide has none.
        """

    @property
    def recipe(self) -> dict[str, object]:
        """What decides the mask beside the slide's pixels."""
        return {
            "method": self.name,
            "method_version": self.version,
            **{f"method_{k}": v for k, v in asdict(self).items()},
        }

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> "TissueMethod":
        """Make the method from named values, as a configuration file or command line gives them.

        Args:
            parameters: Field names and values; text is read as the field's type.

        Raises:
            ConfigError: If a name is unknown or a value is of the wrong type or out of range.
        """
        return cls(**cls.parsed(parameters))

    @classmethod
    def parsed(cls, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Check names and types of parameters; text is read as the field's type."""
        hints = get_type_hints(cls)
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(parameters) - set(known))
        if unknown:
            raise ConfigError(
                f"Tissue method {cls.name!r} has no parameter {', '.join(map(repr, unknown))}. It has "
                f"{', '.join(known)}."
            )
        return {key: _as_type(f"{cls.name} {key}", value, hints[key]) for key, value in parameters.items()}


def _as_type(name: str, value: Any, hint: Any) -> Any:  # noqa: ANN401 - any parameter of any type
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for option in options:
        if get_origin(option) is Literal and value in get_args(option):
            return value
        if option is types.NoneType and (value is None or value in ("none", "null", "")):
            return None
        converted = _converted(value, option)
        if converted is not None:
            return converted
    names = " or ".join(getattr(o, "__name__", str(o)) for o in options)
    raise ConfigError(f"{name} must be {names}. Got {value!r}.")


def _converted(value: Any, kind: Any) -> bool | int | float | None:  # noqa: ANN401 - any parameter of any type
    if kind is bool:
        words = {"true": True, "false": False, "yes": True, "no": False}
        return value if isinstance(value, bool) else words.get(value.lower()) if isinstance(value, str) else None
    if kind not in (int, float) or isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    if kind is float:
        return number
    return int(number) if number.is_integer() else None


def check_range(method: str, name: str, value: float | None, low: float, high: float = math.inf) -> None:
    """Refuse a parameter that is not a finite number from ``low`` to ``high``; None passes.

    Raises:
        ConfigError: If it is.
    """
    if value is None:
        return
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or not low <= value <= high
    ):
        limit = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise ConfigError(f"{name} of tissue method {method!r} must be a number {limit}. Got {value!r}.")


def otsu_threshold(values: Shaped[np.ndarray, "..."]) -> float:
    """Otsu's threshold, scikit-image's (256 bins for floats, one per value for whole numbers)."""
    from skimage import filters  # takes a while to import

    return float(filters.threshold_otsu(values))  # type: ignore[no-untyped-call]  # it has no types


def level_index(slide: Slide, level: int, method: str) -> int:
    """A level's index, negative ones counted from the smallest.

    Raises:
        TissueError: If the slide has no such level.
    """
    count = len(slide.levels)
    if not -count <= level < count:
        raise TissueError(
            f"Slide '{slide.name}' has no level {level}: it has {count}, 0 to {count - 1}. Pass a level that it has to "
            f"tissue method {method!r}."
        )
    return level % count
