"""The synthetic slide: the same wherever it is read, true to its outlines, and separable as real H&E is."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.errors import ConfigError
from microtome.geometry import Box, Size
from microtome.testing import SyntheticSlide, synthetic_slide
from microtome.testing.synthetic_layout import Layout, Wishes, plan_layout
from microtome.testing.synthetic_paint import Painter, Staining

SLIDE = SyntheticSlide(5, size=Size(1300, 1100))
WHOLE = SLIDE.read(Box.of(SLIDE.size))


def covered(shape: shapely.MultiPolygon, size: Size) -> np.ndarray:
    """Outlines as a mask of level 0, drawn by OpenCV."""
    mask = np.zeros((size.height, size.width), np.uint8)
    for polygon in shape.geoms:
        rings = [np.round(np.asarray(r.coords)).astype(np.int32) for r in (polygon.exterior, *polygon.interiors)]
        cv2.fillPoly(mask, rings, 1)
    return mask.astype(bool)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1299), st.integers(0, 1099), st.integers(1, 700), st.integers(1, 700))
def test_any_box_is_a_crop_of_the_whole(x: int, y: int, width: int, height: int) -> None:
    box = Box(x, y, min(width, 1300 - x), min(height, 1100 - y))
    np.testing.assert_array_equal(SLIDE.read(box), WHOLE[box.y : box.bottom, box.x : box.right])


def test_a_fresh_slide_read_in_another_order_is_the_same() -> None:
    again = SyntheticSlide(5, size=Size(1300, 1100))
    boxes = [Box(x, y, 100, 100) for x in range(0, 1200, 300) for y in range(0, 1000, 250)][::-1]
    with ThreadPoolExecutor(4) as pool:
        for box, tile in zip(boxes, pool.map(again.read, boxes), strict=True):
            np.testing.assert_array_equal(tile, WHOLE[box.y : box.bottom, box.x : box.right])
    assert again.tissue.equals(SLIDE.tissue)


@pytest.mark.parametrize("mpp", [0.25, 0.5, 2.0])
def test_regions_painted_apart_fit_together(mpp: float) -> None:
    """Below the fixed blocks of SyntheticSlide: the painter itself leaves no seam wherever it is cut."""
    size = Size(768, 768)
    layout = plan_layout(size, mpp, 1, Wishes(pen=True, defocus=True))
    painter = Painter(layout, mpp, 1, Staining())
    whole = painter.light(Box.of(size)).astype(int)
    for side in (64, 256):
        for x in range(0, 768, side):
            part = painter.light(Box(x, 256, side, 256)).astype(int)
            assert abs(part - whole[256:512, x : x + side]).max() <= 1
    glow = painter.fluorescence(Box(0, 0, 512, 512)).astype(int)
    assert abs(painter.fluorescence(Box(192, 256, 64, 64)).astype(int) - glow[256:320, 192:256]).max() <= 2


@pytest.mark.parametrize("downsample", [2, 4, 16])
def test_lower_levels_are_area_averages(downsample: int) -> None:
    box = Box(130, 64, 1088, 1024)
    small = SLIDE.read(box, downsample=downsample)
    blocks = WHOLE[64:1088, 130:1218].reshape(1024 // downsample, downsample, 1088 // downsample, downsample, 3)
    np.testing.assert_allclose(small, blocks.mean(axis=(1, 3)), atol=0.51)


def test_seeds_and_options_change_what_they_name() -> None:
    box = Box(300, 300, 256, 256)
    plain = SyntheticSlide(1, size=1024)
    other = SyntheticSlide(2, size=1024)
    assert not plain.tissue.equals(other.tissue)
    assert (plain.read(box) != other.read(box)).any()
    none = SyntheticSlide(1, size=1024, tumour=False)
    assert none.tumour.is_empty
    assert none.tissue.equals(plain.tissue)
    assert plain.pen.is_empty
    assert len({str(s.recipe) for s in (plain, other, none)}) == 3


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [Size(1024, 1024), Size(2048, 900)])
def test_outlines_are_valid_and_of_fair_size(seed: int, size: Size) -> None:
    slide = SyntheticSlide(seed, size=size)
    canvas = shapely.box(0, 0, size.width, size.height)
    assert slide.tissue.is_valid
    assert slide.tumour.is_valid
    assert 0.15 < slide.tissue.area / size.area < 0.75
    assert 0.15 < slide.tumour.area / slide.tissue.area < 0.35
    assert canvas.covers(slide.tissue)
    assert slide.tissue.buffer(1).covers(slide.tumour)


@pytest.mark.parametrize("seed", range(3))
def test_pixels_agree_with_the_tissue_outline(seed: int) -> None:
    slide = SyntheticSlide(seed, size=1024)
    image = slide.read(Box.of(slide.size)).astype(int)
    coloured = image.max(axis=2) - image.min(axis=2) > 12
    distance = cv2.distanceTransform(covered(slide.tissue, slide.size).astype(np.uint8), cv2.DIST_L2, 5)
    outside = cv2.distanceTransform(1 - covered(slide.tissue, slide.size).astype(np.uint8), cv2.DIST_L2, 5)
    assert coloured[distance > 12].mean() > 0.75  # lumens, fat and clefts are tissue, and white
    assert coloured[outside > 12].mean() < 0.002  # dust
    # white and shaded glass
    assert 225 < image[outside > 12].mean() < 252
    filled = cv2.morphologyEx(coloured.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((25, 25)))
    edge = (distance < 12) & (outside < 12)
    inside = distance > 0
    assert (filled[edge] == inside[edge]).mean() > 0.75


def test_pixels_agree_with_the_tumour_outline() -> None:
    """Haematoxylin-dark pixels crowd inside of it and stop at it."""
    slide = SyntheticSlide(3, size=1536)
    image = slide.read(Box.of(slide.size)).astype(int)
    dark = image[:, :, 0] < 150
    tumour, tissue = covered(slide.tumour, slide.size), covered(slide.tissue, slide.size)
    assert dark[tumour].mean() > 0.3
    assert dark[tissue & ~tumour].mean() < 0.5 * dark[tumour].mean()
    density = cv2.blur(dark.astype(np.float32), (97, 97))
    found = density > (dark[tumour].mean() + dark[tissue & ~tumour].mean()) / 2
    union = (found | tumour).sum()
    assert (found & tumour).sum() / union > 0.6


def test_tumour_is_found_by_simple_features() -> None:
    """As in real H&E, colour and texture separate the planted tumour without anybody saying where it is."""
    from sklearn.cluster import KMeans

    slide = SyntheticSlide(0, size=2048)
    side = 128
    features, truth = [], []
    for y in range(0, 2048, side):
        for x in range(0, 2048, side):
            tile = shapely.box(x, y, x + side, y + side)
            if tile.intersection(slide.tissue).area < 0.6 * tile.area:
                continue
            density = -np.log((slide.read(Box(x, y, side, side)).astype(float) + 1) / 256)
            features.append([*density.mean(axis=(0, 1)), *density.std(axis=(0, 1))])
            truth.append(tile.intersection(slide.tumour).area > 0.5 * tile.area)
    table = np.array(features)
    table = (table - table.mean(axis=0)) / table.std(axis=0)
    clusters = KMeans(4, n_init=5, random_state=0).fit_predict(table)
    labels = np.array(truth)
    assert 0.1 < labels.mean() < 0.5
    purity = sum(max(labels[clusters == c].sum(), (~labels[clusters == c]).sum()) for c in range(4)) / len(labels)
    assert purity > 0.93


def test_a_pen_stroke_is_ink_coloured() -> None:
    for colour, channel in (("blue", 2), ("green", 1)):
        slide = SyntheticSlide(2, size=1024, pen=colour)
        ink = covered(slide.pen, slide.size) & ~covered(slide.tissue, slide.size)
        assert ink.sum() > 500
        pixels = slide.read(Box.of(slide.size))[ink].astype(int)
        assert (pixels.argmax(axis=1) == channel).mean() > 0.97
        assert pixels.min(axis=1).mean() < 120


def test_a_patch_out_of_focus_has_no_fine_detail() -> None:
    sharp = SyntheticSlide(3, size=1024)
    soft = SyntheticSlide(3, size=1024, defocus=True)
    box = Box.of(sharp.size)
    detail = [
        cv2.blur(abs(cv2.Laplacian(s.read(box)[:, :, 1].astype(np.float32), cv2.CV_32F)), (65, 65))
        for s in (sharp, soft)
    ]
    ratio = detail[1] / (detail[0] + 0.1)
    tissue = covered(sharp.tissue, sharp.size)
    assert ratio[tissue].min() < 0.5
    assert 0.05 < (ratio[tissue] < 0.8).mean() < 0.3  # a patch; the rest is as it was
    assert ratio[tissue].max() < 1.01


def test_fluorescence_is_sixteen_bits_on_dark() -> None:
    slide = SyntheticSlide(3, size=1024, modality="fluorescence")
    counts = slide.read(Box.of(slide.size))
    assert counts.dtype == np.uint16
    assert counts.shape == (1024, 1024, 2)
    tissue, tumour = covered(slide.tissue, slide.size), covered(slide.tumour, slide.size)
    assert 150 < counts[~tissue].mean() < 300
    assert counts[tumour].mean(axis=0).min() > 10 * counts[~tissue].mean()
    assert counts.max() > 10_000
    assert slide.canvas().dtype == "uint16"


def test_structures_keep_their_size_on_the_glass() -> None:
    """A slide of half the mpp has twice as many pixels per nucleus, not twice as many nuclei."""
    sizes = {}
    for mpp, size in ((0.5, 1024), (0.25, 2048)):
        slide = SyntheticSlide(1, size=size, mpp=mpp)
        dark = (slide.read(Box.of(slide.size))[:, :, 0] < 135).astype(np.uint8)
        dark[~covered(slide.tissue, slide.size) | covered(slide.tumour, slide.size)] = 0
        _, _, stats, _ = cv2.connectedComponentsWithStats(dark)
        areas = stats[1:, cv2.CC_STAT_AREA] * mpp**2
        sizes[mpp] = float(np.median(areas[areas > 4]))
    assert sizes[0.25] == pytest.approx(sizes[0.5], rel=0.25)
    assert 5 < sizes[0.5] < 60  # µm²


def test_layout_fields_agree_at_points_and_pixels() -> None:
    layout: Layout = plan_layout(Size(640, 512), 0.5, 4, Wishes())
    box = Box(64, 128, 256, 192)
    pixels = layout.crop("tissue", box)
    rows, columns = np.mgrid[0:192:7, 0:256:7]
    points = np.stack([columns.ravel() + box.x + 0.5, rows.ravel() + box.y + 0.5], axis=1)
    at = layout.at("tissue", points)
    assert abs(at - pixels[rows.ravel(), columns.ravel()]).max() < 2.0  # µm; the pixels are a little smoother


def test_bad_arguments() -> None:
    for arguments in ({"size": 100}, {"size": Size(1000, 200)}, {"mpp": 0.01}, {"mpp": 9.0}, {"seed": -1}):
        with pytest.raises(ConfigError):
            SyntheticSlide(**arguments)
    for word in ({"pen": "red"}, {"modality": "x-ray"}):
        with pytest.raises((ConfigError, TypeError)):  # a word that is none of the literals meets the type checker
            SyntheticSlide(**word)
    slide = synthetic_slide(0, size_px=512)
    for box, downsample in ((Box(-1, 0, 4, 4), 1), (Box(510, 0, 4, 4), 1), (Box(0, 0, 10, 8), 4), (Box(0, 0, 9, 9), 3)):
        with pytest.raises(ConfigError):
            slide.read(box, downsample=downsample)
