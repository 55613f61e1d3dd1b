"""Whether an encoder gives what it should: on tiles by rule, against what is known of it.

A network with the wrong gate, activation, pooling or normalisation loads without a word and gives vectors that look
like vectors. So they are compared with reference vectors that others ship, and with what was recorded here when the
same weights were first checked.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, Shaped

from microtome.encoders.base import Encoder
from microtome.encoders.check_tiles import TILE_NAMES, check_tiles
from microtome.encoders.drift import MIN_COSINE, cosines
from microtome.encoders.hardware import Wanted
from microtome.encoders.references import Record, Reference, read_record, record_path, write_record
from microtome.encoders.registry import load_encoder
from microtome.storage import recipe_changes, recipe_text

RECORD_TOLERANCE = 2e-3
"""Largest distance of a vector from the recorded one, as a share of its length: machines and libraries round
differently, in fp32 by far less than that."""

ALONE_TOLERANCE = 2e-3
"""The same between a tile's vector alone and in a batch."""

LEAST_DIFFERENCE = 1e-4
"""Least distance between the vectors of two tiles that look nothing like each other, as a share of their length."""

_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What.
        passed: Whether it is as it should be; None where there was nothing to compare with.
        text: What was found.
    """

    name: str
    passed: bool | None
    text: str


@dataclass(frozen=True, slots=True)
class Check:
    """What came of the check of one encoder.

    Attributes:
        encoder: Its name.
        findings: All that was looked at.
    """

    encoder: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing was found wrong."""
        return all(finding.passed is not False for finding in self.findings)


def check_encoder(
    name: str,
    wanted: Wanted | None = None,
    *,
    weights: str | Path | None = None,
    references: Sequence[Reference] = (),
    accept: bool = False,
) -> Check:
    """Load an encoder as it would be used and check it; what it gives is recorded the first time.

    Args:
        name: As for :func:`microtome.load_encoder`.
        wanted: Device, precision and runtime; the best ones if None.
        weights: As for :func:`microtome.load_encoder`.
        references: Vectors that others found.
        accept: Record what it gives now in place of what was recorded before.

    Returns:
        The findings.

    Raises:
        UnknownEncoderError: If no encoder goes by this name.
        ConfigError: If the encoder cannot run with these settings.
        WeightsError: If the weights cannot be had, read or made to fit.
        EncoderOutputError: If NaN or infinity came out.
        OutputWriteError: If the record cannot be written.
    """
    wanted = wanted or Wanted()
    encoder = load_encoder(
        name, device=wanted.device, weights=weights, precision=wanted.precision, runtime=wanted.runtime
    )
    tiles = check_tiles(encoder.card.tile_px, encoder.takes[1], encoder.takes[0])
    vectors = encoder.encode(tiles)
    findings = [check_weights(encoder), check_distinct(vectors), check_alone(encoder, tiles, vectors)]
    if (encoder.precision, getattr(encoder, "runtime", "torch")) != ("fp32", "torch") and encoder.weights_hash:
        as_used = f"{encoder.precision} ({getattr(encoder, 'runtime', 'torch')})"
        del encoder  # both may not fit into memory
        encoder = load_encoder(name, device=wanted.device, weights=weights, precision="fp32", runtime="torch")
        exact = encoder.encode(tiles)
        findings.append(check_drift(vectors, exact, as_used))
        vectors = exact
    findings += [check_reference(encoder, reference) for reference in references]
    if encoder.weights_hash:
        findings.append(
            check_record(encoder, vectors, may_write=all(f.passed is not False for f in findings), accept=accept)
        )
    return Check(name, tuple(findings))


def check_weights(encoder: Encoder) -> Finding:
    """Which weights they are."""
    origin, known = encoder.weights_origin, encoder.card.sha256
    if not encoder.weights_hash:
        return Finding("weights", None, "none: it is code alone")
    if origin == "filled":
        return Finding("weights", None, "filled by rule: its vectors mean nothing")
    if known and known != encoder.weights_hash:
        return Finding("weights", None, f"a file of your own: SHA-256 {encoder.weights_hash}, published is {known}")
    if known:
        return Finding("weights", passed=True, text=f"the published file, SHA-256 {known}")
    return Finding("weights", None, f"SHA-256 {encoder.weights_hash}; nobody has pinned the published file yet")


