"""The few DICOM attributes that say whether a file is part of a slide, read without a DICOM library.

Only the header before the pixels is walked; sequences are skipped. Explicit and implicit value representations and
both byte orders are known; deflated datasets are not and give what the file's meta group holds.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from microtome.errors import CorruptSlideError, TruncatedSlideError

SLIDE_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"
_CLASS_NAMES = {
    SLIDE_CLASS: "VL Whole Slide Microscopy Image",
    "1.2.840.10008.5.1.4.1.1.66.4": "Segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation",
    "1.2.840.10008.5.1.4.1.1.91.1": "Microscopy Bulk Simple Annotations",
    "1.2.840.10008.5.1.4.1.1.77.1.4": "VL Photographic Image",
    "1.2.840.10008.5.1.4.1.1.77.1.2": "VL Microscopic Image",
    "1.2.840.10008.5.1.4.1.1.2": "CT Image",
    "1.2.840.10008.5.1.4.1.1.4": "MR Image",
    "1.2.840.10008.5.1.4.1.1.20": "Nuclear Medicine Image",
    "1.2.840.10008.5.1.4.1.1.88.33": "Comprehensive Structured Report",
    "1.2.840.10008.1.3.10": "Media Storage Directory",
}
_IMPLICIT_LITTLE = "1.2.840.10008.1.2"
_EXPLICIT_BIG = "1.2.840.10008.1.2.2"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_LONG_VRS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LAST = 0x00480007
_MAX_VALUE_BYTES = 4096
_MAX_DEPTH = 32

_TRANSFER_SYNTAX, _MEDIA_CLASS = 0x00020010, 0x00020002
_IMAGE_TYPE, _CLASS, _SERIES = 0x00080008, 0x00080016, 0x0020000E
_CONCATENATION, _PART, _PARTS = 0x00209161, 0x00209162, 0x00209163
_SAMPLES, _PHOTOMETRIC, _ROWS, _COLUMNS, _BITS = 0x00280002, 0x00280004, 0x00280010, 0x00280011, 0x00280100
_TOTAL_COLUMNS, _TOTAL_ROWS = 0x00480006, 0x00480007


@dataclass(frozen=True, slots=True)
class DicomHeader:
    """What a DICOM file says that it is.

    Attributes:
        sop_class: UID of the kind of object.
        series: UID of the series; a slide is one series of several files.
        image_type: For a slide ``(ORIGINAL|DERIVED, PRIMARY, VOLUME|LABEL|OVERVIEW|THUMBNAIL, NONE|RESAMPLED)``.
        transfer_syntax: UID of the encoding of the pixels.
        photometric: ``RGB``, ``YBR_FULL_422``, ``MONOCHROME2``, ...
        bits: Bits of a sample.
        width: Of the image, in pixels; 0 where the file does not say.
        height: As width.
        concatenation: UID of the whole of which this file is one part; empty for most.
        part: Which part it is, from 1; 0 where it is none.
        parts: Number of parts; 0 where the file does not say.
    """

    sop_class: str
    series: str
    image_type: tuple[str, ...]
    transfer_syntax: str
    photometric: str
    bits: int
    width: int
    height: int
    concatenation: str
    part: int
    parts: int

    @property
    def is_slide(self) -> bool:
        """Whether it is part of a whole-slide image."""
        return self.sop_class == SLIDE_CLASS

    @property
    def is_volume(self) -> bool:
        """Whether it shows the tissue: not a label, overview or thumbnail."""
        return self.is_slide and "VOLUME" in self.image_type

    @property
    def is_resampled(self) -> bool:
        """Whether it is a lower level of the pyramid."""
        return "RESAMPLED" in self.image_type

    @property
    def is_deflated(self) -> bool:
        """Whether all but the kind of object is deflated, and so unknown here."""
        return self.transfer_syntax == _DEFLATED

    @property
    def class_name(self) -> str:
        """The kind of object, in words."""
        return _CLASS_NAMES.get(self.sop_class, f"class {self.sop_class or 'unknown'}")


def is_dicom(head: bytes) -> bool:
    """Whether a file that starts like this is DICOM."""
    return head[128:132] == b"DICM"


def read_dicom_header(path: Path) -> DicomHeader:
    """Read a DICOM file's header.

    Raises:
        TruncatedSlideError: If the file ends within it.
        CorruptSlideError: If it is no valid DICOM.
        OSError: If the file cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(132)
        try:
            return _header(file, size)
        except struct.error as error:
            raise TruncatedSlideError(
                f"'{path}' is a DICOM file of {size} bytes that ends within its header. Copy it again from its source."
            ) from error
        except (ValueError, RecursionError) as error:
            raise CorruptSlideError(
                f"'{path}' starts as a DICOM file, but its header is damaged ({error}). Copy it again from its source."
            ) from error


