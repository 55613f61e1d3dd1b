"""What there is to score under a path: a folder of patches, a patient, OpenSRH, a mosaic, saved embeddings."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from microtome.errors import ConfigError, DuplicateSlideError, NoTilesError
from microtome.storage import safe_name
from microtome.tiles.opensrh import is_opensrh, read_opensrh
from microtome.tiles.srh import CHANNEL_ORDERS, SrhMosaic, SrhPatches, SrhTiles, list_srh_patches

_TIFF = (".tif", ".tiff")
_DUMP = ".pt"


@dataclass(frozen=True, slots=True)
class SrhSlideEntry:
    """A slide to score.

    Attributes:
        patient_id: Whose it is; empty where nobody says.
        slide_id: Its name among the patient's.
        kind: ``patches``, ``mosaic`` or ``dump``.
        path: Folder of the patches, or the file.
        files: The patches, where a table lists them; None for those in the folder.
        patient_class: The patient's diagnosis, where known.
        slide_class: The slide's degree of infiltration, where known.
    """

    patient_id: str
    slide_id: str
    kind: str
    path: Path
    files: tuple[Path, ...] | None = None
    patient_class: str = ""
    slide_class: str = ""

    @property
    def name(self) -> str:
        """Patient and slide, as file names have it; the slide alone where there is no patient."""
        return f"{self.patient_id}.{self.slide_id}" if self.patient_id else self.slide_id


def list_srh_slides(
    paths: Sequence[str | Path], *, studies: str | Sequence[str] = "all", meta: str | None = None
) -> tuple[SrhSlideEntry, ...]:
    """Find the slides under some paths.

    Args:
        paths: Each a folder of patches of one slide (or with ``patches/`` in it), a folder of such folders, the root of
            an OpenSRH data set, a mosaic TIFF, a dump of embeddings, or a folder of dumps.
        studies: Of an OpenSRH data set, which patients: ``train``, ``val``, ``all``, or names.
        meta: Name of its metadata.

    Returns:
        The slides, in the order of the paths. Patches are not opened.

    Raises:
        NoTilesError: If a path has none.
        ConfigError: If a path does not exist, or is of no kind that can be scored.
        DuplicateSlideError: If two slides have one name.
    """
    found = tuple(entry for path in paths for entry in _under(Path(path), studies, meta))
    if not found:
        raise NoTilesError("There is no slide to score. Name a folder of patches, or more patients (--studies).")
    seen: dict[str, Path] = {}
    for entry in found:
        safe_name(entry.name)
        if entry.name in seen:
            raise DuplicateSlideError(
                f"Two slides are named '{entry.name}': '{seen[entry.name]}' and '{entry.path}'. Rename one."
            )
        seen[entry.name] = entry.path
    return found


def _under(path: Path, studies: str | Sequence[str], meta: str | None) -> Iterable[SrhSlideEntry]:
    if not path.exists():
        raise ConfigError(f"'{path}' is not there. Check the path.")
    if path.is_file():
        return [_from_file(path)]
    if is_opensrh(path) or meta is not None:
        return _from_opensrh(path, studies, meta)
    if _holds(path, _TIFF) or _holds(path / "patches", _TIFF):
        return [_from_folder(path)]
    below = [_from_folder(place) for place in _slide_folders(path)]
    if below:
        return below
    dumps = sorted(path.rglob(f"*{_DUMP}"))
    if dumps:
        return [_from_file(dump) for dump in dumps]
    raise NoTilesError(
        f"'{path}' holds nothing to score: no TIFF patches, no slides' folders with patches in them, no "
        "meta/opensrh.json, no dumps of embeddings. An empty slide has no score."
    )


def _from_file(path: Path) -> SrhSlideEntry:
    suffix = path.suffix.lower()
    if suffix == _DUMP:
        patient, dot, slide = path.stem.partition(".")
        return SrhSlideEntry(patient if dot else "", slide if dot else path.stem, "dump", path)
    if suffix not in _TIFF:
        raise ConfigError(f"'{path}' is no SRH slide: pass a mosaic TIFF, a folder of patches, or a dump ({_DUMP}).")
    return SrhSlideEntry("", path.stem, "mosaic", path)


def _from_folder(folder: Path) -> SrhSlideEntry:
    folder = folder.resolve()
    if folder.name == "patches":
        folder = folder.parent
    in_studies = folder.parent.parent.name == "studies"
    return SrhSlideEntry(folder.parent.name if in_studies else "", folder.name, "patches", folder)


def _slide_folders(path: Path) -> list[Path]:
    """Folders of slides below a folder of a patient, or of patients."""
    tops = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    found = [p for p in tops if _holds(p, _TIFF) or _holds(p / "patches", _TIFF)]
    deeper = sorted(p for top in tops if top not in found for p in top.iterdir() if p.is_dir())
    return found + [p for p in deeper if _holds(p, _TIFF) or _holds(p / "patches", _TIFF)]


def _from_opensrh(root: Path, studies: str | Sequence[str], meta: str | None) -> list[SrhSlideEntry]:
    return [
        SrhSlideEntry(
            slide.patient_id,
            slide.slide_id,
            "patches",
            root / "studies" / slide.patient_id / slide.slide_id,
            slide.patches,
            slide.patient_class,
            slide.slide_class,
        )
        for slide in read_opensrh(root, meta=meta).choose(studies)
    ]


def _holds(folder: Path, suffixes: tuple[str, ...]) -> bool:
    return folder.is_dir() and any(
        p.suffix.lower() in suffixes and not p.name.startswith(".") for p in folder.iterdir()
    )


def open_srh_tiles(entry: SrhSlideEntry, *, channel_order: str | None, mpp: float | None) -> SrhTiles:
    """Open the patches of a slide.

    Args:
        entry: The slide; not a dump.
        channel_order: ``ch2,ch3`` or ``ch3,ch2``; None for what OpenSRH has, for which a mosaic is no example.
        mpp: µm per pixel; a mosaic needs it.

    Raises:
        ConfigError: If a mosaic's order or resolution is not said.
        TileError: If names of patches have no coordinates, or two lie at one place.
        SlideOpenError: If a mosaic cannot be opened.
    """
    if entry.kind == "mosaic":
        if channel_order is None or mpp is None:
            missing = "channel order (--channel-order ch2,ch3)" if channel_order is None else "pixel size (--mpp)"
            raise ConfigError(
                f"Mosaic '{entry.path}' does not say its {missing}. A wrong guess would change the score."
            )
        return SrhMosaic(entry.path, channel_order=channel_order, mpp=mpp, slide_id=entry.name)
    files = list_srh_patches(entry.path) if entry.files is None else entry.files
    return SrhPatches(files, slide_id=entry.name, mpp=mpp, channel_order=channel_order or CHANNEL_ORDERS[0])