def check_distinct(vectors: Float32[np.ndarray, "n d"]) -> Finding:
    """Whether tiles that look nothing like each other get vectors that differ."""
    apart = [
        (_distance(vectors[i : i + 1], vectors[j : j + 1]).item(), i, j) for i in range(len(vectors)) for j in range(i)
    ]
    least, i, j = min(apart)
    text = f"closest: {TILE_NAMES[j]} and {TILE_NAMES[i]}, {least:.2g} of their length apart"
    return Finding("tiles told apart", least >= LEAST_DIFFERENCE, text)


def check_alone(encoder: Encoder, tiles: Shaped[np.ndarray, "n h w c"], vectors: Float32[np.ndarray, "n d"]) -> Finding:
    """Whether a tile's vector hangs on the others in its batch."""
    far = _distance(encoder.encode(tiles[-1:]), vectors[-1:]).item()
    allowed = ALONE_TOLERANCE if encoder.precision == "fp32" else _apart_at(MIN_COSINE)
    return Finding("alone as in a batch", far <= allowed, f"{far:.2g} of its length apart")


def check_drift(vectors: Float32[np.ndarray, "n d"], exact: Float32[np.ndarray, "n d"], as_used: str) -> Finding:
    """Whether vectors of a lower precision stand for those of fp32."""
    least = float(cosines(vectors, exact).min())
    text = f"{as_used}: cosine to fp32 at least {least:.6f}"
    return Finding("precision", least >= MIN_COSINE, text if least >= MIN_COSINE else f"{text}. Pass --precision fp32.")


def check_reference(encoder: Encoder, reference: Reference) -> Finding:
    """Whether it gives what somebody else found."""
    name = f"reference: {reference.source}"
    if reference.vector.shape != (encoder.card.dim,):
        text = f"it has {len(reference.vector)} numbers, the encoder gives {encoder.card.dim}"
        return Finding(name, passed=False, text=text)
    far = _distance(encoder.encode(reference.tile[None]), reference.vector[None]).item()
    return Finding(name, far <= reference.tolerance, f"{far:.2g} of its length apart, {reference.tolerance:g} allowed")


def check_record(
    encoder: Encoder, vectors: Float32[np.ndarray, "n d"], *, may_write: bool = True, accept: bool = False
) -> Finding:
    """Whether it gives what it gave when the same weights were first checked here; recorded if that is now.

    Args:
        encoder: In fp32, with torch.
        vectors: What it gives for the check's tiles.
        may_write: Whether all else is as it should be: faults are not recorded.
        accept: Record it anew.
    """
    path = record_path(encoder)
    record = None if accept else read_record(path)
    if record is not None:
        return _compare(encoder, vectors, record)
    if not may_write:
        return Finding("as recorded", None, "not recorded, as something else is wrong")
    write_record(path, encoder, vectors)
    return Finding("as recorded", None, f"nothing to compare with yet; recorded now in {path}")


def _compare(encoder: Encoder, vectors: Float32[np.ndarray, "n d"], record: Record) -> Finding:
    name = "as recorded"
    if record.vectors.shape != vectors.shape:
        far, text = np.inf, f"gives {vectors.shape[1]} numbers per tile, gave {record.vectors.shape[1]}"
    else:
        apart = _distance(vectors, record.vectors)
        worst = int(apart.argmax())
        far, text = float(apart[worst]), f"{TILE_NAMES[worst]} is {apart[worst]:.2g} of its length apart"
    if far <= RECORD_TOLERANCE:
        return Finding(name, passed=True, text=f"{text} at most ({record.made})")
    changes = recipe_changes(recipe_text(record.card), recipe_text(asdict(encoder.card)))[:_SHOWN]
    said = f"the card has changed: {'; '.join(changes)}" if changes else "the card has not changed"
    return Finding(
        name,
        passed=False,
        text=f"{text}, {RECORD_TOLERANCE:g} allowed; {said}. The same weights gave something else when they were "
        f"recorded ({record.made}): features from then and now do not go together. If the new ones are the right ones, "
        "pass --accept.",
    )


def _distance(a: Float32[np.ndarray, "n d"], b: Float32[np.ndarray, "n d"]) -> Float64[np.ndarray, " n"]:
    """Distance of vectors as a share of the longer one, row by row."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    length = np.maximum(np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1))
    found: Float64[np.ndarray, " n"] = np.linalg.norm(x - y, axis=1) / np.where(length > 0, length, 1)
    return found


def _apart_at(cosine: float) -> float:
    """Distance of two vectors of length one with this cosine."""
    return float(np.sqrt(2 * (1 - cosine)))
