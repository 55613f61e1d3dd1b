"""Where HistoSSL's folders ``raw`` and ``preprocessed`` have what belongs to a task: slides, coordinates, features.

References:
    HistoSSL (73f1d19), specification section 2. Both the plural names (``slides_classification``), which its readers
    take, and the singular ones, which its writers make by default, are found.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from microtome.errors import ConfigError, DuplicateSlideError, MissingOutputError
from microtome.features.formats.format import plain_slide_name
from microtome.features.formats.histossl import FEATURES_NPY
from microtome.tiles.coords_files import COORDS_NPY

CAMELYON16 = "CAMELYON16_FULL"
SLIDE_PARTS = ("slides_classification", "slide_classification")
TILE_PARTS = ("tiles_classification", "tile_classification")
SLIDE_SUFFIXES = (".svs", ".tif", ".tiff")

_PARAFFIN = ("parafine", "paraffine", "paraffin")


@dataclass(frozen=True, slots=True)
class HistoSSLFolder:
    """What a user downloaded of HistoSSL's data.

    Attributes:
        root: The folder that was named.
        raw: Its folder of slides and clinical tables, or None.
        preprocessed: Its folder of coordinates and features, or None.
    """

    root: Path
    raw: Path | None
    preprocessed: Path | None

    def encoders(self) -> tuple[str, ...]:
        """Names of the encoders that there are features of slides of."""
        folders = [folder for part in _parts(self.preprocessed, SLIDE_PARTS) for folder in _folders(part / "features")]
        return tuple(sorted({folder.name for folder in folders}))

    def features_folder(self, encoder: str) -> Path:
        """Folder of an encoder's features, for ``open_bags`` and ``microtome convert``.

        Raises:
            MissingOutputError: If there is none; the sentence lists those there are.
            ConfigError: If there are two, under the plural and the singular name.
        """
        found = [
            folder
            for part in _parts(self.preprocessed, SLIDE_PARTS)
            if (folder := part / "features" / encoder).is_dir() and encoder
        ]
        if len(found) > 1:
            raise ConfigError(f"'{found[0]}' and '{found[1]}' both hold features of {encoder!r}. Keep one.")
        if not found:
            raise MissingOutputError(
                f"'{self.root}' holds no features of {encoder!r}. There are: {', '.join(self.encoders()) or 'none'}."
            )
        return found[0]

    def features(self, cohorts: Iterable[str], encoder: str) -> dict[str, Path]:
        """Feature files of cohorts: slide_id (the slide file's name without suffix) → ``features.npy``.

        Args:
            cohorts: Their folders' names: ``TCGA_COAD``, ``CAMELYON16_FULL``.
            encoder: One of :meth:`encoders`.

        Raises:
            MissingOutputError: If there are no features of this encoder.
            DuplicateSlideError: If two files are of one slide.
        """
        folder = self.features_folder(encoder)
        return _by_slide(file for cohort in cohorts for file in _inside(folder / cohort_place(cohort), FEATURES_NPY))

    def coords(self, cohorts: Iterable[str], side: int) -> dict[str, Path]:
        """Coordinates of cohorts: slide_id → ``coords.npy`` in ``coords_<side>``."""
        folders = [part / "coords" / f"coords_{side}" for part in _parts(self.preprocessed, SLIDE_PARTS)]
        places = [folder / cohort_place(cohort) for folder in folders for cohort in cohorts]
        return _by_slide(file for place in places for file in _inside(place, COORDS_NPY))

    def sides(self) -> tuple[int, ...]:
        """Sides of tiles, in pixels, that there are coordinates of."""
        folders = [folder for part in _parts(self.preprocessed, SLIDE_PARTS) for folder in _folders(part / "coords")]
        names = {folder.name.removeprefix("coords_") for folder in folders}
        return tuple(sorted(int(name) for name in names if name.isdecimal()))

    def slides(self, cohorts: Iterable[str]) -> dict[str, Path]:
        """Slide files of cohorts: slide_id → file."""
        return _by_slide(file for cohort in cohorts for file in self.slide_files(cohort))

    def slide_files(self, cohort: str) -> list[Path]:
        """Slide files of a cohort, in the order of their paths, whatever their names."""
        places = [place for part in _parts(self.raw, SLIDE_PARTS) for place in _slide_places(part, cohort)]
        return [file for place in places for file in _slides_below(place)]

    def clinical(self, cohort: str, kind: str = "") -> list[Path]:
        """Tables (csv, tsv, txt) of a kind (``survival``, ``msi``, ``hrd``, ``subtypes``) for a cohort's collection."""
        parts = _parts(self.raw, SLIDE_PARTS)
        folders = [part / cohort_place(cohort).parts[0] / "clinical" / kind for part in parts]
        files = [file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir())]
        return [file for file in files if file.suffix.lower() in (".csv", ".tsv", ".txt") and _is_visible(file)]

    def tile_folders(self, name: str) -> list[Path]:
        """Folders of a raw data set of tiles (``NCT-CRC_FULL``), under the plural and the singular name."""
        return [folder for part in _parts(self.raw, TILE_PARTS) if (folder := part / name).is_dir()]


