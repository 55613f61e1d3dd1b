"""Inspection foresees what the run then says."""

import csv
import re
import shutil
from typing import Any

import pytest

from microtome.config import ExtractConfig, InspectConfig, RunConfig
from microtome.errors import MicrotomeError
from microtome.storage import QuietProgress
from microtome.tasks.inspect import inspect
from microtome.tasks.run import run


def look(*slides, **values):
    config = InspectConfig(slides=tuple(str(s) for s in slides), quiet=True, **values)
    return inspect(config, progress=QuietProgress())


def test_each_failure_is_foreseen_with_the_reason_that_the_run_gives(shared, tmp_path):
    """Also that every odd file ends in a result or a reason of ours, and that none hangs."""
    odd = shared / "data" / "wsi_odd"
    foreseen = {s.slide_id: s.problem for s in look(odd).slides}
    result = run(ExtractConfig(slides=(str(odd),), out=tmp_path / "out", quiet=True), progress=QuietProgress())
    told = {f.slide_id: f for f in result.record.failed}
    assert {k for k, p in foreseen.items() if p is not None} == set(told)
    for slide_id, failure in told.items():
        problem = foreseen[slide_id]
        assert (problem.kind, problem.sentence) == (failure.error, failure.reason)
        assert not failure.reason.startswith("Unexpected")


def test_odd_files_given_an_mpp_still_fail_for_their_own_reasons(shared, tmp_path):
    odd = shared / "data" / "wsi_odd"
    foreseen = {s.slide_id: s.problem for s in look(odd, mpp=0.5).slides}
    config = ExtractConfig(slides=(str(odd),), out=tmp_path / "out", quiet=True, mpp=0.5)
    told = {f.slide_id: f for f in run(config, progress=QuietProgress()).record.failed}
    assert {k: (p.kind, p.sentence) for k, p in foreseen.items() if p} == {
        k: (f.error, f.reason) for k, f in told.items()
    }


def test_every_file_of_the_reference_slides_is_read_or_refused_with_a_reason(shared):
    inspection = look(shared / "data" / "wsi", mpp=0.5, override_mpp=True)
    assert len(inspection.slides) > 15
    for slide in inspection.slides:
        assert (slide.reader is not None) or (slide.problem is not None and slide.problem.sentence)


def test_a_good_cohort_has_no_problem_and_its_tiles_are_counted(cohort, tmp_path):
    inspection = look(cohort, csv=tmp_path / "inspect.csv")
    assert inspection.n_bad == 0
    result = run(ExtractConfig(slides=(str(cohort),), out=tmp_path / "out", quiet=True), progress=QuietProgress())
    assert [s.n_tiles for s in inspection.slides] == [row.n_tiles for row in result.rows]
    with (tmp_path / "inspect.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["slide_id"] for row in rows] == ["sample-01", "sample-02"]
    assert [row["problem"] for row in rows] == ["", ""]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"encoder": "uni", "weights": "none", "tile_mpp": 1.0},
            r"1 µm/px.*'uni' was made for 0.5.*--allow-mpp-mismatch",
        ),
        ({"encoder": "titan"}, "'titan' cannot be loaded"),
    ],
)
def test_what_the_run_refuses_before_any_slide_is_refused_in_the_same_words(cohort, tmp_path, settings, message):
    common: dict[str, Any] = {"slides": (str(cohort),), "quiet": True, **settings}
    with pytest.raises(MicrotomeError, match=message) as foreseen:
        inspect(InspectConfig(**common))
    if settings["encoder"] == "titan":  # the other would fill 300 million parameters first
        with pytest.raises(type(foreseen.value), match=re.escape(str(foreseen.value))):
            run(ExtractConfig(out=tmp_path / "out", **common))


def test_inspect_allows_what_the_run_allows(cohort):
    common: dict[str, Any] = {"slides": (str(cohort),), "quiet": True, "tile_mpp": 1.0, "tile_px": 64}
    inspect(InspectConfig(encoder="uni", weights="none", allow_mpp_mismatch=True, **common))
    inspect(InspectConfig(encoder="texture", **common))  # it has no weights that were made for a resolution


def test_twins_are_named(cohort, tmp_path):
    shutil.copy(cohort / "sample-01.svs", tmp_path / "a.svs")
    shutil.copy(cohort / "sample-01.svs", tmp_path / "b.svs")
    warnings = look(tmp_path).warnings
    assert len(warnings) == 1
    assert "a.svs" in warnings[0]
    assert "b.svs" in warnings[0]


@pytest.mark.slow
def test_the_forecast_is_within_a_factor_of_two_in_size(cohort, tmp_path):
    """Sizes are deterministic and judged; times are the machine's and only have to be there."""
    forecast = look(cohort, measure=True, n_clusters=3).forecast
    assert forecast is not None
    config = RunConfig(slides=(str(cohort),), out=tmp_path / "out", quiet=True, n_clusters=3)
    result = run(config, progress=QuietProgress())
    written = sum(p.stat().st_size for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert 0.5 < forecast.gigabytes * 1e9 / written < 2
    names = [stage.name for stage in forecast.stages]
    assert names == ["tissue", "tiles", "thumbnails", "features", "clusters", "umap", "report"]
    assert set(names) - {"report"} <= set(result.record.seconds)
    assert all(stage.hours > 0 for stage in forecast.stages)
    assert forecast.n_tiles == sum(row.n_tiles or 0 for row in result.rows)
