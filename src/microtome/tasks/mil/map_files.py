"""Maps of a slide's tiles as files: ``<slide_id>.parquet``, pictures, and GeoJSON for QuPath."""

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from jaxtyping import Float, Int64, UInt8
from PIL import Image

from microtome.annotations.geojson import Annotation, write_polygons
from microtome.errors import CorruptOutputError
from microtome.features.bag import Bag
from microtome.geometry import Box
from microtome.storage import recipe_text, safe_name, write_errors_explained, written_whole
from microtome.viz.tile_values import Caption, blank_frame, draw_tile_values

RECIPE_KEY = b"microtome_recipe"
_FACTS = b"microtome_maps"


@dataclass(frozen=True, slots=True, eq=False)
class Canvas:
    """What maps are drawn on.

    Attributes:
        image: RGB.
        frame: What it shows, level-0 pixels.
        path: The thumbnail's file; None for an empty canvas.
    """

    image: UInt8[np.ndarray, "h w 3"]
    frame: Box
    path: Path | None


@dataclass(frozen=True, slots=True, eq=False)
class SlideMaps:
    """The maps of one slide.

    Attributes:
        bag: The slide's tiles.
        columns: Column → value of each tile.
        heading: What the pictures say under their titles.
        recipe: What decided them.
        facts: What else is worth keeping, plain values: logits, the baseline's logits, the gap between them and the
            attributions' sum.
    """

    bag: Bag
    columns: Mapping[str, Float[np.ndarray, " n"]]
    heading: str
    recipe: Mapping[str, object]
    facts: Mapping[str, object]


def find_canvas(folders: Sequence[Path], bag: Bag) -> Canvas | None:
    """The plain thumbnail of a slide, from the first folder that has one; else an empty canvas.

    Returns:
        None where the features do not say where tiles lie and how large they are.

    Raises:
        CorruptOutputError: If the thumbnail that is there cannot be read.
    """
    if not bag.has_boxes:
        return None
    for folder in folders:
        picture, frame = folder / f"{bag.slide_id}.plain.jpg", folder / f"{bag.slide_id}.json"
        if picture.is_file() and frame.is_file():
            try:
                with Image.open(io.BytesIO(picture.read_bytes())) as image:
                    pixels = np.asarray(image.convert("RGB"))
                box = Box(*(int(v) for v in json.loads(frame.read_text(encoding="utf-8"))["box"]))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise CorruptOutputError(
                    f"The thumbnail '{picture}' cannot be read ({error}). Delete it and run again."
                ) from error
            return Canvas(pixels, box, picture)
    return Canvas(*blank_frame(bag.boxes), None)


def maps_table(folder: Path, slide_id: str) -> Path:
    """Where the table of a slide's maps is, or will be."""
    return folder / f"{safe_name(slide_id)}.parquet"


def write_maps(folder: Path, maps: SlideMaps, canvas: Canvas | None, *, geojson: bool) -> list[Path]:
    """Write pictures and GeoJSON of a slide's maps, then the table, which says that they are whole.

    Hold the claim of the table (:func:`maps_table`) while doing it.

    Args:
        folder: Where.
        maps: What.
        canvas: What to draw on; None where tiles have no place, so that there is only the table.
        geojson: Whether QuPath gets the tiles.

    Returns:
        The files.

    Raises:
        OutputWriteError: If they cannot be written.
    """
    bag = maps.bag
    table = maps_table(folder, bag.slide_id)
    written = []
    with write_errors_explained(table):
        table.unlink(missing_ok=True)
    if canvas is not None:
        for name, values in maps.columns.items():
            path = folder / f"{bag.slide_id}_{_file_part(name)}.png"
            with written_whole(path) as temporary:
                temporary.write_bytes(_draw(maps, canvas, name, values))
            written.append(path)
        if geojson:
            path = folder / f"{bag.slide_id}.geojson"
            write_tiles_geojson(path, bag.boxes, maps.columns, made_from=maps.heading)
            written.append(path)
    _write_table(table, maps)
    return [*written, table]


def _write_table(path: Path, maps: SlideMaps) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    said = {RECIPE_KEY: recipe_text(maps.recipe).encode(), _FACTS: recipe_text(maps.facts).encode()}
    table = pa.table({**_places(maps.bag), **maps.columns}).replace_schema_metadata(said)
    with written_whole(path) as temporary:
        parquet.write_table(table, temporary)


def read_map_facts(path: Path) -> dict[str, Any]:
    """Logits, the baseline's logits and the gap, which a table of maps keeps beside the tiles.

    Raises:
        CorruptOutputError: If it is no such table.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        facts: dict[str, Any] = json.loads(parquet.read_schema(path).metadata[_FACTS])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise CorruptOutputError(f"'{path}' is no table of maps ({error}). Delete it and run again.") from error
    return facts


def write_tiles_geojson(
    path: Path, boxes: Int64[np.ndarray, "n 4"], columns: Mapping[str, Float[np.ndarray, " n"]], *, made_from: str
) -> None:
    """Write tiles with their values as QuPath's tile objects; its measurement maps colour them.

    Args:
        path: Where.
        boxes: Tiles: x y w h, level-0 px.
        columns: Measurement → value of each tile.
        made_from: What they are of, for people.
    """
    x, y, w, h = boxes.T
    polygons = shapely.box(x, y, x + w, y + h)
    names = list(columns)
    rows = np.stack([np.asarray(columns[name], np.float64) for name in names], axis=1).tolist()
    write_polygons(
        path,
        [
            Annotation(
                polygon,
                None,
                {
                    "objectType": "tile",
                    "measurements": {n: float(f"{v:.6g}") for n, v in zip(names, row, strict=True)},
                },
            )
            for polygon, row in zip(polygons, rows, strict=True)
        ],
        members={"microtome": made_from},
    )


def _places(bag: Bag) -> dict[str, Int64[np.ndarray, " n"]]:
    if bag.has_boxes:
        return {name: bag.boxes[:, i].astype(np.int64) for i, name in enumerate("xywh")}
    if bag.has_coords:
        return {name: bag.coords[:, i].astype(np.int64) for i, name in enumerate("xy")}
    return {"row": np.arange(len(bag), dtype=np.int64)}


def _draw(maps: SlideMaps, canvas: Canvas, name: str, values: Float[np.ndarray, " n"]) -> bytes:
    kind, _, output = name.partition("_")
    if kind == "attribution":
        label = f"what each tile adds to the logit of {output}"
    else:
        label = "attention" if not output else f"attention of {output}"
    if len(values) and values.min() >= 0 and kind == "attention":
        values, label = values * len(values), f"{label}, 1 = every tile alike"
    slide_mpp = maps.bag.attrs.get("slide_mpp")
    missing = "" if canvas.path is not None else "; no thumbnail: tiles on an empty canvas"
    return draw_tile_values(
        canvas.image,
        canvas.frame,
        maps.bag.boxes,
        values,
        caption=Caption(maps.bag.slide_id, f"{maps.heading}{missing}", label),
        mpp=None if slide_mpp is None else float(slide_mpp),
    )


def _file_part(name: str) -> str:
    """A column's name as part of a file name."""
    return re.sub(r"[^\w.+=-]+", "-", name).strip("-") or "map"