def find_histossl(data_dir: str | Path) -> HistoSSLFolder:
    """Find HistoSSL's data below a folder.

    Args:
        data_dir: The folder with ``raw`` and ``preprocessed``, or one of the two.

    Returns:
        What is there.

    Raises:
        ConfigError: If it is no folder, or holds neither.
    """
    root = Path(data_dir).absolute()
    raw, preprocessed = root / "raw", root / "preprocessed"
    if not (raw.is_dir() or preprocessed.is_dir()):
        raw = root if root.name == "raw" else raw
        preprocessed = root if root.name == "preprocessed" else preprocessed
    found = HistoSSLFolder(root, raw if raw.is_dir() else None, preprocessed if preprocessed.is_dir() else None)
    if found.raw is None and found.preprocessed is None:
        raise ConfigError(f"'{root}' holds neither raw/ nor preprocessed/ as HistoSSL has them. Name the folder above.")
    return found


def cohort_place(cohort: str) -> Path:
    """Where a cohort lies below a folder of coordinates or features: TCGA's are together.

    Example:
        >>> cohort_place("TCGA_COAD").as_posix()
        'TCGA/TCGA_COAD'
    """
    return Path("TCGA", cohort) if cohort.startswith("TCGA_") else Path(cohort)


def _slide_places(part: Path, cohort: str) -> list[Path]:
    place = cohort_place(cohort)
    if len(place.parts) == 1:
        return [part / place / "slides"]
    return [part / place.parts[0] / "slides" / paraffin / place.parts[1] for paraffin in _PARAFFIN]


def _slides_below(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (
            file
            for file in sorted(folder.rglob("*"))
            if file.suffix.lower() in SLIDE_SUFFIXES and _is_visible(file) and file.is_file()
        )


def _parts(folder: Path | None, names: tuple[str, ...]) -> list[Path]:
    return [] if folder is None else [part for name in names if (part := folder / name).is_dir()]


def _folders(folder: Path) -> list[Path]:
    return [sub for sub in sorted(folder.iterdir()) if sub.is_dir() and _is_visible(sub)] if folder.is_dir() else []


def _inside(folder: Path, name: str) -> list[Path]:
    """Files of this name in the folders of slides."""
    return [file for slide in _folders(folder) if (file := slide / name).is_file()]


def _by_slide(files: Iterable[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in files:
        is_array = file.name in (FEATURES_NPY, COORDS_NPY)
        slide_id = plain_slide_name(file.parent.name if is_array else file.name)
        if found.setdefault(slide_id, file) is not file:
            raise DuplicateSlideError(f"'{found[slide_id]}' and '{file}' are both of slide {slide_id!r}. Keep one.")
    return found


def _is_visible(path: Path) -> bool:
    return not path.name.startswith(".")
