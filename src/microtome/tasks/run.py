"""The main job: inspect → tissue → tiles → features → clusters → UMAP → report.

Each stage goes over all slides before the next begins, each output is written whole, and a run on the same folder
does what is missing. How far a run goes is said by its settings: those of ``tissue``, ``tile``, ``extract`` or ``run``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from microtome.cohort import read_cohort
from microtome.config import ExtractConfig, FeatureConfig, RunConfig, SlideOptions, TileConfig, TissueConfig
from microtome.encoders.base import Encoder
from microtome.encoders.registry import load_encoder
from microtome.errors import CohortError
from microtome.features.plan import check_mpp
from microtome.features.store import FeatureStore
from microtome.slides.listing import SlideEntry, list_slides
from microtome.storage import Progress, now_utc, open_progress
from microtome.tasks import stages
from microtome.tasks.coords import extract_coords
from microtome.tasks.extraction import extract_slides, measure_slide, save_tile_images
from microtome.tasks.grouping import group_slides
from microtome.tasks.output import OutputFolder, RunRecord, SlideRow
from microtome.tasks.thumbnails import draw_failed, draw_slide
from microtome.tasks.tile_sets import extract_tile_sets, list_tile_sets
from microtome.tasks.work import Work, held
from microtome.tiles.grid import Grid

_IN_USE = ("precision", "runtime", "runtime_version", "weights_origin")


@dataclass(frozen=True, slots=True)
class RunResult:
    """What came of a run: the folder, the record of run.json, one row per slide, and the report where one was drawn.

    ``lost`` says which of several processes died; their slides were done by the others.
    """

    folder: OutputFolder
    record: RunRecord
    rows: Sequence[SlideRow]
    report: Path | None
    lost: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether anything went wrong."""
        return bool(self.record.failed or self.lost)


@dataclass(frozen=True, slots=True)
class Helped:
    """What other processes have done for a run before it.

    Attributes:
        seconds: What each slide took that they made.
        device: The devices, as they were asked for.
        lost: Which of them died, and how.
        notes: For run.json.
    """

    seconds: Mapping[str, float]
    device: str
    lost: tuple[str, ...] = ()
    notes: Sequence[str] = ()


class RunStoppedError(KeyboardInterrupt):
    """Ctrl-C ended a run; what was under way has ended too, what is finished is kept, the tables are written.

    Attributes:
        result: How far it came.
    """

    def __init__(self, result: RunResult) -> None:
        super().__init__("The run was stopped. The same call goes on from there.")
        self.result = result


def run(config: TissueConfig, *, progress: Progress | None = None) -> RunResult:
    """Do the stages that the settings cover, on every slide, and say what was done, skipped and failed.

    A bad slide fails alone, with its reason in the result, in slides.csv and in run.json.

    Args:
        config: Settings of ``microtome tissue``, ``tile``, ``extract`` or ``run``; their class says how far to go.
        progress: Where progress is shown; by default the terminal, or plain lines in a log.

    Returns:
        The outcome; ``result.record.failed`` is empty when nothing failed.

    Raises:
        ConfigError: If a setting cannot be honoured, before any slide is touched.
        CohortError: If no slide is found, or two have one slide_id.
        OutputWriteError: If the output folder cannot be written at all.
        RunStoppedError: After Ctrl-C (a KeyboardInterrupt), once what was under way has ended.
        WorkerError: If several devices were named and the processes of all of them died.
    """
    progress = progress or open_progress(quiet=config.quiet)
    if isinstance(config, FeatureConfig) and len(config.devices) > 1:
        from microtome.tasks.devices import run_on_devices

        return run_on_devices(config, progress)
    return run_here(config, progress)


def run_here(config: TissueConfig, progress: Progress, helped: Helped | None = None) -> RunResult:
    """:func:`run` in this process, on one device.

    Args:
        config: Settings.
        progress: Where progress is shown.
        helped: What other processes have done of it.
    """
    encoder = None
    if isinstance(config, FeatureConfig):
        encoder = load_encoder(
            config.encoder,
            device=config.device,
            weights=config.weights,
            precision=config.precision,
            runtime=config.runtime,
        )
    method = stages.tissue_method(config)
    grid = stages.tile_grid(config, encoder.card if encoder else None) if isinstance(config, TileConfig) else None
    _check_resolution(config, encoder, grid)
    work = start_work(config, encoder, progress)
    if helped is not None:
        count_help(work, helped)
    report = None
    try:
        work.save()  # a folder that cannot be written is found out now
        store = None
        if encoder is not None and isinstance(config, ExtractConfig) and config.is_supplied:
            extract_supplied(work, config, encoder)
        else:
            _look_and_lay(work, method, grid, encoder)
            if isinstance(config, FeatureConfig) and encoder is not None and grid is not None:
                store = extract_slides(work, config, encoder, grid)
        if isinstance(config, RunConfig) and store is not None:
            group_slides(work, config, store)
            work.finish()
            report = draw_report(work)
    except KeyboardInterrupt:
        work.save_if_possible()
        raise RunStoppedError(_result(work, None)) from None
    work.finish()
    return replace(_result(work, report), lost=() if helped is None else helped.lost)