def _header(file: BinaryIO, size: int) -> DicomHeader:
    meta = dict(_elements(file, size, _Encoding(order="<", explicit=True), meta=True))
    syntax = _text(meta, _TRANSFER_SYNTAX)
    encoding = _Encoding(">" if syntax == _EXPLICIT_BIG else "<", explicit=syntax != _IMPLICIT_LITTLE)
    data = {} if syntax == _DEFLATED else dict(_elements(file, size, encoding, meta=False))

    def number(tag: int) -> int:
        value = data.get(tag, b"")
        form = {2: "H", 4: "I"}.get(len(value))
        return int(struct.unpack(encoding.order + form, value)[0]) if form else 0

    return DicomHeader(
        sop_class=_text(data, _CLASS) or _text(meta, _MEDIA_CLASS),
        series=_text(data, _SERIES),
        image_type=tuple(part.strip() for part in _text(data, _IMAGE_TYPE).split("\\")),
        transfer_syntax=syntax,
        photometric=_text(data, _PHOTOMETRIC),
        bits=number(_BITS),
        width=number(_TOTAL_COLUMNS) or number(_COLUMNS),
        height=number(_TOTAL_ROWS) or number(_ROWS),
        concatenation=_text(data, _CONCATENATION),
        part=number(_PART),
        parts=number(_PARTS),
    )


def _text(values: Mapping[int, bytes], tag: int) -> str:
    return values.get(tag, b"").decode("ascii", "replace").strip(" \0")


@dataclass(frozen=True, slots=True)
class _Encoding:
    order: str
    explicit: bool


def _elements(file: BinaryIO, size: int, encoding: _Encoding, *, meta: bool) -> Iterator[tuple[int, bytes]]:
    """Top-level elements with short values, up to the last that anyone here wants."""
    while file.tell() < size:
        start = file.tell()
        group, element = struct.unpack(encoding.order + "HH", file.read(4))
        file.seek(start)  # what follows the last element may be encoded in another way
        if (group << 16 | element) > _LAST or (meta and group != 2):
            return
        tag, vr, length = _element_head(file, encoding)
        if length == _UNDEFINED:
            _skip_sequence(file, encoding, depth=0, until=_SEQUENCE_END)
        elif length > _MAX_VALUE_BYTES or vr == b"SQ":
            _skip(file, length, size)
        else:
            value = file.read(length)
            if len(value) < length:
                raise struct.error
            yield tag, value


def _element_head(file: BinaryIO, encoding: _Encoding) -> tuple[int, bytes, int]:
    order = encoding.order
    group, element = struct.unpack(order + "HH", file.read(4))
    tag = group << 16 | element
    if group == 0xFFFE or not encoding.explicit:  # items and delimiters have no value representation
        return tag, b"", struct.unpack(order + "I", file.read(4))[0]
    vr = file.read(2)
    if vr in _LONG_VRS:
        return tag, vr, struct.unpack(order + "2xI", file.read(6))[0]
    if not (len(vr) == 2 and vr.isalpha() and vr.isupper()):
        if len(vr) < 2:
            raise struct.error
        raise ValueError(f"no value representation at byte {file.tell() - 2}")
    return tag, vr, struct.unpack(order + "H", file.read(2))[0]


def _skip_sequence(file: BinaryIO, encoding: _Encoding, *, depth: int, until: int) -> None:
    """Skip a sequence or item of undefined length: read on to its delimiter."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"sequences within sequences, {depth} deep")
    while True:
        tag, _, length = _element_head(file, encoding)
        if tag == until:
            return
        if length == _UNDEFINED:
            end = _ITEM_END if tag == _ITEM else _SEQUENCE_END
            _skip_sequence(file, encoding, depth=depth + 1, until=end)
        else:
            file.seek(length, 1)


def _skip(file: BinaryIO, length: int, size: int) -> None:
    if file.tell() + length > size:
        raise struct.error
    file.seek(length, 1)
