"""Text that strangers write (outlines, tables, records): an error of ours or a result, whatever is in it."""

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from microtome.annotations.geojson import read_geojson
from microtome.cohort import read_cohort
from microtome.errors import MicrotomeError
from microtome.geometry import Size
from microtome.storage import safe_name
from microtome.tasks.cluster_tables import read_summary, write_summary
from microtome.tasks.output import (
    RunRecord,
    SlideRow,
    StageFailure,
    read_failures,
    read_slide_rows,
    write_run_record,
    write_slide_rows,
)
from microtome.tissue.tissue import Tissue, read_tissue
from microtome.viz.report_inputs import OutputFiles
from tests.fuzz.mutations import spoil_bytes

FEW = settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SEEDS = st.integers(0, 2**32 - 1)
NUMBERS = st.integers(-(10**400), 10**400) | st.floats() | st.integers(-9, 9)
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=8)
POINTS = st.lists(NUMBERS, max_size=3)
RINGS = st.lists(POINTS, max_size=6).map(lambda points: points + points[:1])
KINDS = st.sampled_from(
    ["Feature", "FeatureCollection", "GeometryCollection", "Polygon", "MultiPolygon", "Point", "LineString", "Curve"]
)


def objects(inner):
    """GeoJSON's own names over anything."""
    known = st.fixed_dictionaries(
        {"type": KINDS | SCALARS},
        optional={
            "geometry": inner,
            "geometries": inner,
            "features": inner,
            "coordinates": inner | RINGS | st.lists(RINGS, max_size=3),
            "properties": inner | st.fixed_dictionaries({"classification": inner}),
            "id": inner,
            "microtome": inner,
        },
    )
    return known | st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)


JSON = st.recursive(SCALARS | POINTS | st.lists(RINGS, max_size=3), objects, max_leaves=12)


def try_outline(path: Path) -> None:
    for invalid in ("error", "repair"):
        with suppress(MicrotomeError):
            for annotation in read_geojson(path, non_area="skip", invalid=invalid).annotations:
                assert annotation.polygon.is_valid
                assert annotation.polygon.area > 0
    with suppress(MicrotomeError):
        assert read_tissue(path, size=Size(100, 80), mpp=0.5).area_mm2 is not None


@FEW
@given(content=JSON)
def test_any_json_as_an_outline(tmp_path, content):
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(content), encoding="utf-8")
    try_outline(path)


@pytest.mark.parametrize("depth", [100, 10_000, 1_000_000])
@pytest.mark.parametrize("bracket", ["[]", '{"type":"GeometryCollection","geometries":[|]}'])
def test_deep_nests(tmp_path, depth, bracket):
    path = tmp_path / "a.geojson"
    opening, closing = bracket.split("|") if "|" in bracket else bracket
    path.write_text(opening * depth + closing * depth, encoding="utf-8")
    with pytest.raises(MicrotomeError, match="nested"):
        read_geojson(path, non_area="skip")


@FEW
@given(seed=SEEDS)
def test_spoiled_outlines(tmp_path, seed):
    path = tmp_path / "a.geojson"
    shape = shapely.MultiPolygon([shapely.Point(50, 40).buffer(20), shapely.box(1, 2, 9, 9)])
    Tissue(shape, Size(100, 80), 0.5, "drawn").to_geojson(path)
    path.write_bytes(spoil_bytes(path.read_bytes(), np.random.default_rng(seed)))
    try_outline(path)


CELLS = st.sampled_from(
    ["slide_id", "path", "mpp", "patient", "a", "007", "1.0", "NaN", "", " ", '"', "'", "=1+1", "../b", "\ufeff", "\0"]
) | st.text(max_size=6)
TABLES = st.lists(st.lists(CELLS, max_size=5), max_size=5)


def try_cohort(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with suppress(MicrotomeError):
        for slide in read_cohort(path).slides:
            assert safe_name(slide.slide_id)
            assert slide.mpp is None or slide.mpp > 0


@FEW
@given(rows=TABLES, separator=st.sampled_from(",;\t|"), end=st.sampled_from(["\n", "\r\n", "\r"]), bom=st.booleans())
def test_any_cells_as_a_cohort(tmp_path, rows, separator, end, bom):
    lines = end.join(separator.join(row) for row in [["slide_id", "path", "mpp"], *rows])
    try_cohort(tmp_path / "a.csv", b"\xef\xbb\xbf" * bom + lines.encode("utf-8", "surrogatepass"))


@FEW
@given(data=st.binary(max_size=200) | st.text(max_size=100).map(lambda text: ("slide_id\n" + text).encode()))
def test_any_bytes_as_a_cohort(tmp_path, data):
    try_cohort(tmp_path / "a.csv", data)


def test_a_cell_beyond_all_bounds(tmp_path):
    try_cohort(tmp_path / "a.csv", b"slide_id,y\na," + b"x" * 300_000 + b"\n")


@FEW
@given(seed=SEEDS)
def test_spoiled_tables_and_records(tmp_path, seed):
    """As this program wrote them, then spoiled."""
    (tmp_path / "clusters").mkdir(exist_ok=True)
    write_slide_rows(
        tmp_path / "slides.csv", [SlideRow("a", "x/a.svs", "done", "tifffile", "", 9, 9, 0.5, "given", 1.0)]
    )
    failure = StageFailure("b", "x/b.svs", "tissue", "TissueError", "none")
    write_run_record(tmp_path / "run.json", RunRecord("now", {"out": "y"}, failed=[failure]))
    write_summary(tmp_path / "clusters" / "summary.csv", [])
    (tmp_path / "clusters" / "summary.csv").write_text("cluster,n_tiles,share,n_slides\n0,5,1.000000,1\n")
    rng = np.random.default_rng(seed)
    for path in (tmp_path / "slides.csv", tmp_path / "run.json", tmp_path / "clusters" / "summary.csv"):
        path.write_bytes(spoil_bytes(path.read_bytes(), rng))
    try_records(tmp_path)


@FEW
@given(content=JSON, slides=JSON)
def test_any_json_as_a_record(tmp_path, content, slides):
    for record in (content, {"slides": slides}, {"slides": {"failed": content}}, {"box": content, "size": slides}):
        (tmp_path / "run.json").write_text(json.dumps(record))
        (tmp_path / "thumbnails").mkdir(exist_ok=True)
        (tmp_path / "thumbnails" / "a.json").write_text(json.dumps(record))
        try_records(tmp_path)


def try_records(folder: Path) -> None:
    files = OutputFiles(folder)
    for read in (
        lambda: read_slide_rows(folder / "slides.csv"),
        lambda: read_failures(folder / "run.json"),
        lambda: read_summary(folder / "clusters" / "summary.csv"),
        files.read_slide_rows,
        files.read_run,
        files.read_cluster_rows,
        lambda: files.read_frame("a"),
    ):
        with suppress(MicrotomeError):
            read()
