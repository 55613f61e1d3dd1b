"""What a TIFF says of its pixel size and the names of its planes: the dialects of OME, ImageJ, Aperio and Akoya."""

import itertools
import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree as Xml

from microtome.slides.resolution import Metadata
from microtome.slides.tiff_pixels import Page

_UM_PER_UNIT = {
    "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "\\u00B5m": 1.0, "\\u00b5m": 1.0,
    "nm": 1e-3, "pm": 1e-6, "Å": 1e-4, "mm": 1e3, "cm": 1e4, "m": 1e6, "inch": 25_400.0, "in": 25_400.0,
}  # fmt: skip
_TAG_UNITS_UM = {2: 25_400.0, 3: 10_000.0}  # ResolutionUnit: inch, centimetre; 1 says that there is no unit
_APERIO_MPP = re.compile(r"\|\s*MPP\s*=\s*([0-9.]+)")
_X, _Y, _UNIT = 282, 283, 296

Element = Xml.Element


def ome_image(xml: str | None, index: int) -> Element | None:
    """The ``Pixels`` element of an image of an OME-XML document; None where there is none.

    Args:
        xml: The document; None where the file has none.
        index: Which image.
    """
    if not xml:
        return None
    try:
        # The parser is expat, which expands no external entities and bounds internal ones.
        root = Xml.fromstring(xml)  # noqa: S314 - expat bounds what entities may do
    except Xml.ParseError:
        return None
    pixels = [p for p in root.iter() if p.tag.endswith("}Pixels") or p.tag == "Pixels"]
    return pixels[index] if index < len(pixels) else None


def find_mpp(page: Page, ome: Element | None, imagej: Mapping[str, object] | None) -> Metadata | None:
    """µm per pixel as the file says it, the most specific dialect first.

    Args:
        page: The first page of level 0.
        ome: Its ``Pixels`` element, if the file is an OME-TIFF.
        imagej: Its ImageJ fields, if the file is ImageJ's.

    Returns:
        What the file says, not judged; None where it says nothing, or gives a number without a unit.
    """
    for found in (_ome_mpp(ome), _aperio_mpp(page), _imagej_mpp(page, imagej), _tag_mpp(page)):
        if found is not None:
            return found
    return None


def _ome_mpp(pixels: Element | None) -> Metadata | None:
    if pixels is None:
        return None
    sizes = []
    for axis in "XY":
        unit = _UM_PER_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        size = _number(pixels.get(f"PhysicalSize{axis}"))
        if unit is None or size is None:
            return None
        sizes.append(size * unit)
    return Metadata(sizes[0], sizes[1], "ome.PhysicalSizeX")


def _aperio_mpp(page: Page) -> Metadata | None:
    match = _APERIO_MPP.search(page.description) if page.description.startswith("Aperio") else None
    mpp = _number(match.group(1)) if match else None
    return None if mpp is None else Metadata(mpp, mpp, "aperio.MPP")


def _imagej_mpp(page: Page, fields: Mapping[str, object] | None) -> Metadata | None:
    if not fields:
        return None
    unit = _UM_PER_UNIT.get(str(fields.get("unit", "")))
    per_unit = _resolution(page)
    if unit is None or per_unit is None:
        return None
    return Metadata(unit / per_unit[0], unit / per_unit[1], "imagej.unit")


def _tag_mpp(page: Page) -> Metadata | None:
    tag = page.tags.get(_UNIT)
    unit = _TAG_UNITS_UM.get(int(tag.value) if tag is not None else 2)  # the default of TIFF 6.0 is the inch
    per_unit = _resolution(page)
    if unit is None or per_unit is None:
        return None
    return Metadata(unit / per_unit[0], unit / per_unit[1], "tiff.XResolution")


def _resolution(page: Page) -> tuple[float, float] | None:
    """Pixels per unit, across and down."""
    values = []
    for code in (_X, _Y):
        tag = page.tags.get(code)
        if tag is None:
            return None
        top, bottom = tag.value
        if not top or not bottom:
            return None
        values.append(float(top) / float(bottom))
    return values[0], values[1]


def _number(text: object) -> float | None:
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def plane_names(
    axes: Sequence[tuple[str, int]], samples: Sequence[str], channels: Sequence[str | None]
) -> tuple[str, ...]:
    """Names of all native channels, in the order of the pages.

    Args:
        axes: Letter and length of each axis over the pages, slowest first, as ``[("T", 7), ("Z", 5)]``.
        samples: Names of the samples of one pixel: ``("R", "G", "B")``, or one empty name.
        channels: Names of the channels of axis C, where the file gives them.

    Returns:
        One name per page and sample, none twice: a channel's own name where C is the only axis, else such as
        ``T0 Z2 C1``.

    Example:
        >>> plane_names([("C", 2)], [""], ["DAPI", "FITC"])
        ('DAPI', 'FITC')
        >>> plane_names([("T", 1), ("Z", 2), ("C", 2)], [""], ["DAPI", None])
        ('Z0 DAPI', 'Z0 C1', 'Z1 DAPI', 'Z1 C1')
        >>> plane_names([], ["R", "G", "B"], [])
        ('R', 'G', 'B')
    """
    long_axes = [(letter, length) for letter, length in axes if length > 1]
    parts = [
        [(channels[i] if letter == "C" and i < len(channels) else None) or f"{letter}{i}" for i in range(length)]
        for letter, length in long_axes
    ]
    if not parts and len(samples) == 1 and channels and channels[0] and not samples[0]:
        return (channels[0],)
    names = [" ".join(filter(None, combination)) for combination in itertools.product(*parts, samples)]
    return _distinct([name or "grey" for name in names])


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return tuple(out)


def channel_names(ome: Element | None, pages: Sequence[Page]) -> list[str | None]:
    """Names of the channels of axis C as OME-XML or the pages' own descriptions (Akoya's QPTIFF) give them."""
    if ome is not None:
        found = [c.get("Name") or c.get("Fluor") for c in ome if c.tag.rpartition("}")[2] == "Channel"]
        # a channel of several samples stands for one page
        return list(found)
    return [_qptiff_name(page) for page in pages]


def _qptiff_name(page: Page) -> str | None:
    text = getattr(page, "description", "") or ""
    if "QPI-ImageDescription" not in text[:200]:
        return None
    try:
        # it says that it is UTF-16, which it is not
        root = Xml.fromstring(re.sub(r"^<\?xml[^>]*\?>\s*", "", text))  # noqa: S314 - as above
    except Xml.ParseError:
        return None
    return root.findtext("Biomarker") or root.findtext("Name")
