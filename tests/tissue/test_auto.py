"""The default method on real images: tissue found, ink, glass, edges and blank tiles left out."""

import cv2
import numpy as np
import pytest
from PIL import Image

from microtome.annotations.raster import rasterise
from microtome.geometry import Box, Size
from microtome.slides.open import open_slide
from microtome.testing.array_slide import ArraySlide
from microtome.testing.synthetic_section import SyntheticSlide
from microtome.tissue.auto import Auto, glass_colour
from microtome.tissue.find import find_tissue


def read(path):
    with Image.open(path) as image:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        white.alpha_composite(rgba)
        return np.asarray(white.convert("RGB")).copy()


def read_mask(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("L")) > 0


def found(image, mpp=None, method=None):
    """Auto's mask at the image's own resolution."""
    slide = ArraySlide(image, mpp=mpp)
    tissue = find_tissue(slide, method=method or Auto(), allow_empty=True)
    return tissue.mask(box=slide.bounds, size=slide.size)


def disc(shape, x, y, radius):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(columns - x, rows - y) < radius


@pytest.mark.parametrize(
    ("file", "mask", "mpp"),
    [
        ("CMU-1-Small-Region.svs", "tissue-mask-cmu-1-small-region.npy", None),
        ("kidney-48-5.tif", "tissue-mask-kidney-48-5.npy", None),
        ("kidney-48-5.tif", "tissue-mask-kidney-48-5.npy", 0.25),
        ("kidney-48-5.tif", "tissue-mask-kidney-48-5.npy", 0.5),
    ],
)
def test_agrees_with_another_librarys_masks(shared, file, mask, mpp):
    reference = np.load(shared / "data/tiles/histolab_masks" / mask)
    with open_slide(shared / "data/wsi" / file, mpp=mpp) as slide:
        tissue = find_tissue(slide)
        fine = tissue.mask(box=slide.bounds, size=slide.size)
    coarse = cv2.resize(fine.astype(np.float32), reference.shape[::-1], interpolation=cv2.INTER_AREA) > 0.5
    assert (coarse & reference).sum() / (coarse | reference).sum() >= 0.85


@pytest.mark.parametrize(
    ("name", "tissue_at", "glass_at"),
    [
        # (x, y) as shares of width and height: places seen to be tissue, and to be glass
        ("models__pen_markings_he__pen_green", [(0.45, 0.4), (0.27, 0.52)], [(0.05, 0.5), (0.9, 0.8)]),
        ("pen__1k_version__pen_green", [(0.45, 0.4), (0.27, 0.52), (0.86, 0.1)], [(0.05, 0.5), (0.9, 0.8)]),
        ("models__pen_markings_he__pen_red", [(0.5, 0.3), (0.5, 0.7), (0.7, 0.5)], [(0.03, 0.5), (0.95, 0.2)]),
        ("pen__1k_version__pen_red", [(0.5, 0.3), (0.5, 0.7), (0.7, 0.5)], [(0.03, 0.5), (0.95, 0.2)]),
    ],
)
def test_pen_is_left_out_and_tissue_beside_it_found(shared, name, tissue_at, glass_at):
    folder = shared / "data/tiles/histoqc"
    image, pen = read(folder / f"{name}.png"), read_mask(folder / f"{name}_mask.png")
    mask = found(image)
    assert mask[pen].mean() <= 0.05
    places = {(x, y): mask[int(y * mask.shape[0]), int(x * mask.shape[1])] for x, y in tissue_at + glass_at}
    assert all(places[p] for p in tissue_at), places
    assert not any(places[p] for p in glass_at), places


@pytest.mark.parametrize(("name", "limit"), [("he", 0.10), ("ihc", 0.05)])
def test_coverslip_edges_are_left_out(shared, name, limit):
    # in the H&E image thin lines cross the tissue itself, which stays tissue
    folder = shared / "data/tiles/histoqc"
    stem = f"models__coverslip_edge_{name}__coverslip_edge"
    mask = found(read(folder / f"{stem}.png"))
    assert mask[read_mask(folder / f"{stem}_mask.png")].mean() <= limit
    height, width = mask.shape
    tissue = [(0.4, 0.5), (0.6, 0.4)] if name == "he" else [(0.47, 0.73), (0.72, 0.7)]
    assert all(mask[int(y * height), int(x * width)] for x, y in tissue)


