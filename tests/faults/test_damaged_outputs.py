"""Files of the output folder that somebody else truncates: named with what to do, redone when asked, or at once."""

import json
import os

import pytest

from microtome.config import ExtractConfig, RunConfig, TileConfig
from microtome.errors import CorruptOutputError
from microtome.storage import QuietProgress
from tests.faults.conftest import SETTINGS
from tests.faults.outputs import FEATURES, contents, do, leftovers, open_every_file, statuses, values_of

OF_A_SLIDE = {
    "tissue/sample-01.geojson": "AnnotationError",
    "tiles/sample-01.h5": "CorruptOutputError",
    f"{FEATURES}/sample-01.h5": "CorruptOutputError",
}
TABLES = ("slides.csv", "run.json")
DERIVED = (
    "clusters/centroids.npz",
    "clusters/sample-01.parquet",
    "clusters/summary.csv",
    "clusters/montage_0.jpg",
    "thumbnails/sample-01.json",
    "thumbnails/sample-01.jpg",
    "thumbnails/sample-02.plain.jpg",
)


def truncate(path, share: float) -> None:
    os.truncate(path, int(path.stat().st_size * share))


@pytest.mark.parametrize("share", [pytest.param(0.0, marks=pytest.mark.slow), 0.6])
@pytest.mark.parametrize("name", OF_A_SLIDE)
def test_a_truncated_file_of_a_slide_is_named_and_redone_when_asked(cohort, undisturbed, finished, name, share):
    truncate(finished / name, share)
    refused = do(ExtractConfig, cohort, finished)
    (failure,) = refused.record.failed
    assert (failure.slide_id, failure.error) == ("sample-01", OF_A_SLIDE[name])
    assert str(finished / name) in failure.reason
    assert "--overwrite" in failure.reason
    assert "elete" in failure.reason
    assert statuses(finished) == {"sample-01": "failed", "sample-02": "skipped"}
    redone = do(ExtractConfig, cohort, finished, overwrite=True)
    assert redone.record.failed == []
    damaged = finished / f"{name}.damaged"
    assert damaged.exists() == name.endswith(".geojson")  # a person's work may be in it
    damaged.unlink(missing_ok=True)
    results = ("tissue", "tiles", "features", "thumbnails")
    assert contents(finished, *results) == contents(undisturbed, *results)


@pytest.mark.parametrize("share", [pytest.param(0.0, marks=pytest.mark.slow), 0.6])
@pytest.mark.parametrize("name", TABLES)
def test_a_truncated_table_is_named_before_any_slide_is_touched(cohort, undisturbed, finished, name, share):
    truncate(finished / name, share)
    damaged = (finished / name).read_bytes()
    with pytest.raises(CorruptOutputError, match=r"cannot be read: .*delete it, or pass --overwrite") as caught:
        do(ExtractConfig, cohort, finished)
    assert str(finished / name) in str(caught.value)
    result = do(ExtractConfig, cohort, finished, overwrite=True)
    assert result.record.failed == []
    assert (finished / f"{name}.damaged").read_bytes() == damaged
    assert [n for n in result.record.notes if f"{name}.damaged" in n]
    assert values_of(finished) == values_of(undisturbed)
    assert json.loads((finished / "run.json").read_text())["slides"]["skipped"] == 2


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_is_damaged_during_a_run_does_not_end_it(cohort, finished, name):
    class Spoiling(QuietProgress):
        def start(self, stage, total, unit="slides"):
            if stage == "tiles":
                (finished / name).write_text("sep=;\nsaved by a spreadsheet;;;")

    result = do(ExtractConfig, cohort, finished, progress=Spoiling())
    assert result.record.failed == []
    assert [n for n in result.record.notes if f"{name}.damaged" in n]
    assert set(statuses(finished).values()) == {"skipped"}
    open_every_file(finished) if not (finished / f"{name}.damaged").unlink() else None


@pytest.mark.parametrize("share", [pytest.param(0.0, marks=pytest.mark.slow), 0.6])
def test_truncated_files_that_are_quickly_made_again_are(cohort, undisturbed, finished, share):
    for name in DERIVED:
        truncate(finished / name, share)
    assert do(RunConfig, cohort, finished, **SETTINGS).record.failed == []
    assert contents(finished) == contents(undisturbed)
    open_every_file(finished)
    assert leftovers(finished) == []


def test_saved_tiles_are_completed_after_a_kill(cohort, finished):
    """As a killed process leaves them: a picture half-written under another name, one missing, the table torn."""
    assert do(TileConfig, cohort, finished, save_tiles=True).record.failed == []
    before = contents(finished, "tile_images")
    folder = finished / "tile_images" / "sample-01"
    image = min((folder / "tiles").iterdir())
    image.rename(image.with_name(f".{image.name}.1234-0123abcd.tmp"))
    truncate(folder / "metadata.parquet", 0.5)
    assert do(TileConfig, cohort, finished, save_tiles=True).record.failed == []
    assert contents(finished, "tile_images") == before
    assert leftovers(finished) == []


def test_features_that_are_damaged_before_clustering_cost_one_slide(cohort, finished):
    class Spoiling(QuietProgress):
        def start(self, stage, total, unit="slides"):
            self.stage = stage

        def finish(self):
            if self.stage == "features":
                truncate(finished / FEATURES / "sample-01.h5", 0.5)

    result = do(RunConfig, cohort, finished, progress=Spoiling(), **SETTINGS)
    assert [(f.slide_id, f.stage, f.error) for f in result.record.failed] == [
        ("sample-01", "clusters", "CorruptOutputError")
    ]
    assert statuses(finished) == {"sample-01": "failed", "sample-02": "skipped"}
    assert result.report is not None


def test_an_outline_drawn_elsewhere_is_used_and_never_overwritten(cohort, finished):
    """A plain GeoJSON put in the place of ours, as QuPath exports it, without a word about the slide's size."""
    path = finished / "tissue" / "sample-01.geojson"
    ring = [[300, 300], [1200, 300], [1200, 1200], [300, 1200], [300, 300]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    drawn = path.read_bytes()
    result = do(ExtractConfig, cohort, finished, overwrite=True)
    assert result.record.failed == []
    assert path.read_bytes() == drawn
    assert result.rows[0].tissue_mm2 == pytest.approx(900 * 900 * 0.25 / 1e6)
