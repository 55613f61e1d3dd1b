"""What extraction is asked to do for a slide, and what came of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from microtome.tiles.source import TileSource

Stage = Literal["open", "plan", "decode", "encode", "write"]


@dataclass(frozen=True, slots=True)
class Job:
    """One slide to do: its name, and how to open its tiles. What is opened is closed when it is done."""

    slide_id: str
    open: Callable[[], TileSource]


@dataclass(frozen=True, slots=True)
class Extracted:
    """A slide whose features are there.

    Attributes:
        slide_id: Name of the slide.
        path: The file.
        n_tiles: Tiles that were asked for, readable or not.
        n_unreadable: Those of them that could not be decoded and have no row.
        seconds: From opening the slide to its finished file; slides overlap.
        status: ``done`` now, or ``skipped`` because the file was there, made with the same settings.
    """

    slide_id: str
    path: Path
    n_tiles: int
    n_unreadable: int
    seconds: float
    status: Literal["done", "skipped"]


@dataclass(frozen=True, slots=True)
class Failure:
    """A slide that could not be done: in which stage, and why."""

    slide_id: str
    stage: Stage
    error: Exception


@dataclass(slots=True)
class Timings:
    """How long an extraction took and who waited for whom.

    Attributes:
        n_tiles: Tiles encoded (or found unreadable) now.
        n_slides: Slides sealed now.
        seconds: In all.
        decode_wait_s: That a batch at hand waited for its tiles to be decoded, summed over encoder threads. Much of
            it: decoding is the bottleneck.
        encode_s: Spent in the encoder, summed over encoder threads.
        encoder_threads: How many there were.
        write_s: Spent committing and sealing.
        peak_bytes: The most that batches in flight took.
    """

    n_tiles: int = 0
    n_slides: int = 0
    seconds: float = 0.0
    decode_wait_s: float = 0.0
    encode_s: float = 0.0
    write_s: float = 0.0
    peak_bytes: int = 0
    encoder_threads: int = 1

    @property
    def tiles_per_s(self) -> float:
        """Tiles per second over everything."""
        return self.n_tiles / self.seconds if self.seconds > 0 else 0.0

    @property
    def encoder_wait_share(self) -> float:
        """Share of the time, 0..1, in which encoder threads did nothing.

        Whatever they waited for: tiles, the next slide to be opened, the commit of what was encoded, the last seal.
        """
        whole = self.seconds * self.encoder_threads
        return min(1.0, max(0.0, 1 - self.encode_s / whole)) if whole > 0 else 0.0
