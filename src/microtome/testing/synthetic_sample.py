"""A folder of synthetic slides in several formats, with their known regions and a table of the slides."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import shapely
from jaxtyping import UInt8

from microtome.annotations.geojson import Annotation, write_polygons
from microtome.errors import ConfigError, RecipeMismatchError
from microtome.geometry import Size
from microtome.slides.write import TileCoding, write_ome_tiff, write_svs, write_tiff
from microtome.storage import digest, recipe_changes, recipe_text, write_text
from microtome.testing.synthetic_section import SyntheticSlide

SUFFIXES = {"svs": ".svs", "tiff": ".tif", "ome": ".ome.tif", "dicom": ""}
NORMAL_EVERY = 4  # of a sample's slides, every fourth has no tumour

_CODING = TileCoding()


@dataclass(frozen=True, eq=False)
class SampleSlide:
    """One written slide and what is known of it; polygons in level-0 pixels.

    Attributes:
        slide_id: The name under which a listing of the folder knows it.
        path: The file, or for DICOM the folder of its files.
        kind: ``svs``, ``tiff``, ``ome`` or ``dicom``.
        size: Level 0, in pixels.
        mpp: µm per level-0 pixel.
        tissue: Outlines of the section.
        tumour: Outlines of the planted tumour; empty where the label is ``normal``.
        label: ``tumour`` or ``normal``.
        patient_id: One patient per slide.
    """

    slide_id: str
    path: Path
    kind: str
    size: Size
    mpp: float
    tissue: shapely.MultiPolygon
    tumour: shapely.MultiPolygon
    label: str
    patient_id: str


def write_sample(
    folder: str | Path,
    *,
    n_slides: int = 3,
    size_px: int = 8192,
    seed: int = 0,
    kinds: Sequence[str] = ("svs", "tiff", "ome"),
    mpp: float = 0.5,
    on_slide: Callable[[SampleSlide], None] | None = None,
) -> list[SampleSlide]:
    """Write synthetic slides with known tissue and tumour regions; what is there already is kept.

    Beside the slides: ``truth/<slide_id>.tissue.geojson`` and ``.tumour.geojson`` (QuPath opens them),
    ``truth/<slide_id>.recipe.json``, and ``cohort.csv`` (slide_id, path, patient_id, label, mpp). Every fourth slide
    has no tumour.

    Args:
        folder: Where to; it is made.
        n_slides: How many.
        size_px: Side of level 0, in pixels, at least 512.
        seed: Decides the pixels; slides of one sample differ in shape and staining.
        kinds: Formats, taken in turn: ``svs``, ``tiff`` (generic pyramid), ``ome`` (OME-TIFF), ``dicom`` (needs
            pydicom).
        mpp: µm per level-0 pixel, written to the files.
        on_slide: Called as each slide is there.

    Returns:
        The slides, in order.

    Raises:
        ConfigError: If a kind is unknown or a number is out of range.
        RecipeMismatchError: If a slide of the same name is there that was made with other settings.
        OutputWriteError: If a file cannot be written.
    """
    folder, kinds = Path(folder), tuple(kinds)
    if n_slides < 1 or size_px < 512:
        raise ConfigError(f"n_slides must be at least 1 and size_px at least 512. Got {n_slides} and {size_px}.")
    if not kinds or set(kinds) - set(SUFFIXES):
        raise ConfigError(f"kinds must be some of {', '.join(SUFFIXES)}. Got {', '.join(kinds) or 'none'}.")
    slides = []
    for index in range(n_slides):
        kind = kinds[index % len(kinds)]
        picture = SyntheticSlide(
            1000 * seed + index, size=size_px, mpp=mpp, tumour=index % NORMAL_EVERY != NORMAL_EVERY - 1
        )
        slides.append(_written(folder, f"sample-{index + 1:02d}", kind, picture))
        if on_slide is not None:
            on_slide(slides[-1])
    _write_cohort(folder / "cohort.csv", slides)
    return slides


def _written(folder: Path, name: str, kind: str, picture: SyntheticSlide) -> SampleSlide:
    """Write one slide unless it is there, whole and of the same recipe."""
    path = folder / (name + SUFFIXES[kind])
    slide_id = path.name if kind == "dicom" else path.stem
    has_tumour = not picture.tumour.is_empty
    slide = SampleSlide(
        slide_id=slide_id, path=path, kind=kind, size=picture.size, mpp=picture.mpp, tissue=picture.tissue,
        tumour=picture.tumour, label="tumour" if has_tumour else "normal", patient_id=f"patient-{name[-2:]}",
    )  # fmt: skip
    note = folder / "truth" / f"{slide_id}.recipe.json"
    text = recipe_text(_recipe(kind, picture))
    found = note.read_text(encoding="utf-8").strip() if note.is_file() else None
    if path.exists():
        if found == text:
            return slide
        why = "; ".join(recipe_changes(found, text)) if found else "nothing says that it is a sample"
        raise RecipeMismatchError(
            f"'{path}' is there and was made otherwise ({why}). Choose another folder, or remove the file."
        )
    for label, shape in (("Tissue", picture.tissue), ("Tumour", picture.tumour)):
        outlines = [Annotation(polygon, label) for polygon in shape.geoms]
        write_polygons(folder / "truth" / f"{slide_id}.{label.lower()}.geojson", outlines)
    write_text(note, text + "\n")
    _write_slide(path, kind, picture, digest(_recipe(kind, picture)))  # last: where it is, the rest is too
    return slide


def _recipe(kind: str, picture: SyntheticSlide) -> dict[str, object]:
    return {"kind": kind, "tile_px": _CODING.tile_px, "quality": _CODING.quality, **picture.recipe}


def _write_slide(path: Path, kind: str, picture: SyntheticSlide, mark: str) -> None:
    canvas = picture.canvas()
    if kind == "svs":
        images = {"label": _label_image(path.stem), "macro": _macro_image(picture, path.stem)}
        write_svs(path, canvas, coding=_CODING, associated=images, properties={"Recipe": mark})
    elif kind == "tiff":
        write_tiff(path, canvas, coding=_CODING, description=f"microtome synthetic slide {mark}")
    elif kind == "ome":
        write_ome_tiff(path, canvas, coding=_CODING)
    else:
        from microtome.testing.dicom import write_dicom  # pydicom is needed for this kind alone

        write_dicom(path, canvas, coding=_CODING)


def _label_image(name: str) -> UInt8[np.ndarray, "h w 3"]:
    """A paper label."""
    image = np.full((400, 360, 3), 250, np.uint8)
    cv2.rectangle(image, (8, 8), (351, 391), (60, 60, 60), 2)
    for line, text in enumerate(("microtome", "synthetic H&E", name)):
        cv2.putText(image, text, (24, 90 + 70 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.95, (40, 40, 60), 2, cv2.LINE_AA)
    return image


def _macro_image(picture: SyntheticSlide, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """The whole glass: label at the left, the section drawn from its outlines, a frame around the scanned part."""
    image = np.full((430, 1200, 3), (226, 228, 229), np.uint8)
    label = _label_image(name)
    image[15:415, 20:380] = label
    side, x0, y0 = 380, 600, 25
    scale = side / max(picture.size.width, picture.size.height)
    section = np.zeros(image.shape[:2], np.uint8)
    for polygon in picture.tissue.geoms:
        rings = [polygon.exterior, *polygon.interiors]
        cv2.fillPoly(section, [np.round(np.asarray(r.coords) * scale + (x0, y0)).astype(np.int32) for r in rings], 255)
    image[section > 0] = (205, 140, 175)
    cv2.rectangle(image, (x0 - 4, y0 - 4), (x0 + side + 4, y0 + side + 4), (40, 160, 60), 2)
    return cv2.GaussianBlur(image, (0, 0), 0.8)


def _write_cohort(path: Path, slides: Sequence[SampleSlide]) -> None:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("slide_id", "path", "patient_id", "label", "mpp"))
    for slide in slides:
        table.writerow((slide.slide_id, slide.path.name, slide.patient_id, slide.label, f"{slide.mpp:g}"))
    write_text(path, text.getvalue())
