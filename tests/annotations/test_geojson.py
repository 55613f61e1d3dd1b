"""GeoJSON in QuPath's dialects: what is read, what is refused, what is written."""

import json
from contextlib import suppress

import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from microtome.annotations.geojson import Annotation, read_geojson, read_polygons, write_polygons
from microtome.errors import AnnotationError, OutputWriteError

SQUARE = [[0, 0], [0, 10], [10, 10], [10, 0], [0, 0]]
HOLE = [[2, 2], [4, 2], [4, 4], [2, 4], [2, 2]]


def feature(geometry, **properties):
    return {"type": "Feature", "id": "PathAnnotationObject", "geometry": geometry, "properties": properties}


def polygon(*rings):
    return {"type": "Polygon", "coordinates": list(rings)}


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path):
    return tmp_path / "outline.geojson"


@pytest.mark.parametrize(
    ("name", "count", "labels", "holes", "area"),
    [
        ("qupath_polygon.geojson", 3, {None}, 26, None),
        ("dlup/qupath05.geojson", 3, {None}, 0, None),
        ("wsidicom/qupath_geojson__qupath-brush.json", 1, {None}, 0, None),
        ("wsidicom/qupath_geojson__qupath-ellipse.json", 1, {None}, 0, None),
        ("wsidicom/qupath_geojson__qupath-polygon.json", 1, {None}, 0, None),
        ("wsidicom/qupath_geojson__qupath-rectangle.json", 1, {None}, 0, 176 * 210),
        ("wsidicom/qupath_geojson_advanced__qupath-polygon-cell-classified.json", 4, {"Cell", "Nucleus"}, 0, None),
        ("histoqc/geojson_example.json", 8, {"Invborder", "Tumor"}, 1, None),
    ],
)
def test_reads_what_qupath_wrote(shared, name, count, labels, holes, area):
    found = read_polygons(shared / "data/annotations" / name)
    assert len(found) == count
    assert {a.label for a in found} == labels
    assert sum(len(a.polygon.interiors) for a in found) == holes
    assert all(a.polygon.is_valid for a in found)
    if area is not None:
        assert sum(a.polygon.area for a in found) == area


@pytest.mark.parametrize("kind", ["line", "multipoint", "point", "polyline"])
def test_geometry_without_area_is_refused_or_counted(shared, kind):
    path = shared / f"data/annotations/wsidicom/qupath_geojson__qupath-{kind}.json"
    with pytest.raises(AnnotationError, match="has no area"):
        read_polygons(path)
    read = read_geojson(path, non_area="skip")
    assert read.annotations == ()
    assert sum(read.skipped.values()) == 1


@pytest.mark.parametrize("name", ["ncrf/jsons/train/Tumor_013.json", "dlup/103S.json", "dlup/metadata.json"])
def test_other_json_formats_are_refused(shared, name):
    with pytest.raises(AnnotationError, match="no GeoJSON geometry"):
        read_polygons(shared / "data/annotations" / name)


def test_every_form_gives_the_same(file):
    one = feature(polygon(SQUARE, HOLE), classification={"name": "Tumor", "colorRGB": -3670016})
    forms = [one, [one], {"type": "FeatureCollection", "features": [one]}, [[one]]]
    for form in forms:
        (found,) = read_polygons(write(file, form))
        assert found.label == "Tumor"
        assert found.polygon.area == 96
    (bare,) = read_polygons(write(file, polygon(SQUARE, HOLE)))
    assert bare.label is None
    multi = {"type": "MultiPolygon", "coordinates": [[SQUARE, HOLE], [[[20, 0], [30, 0], [30, 5], [20, 0]]]]}
    assert [a.polygon.area for a in read_polygons(write(file, multi))] == [96, 25]
    collection = {
        "type": "GeometryCollection",
        "geometries": [polygon(SQUARE), {"type": "Point", "coordinates": [1, 1]}],
    }
    read = read_geojson(write(file, collection), non_area="skip")
    assert len(read.annotations) == 1
    assert read.skipped == {"Point": 1}


def test_labels_of_old_and_new_versions(file):
    kinds = ["Stroma", {"name": "Stroma"}, {"names": ["Stroma"], "color": [1, 2, 3]}]
    for kind in kinds:
        assert read_polygons(write(file, feature(polygon(SQUARE), classification=kind)))[0].label == "Stroma"
    nested = read_polygons(write(file, feature(polygon(SQUARE), classification={"names": ["CD3", "Positive"]})))
    assert nested[0].label == "CD3: Positive"
    assert read_polygons(write(file, feature(polygon(SQUARE), classification={"name": ""})))[0].label is None


def test_byte_order_mark_third_coordinate_and_foreign_members(file):
    ring = [[x, y, 0.5] for x, y in SQUARE]
    content = json.dumps({"type": "FeatureCollection", "features": [feature(polygon(ring))], "made_by": {"a": 1}})
    file.write_bytes(b"\xef\xbb\xbf" + content.encode())
    read = read_geojson(file)
    assert read.annotations[0].polygon.area == 100
    assert read.members == {"made_by": {"a": 1}}


