"""What the command line prints: summaries and tables, for people."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from microtome.encoders.base import Card
    from microtome.tasks.inspect import Inspection
    from microtome.tasks.run import RunResult

_console = Console(highlight=False, soft_wrap=True)
_LIST_WIDTH = 180  # narrower, a table of ten columns breaks words


def say(text: str) -> None:
    """Print a line; markup in it (slide names may hold brackets) is not interpreted."""
    _console.print(Text(text))


def show_summary(result: "RunResult") -> None:
    """Print what was done, skipped and failed, and where the result is."""
    record = result.record
    unfinished = f", unfinished {len(record.unfinished)}" if record.unfinished else ""
    say(
        f"\ndone {len(record.done)}, skipped {len(record.skipped)} (finished earlier), failed {len(record.failed)}"
        f"{unfinished}"
    )
    for failure in record.failed:
        _console.print(Text(f"  {failure.slide_id}", style="bold red"), Text(f"({failure.stage}) {failure.reason}"))
    if record.ignored:
        say(f"ignored {len(record.ignored)} file(s) that are no slides; run.json lists them")
    for note in record.notes:
        say(note)
    say(f"Table:   {result.folder.slides_csv}")
    if result.report is not None:
        say(f"Report:  {result.report}")


def show_inspection(inspection: "Inspection") -> None:
    """Print the table of a cohort, its problems, and the forecast where one was measured."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("slide", "reader", "size", "levels", "mpp", "from", "channels", "verdict"):
        table.add_column(column, overflow="fold")
    for slide in inspection.slides:
        verdict = Text("ok", style="green") if slide.problem is None else Text(slide.problem.kind, style="red")
        size = "" if slide.size is None else f"{slide.size.width}×{slide.size.height}"
        mpp = "" if slide.mpp is None else f"{slide.mpp:.4g}"
        cells = (
            slide.slide_id,
            slide.reader or "",
            size,
            str(slide.n_levels or ""),
            mpp,
            slide.mpp_source or "",
            slide.channels or "",
        )
        table.add_row(*(Text(cell) for cell in cells), verdict)
    _console.print(table)
    for slide in inspection.slides:
        if slide.problem is not None:
            _console.print(Text(f"\n{slide.path}", style="bold red"), Text(slide.problem.sentence))
        for reader, reason in slide.declined:
            _console.print(Text(f"{slide.slide_id}: not read by {reader}: {reason}", style="dim"))
    for text in inspection.warnings:
        _console.print(Text(text, style="yellow"))
    for path, reason in inspection.ignored:
        _console.print(Text(f"ignored {path}: {reason}", style="dim"))
    say(f"\n{len(inspection.slides)} slide(s), {inspection.n_bad} will fail")
    if inspection.forecast is not None:
        show_forecast(inspection)


def show_forecast(inspection: "Inspection") -> None:
    """Print measured speeds and what they mean for the whole cohort."""
    forecast = inspection.forecast
    if forecast is None:
        return
    table = Table(box=None, header_style="bold", pad_edge=False, title="Forecast for the cohort", title_justify="left")
    for column in ("stage", "measured", "hours", "written", "bottleneck"):
        table.add_column(column)
    for stage in forecast.stages:
        table.add_row(stage.name, stage.measured, f"{stage.hours:.3g}", f"{stage.gigabytes:.3g} GB", stage.bottleneck)
    _console.print(table)
    say(f"{forecast.n_tiles} tiles expected; {forecast.hours:.3g} h and {forecast.gigabytes:.3g} GB in all")


def show_cards(cards: Sequence["Card"]) -> None:
    """Print one line per encoder."""
    from microtome.encoders.weights import cached_weights

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in (
        "name",
        "dim",
        "M params",
        "tile px",
        "mpp",
        "modality",
        "weights",
        "cached",
        "licence",
        "trained on",
    ):
        table.add_column(column)
    for card in cards:
        mpp = ", ".join(f"{m:g}" for m in card.mpp) or "any"
        trained = ", ".join(card.trained_on) or "nothing"
        size = f"{card.parameters:g}" if card.parameters else ""
        weights = "cannot be loaded" if card.unavailable else card.access.partition(":")[0]
        cached = "yes" if cached_weights(card) else ""
        cells = (card.name, str(card.dim), size, str(card.tile_px), mpp, card.modality, weights, cached, card.licence)
        table.add_row(*(Text(cell) for cell in (*cells, trained)))
    Console(highlight=False, soft_wrap=True, width=max(_console.width, _LIST_WIDTH)).print(table)


def show_card(card: "Card") -> None:
    """Print everything that is known about one encoder."""
    from microtome.encoders.weights import cached_weights

    found = cached_weights(card)
    known: dict[str, object] = {**asdict(card), "access": card.access, "cached": str(found) if found else "no"}
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in known.items():
        shown = ", ".join(str(v) for v in value) if isinstance(value, tuple) else str(value)
        table.add_row(Text(name, style="bold"), Text(shown))
    _console.print(table)
