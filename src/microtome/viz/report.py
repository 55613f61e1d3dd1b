"""The report: one HTML file to look at, made from nothing but the files of an output folder.

It needs no network and no other file: pictures are data URIs, styles and the script are inline, and a content
security policy lets nothing else run, whatever stands in a slide's name.
"""

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment

from microtome.errors import CorruptOutputError
from microtome.storage import write_text
from microtome.viz.overlay import OUTLINE_COLOR, TILE_COLOR
from microtome.viz.page import page_environment
from microtome.viz.report_clusters import view_clusters
from microtome.viz.report_colours import css_colour, distinct_colours
from microtome.viz.report_format import (
    show_area,
    show_count,
    show_duration,
    show_mpp,
    show_share,
    total,
)
from microtome.viz.report_inputs import ClusterRow, OutputFiles, UmapTable
from microtome.viz.report_record import (
    STATUSES,
    as_list,
    as_mapping,
    describe_provenance,
    key_figures,
    list_failures,
    run_heading,
)
from microtome.viz.report_slides import SlideCard, slide_cards

REPORT_FILE = "report.html"
_THUMBNAIL_BYTES = 28_000_000  # of all thumbnails together; base64 makes them a third larger
_MONTAGE_BYTES = 8_000_000
_LISTED_TILES = 500  # unreadable tiles named one by one


def write_report(out: Path) -> Path:
    """Draw ``report.html`` from what is in an output folder.

    Equal files give an equal report, byte for byte. What is not there (no clusters, no tiles, no slide that went well)
    is left out; what is there but damaged is named beside the slide or in the notes.

    Args:
        out: The output folder of a run.

    Returns:
        Path of the report.

    Raises:
        MissingOutputError: If the folder has no slides.csv.
        CorruptOutputError: If slides.csv or run.json cannot be read.
        OutputWriteError: If the report cannot be written.
    """
    files = OutputFiles(Path(out))
    path = files.root / REPORT_FILE
    write_text(path, _environment().get_template(REPORT_FILE).render(_contents(files)))
    return path


@cache
def _environment() -> Environment:
    return page_environment(
        {"count": show_count, "area": show_area, "mpp": show_mpp, "share": show_share, "duration": show_duration}
    )


def _script() -> str:
    return _environment().get_template("report.js").render()


def _contents(files: OutputFiles) -> dict[str, object]:
    """Everything that the template shows."""
    rows, run = files.read_slide_rows(), files.read_run()
    notes = [str(note) for note in as_list(run.get("notes"))]
    if not run:
        notes.append("run.json is not there: settings, versions and the encoder are not known.")
    cluster_rows, umap = _read_clusters(files, run, notes)
    colours = distinct_colours(len(cluster_rows))
    cards = slide_cards(files, rows, colours, budget=_THUMBNAIL_BYTES)
    umap = _of_these_clusters(umap, cards, notes)
    clusters = view_clusters(files, cluster_rows, colours, umap=umap, budget=_MONTAGE_BYTES)
    failures = list_failures(rows, run)
    unreadable = [tile for card in cards for tile in card.unreadable]
    if len(unreadable) > _LISTED_TILES:
        notes.append(f"Of {len(unreadable)} unreadable tiles the first {_LISTED_TILES} are listed.")
    totals = {name: total([row[name] for row in rows]) for name in ("tissue_mm2", "n_tiles", "n_unreadable", "seconds")}
    return {
        **_table(rows, totals, cards),
        **describe_provenance(run),
        "head": run_heading(run),
        "script": _script(),
        "script_hash": base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode(),
        "palette": {"outline": css_colour(OUTLINE_COLOR), "tiles": css_colour(TILE_COLOR)},
        "figures": key_figures(rows, totals, run),
        "failures": failures,
        "notes": notes,
        "unreadable": unreadable[:_LISTED_TILES],
        "clusters": clusters,
        "layers": _layers(cards),
    }


def _read_clusters(
    files: OutputFiles, run: Mapping[str, Any], notes: list[str]
) -> tuple[list[ClusterRow], UmapTable | None]:
    """Clusters and the UMAP that belong to this run; what is wrong with them goes to the notes."""
    try:
        rows = files.read_cluster_rows()
    except CorruptOutputError as error:
        notes.append(str(error))
        return [], None
    seconds = as_mapping(run.get("seconds"))
    if rows and seconds and "clusters" not in seconds:
        notes.append("The clusters are those of an earlier run on this folder: the last one did not make any.")
    umap = None
    if rows and as_mapping(run.get("config")).get("umap_points") != 0:
        try:
            umap = files.read_umap()
        except CorruptOutputError as error:
            notes.append(str(error))
    return rows, umap


def _of_these_clusters(umap: UmapTable | None, cards: Sequence[SlideCard], notes: list[str]) -> UmapTable | None:
    """The UMAP, unless it shows other clusters than the slides do, as after a kill between the two."""
    shown = {card.made_from for card in cards if card.made_from}
    if umap is not None and umap.made_from and shown and umap.made_from not in shown:
        notes.append("The UMAP in the folder is of earlier clusters and is left out. Run again to redo it.")
        return None
    return umap


def _table(
    rows: Sequence[Mapping[str, str]], totals: Mapping[str, str], cards: Sequence[SlideCard]
) -> dict[str, object]:
    statuses = Counter(row["status"] for row in rows)
    shown = {"tissue_mm2": show_area, "n_tiles": show_count, "n_unreadable": show_count, "seconds": show_duration}
    return {
        "rows": rows,
        "cards": cards,
        "card_numbers": {card.slide_id: number for number, card in enumerate(cards, 1)},
        "statuses": [(name, statuses[name], meaning) for name, meaning in STATUSES.items() if statuses[name]],
        "totals": totals,
        "totals_shown": [(name, show(totals[name])) for name, show in shown.items()],
    }


def _layers(cards: Sequence[SlideCard]) -> dict[str, bool]:
    return {
        "outline": any(card.outline for card in cards),
        "clusters": any(card.clusters for card in cards),
        "tiles": any(card.tiles for card in cards),
        "unreadable": any(card.unreadable for card in cards),
    }
