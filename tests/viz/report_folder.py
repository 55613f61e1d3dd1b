"""Output folders as a run leaves them, small, for tests of the report; written by the project's own writers."""

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import shapely

from microtome.annotations.geojson import Annotation, write_polygons
from microtome.encoders.base import Card
from microtome.features.bag import BagContent, write_bag_file
from microtome.geometry import Box, Size
from microtome.storage import recipe_text, write_json
from microtome.tasks.cluster_tables import ClusterSummary, write_assignment, write_summary, write_table
from microtome.tasks.output import (
    OutputFolder,
    RunRecord,
    SlideRow,
    StageFailure,
    write_run_record,
    write_slide_rows,
)
from microtome.tiles.grid import Grid, Tiles
from microtome.tiles.store import write_tiles
from microtome.viz.montage import draw_strip
from microtome.viz.overlay import write_jpeg

N_CLUSTERS = 4
TILE_PX0 = 240
ATTACK = '</script><img src=x onerror="window.hacked=1"><script>window.hacked=1</script>{{ 7*7 }}'
MPP = 0.4990000000000001

CARD = Card(
    name="texture",
    dim=12,
    input_px=None,
    tile_px=224,
    mpp=(0.5,),
    licence="Apache-2.0",
    citation="Ruifrok & Johnston, Anal Quant Cytol Histol 23 (2001) 291-299",
    paper="https://example.org/paper",
    trained_on=("Cohort <A>",),
    intended_use="Research only.",
)

# slide → what its thumbnail covers (level-0 px: an origin that is not 0, shapes tall and wide), and its size
FRAMES = {
    "A12": (Box(100, 60, 4800, 3600), Size(640, 480)),
    "B 7 (2) & 'more'": (Box(0, 0, 2400, 5000), Size(307, 640)),
    "C-unreadable": (Box(0, 0, 4000, 4000), Size(512, 512)),
}
UNREADABLE = [[1440, 1680, 240, 240], [2160, 2400, 240, 240]]


def tissue_of(box: Box) -> shapely.MultiPolygon:
    """A wavy section with a hole, and a fragment."""
    angles = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    radius = 0.34 + 0.045 * np.sin(5 * angles) + 0.02 * np.sin(11 * angles)
    ring = np.stack([0.46 + radius * np.cos(angles), 0.52 + radius * np.sin(angles)], axis=1)
    hole = 0.09 * np.stack([np.cos(angles), np.sin(angles)], axis=1) + (0.42, 0.5)
    fragment = 0.06 * np.stack([np.cos(angles), np.sin(angles)], axis=1) + (0.9, 0.12)
    scale, origin = np.array([box.width, box.height]), np.array([box.x, box.y])
    placed = [np.rint(part * scale + origin) for part in (ring, hole, fragment)]
    return shapely.MultiPolygon([shapely.Polygon(placed[0], [placed[1]]), shapely.Polygon(placed[2])])


