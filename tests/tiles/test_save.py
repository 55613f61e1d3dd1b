import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from microtome.errors import ClaimedError, OutputWriteError, RecipeMismatchError, TileError
from microtome.geometry import Box
from microtome.storage import Claim, files
from microtome.tiles.coding import ImageCoding
from microtome.tiles.folder import LabelledTiles, TileFolder
from microtome.tiles.grid import Grid, lay_tiles
from microtome.tiles.histoprep import HistoPrepGrid, lay_histoprep
from microtome.tiles.save import save_tiles
from microtome.tiles.slide_tiles import SlideTiles
from tests.tiles.fakes import noise_slide
from tests.tiles.test_folder import write_classes

GRID = Grid(tile_px=64, mpp=0.5)
PNG = ImageCoding(image_format="png")


def source(grid=GRID, **options):
    slide = noise_slide(330, 200, **options)
    return SlideTiles(slide, lay_tiles(slide, None, grid))


class Counting(SlideTiles):
    """Counts the tiles that are read, and may stop after some."""

    limit = 10**9
    count = 0

    def read(self, rows):
        self.count += len(rows)
        if self.count > self.limit:
            raise KeyboardInterrupt
        return super().read(rows)


def counting(limit=10**9):
    tiles = source(Grid(tile_px=16, mpp=0.5))
    counted = Counting(tiles.slide, tiles.tiles)
    counted.limit = limit
    return counted


def test_png_tiles_come_back_exactly(tmp_path):
    tiles = source()
    saved = save_tiles(tiles, tmp_path / "A12", coding=PNG, workers=3)
    assert (saved.n_tiles, saved.n_unreadable, saved.n_written, saved.status) == (15, 0, 15, "done")
    back = TileFolder(tmp_path / "A12")
    np.testing.assert_array_equal(back.boxes, tiles.boxes)
    np.testing.assert_array_equal(back.read(np.arange(15)).images, tiles.read(np.arange(15)).images)


def test_layout_and_names_are_histopreps(tmp_path):
    slide = noise_slide(330, 200, mpp=0.25, downsamples=(2,))
    laid = lay_histoprep(slide, np.ones((200, 330)), HistoPrepGrid(width=128, overlap=0.25, level=1))
    save_tiles(SlideTiles(slide, laid), tmp_path / "A12")
    table = pd.read_parquet(tmp_path / "A12" / "metadata.parquet")
    assert table.columns.tolist() == ["x", "y", "w", "h", "path", "file", "passthrough"]
    assert [str(table[name].dtype) for name in "xywh"] == ["int64"] * 4
    assert table[["x", "y", "w", "h"]].to_numpy().tolist() == laid.boxes.tolist()
    for row in table.itertuples():
        assert row.file == f"tiles/x{row.x}_y{row.y}_w{row.w}_h{row.h}.jpeg"
        assert row.path == str(tmp_path / "A12" / row.file)
        with Image.open(str(row.path)) as image:
            assert image.size == (64, 64)
    properties = json.loads((tmp_path / "A12" / "properties.json").read_text())
    expected = {
        "num_tiles": len(laid),
        "level": 1,
        "level_downsample": [2.0, 2.0],
        "width": 128,
        "height": 128,
        "overlap": 0.25,
        "max_background": 0.75,
    }
    assert properties.items() >= expected.items()


def test_real_histoprep_metadata_has_the_same_columns(shared, tmp_path):
    save_tiles(source(), tmp_path / "A12")
    theirs = pd.read_parquet(shared / "data" / "tiles" / "histoencoder_slide" / "metadata.parquet")
    ours = pd.read_parquet(tmp_path / "A12" / "metadata.parquet")
    assert ours.columns.tolist()[: theirs.shape[1]] == theirs.columns.tolist()
    assert ours.dtypes[theirs.columns].tolist() == theirs.dtypes.tolist()


def test_jpeg_quality_decides_the_size(tmp_path):
    sizes = []
    for quality in (20, 95):
        save_tiles(source(), tmp_path / str(quality), coding=ImageCoding(quality=quality))
        sizes.append(sum(f.stat().st_size for f in (tmp_path / str(quality) / "tiles").iterdir()))
    assert sizes[0] < sizes[1] / 2


