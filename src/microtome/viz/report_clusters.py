"""What the report shows of clusters: their sizes, their typical tiles, and the UMAP by cluster and by slide."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from microtome.errors import MicrotomeError
from microtome.viz.report_colours import Colour, css_colour, distinct_colours
from microtome.viz.report_images import data_uri, fit_pictures, read_picture
from microtome.viz.report_inputs import ClusterRow, OutputFiles, UmapTable
from microtome.viz.report_umap import Scatter, scatter_paths


@dataclass(frozen=True, slots=True)
class ClusterView:
    """One cluster: cells of its row of summary.csv, colour, and montage (a data URI, empty where there is none)."""

    number: int
    colour: str
    n_tiles: str
    share: str
    n_slides: str
    montage: str
    note: str


@dataclass(frozen=True, slots=True)
class Group:
    """Dots of one colour."""

    name: str
    colour: str


@dataclass(frozen=True, slots=True)
class Plot:
    """A scatter to draw: frame, dots' width, groups for the legend, and paths in drawing order."""

    width: int
    height: int
    dot_px: float
    groups: tuple[Group, ...]
    paths: tuple[tuple[Group, str], ...]


@dataclass(frozen=True, slots=True)
class UmapView:
    """The UMAP, twice."""

    n_points: int
    by_cluster: Plot
    by_slide: Plot


@dataclass(frozen=True, slots=True)
class ClustersView:
    """All of the section."""

    rows: tuple[ClusterView, ...]
    umap: UmapView | None


def view_clusters(
    files: OutputFiles, rows: Sequence[ClusterRow], colours: Sequence[Colour], *, umap: UmapTable | None, budget: int
) -> ClustersView | None:
    """Gather what there is to show of clusters.

    Args:
        files: The output folder.
        rows: Of the summary.
        colours: RGB of each cluster.
        umap: The UMAP, or None.
        budget: Bytes of all montages together.

    Returns:
        The section; None where there are no clusters.
    """
    if not rows:
        return None
    pictures, notes = [], []
    for row in rows:
        path, picture, note = files.find_montage(row.cluster), b"", ""
        if path is not None:
            try:
                picture = read_picture(path)
            except MicrotomeError as error:
                note = str(error)
        pictures.append(picture)
        notes.append(note)
    fitted = fit_pictures(pictures, budget=budget)
    views = tuple(
        ClusterView(
            number=row.cluster,
            colour=css_colour(colours[row.cluster]),
            n_tiles=row.n_tiles,
            share=row.share,
            n_slides=row.n_slides,
            montage=data_uri(picture) if picture else "",
            note=note,
        )
        for row, picture, note in zip(rows, fitted, notes, strict=True)
    )
    return ClustersView(views, _view_umap(umap, colours) if umap is not None else None)


def _view_umap(table: UmapTable, colours: Sequence[Colour]) -> UmapView:
    numbers = [str(number) for number in range(len(colours))]
    slides = sorted(set(table.slide_ids))
    by_cluster = scatter_paths(table.xy, [str(c) for c in table.clusters.tolist()], numbers)
    by_slide = scatter_paths(table.xy, table.slide_ids, slides)
    return UmapView(
        by_slide.n_points, _plot(by_cluster, numbers, colours), _plot(by_slide, slides, distinct_colours(len(slides)))
    )


def _plot(scatter: Scatter, names: Sequence[str], colours: Sequence[Colour]) -> Plot:
    groups = {name: Group(name, css_colour(colour)) for name, colour in zip(names, colours, strict=True)}
    drawn = {name for name, _ in scatter.paths}
    return Plot(
        scatter.width,
        scatter.height,
        round(min(max(300 / math.sqrt(max(scatter.n_points, 1)), 7), 13), 1),  # the more, the smaller
        tuple(group for name, group in groups.items() if name in drawn),
        tuple((groups[name], path) for name, path in scatter.paths),
    )
