"""A full disk and a read-only folder: a sentence for each slide or at once, and nothing half-written."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from microtome.config import ExtractConfig, TileConfig
from microtome.errors import OutputWriteError
from microtome.storage import QuietProgress
from tests.conftest import REPOSITORY
from tests.faults.disks import fill, make_read_only, small_disk
from tests.faults.outputs import FEATURES, QUICK_FLAGS, contents, do, leftovers, open_every_file, statuses, values_of

MIB = 1024 * 1024
RESULTS = ("tissue", "tiles", "features", "thumbnails")


class Notes(QuietProgress):
    """Keeps what is said."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def test_slides_that_do_not_fit_on_the_disk_fail_with_their_reason(cohort, undisturbed, tmp_path):
    with small_disk(tmp_path / "disk", n_bytes=4 * MIB) as disk:
        out = disk / "out"
        filler = fill(disk, leave=130 * 1024)  # for outlines, tiles and tables, not for pictures
        result = do(ExtractConfig, cohort, out, thumbnail_px=1280)
        assert len(result.record.failed) == 2
        for failure in result.record.failed:
            assert (failure.stage, failure.error) == ("thumbnails", "OutputWriteError")
            assert "No space left on device. Free space" in failure.reason
            assert values_of(out)[failure.slide_id]["error"] == failure.reason
        open_every_file(out)
        filler.unlink()
        assert do(ExtractConfig, cohort, out).record.failed == []
        assert contents(out, *RESULTS) == contents(undisturbed, *RESULTS)
        assert leftovers(out) == []


def test_features_that_fill_the_disk_are_gone_on_with_when_there_is_space(cohort, undisturbed, tmp_path):
    """What is committed of them is kept and takes the last byte, so the tables do not fit either; all is said."""
    with small_disk(tmp_path / "disk", n_bytes=4 * MIB) as disk:
        out, progress = disk / "out", Notes()
        assert do(TileConfig, cohort, out).record.failed == []
        filler = fill(disk, leave=16 * 1024)
        with pytest.raises(OutputWriteError, match=r"cannot be written: No space left"):
            do(ExtractConfig, cohort, out, progress=progress, batch_size=4)
        failed = [n for n in progress.notes if n.startswith("failed: sample-0")]
        assert failed
        assert all("features" in n and "No space left on device. Free space" in n for n in failed)
        open_every_file(out)
        filler.unlink()
        assert do(ExtractConfig, cohort, out, batch_size=4).record.failed == []
        assert contents(out, *RESULTS) == contents(undisturbed, *RESULTS)
        assert leftovers(out) == []


def test_a_full_disk_is_said_before_any_slide_is_touched(cohort, tmp_path):
    with small_disk(tmp_path / "disk", n_bytes=MIB) as disk:
        (disk / "out").mkdir()
        filler = fill(disk, leave=0)
        with pytest.raises(OutputWriteError, match=r"cannot be written: No space left.*Free space"):
            do(TileConfig, cohort, disk / "out")
        filler.unlink()
        assert [p for p in (disk / "out").rglob("*") if p.is_file()] == []


def test_tables_that_do_not_fit_for_a_while_do_not_end_the_run(cohort, undisturbed, tmp_path):
    """The disk is full when a stage ends, and has space again when the next one begins."""
    with small_disk(tmp_path / "disk", n_bytes=4 * MIB) as disk:
        fillers: list[Path] = []
        notes: list[str] = []

        class Filling(Notes):
            def __init__(self):
                self.notes = notes

            def start(self, stage, total, unit="slides"):
                if fillers:
                    fillers.pop().unlink(missing_ok=True)

            def finish(self):
                if not fillers and not notes:
                    fillers.append(fill(disk, leave=0))

        result = do(TileConfig, cohort, disk / "out", progress=Filling())
        assert [n for n in notes if "slides.csv" in n]
        assert result.record.failed == []
        assert set(statuses(disk / "out").values()) == {"done"}
        assert contents(disk / "out", "tissue") == contents(undisturbed, "tissue")


def test_a_read_only_folder_is_said_before_any_slide_is_touched(cohort, undisturbed, tmp_path):
    with small_disk(tmp_path / "disk", n_bytes=8 * MIB) as disk:
        shutil.copytree(undisturbed, disk / "finished")
        make_read_only(disk)
        for out in (disk / "out", disk / "finished"):
            with pytest.raises(OutputWriteError, match=r"cannot be written: Read-only.*choose another --out"):
                do(ExtractConfig, cohort, out)
        assert contents(disk / "finished") == contents(undisturbed)


LIMITED = """
import resource, sys
from microtome.cli.app import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file size are POSIX's")
@pytest.mark.parametrize("share", [pytest.param(0.6, marks=pytest.mark.slow), 0.98])
def test_files_that_may_not_grow_fail_the_slide_and_leave_nothing_half(cohort, undisturbed, finished, share):
    """As on a full disk, without one: the system refuses each write behind so many bytes."""
    limit = int(share * min(p.stat().st_size for p in (finished / FEATURES).glob("*.h5")))
    for folder in ("features", "clusters"):
        shutil.rmtree(finished / folder)
    command = [sys.executable, "-c", LIMITED, str(limit), "extract", str(cohort), "--out", str(finished), *QUICK_FLAGS]
    process = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=250, check=False)
    assert process.returncode == 1, process.stderr
    assert "Traceback" not in process.stderr
    assert "features" in process.stderr
    assert "File too large. Free space" in process.stderr
    assert not list((finished / FEATURES).glob("*.h5"))
    assert not list(finished.rglob("*.tmp"))
    open_every_file(finished)
    assert do(ExtractConfig, cohort, finished).record.failed == []
    assert contents(finished, *RESULTS) == contents(undisturbed, *RESULTS)
    assert leftovers(finished) == []
