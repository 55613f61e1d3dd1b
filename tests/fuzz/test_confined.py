"""What a cohort file says cannot lead a run out of its output folder, and patient labels are never looked at."""

import csv
from pathlib import Path
from typing import Any

import pytest

from microtome.config import RunConfig
from microtome.errors import CohortError
from microtome.slides.open import open_slide
from microtome.slides.openslide_reader import OpenSlideSlide
from microtome.slides.tifffile_reader import TiffSlide
from microtome.storage import QuietProgress
from microtome.tasks.run import run
from microtome.testing.synthetic import write_sample

QUICK: dict[str, Any] = {
    "tissue_method": "masked-otsu",
    "thumbnail_px": 256,
    "n_clusters": 2,
    "umap_points": 0,
    "quiet": True,
}


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    """Folder of one SVS slide with a label and a macro image."""
    folder = tmp_path_factory.mktemp("labelled")
    write_sample(folder, n_slides=1, size_px=1280, kinds=("svs",))
    return folder


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def write_cohort(path: Path, slide_id: str, slide: Path) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows([["slide_id", "path", "patient_id"], [slide_id, str(slide), slide_id]])


@pytest.mark.parametrize(
    "slide_id",
    [
        "../up", "../../up", "..", "/absolute", "C:\\up", "C:up", "\\\\host\\share", "a\0b", "x" * 5000, "a.", "a...",
        "NUL", "con.svs", "COM1", ".hidden", "a/../../b", "a\nb", "tissue/a", "~/a:b", "a|b",
    ],
    ids=lambda name: repr(name[:12]),
)  # fmt: skip
def test_ids_that_are_no_file_names_stop_a_run_before_it_writes(sample, tmp_path, slide_id):
    table, out = tmp_path / "deep" / "cohort.csv", tmp_path / "deep" / "out"
    table.parent.mkdir()
    write_cohort(table, slide_id, sample / "sample-01.svs")
    before = files_below(tmp_path)
    with pytest.raises(CohortError, match=r"cannot be a file name|zero bytes"):
        run(RunConfig(slides=(), cohort=table, out=out, **QUICK), progress=QuietProgress())
    assert files_below(tmp_path) == before


def test_a_run_stays_in_its_folder_and_looks_at_no_label(sample, tmp_path, monkeypatch):
    def refuse(self, name):
        raise AssertionError(f"the {name} image was read")

    slide = next(path for path in sample.glob("sample-*") if path.suffix == ".svs")
    with open_slide(slide) as opened:
        assert {"label", "macro"} <= set(opened.associated_names)
    for reader in (OpenSlideSlide, TiffSlide):
        monkeypatch.setattr(reader, "read_associated", refuse)
    attack = "a' <img src=x onerror=alert(1)> & co"
    table, out = tmp_path / "cohort.csv", tmp_path / "out"
    write_cohort(table, "ok", slide)
    with table.open("a", encoding="utf-8") as file:
        file.write(f"bad,{attack}.svs,bad\n")
    before = files_below(tmp_path) | files_below(sample)
    monkeypatch.chdir(tmp_path)
    result = run(RunConfig(slides=(), cohort=table, out=out, **QUICK), progress=QuietProgress())
    assert [failure.slide_id for failure in result.record.failed] == ["bad"]
    made = (files_below(tmp_path) | files_below(sample)) - before
    assert made
    assert all(path.is_relative_to(out) for path in made)
    assert not [path for path in made if "label" in path.name or "macro" in path.name]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert attack not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
