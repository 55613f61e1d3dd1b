"""Bring weights to a machine before they are needed, for machines that will have no network."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from microtome.encoders.base import Card
from microtome.encoders.download import Shown
from microtome.encoders.hub import fetch_weights
from microtome.encoders.registry import list_encoders, read_card
from microtome.encoders.weights import cached_weights
from microtome.errors import MicrotomeError, WeightsError
from microtome.storage import hash_file


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of one encoder's weights.

    Attributes:
        name: Of the encoder.
        status: ``done`` now, ``skipped`` because they were here, or ``failed``.
        path: Where they lie; None where they failed.
        reason: Why they failed; empty where they did not.
    """

    name: str
    status: Literal["done", "skipped", "failed"]
    path: Path | None = None
    reason: str = ""


def fetch_encoders(names: Sequence[str], *, make_shown: Callable[[Card], Shown] | None = None) -> Iterator[Fetched]:
    """Bring the weights of some encoders here, one after the other; one that fails does not stop the others.

    Args:
        names: As for :func:`microtome.load_encoder`.
        make_shown: Gives what is told how far an encoder's download is; standard error if None.

    Yields:
        What came of each, as it comes.
    """
    for name in names:
        try:
            yield _fetch(name, make_shown)
        except MicrotomeError as error:
            yield Fetched(name, "failed", None, str(error))


def _fetch(name: str, make_shown: Callable[[Card], Shown] | None) -> Fetched:
    card = read_card(name)
    if card.unavailable:
        raise WeightsError(f"Encoder '{name}' cannot be loaded: {card.unavailable}")
    if not (card.repo or card.url or card.file):
        raise WeightsError(f"Encoder '{name}' has no weights to fetch: {card.access}.")
    there = cached_weights(card)
    path = fetch_weights(card, shown=None if make_shown is None else make_shown(card)) if there is None else there
    if card.sha256 and path.is_file() and hash_file(path) != card.sha256:
        raise WeightsError(
            f"'{path}' is not the published file of '{name}': its SHA-256 is {hash_file(path)}, the card says "
            f"{card.sha256}. Delete it and fetch it again."
        )
    return Fetched(name, "done" if there is None else "skipped", path)


def open_encoders() -> tuple[str, ...]:
    """Names of the encoders whose weights anybody may download without asking, each file once."""
    names: dict[tuple[str, str, str], str] = {}
    for name in list_encoders():
        card = read_card(name)
        if (card.repo or card.link) and not card.gated and not card.unavailable:
            names.setdefault((card.repo, card.file, card.link), name)
    return tuple(names.values())
