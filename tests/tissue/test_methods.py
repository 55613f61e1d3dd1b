"""The published methods against the outputs of the originals, and their parameters."""

import hashlib
import json
from dataclasses import fields

import cv2
import numpy as np
import pytest
from skimage.color import rgb2hsv

from microtome.errors import ConfigError, TissueError
from microtome.geometry import Size
from microtome.slides.open import open_slide
from microtome.testing.array_slide import ArraySlide
from microtome.tissue.find import TISSUE_METHODS, Auto, MaskedOtsu, Otsu, Saturation
from tests.conftest import golden_cases, require_case


def slide_of(case, shared):
    said = json.loads((case / "case.json").read_text())["inputs"]["slide"]
    for path in (shared / "data/wsi").rglob("*"):
        if not path.is_file() or path.stat().st_size != said["bytes"]:
            continue
        if hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == said["md5"]:
            return open_slide(path)
    return pytest.fail(f"the slide {said['name']} of case {case.name} is not under data/wsi")


@pytest.mark.parametrize("case", golden_cases("histoprep_slide"), ids=lambda c: c.name)
def test_golden_otsu(case, shared):
    case = require_case(case)
    described, arrays = json.loads((case / "case.json").read_text()), np.load(case / "data.npz")
    with slide_of(case, shared) as slide:
        for i, setting in enumerate(described["inputs"]["settings"]):
            threshold, mask = Otsu(**setting["tissue"]).find_threshold(slide)
            assert threshold == int(arrays[f"out_{i}_threshold"])
            shape = tuple(arrays[f"out_{i}_mask_shape"])
            wanted = np.unpackbits(arrays[f"out_{i}_mask_packed"])[: shape[0] * shape[1]].reshape(shape).astype(bool)
            assert mask.shape == wanted.shape
            assert (mask != wanted).mean() <= 1e-4


def area(points):
    return cv2.contourArea(points.reshape(-1, 1, 2))


@pytest.mark.parametrize("case", golden_cases("clam_segmentation"), ids=lambda c: c.name)
def test_golden_saturation(case, shared):
    case = require_case(case)
    described, arrays = json.loads((case / "case.json").read_text()), np.load(case / "data.npz")
    known = {f.name for f in fields(Saturation)}
    with slide_of(case, shared) as slide:
        for i, wanted in enumerate(described["expected"]):
            parameters = {k: v for k, v in wanted["parameters"].items() if k in known}
            contours = Saturation(**parameters).find_contours(slide)
            assert len(contours) == len(wanted["contours"])
            for found, said in zip(contours, wanted["contours"], strict=True):
                assert len(found.outline) == said["points"]
                assert area(found.outline) == pytest.approx(said["area_level0"], rel=1e-3)
                assert list(cv2.boundingRect(found.outline)) == said["bbox_xywh"]
                assert [len(h) for h in found.holes] == [h["points"] for h in said["holes"]]
                assert [area(h) for h in found.holes] == pytest.approx(
                    [h["area_level0"] for h in said["holes"]], rel=1e-3
                )
            if f"out_{i}_contour_points" in arrays and contours:
                points = np.concatenate([c.outline for c in contours])
                assert np.array_equal(points, arrays[f"out_{i}_contour_points"])
                holes = np.concatenate([np.zeros((0, 2)), *(h for c in contours for h in c.holes)])
                assert np.array_equal(holes, arrays[f"out_{i}_hole_points"])


@pytest.mark.parametrize("case", golden_cases("clam_segmentation"), ids=lambda c: c.name)
def test_golden_presets(case):
    described = json.loads((require_case(case) / "case.json").read_text())
    for setting, wanted in zip(described["inputs"]["settings"], described["expected"], strict=True):
        preset = vars(Saturation.preset(setting["preset"]))
        replaced = setting.get("override", {})
        for key in preset.keys() & wanted["parameters"].keys() - replaced.keys():
            assert preset[key] == wanted["parameters"][key]


def stained(seed=0, size=(300, 400)):
    """A white image with two discs of tissue-like noise."""
    rng = np.random.default_rng(seed)
    image = np.full((*size, 3), 242.0) + rng.normal(0, 1.5, (*size, 3))
    y, x = np.mgrid[: size[0], : size[1]]
    inside = (np.hypot(x - 120, y - 150) < 80) | (np.hypot(x - 320, y - 120) < 50)
    image[inside] = np.array([180, 100, 150]) + rng.normal(0, 20, (int(inside.sum()), 3))
    return np.clip(image, 0, 255).astype(np.uint8), inside


