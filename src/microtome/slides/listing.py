"""Which slides a person means by some files, folders and patterns, and what they are called."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from microtome.errors import DuplicateSlideError
from microtome.slides.companions import dicom_header_of
from microtome.slides.dicom_header import DicomHeader, is_dicom
from microtome.slides.tiff_index import is_tiff
from microtome.storage import safe_name

SLIDE_SUFFIXES = frozenset(
    {
        ".svs",
        ".tif",
        ".tiff",
        ".btf",
        ".ndpi",
        ".mrxs",
        ".scn",
        ".bif",
        ".vms",
        ".vmu",
        ".svslide",
        ".czi",
        ".qptiff",
        ".vsi",
        ".dcm",
        ".dicom",
    }
)
_IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jp2", ".j2k", ".bmp", ".gif", ".webp", ".ppm", ".pgm"})
_HEAD_BYTES = 132


@dataclass(frozen=True, slots=True)
class SlideEntry:
    """One slide of a list.

    Attributes:
        slide_id: Its name; outputs are named after it.
        path: Its file (of a DICOM slide, one of its files).
        mpp: Its resolution, µm per level-0 pixel, where somebody gave it with the list.
        patient_id: Whose it is, where somebody said.
    """

    slide_id: str
    path: Path
    mpp: float | None = None
    patient_id: str | None = None


@dataclass(frozen=True, slots=True)
class SlideListing:
    """Slides in the order of their discovery, and what was left out with the reason."""

    entries: list[SlideEntry]
    ignored: list[tuple[Path, str]]


def list_slides(paths: Sequence[str | Path]) -> SlideListing:
    """Find the slides among files, folders (searched to their depth) and patterns such as ``data/**/*.svs``.

    A file that is named, or that a pattern finds, is taken whatever it is: if it is no slide, opening it will say
    why. In folders, files are taken that look like slides by their suffix or by their content (TIFF, DICOM); plain
    images are not, since folders of slides often hold thumbnails. DICOM files of one series in one folder are one
    slide. The folders of MRXS (``x/`` beside ``x.mrxs``) and VSI slides (``_x_/``) are passed over.

    Args:
        paths: What was named, in any order.

    Returns:
        One entry per slide: those of each path in the order of their names. ``slide_id`` is the file's name without
        suffix; the folder's name for a DICOM slide of several files or alone in a folder found below a named one.

    Raises:
        DuplicateSlideError: If two different files have one slide_id.
        ConfigError: If a slide's name cannot be a file name everywhere.
    """
    found = _Found()
    for named in paths:
        for path in _expand(named, found.ignored):
            if path.is_dir():
                _walk(path, found)
            else:
                found.take(path, in_root=True)
    return SlideListing(_entries(found), found.ignored)


def find_dicom_slide(folder: Path) -> Path | None:
    """One file of the only DICOM slide in a folder; None where it holds none, or several."""
    try:
        headers = {p: h for p in sorted(folder.iterdir()) if (h := dicom_header_of(p)) is not None and h.is_slide}
    except OSError:
        return None
    if len({h.series for h in headers.values()}) != 1:
        return None
    return _representative(headers)


@dataclass(slots=True)
class _Found:
    """What was found so far: single files, and DICOM files by folder and series."""

    files: dict[Path, None] = field(default_factory=dict)
    series: dict[tuple[Path, str], dict[Path, DicomHeader]] = field(default_factory=dict)
    order: dict[Path | tuple[Path, str], bool] = field(default_factory=dict)
    ignored: list[tuple[Path, str]] = field(default_factory=list)

    def take(self, path: Path, *, in_root: bool, header: DicomHeader | None = None) -> None:
        """Note a slide's file. ``in_root``: whether it, or its own folder, was named."""
        plain = Path(os.path.normpath(path))
        header = header or dicom_header_of(plain)
        if header is None or not header.is_slide or not header.series:
            self.files[plain] = None
            self.order.setdefault(plain, in_root)
            return
        key = (plain.parent, header.series)
        self.series.setdefault(key, {})[plain] = header
        self.order[key] = self.order.get(key, True) and in_root