def thumbnail_of(tissue: shapely.MultiPolygon, box: Box, size: Size, seed: int) -> np.ndarray:
    """Pink where tissue is, white elsewhere, with grain."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size.height, : size.width] + 0.5
    inside = shapely.contains_xy(tissue, x * box.width / size.width + box.x, y * box.height / size.height + box.y)
    grain = rng.normal(0, 9, (size.height, size.width, 1))
    stain = np.where(np.sin(x / 31) * np.cos(y / 23) > 0.2, 1.0, 0.0)[..., None]
    pink = np.array([214, 150, 190]) * (1 - 0.35 * stain) + np.array([70, 30, 90]) * 0.35 * stain
    image = np.where(inside[..., None], pink + grain, 243 + grain / 6)
    return image.clip(0, 255).astype(np.uint8)


def boxes_on(tissue: shapely.MultiPolygon, box: Box) -> np.ndarray:
    """Tiles of one grid whose middle is tissue; row-major."""
    xs = np.arange(box.x - box.x % TILE_PX0, box.right, TILE_PX0)
    ys = np.arange(box.y - box.y % TILE_PX0, box.bottom, TILE_PX0)
    grid = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
    kept = grid[shapely.contains_xy(tissue, *(grid + TILE_PX0 / 2).T)]
    boxes: np.ndarray = np.hstack([kept, np.full_like(kept, TILE_PX0)]).astype(np.int64)
    return boxes


def slide_rows() -> list[SlideRow]:
    """A cohort with everything that can happen."""
    common = SlideRow("", "", "done", "openslide", mpp=MPP, mpp_source="metadata:openslide.mpp-x", n_unreadable=0)
    return [
        replace(common, slide_id="A12", path="/data/slides/A12.svs", width=46000, height=32914,
                tissue_mm2=123.45678901234, n_tiles=0, seconds=754.4321),
        replace(common, slide_id="B 7 (2) & 'more'", path=f"/data/{ATTACK}/B.tif", status="skipped", width=2400,
                height=5000, mpp_source="cohort", tissue_mm2=7.0123, n_tiles=0, seconds=9.87),
        replace(common, slide_id="C-unreadable", path="/data/slides/C.ndpi", width=4000, height=4000,
                tissue_mm2=0.01234, n_tiles=0, n_unreadable=2, seconds=42.0),
        SlideRow("D-failed", "/data/slides/D.svs", "failed", error=f"Slide 'D.svs' ends early. {ATTACK}"),
        SlideRow("E-unfinished", "/data/slides/E.svs", "unfinished"),
    ]  # fmt: skip


def run_record() -> RunRecord:
    """What run.json of that cohort holds."""
    return RunRecord(
        started="2025-03-01T09:30:00Z",
        ended="2025-03-01T10:02:11Z",
        config={"slides": [f"/data/{ATTACK}"], "out": "out", "encoder": "texture", "seed": 17, "umap_points": 3000},
        encoder={**asdict(CARD), "weights_sha256": ""},
        failed=[StageFailure("D-failed", "/data/slides/D.svs", "inspect", "TruncatedSlideError",
                             f"Slide 'D.svs' ends early. {ATTACK}")],
        ignored=[(f"/data/{ATTACK}.txt", "not an image")],
        notes=[f"A note. {ATTACK}"],
        seconds={"inspect": 1.25, "tissue": 20.5, "features": 1203.25, "clusters": 11.0},
    )  # fmt: skip


def write_cohort(root: Path, *, clusters: bool = True) -> OutputFolder:
    """Write the whole folder.

    Args:
        root: Where.
        clusters: Clusters, montages and the UMAP too.
    """
    folder = OutputFolder(root)
    rows, boxes_by_slide = slide_rows(), {}
    for number, row in enumerate(rows):
        if row.slide_id in FRAMES:
            boxes_by_slide[row.slide_id] = write_slide(folder, row, seed=number)
    write_slide_rows(folder.slides_csv, rows)
    write_run_record(folder.run_json, run_record())
    write_features(folder, "C-unreadable", UNREADABLE, why="JPEG <broken>")
    if clusters:
        write_clusters(folder, boxes_by_slide)
    return folder


def write_features(folder: OutputFolder, slide_id: str, unreadable: list[list[int]], *, why: str) -> None:
    """A feature file of one readable tile and some that are not."""
    path = folder.features("texture_224px_0.5") / f"{slide_id}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = BagContent(
        boxes=np.array([[0, 0, TILE_PX0, TILE_PX0]], np.int64),
        rows=np.array([0]),
        unreadable=np.array(unreadable, np.int64),
        unreadable_rows=np.arange(1, 1 + len(unreadable)),
        unreadable_errors=(why,) * len(unreadable),
        attrs={"slide_id": slide_id},
    )
    write_bag_file(path, content, [np.zeros((1, 3), np.float32)], dim=3, dtype="float32")


def write_slide(folder: OutputFolder, row: SlideRow, *, seed: int) -> np.ndarray:
    """Write a slide's tissue, tiles and thumbnail; note how many tiles there are; give their boxes."""
    slide_id, (box, size) = row.slide_id, FRAMES[row.slide_id]
    tissue = tissue_of(box)
    write_polygons(folder.tissue(slide_id), [Annotation(polygon, "Tissue") for polygon in tissue.geoms])
    write_jpeg(folder.plain_thumbnail(slide_id), thumbnail_of(tissue, box, size, seed))
    write_json(
        folder.thumbnail_frame(slide_id),
        {"box": [box.x, box.y, box.width, box.height], "size": [size.width, size.height], "shows": "x"},
    )
    boxes = boxes_on(tissue, box)
    row.n_tiles = len(boxes)
    tiles = Tiles(
        boxes=boxes,
        coverage=np.ones(len(boxes), np.float32),
        tile_px=224,
        mpp=0.5,
        level=None,
        grid=Grid(),
        slide_size=Size(box.right, box.bottom),
        slide_mpp=MPP,
    )
    write_tiles(folder.tiles(slide_id), tiles, slide_id=slide_id, recipe={"slide": slide_id})
    return boxes


def clusters_at(boxes: np.ndarray) -> np.ndarray:
    """Clusters in bands across the slide."""
    bands: np.ndarray = (boxes[:, 0] + 2 * boxes[:, 1]) // 1900 % N_CLUSTERS
    return bands


def write_clusters(folder: OutputFolder, boxes_by_slide: dict[str, np.ndarray], *, made_from: str = "k1") -> None:
    """Write assignments, summary, montages and a UMAP."""
    rng = np.random.default_rng(5)
    recipe = recipe_text({"clusters": made_from, "features": "f"})
    points: dict[str, list[object]] = {"slide_id": [], "row": [], "umap_x": [], "umap_y": [], "cluster": []}
    for slide_id, boxes in boxes_by_slide.items():
        found = clusters_at(boxes)
        distances = rng.random(len(found), dtype=np.float32)
        write_assignment(folder.clusters / f"{slide_id}.parquet", boxes, found, distances, recipe=recipe)
        xy = np.stack([3 * np.cos(found * 1.7), 2 * np.sin(found * 1.7)], axis=1) + rng.normal(0, 0.6, (len(found), 2))
        columns: tuple[Iterable[object], ...] = (
            [slide_id] * len(found), range(len(found)), xy[:, 0], xy[:, 1], found
        )  # fmt: skip
        for column, values in zip(points.values(), columns, strict=True):
            column.extend(values)
    write_table(folder.clusters / "umap.parquet", points, recipe=recipe)
    all_clusters = np.array(points["cluster"])
    slides = np.array(points["slide_id"])
    summary = [
        ClusterSummary(k, int((all_clusters == k).sum()), float((all_clusters == k).mean()),
                       len(set(slides[all_clusters == k])))
        for k in range(N_CLUSTERS)
    ]  # fmt: skip
    write_summary(folder.clusters / "summary.csv", summary)
    for k in range(N_CLUSTERS):
        tiles = [rng.integers(90, 220, (96, 96, 3), dtype=np.uint8) for _ in range(12)]
        write_jpeg(folder.clusters / f"montage_{k}.jpg", draw_strip(tiles, n_places=12))
