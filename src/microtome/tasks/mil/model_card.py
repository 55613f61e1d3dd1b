"""The page that travels with a model, for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from microtome.errors import EncoderError

_LIMITS = (
    "For research only: not a medical device, not for diagnosis or treatment decisions.",
    "Outputs hold for slides like those it was trained on: the same tissue, stain, scanners and labels. Evaluate it on "
    "slides of your own before you rely on it.",
    "Attributions say what moved the output of this model, not what is there, and not what causes the label.",
    "Names of training patients are kept as salted hashes, so that they can be recognised. Whoever can guess a name "
    "can test it: hashing is no anonymisation.",
)


def model_card(record: Mapping[str, Any]) -> str:
    """Markdown that says what a model is for, what it takes, how good it is, and what it is not.

    Args:
        record: The content of ``model.json``.
    """
    target, training = record["target"], dict(record["training"])
    notes = training.pop("notes", [])
    encoder = training.pop("encoder", None)
    classes = f", classes {', '.join(target['classes'])}" if target["classes"] else ""
    n_members = record["n_members"]
    members = "" if n_members == 1 else f"; {n_members} members, whose logits are averaged"
    sections = [
        f"# {target['name']}: {record['spec']['name']}",
        record["intended_use"],
        "## Output",
        f"`{target['name']}`, {target['type']}{classes}, one per {record['unit']}. Objective "
        f"`{record['objective']['name']}`{members}. {_calibration(record['calibration'])}",
        "## Input",
        _table(("of the features", "value"), _feature_rows(record["features"])),
        *_encoder(record["features"]["encoder"], encoder),
        "## Training",
        _table(
            ("", "value"),
            [
                ("patients (hashed in model.json)", len(record["training_patients"]["sha256"])),
                ("slides (hashed in model.json)", len(record["training_slides"]["sha256"])),
                *((str(name), value) for name, value in training.items()),
            ],
        ),
        *(f"- {note}" for note in notes),
        "## Metrics",
        _metrics(record["metrics"]),
        "## Limits",
        "\n".join(f"- {limit}" for limit in _LIMITS),
        f"Written by microtome {record['microtome']}.",
    ]
    return "\n\n".join(sections) + "\n"


def _calibration(calibration: Mapping[str, Any] | None) -> str:
    if calibration is None:
        return "Not calibrated."
    return f"Calibrated on held-out predictions ({calibration['kind']})."


def _feature_rows(features: Mapping[str, Any]) -> list[tuple[str, object]]:
    names = ("encoder", "weights_sha256", "n_features", "tile_px", "mpp", "level", "precision")
    rows: list[tuple[str, object]] = [(name, features[name]) for name in names if features[name] not in (None, "")]
    return rows + [(name, value) for name, value in features["laying"].items() if value not in (None, {})]


def _encoder(name: str | None, described: Any) -> list[str]:  # noqa: ANN401 - what the trainer wrote
    if name is None:
        return ["The features do not say which encoder made them, so nobody knows its licence or training data."]
    from microtome.encoders.registry import read_card

    try:
        card = read_card(name)
    except EncoderError:
        seen = described.get("trained_on") if isinstance(described, Mapping) else None
        return [f"Encoder `{name}` has no card here; trained on: {', '.join(seen) if seen else 'unknown'}."]
    seen_text = ", ".join(card.trained_on) or "nothing"
    return [
        f"Encoder `{name}`: licence {card.licence or 'unknown'}; trained on {seen_text}. {card.intended_use}".strip()
    ]


def _metrics(metrics: Mapping[str, Mapping[str, float | None]]) -> str:
    if not metrics:
        return "None were given. Nobody knows how good this model is."
    rows = [
        (name, *("" if values.get(k) is None else f"{values[k]:.3f}" for k in ("estimate", "low", "high")))
        for name, values in metrics.items()
    ]
    return _table(("metric", "estimate", "low (95 %)", "high (95 %)"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
