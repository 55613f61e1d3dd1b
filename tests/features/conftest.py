"""Fixtures of the tests of features."""

from pathlib import Path

import pytest

from microtome.features.store import FeatureStore


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "features")
