"""The Tissue itself: areas, files, digests."""

import json
import pickle

import numpy as np
import pytest
import shapely

from microtome.annotations.geojson import read_polygons
from microtome.errors import AnnotationError, ConfigError
from microtome.geometry import Box, Size
from microtome.storage import digest
from microtome.tissue.tissue import Tissue, read_tissue

SIZE = Size(400, 300)


def ring_mask():
    mask = np.zeros((30, 40), bool)
    mask[5:20, 5:30] = True
    mask[10:15, 10:20] = False
    return mask


@pytest.fixture
def tissue():
    recipe = {"method": "auto", "slide": "abc", "method_mpp": 8.0, "level": None, "list": [1, 2.5]}
    return Tissue.from_mask(ring_mask(), box=Box(0, 0, 400, 300), size=SIZE, mpp=0.25, method="auto", recipe=recipe)


def write(path, *polygons):
    features = [
        {"type": "Feature", "geometry": p.__geo_interface__, "properties": {"classification": {"name": label}}}
        for p, label in polygons
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_area_in_pixels_and_on_the_glass(tissue):
    assert tissue.area_px0 == (15 * 25 - 5 * 10) * 100
    assert tissue.area_mm2 == pytest.approx(32500 * 0.25**2 / 1e6)
    assert not tissue.is_empty
    unknown = Tissue.from_mask(ring_mask(), box=Box(0, 0, 400, 300), size=SIZE, mpp=None)
    assert unknown.area_mm2 is None
    assert unknown.recipe_text == ""


def test_mask_gives_back_the_mask(tissue):
    assert np.array_equal(tissue.mask(box=Box(0, 0, 400, 300), size=Size(40, 30)), ring_mask())
    assert np.array_equal(tissue.mask(box=Box(50, 50, 100, 100), size=Size(10, 10)), ring_mask()[5:15, 5:15])


def test_file_gives_back_everything(tissue, tmp_path):
    path = tmp_path / "a.geojson"
    tissue.to_geojson(path)
    read = read_tissue(path)
    assert read.polygons.normalize().equals_exact(tissue.polygons.normalize(), 0)
    assert (read.size, read.mpp, read.method) == (tissue.size, tissue.mpp, tissue.method)
    assert read.recipe == tissue.recipe
    assert read.recipe_text == tissue.recipe_text
    assert read.digest == tissue.digest
    first = path.read_bytes()
    read.to_geojson(path)
    assert path.read_bytes() == first
    assert read_tissue(path, size=SIZE).digest == tissue.digest


def test_file_is_a_plain_annotation_for_others(tissue, tmp_path):
    path = tmp_path / "a.geojson"
    tissue.to_geojson(path)
    (annotation,) = read_polygons(path)
    assert annotation.label == "Tissue"
    assert annotation.polygon.area == tissue.area_px0
    member = json.loads(path.read_text())["microtome"]
    assert member["area_mm2"] == tissue.area_mm2
    assert member["recipe_digest"] == digest(tissue.recipe)
    assert member["method"] == "auto"


def test_empty_tissue_round_trip(tmp_path):
    empty = Tissue.from_mask(np.zeros((3, 4), bool), box=Box(0, 0, 400, 300), size=SIZE, mpp=0.5, recipe={"a": 1})
    empty.to_geojson(tmp_path / "e.geojson")
    read = read_tissue(tmp_path / "e.geojson")
    assert read.is_empty
    assert read.area_mm2 == 0
    assert read.recipe == {"a": 1}


def test_edited_file_is_a_persons(tissue, tmp_path):
    path = tmp_path / "a.geojson"
    tissue.to_geojson(path)
    content = json.loads(path.read_text())
    content["features"][0]["geometry"]["coordinates"][0][1][0] += 5
    content["features"][0]["geometry"]["coordinates"][0][2][0] += 5
    path.write_text(json.dumps(content))
    read = read_tissue(path)
    assert read.method == "imported"
    assert not read.recipe
    assert read.area_px0 != tissue.area_px0


def test_foreign_file_needs_the_slides_size(tmp_path):
    path = write(tmp_path / "q.geojson", (shapely.box(10, 10, 60, 40), "Tumor"))
    with pytest.raises(AnnotationError, match="does not say how large"):
        read_tissue(path)
    read = read_tissue(path, size=SIZE, mpp=0.5)
    assert (read.method, read.area_px0, read.mpp) == ("imported", 1500, 0.5)


def test_file_of_another_slide_is_refused(tissue, tmp_path):
    path = tmp_path / "a.geojson"
    tissue.to_geojson(path)
    with pytest.raises(AnnotationError, match="400 × 300 px, but this one has 500 × 300"):
        read_tissue(path, size=Size(500, 300))


@pytest.mark.parametrize("member", [{}, [], "x", {"size": [1], "mpp": 1, "recipe": "", "method": "a"}, {"size": None}])
def test_garbled_member_is_refused(tissue, tmp_path, member):
    path = tmp_path / "a.geojson"
    tissue.to_geojson(path)
    content = json.loads(path.read_text())
    content["microtome"] = member
    path.write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match="how it was made cannot be read"):
        read_tissue(path)


def test_import_unites_clips_and_selects(tmp_path):
    path = write(
        tmp_path / "q.geojson",
        (shapely.box(0, 0, 100, 100), "Tumor"),
        (shapely.box(50, 0, 150, 100), "Stroma"),
        (shapely.box(350, 250, 500, 400), "Tumor"),
    )
    assert Tissue.from_geojson(path, size=SIZE, mpp=None).area_px0 == 15000 + 2500
    assert Tissue.from_geojson(path, size=SIZE, mpp=None, labels={"Stroma"}).area_px0 == 10000
    with pytest.raises(AnnotationError, match="no polygon labelled Necrosis; it has Stroma, Tumor"):
        Tissue.from_geojson(path, size=SIZE, mpp=None, labels={"Necrosis"})
    with pytest.raises(AnnotationError, match="outside of the slide"):
        Tissue.from_geojson(write(path, (shapely.box(900, 900, 950, 950), "a")), size=SIZE, mpp=None)


def test_mask_beyond_the_slide_is_clipped():
    found = Tissue.from_mask(np.ones((2, 2), bool), box=Box(-100, 0, 1000, 300), size=SIZE, mpp=None)
    assert found.area_px0 == SIZE.area
    with pytest.raises(ConfigError):
        Tissue.from_mask(np.ones((0, 2), bool), box=Box(0, 0, 10, 10), size=SIZE, mpp=None)


def test_digest_is_of_the_shape_alone(tissue):
    a, b = shapely.box(0, 0, 5, 5), shapely.box(10, 10, 20, 30)
    one = Tissue(shapely.MultiPolygon([a, b]), SIZE, None, "x")
    turned = Tissue(shapely.MultiPolygon([b.reverse(), a]), SIZE, 0.5, "y", {"k": 1})
    assert one.digest == turned.digest
    assert one.digest != tissue.digest
    moved = Tissue(shapely.MultiPolygon([a, shapely.box(10, 10, 20, 30.001)]), SIZE, None, "x")
    assert moved.digest != one.digest


def test_tissue_travels_to_another_process(tissue):
    tissue.coverage(np.array([[0, 0, 100, 100]]))
    copy = pickle.loads(pickle.dumps(tissue))  # noqa: S301 - our own bytes
    assert copy.digest == tissue.digest
    assert copy.coverage(np.array([[50, 50, 100, 100]])) == tissue.coverage(np.array([[50, 50, 100, 100]]))
