"""Writers of whole pyramidal TIFFs: SVS as Aperio writes it, generic tiled TIFF, and OME-TIFF.

Each streams: memory holds a band of level 0 whatever the slide's size. The file is whole or absent, and becomes a
BigTIFF where it might not fit into 4 GB. The same canvas and settings give the same bytes.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.sax.saxutils import quoteattr

import numpy as np
import tifffile
from jaxtyping import UInt8

from microtome.errors import ConfigError
from microtome.slides.pyramid import Canvas, TilePyramid
from microtome.storage import written_whole

Compression = Literal["jpeg", "deflate", "none"]

_CLASSIC_BYTES = 3_900_000_000  # offsets of a classic TIFF end at 4 GiB; deflate and tags may add a little
_BUFFER_BYTES = 32 * 2**20
_OVERVIEW_PX = 1024
_REDUCED, _MACRO = (
    1,
    9,
)  # NewSubfileType of lower levels and labels, and the value by which Aperio marks its macro
_APERIO = "Aperio Image Library v12.0.0 (microtome)"
_OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


@dataclass(frozen=True, slots=True)
class TileCoding:
    """How tiles are stored.

    Attributes:
        tile_px: Side of a tile, a multiple of 16.
        compression: ``jpeg`` (8-bit; colour as YCbCr 4:2:0), ``deflate`` or ``none`` (both lossless).
        quality: Of JPEG, 1 to 100.
        workers: Threads that read and compress; by default one per core.
    """

    tile_px: int = 256
    compression: Compression = "jpeg"
    quality: int = 85
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.tile_px < 16 or self.tile_px % 16:
            raise ConfigError(f"tile_px must be a positive multiple of 16. Got {self.tile_px}.")
        if self.compression not in ("jpeg", "deflate", "none"):
            raise ConfigError(f"compression must be jpeg, deflate or none. Got {self.compression!r}.")
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"quality must be 1 to 100. Got {self.quality}.")
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"workers must be at least 1, or None for one per core. Got {self.workers}.")


def write_svs(
    path: Path,
    canvas: Canvas,
    *,
    coding: TileCoding | None = None,
    associated: Mapping[str, UInt8[np.ndarray, "_ _ 3"]] | None = None,
    properties: Mapping[str, str] | None = None,
) -> None:
    """Write an SVS file in Aperio's layout: level 0, thumbnail, lower levels, then label and macro.

    Args:
        path: The file to write.
        canvas: 8-bit RGB pixels.
        coding: Tiles and JPEG quality; compression must be ``jpeg``.
        associated: Images named ``label`` and ``macro``; either may be absent. A thumbnail is always written.
        properties: More ``key = value`` fields of the description, for example ``{"ScanScope ID": "SS1"}``.

    Raises:
        ConfigError: If the canvas is not 8-bit RGB, the compression is not JPEG, an associated image has another
            name, or a property cannot stand in the description.
        OutputWriteError: If the file cannot be written.

    References:
        Aperio Technologies, *Digital Slides and Third-Party Data Interchange*, MAN-0069; the order of pages and the
        text of their descriptions as OpenSlide documents the Aperio format.
    """
    coding = coding or TileCoding()
    associated = dict(associated or {})
    if not canvas.is_rgb or coding.compression != "jpeg":
        raise ConfigError(
            f"An SVS holds 8-bit RGB as JPEG here. Got {len(canvas.channels)} channel(s) of {canvas.dtype} as "
            f"{coding.compression}. Use write_tiff or write_ome_tiff."
        )
    if unknown := sorted(associated.keys() - {"label", "macro"}):
        raise ConfigError(f"Associated images of an SVS are label and macro. Got {', '.join(unknown)}.")
    fields = _aperio_fields(canvas, properties or {})
    whole = f"{canvas.size.width}x{canvas.size.height}"
    with _opened(path, canvas) as tiff, _pyramid(path, canvas, coding) as pyramid:
        for index, size in enumerate(canvas.level_sizes):
            shown = whole if index == 0 else f"{whole} -> {size.width}x{size.height}"
            text = f"{_APERIO}\r\n{shown} ({coding.tile_px}x{coding.tile_px}) JPEG/YCC Q={coding.quality}{fields}"
            _write_level(tiff, pyramid, index, canvas, coding, description=text, subfiletype=0)
            if index == 0:  # readers know the thumbnail by its place, second, and by its not being tiled
                image = pyramid.overview(_OVERVIEW_PX)
                text = f"{_APERIO}\r\n{whole} -> {image.shape[1]}x{image.shape[0]} - {fields}"
                _write_image(tiff, image, description=text, subfiletype=0)
        for name, kind in (("label", _REDUCED), ("macro", _MACRO)):
            if (extra := associated.get(name)) is not None:
                text = f"{_APERIO}\r\n{name} {extra.shape[1]}x{extra.shape[0]}"
                _write_image(tiff, extra, description=text, subfiletype=kind)


def write_tiff(path: Path, canvas: Canvas, *, coding: TileCoding | None = None, description: str | None = None) -> None:
    """Write a generic tiled pyramidal TIFF: one page per level, resolution in the resolution tags.

    Args:
        path: The file to write.
        canvas: 8-bit RGB pixels, or one channel of 8 or 16 bits.
        coding: Tiles and their compression.
        description: ASCII text of the first page.

    Raises:
        ConfigError: If the canvas has another number of channels, is 16-bit and to be JPEG, or the description is
            not ASCII.
        OutputWriteError: If the file cannot be written.
    """
    coding = coding or TileCoding()
    if not canvas.is_rgb and len(canvas.channels) != 1:
        raise ConfigError(
            f"A generic TIFF holds 8-bit RGB or one channel here. Got {len(canvas.channels)} channels of "
            f"{canvas.dtype}. Use write_ome_tiff."
        )
    _check_coding(canvas, coding)
    if description is not None and not description.isascii():
        raise ConfigError(f"A TIFF's description is ASCII. Got {description[:60]!r}.")
    with _opened(path, canvas) as tiff, _pyramid(path, canvas, coding) as pyramid:
        for index in range(len(canvas.downsamples)):
            text = {"description": description} if index == 0 and description else {}
            _write_level(tiff, pyramid, index, canvas, coding, subfiletype=_REDUCED if index else 0, **text)


def write_ome_tiff(path: Path, canvas: Canvas, *, coding: TileCoding | None = None, name: str | None = None) -> None:
    """Write an OME-TIFF pyramid: lower levels as SubIFDs of level 0, pixel size in the OME-XML.

    Colour is one page of interleaved RGB; any other canvas is one page per channel, each with its own SubIFDs.
    OpenSlide takes either for a generic TIFF: it sees level 0 alone, and of several channels only the first, in 8
    bits. Only a reader of the OME-XML and SubIFDs sees what was written.

    Args:
        path: The file to write.
        canvas: Any number of channels of 8 or 16 bits.
        coding: Tiles and their compression.
        name: The image's name in the OME-XML; by default the file's name up to its first dot.

    Raises:
        ConfigError: If the canvas is 16-bit and to be JPEG.
        OutputWriteError: If the file cannot be written.

    References:
        *The OME-TIFF specification* 6.0, section "Sub-resolutions"; OME schema 2016-06.
    """
    coding = coding or TileCoding()
    _check_coding(canvas, coding)
    xml = _ome_xml(canvas, name or path.name.split(".")[0])
    planes = [canvas] if canvas.is_rgb else [canvas.only(c) for c in range(len(canvas.channels))]
    lower = len(canvas.downsamples) - 1
    with _opened(path, canvas) as tiff:
        for plane in planes:
            with _pyramid(path, plane, coding) as pyramid:
                text = {"description": xml} if plane is planes[0] else {}
                _write_level(tiff, pyramid, 0, plane, coding, subfiletype=0, subifds=lower, **text)
                for index in range(1, lower + 1):
                    _write_level(tiff, pyramid, index, plane, coding, subfiletype=_REDUCED)


@contextmanager
def _opened(path: Path, canvas: Canvas) -> Iterator[tifffile.TiffWriter]:
    big = canvas.n_bytes > _CLASSIC_BYTES
    with (
        written_whole(path) as temporary,
        tifffile.TiffWriter(temporary, bigtiff=big, ome=False, shaped=False) as tiff,
    ):
        yield tiff


def _pyramid(path: Path, canvas: Canvas, coding: TileCoding) -> TilePyramid:
    return TilePyramid(canvas, coding.tile_px, spool=path.parent, workers=coding.workers)


def _write_level(
    tiff: tifffile.TiffWriter,
    pyramid: TilePyramid,
    index: int,
    canvas: Canvas,
    coding: TileCoding,
    **tags: Any,  # noqa: ANN401 - handed to TiffWriter.write as it is
) -> None:
    size, samples = canvas.level_sizes[index], len(canvas.channels)
    tiles = pyramid.tiles(index)
    if samples == 1:
        tiles = (tile[:, :, 0] for tile in tiles)
    tiff.write(
        tiles,
        shape=(size.height, size.width, samples) if samples > 1 else (size.height, size.width),
        dtype=canvas.dtype,
        tile=(coding.tile_px, coding.tile_px),
        metadata=None,
        software=False,
        maxworkers=coding.workers,
        buffersize=_BUFFER_BYTES,
        **_pixel_tags(coding.compression, coding.quality, colour=samples > 1),
        **_resolution_tags(canvas, canvas.downsamples[index]),
        **tags,
    )


def _write_image(
    tiff: tifffile.TiffWriter, image: UInt8[np.ndarray, "_ _ 3"], *, description: str, subfiletype: int
) -> None:
    """Write a small image that is not tiled, as Aperio does for those that belong to no level."""
    tags = _pixel_tags("jpeg", 90, colour=True)
    tiff.write(
        image,
        description=description,
        subfiletype=subfiletype,
        rowsperstrip=16,
        metadata=None,
        software=False,
        **tags,
    )


def _pixel_tags(compression: Compression, quality: int, *, colour: bool) -> dict[str, Any]:
    # For tifffile "rgb" is what comes in; with subsampling the JPEG and the tag become YCbCr.
    photometric: dict[str, Any] = {"photometric": "rgb" if colour else "minisblack"}
    if compression == "jpeg":
        subsampling = {"subsampling": (2, 2)} if colour else {}
        return {**photometric, **subsampling, "compression": "jpeg", "compressionargs": {"level": quality}}
    if compression == "none":
        return photometric
    return {**photometric, "compression": "adobe_deflate", "compressionargs": {"level": 6}}


def _resolution_tags(canvas: Canvas, downsample: int) -> dict[str, Any]:
    if canvas.mpp is None:
        return {"resolution": (1, 1), "resolutionunit": "none"}
    pixels_per_cm = 10_000 / (canvas.mpp * downsample)
    return {"resolution": (pixels_per_cm, pixels_per_cm), "resolutionunit": "centimeter"}


def _check_coding(canvas: Canvas, coding: TileCoding) -> None:
    if coding.compression == "jpeg" and canvas.dtype != "uint8":
        raise ConfigError(f"JPEG holds 8-bit pixels. Got {canvas.dtype}. Use compression deflate or none.")


def _aperio_fields(canvas: Canvas, properties: Mapping[str, str]) -> str:
    known = {} if canvas.mpp is None else {"AppMag": f"{10 / canvas.mpp:.4g}", "MPP": f"{canvas.mpp:.6g}"}
    fields = {**known, **properties}
    for key, value in fields.items():
        if not f"{key}{value}".isascii() or set("|=\r\n") & set(key) or set("|\r\n") & set(value):
            raise ConfigError(
                "A field of an SVS description is one ASCII line without '|' (nor '=' in its key). "
                f"Got {key!r}: {value!r}."
            )
    return "".join(f"|{key} = {value}" for key, value in fields.items())


def _ome_xml(canvas: Canvas, name: str) -> str:
    """The smallest OME-XML that says sizes, channels and the pixels' extent on the glass."""
    scale = (
        ""
        if canvas.mpp is None
        else "".join(f' PhysicalSize{a}="{canvas.mpp!r}" PhysicalSize{a}Unit="µm"' for a in "XY")
    )
    if canvas.is_rgb:
        channels = '<Channel ID="Channel:0:0" Name="RGB" SamplesPerPixel="3"><LightPath/></Channel>'
        data = '<TiffData IFD="0" PlaneCount="1"/>'
    else:
        channels = "".join(
            f'<Channel ID="Channel:0:{i}" Name={quoteattr(c)} SamplesPerPixel="1"><LightPath/></Channel>'
            for i, c in enumerate(canvas.channels)
        )
        data = "".join(f'<TiffData FirstC="{i}" IFD="{i}" PlaneCount="1"/>' for i in range(len(canvas.channels)))
    pixels = (
        f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="{canvas.dtype}" SizeX="{canvas.size.width}" '
        f'SizeY="{canvas.size.height}" SizeC="{len(canvas.channels)}" SizeZ="1" SizeT="1" '
        f'Interleaved="{str(canvas.is_rgb).lower()}" BigEndian="false"{scale}>{channels}{data}</Pixels>'
    )
    xml = (
        f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{_OME}" '
        f'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation="{_OME} {_OME}/ome.xsd" '
        f'Creator="microtome"><Image ID="Image:0" Name={quoteattr(name)}>{pixels}</Image></OME>'
    )
    # A TIFF description is ASCII; XML has a way to say µ in it.
    return xml.encode("ascii", "xmlcharrefreplace").decode()
