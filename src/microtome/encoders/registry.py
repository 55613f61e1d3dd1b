"""Encoders by name. One file per family; a family is imported when a name is looked up.

A family's module has ``ENCODERS`` (name → :class:`microtome.encoders.base.Loadable`). Other features of the same
weights go by ``<name>:<variant>``: each is an entry too or, where they are many, the module has ``find(name)``.
Families whose names are open have ``find(name, weights)``. Keep cards importable without the libraries that run
networks, so that listing stays quick.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path
from types import MappingProxyType

from microtome.encoders.base import Card, Encoder, Loadable
from microtome.errors import UnknownEncoderError

# Modules of the families. A new family adds its module here and nothing else.
_FAMILIES: tuple[str, ...] = (
    "microtome.encoders.texture",
    *(
        f"microtome.encoders.families.{family}"
        for family in (
            *("bioptimus", "classic", "exaone", "fastglioma", "gpfm", "hipt", "histai", "histoencoder", "kaiko"),
            *("language", "lunit", "mahmood", "owkin", "paige", "providence", "transpath", "unavailable"),
        )
    ),
)

# Beginning of a name → module of a family whose names cannot be listed.
_OPEN_FAMILIES: dict[str, str] = {
    "timm:": "microtome.encoders.timm_models",
    "hf-hub:": "microtome.encoders.timm_models",
}


@cache
def _modules() -> Mapping[str, str]:
    """Name or alias of an encoder → module of its family."""
    return MappingProxyType(
        {name: module for module in _FAMILIES for name in import_module(module).ENCODERS}
        | {alias: module for module in _FAMILIES for alias in _aliases(module)}
    )


def _aliases(module: str) -> dict[str, Loadable]:
    known: Mapping[str, Loadable] = import_module(module).ENCODERS
    return {alias: encoder for encoder in known.values() for alias in encoder.card.aliases}


def list_encoders() -> tuple[str, ...]:
    """Names of the encoders that are known, sorted; the card of one that cannot be loaded says why.

    :func:`load_encoder` takes others too, which are too many to list: ``<name>:<variant>`` for other features of the
    same weights (the card names them), the aliases on the cards, ``timm:<name>`` for every network of timm, and
    ``hf-hub:<owner>/<repository>`` for every repository that is laid out for timm.

    Example:
        >>> "texture" in list_encoders()
        True
    """
    return tuple(sorted(name for module in _FAMILIES for name in import_module(module).ENCODERS if ":" not in name))


def read_card(name: str, *, weights: str | Path | None = None) -> Card:
    """What is known about an encoder, without loading its weights.

    Args:
        name: As for :func:`load_encoder`.
        weights: As for :func:`load_encoder`; where a repository's ``config.json`` lies beside the file, it is read.

    Raises:
        UnknownEncoderError: If no encoder goes by this name.

    Example:
        >>> read_card("texture").modality
        'brightfield'
    """
    return find_published(name, weights).card


def load_encoder(
    name: str,
    *,
    device: str = "auto",
    weights: str | Path | None = None,
    precision: str | None = None,
    runtime: str = "auto",
) -> Encoder:
    """Load an encoder, ready to encode.

    Args:
        name: One of :func:`list_encoders` or an alias of it, with or without ``:<variant>``; or ``timm:<name>``; or
            ``hf-hub:<owner>/<repository>``.
        device: ``auto`` for the best one present, or ``cpu``, ``cuda``, ``cuda:0``, ``mps``.
        weights: Weights file, or folder for encoders of several files; None for the published ones; ``"none"`` to fill
            the network by rule, for trying things out: such features mean nothing and are marked.
        precision: ``fp32``, ``bf16`` or ``fp16``; None or ``auto`` for what is best on the device.
        runtime: What runs networks: ``auto``, ``torch`` or ``openvino``.

    Returns:
        The encoder.

    Raises:
        UnknownEncoderError: If no encoder goes by this name.
        ConfigError: If the encoder cannot run with these settings.
        WeightsError: If the weights cannot be had, read or made to fit.
    """
    return find_published(name, weights).load(device=device, weights=weights, precision=precision, runtime=runtime)


def find_published(name: str, weights: str | Path | None) -> Loadable:
    """What a name stands for, before anything is loaded: an encoder's card and how it is made.

    Args:
        name: As for :func:`load_encoder`, with a variant or an alias.
        weights: Beside which an open family (``hf-hub:``) may find the network's configuration.

    Raises:
        UnknownEncoderError: If no encoder goes by this name.
    """
    for beginning, family in _OPEN_FAMILIES.items():
        if name.startswith(beginning):
            found: Loadable = import_module(family).find(name, weights)
            return found
    base, colon, variant = name.partition(":")
    module = _modules().get(base)
    if module is None:
        raise _unknown(name)
    family_of = import_module(module)
    encoders: Mapping[str, Loadable] = family_of.ENCODERS
    own_name = base if base in encoders else _aliases(module)[base].card.name
    known = encoders.get(own_name + colon + variant)
    if known is not None:
        return known
    if hasattr(family_of, "find"):
        chosen: Loadable = family_of.find(own_name + colon + variant)
        return chosen
    there = [f"{own_name}:{one}" for one in encoders[own_name].card.variants]
    raise UnknownEncoderError(
        f"No encoder goes by {name!r}. '{own_name}' has "
        + (f"the variants {', '.join(there)}." if there else f"no variants: pass {own_name}.")
    )


def _unknown(name: str) -> UnknownEncoderError:
    same = [known for known in _modules() if known.lower() == name.lower()]
    near = same or get_close_matches(name.lower().replace("_", "-"), list_encoders(), n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return UnknownEncoderError(
        f"No encoder goes by {name!r}. {hint}There are: {', '.join(list_encoders())}; timm:<name> for any network of "
        "timm; hf-hub:<owner>/<repository>."
    )


def cards_table() -> str:
    """All encoders as a Markdown table: what they take and give, where they come from, under which licence."""
    head = (
        *("name", "dim", "million parameters", "tile px", "network px", "mpp", "other tile sizes", "modality"),
        *("weights", "licence", "trained on", "paper"),
    )
    rows = [head, tuple("---" for _ in head), *(_card_row(read_card(name)) for name in list_encoders())]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)


def _card_row(card: Card) -> tuple[str, ...]:
    return (
        f"`{card.name}`" + "".join(f", `:{variant}`" for variant in card.variants),
        str(card.dim),
        f"{card.parameters:g}" if card.parameters else "",
        str(card.tile_px),
        str(card.input_px or "any"),
        ", ".join(f"{mpp:g}" for mpp in card.mpp) or "any",
        "" if card.unavailable else card.size_policy,
        card.modality,
        _weights_cell(card),
        card.licence,
        ", ".join(card.trained_on) or "nothing",
        card.paper,
    )


def _weights_cell(card: Card) -> str:
    where = card.repo or card.url
    if not where:
        return "never released" if card.parameters else "none: built in"
    return where + " (gated)" * card.gated + f" (not loaded: {card.unavailable})" * bool(card.unavailable)