def test_empty_collection_is_empty(file):
    assert read_polygons(write(file, {"type": "FeatureCollection", "features": []})) == []


DEEP = "[" * 100_000
BAD = {
    "not json": "tissue",
    "empty file": "",
    "deep nesting": DEEP,
    "deep lists": "[" * 200 + "]" * 200,
    "binary": b"\x1f\x8b\x08\x00",
    "a number": "3",
    "null": "null",
    "NaN": '{"type":"Polygon","coordinates":[[[0,0],[0,NaN],[1,1],[0,0]]]}',
    "infinity": '{"type":"Polygon","coordinates":[[[0,0],[0,1e999],[1,1],[0,0]]]}',
    "huge whole number": '{"type":"Polygon","coordinates":[[[0,0],[0,1' + "0" * 400 + "],[1,1],[0,0]]]}",
    "text coordinate": polygon([[0, 0], [0, "1"], [1, 1], [0, 0]]),
    "true coordinate": polygon([[0, 0], [0, True], [1, 1], [0, 0]]),
    "one coordinate": polygon([[0, 0], [0], [1, 1], [0, 0]]),
    "unclosed": polygon(SQUARE[:-1]),
    "three points": polygon([[0, 0], [0, 1], [0, 0]]),
    "no ring": polygon(),
    "empty ring": polygon([]),
    "no coordinates": {"type": "Polygon"},
    "no area": polygon([[0, 0], [0, 1], [0, 2], [0, 0]]),
    "bow tie": polygon([[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]),
    "hole outside": polygon(SQUARE, [[20, 20], [21, 20], [21, 21], [20, 20]]),
    "empty multipolygon": {"type": "MultiPolygon", "coordinates": []},
    "unknown type": {"type": "Circle", "coordinates": [0, 0]},
    "features no list": {"type": "FeatureCollection", "features": {}},
    "feature without geometry": {"type": "Feature", "geometry": None, "properties": {}},
    "properties a list": {"type": "Feature", "geometry": polygon(SQUARE), "properties": [1]},
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_naming_the_file(file, name):
    content = BAD[name]
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        write(file, content)
    with pytest.raises(AnnotationError, match=r"outline\.geojson"):
        read_polygons(file)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "absent.geojson", tmp_path):
        with pytest.raises(AnnotationError, match="cannot be read"):
            read_polygons(path)


def test_repair_keeps_both_halves_of_a_bow_tie(file):
    write(file, polygon([[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]))
    halves = read_polygons(file, invalid="repair")
    assert sorted(a.polygon.area for a in halves) == [25, 25]


@given(data=st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_any_bytes_raise_only_our_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.geojson"
    path.write_bytes(data)
    with suppress(AnnotationError):
        read_polygons(path, non_area="skip")


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.sampled_from(["Polygon", "Feature", "Point"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["type", "geometry", "coordinates", "properties", "features"]), inner)
    ),
    max_leaves=20,
)


@given(value=json_values)
def test_any_json_raises_only_our_error(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(value))
    with suppress(AnnotationError):
        read_polygons(path)


def test_written_file_is_what_qupath_opens(file):
    tumour = Annotation(shapely.Polygon(SQUARE, [HOLE]), "Tumor", {"name": "first"})
    write_polygons(file, [tumour, Annotation(shapely.box(20.5, 0, 30, 5))], members={"microtome": {"a": 1}})
    content = json.loads(file.read_text())
    assert content["type"] == "FeatureCollection"
    first, second = content["features"]
    assert first["properties"]["objectType"] == second["properties"]["objectType"] == "annotation"
    assert first["properties"]["classification"]["name"] == "Tumor"
    assert len(first["properties"]["classification"]["color"]) == 3
    assert first["properties"]["name"] == "first"
    assert "classification" not in second["properties"]
    for written in content["features"]:
        assert all(ring[0] == ring[-1] for ring in written["geometry"]["coordinates"])
    assert first["id"] != second["id"]
    assert content["microtome"] == {"a": 1}


def test_round_trip_is_exact(file):
    polygons = [shapely.Polygon([(0.1, 1 / 3), (1e5, 0.2), (7.7, 1e-9)]), shapely.Polygon(SQUARE, [HOLE])]
    write_polygons(file, [Annotation(p, "a", {"k": [1, None, "ä"]}) for p in polygons])
    read = read_polygons(file)
    for before, after in zip(polygons, read, strict=True):
        assert after.polygon.normalize().equals_exact(before.normalize(), 0)
        assert after.properties["k"] == [1, None, "ä"]
        assert after.label == "a"
    first = file.read_bytes()
    write_polygons(file, read)
    assert file.read_bytes() == first


def test_writing_refuses_what_it_would_not_read(file, tmp_path):
    for bad in (shapely.Polygon(), shapely.Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])):
        with pytest.raises(AnnotationError, match="cannot be written"):
            write_polygons(file, [Annotation(bad)])
    assert list(tmp_path.iterdir()) == []


def test_writing_where_nothing_may_be_written(tmp_path, monkeypatch):
    def full(*_args, **_keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OutputWriteError):
        write_polygons(tmp_path / "a.geojson", [Annotation(shapely.box(0, 0, 1, 1))])
