"""Find tissue on a slide by a named method, or take a person's outline."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image, UnidentifiedImageError

from microtome.errors import AnnotationError, ConfigError, NoTissueError
from microtome.geometry import Box
from microtome.slides.base import Slide
from microtome.tissue.auto import Auto
from microtome.tissue.masked_otsu import MaskedOtsu
from microtome.tissue.method import FoundMask, TissueMethod
from microtome.tissue.otsu import Otsu
from microtome.tissue.saturation import Saturation
from microtome.tissue.tissue import Tissue

__all__ = [
    "TISSUE_METHODS",
    "Auto",
    "FoundMask",
    "MaskedOtsu",
    "Otsu",
    "Saturation",
    "TissueMethod",
    "find_tissue",
    "import_outline",
    "tissue_recipe",
]

TISSUE_METHODS: dict[str, type[TissueMethod]] = {m.name: m for m in (Auto, Otsu, Saturation, MaskedOtsu)}


def find_tissue(
    slide: Slide, *, method: str | TissueMethod = "auto", mpp: float | None = None, allow_empty: bool = False
) -> Tissue:
    """Find tissue on a slide.

    Args:
        slide: The slide.
        method: A method's name (``auto``, ``otsu``, ``saturation``, ``masked-otsu``) with its default parameters, or
            a method with its own.
        mpp: Resolution to look at, µm/px, for methods that take one (``auto``, ``masked-otsu``); None leaves it as
            the method has it.
        allow_empty: Return an empty Tissue where nothing is found, instead of raising.

    Returns:
        Polygons in level-0 pixels, with the recipe that decided them.

    Raises:
        NoTissueError: If nothing is found.
        ConfigError: If there is no such method, or it takes no ``mpp``.
        TissueError: If the method cannot work on this slide.
    """
    chosen = _chosen(method, mpp)
    mask, box = chosen.find_mask(slide)
    tissue = Tissue.from_mask(
        mask,
        box=box,
        size=slide.size,
        mpp=slide.resolution.mpp,
        method=chosen.name,
        recipe=tissue_recipe(slide, chosen),
    )
    if tissue.is_empty and not allow_empty:
        raise NoTissueError(
            f"Slide '{slide.name}': method {chosen.name!r} found no tissue. Look at its thumbnail; try another "
            f"--tissue-method ({', '.join(name for name in TISSUE_METHODS if name != chosen.name)}), give an outline "
            "with --tissue-from, or pass --allow-empty if the slide is empty."
        )
    return tissue


def tissue_recipe(slide: Slide, method: TissueMethod) -> dict[str, object]:
    """Every value that decides what the method finds on the slide; known before anything is read."""
    return {**slide.recipe, **method.recipe}


def import_outline(
    slide: Slide, path: str | Path, *, recipe: Mapping[str, object] | None = None, allow_empty: bool = False
) -> Tissue:
    """Take a person's outline in place of finding tissue.

    Args:
        slide: The slide that it outlines.
        path: GeoJSON in level-0 pixels, or a mask image (any value but 0 is tissue; a colour image's alpha does not
            count) that covers the whole slide at any resolution.
        recipe: What decided it, stored with it.
        allow_empty: Return an empty Tissue where nothing is outlined, instead of raising.

    Returns:
        The Tissue, method ``imported``.

    Raises:
        AnnotationError: If the file cannot be read, or its shape is not the slide's.
        NoTissueError: If it outlines nothing.
    """
    path = Path(path)
    mpp = slide.resolution.mpp
    if path.suffix.lower() in (".geojson", ".json"):
        tissue = replace(Tissue.from_geojson(path, size=slide.size, mpp=mpp), recipe=recipe or {})
    else:
        mask = _read_mask(path, slide)
        tissue = Tissue.from_mask(mask, box=Box.of(slide.size), size=slide.size, mpp=mpp, recipe=recipe)
    if tissue.is_empty and not allow_empty:
        raise NoTissueError(
            f"Slide '{slide.name}': '{path}' outlines no tissue. Draw it, leave --tissue-from out to find it, or pass "
            "--allow-empty."
        )
    return tissue


def _read_mask(path: Path, slide: Slide) -> Bool[np.ndarray, "h w"]:
    try:
        with Image.open(path) as image:
            # a palette's indices are the values, as in label images
            pixels = np.asarray(image if image.mode in ("1", "L", "P", "I", "I;16", "F") else image.convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise AnnotationError(
            f"Mask '{path}' cannot be read: {error}. Give a PNG or TIFF image, or GeoJSON."
        ) from error
    mask = np.asarray((pixels != 0).any(axis=2) if pixels.ndim == 3 else pixels != 0)
    # of one shape with the slide, to a pixel of the mask's rounding
    wide, high = mask.shape[1] * slide.size.height, mask.shape[0] * slide.size.width
    if abs(wide - high) > max(slide.size.width, slide.size.height):
        raise AnnotationError(
            f"Mask '{path}' is {mask.shape[1]} × {mask.shape[0]} px, which is not the shape of slide '{slide.name}' "
            f"({slide.size.width} × {slide.size.height} px). Give a mask that covers the whole slide."
        )
    return mask


def _chosen(method: str | TissueMethod, mpp: float | None) -> TissueMethod:
    if isinstance(method, str):
        if method not in TISSUE_METHODS:
            raise ConfigError(f"Tissue method must be one of {', '.join(TISSUE_METHODS)}. Got {method!r}.")
        method = TISSUE_METHODS[method]()
    if mpp is None:
        return method
    if "mpp" not in {f.name for f in fields(method)}:
        raise ConfigError(
            f"Tissue method {method.name!r} looks at a pyramid level and takes no mpp. Pass the level in its "
            "parameters."
        )
    changes = {"mpp": mpp, **({"level": None} if "level" in {f.name for f in fields(method)} else {})}
    return replace(method, **changes)
