"""Two slides of 5 × 5 tiles, and the run that nothing disturbed, to compare with; they must not be changed."""

import shutil
from pathlib import Path

import pytest

from microtome.config import RunConfig
from microtome.testing.synthetic import write_sample
from tests.faults.outputs import do

SETTINGS = {"n_clusters": 3, "umap_points": 0, "batch_size": 4}


@pytest.fixture(scope="session")
def cohort(tmp_path_factory) -> Path:
    """Folder of two 1280 px slides, SVS-like and generic TIFF."""
    folder = tmp_path_factory.mktemp("small-cohort")
    write_sample(folder, n_slides=2, size_px=1280, kinds=("svs", "tiff"))
    return folder


@pytest.fixture(scope="session")
def undisturbed(cohort, tmp_path_factory) -> Path:
    """Folder of a whole run, without UMAP."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert do(RunConfig, cohort, out, **SETTINGS).record.failed == []
    return out


@pytest.fixture
def finished(undisturbed, tmp_path) -> Path:
    """A copy of it that may be damaged."""
    return Path(shutil.copytree(undisturbed, tmp_path / "out"))


@pytest.fixture
def slides(cohort, tmp_path) -> Path:
    """A copy of the cohort's slides that may be spoiled."""
    folder = tmp_path / "slides"
    folder.mkdir()
    for path in cohort.glob("sample-*"):
        shutil.copy(path, folder)
    return folder
