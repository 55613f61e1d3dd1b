"""Finding by name, importing outlines, and the errors that say what to do."""

import json

import numpy as np
import pytest
from PIL import Image

from microtome.errors import AnnotationError, ConfigError, MissingMppError, NoTissueError
from microtome.geometry import Box, Size
from microtome.storage import digest
from microtome.testing.array_slide import ArraySlide
from microtome.tissue.find import TISSUE_METHODS, Auto, MaskedOtsu, Otsu, find_tissue, import_outline, tissue_recipe


@pytest.fixture
def slide():
    rng = np.random.default_rng(0)
    image = np.full((300, 400, 3), 243, np.uint8)
    image[60:240, 100:300] = np.clip(rng.normal((170, 90, 150), 20, (180, 200, 3)), 0, 255)
    return ArraySlide(image, mpp=2.0, name="A12")


@pytest.fixture
def blank():
    return ArraySlide(np.full((300, 400, 3), 243, np.uint8), mpp=2.0, name="B7")


@pytest.mark.parametrize("name", TISSUE_METHODS)
def test_every_method_by_name(slide, name):
    method = TISSUE_METHODS[name].from_parameters({"a_t": 0.01} if name == "saturation" else {})
    tissue = find_tissue(slide, method=method)
    boxes = np.array([[120, 80, 160, 140], [0, 0, 60, 300]])
    inside, outside = tissue.coverage(boxes)
    assert inside > 0.85
    assert outside < 0.01
    assert tissue.method == name
    assert tissue.size == Size(400, 300)
    assert tissue.area_mm2 == pytest.approx(180 * 200 * 4 / 1e6, rel=0.25)
    assert tissue.recipe == tissue_recipe(slide, method)


def test_nothing_found_names_method_slide_and_what_to_try(blank):
    for name in ("auto", "saturation", "masked-otsu"):
        with pytest.raises(NoTissueError) as error:
            find_tissue(blank, method=name)
        text = str(error.value)
        assert all(part in text for part in ("'B7'", repr(name), "--tissue-method", "--allow-empty", "--tissue-from"))
        assert name not in text.split("--tissue-method")[1].split(")")[0].split(", ")
    empty = find_tissue(blank, allow_empty=True)
    assert empty.is_empty
    assert empty.area_mm2 == 0


def test_unknown_method_and_mpp_where_it_means_nothing(slide):
    with pytest.raises(ConfigError, match=r"auto, otsu, saturation, masked-otsu\. Got 'grey'"):
        find_tissue(slide, method="grey")
    with pytest.raises(ConfigError, match="takes no mpp"):
        find_tissue(slide, method="otsu", mpp=8.0)
    assert find_tissue(slide, method="auto", mpp=4.0).recipe["method_mpp"] == 4.0
    assert find_tissue(slide, method=MaskedOtsu(level=0, mpp=None), mpp=4.0).recipe["method_level"] is None


def test_resolution_is_asked_for_only_where_it_is_needed(slide):
    unknown = ArraySlide(slide.read(slide.bounds), mpp=None)
    for name in ("auto", "otsu"):
        assert find_tissue(unknown, method=name).area_mm2 is None
    with pytest.raises(MissingMppError):
        find_tissue(unknown, method="masked-otsu")


def test_any_change_gives_another_recipe(slide):
    base = digest(tissue_recipe(slide, Auto()))
    other = ArraySlide(slide.read(slide.bounds), mpp=1.0, name="A12")
    changed = [tissue_recipe(slide, Auto(texture=0.02)), tissue_recipe(slide, Otsu()), tissue_recipe(other, Auto())]
    assert len({base, *map(digest, changed)}) == 4
    assert digest(tissue_recipe(slide, Auto())) == base


def test_import_of_geojson_and_masks(slide, tmp_path):
    geojson = tmp_path / "A12.geojson"
    ring = [[100, 60], [300, 60], [300, 240], [100, 240], [100, 60]]
    geojson.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    tissue = import_outline(slide, geojson, recipe={"method": "imported"})
    assert (tissue.area_px0, tissue.method, tissue.mpp) == (36000, "imported", 2.0)
    assert tissue.recipe == {"method": "imported"}
    mask = np.zeros((30, 40), np.uint8)
    mask[6:24, 10:30] = 255
    for name, image in {
        "l": Image.fromarray(mask),
        "1": Image.fromarray(mask > 0),
        "rgb": Image.fromarray(np.repeat(mask[:, :, None], 3, axis=2)),
        "labels": Image.fromarray((mask // 255).astype(np.uint16)),
    }.items():
        image.save(tmp_path / f"{name}.png")
        assert import_outline(slide, tmp_path / f"{name}.png").area_px0 == 36000
    assert np.array_equal(
        import_outline(slide, tmp_path / "l.png").mask(box=Box(0, 0, 400, 300), size=Size(40, 30)), mask > 0
    )


def test_import_of_what_is_no_outline_of_this_slide(slide, tmp_path):
    square = tmp_path / "square.png"
    Image.fromarray(np.ones((40, 40), np.uint8)).save(square)
    with pytest.raises(AnnotationError, match="not the shape of slide 'A12'"):
        import_outline(slide, square)
    empty = tmp_path / "empty.png"
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(empty)
    with pytest.raises(NoTissueError, match="outlines no tissue"):
        import_outline(slide, empty)
    assert import_outline(slide, empty, allow_empty=True).is_empty
    text = tmp_path / "text.png"
    text.write_text("no image")
    for path in (text, tmp_path / "absent.png", tmp_path):
        with pytest.raises(AnnotationError, match="cannot be read"):
            import_outline(slide, path)
    Image.fromarray(np.ones((33, 44), np.uint8)).save(square)  # the same shape, to a pixel
    assert import_outline(slide, square).area_px0 == 400 * 300
