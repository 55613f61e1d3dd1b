"""Files that belong to a slide beside the one that is named: of MRXS, VMS and DICOM."""

from pathlib import Path

from microtome.errors import MissingCompanionError, NotASlideError, SlideOpenError
from microtome.slides.dicom_header import DicomHeader, is_dicom, read_dicom_header

VMS_MARKS = (b"[Virtual Microscope Specimen]", b"[Uncompressed Virtual Microscope Specimen]")
_VMS_KEYS = ("ImageFile", "MapFile")
_HEAD_BYTES = 4096


def find_companions(path: Path) -> tuple[Path, ...]:
    """The files that OpenSlide reads beside ``path``; those that are there.

    Returns:
        Paths in the order of their names; none for formats of one file.
    """
    if path.suffix.lower() == ".mrxs":
        return tuple(sorted(p for p in mirax_folder(path).glob("*") if p.is_file()))
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if is_vms(head):
        return tuple(sorted(p for p in vms_files(path) if p.is_file()))
    if is_dicom(head):
        return tuple(p for p in dicom_series(path) if p != path)
    return ()


def mirax_folder(path: Path) -> Path:
    """The folder of a MRXS file's pixels."""
    return path.with_suffix("")


def check_mirax(path: Path) -> None:
    """Check that the folder of a MRXS file is there, with its index.

    Raises:
        MissingCompanionError: If it is not.
    """
    index = mirax_folder(path) / "Slidedat.ini"
    if not index.is_file():
        raise MissingCompanionError(
            f"Slide '{path}' is a MRXS file; its pixels lie in the folder '{mirax_folder(path)}', and there is no "
            f"'{index.name}' there. Copy the whole folder beside it under this name."
        )


def is_vms(head: bytes) -> bool:
    """Whether a file that starts like this is the index of a Hamamatsu VMS or VMU slide."""
    return head.lstrip(b"\xef\xbb\xbf").lstrip().startswith(VMS_MARKS)


def vms_files(path: Path) -> tuple[Path, ...]:
    """Images that a Hamamatsu VMS or VMU index names."""
    named = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition("=")
        if key.strip().startswith(_VMS_KEYS) and value.strip():
            named.append(path.parent / value.strip())
    return tuple(named)


def check_vms(path: Path) -> None:
    """Check that all images of a VMS index are there.

    Raises:
        MissingCompanionError: If one is not.
    """
    missing = [p.name for p in vms_files(path) if not p.is_file()]
    if missing:
        raise MissingCompanionError(
            f"Slide '{path}' is a Hamamatsu index; of the images that it names {len(missing)} are not beside it: "
            f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}. Copy them into the same folder."
        )


def dicom_series(path: Path) -> dict[Path, DicomHeader]:
    """The files of a DICOM file's folder that are of its series, itself included, in the order of their names."""
    series = read_dicom_header(path).series
    found = {}
    for other in sorted(path.parent.iterdir()):
        header = dicom_header_of(other)
        if header is not None and header.series == series:
            found[other] = header
    return found


def dicom_header_of(path: Path) -> DicomHeader | None:
    """A file's DICOM header; None where it is no readable DICOM file."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            if not is_dicom(file.read(132)):
                return None
        return read_dicom_header(path)
    except (SlideOpenError, OSError):
        return None


def check_dicom(path: Path, header: DicomHeader) -> None:
    """Check that a DICOM file is part of a slide and that the slide's own image is whole.

    Raises:
        NotASlideError: If it is an object of another kind.
        MissingCompanionError: If the series in its folder lacks its tissue image, its full-resolution level, or a
            part of an image that was split.
    """
    if not header.is_slide:
        raise NotASlideError(
            f"'{path}' is a DICOM file of another kind ({header.class_name}), not a whole-slide image. Leave it out."
        )
    if header.is_deflated:
        return
    series = dicom_series(path)
    volumes = {p: h for p, h in series.items() if h.is_volume}
    if not volumes:
        kinds = sorted({h.image_type[2] for h in series.values() if len(h.image_type) > 2})
        raise MissingCompanionError(
            f"'{path}' belongs to a DICOM slide of which only {', '.join(kinds) or 'other images'} lie(s) in the "
            "folder: the images of the tissue (VOLUME) are not there. Copy the whole series into one folder."
        )
    if all(h.is_resampled for h in volumes.values()):
        widest = max(volumes.values(), key=lambda h: h.width)
        raise MissingCompanionError(
            f"'{path}' belongs to a DICOM slide of which only reduced levels lie in the folder (the largest has "
            f"{widest.width}×{widest.height} px): the full-resolution image is not there. Copy the whole series into "
            "one folder."
        )
    _check_concatenations(path, volumes)


def _check_concatenations(path: Path, volumes: dict[Path, DicomHeader]) -> None:
    parts: dict[str, list[DicomHeader]] = {}
    for header in volumes.values():
        if header.concatenation:
            parts.setdefault(header.concatenation, []).append(header)
    for members in parts.values():
        present = {m.part for m in members}
        wanted = set(range(1, max(*(m.parts for m in members), *present) + 1))
        if wanted - present:
            missing = ", ".join(map(str, sorted(wanted - present)))
            raise MissingCompanionError(
                f"'{path}' belongs to a DICOM image in {len(wanted)} parts, of which {missing} are not in the folder. "
                "Copy the whole series into one folder."
            )