def otsu_by_hand(values, bins):
    """Otsu's threshold straight from its definition: the split of the histogram with most variance between."""
    counts, edges = np.histogram(values, bins=bins)
    centres = (edges[:-1] + edges[1:]) / 2
    best, best_variance = centres[0], -1.0
    for i in range(1, len(centres)):
        a, b = counts[:i].sum(), counts[i:].sum()
        if a and b:
            gap = (counts[:i] @ centres[:i]) / a - (counts[i:] @ centres[i:]) / b
            if a * b * gap**2 > best_variance * (1 + 1e-12):
                best, best_variance = centres[i - 1], a * b * gap**2
    return best


def test_masked_otsu_is_the_documented_formula():
    image, inside = stained()
    hsv = rgb2hsv(image)
    dark = np.zeros(image.shape[:2], bool)
    for c in range(3):
        plane = image[..., c].astype(float)
        dark |= plane <= otsu_by_hand(plane, np.arange(plane.min() - 0.5, plane.max() + 1))
    wanted = dark & (hsv[..., 1] > otsu_by_hand(hsv[..., 1], 256))
    method = MaskedOtsu(level=0, mpp=None)
    found, box = method.find_mask(ArraySlide(image))
    assert (box.width, box.height) == (400, 300)
    assert (found != wanted).mean() < 1e-4
    assert (found[inside]).mean() > 0.95
    assert (found[~inside]).mean() < 0.01
    bright = MaskedOtsu(level=0, mpp=None, min_rgb=100).find_mask(ArraySlide(image)).mask
    assert np.array_equal(bright, found & (image.min(axis=2) > 100))


def test_masked_otsu_looks_at_a_resolution_or_level():
    image, _ = stained()
    slide = ArraySlide(image, mpp=4.0, downsamples=(2,))
    assert MaskedOtsu(mpp=16.0).find_mask(slide).mask.shape == (75, 100)
    assert MaskedOtsu(level=1, mpp=None).find_mask(slide).mask.shape == (150, 200)
    assert MaskedOtsu(level=-1, mpp=None).find_mask(slide).mask.shape == (150, 200)
    assert MaskedOtsu.from_parameters({"level": "1"}) == MaskedOtsu(level=1, mpp=None)
    with pytest.raises(TissueError, match="no level 6"):
        MaskedOtsu(level=6, mpp=None).find_mask(slide)
    with pytest.raises(ConfigError, match="level or at a resolution"):
        MaskedOtsu(level=1)


def test_otsu_takes_the_first_level_that_is_small_enough():
    image, inside = stained()
    slide = ArraySlide(image, downsamples=(2, 4))
    assert Otsu().find_mask(slide).mask.shape == (300, 400)
    assert Otsu(max_dimension=399).find_mask(slide).mask.shape == (150, 200)
    assert Otsu(max_dimension=10).find_mask(slide).mask.shape == (75, 100)
    assert Otsu(level=-1).find_mask(slide).mask.shape == (75, 100)
    assert (Otsu().find_mask(slide).mask == inside).mean() > 0.98
    assert Otsu(threshold=0).find_mask(slide).mask.sum() == 0
    with pytest.raises(TissueError, match="no level 3"):
        Otsu(level=3).find_mask(slide)


@pytest.mark.parametrize("value", [0, 255])
def test_otsu_on_black_or_white_says_so(value):
    slide = ArraySlide(np.full((50, 60, 3), value, np.uint8))
    with pytest.raises(TissueError, match="two different grey values"):
        Otsu().find_mask(slide)


def test_saturation_mask_is_the_filled_contours():
    image, _ = stained()
    y, x = np.mgrid[:300, :400]
    image[np.hypot(x - 120, y - 150) < 25] = 242
    method = Saturation(a_t=0.001, a_h=0.001, close=2, mthresh=3)
    mask = method.find_mask(ArraySlide(image)).mask
    contours = method.find_contours(ArraySlide(image))
    assert len(contours) == 2
    assert sorted(len(c.holes) for c in contours) == [0, 1]
    assert np.array_equal(mask, method.find_saturated(ArraySlide(image)))
    filled = Saturation(a_t=0.001, max_n_holes=0, close=2, mthresh=3).find_mask(ArraySlide(image)).mask
    assert filled[150, 120]
    assert not mask[150, 120]
    only_large = Saturation(a_t=0.05, a_h=100, close=2, mthresh=3)
    assert [len(c.holes) for c in only_large.find_contours(ArraySlide(image))] == [0]


