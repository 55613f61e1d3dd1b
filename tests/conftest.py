"""Fixtures that every part shares: where the reference data lies, and a rule for its absence."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def shared_folder() -> Path | None:
    """The reference data's folder: MICROTOME_SHARED, by default ``../shared`` beside the checkout."""
    folder = Path(os.environ.get("MICROTOME_SHARED") or REPOSITORY.parent / "shared").resolve()
    return folder if (folder / "data").is_dir() else None


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of the reference data; skips with a reason where it is absent, fails where it is required."""
    folder = shared_folder()
    if folder is None:
        message = "reference data absent: set MICROTOME_SHARED to its folder"
        if os.environ.get("MICROTOME_REQUIRE_SHARED") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return folder


def golden_cases(prefix: str) -> list[Path]:
    """Folders of reference outputs whose name starts with ``prefix``; one absent case where there are none.

    Parametrise with it at collection time; a test then calls :func:`require_case` on what it gets.
    """
    folder = shared_folder()
    cases = [] if folder is None else sorted(p for p in (folder / "golden").glob(f"{prefix}*") if p.is_dir())
    return cases or [Path(f"absent-{prefix}")]


def require_case(case: Path) -> Path:
    """The case's folder, or a skip (a failure where the reference data is required)."""
    if not case.is_dir():
        message = f"golden case {case.name!r} is absent: set MICROTOME_SHARED to the reference data"
        if os.environ.get("MICROTOME_REQUIRE_SHARED") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return case


@pytest.fixture(scope="session", autouse=True)
def _cache_of_tests(tmp_path_factory) -> Iterator[None]:
    """Networks that tests compile are kept among the tests' own files, not in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MICROTOME_CACHE", str(tmp_path_factory.mktemp("microtome-cache")))
        yield


@pytest.fixture(scope="session")
def cohort(tmp_path_factory) -> Path:
    """Folder of two 1536 px slides with known tissue, SVS-like and generic TIFF, made once; do not change it."""
    from microtome.testing.synthetic import write_sample

    folder = tmp_path_factory.mktemp("cohort")
    write_sample(folder, n_slides=2, size_px=1536, kinds=("svs", "tiff"))
    return folder
