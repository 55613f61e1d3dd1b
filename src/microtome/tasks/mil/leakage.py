"""Whether the encoder that made the features may have seen the very slides of a cohort."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from microtome.errors import EncoderError

if TYPE_CHECKING:
    from microtome.encoders.base import Card

_PROJECTS = {
    "TCGA": r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}",
    "CPTAC": r"C3[LN]-\d{5}",
    "GTEx": r"GTEX-[A-Z0-9]{4,5}",
    "CAMELYON": r"(normal|tumor|test)_\d{3}|patient_\d{3}_node_\d",
}
"""Public projects, and how the ids of their slides begin."""


def find_projects(ids: Sequence[str]) -> dict[str, int]:
    """Public projects that slides come from, by their ids: project → number of slides.

    Example:
        >>> find_projects(["TCGA-A6-2671-01Z-00-DX1", "TCGA-AA-3489-01Z-00-DX1", "b12"])
        {'TCGA': 2}
    """
    found = Counter(
        name for slide_id in ids for name, form in _PROJECTS.items() if re.match(form, slide_id, re.IGNORECASE)
    )
    return dict(found)


def card_name(name: str) -> str:
    """Our name of an encoder that may be given under another one; as it is where there is no card."""
    card = _card(name)
    return name if card is None else card.name


def describe_encoder(name: str | None) -> dict[str, Any]:
    """What is known about the encoder of features: its name, and what it was trained on where it has a card."""
    card = None if not name else _card(name)
    if card is None:
        return {"name": name or None, "trained_on": None}
    return {"name": name, "trained_on": list(card.trained_on), "licence": card.licence}


def _card(name: str) -> "Card | None":
    from microtome.encoders.registry import read_card

    try:
        return read_card(name.partition(":")[0])
    except EncoderError:
        return None


def leakage_notes(encoder: Mapping[str, Any], slide_ids: Sequence[str]) -> list[str]:
    """Sentences of warning: the encoder saw this cohort's project, or nobody can tell.

    Args:
        encoder: What :func:`describe_encoder` gave.
        slide_ids: Of the cohort.
    """
    trained_on = encoder["trained_on"]
    projects = find_projects(slide_ids)
    if trained_on is None:
        who = f"encoder {encoder['name']!r}" if encoder["name"] else "the features' encoder"
        return [f"Nothing is known of what {who} was trained on: it may have seen these slides."]
    notes = []
    for project, count in projects.items():
        seen = [data for data in trained_on if data.casefold().startswith(project.casefold())]
        if seen:
            notes.append(
                f"Encoder {encoder['name']!r} was trained on {', '.join(seen)}, and {count} of {len(slide_ids)} slides "
                f"are of {project}: it has seen these slides or ones of the same kind, so results may be too good."
            )
    return notes
