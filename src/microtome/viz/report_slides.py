"""What the report shows of each slide: its thumbnail with the layers over it, its clusters, what is wrong with it."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from jaxtyping import Int64

from microtome.errors import MicrotomeError
from microtome.viz.report_colours import Colour, css_colour
from microtome.viz.report_images import cluster_overlay, data_uri, fit_pictures, read_picture, tile_overlay
from microtome.viz.report_inputs import Frame, OutputFiles, UnreadableTile
from microtome.viz.report_outline import outline_path

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ClusterShare:
    """How much of a slide one cluster has."""

    number: int
    colour: str
    n_tiles: int
    share: str


@dataclass(frozen=True, slots=True)
class MarkedTile:
    """An unreadable tile: level-0 box, rectangle in thumbnail pixels, and why."""

    slide_id: str
    box: tuple[int, int, int, int]
    rect: tuple[float, float, float, float]
    error: str


@dataclass(slots=True)
class SlideCard:
    """What is drawn of one slide; parts that are not there are empty.

    Attributes:
        slide_id: Whose it is.
        row: Its row of slides.csv, cells as they stand there.
        width: Of the thumbnail's frame, in thumbnail pixels.
        height: Of the thumbnail's frame.
        picture: The thumbnail, as data URI.
        outline: Tissue outline, as SVG path data in thumbnail pixels.
        tiles: Overlay of tile borders, as data URI.
        clusters: Overlay of clusters, as data URI.
        shares: Of the clusters that the slide has, in their order.
        unreadable: Tiles that could not be decoded.
        made_from: What decided the clusters that are shown, as a digest; empty where nobody says.
        notes: What could not be shown, and why.
    """

    slide_id: str
    row: Mapping[str, str]
    width: int = 1
    height: int = 1
    picture: str = ""
    outline: str = ""
    tiles: str = ""
    clusters: str = ""
    shares: list[ClusterShare] = field(default_factory=list)
    unreadable: list[MarkedTile] = field(default_factory=list)
    made_from: str = ""
    notes: list[str] = field(default_factory=list)

    def take(self, read: Callable[[], _T]) -> _T | None:
        """Read a part of the card; what is wrong with it becomes a note, and the part is left out."""
        try:
            return read()
        except MicrotomeError as error:
            self.notes.append(str(error))
            return None


def slide_cards(
    files: OutputFiles, rows: Sequence[Mapping[str, str]], colours: Sequence[Colour], *, budget: int
) -> list[SlideCard]:
    """Draw every slide that has something to show.

    Args:
        files: The output folder.
        rows: Of slides.csv.
        colours: RGB of each cluster; empty where there are no clusters.
        budget: Bytes of all thumbnails together.

    Returns:
        Cards in the order of the rows.
    """
    cards, pictures = [], []
    for row in rows:
        card = SlideCard(row["slide_id"], row)
        picture = _draw_slide(card, files, colours)
        if picture or card.notes:
            cards.append(card)
            pictures.append(picture)
    _drop_stale_clusters(cards)
    fitted = fit_pictures(pictures, budget=budget)
    for card, picture in zip(cards, fitted, strict=True):
        card.picture = data_uri(picture) if picture else ""
    return cards


def _drop_stale_clusters(cards: Sequence[SlideCard]) -> None:
    """Leave out what an earlier run said of slides that have no tiles in this one: its clusters are others."""
    commonest = Counter(card.made_from for card in cards if card.made_from).most_common(1)
    for card in cards:
        if commonest and card.made_from != commonest[0][0] and card.shares:
            card.notes.append("Its clusters are those of an earlier run and are left out.")
            card.clusters, card.shares, card.made_from = "", [], ""


def _draw_slide(card: SlideCard, files: OutputFiles, colours: Sequence[Colour]) -> bytes:
    """Fill a card in and return its thumbnail's bytes, empty where there is none to draw over."""
    frame = card.take(lambda: files.read_frame(card.slide_id))
    path = files.slide_file("thumbnails", card.slide_id, ".plain.jpg")
    picture = card.take(lambda: read_picture(path)) if path is not None else None
    if frame is not None and picture is not None:
        card.width, card.height = frame.size
        _draw_layers(card, files, frame)
    if card.row["status"] != "failed" and colours:  # what an earlier run left of a failed slide would be stale
        _draw_clusters(card, files, frame if picture is not None else None, colours)
    return picture if frame is not None and picture is not None else b""


def _draw_layers(card: SlideCard, files: OutputFiles, frame: Frame) -> None:
    geojson = files.slide_file("tissue", card.slide_id, ".geojson")
    if geojson is not None:
        card.outline = card.take(lambda: outline_path(geojson, frame)) or ""
    boxes = card.take(lambda: files.read_tile_boxes(card.slide_id))
    if boxes is not None and len(boxes):
        card.tiles = data_uri(tile_overlay(frame, boxes))
    if card.row["n_unreadable"] not in ("", "0"):
        found = card.take(lambda: files.read_unreadable(card.slide_id, int(card.row["n_unreadable"])))
        card.unreadable = [_mark(card.slide_id, tile, frame) for tile in found or ()]


def _mark(slide_id: str, tile: UnreadableTile, frame: Frame) -> MarkedTile:
    x, y, w, h = tile.box
    across, down = frame.scale
    rect = ((x - frame.box[0]) * across, (y - frame.box[1]) * down, w * across, h * down)
    left, top, width, height = (round(value, 2) for value in rect)
    return MarkedTile(slide_id, tile.box, (left, top, width, height), tile.error)


def _draw_clusters(card: SlideCard, files: OutputFiles, frame: Frame | None, colours: Sequence[Colour]) -> None:
    found = card.take(lambda: files.read_clusters_of(card.slide_id))
    if found is None or not len(found.boxes):
        return
    if frame is not None:
        overlay = card.take(lambda: cluster_overlay(frame, found.boxes, found.clusters, colours))
        card.clusters = data_uri(overlay) if overlay else ""
    if frame is None or card.clusters:
        card.shares, card.made_from = _shares(found.clusters, colours), found.made_from


def _shares(clusters: Int64[np.ndarray, " n"], colours: Sequence[Colour]) -> list[ClusterShare]:
    counts = np.bincount(clusters, minlength=len(colours)).tolist()
    return [
        ClusterShare(number, css_colour(colours[number]), n, repr(n / len(clusters)))
        for number, n in enumerate(counts)
        if n
    ]
