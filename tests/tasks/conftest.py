"""A tiny cohort, made once: two multi-level slides with known tissue."""

from pathlib import Path

import pytest

from microtome.testing.synthetic import write_sample


@pytest.fixture(scope="session")
def cohort(tmp_path_factory) -> Path:
    """Folder of two 1536 px slides, SVS-like and generic TIFF; do not change it."""
    folder = tmp_path_factory.mktemp("cohort")
    write_sample(folder, n_slides=2, size_px=1536, kinds=("svs", "tiff"))
    return folder
