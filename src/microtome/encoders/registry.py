"""Encoders by name. One file per family; a family is imported when one of its encoders is asked for.

A family's module has ``CARDS`` (name → :class:`Card`) and ``load(name, *, device, weights, precision)``. Keep the
cards importable without the libraries that run the network, so that listing encoders stays quick.
"""

from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import ModuleType

from microtome.encoders.base import Card, Encoder
from microtome.errors import UnknownEncoderError

# Name → module of its family. A new family adds its names here and nothing else.
_FAMILIES: dict[str, str] = {
    "texture": "microtome.encoders.texture",
}


def list_encoders() -> tuple[str, ...]:
    """Names of all encoders that :func:`load_encoder` takes, sorted.

    Example:
        >>> "texture" in list_encoders()
        True
    """
    return tuple(sorted(_FAMILIES))


def read_card(name: str) -> Card:
    """What is known about an encoder, without loading its weights.

    Raises:
        UnknownEncoderError: If no encoder goes by this name.

    Example:
        >>> read_card("texture").modality
        'brightfield'
    """
    card: Card = _family(name).CARDS[name]
    return card


def load_encoder(
    name: str, *, device: str = "auto", weights: str | Path | None = None, precision: str | None = None
) -> Encoder:
    """Load an encoder, ready to encode.

    Args:
        name: One of :func:`list_encoders`.
        device: ``auto`` for the best one present, or ``cpu``, ``cuda``, ``cuda:0``, ``mps``.
        weights: Weights file, for encoders that have weights; None for the published ones.
        precision: ``fp32``, ``bf16`` or ``fp16``; None or ``auto`` for what is best on the device.

    Returns:
        The encoder.

    Raises:
        UnknownEncoderError: If no encoder goes by this name.
        ConfigError: If the encoder cannot run with these settings.
    """
    encoder: Encoder = _family(name).load(name, device=device, weights=weights, precision=precision)
    return encoder


def _family(name: str) -> ModuleType:
    module = _FAMILIES.get(name)
    if module is None:
        near = get_close_matches(name.lower(), _FAMILIES, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise UnknownEncoderError(f"No encoder goes by {name!r}. {hint}There are: {', '.join(list_encoders())}.")
    return import_module(module)


def cards_table() -> str:
    """All encoders as a Markdown table: what they take and give, where they come from, under which licence."""
    head = (
        "name",
        "dim",
        "tile px",
        "mpp",
        "other tile sizes",
        "modality",
        "weights",
        "licence",
        "trained on",
        "paper",
    )
    rows = [head, tuple("---" for _ in head), *(_card_row(read_card(name)) for name in list_encoders())]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)


def _card_row(card: Card) -> tuple[str, ...]:
    return (
        f"`{card.name}`",
        str(card.dim),
        str(card.tile_px),
        ", ".join(f"{mpp:g}" for mpp in card.mpp) or "any",
        card.size_policy,
        card.modality,
        (card.repo + (" (gated)" if card.gated else "")) if card.repo else "none: built in",
        card.licence,
        ", ".join(card.trained_on) or "nothing",
        card.paper,
    )
