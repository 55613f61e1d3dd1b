"""Every tissue method on the same real images; docs/tissue.md shows the table.

Run with MICROTOME_SHARED set to the reference data (or with it in ``../shared``).
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from harness import SHARED, Options, Report
from PIL import Image

from microtome.errors import NoTissueError, TissueError
from microtome.slides.base import Slide
from microtome.slides.open import open_slide
from microtome.testing.array_slide import ArraySlide
from microtome.tissue.find import Auto, MaskedOtsu, Otsu, Saturation, TissueMethod, find_tissue

WSI, TILES = SHARED / "data/wsi", SHARED / "data/tiles"
PENS = (
    "models__pen_markings_he__pen_green",
    "models__pen_markings_he__pen_red",
    "pen__1k_version__pen_green",
    "pen__1k_version__pen_red",
)
EDGES = ("models__coverslip_edge_he__coverslip_edge", "models__coverslip_edge_ihc__coverslip_edge")
BLANK = ("almost-white-1", "almost-white-2", "almost-white-ihc", "no-tissue", "no-tissue-line", "no-tissue-green-pen")
FULL = (
    "histolab/tissue-level0-7352-11762-7864-12274",
    "histolab/medium-nuclei-score-level1-2",
    "histolab/very-low-nuclei-score-level0",
    "histoqc/templates__template1",
    "histoqc/templates__template3",
)
# CLAM's area limits are in squares of 512 level-0 pixels, of which thumbnails have a handful; the smallest preset
# is scaled to them, otherwise nothing at all would be found.
METHODS: dict[str, TissueMethod] = {
    "`auto`": Auto(),
    "`otsu`": Otsu(),
    "`saturation` (bwh_biopsy, a_t = a_h = 0.001)": Saturation.from_parameters(
        {"preset": "bwh_biopsy", "a_t": 0.001, "a_h": 0.001}
    ),
    "`masked-otsu` (level 0)": MaskedOtsu(level=0, mpp=None),
}


def picture(path: Path) -> ArraySlide:
    """An image as a slide without resolution, alpha on white."""
    with Image.open(path) as image:
        rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    white.alpha_composite(rgba)
    return ArraySlide(np.asarray(white.convert("RGB")).copy(), mpp=None, name=path.stem)


def found(slide: Slide, method: TissueMethod) -> np.ndarray:
    """The mask at the slide's own resolution; empty where the method finds nothing."""
    try:
        tissue = find_tissue(slide, method=method)
    except (NoTissueError, TissueError):
        return np.zeros((slide.size.height, slide.size.width), bool)
    return tissue.mask(box=slide.bounds, size=slide.bounds.size)


def overlap(file: str, reference: str) -> Callable[[TissueMethod], float]:
    """Intersection over union with another library's mask, at that mask's resolution."""

    def measure(method: TissueMethod) -> float:
        wanted = np.load(TILES / "histolab_masks" / reference)
        with open_slide(WSI / file) as slide:
            fine = found(slide, method).astype(np.float32)
        coarse = cv2.resize(fine, wanted.shape[::-1], interpolation=cv2.INTER_AREA) > 0.5
        return float((coarse & wanted).sum() / (coarse | wanted).sum())

    return measure


def share_of(names: tuple[str, ...]) -> Callable[[TissueMethod], float]:
    """Worst share of the pixels marked in a mask image that are called tissue."""

    def measure(method: TissueMethod) -> float:
        shares = []
        for name in names:
            with Image.open(TILES / f"histoqc/{name}_mask.png") as image:
                marked = np.asarray(image.convert("L")) > 0
            shares.append(found(picture(TILES / f"histoqc/{name}.png"), method)[marked].mean())
        return float(max(shares))

    return measure


def empty_tiles(method: TissueMethod) -> str:
    """How many blank tiles come out empty."""
    masks = [found(picture(TILES / f"histolab/{name}.png"), method) for name in BLANK]
    return f"{sum(not mask.any() for mask in masks)} of {len(masks)}"


def full_tiles(method: TissueMethod) -> float:
    """Least share found on tiles that have no glass."""
    return float(min(found(picture(TILES / f"{name}.png"), method).mean() for name in FULL))


def seconds(method: TissueMethod) -> str:
    """Median of five runs on CMU-1-Small-Region."""
    times = []
    with open_slide(WSI / "CMU-1-Small-Region.svs") as slide:
        for _ in range(5):
            start = time.perf_counter()
            found(slide, method)
            times.append(time.perf_counter() - start)
    return f"{np.median(times):.1f} s"


def main() -> None:
    """Print and keep the table."""
    options = Options.parse(__doc__)
    if not TILES.is_dir():
        print(f"reference data is not at {SHARED}: set MICROTOME_SHARED; not measured", file=sys.stderr)
        return
    report = Report("tissue_methods", options, about=(__doc__ or "").split("\n\n")[0])
    rows: dict[str, Callable[[TissueMethod], float | str]] = {
        "IoU, CMU-1-Small-Region": overlap("CMU-1-Small-Region.svs", "tissue-mask-cmu-1-small-region.npy"),
        "IoU, kidney-48-5": overlap("kidney-48-5.tif", "tissue-mask-kidney-48-5.npy"),
        "pen called tissue, worst of 4": share_of(PENS),
        "coverslip edge called tissue, H&E": share_of(EDGES[:1]),
        "coverslip edge called tissue, IHC": share_of(EDGES[1:]),
        "blank tiles left empty": empty_tiles,
        "tissue-full tiles found, worst of 5": full_tiles,
        "time, CMU-1-Small-Region": seconds,
    }
    cells = []
    for title, measure in rows.items():
        values = [measure(method) for method in METHODS.values()]
        cells.append([title, *(value if isinstance(value, str) else as_text(title, value) for value in values)])
    report.table("Tissue methods on real images", ["", *METHODS], cells)
    report.write()


def as_text(title: str, value: float) -> str:
    """IoU as a number, shares as per cent."""
    return f"{value:.3f}" if title.startswith("IoU") else f"{100 * value:.1f} %"


if __name__ == "__main__":
    main()
