"""Which files are taken for slides, what they are called, and why the others are left out."""

import os
import shutil
from pathlib import Path

import pytest

from microtome.errors import ConfigError, DuplicateSlideError
from microtome.slides.listing import SlideListing, list_slides
from microtome.slides.write import TileCoding
from microtome.testing.dicom import write_dicom
from tests.slides.fakes import canvas_of, coordinates, noise, save_png, write_pages


def ids(listing: SlideListing) -> list[str]:
    return [entry.slide_id for entry in listing.entries]


def reasons(listing: SlideListing) -> dict[str, str]:
    return {path.name: reason for path, reason in listing.ignored}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    for name in ("b.svs", "a.tif", "deep/d.ndpi", "deep/deeper/c.TIFF"):
        write_pages(tmp_path / name, noise(16, 16))
    (tmp_path / "notes.txt").write_text("some words")
    save_png(tmp_path / "overview.png", noise(16, 16))
    (tmp_path / ".hidden.svs").touch()
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "z.svs").touch()
    return tmp_path


def test_folders_are_searched_in_order(folder):
    listing = list_slides([folder])
    assert ids(listing) == ["a", "b", "d", "c"]
    assert listing.entries[0].path == folder / "a.tif"
    why = reasons(listing)
    assert "neither" in why["notes.txt"]
    assert "plain image" in why["overview.png"]
    assert "hidden" in why[".hidden.svs"]
    assert "hidden" in why[".cache"]


def test_named_files_are_taken_whatever_they_are(folder):
    paths = [folder / "overview.png", str(folder / "notes.txt"), folder / "absent.svs"]
    assert ids(list_slides(paths)) == ["overview", "notes", "absent"]


def test_patterns_are_expanded(folder):
    assert ids(list_slides([str(folder / "*.svs"), str(folder / "**/*.ndpi")])) == ["b", "d"]
    assert ids(list_slides([folder / "*.png"])) == ["overview"]
    listing = list_slides([folder / "*.czi"])
    assert not listing.entries
    assert reasons(listing) == {"*.czi": "no file matches the pattern"}


def test_a_name_with_the_signs_of_a_pattern_is_a_name(tmp_path):
    path = tmp_path / "a[1] (2).svs"
    write_pages(path, noise(16, 16))
    assert [entry.path for entry in list_slides([path]).entries] == [path]


def test_a_file_named_twice_counts_once(folder):
    listing = list_slides([folder / "b.svs", folder, folder / "*.svs", folder / "deep" / ".." / "b.svs"])
    assert sorted(ids(listing)) == ["a", "b", "c", "d"]


def test_content_without_a_suffix(tmp_path):
    write_pages(tmp_path / "slide-without-suffix", noise(16, 16))
    (tmp_path / "pointer.tif").write_text("version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "empty.svs").touch()
    assert ids(list_slides([tmp_path])) == ["empty", "pointer", "slide-without-suffix"]


def test_companions_are_passed_over(tmp_path):
    (tmp_path / "m.mrxs").touch()
    for companion in ("m", "_v_", "own"):
        (tmp_path / companion).mkdir()
        write_pages(tmp_path / companion / f"in-{companion}.tif", noise(16, 16))
    (tmp_path / "v.vsi").touch()
    assert ids(list_slides([tmp_path])) == ["m", "v", "in-own"]


def test_duplicates_name_both(folder):
    write_pages(folder / "deep" / "a.svs", noise(16, 16))
    with pytest.raises(DuplicateSlideError) as caught:
        list_slides([folder])
    assert str(folder / "a.tif") in str(caught.value)
    assert str(folder / "deep" / "a.svs") in str(caught.value)


def test_names_that_are_no_file_names_everywhere(tmp_path):
    path = tmp_path / "a:b.svs"
    try:
        write_pages(path, noise(16, 16))
    except OSError:
        pytest.skip("this file system has no such names")
    with pytest.raises(ConfigError, match="a:b"):
        list_slides([tmp_path])


def test_rings_of_links_end(folder):
    (folder / "deep" / "up").symlink_to(folder, target_is_directory=True)
    (folder / "gone.svs").symlink_to(folder / "nowhere.svs")
    assert sorted(ids(list_slides([folder]))) == ["a", "b", "c", "d", "gone"]


def test_linked_folders_are_searched(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("disk")
    write_pages(elsewhere / "e.svs", noise(16, 16))
    (folder / "link").symlink_to(elsewhere, target_is_directory=True)
    assert "e" in ids(list_slides([folder]))


def test_folders_that_cannot_be_read_are_told(folder, monkeypatch):
    scan = os.scandir

    def refuse(path):
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    listing = list_slides([folder])
    assert ids(listing) == ["a", "b"]
    assert "Permission denied" in reasons(listing)["deep"]


def test_a_dicom_folder_is_one_slide_with_its_name(tmp_path):
    for case in ("case 1", "case 2"):
        write_dicom(tmp_path / case, canvas_of(coordinates(128, 128)), coding=TileCoding(64))
    listing = list_slides([tmp_path])
    assert ids(listing) == ["case 1", "case 2"]
    assert [entry.path.name for entry in listing.entries] == ["level-0.dcm"] * 2
    assert ids(list_slides([tmp_path / "case 1"])) == ["case 1"]
    assert ids(list_slides([tmp_path / "case 1" / "*.dcm"])) == ["case 1"]


def test_single_dicom_files(tmp_path):
    write_dicom(tmp_path / "case", canvas_of(coordinates(128, 128), downsamples=(1,)), coding=TileCoding(64))
    assert ids(list_slides([tmp_path])) == ["case"]
    assert ids(list_slides([tmp_path / "case"])) == ["level-0"]
    write_dicom(tmp_path / "other", canvas_of(coordinates(128, 128), downsamples=(1,)), coding=TileCoding(64))
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    shutil.copy(tmp_path / "case" / "level-0.dcm", mixed / "x.dcm")
    shutil.copy(tmp_path / "other" / "level-0.dcm", mixed / "y.dcm")
    assert ids(list_slides([mixed])) == ["x", "y"]


def test_reference_data(shared):
    listing = list_slides([shared / "data/wsi"])
    found = ids(listing)
    assert len(found) == 20
    assert "dicom_wg26_FluorCell_4" in found
    assert "test3-DAPI-2-(387)" in found
    assert not any("ets" in entry.path.suffix for entry in listing.entries)
    assert sum("another kind" in reason for _, reason in listing.ignored) == 6