@pytest.mark.parametrize(
    "name",
    ["almost-white-1", "almost-white-2", "almost-white-ihc", "no-tissue", "no-tissue-line", "no-tissue-green-pen"],
)
def test_blank_tiles_are_empty(shared, name):
    assert not found(read(shared / f"data/tiles/histolab/{name}.png")).any()


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("histolab/tissue-level0-4302-10273-4814-10785.png", 0.65),  # a third of it are gaps
        ("histolab/tissue-level0-7352-11762-7864-12274.png", 0.8),
        ("histolab/medium-nuclei-score-level0.png", 0.9),
        ("histolab/medium-nuclei-score-level1-2.png", 0.98),
        ("histolab/high-nuclei-score-level0.png", 0.95),
        ("histolab/very-low-nuclei-score-level0.png", 0.95),
        ("histolab/liver-level2-10907-7808-11707-8608.png", 0.98),
        ("histoqc/templates__template1.png", 0.98),
        ("histoqc/templates__template2.png", 0.95),
        ("histoqc/templates__template3.png", 0.98),
    ],
)
def test_tiles_without_glass_are_tissue(shared, name, least):
    assert found(read(shared / "data/tiles" / name)).mean() >= least


def test_spots_of_an_array_are_found_one_by_one(shared):
    image = read(shared / "data/tiles/histoprep/tma_spots.jpeg")
    slide = ArraySlide(image, mpp=None)
    tissue = find_tissue(slide)
    colour = np.ptp(cv2.GaussianBlur(image, (0, 0), 2).astype(int), axis=2) > 40
    mask = tissue.mask(box=slide.bounds, size=slide.size)
    assert mask[colour].mean() > 0.98
    assert len(tissue.polygons.geoms) > 40
    assert 0.02 < mask.mean() < 0.25


def test_fluorescence_on_dark(shared):
    with open_slide(shared / "data/wsi/test3-DAPI-2-(387).ndpi") as slide:
        image = slide.thumbnail(1000)
        mask = find_tissue(slide).mask(box=slide.bounds, size=slide.bounds.size.fitted(1000))
    nuclei = image[:, :, 2] > 150
    assert mask[nuclei].mean() > 0.99
    height, width = mask.shape
    assert not mask[int(0.98 * height), int(0.1 * width)]  # below the epidermis
    assert not mask[int(0.05 * height), int(0.05 * width)]


def test_multichannel_on_dark(shared):
    with open_slide(shared / "data/wsi/small_vectra.qptiff") as slide:
        size = slide.bounds.size.fitted(500)
        mask = find_tissue(slide).mask(box=slide.bounds, size=size)
        signal = slide.read_raw(slide.bounds, size=size).astype(float)
    assert mask[int(0.5 * size.height), int(0.35 * size.width)]
    assert not mask[int(0.5 * size.height), int(0.9 * size.width)]
    assert 0.45 < mask.mean() < 0.65
    assert signal[mask].mean() > 2 * signal[~mask].mean()


def drawn_on(image, kind):
    """A mark drawn on a slide's glass, and where it is."""
    drawn, mark = image.copy(), np.zeros(image.shape[:2], np.uint8)
    height = mark.shape[0]
    if kind == "black cross":
        cv2.line(mark, (20, height - 90), (90, height - 20), 1, 9)
        cv2.line(mark, (20, height - 20), (90, height - 90), 1, 9)
        colour = (18, 16, 20)
    elif kind == "grey border":
        mark[:, -60:] = 1
        mark[-30:] = 1
        colour = (150, 148, 149)
    else:
        cv2.ellipse(mark, (80, height // 3), (50, 70), 0, 0, 300, 1, 12)
        colour = {"blue pen": (29, 68, 188), "green pen": (31, 140, 115), "red pen": (200, 35, 60)}[kind]
    inside = mark > 0
    noise = np.random.default_rng(0).normal(0, 3, (int(inside.sum()), 3))
    drawn[inside] = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    return cv2.GaussianBlur(drawn, (0, 0), 0.8), inside


@pytest.mark.parametrize("kind", ["black cross", "grey border", "blue pen", "green pen", "red pen"])
def test_marks_on_the_glass_change_nothing_else(shared, kind):
    with open_slide(shared / "data/wsi/CMU-1-Small-Region.svs") as slide:
        image = slide.thumbnail(900)
    before = found(image, mpp=1.6)
    drawn, mark = drawn_on(image, kind)
    after = found(drawn, mpp=1.6)
    free = mark & ~before
    assert after[free].mean() <= 0.02
    near = cv2.dilate(mark.astype(np.uint8), np.ones((31, 31), np.uint8)) > 0
    assert (before != after)[~near].mean() < 0.005


@pytest.mark.parametrize("pen", [None, "blue", "green", "black"])
def test_planted_tissue_and_pen(pen):
    section = SyntheticSlide(3, size=2048, mpp=1.0, pen=pen)
    frame, size = Box(0, 0, 2048, 2048), Size(1024, 1024)
    slide = ArraySlide(section.read(frame, downsample=2), mpp=2.0)
    tissue = find_tissue(slide)
    mask = tissue.mask(box=slide.bounds, size=size)
    truth, ink = (rasterise(p, box=frame, size=size) for p in (section.tissue, section.pen))
    assert mask[ink].sum() <= 0.05 * ink.sum()
    near = cv2.dilate(ink.astype(np.uint8), np.ones((25, 25), np.uint8)) > 0
    assert (mask & truth & ~near).sum() / ((mask | truth) & ~near).sum() > 0.88
    assert mask[truth & ~near].mean() > 0.98


def test_planted_tissue_in_fluorescence():
    section = SyntheticSlide(3, size=2048, mpp=1.0, modality="fluorescence")
    frame, size = Box(0, 0, 2048, 2048), Size(1024, 1024)
    slide = ArraySlide(section.read(frame, downsample=2), mpp=2.0)
    mask = find_tissue(slide).mask(box=slide.bounds, size=size)
    truth = rasterise(section.tissue, box=frame, size=size)
    assert (mask & truth).sum() / (mask | truth).sum() > 0.88


def test_ink_is_kept_when_asked(shared):
    image = read(shared / "data/tiles/histolab/no-tissue-green-pen.png")
    assert found(image, method=Auto(remove_ink=False)).mean() > 0.5


@pytest.mark.parametrize("value", [0, 30, 128, 243, 255])
@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (7, 3), (300, 400)])
def test_plain_images_are_empty(value, shape):
    for mpp in (None, 0.5):
        assert not found(np.full((*shape, 3), value, np.uint8), mpp=mpp).any()


