"""Look at a cohort before the work: what each file is, who reads it, what will fail and why, how long it will take.

A failure is foreseen by doing what the run does, on a small scale: the same functions open the slide, judge its
resolution, find tissue, lay tiles and read some of them, so the reason is the one that the run would give.
"""

import csv
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from os import cpu_count
from pathlib import Path

import numpy as np

from microtome.config import InspectConfig
from microtome.encoders.base import Card
from microtome.encoders.registry import read_card
from microtome.encoders.zoo import refusal
from microtome.errors import MicrotomeError
from microtome.features.plan import check_card_mpp
from microtome.geometry import Size
from microtome.slides.base import Decode, Slide
from microtome.slides.listing import SlideEntry
from microtome.slides.open import explain_readers
from microtome.storage import Progress, open_progress, written_whole
from microtome.tasks import stages
from microtome.tasks.forecast import Forecast, forecast_cohort
from microtome.tasks.run import list_entries
from microtome.tasks.work import open_entry
from microtome.tiles.grid import Tiles, lay_tiles
from microtome.tiles.slide_tiles import SlideTiles

_SAMPLED_TILES = 8


@dataclass(frozen=True, slots=True)
class Problem:
    """Why the run will fail on a slide: the error's class, in which stage, and its sentence."""

    kind: str
    stage: str
    sentence: str


@dataclass(slots=True)
class InspectedSlide:
    """What is known of one file after looking at it; what it does not have is None."""

    slide_id: str
    path: Path
    n_bytes: int = 0
    reader: str | None = None
    declined: list[tuple[str, str]] = field(default_factory=list)
    size: Size | None = None
    n_levels: int | None = None
    mpp: float | None = None
    mpp_source: str | None = None
    channels: str | None = None
    modality: str | None = None
    fingerprint: str | None = None
    tissue_mm2: float | None = None
    n_tiles: int | None = None
    n_sampled: int = 0
    n_sampled_unreadable: int = 0
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Inspection:
    """A cohort looked at: its slides, what to be warned of, files left out, and a forecast where one was asked for."""

    slides: Sequence[InspectedSlide]
    warnings: Sequence[str]
    ignored: Sequence[tuple[Path, str]]
    forecast: Forecast | None

    @property
    def n_bad(self) -> int:
        """Number of slides that the run would fail on."""
        return sum(slide.problem is not None for slide in self.slides)


def inspect(config: InspectConfig, *, progress: Progress | None = None) -> Inspection:
    """Look at every slide of a cohort and foresee what a run with these settings would do.

    Args:
        config: Settings of the run, and whether to measure.
        progress: Where progress is shown.

    Returns:
        One row per slide with its problem, if any; warnings about duplicates and sampled tiles that cannot be read;
        with ``measure``, the forecast.

    Raises:
        ConfigError: If a setting cannot be honoured, tiles of another resolution than the encoder's among them.
        WeightsError: If the encoder is one that cannot be loaded.
        CohortError: If no slide is found, or two have one slide_id.
    """
    card = read_card(config.encoder, weights=config.weights)
    method, grid = stages.tissue_method(config), stages.tile_grid(config, card)
    _check_encoder(config, card, grid)
    entries, ignored = list_entries(config)
    shown = progress or open_progress(quiet=config.quiet)
    shown.start("inspect", len(entries))
    look = partial(_look, config=config, card=card, grid=grid, method=method)
    slides = []
    with ThreadPoolExecutor(config.workers or cpu_count() or 1) as pool:
        for slide in pool.map(look, entries):
            slides.append(slide)
            shown.advance(n_slides=1)
    shown.finish()
    good = [(e, s) for e, s in zip(entries, slides, strict=True) if s.problem is None]
    forecast = forecast_cohort(config, good, grid=grid, method=method) if config.measure and good else None
    inspection = Inspection(slides, _warnings(slides), ignored, forecast)
    if config.csv is not None:
        write_inspection(config.csv, inspection)
    return inspection


def _check_encoder(config: InspectConfig, card: Card, grid: stages.Grid) -> None:
    """Refuse what the run will refuse before it looks at any slide, without loading weights."""
    if card.unavailable:
        raise refusal(card)
    if card.layouts:  # it has weights
        check_card_mpp("this grid", card, grid.mpp, allow_mismatch=config.allow_mpp_mismatch)