def _expand(named: str | Path, ignored: list[tuple[Path, str]]) -> Iterator[Path]:
    """A path as it is; a pattern's matches. A name that exists is no pattern, whatever signs it holds."""
    path = Path(named).expanduser()
    if path.exists() or not glob.has_magic(str(path)):
        yield path
        return
    matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
    if not matches:
        ignored.append((path, "no file matches the pattern"))
    yield from map(Path, matches)


def _walk(root: Path, found: _Found) -> None:
    """Search a folder; links are followed, but no folder is entered twice."""
    entered: set[Path] = set()

    def note(error: OSError) -> None:
        found.ignored.append((Path(str(error.filename)), f"folder cannot be read: {error.strerror}"))

    for folder, below, files in os.walk(root, onerror=note, followlinks=True):
        here = Path(folder)
        real = here.resolve()
        if real in entered:
            below.clear()
            continue
        entered.add(real)
        below[:] = sorted(d for d in below if _enters(here, d, files, found))
        for name in sorted(files):
            _look(here / name, found, in_root=here == root)


def _enters(folder: Path, name: str, files: list[str], found: _Found) -> bool:
    if name.startswith("."):
        found.ignored.append((folder / name, "hidden folder"))
        return False
    lower = {f.lower() for f in files}
    owner = f"{name.lower()}.mrxs" if not name.startswith("_") else f"{name.lower()[1:-1]}.vsi"
    return owner not in lower


def _look(path: Path, found: _Found, *, in_root: bool) -> None:
    """Take a file found in a folder, or say why not."""
    if path.name.startswith("."):
        found.ignored.append((path, "hidden file"))
        return
    try:
        reason, header = _judge(path)
    except OSError as error:
        reason, header = None, None
        if path.suffix.lower() not in SLIDE_SUFFIXES:
            reason = f"cannot be read: {error.strerror}"
    if reason is None:
        found.take(path, in_root=in_root, header=header)
    else:
        found.ignored.append((path, reason))


def _judge(path: Path) -> tuple[str | None, DicomHeader | None]:
    """Why a file in a folder is left out; None where it looks like a slide. With its DICOM header, if it has one."""
    suffix = path.suffix.lower()
    if not path.is_file():
        return (None if suffix in SLIDE_SUFFIXES else "no file"), None
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if is_dicom(head):
        header = dicom_header_of(path)
        if header is not None and not header.is_slide:
            return f"DICOM of another kind ({header.class_name})", header
        return None, header
    if suffix in SLIDE_SUFFIXES or is_tiff(head):
        return None, None
    if suffix in _IMAGE_SUFFIXES:
        return "a plain image; name it, or a pattern, to take it as a slide", None
    return "neither suffix nor content of a slide", None


def _entries(found: _Found) -> list[SlideEntry]:
    entries: dict[str, SlideEntry] = {}
    crowded = _crowded_folders(found)
    for key, in_root in found.order.items():
        if isinstance(key, Path):
            entry = SlideEntry(key.stem, key)
        else:
            files = found.series[key]
            path = _representative(files)
            of_folder = key[0] not in crowded and (len(files) > 1 or not in_root)
            entry = SlideEntry(key[0].resolve().name if of_folder else path.stem, path)
        safe_name(entry.slide_id, what=f"The name of '{entry.path}',")
        twin = entries.setdefault(entry.slide_id, entry)
        if twin is not entry:
            raise DuplicateSlideError(
                f"Two slides are called {entry.slide_id!r}: '{twin.path}' and '{entry.path}'. Rename one, leave one "
                "out, or give each a slide_id in a cohort table."
            )
    return list(entries.values())


def _crowded_folders(found: _Found) -> set[Path]:
    """Folders with more than one DICOM slide, whose name can stand for none of them."""
    folders = [folder for folder, _ in found.series]
    return {folder for folder in folders if folders.count(folder) > 1}


def _representative(files: dict[Path, DicomHeader]) -> Path:
    """The file that stands for a DICOM slide: the widest tissue image, the first of them by name."""
    return min(files, key=lambda p: (not files[p].is_volume, files[p].is_resampled, -files[p].width, p.name))
