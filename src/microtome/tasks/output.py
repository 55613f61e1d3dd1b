"""The output folder: where each file lies, and the two tables that say what happened (slides.csv, run.json)."""

import csv
import io
import json
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import microtome
from microtome.errors import CorruptOutputError
from microtome.storage import written_whole

Status = Literal["done", "skipped", "failed", "unfinished"]
"""Done now, finished by an earlier run, failed, or not gone through all stages yet (running, or stopped)."""

INTENDED_USE = "For research use only. Not a medical device; not for diagnosis or treatment decisions."
_VERSIONS_OF = (
    "numpy",
    "scipy",
    "scikit-image",
    "scikit-learn",
    "openslide-python",
    "openslide-bin",
    "tifffile",
    "imagecodecs",
    "simplejpeg",
    "h5py",
    "pandas",
    "pillow",
    "shapely",
    "opencv-python-headless",
    "umap-learn",
)


@dataclass(frozen=True, slots=True)
class OutputFolder:
    """Paths in an output folder. The layout is an interface: other tools read it."""

    root: Path

    @property
    def run_json(self) -> Path:
        """Resolved configuration, versions, provenance, and what failed and why."""
        return self.root / "run.json"

    @property
    def slides_csv(self) -> Path:
        """One row per slide."""
        return self.root / "slides.csv"

    @property
    def report(self) -> Path:
        """The report to look at."""
        return self.root / "report.html"

    @property
    def clusters(self) -> Path:
        """Folder of cluster assignments and centroids."""
        return self.root / "clusters"

    def tissue(self, slide_id: str) -> Path:
        """Tissue outline of a slide, GeoJSON."""
        return self.root / "tissue" / f"{slide_id}.geojson"

    def tiles(self, slide_id: str) -> Path:
        """Tile coordinates of a slide, HDF5."""
        return self.root / "tiles" / f"{slide_id}.h5"

    def tile_table(self, name: str) -> Path:
        """Table of the tiles of a set of tile images, CSV: id, path, label, ..."""
        return self.root / "tiles" / f"{name}.csv"

    def tile_images(self, slide_id: str) -> Path:
        """Folder of tile images of a slide, in HistoPrep's layout."""
        return self.root / "tile_images" / slide_id

    def thumbnail(self, slide_id: str) -> Path:
        """Slide with tissue outline and tiles."""
        return self.root / "thumbnails" / f"{slide_id}.jpg"

    def plain_thumbnail(self, slide_id: str) -> Path:
        """Slide alone, for the report to draw over."""
        return self.root / "thumbnails" / f"{slide_id}.plain.jpg"

    def thumbnail_frame(self, slide_id: str) -> Path:
        """What the thumbnail covers: box in level-0 pixels, size in thumbnail pixels."""
        return self.root / "thumbnails" / f"{slide_id}.json"

    def features(self, folder_name: str) -> Path:
        """Folder of features by one encoder at one tile size and resolution."""
        return self.root / "features" / folder_name


@dataclass(slots=True)
class SlideRow:
    """One row of slides.csv; what is not known is None and an empty cell."""

    slide_id: str
    path: str
    status: Status = "unfinished"
    reader: str | None = None
    reader_note: str | None = None
    width: int | None = None
    height: int | None = None
    mpp: float | None = None
    mpp_source: str | None = None
    tissue_mm2: float | None = None
    n_tiles: int | None = None
    n_unreadable: int | None = None
    seconds: float = 0.0
    error: str | None = None


def write_slide_rows(path: Path, rows: Iterable[SlideRow]) -> None:
    """Write slides.csv whole."""
    text = io.StringIO()
    names = [f.name for f in fields(SlideRow)]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = asdict(row)
        values["seconds"] = round(row.seconds, 3)
        writer.writerow({k: "" if v is None else v for k, v in values.items()})
    with written_whole(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", newline="")


def read_slide_rows(path: Path) -> dict[str, SlideRow]:
    """The rows of slides.csv by slide_id; none where there is no table yet.

    Raises:
        CorruptOutputError: If the file is no such table.
    """
    try:
        text = path.read_bytes().decode("utf-8")
        table = csv.DictReader(io.StringIO(text, newline=""))
        if table.fieldnames is None or not text.endswith("\n"):
            raise ValueError("it ends too early")  # noqa: TRY301 - explained below
        return {row["slide_id"]: _slide_row(row) for row in table}
    except FileNotFoundError:
        return {}
    except KeyError as error:
        raise _damaged(path, f"there is no column {error.args[0]!r}") from error
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, why: object) -> CorruptOutputError:
    return CorruptOutputError(
        f"'{path}' cannot be read: {why}. Each run rewrites it: delete it, or pass --overwrite, and run again."
    )


def _slide_row(cells: dict[str, str]) -> SlideRow:
    kinds = {"width": int, "height": int, "mpp": float, "tissue_mm2": float, "n_tiles": int, "n_unreadable": int}
    cells = {"reader_note": "", **cells}  # tables of earlier versions have no such column
    values: dict[str, Any] = {f.name: cells[f.name] or None for f in fields(SlideRow)}
    for name, kind in kinds.items():
        if values[name] is not None:
            values[name] = kind(values[name])
    values["seconds"] = float(cells["seconds"])
    return SlideRow(**values)


@dataclass(frozen=True, slots=True)
class StageFailure:
    """A slide that could not be finished: where, in which stage, and why."""

    slide_id: str
    path: str
    stage: str
    error: str
    reason: str


@dataclass(slots=True)
class RunRecord:
    """What run.json holds."""

    started: str
    config: dict[str, Any]
    ended: str = ""
    encoder: dict[str, Any] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    failed: list[StageFailure] = field(default_factory=list)
    failed_before: list[StageFailure] = field(default_factory=list)  # slides of earlier runs that this one left out
    ignored: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The record as it stands in the file."""
        return {
            "microtome": microtome.__version__,
            "started": self.started,
            "ended": self.ended,
            "intended_use": INTENDED_USE,
            "config": self.config,
            "versions": software_versions(),
            "encoder": self.encoder,
            "slides": {
                "done": len(self.done),
                "skipped": len(self.skipped),
                "unfinished": len(self.unfinished),
                "failed": [asdict(f) for f in (*self.failed, *self.failed_before)],
            },
            "ignored": [{"path": path, "reason": reason} for path, reason in self.ignored],
            "notes": self.notes,
            "seconds": {stage: round(s, 3) for stage, s in self.seconds.items()},
        }


def read_failures(path: Path) -> list[StageFailure]:
    """The failures that run.json tells of; none where there is no such file.

    Raises:
        CorruptOutputError: If the file is no such record.
    """
    try:
        return [StageFailure(**f) for f in json.loads(path.read_text(encoding="utf-8"))["slides"]["failed"]]
    except FileNotFoundError:
        return []
    except KeyError as error:
        raise _damaged(path, f"there is no entry {error.args[0]!r}") from error
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise _damaged(path, error) from error


def write_run_record(path: Path, record: RunRecord) -> None:
    """Write run.json whole."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(record.as_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def software_versions() -> dict[str, str]:
    """Versions of Python, the system and the libraries that decide results."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for name in _VERSIONS_OF:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
