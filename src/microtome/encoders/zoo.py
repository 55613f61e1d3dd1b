"""What the cards of published encoders share: ways of seeing a tile, terms of use, and networks by name.

Needs no torch, so that listing stays quick.

References:
    specs encoders: every card is one row of its tables. What a row has from memory or by inference, and what nobody has
    checked on the published file, the card lists as unconfirmed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

from microtome.encoders.architectures import ARCHITECTURES, Architecture
from microtome.encoders.base import Card, Encoder
from microtome.encoders.published import Published
from microtome.errors import WeightsError

Norm = tuple[tuple[float, ...], tuple[float, ...]]

IMAGENET: Norm = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP: Norm = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF: Norm = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Means and standard deviations of red, green and blue."""

RESEARCH = "Research only. Not for diagnosis."
NON_COMMERCIAL = "Research only, non-commercial. Not for diagnosis."
UNPINNED = "revision and SHA-256 of the file"
"""What stays unconfirmed until somebody has read the published file."""


class Transform(TypedDict):
    """What happens to a tile before the network sees it: fields of a card."""

    input_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None
    crop: int | None
    interpolation: str
    size_policy: str


def resized(side: int, norm: Norm, interpolation: str, *, crop: int | None = None) -> Transform:
    """Tiles of any size are resized; with a crop the shorter side is, and the centre is cut out."""
    return Transform(
        input_px=crop or side,
        mean=norm[0],
        std=norm[1],
        resize=side,
        crop=crop,
        interpolation=interpolation,
        size_policy="resize",
    )


def stretched(side: int, norm: Norm) -> Transform:
    """Tiles are taken at their own size; positions are interpolated where it is not the usual one."""
    return Transform(
        input_px=side,
        mean=norm[0],
        std=norm[1],
        resize=None,
        crop=None,
        interpolation="",
        size_policy="interpolate",
    )


def exact(side: int, norm: Norm) -> Transform:
    """Tiles of one size only."""
    return Transform(
        input_px=side, mean=norm[0], std=norm[1], resize=None, crop=None, interpolation="", size_policy="error"
    )


def published(card: Card, architecture: str | Architecture, **how: Any) -> Published:  # noqa: ANN401 - see Published
    """A card with its network.

    Args:
        card: Its layouts are filled in, and that its file is not pinned unless it is.
        architecture: A network, or its name in :data:`microtome.encoders.architectures.ARCHITECTURES`.
        **how: Other fields of :class:`microtome.encoders.published.Published`; ``layouts`` by name.
    """
    network = ARCHITECTURES[architecture] if isinstance(architecture, str) else architecture
    names: tuple[str, ...] = how.pop("layouts", network.layout_names)
    unpinned = () if card.sha256 or UNPINNED in card.unconfirmed or not (card.repo or card.url) else (UNPINNED,)
    complete = replace(card, layouts=names, unconfirmed=(*card.unconfirmed, *unpinned))
    return Published(card=complete, build=network.build, layouts=replace(network, layout_names=names).layouts, **how)


def variant(encoder: Published, name: str, architecture: str | Architecture, **changes: Any) -> Published:  # noqa: ANN401 - see Card
    """Other features of the same weights, under ``<name of the encoder>:<name>``.

    Args:
        encoder: The encoder.
        name: Of the variant.
        architecture: Its network, as for :func:`published`.
        **changes: What its card says otherwise: ``dim``, ``pooling``.
    """
    card = replace(encoder.card, name=f"{encoder.card.name}:{name}", variants=(), aliases=(), **changes)
    made = published(card, architecture)
    return replace(encoder, card=made.card, build=made.build, layouts=made.layouts)


@dataclass(frozen=True)
class Unavailable:
    """An encoder that is known and cannot be loaded honestly.

    Attributes:
        card: What is known; its ``unavailable`` says why.
    """

    card: Card

    def load(self, *, device: str, weights: str | Path | None, precision: str | None, runtime: str = "auto") -> Encoder:
        """Say why it cannot be loaded.

        Raises:
            WeightsError: Always.
        """
        del device, weights, precision, runtime
        raise refusal(self.card)


def refusal(card: Card) -> WeightsError:
    """The error of an encoder whose card says that it is ``unavailable``."""
    return WeightsError(f"Encoder '{card.name}' cannot be loaded: {card.unavailable}")


def layouts_of(*names: str) -> Callable[[], Sequence[Any]]:
    """What gives layouts by their names, for :attr:`microtome.encoders.published.Published.parts`."""
    return Architecture(build=tuple, dim=0, layout_names=names).layouts
