"""Bad slides among good ones, and bad tiles in good slides: counted, shown, and never painted over."""

import json
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from microtome.config import ExtractConfig, InspectConfig, RunConfig
from microtome.features.store import FeatureStore
from microtome.geometry import Box
from microtome.storage import QuietProgress
from microtome.tasks.inspect import inspect
from microtome.tasks.thumbnails import readable_thumbnail
from microtome.testing.array_slide import ArraySlide
from microtome.testing.damage import break_tile
from microtome.tiles.store import read_tiles
from tests.conftest import REPOSITORY
from tests.faults.outputs import FEATURES, QUICK_FLAGS, SLIDES, do, statuses, values_of

BROKEN_TILE = 12  # of 5 × 5, in the tissue


def test_all_odd_files_among_good_slides(shared, cohort, undisturbed, slides, tmp_path):
    odd = shared / "data" / "wsi_odd"
    for path in odd.iterdir():
        shutil.copy(path, slides)
    out = tmp_path / "out"
    process = subprocess.run(
        [sys.executable, "-m", "microtome", "extract", str(slides), "--out", str(out), *QUICK_FLAGS],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    assert process.returncode == 1, process.stderr
    assert "Traceback" not in process.stderr
    record, rows = json.loads((out / "run.json").read_text()), values_of(out)
    told = {f["slide_id"]: f for f in record["slides"]["failed"]}
    ignored = {item["path"] for item in record["ignored"]}
    for path in odd.iterdir():
        assert str(slides / path.name) in {*(r["path"] for r in rows.values()), *ignored}, path.name
    assert len(told) > 8
    for slide_id, failure in told.items():
        assert statuses(out)[slide_id] == "failed"
        assert rows[slide_id]["error"] == failure["reason"]
        assert len(failure["reason"]) > 30
        assert not failure["reason"].startswith("Unexpected")
        assert slide_id in process.stdout + process.stderr
        assert not (out / FEATURES / f"{slide_id}.h5").exists()
    assert {s for s, status in statuses(out).items() if status == "done"} == set(rows) - set(told) >= set(SLIDES)
    for slide_id in SLIDES:
        for folder, suffix in (("tissue", ".geojson"), ("tiles", ".h5"), (FEATURES, ".h5")):
            name = f"{folder}/{slide_id}{suffix}"
            assert (out / name).read_bytes() == (undisturbed / name).read_bytes(), name


@pytest.fixture(params=["direct", "openslide", "tifffile"])
def broken(request, slides):
    """Reader, folder, and the box of the tile of sample-01 that cannot be decoded."""
    return request.param, slides, break_tile(slides / "sample-01.svs", level=0, index=BROKEN_TILE)


def test_a_corrupt_tile_is_recorded_counted_and_shown(broken, tmp_path):
    reader, slides, box = broken
    out = tmp_path / "out"
    result = do(RunConfig, slides, out, reader=reader, min_coverage=0.5, n_clusters=3, umap_points=0, thumbnail_px=600)
    assert result.record.failed == []
    boxes = read_tiles(out / "tiles" / "sample-01.h5").boxes
    hit = np.array([Box.from_row(row).intersection(box) is not None for row in boxes])
    assert 0 < hit.sum() < len(boxes) / 2
    bag = FeatureStore(out / FEATURES)["sample-01"]
    assert np.array_equal(bag.unreadable, boxes[hit])
    assert np.array_equal(bag.boxes, boxes[~hit])
    assert all("cannot be decoded" in error for error in bag.unreadable_errors)
    assert len(bag.unreadable_errors) == hit.sum()
    row = values_of(out)["sample-01"]
    assert (row["n_tiles"], row["n_unreadable"]) == (str(len(boxes)), str(hit.sum()))
    assert values_of(out)["sample-02"]["n_unreadable"] == "0"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("cannot be decoded: ") >= hit.sum()
    # the picture for the eye is of level 0 here: it is striped there and says so
    frame = json.loads((out / "thumbnails" / "sample-01.json").read_text())
    assert frame["unreadable_parts"] > 0
    assert [n for n in result.record.notes if "sample-01" in n and "striped" in n]


def test_the_least_coverage_decides_whether_a_slide_stands(slides, tmp_path):
    break_tile(slides / "sample-01.svs", level=0, index=BROKEN_TILE)
    out, settings = tmp_path / "out", {"quality_flags": False}
    refused = do(ExtractConfig, slides, out, min_coverage=1.0, **settings)
    (failure,) = refused.record.failed
    assert (failure.slide_id, failure.error) == ("sample-01", "CoverageError")
    n_tiles = len(read_tiles(out / "tiles" / "sample-01.h5"))
    assert f"of {n_tiles} tiles cannot be decoded" in failure.reason
    assert "--min-coverage" in failure.reason
    assert not (out / FEATURES / "sample-01.h5").exists()
    assert statuses(out)["sample-02"] == "done"
    assert do(ExtractConfig, slides, out, min_coverage=0.5, **settings).record.failed == []
    again = do(ExtractConfig, slides, out, min_coverage=1.0, **settings)  # what is there does not stand either
    assert [f.error for f in again.record.failed] == ["CoverageError"]


def test_a_corrupt_tile_where_tissue_is_looked_for_fails_the_slide_as_foreseen(slides, tmp_path):
    break_tile(slides / "sample-01.svs", level=1, index=0)
    settings: dict[str, Any] = {"tissue_method": "otsu", "tissue_parameters": {"level": 1}}
    result = do(ExtractConfig, slides, tmp_path / "out", **settings)
    (failure,) = result.record.failed
    assert (failure.slide_id, failure.stage, failure.error) == ("sample-01", "tissue", "UnreadableRegionError")
    assert "--tissue-from" in failure.reason
    assert statuses(tmp_path / "out") == {"sample-01": "failed", "sample-02": "done"}
    config = InspectConfig(slides=(str(slides),), quiet=True, **settings)
    foreseen = {s.slide_id: s.problem for s in inspect(config, progress=QuietProgress()).slides}
    assert foreseen["sample-02"] is None
    problem = foreseen["sample-01"]
    assert problem is not None
    assert (problem.kind, problem.sentence) == (failure.error, failure.reason)


def test_an_outline_helps_a_slide_whose_tissue_cannot_be_looked_for(slides, undisturbed, tmp_path):
    break_tile(slides / "sample-01.svs", level=1, index=0)
    settings = {"tissue_method": "otsu", "tissue_parameters": {"level": 1}, "tissue_from": undisturbed / "tissue"}
    result = do(ExtractConfig, slides, tmp_path / "out", **settings)
    assert result.record.failed == []
    ours, theirs = (FeatureStore(out / FEATURES)["sample-01"] for out in (tmp_path / "out", undisturbed))
    assert np.array_equal(ours.features, theirs.features)


def test_a_corrupt_tile_in_the_thumbnail_alone_costs_no_features(slides, tmp_path):
    break_tile(slides / "sample-01.svs", level=1, index=0)
    out = tmp_path / "out"
    result = do(ExtractConfig, slides, out)
    assert result.record.failed == []
    assert FeatureStore(out / FEATURES)["sample-01"].n_unreadable == 0
    assert json.loads((out / "thumbnails" / "sample-01.json").read_text())["unreadable_parts"] > 0
    assert json.loads((out / "thumbnails" / "sample-02.json").read_text())["unreadable_parts"] == 0
    with Image.open(out / "thumbnails" / "sample-01.plain.jpg") as image:
        pixels = np.asarray(image)
    assert (pixels[:16, :16].max(axis=2) < 40).mean() > 0.3  # black and yellow, no colour of a slide
    again = do(ExtractConfig, slides, out)
    assert [n for n in again.record.notes if "striped" in n]


@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 3), (np.uint8, 1), (np.uint16, 2)])
def test_a_thumbnail_is_striped_where_it_cannot_be_decoded_and_nowhere_else(dtype, channels):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (400, 640, channels), dtype, endpoint=True)
    bad = Box(130, 70, 20, 20)
    whole, broken = ArraySlide(pixels), ArraySlide(pixels, broken=(bad,))
    plain, none = readable_thumbnail(whole, 320)
    image, n_lost = readable_thumbnail(broken, 320)
    assert (none, n_lost) == (0, 1)  # the part of 64 × 64 level-0 pixels in column 2 of row 1
    assert image.shape == plain.shape == (200, 320, 3)
    if dtype == np.uint8:  # others are stretched by what is there to be seen
        differs = (image != plain).any(axis=2)
        assert not differs[:, :64].any()
        assert not differs[:, 96:].any()
        assert differs[32:64, 64:96].mean() > 0.9


def test_a_thumbnail_of_which_nothing_can_be_decoded_is_striped_all_over():
    image, n_lost = readable_thumbnail(ArraySlide(np.full((64, 64, 3), 128, np.uint8), broken=(Box(0, 0, 64, 64),)), 64)
    assert n_lost == 4
    assert set(map(tuple, image.reshape(-1, 3).tolist())) == {(0, 0, 0), (255, 220, 0)}