def _look(
    entry: SlideEntry, *, config: InspectConfig, card: Card, grid: stages.Grid, method: stages.TissueMethod
) -> InspectedSlide:
    seen = InspectedSlide(entry.slide_id, entry.path)
    stage = "inspect"
    try:
        seen.n_bytes = entry.path.stat().st_size
        if config.reader == "auto":
            seen.declined = [(v.reader, v.reason) for v in explain_readers(entry.path) if not v.took]
        with open_entry(entry, config) as slide:
            _describe(seen, slide)
            stages.check_slide(slide, needs_mpp=grid.level is None, card=card)
            stage = "tissue"
            given = stages.given_outline(config.tissue_from, entry.slide_id)
            tissue = stages.make_outline(slide, method, given, allow_empty=config.allow_empty)
            seen.tissue_mm2 = tissue.area_mm2
            stage = "tiles"
            tiles = lay_tiles(slide, tissue, grid, allow_empty=config.allow_empty)
            seen.n_tiles = len(tiles) if config.n_tiles is None else min(len(tiles), config.n_tiles)
            stage = "features"
            _sample(seen, slide, tiles, config.decode)
    except (MicrotomeError, OSError) as error:
        seen.problem = Problem(type(error).__name__, stage, str(error))
    return seen


def _describe(seen: InspectedSlide, slide: Slide) -> None:
    seen.reader, seen.size, seen.n_levels = slide.reader, slide.size, len(slide.levels)
    seen.declined = [(reader, reason) for reader, reason in seen.declined if reader != slide.reader]
    seen.mpp, seen.mpp_source = slide.resolution.mpp, slide.mpp_source
    names = ",".join(slide.channels)
    seen.channels = f"{names if len(names) < 40 else f'{len(slide.channels)} channels'} {slide.dtype}"
    seen.fingerprint, seen.modality = slide.fingerprint, slide.modality


def _sample(seen: InspectedSlide, slide: Slide, tiles: Tiles, decode: Decode) -> None:
    """Read a few tiles across the slide: a file can open well and still have parts that do not decode."""
    n = min(_SAMPLED_TILES, len(tiles))
    if n == 0:
        return
    rows = np.unique(np.linspace(0, len(tiles) - 1, n).astype(np.int64))
    batch = SlideTiles(slide, tiles, seen.slide_id, decode=decode).read(rows)
    seen.n_sampled, seen.n_sampled_unreadable = len(rows), int((~batch.readable).sum())


def _warnings(slides: Sequence[InspectedSlide]) -> list[str]:
    warnings = []
    first: dict[str, InspectedSlide] = {}
    for slide in slides:
        if slide.fingerprint is None:
            continue
        twin = first.setdefault(slide.fingerprint, slide)
        if twin is not slide:
            warnings.append(f"'{slide.path}' has the same content as '{twin.path}': one slide counts twice.")
    warnings.extend(
        f"'{slide.path}': {slide.n_sampled_unreadable} of {slide.n_sampled} sampled tiles cannot be decoded."
        for slide in slides
        if slide.n_sampled_unreadable
    )
    return warnings


def write_inspection(path: Path, inspection: Inspection) -> None:
    """Write the inspection as a table (CSV), one row per slide."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            "slide_id",
            "path",
            "bytes",
            "reader",
            "width",
            "height",
            "levels",
            "mpp",
            "mpp_source",
            "channels",
            "modality",
            "tissue_mm2",
            "n_tiles",
            "problem",
            "stage",
            "reason",
        ]
    )
    for s in inspection.slides:
        size = (None, None) if s.size is None else (s.size.width, s.size.height)
        problem = (None, None, None) if s.problem is None else (s.problem.kind, s.problem.stage, s.problem.sentence)
        writer.writerow(
            [
                s.slide_id,
                s.path,
                s.n_bytes,
                s.reader,
                *size,
                s.n_levels,
                s.mpp,
                s.mpp_source,
                s.channels,
                s.modality,
                s.tissue_mm2,
                s.n_tiles,
                *problem,
            ]
        )
    with written_whole(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", newline="")