def test_unreadable_tiles_are_recorded_and_not_painted(tmp_path):
    tiles = source(broken=(Box(70, 70, 1, 1),))
    saved = save_tiles(tiles, tmp_path / "A12", coding=PNG)
    assert (saved.n_tiles, saved.n_unreadable, saved.n_written) == (15, 1, 14)
    assert not (tmp_path / "A12" / "tiles" / "x64_y64_w64_h64.png").exists()
    assert len(pd.read_parquet(tmp_path / "A12" / "metadata.parquet")) == 14
    lost = pd.read_parquet(tmp_path / "A12" / "unreadable.parquet")
    assert lost[["x", "y", "w", "h"]].to_numpy().tolist() == [[64, 64, 64, 64]]
    assert "cannot be decoded" in lost["error"][0]
    back = TileFolder(tmp_path / "A12")
    np.testing.assert_array_equal(back.boxes, tiles.boxes)
    batch = back.read(np.arange(15))
    assert np.flatnonzero(~batch.readable).tolist() == [6]
    assert "cannot be decoded" in batch.errors[6]
    assert save_tiles(tiles, tmp_path / "A12", coding=PNG).n_unreadable == 1


def test_a_finished_folder_is_left_alone(tmp_path):
    save_tiles(counting(), tmp_path / "A12")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "A12").rglob("*")}
    again = counting()
    assert save_tiles(again, tmp_path / "A12").status == "skipped"
    assert again.count == 0
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "A12").rglob("*")} == before


