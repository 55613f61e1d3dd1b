"""What a file is, from its content: the format, or the error that says why it is no slide."""

import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from microtome.errors import (
    CorruptSlideError,
    EmptyFileError,
    LfsPointerError,
    NotAnImageError,
    SlideIsDirectoryError,
    SlideNotFoundError,
    SlidePermissionError,
    UnsupportedFormatError,
    ZeroSizeError,
)
from microtome.slides.companions import check_dicom, check_mirax, check_vms, is_vms
from microtome.slides.dicom_header import DicomHeader, is_dicom, read_dicom_header
from microtome.slides.tiff_index import TiffIndex, is_tiff, read_tiff_index

Format = Literal["tiff", "dicom", "mirax", "vms", "czi", "sakura", "png", "jpeg", "image"]

_HEAD_BYTES = 4096
_LFS_MARK = b"version https://git-lfs.github.com/spec/"
_IMAGE_MARKS: tuple[tuple[bytes, Format], ...] = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF8", "image"),
    (b"BM", "image"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "image"),
    (b"\xff\x4f\xff\x51", "image"),
)
_OTHER_MARKS = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (tile features or patches are given to the stage that reads them)"),
    (b"PK\x03\x04", "a ZIP archive; unpack it"),
    (b"PK\x05\x06", "an empty ZIP archive"),
    (b"\x1f\x8b", "a gzip archive; unpack it"),
    (b"BZh", "a bzip2 archive; unpack it"),
    (b"\xfd7zXZ\0", "an xz archive; unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive; unpack it"),
    (b"Rar!", "a RAR archive; unpack it"),
    (b"%PDF", "a PDF document"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"PAR1", "a Parquet table"),
    (b"\x7fELF", "a program"),
)
_SQLITE_MARK, _CZI_MARK, _ETS_MARK = b"SQLite format 3\0", b"ZISRAWFILE", b"SIS\0"
_PNM_MARK = re.compile(rb"P[1-6][ \t\r\n]")
_VSI_MARK = b"\x18\0IS"  # Olympus puts a block of its own, with this head, right behind the TIFF header
_TEXT_CONTROLS = frozenset(range(32)) - {9, 10, 12, 13, 27}
_MIN_BYTES = 8


@dataclass(frozen=True, slots=True)
class FileKind:
    """What a file is.

    Attributes:
        path: The file.
        format: ``image`` is a plain image that is neither PNG nor JPEG; ``tiff`` may be any vendor's.
        tiff: The index of a TIFF.
        dicom: The header of a DICOM file.
    """

    path: Path
    format: Format
    tiff: TiffIndex | None = None
    dicom: DicomHeader | None = None


def probe(path: Path) -> FileKind:
    """Tell what a file is by its content, and check what can be checked without decoding.

    Only MRXS is known by its suffix: such a file is a plain JPEG or holds nothing at all.

    Args:
        path: The file.

    Returns:
        Its kind.

    Raises:
        SlideNotFoundError: If nothing is there.
        SlideIsDirectoryError: If it is a directory.
        SlidePermissionError: If it may not be read.
        EmptyFileError: If it has no bytes.
        LfsPointerError: If it is a Git LFS pointer.
        NotAnImageError: If it is text, an archive or unknown bytes, or no regular file.
        NotASlideError: If it is a DICOM object of another kind.
        TruncatedSlideError: If it ends before its index says.
        CorruptSlideError: If its index makes no sense.
        ZeroSizeError: If it has no width or no height.
        MissingCompanionError: If a file or folder that belongs to it is missing.
        UnsupportedFormatError: If it is a slide of a format that nothing here reads.
    """
    try:
        head = _read_head(path)
        return _kind(path, head)
    except PermissionError as error:
        raise SlidePermissionError(
            f"'{path}' may not be read by this user ({error.strerror}). Change its permissions or those of its folder."
        ) from error


def _read_head(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        broken = " (a symbolic link whose target is gone)" if path.is_symlink() else ""
        raise SlideNotFoundError(f"There is no file '{path}'{broken}. Check the path.") from error
    if stat.S_ISDIR(mode):
        raise SlideIsDirectoryError(
            f"'{path}' is a directory that holds no single slide. Name a file in it, or list what it holds first."
        )
    if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
        raise NotAnImageError(f"'{path}' is a pipe, socket or device, not a file. Give a file.")
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)


def _kind(path: Path, head: bytes) -> FileKind:
    if path.suffix.lower() == ".mrxs":
        check_mirax(path)
        return FileKind(path, "mirax")
    if not head:
        raise EmptyFileError(f"'{path}' is empty (0 bytes). Copy it again from its source.")
    if head.startswith(_LFS_MARK):
        raise LfsPointerError(
            f"'{path}' is a Git LFS pointer, not the file itself. Run 'git lfs pull' where it was cloned from."
        )
    if is_tiff(head):
        return _tiff_kind(path, head)
    if is_dicom(head):
        header = read_dicom_header(path)
        check_dicom(path, header)
        return FileKind(path, "dicom", dicom=header)
    if is_vms(head):
        check_vms(path)
        return FileKind(path, "vms")
    return FileKind(path, _format_by_mark(path, head))


def _tiff_kind(path: Path, head: bytes) -> FileKind:
    if path.suffix.lower() == ".vsi" or head[8:12] == _VSI_MARK:
        raise UnsupportedFormatError(
            f"'{path}' is an Olympus VSI. Its pixels lie in .ets files in '_{path.stem}_', which no reader here takes "
            "(the file itself holds only a thumbnail). Convert it to OME-TIFF, for example with bfconvert."
        )
    index = read_tiff_index(path)
    first = index.pages[0]
    if first.width == 0 or first.height == 0:
        raise ZeroSizeError(
            f"'{path}' is a TIFF of {first.width} × {first.height} px: there is nothing to see. Export it again."
        )
    return FileKind(path, "tiff", tiff=index)


def _format_by_mark(path: Path, head: bytes) -> Format:
    found = _known_format(head)
    if found is not None:
        return found
    if head.startswith(_ETS_MARK):
        raise UnsupportedFormatError(
            f"'{path}' holds pixels of an Olympus VSI slide (.ets), which no reader here takes. Convert the slide to "
            "OME-TIFF, for example with bfconvert."
        )
    for mark, what in _OTHER_MARKS:
        if head.startswith(mark):
            raise NotAnImageError(f"'{path}' is {what}. It is no slide: leave it out.")
    if _is_text(head):
        raise NotAnImageError(
            f"'{path}' is text, not an image. It starts with {_first_line(head)!r}. Look where it came from: a failed "
            "download often leaves such a file."
        )
    if not any(head):
        raise CorruptSlideError(
            f"'{path}' starts with {len(head)} zero bytes: an interrupted copy. Copy it again from its source."
        )
    raise NotAnImageError(f"'{path}' is of no format known here (it starts with the bytes {head[:8].hex(' ')}).")


def _known_format(head: bytes) -> Format | None:
    if head.startswith(_CZI_MARK):
        return "czi"
    if head.startswith(_SQLITE_MARK):
        return "sakura"
    if _PNM_MARK.match(head) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return "image"
    return next((name for mark, name in _IMAGE_MARKS if head.startswith(mark) and len(head) > _MIN_BYTES), None)


def _is_text(head: bytes) -> bool:
    if _TEXT_CONTROLS & set(head):
        return False
    try:
        head[: max(1, len(head) - 3)].decode("utf-8")  # the last character may be cut
    except UnicodeDecodeError:
        return False
    return True


def _first_line(head: bytes) -> str:
    return (head.decode("utf-8", "replace").strip().splitlines() or [""])[0][:60]