def count_help(work: Work, helped: Helped) -> None:
    """Enter in the books what other processes have done."""
    for slide_id, seconds in helped.seconds.items():
        if slide_id in work.rows:
            work.worked.add(slide_id)
            work.rows[slide_id].seconds += seconds
    work.record.config["device"] = helped.device
    work.record.notes.extend(helped.notes)


def _check_resolution(config: TissueConfig, encoder: Encoder | None, grid: Grid | None) -> None:
    """Refuse now what every slide's tiles would be refused for."""
    supplied = isinstance(config, ExtractConfig) and config.is_supplied
    if isinstance(config, FeatureConfig) and encoder is not None and grid is not None and not supplied:
        check_mpp("this grid", encoder, grid.mpp, allow_mismatch=config.allow_mpp_mismatch)


def extract_supplied(work: Work, config: ExtractConfig, encoder: Encoder) -> FeatureStore:
    """Extract features of tiles that are supplied; nothing is laid."""
    if config.tiles is not None:
        return extract_tile_sets(work, config, encoder)
    return extract_coords(work, config, encoder)


def _look_and_lay(work: Work, method: stages.TissueMethod, grid: Grid | None, encoder: Encoder | None) -> None:
    """All stages before features."""
    config = work.config
    needs_mpp = grid is not None and grid.level is None
    card = None if encoder is None else encoder.card
    work.each("inspect", partial(stages.inspect_slide, work, needs_mpp=needs_mpp, card=card))
    work.each("tissue", partial(stages.outline_tissue, work, method=method))
    if grid is not None:
        work.each("tiles", partial(stages.lay_slide, work, grid=grid))
    work.each("thumbnails", partial(draw_slide, work, with_tiles=grid is not None))
    draw_failed(work)
    if isinstance(config, TileConfig) and config.save_tiles:
        work.each("tile images", partial(save_tile_images, work))
    if isinstance(config, TileConfig) and config.quality_flags and encoder is None:
        work.each("quality flags", partial(measure_slide, work))


def _result(work: Work, report: Path | None) -> RunResult:
    return RunResult(work.folder, work.record, [work.rows[e.slide_id] for e in work.entries], report)


def start_work(config: TissueConfig, encoder: Encoder | None, progress: Progress) -> Work:
    """List the slides and open the books."""
    ignored: list[tuple[Path, str]] = []
    if isinstance(config, ExtractConfig) and config.tiles is not None:
        entries = list_tile_sets(config)
    else:
        entries, ignored = list_entries(config)
    record = RunRecord(
        started=now_utc(),
        config=config.model_dump(mode="json"),
        encoder={} if encoder is None else encoder_record(encoder),
        ignored=[(str(path), reason) for path, reason in ignored],
    )
    return Work(config, OutputFolder(config.out), entries, progress, record)


def encoder_record(encoder: Encoder) -> dict[str, object]:
    """The encoder's card, and what of it is in use: weights, device, precision, and what computes it."""
    in_use = {name: encoder.recipe[name] for name in _IN_USE if name in encoder.recipe}
    if encoder.runtime_note:
        in_use["runtime_note"] = encoder.runtime_note
    return {
        **asdict(encoder.card),
        "weights_sha256": encoder.weights_hash,
        "in_use": {"device": encoder.device, **in_use},
    }


def list_entries(options: SlideOptions) -> tuple[list[SlideEntry], list[tuple[Path, str]]]:
    """The slides that the settings name: files, folders, patterns, and a cohort table.

    With a table, its rows are the cohort: rows with a path are taken as they are, the others are found by slide_id
    among the named slides.

    Raises:
        CohortError: If there is no slide at all, or a row of the table has no file.
    """
    listing = list_slides(options.slides)
    if options.cohort is None:
        if not listing.entries:
            raise CohortError(
                f"There is no slide in {', '.join(options.slides) or 'an empty list of paths'}. Name slide files, "
                "folders or patterns, or pass --cohort."
            )
        return listing.entries, listing.ignored
    found = {entry.slide_id: entry.path for entry in listing.entries}
    entries = []
    for row in read_cohort(options.cohort).slides:
        path = row.path or found.get(row.slide_id)
        if path is None:
            raise CohortError(
                f"Cohort table '{options.cohort}' has slide {row.slide_id!r} without a path, and no named slide goes "
                "by that name. Add a path column, or name the folder that holds it."
            )
        entries.append(SlideEntry(row.slide_id, path, row.mpp, row.patient_id))
    listed = {entry.slide_id for entry in entries}
    extra = [(e.path, "not in the cohort table") for e in listing.entries if e.slide_id not in listed]
    return entries, [*listing.ignored, *extra]


def draw_report(work: Work) -> Path:
    """Write report.html from what is in the folder."""
    from microtome.viz.report import write_report

    with held(work.folder.report):
        return write_report(work.folder.root)