def test_a_run_broken_off_is_taken_up(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        save_tiles(counting(limit=100), tmp_path / "A12", workers=2)
    assert not (tmp_path / "A12" / "metadata.parquet").exists()
    left = sorted(p.name for p in (tmp_path / "A12").rglob("*.tmp"))
    assert left == []
    done = len(list((tmp_path / "A12" / "tiles").iterdir()))
    assert 0 < done <= 112
    again = counting()
    saved = save_tiles(again, tmp_path / "A12")
    assert (saved.status, saved.n_written) == ("done", len(again) - done)
    assert again.count == len(again) - done
    whole = tmp_path / "whole"
    save_tiles(counting(), whole)
    for file in (whole / "tiles").iterdir():
        assert (tmp_path / "A12" / "tiles" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("coding", [ImageCoding(), PNG])
@pytest.mark.parametrize("left", [b"", b"half", b"zeros"])
def test_images_that_a_power_cut_left_short_are_written_again(tmp_path, coding, left):
    """They may have their names before the disk has their bytes, but only in a folder without its table."""
    save_tiles(source(), tmp_path / "A12", coding=coding)
    before = {file.name: file.read_bytes() for file in (tmp_path / "A12" / "tiles").iterdir()}
    (tmp_path / "A12" / "metadata.parquet").unlink()
    for name in sorted(before)[3:6]:
        whole = before[name]
        half = whole[: len(whole) // 2]
        short = {b"": b"", b"half": half, b"zeros": half + bytes(len(whole) - len(half))}[left]
        (tmp_path / "A12" / "tiles" / name).write_bytes(short)
    saved = save_tiles(source(), tmp_path / "A12", coding=coding)
    assert (saved.status, saved.n_written) == ("done", 3)
    assert {file.name: file.read_bytes() for file in (tmp_path / "A12" / "tiles").iterdir()} == before


@pytest.mark.parametrize("broken_off", [False, True])
def test_the_disk_has_every_image_before_the_table_says_so(tmp_path, monkeypatch, broken_off):
    flushed: list[str] = []
    really = files.flush_to_disk

    def noted(path):
        flushed.append(path.name)
        really(path)

    if broken_off:
        with pytest.raises(KeyboardInterrupt):
            save_tiles(counting(limit=100), tmp_path / "A12")
    monkeypatch.setattr(files, "flush_to_disk", noted)
    save_tiles(counting(), tmp_path / "A12")
    table = next(index for index, name in enumerate(flushed) if name.startswith(".metadata.parquet"))
    images = {file.name for file in (tmp_path / "A12" / "tiles").iterdir()}
    assert len(images) == len(counting())
    assert images <= set(flushed[:table])


def test_a_disk_that_fails_when_flushed_leaves_the_folder_unfinished(tmp_path, monkeypatch):
    really = files.flush_to_disk

    def failing(path):
        if path.name == "x64_y64_w64_h64.jpeg":
            raise OSError(errno.EIO, "Input/output error")
        really(path)

    monkeypatch.setattr(files, "flush_to_disk", failing)
    with pytest.raises(OutputWriteError, match="x64_y64_w64_h64"):
        save_tiles(source(), tmp_path / "A12")
    assert not (tmp_path / "A12" / "metadata.parquet").exists()
    monkeypatch.undo()
    assert save_tiles(source(), tmp_path / "A12").status == "done"


def test_a_full_disk_leaves_no_part_of_an_image(tmp_path, monkeypatch):
    really = Path.replace

    def full(path, target):
        if Path(target).suffix != ".jpeg":
            return really(path, target)
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputWriteError, match="No space left"):
        save_tiles(source(), tmp_path / "A12")
    assert list((tmp_path / "A12" / "tiles").iterdir()) == []


def test_tables_of_a_tile_that_became_readable_do_not_list_it_twice(tmp_path):
    save_tiles(source(broken=(Box(70, 70, 1, 1),)), tmp_path / "A12")
    (tmp_path / "A12" / "metadata.parquet").unlink()
    save_tiles(source(), tmp_path / "A12")  # the array is the same, and so is its fingerprint
    assert len(TileFolder(tmp_path / "A12")) == 15
    assert not (tmp_path / "A12" / "unreadable.parquet").exists()


@pytest.mark.parametrize("change", ["quality", "grid", "format"])
def test_other_settings_are_refused_without_overwrite(tmp_path, change):
    save_tiles(source(), tmp_path / "A12")
    changes: dict[str, dict[str, Any]] = {"quality": {"coding": ImageCoding(quality=90)}, "format": {"coding": PNG}}
    options = changes.get(change, {})
    other = source(Grid(tile_px=50, mpp=0.5)) if change == "grid" else source()
    with pytest.raises(RecipeMismatchError, match="overwrite"):
        save_tiles(other, tmp_path / "A12", **options)
    (tmp_path / "A12" / "tiles" / "notes.txt").write_text("mine")
    assert save_tiles(other, tmp_path / "A12", overwrite=True, **options).status == "done"
    tiles = {p.name for p in (tmp_path / "A12" / "tiles").iterdir()}
    assert len(tiles) == len(other) + 1  # none of the old ones, and nothing else was deleted
    assert "notes.txt" in tiles


def test_another_programs_folder_is_not_touched(tmp_path):
    (tmp_path / "A12").mkdir()
    (tmp_path / "A12" / "metadata.parquet").write_bytes(b"theirs")
    with pytest.raises(RecipeMismatchError, match="another program"):
        save_tiles(source(), tmp_path / "A12")
    assert (tmp_path / "A12" / "metadata.parquet").read_bytes() == b"theirs"


def test_result_does_not_depend_on_workers(tmp_path):
    for workers in (1, 4):
        save_tiles(counting(), tmp_path / str(workers), workers=workers)
    files = sorted(p.name for p in (tmp_path / "1" / "tiles").iterdir())
    for name in files:
        assert (tmp_path / "1" / "tiles" / name).read_bytes() == (tmp_path / "4" / "tiles" / name).read_bytes()


def test_no_tiles_are_saved_as_such(tmp_path):
    slide = noise_slide(50, 50)
    tiles = SlideTiles(slide, lay_tiles(slide, None, GRID, allow_empty=True))
    assert save_tiles(tiles, tmp_path / "A12").n_tiles == 0
    assert len(pd.read_parquet(tmp_path / "A12" / "metadata.parquet")) == 0


def test_progress_adds_up(tmp_path):
    steps: list[int] = []
    save_tiles(counting(), tmp_path / "A12", progress=steps.append)
    assert sum(steps) == len(counting())


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(TileError, match="channels="):
        save_tiles(source(channels=2, dtype=np.uint16), tmp_path / "A12")
    with pytest.raises(TileError, match="named by their place"):
        save_tiles(LabelledTiles(write_classes(tmp_path / "set")), tmp_path / "A12")
    assert not (tmp_path / "A12").exists()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises((OutputWriteError, OSError)):
        save_tiles(source(), tmp_path / "file")


def test_two_processes_do_not_write_one_folder(tmp_path):
    with Claim(tmp_path / "A12" / "metadata.parquet"), pytest.raises(ClaimedError):
        save_tiles(source(), tmp_path / "A12")
