"""A slide that is deleted, replaced or rewritten during a run fails alone and leaves no wrong features."""

import os
import shutil
from pathlib import Path

import pytest

from microtome.config import ExtractConfig
from microtome.storage import QuietProgress
from tests.faults.outputs import FEATURES, contents, do, leftovers, statuses

STAGES = ("tissue", "tiles", "thumbnails", "features")
NAME = "sample-01"
FIRST_FILE = {
    "tissue": f"tissue/{NAME}.geojson",
    "tiles": f"tiles/{NAME}.h5",
    "thumbnails": f"thumbnails/{NAME}.json",
    "features": f"{FEATURES}/{NAME}.h5",
}


def delete(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    """Another slide takes the name, as when a scanner's export is copied again."""
    other = Path(shutil.copy(path.with_name("sample-02.tif"), path.with_suffix(".new")))
    other.replace(path)


def rewrite(path: Path) -> None:
    """Other bytes in the same file; the size stays."""
    with path.open("r+b") as file:
        file.seek(-2000, os.SEEK_END)
        file.write(os.urandom(1000))


ACTIONS = {delete: "SlideNotFoundError", replace: "SlideChangedError", rewrite: "SlideChangedError"}


class Meanwhile(QuietProgress):
    """Does something once, when a stage begins, or when its first tiles are done."""

    def __init__(self, stage, action, *, at_tiles=False):
        self.stage, self.action, self.at_tiles, self.now = stage, action, at_tiles, ""

    def start(self, stage, total, unit="slides"):
        self.now = stage
        if not self.at_tiles:
            self._act()

    def advance(self, n_slides=0, n_tiles=0):
        if self.at_tiles and n_tiles:
            self._act()

    def _act(self):
        if self.now == self.stage and self.action is not None:
            action, self.action = self.action, None
            action()


QUICK_PAIRS = {("tissue", delete), ("tiles", replace), ("thumbnails", rewrite), ("features", replace)}
PAIRS = [
    pytest.param(s, a, id=f"{s}-{a.__name__}", marks=[] if (s, a) in QUICK_PAIRS else pytest.mark.slow)
    for s in STAGES
    for a in ACTIONS
]


@pytest.mark.parametrize(("stage", "action"), PAIRS)
def test_a_slide_that_changes_between_stages_fails_alone(slides, undisturbed, tmp_path, stage, action):
    path, out = slides / f"{NAME}.svs", tmp_path / "out"
    original = Path(shutil.copy(path, tmp_path / "original.svs"))
    result = do(ExtractConfig, slides, out, progress=Meanwhile(stage, lambda: action(path)), quality_flags=False)
    (failure,) = result.record.failed
    assert (failure.slide_id, failure.error) == (NAME, ACTIONS[action])
    assert str(path) in failure.reason
    assert failure.stage.startswith(stage)
    for later in STAGES[STAGES.index(stage) :]:  # what was made before is of the first file, and says so
        if later == "thumbnails":  # a slide that failed has a picture, of what is there
            continue
        assert not (out / FIRST_FILE[later]).exists(), later
    assert statuses(out) == {NAME: "failed", "sample-02": "done"}
    shutil.copy(original, path)
    assert do(ExtractConfig, slides, out, quality_flags=False).record.failed == []
    assert contents(out, "tissue", "features") == contents(undisturbed, "tissue", "features")
    assert leftovers(out) == []


@pytest.mark.parametrize("action", [delete, pytest.param(replace, marks=pytest.mark.slow), rewrite])
def test_a_slide_that_changes_while_its_features_are_made_leaves_none(slides, tmp_path, action):
    path, out = slides / f"{NAME}.svs", tmp_path / "out"
    progress = Meanwhile("features", lambda: action(path), at_tiles=True)
    result = do(ExtractConfig, path, out, progress=progress, batch_size=4)
    (failure,) = result.record.failed
    assert failure.error == "SlideChangedError"
    assert not (out / FEATURES / f"{NAME}.h5").exists()
    assert leftovers(out) == []


def test_another_slide_under_the_same_name_is_not_taken_for_the_first(slides, undisturbed, tmp_path):
    """Replaced between two runs: what is there is of the other file, and is redone only when asked."""
    path, out = slides / f"{NAME}.svs", tmp_path / "out"
    do(ExtractConfig, path, out, quality_flags=False)
    before = contents(out, "tissue", "tiles", "features")
    replace(path)
    refused = do(ExtractConfig, path, out, quality_flags=False)
    assert [f.error for f in refused.record.failed] == ["RecipeMismatchError"]
    assert "slide:" in refused.record.failed[0].reason
    assert contents(out, "tissue", "tiles", "features") == before
    assert do(ExtractConfig, path, out, quality_flags=False, overwrite=True).record.failed == []
    assert contents(out, "features").keys() == {f"{FEATURES}/{NAME}.h5"}
    assert contents(out, "features") != {k: v for k, v in before.items() if k.startswith("features")}
