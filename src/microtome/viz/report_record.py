"""What run.json and slides.csv say of the whole run, put into words for the report."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from microtome.viz.report_format import show_area, show_count, show_duration, show_period, total

_INTENDED_USE = "For research use only. Not for diagnosis or treatment decisions."
STATUSES = {
    "done": "finished by the last run",
    "skipped": "finished by an earlier run, nothing was left to do",
    "unfinished": "the run ended before its turn",
    "failed": "see the reasons at the top",
}
"""What the statuses of slides.csv mean."""
_CARD_LABELS = {
    "name": "Name", "licence": "Licence", "citation": "Citation", "paper": "Paper", "code": "Code",
    "trained_on": "Trained on", "intended_use": "Intended use", "dim": "Features per tile", "tile_px": "Tile, px",
    "mpp": "Made for, µm/px", "modality": "Modality", "pooling": "Pooling", "precision": "Precision",
    "repo": "Weights from", "file": "File", "revision": "Revision", "weights_sha256": "Weights, SHA-256",
    "gated": "Access on request",
}  # fmt: skip
_CARD_ALWAYS = {"licence": "not stated", "citation": "not stated", "trained_on": "none named"}


@dataclass(frozen=True, slots=True)
class Figure:
    """A number of the summary: its exact value and how it is shown; ``mood`` is empty, ``warned`` or ``failed``."""

    name: str
    label: str
    value: str
    shown: str
    unit: str = ""
    detail: str = ""
    mood: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """A slide that failed."""

    slide_id: str
    path: str
    stage: str
    error: str
    reason: str


@dataclass(frozen=True, slots=True)
class Stage:
    """Seconds of a stage, and its share of all in percent."""

    name: str
    seconds: str
    percent: float


@dataclass(frozen=True, slots=True)
class Fact:
    """One line about the encoder."""

    name: str
    label: str
    value: str
    link: bool


def run_heading(run: Mapping[str, Any]) -> dict[str, str]:
    """Version, period, seed and intended use; empty where the record does not say."""
    started, ended = _text(run.get("started")), _text(run.get("ended"))
    return {
        "version": _text(run.get("microtome")),
        "period": show_period(started, ended),
        "seed": _text(as_mapping(run.get("config")).get("seed")),
        "intended_use": _text(run.get("intended_use")) or _INTENDED_USE,
    }


def key_figures(rows: Sequence[Mapping[str, str]], totals: Mapping[str, str], run: Mapping[str, Any]) -> list[Figure]:
    """The numbers at the top: sums over slides.csv, and the time of all stages."""
    status = Counter(row["status"] for row in rows)
    counts = ", ".join(f"{status[name]}\u00a0{name}" for name in STATUSES if status[name])
    n_hit = sum(row["n_unreadable"] not in ("", "0") for row in rows)
    seconds = {str(name): s for name, s in as_mapping(run.get("seconds")).items() if isinstance(s, int | float)}
    figures = [
        Figure(
            "slides",
            "slides",
            str(len(rows)),
            show_count(str(len(rows))),
            detail=counts,
            mood="failed" if status["failed"] else "",
        ),
        Figure("tissue_mm2", "tissue", totals["tissue_mm2"], show_area(totals["tissue_mm2"]), "mm²"),
        Figure("n_tiles", "tiles", totals["n_tiles"], show_count(totals["n_tiles"])),
        Figure(
            "n_unreadable",
            "unreadable tiles",
            totals["n_unreadable"],
            show_count(totals["n_unreadable"]),
            detail=f"on {n_hit} slide{'' if n_hit == 1 else 's'}" if n_hit else "",
            mood="warned" if n_hit else "",
        ),
    ]
    if seconds:
        value = total([repr(s) for s in seconds.values()])
        longest = max(seconds, key=lambda name: seconds[name])
        detail = f"most for {longest}: {show_duration(repr(seconds[longest]))}"
        figures.append(Figure("seconds", "all stages", value, show_duration(value), detail=detail))
    return figures


def list_failures(rows: Sequence[Mapping[str, str]], run: Mapping[str, Any]) -> list[Failure]:
    """Failures of run.json, then those that only slides.csv knows."""
    told = [
        Failure(*(_text(item.get(name)) for name in ("slide_id", "path", "stage", "error", "reason")))
        for item in map(as_mapping, as_list(as_mapping(run.get("slides")).get("failed")))
    ]
    named = {failure.slide_id for failure in told}
    rest = [
        Failure(row["slide_id"], row["path"], "", "", row["error"])
        for row in rows
        if row["status"] == "failed" and row["slide_id"] not in named
    ]
    return told + rest


def describe_provenance(run: Mapping[str, Any]) -> dict[str, object]:
    """Encoder, stages, versions, settings and ignored files, for the template."""
    config = as_mapping(run.get("config"))
    card = as_mapping(run.get("encoder"))
    ignored = [(_text(i.get("path")), _text(i.get("reason"))) for i in map(as_mapping, as_list(run.get("ignored")))]
    return {
        "encoder": {"name": _text(card.get("name")), "facts": _facts(card)},
        "stages": _stages(as_mapping(run.get("seconds"))),
        "versions": [(str(name), _text(value)) for name, value in as_mapping(run.get("versions")).items()],
        "settings": yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=100) if config else "",
        "ignored": ignored,
    }


def _facts(card: Mapping[str, Any]) -> list[Fact]:
    """What is known of the encoder: licence, citation and training data always, the rest where it says something."""
    if not card:
        return []
    facts = []
    for name, label in _CARD_LABELS.items():
        value = _text(card.get(name)) or _CARD_ALWAYS.get(name, "")
        if value:
            facts.append(Fact(name, label, value, value.startswith("https://") and " " not in value))
    return facts


def _stages(seconds: Mapping[str, Any]) -> list[Stage]:
    known = {str(name): float(s) for name, s in seconds.items() if isinstance(s, int | float)}
    longest = max(known.values(), default=0.0) or 1.0
    return [Stage(name, repr(seconds[name]), round(100 * s / longest, 1)) for name, s in known.items()]


def _text(value: object) -> str:
    """A value of run.json in words; nothing for what is absent or false."""
    if value is None or value is False:
        return ""
    if value is True:
        return "yes"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return str(value)


def as_mapping(value: object) -> Mapping[str, Any]:
    """A JSON object; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> Sequence[Any]:
    """A JSON array; an empty one for anything else."""
    return value if isinstance(value, list) else []
