"""How long a cohort will take and how much it will write, measured on its own slides.

Some slides are taken through each stage on a small scale, with the same functions, threads and settings as the run,
into a folder that is deleted; what they took is scaled to the cohort.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from os import cpu_count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from microtome.config import InspectConfig
from microtome.encoders.base import Encoder
from microtome.encoders.registry import load_encoder
from microtome.errors import ConfigError
from microtome.features.extract import extract_all
from microtome.features.outcomes import Extracted, Failure, Job
from microtome.features.store import FeatureStore
from microtome.slides.listing import SlideEntry
from microtome.storage import QuietProgress, now_utc
from microtome.tasks import stages
from microtome.tasks.cluster import Clusters, assign_clusters, cluster_features
from microtome.tasks.extraction import extract_options, open_source
from microtome.tasks.grouping import draw_montages
from microtome.tasks.output import OutputFolder, RunRecord
from microtome.tasks.thumbnails import draw_slide
from microtome.tasks.umap import MIN_POINTS, umap_features
from microtome.tasks.work import Work, open_entry
from microtome.tiles.grid import Grid
from microtome.tiles.store import read_tiles
from microtome.viz.report import write_report

if TYPE_CHECKING:
    from microtome.tasks.inspect import InspectedSlide

_MEASURED_SLIDES = 4
_MEASURED_TILES = 256  # per slide, through the whole loop
_TIMED_TILES = 32  # per slide, decoding and encoding apart
_DISK_SAMPLE = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class StageForecast:
    """One stage over the whole cohort.

    Attributes:
        name: The stage.
        measured: The speed that was measured, as text.
        hours: Expected wall time.
        gigabytes: Expected size of what it writes.
        bottleneck: What it waits for most: disk, decoding, the encoder, or its own arithmetic.
    """

    name: str
    measured: str
    hours: float
    gigabytes: float
    bottleneck: str


@dataclass(frozen=True, slots=True)
class Forecast:
    """All stages over the whole cohort."""

    stages: Sequence[StageForecast]
    n_tiles: int

    @property
    def hours(self) -> float:
        """Wall time of all stages."""
        return sum(stage.hours for stage in self.stages)

    @property
    def gigabytes(self) -> float:
        """Size of everything that is written."""
        return sum(stage.gigabytes for stage in self.stages)


@dataclass(frozen=True, slots=True)
class _Speeds:
    """Seconds per tile of each resource, one thread."""

    disk: float
    decode: float
    encode: float

    @property
    def bottleneck(self) -> str:
        return max(("disk", self.disk), ("decoding", self.decode), ("encoder", self.encode), key=lambda p: p[1])[0]


def forecast_cohort(
    config: InspectConfig,
    good: "Sequence[tuple[SlideEntry, InspectedSlide]]",
    *,
    grid: Grid,
    method: stages.TissueMethod,
) -> Forecast:
    """Measure some slides of a cohort and scale to all of it.

    Args:
        config: Settings of the run.
        good: The slides that the run will finish, with the number of tiles that each will have.
        grid: How tiles are laid.
        method: How tissue is found.

    Returns:
        Hours and GB per stage.
    """
    picked = [good[i] for i in np.unique(np.linspace(0, len(good) - 1, _MEASURED_SLIDES).astype(int))]
    n_tiles = sum(seen.n_tiles or 0 for _, seen in good)
    with tempfile.TemporaryDirectory(prefix="microtome-measure-") as scratch:
        work = Work(
            config.model_copy(update={"out": Path(scratch)}),
            OutputFolder(Path(scratch)),
            [entry for entry, _ in picked],
            QuietProgress(),
            RunRecord(started=now_utc(), config={}),
        )
        share = len(good) / len(picked)
        looked = [
            _per_slide(work, "tissue", partial(stages.outline_tissue, work, method=method), share),
            _per_slide(work, "tiles", partial(stages.lay_slide, work, grid=grid), share),
            _per_slide(work, "thumbnails", partial(draw_slide, work, with_tiles=True), share),
        ]
        encoder = load_encoder(
            config.encoder,
            device=config.devices[0],
            weights=config.weights,
            precision=config.precision,
            runtime=config.runtime,
        )
        speeds = _time_apart(work, encoder, [seen.n_bytes for _, seen in picked])
        store = FeatureStore(work.folder.features("measured"))
        looked.append(_features(work, config, encoder, store, speeds=speeds, n_tiles=n_tiles))
        looked.extend(_grouping(work, config, store, n_tiles))
        looked.append(_report(work, share))
    return Forecast(looked, n_tiles)


def _per_slide(work: Work, name: str, step: Callable[[SlideEntry], bool], share: float) -> StageForecast:
    before = _folder_bytes(work.folder.root)
    began = time.monotonic()
    with ThreadPoolExecutor(work.threads) as pool:
        list(pool.map(step, work.entries))
    seconds = time.monotonic() - began
    written = _folder_bytes(work.folder.root) - before
    return StageForecast(
        name,
        f"{seconds / len(work.entries):.3g} s/slide",
        seconds * share / 3600,
        written * share / 1e9,
        "decoding" if name != "tiles" else "none",
    )


def _time_apart(work: Work, encoder: Encoder, n_bytes: Sequence[int]) -> _Speeds:
    """Time disk, decoding and encoding one after another, in one thread."""
    disk, decode, encode, n = 0.0, 0.0, 0.0, 0
    for entry, size in zip(work.entries, n_bytes, strict=True):
        with open_entry(entry, work.config) as slide:
            tiles = read_tiles(work.folder.tiles(entry.slide_id))
            if len(tiles) == 0:
                continue
            rows = np.unique(np.linspace(0, len(tiles) - 1, _TIMED_TILES).astype(np.int64))
            with open_source(work, entry) as source:
                began = time.perf_counter()
                images = source.read(rows).images
                decode += time.perf_counter() - began
                measured = encoder.for_slide(source)
            began = time.perf_counter()
            measured.encode(images)
            encode += time.perf_counter() - began
            # the share of the file that a tile costs: what the tissue's part of level 0 holds
            area = float((tiles.boxes[:, 2] * tiles.boxes[:, 3]).mean()) / slide.size.area
            disk += _seconds_per_byte(entry.path) * size * area * len(rows)
            n += len(rows)
    return _Speeds(disk / max(n, 1), decode / max(n, 1), encode / max(n, 1))


def _seconds_per_byte(path: Path) -> float:
    """Time plain reading; what the system has cached reads fast, as it will in the run."""
    began = time.perf_counter()
    with path.open("rb") as file:
        n = len(file.read(_DISK_SAMPLE))
    return (time.perf_counter() - began) / max(n, 1)


def _features(
    work: Work, config: InspectConfig, encoder: Encoder, store: FeatureStore, *, speeds: _Speeds, n_tiles: int
) -> StageForecast:
    """Run the extraction loop itself on some tiles of the picked slides."""
    options = replace(extract_options(config), n_tiles=min(config.n_tiles or _MEASURED_TILES, _MEASURED_TILES))
    jobs = [Job(entry.slide_id, partial(open_source, work, entry)) for entry in work.entries]
    done: list[Extracted | Failure] = []
    timings = extract_all(jobs, encoder, store, options, on_done=done.append)
    per_tile = timings.seconds / max(timings.n_tiles, 1)
    written = _folder_bytes(store.folder) / max(timings.n_tiles, 1)
    return StageForecast(
        "features",
        f"{1 / per_tile:.0f} tiles/s with {config.workers or cpu_count() or 1} thread(s); one thread: disk "
        f"{_rate(speeds.disk)}, decoding {_rate(speeds.decode)}, encoder {_rate(speeds.encode)} tiles/s",
        per_tile * n_tiles / 3600,
        written * n_tiles / 1e9,
        speeds.bottleneck,
    )


def _grouping(work: Work, config: InspectConfig, store: FeatureStore, n_tiles: int) -> list[StageForecast]:
    """Cluster and lay out the features that were measured; nothing where they are too few for it."""
    slide_ids = [entry.slide_id for entry in work.entries if entry.slide_id in store]
    n_rows = sum(len(store[slide_id]) for slide_id in slide_ids)
    if n_rows < max(config.n_clusters, MIN_POINTS):
        return []
    before = _folder_bytes(work.folder.root)
    began = time.monotonic()
    try:
        clusters = cluster_features(store, n_clusters=config.n_clusters, seed=config.seed, slide_ids=slide_ids)
        assign_clusters(store, clusters, work.folder.clusters, slide_ids=slide_ids)
        draw_montages(work, slide_ids)
    except ConfigError:  # too few tiles differ
        return []
    seconds = time.monotonic() - began
    written = _folder_bytes(work.folder.root) - before
    more = max(1.0, n_tiles / n_rows)
    found = [
        StageForecast(
            "clusters", f"{seconds:.3g} s, {n_rows} tiles", seconds * more / 3600, written * more / 1e9, "k-means"
        )
    ]
    if config.umap_points >= MIN_POINTS:
        # twice: the first call compiles, which costs the same however many points there are
        first, second = (_time_umap(store, clusters, config, slide_ids) for _ in range(2))
        points = min(config.umap_points, n_tiles)
        seconds = max(0.0, first - second) + second * points / min(points, n_rows)
        found.append(StageForecast("umap", f"{seconds:.3g} s, {points} points", seconds / 3600, points * 32e-9, "UMAP"))
    return found


def _time_umap(store: FeatureStore, clusters: Clusters, config: InspectConfig, slide_ids: Sequence[str]) -> float:
    began = time.monotonic()
    umap_features(store, clusters, n_points=config.umap_points, seed=config.seed, slide_ids=slide_ids)
    return time.monotonic() - began


def _report(work: Work, share: float) -> StageForecast:
    """Draw the report of what was measured; it grows with the number of slides."""
    work.finish()
    began = time.monotonic()
    written = write_report(work.folder.root).stat().st_size
    seconds = time.monotonic() - began
    return StageForecast(
        "report",
        f"{seconds / len(work.entries):.3g} s/slide",
        seconds * share / 3600,
        written * share / 1e9,
        "pictures",
    )


def _rate(seconds: float) -> str:
    return f"{1 / seconds:.0f}" if seconds > 0 else "any"


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
