"""What is in an output folder: whether each file opens, whether two folders hold the same, what should not be there."""

import csv
import json
from pathlib import Path

from PIL import Image

from microtome.features.store import FeatureStore
from microtome.storage import QuietProgress
from microtome.tasks.cluster import load_clusters, read_assignment, read_summary
from microtome.tasks.output import read_failures, read_slide_rows
from microtome.tasks.run import RunResult, run
from microtome.tasks.umap import read_umap
from microtome.tiles.store import read_tile_quality, read_tiles
from microtome.tissue.tissue import read_tissue

FOLDERS = ("tissue", "tiles", "thumbnails", "features", "clusters")
FEATURES = "features/texture_224px_0.5"
SLIDES = ("sample-01", "sample-02")
# tissue from a coarse level, as every method has it on slides of the usual size; small pictures
QUICK = {"tissue_method": "masked-otsu", "thumbnail_px": 256}
QUICK_FLAGS = ("--tissue-method", "masked-otsu", "--thumbnail-px", "256")


def do(kind, slides: Path | tuple[str, ...], out: Path, progress=None, **values) -> RunResult:
    """Run in this process."""
    paths = (str(slides),) if isinstance(slides, Path) else slides
    return run(kind(slides=paths, out=out, quiet=True, **{**QUICK, **values}), progress=progress or QuietProgress())


def contents(out: Path, *folders: str) -> dict[str, bytes]:
    """Every file below these folders (all that hold results by default), with its bytes."""
    files = [p for folder in folders or FOLDERS for p in (out / folder).rglob("*") if p.is_file()]
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in files}


def values_of(out: Path) -> dict[str, dict[str, str]]:
    """Rows of slides.csv by slide_id, without what differs from run to run."""
    with (out / "slides.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len({row["slide_id"] for row in rows}) == len(rows)
    return {r["slide_id"]: {k: v for k, v in r.items() if k not in ("seconds", "status")} for r in rows}


def statuses(out: Path) -> dict[str, str]:
    with (out / "slides.csv").open(newline="", encoding="utf-8") as file:
        return {row["slide_id"]: row["status"] for row in csv.DictReader(file)}


def leftovers(out: Path) -> list[str]:
    """What only a run that is under way may have."""
    return sorted(
        p.name for p in out.rglob("*") if p.name.startswith(".") or p.suffix in (".tmp", ".claim", ".partial")
    )


def open_every_file(out: Path) -> int:
    """Open each file under its final name with its reader; how many there are."""
    n = 0
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        if path.name.startswith(".") or path.suffix == ".claim":
            continue
        _open(path, out)
        n += 1
    return n


def _open(path: Path, out: Path) -> None:
    kind = path.relative_to(out).parts[0]
    if path.suffix == ".jpg":
        with Image.open(path) as image:
            image.load()
    elif path.suffix == ".geojson":
        assert not read_tissue(path).is_empty
    elif kind == "tiles":
        assert len(read_tiles(path)) > 0
        read_tile_quality(path)
    elif kind == "features":
        FeatureStore(path.parent).check(path.stem)
    elif path.name == "umap.parquet":
        read_umap(path)
    elif path.suffix == ".parquet":
        read_assignment(path)
    elif path.suffix == ".npz":
        load_clusters(path)
    elif path.name == "summary.csv":
        read_summary(path)
    else:
        _open_table(path)


def _open_table(path: Path) -> None:
    if path.name == "slides.csv":
        read_slide_rows(path)
    elif path.name == "run.json":
        read_failures(path)
    elif path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    else:
        assert path.name == "report.html", f"{path} is no file of the layout"
        assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