def test_noise_is_empty():
    rng = np.random.default_rng(0)
    for level, spread in ((240, 4), (15, 6)):
        noise = np.clip(rng.normal(level, spread, (400, 500, 3)), 0, 255).astype(np.uint8)
        assert not found(noise).any()
    deep = np.clip(rng.normal(300, 60, (400, 500, 7)), 0, 65535).astype(np.uint16)
    assert not found(deep).any()


def test_cells_in_sixteen_bits():
    rng = np.random.default_rng(0)
    image = np.clip(rng.normal(300, 20, (400, 500, 2)), 0, 65535)
    region = disc(image.shape, 250, 200, 90)
    cells = region & (rng.random(region.shape) < 0.2)
    image[cells, 1] += 5000
    mask = found(image.astype(np.uint16))
    assert mask[region].mean() > 0.98
    assert mask[~disc(image.shape, 250, 200, 125)].mean() == 0


def test_grey_slide_is_found_by_density():
    rng = np.random.default_rng(0)
    image = np.full((300, 400), 240.0) + rng.normal(0, 2, (300, 400))
    region = disc(image.shape, 200, 150, 60)
    image[region] = rng.normal(120, 25, int(region.sum()))
    grey = np.clip(image, 0, 255).astype(np.uint8)[:, :, None]
    mask = found(grey)
    assert mask[region].mean() > 0.98
    assert mask[~disc(image.shape, 200, 150, 90)].mean() == 0


def test_same_twice_and_at_any_pyramid(shared):
    with open_slide(shared / "data/wsi/CMU-1-Small-Region.svs") as slide:
        image = slide.read(slide.bounds)
    flat, stacked = ArraySlide(image, mpp=0.5), ArraySlide(image, mpp=0.5, downsamples=(2,))
    first = find_tissue(flat)
    assert find_tissue(flat).digest == first.digest
    other = find_tissue(stacked)
    overlap = first.polygons.intersection(other.polygons).area
    assert overlap / first.polygons.union(other.polygons).area > 0.98


def test_faded_but_plentiful_tissue_is_found():
    rng = np.random.default_rng(0)
    image = np.full((500, 500, 3), 242.0) + rng.normal(0, 1, (500, 500, 3))
    region = disc(image.shape, 250, 250, 150)
    image[region] = np.array([225, 185, 210]) + rng.normal(0, 12, (int(region.sum()), 3))
    mask = found(np.clip(image, 0, 255).astype(np.uint8))
    assert mask[region].mean() > 0.98


def test_glass_is_estimated_or_assumed():
    tinted = np.full((100, 100, 3), (236, 232, 220), np.uint8)
    tinted[20:60, 20:60] = (170, 90, 140)
    assert glass_colour(tinted) == pytest.approx([236, 232, 220])
    pink = np.full((100, 100, 3), (225, 190, 207), np.uint8)
    assert glass_colour(pink) == pytest.approx([243, 243, 243])


def test_margin_is_the_only_thing_that_reaches_out_of_tissue():
    image = np.full((1000, 1000, 3), 243, np.uint8)
    rng = np.random.default_rng(0)
    region = disc(image.shape, 500, 500, 60)
    image[region] = np.clip(np.array([170, 90, 150]) + rng.normal(0, 15, (int(region.sum()), 3)), 0, 255)
    tight = found(image, mpp=8.0, method=Auto(margin_um=0, margin_px0=0))
    assert tight[~disc(image.shape, 500, 500, 64)].sum() == 0
    assert tight[disc(image.shape, 500, 500, 57)].all()
    wide = found(image, mpp=8.0, method=Auto(margin_um=80, margin_px0=0))
    assert wide[disc(image.shape, 500, 500, 66)].all()
    assert wide[~disc(image.shape, 500, 500, 74)].sum() == 0