def test_saturation_scales_contours_to_level_0():
    image, _ = stained(size=(300, 400))
    big = np.repeat(np.repeat(image, 8, axis=0), 8, axis=1)
    slide = ArraySlide(big, downsamples=(8, 32, 100))
    method = Saturation(a_t=0.1, mthresh=3)
    assert method.find_mask(slide).mask.shape == (75, 100)  # 32 is the largest downsample up to 64
    (left, right) = sorted(method.find_contours(slide), key=lambda c: c.outline[:, 0].min())
    assert left.outline[:, 0].max() < right.outline[:, 0].min()
    assert right.outline.max() > 2000
    assert method.find_mask(ArraySlide(big[:8, :8])).mask.sum() == 0


def test_saturation_refuses_a_level_too_large(monkeypatch):
    monkeypatch.setattr("microtome.tissue.saturation._MAX_LEVEL_PX", 1000)
    with pytest.raises(TissueError, match="more than 1,000"):
        Saturation().find_mask(ArraySlide(stained()[0]))
    monkeypatch.setattr("microtome.tissue.otsu._MAX_LEVEL_PX", 1000)
    with pytest.raises(TissueError, match="more than 1,000"):
        Otsu().find_mask(ArraySlide(stained()[0]))


BAD = [
    (Otsu, {"threshold": 256}),
    (Otsu, {"threshold": -1}),
    (Otsu, {"sigma": -0.1}),
    (Otsu, {"sigma": float("nan")}),
    (Otsu, {"multiplier": float("inf")}),
    (Otsu, {"max_dimension": 0}),
    (Saturation, {"mthresh": 4}),
    (Saturation, {"mthresh": 0}),
    (Saturation, {"sthresh": 300}),
    (Saturation, {"a_t": -1}),
    (Saturation, {"max_n_holes": -1}),
    (Saturation, {"seg_level": -2}),
    (Saturation, {"preset": "unknown"}),
    (MaskedOtsu, {"mpp": 0}),
    (MaskedOtsu, {"mpp": None}),
    (MaskedOtsu, {"level": 2, "mpp": 4.0}),
    (MaskedOtsu, {"min_rgb": 256}),
    (Auto, {"mpp": 0}),
    (Auto, {"max_px": 10}),
    (Auto, {"min_px": 3000}),
    (Auto, {"colour": 0.5}),
    (Auto, {"closing_um": -1}),
    (Auto, {"remove_ink": "perhaps"}),
    (Auto, {"max_px": 100.5}),
    (Auto, {"mpp": "eight"}),
    (Otsu, {"threshold": True}),
]


@pytest.mark.parametrize(("kind", "parameters"), BAD)
def test_parameters_out_of_range_are_refused(kind, parameters):
    with pytest.raises(ConfigError):
        kind.from_parameters(parameters)


@pytest.mark.parametrize("kind", TISSUE_METHODS.values())
def test_unknown_parameters_are_refused_with_the_known_ones(kind):
    with pytest.raises(ConfigError, match=f"no parameter 'nonsense'. It has {fields(kind)[0].name}"):
        kind.from_parameters({"nonsense": 1})
    assert kind.from_parameters({}) == kind()


def test_parameters_from_text():
    assert Otsu.from_parameters({"sigma": "0", "threshold": "200"}) == Otsu(sigma=0.0, threshold=200)
    assert Otsu.from_parameters({"threshold": "none"}) == Otsu()
    assert Auto.from_parameters({"remove_ink": "false", "mpp": 4}) == Auto(remove_ink=False, mpp=4.0)
    mixed = Saturation.from_parameters({"preset": "bwh_biopsy", "a_t": 3})
    assert (mixed.a_t, mixed.sthresh, mixed.max_n_holes) == (3, 15, 2)


@pytest.mark.parametrize("kind", TISSUE_METHODS.values())
def test_every_parameter_and_version_is_in_the_recipe(kind):
    method = kind()
    recipe = method.recipe
    assert recipe["method"] == kind.name
    assert recipe["method_version"] == kind.version
    assert {f"method_{f.name}" for f in fields(kind)} <= recipe.keys()


def test_masked_otsu_needs_no_square_pixels():
    image, _ = stained()
    slide = ArraySlide(image, mpp=1.0)
    found, box = MaskedOtsu(mpp=7.0).find_mask(slide)
    assert Size(found.shape[1], found.shape[0]) == Size(57, 43)
    assert (box.width, box.height) == (400, 300)
