"""The main job on small slides: what it writes, what it leaves alone, and how it fails."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from microtome.annotations.geojson import read_polygons
from microtome.config import ExtractConfig, RunConfig, TileConfig, TissueConfig
from microtome.errors import CohortError, ConfigError
from microtome.features.store import FeatureStore
from microtome.storage import QuietProgress
from microtome.tasks.run import run
from microtome.tiles.store import read_tile_quality, read_tiles

FEATURES = "features/texture_224px_0.5"


def do(kind, folder, out, **values):
    values.setdefault("slides", (str(folder),))
    return run(kind(out=out, quiet=True, **values), progress=QuietProgress())


def contents(out: Path, *folders: str) -> dict[str, bytes]:
    files = [p for folder in folders for p in (out / folder).rglob("*") if p.is_file()]
    return {str(p.relative_to(out)): p.read_bytes() for p in files}


def rows_of(out: Path) -> dict[str, dict[str, str]]:
    with (out / "slides.csv").open(newline="") as file:
        return {row["slide_id"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def finished(cohort, tmp_path_factory) -> Path:
    """The folder of a whole run; copy it before changing it."""
    out = tmp_path_factory.mktemp("run") / "out"
    result = do(RunConfig, cohort, out, n_clusters=3, umap_points=60)
    assert result.record.failed == []
    assert result.report == out / "report.html"
    return out


def test_a_run_writes_what_the_layout_says(finished):
    for slide_id in ("sample-01", "sample-02"):
        for name in (
            f"tissue/{slide_id}.geojson",
            f"tiles/{slide_id}.h5",
            f"thumbnails/{slide_id}.jpg",
            f"{FEATURES}/{slide_id}.h5",
            f"clusters/{slide_id}.parquet",
        ):
            assert (finished / name).is_file(), name
    for name in ("run.json", "slides.csv", "report.html", "clusters/centroids.npz", "clusters/umap.parquet"):
        assert (finished / name).is_file(), name
    leftovers = [p for p in finished.rglob("*") if p.name.endswith((".tmp", ".claim")) or p.name.startswith(".")]
    assert leftovers == []


def test_the_tables_agree_with_the_files(finished):
    record = json.loads((finished / "run.json").read_text())
    assert record["slides"] == {"done": 2, "skipped": 0, "unfinished": 0, "failed": []}
    assert record["encoder"]["name"] == "texture"
    store = FeatureStore(finished / FEATURES)
    for slide_id, row in rows_of(finished).items():
        tiles = read_tiles(finished / "tiles" / f"{slide_id}.h5")
        bag = store[slide_id]
        assert row["status"] == "done"
        assert int(row["n_tiles"]) == len(tiles) == len(bag)
        assert np.array_equal(bag.coords, tiles.boxes[:, :2])
        assert float(row["mpp"]) == pytest.approx(0.5)
        area = sum(a.polygon.area for a in read_polygons(finished / "tissue" / f"{slide_id}.geojson"))
        assert float(row["tissue_mm2"]) == pytest.approx(area * 0.5**2 / 1e6)


def test_every_tile_has_its_quality_flags(finished):
    for slide_id in ("sample-01", "sample-02"):
        flags = read_tile_quality(finished / "tiles" / f"{slide_id}.h5")
        assert set(flags) == {"blur", "pen", "black", "white"}
        assert all(np.isfinite(values).all() for values in flags.values())


def test_found_tissue_is_the_planted_tissue(finished, cohort):
    for slide_id in ("sample-01", "sample-02"):
        found = read_polygons(finished / "tissue" / f"{slide_id}.geojson")
        planted = read_polygons(cohort / "truth" / f"{slide_id}.tissue.geojson")
        import shapely

        a, b = (shapely.unary_union([p.polygon for p in polygons]) for polygons in (found, planted))
        assert a.intersection(b).area / a.union(b).area > 0.85


def test_a_second_run_finds_everything_done(finished, cohort, tmp_path):
    out = Path(shutil.copytree(finished, tmp_path / "out"))
    before = contents(out, "tissue", "tiles", "features", "clusters", "thumbnails")
    times = {p: p.stat().st_mtime_ns for p in out.rglob("*.h5")}
    result = do(RunConfig, cohort, out, n_clusters=3, umap_points=60)
    assert (result.record.done, result.record.skipped) == ([], ["sample-01", "sample-02"])
    assert contents(out, "tissue", "tiles", "features", "clusters", "thumbnails") == before
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.h5")} == times


def test_stages_one_by_one_give_what_the_run_gives(finished, cohort, tmp_path):
    out = tmp_path / "out"
    do(TissueConfig, cohort, out)
    assert not (out / "tiles").exists()
    do(TileConfig, cohort, out)
    assert not (out / "features").exists()
    do(ExtractConfig, cohort, out)
    assert contents(out, "tissue", "features", "thumbnails") == contents(finished, "tissue", "features", "thumbnails")


def test_the_number_of_workers_changes_nothing(finished, cohort, tmp_path):
    do(ExtractConfig, cohort, tmp_path / "out", workers=1)
    assert contents(tmp_path / "out", "tissue", "features") == contents(finished, "tissue", "features")


@pytest.mark.parametrize(
    ("setting", "changed"),
    [
        ({"tissue_method": "otsu"}, {"tissue", "tiles", "features"}),
        ({"min_tissue": 0.9}, {"tiles", "features"}),
        ({"stride_px": 112}, {"tiles", "features"}),
        ({"n_tiles": 5}, {"features"}),
        ({"n_clusters": 2}, {"clusters"}),
        ({"min_coverage": 0.5}, set()),
        ({"workers": 1}, set()),
        ({"batch_size": 7}, set()),
        ({"memory": "64M"}, set()),
    ],
)
def test_a_changed_setting_redoes_what_depends_on_it_and_nothing_else(finished, cohort, tmp_path, setting, changed):
    out = Path(shutil.copytree(finished, tmp_path / "out"))
    stages = {
        "tissue": "tissue/sample-01.geojson",
        "tiles": "tiles/sample-01.h5",
        "features": f"{FEATURES}/sample-01.h5",
        "clusters": "clusters/sample-01.parquet",
    }
    before = {stage: (out / name).stat().st_mtime_ns for stage, name in stages.items()}
    values = {"n_clusters": 3, "umap_points": 0, "overwrite": True, **setting}
    result = do(RunConfig, cohort, out, **values)
    assert result.record.failed == []
    after = {stage: (out / name).stat().st_mtime_ns for stage, name in stages.items()}
    redone = {stage for stage in stages if after[stage] != before[stage]}
    assert redone - {"clusters"} == changed - {"clusters"}
    assert ("clusters" in redone) == bool(changed & {"features", "clusters"})


def test_other_settings_in_the_same_folder_are_refused_without_overwrite(finished, cohort, tmp_path):
    out = Path(shutil.copytree(finished, tmp_path / "out"))
    before = contents(out, "tissue", "tiles", "features")
    result = do(RunConfig, cohort, out, n_clusters=3, min_tissue=0.9)
    assert [f.error for f in result.record.failed] == ["RecipeMismatchError"] * 2
    assert "grid_min_tissue: 0.5 → 0.9" in result.record.failed[0].reason
    assert "--overwrite" in result.record.failed[0].reason
    assert contents(out, "tissue", "tiles", "features") == before


def test_a_bad_slide_fails_alone(cohort, tmp_path):
    slides = Path(shutil.copytree(cohort, tmp_path / "slides"))
    (slides / "empty.svs").touch()
    (slides / "text.svs").write_text("not a slide\n")
    (slides / "half.svs").write_bytes((slides / "sample-01.svs").read_bytes()[:20000])
    result = do(RunConfig, slides, tmp_path / "out", n_clusters=2, umap_points=0)
    errors = {f.slide_id: f.error for f in result.record.failed}
    assert errors == {"empty": "EmptyFileError", "text": "NotAnImageError", "half": "TruncatedSlideError"}
    rows = rows_of(tmp_path / "out")
    assert {k: r["status"] for k, r in rows.items() if k.startswith("sample")} == {
        "sample-01": "done",
        "sample-02": "done",
    }
    assert rows["empty"]["status"] == "failed"
    assert "empty" in rows["empty"]["error"]
    assert result.report is not None


def test_slides_of_another_run_keep_their_rows(finished, cohort, tmp_path):
    out = Path(shutil.copytree(finished, tmp_path / "out"))
    before = rows_of(out)
    do(ExtractConfig, cohort, out, slides=(str(cohort / "sample-02.tif"),))
    after = rows_of(out)
    assert after["sample-01"] == before["sample-01"]
    assert after["sample-02"]["status"] == "skipped"
    assert after["sample-02"]["seconds"] == before["sample-02"]["seconds"]


def test_missing_mpp_names_its_remedy_and_levels_need_none(tmp_path):
    from PIL import Image

    from microtome.testing.synthetic import synthetic_slide

    slide = synthetic_slide(3, size_px=1024)
    from microtome.geometry import Box, Size

    Image.fromarray(slide.read(Box.of(Size(1024, 1024)))).save(tmp_path / "plain.png")
    result = do(ExtractConfig, tmp_path, tmp_path / "a", slides=(str(tmp_path / "plain.png"),))
    assert [f.error for f in result.record.failed] == ["MissingMppError"]
    assert "--mpp" in result.record.failed[0].reason
    given = do(ExtractConfig, tmp_path, tmp_path / "b", slides=(str(tmp_path / "plain.png"),), mpp=0.5)
    assert given.record.failed == []
    assert given.rows[0].mpp_source == "--mpp"
    by_level = do(ExtractConfig, tmp_path, tmp_path / "c", slides=(str(tmp_path / "plain.png"),), level=0)
    assert by_level.record.failed == []
    assert by_level.rows[0].mpp is None


def test_a_persons_outline_is_used(cohort, tmp_path):
    import shapely

    from microtome.annotations.geojson import Annotation, write_polygons

    outlines = tmp_path / "outlines"
    outlines.mkdir()
    square = shapely.box(300, 300, 1200, 1200)
    for slide_id in ("sample-01", "sample-02"):
        write_polygons(outlines / f"{slide_id}.geojson", [Annotation(square, "Tissue", {})])
    result = do(TileConfig, cohort, tmp_path / "out", tissue_from=outlines, tile_px=100, min_tissue=1.0)
    assert result.record.failed == []
    tiles = read_tiles(tmp_path / "out" / "tiles" / "sample-01.h5")
    assert len(tiles) == 81
    assert result.rows[0].tissue_mm2 == pytest.approx(900 * 900 * 0.25 / 1e6)


def test_an_outline_edited_in_place_wins(cohort, tmp_path):
    out = tmp_path / "out"
    do(TileConfig, cohort, out, tile_px=100)
    path = out / "tissue" / "sample-01.geojson"
    content = json.loads(path.read_text())
    content["features"] = content["features"][:1]
    content["features"][0]["geometry"] = {
        "type": "Polygon",
        "coordinates": [[[300, 300], [1200, 300], [1200, 1200], [300, 1200], [300, 300]]],
    }
    path.write_text(json.dumps(content))
    result = do(TileConfig, cohort, out, tile_px=100, overwrite=True)
    assert result.record.failed == []
    assert result.rows[0].tissue_mm2 == pytest.approx(900 * 900 * 0.25 / 1e6)
    assert json.loads(path.read_text()) == content


def test_a_blank_slide_fails_unless_it_may_be_empty(tmp_path):
    from PIL import Image

    Image.new("RGB", (1000, 1000), (245, 245, 245)).save(tmp_path / "blank.png")
    refused = do(ExtractConfig, tmp_path, tmp_path / "a", slides=(str(tmp_path / "blank.png"),), mpp=0.5)
    assert [f.error for f in refused.record.failed] == ["NoTissueError"]
    allowed = do(RunConfig, tmp_path, tmp_path / "b", slides=(str(tmp_path / "blank.png"),), mpp=0.5, allow_empty=True)
    assert allowed.record.failed == []
    assert allowed.rows[0].n_tiles == 0
    assert "No clusters" in allowed.record.notes[0]
    assert allowed.report is not None


def test_saved_tiles_are_the_tiles(cohort, tmp_path):
    from microtome.tiles.folder import TileFolder

    do(TileConfig, cohort, tmp_path / "out", save_tiles=True, tile_format="png")
    tiles = read_tiles(tmp_path / "out" / "tiles" / "sample-01.h5")
    with TileFolder(tmp_path / "out" / "tile_images" / "sample-01") as images:
        assert np.array_equal(images.boxes, tiles.boxes)


@pytest.mark.parametrize(
    ("values", "error", "said"),
    [
        ({"slides": ()}, CohortError, "no slide"),
        ({"tissue_method": "magic"}, ConfigError, "masked-otsu"),
        ({"tissue_parameters": {"sgma": 1}, "tissue_method": "otsu"}, ConfigError, "sgma"),
        ({"tissue_parameters": {"sigma": -1}, "tissue_method": "otsu"}, ConfigError, "sigma"),
    ],
)
def test_what_cannot_be_honoured_stops_before_any_slide(cohort, tmp_path, values, error, said):
    with pytest.raises(error, match=said):
        do(TissueConfig, cohort, tmp_path / "out", **values)
    assert not (tmp_path / "out").exists()


def test_the_cohort_table_names_the_slides_and_their_mpp(cohort, tmp_path):
    table = tmp_path / "cohort.csv"
    table.write_text(f"slide_id,path,mpp\nrenamed,{cohort / 'sample-01.svs'},0.5\n")
    result = do(TileConfig, cohort, tmp_path / "out", slides=(), cohort=table)
    assert [row.slide_id for row in result.rows] == ["renamed"]
    table.write_text(f"slide_id,path,mpp\nrenamed,{cohort / 'sample-01.svs'},0.3\n")
    conflict = do(TileConfig, cohort, tmp_path / "out2", slides=(), cohort=table)
    assert [f.error for f in conflict.record.failed] == ["MppConflictError"]
    won = do(TileConfig, cohort, tmp_path / "out3", slides=(), cohort=table, override_mpp=True)
    assert won.record.failed == []
    assert won.rows[0].mpp_source == "override:cohort"


def test_ctrl_c_ends_cleanly_and_the_rerun_completes(finished, cohort, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "microtome", "run", str(cohort), "--out", str(out), "--n-clusters", "3"]
    command += ["--umap-points", "60"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (out / "tiles" / "sample-01.h5").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=240)
    if process.returncode != 0:  # it may have been quicker than the signal
        assert process.returncode == 130, stderr
        assert "Traceback" not in stderr
        assert "unfinished" in stdout
        assert "Stopped" in stderr
    assert (out / "slides.csv").exists()
    result = do(RunConfig, cohort, out, n_clusters=3, umap_points=60)
    assert result.record.failed == []
    folders = ("tissue", "tiles", "features", "clusters", "thumbnails")
    assert contents(out, *folders) == contents(finished, *folders)
