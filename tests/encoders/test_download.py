"""Downloads from a server on this machine that behaves as servers do."""

import errno
import hashlib
import io
import json
import shutil
import threading
from collections import namedtuple

import numpy as np
import pytest

from microtome.encoders import download as module
from microtome.encoders.download import download
from microtome.encoders.download_progress import BytesShown
from microtome.errors import OutputWriteError, WeightsError
from microtome.storage import Claim
from tests.encoders.web import Site, serving

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
Disk = namedtuple("Disk", "total used free")


@pytest.fixture
def site():
    with serving(Site(CONTENT)) as served:
        yield served


@pytest.fixture
def path(tmp_path):
    return tmp_path / "prostate" / "weights.pth"


def fetch(site, path, **how):
    return download(site.url, path, pause=lambda _: None, **how)


def nothing_left(path):
    return [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_file_comes_whole_and_only_once(site, path):
    said = []
    assert fetch(site, path, sha256=SHA256.upper(), shown=lambda *a: said.append(a)) == path
    assert path.read_bytes() == CONTENT
    assert nothing_left(path)
    assert said[0] == (0, len(CONTENT))
    assert said[-1] == (len(CONTENT), len(CONTENT))
    fetch(site, path)
    assert site.asked == [""]


def test_a_drop_in_the_middle_goes_on_from_there(site, path):
    site.drops = [100_000, 50_000, 1]
    fetch(site, path)
    assert path.read_bytes() == CONTENT
    assert site.asked == ["", "bytes=100000-", "bytes=150000-", "bytes=150001-"]
    assert site.sent == len(CONTENT)


def test_a_download_that_was_given_up_goes_on_in_the_next_run(site, path):
    site.drops = [100_000] + [0] * 5
    with pytest.raises(WeightsError, match=r"broke off after 100000 of 300000 bytes.*goes on from 100000 bytes"):
        fetch(site, path)
    assert not path.exists()
    fetch(site, path, sha256=SHA256)
    assert path.read_bytes() == CONTENT
    assert site.sent == len(CONTENT)
    assert nothing_left(path)


def test_parts_of_two_versions_are_never_joined(site, path):
    site.drops = [100_000] + [0] * 5
    with pytest.raises(WeightsError):
        fetch(site, path)
    site.content, site.etag = CONTENT[::-1], '"2"'
    fetch(site, path)
    assert path.read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("how", [{"etag": "", "date": ""}, {"etag": 'W/"1"'}])
def test_without_a_version_it_begins_anew(site, path, how):
    for name, value in how.items():
        setattr(site, name, value)
    site.drops = [100_000]
    fetch(site, path)
    assert path.read_bytes() == CONTENT
    assert site.asked == ["", ""]


def test_the_date_is_a_version(site, path):
    site.etag, site.date, site.drops = "", "Sat, 01 Jan 2022 00:00:00 GMT", [100_000]
    fetch(site, path)
    assert path.read_bytes() == CONTENT
    assert site.asked == ["", "bytes=100000-"]


def test_a_server_without_ranges_sends_all_again(site, path):
    site.ranges, site.drops = False, [100_000]
    fetch(site, path)
    assert path.read_bytes() == CONTENT
    assert site.asked == ["", "bytes=100000-"]


@pytest.mark.parametrize("note", ["", "{", '{"url": "elsewhere", "version": "1"}', "[]"])
def test_a_part_that_nobody_vouches_for_is_thrown_away(site, path, note):
    path.parent.mkdir()
    (path.parent / "weights.pth.part").write_bytes(b"x" * 1000)
    (path.parent / "weights.pth.part.json").write_text(note)
    fetch(site, path)
    assert path.read_bytes() == CONTENT
    assert nothing_left(path)


@pytest.mark.parametrize("length", [300_000, 400_000])
def test_a_part_that_is_too_long_is_thrown_away(site, path, length):
    path.parent.mkdir()
    (path.parent / "weights.pth.part").write_bytes(b"x" * length)
    (path.parent / "weights.pth.part.json").write_text(json.dumps({"url": site.url, "version": '"1"'}))
    fetch(site, path)
    assert path.read_bytes() == CONTENT


def test_a_wrong_length_never_becomes_a_file(site, path):
    site.announce = len(CONTENT) + 10
    with pytest.raises(WeightsError, match="cannot be downloaded"):
        fetch(site, path)
    assert not path.exists()


def test_without_a_length_the_hash_decides(site, path):
    site.announce = -1
    with pytest.raises(WeightsError, match="does not say how long"):
        fetch(site, path)
    fetch(site, path, sha256=SHA256)
    assert path.read_bytes() == CONTENT
    path.unlink()
    site.drops = [1000]
    with pytest.raises(WeightsError, match="another file"):
        fetch(site, path, sha256=SHA256)


def test_another_file_than_was_published_is_thrown_away(site, path):
    site.content = CONTENT[:-1] + b"x"
    with pytest.raises(WeightsError, match=rf"(?s)SHA-256.*{SHA256}.*--weights FILE"):
        fetch(site, path, sha256=SHA256)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"\n<!DOCTYPE html><p>log in", b"<html>", b"version https://git-lfs.github.com", b""]
)
def test_pages_and_pointers_in_place_of_weights_are_refused(site, path, content):
    site.content = content
    with pytest.raises(WeightsError, match=r"in place of 'weights\.pth'"):
        fetch(site, path)
    assert not path.exists()


def test_a_page_is_refused_before_it_is_read(site, path):
    site.kind = "text/html; charset=utf-8"
    with pytest.raises(WeightsError, match="browser"):
        fetch(site, path)
    assert not path.exists()


@pytest.mark.parametrize(
    ("status", "said"),
    [(404, "no longer there"), (410, "no longer there"), (403, "access"), (401, "access"), (400, "400")],
)
def test_what_another_try_would_not_help_is_said_at_once(site, path, status, said):
    site.statuses = [status]
    with pytest.raises(WeightsError, match=rf"(?s){said}.*prostate/weights\.pth"):
        fetch(site, path)
    assert len(site.asked) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(site, path, status):
    site.statuses = [status] * 3
    waits: list[float] = []
    download(site.url, path, pause=waits.append)
    assert path.read_bytes() == CONTENT
    assert waits == sorted(waits)
    assert len(waits) == 3
    path.unlink()
    site.statuses = [status] * 9
    with pytest.raises(WeightsError, match=f"answers {status}"):
        fetch(site, path)


def test_no_server_at_all(path):
    with pytest.raises(WeightsError, match=r"(?s)cannot be downloaded.*HTTPS_PROXY"):
        download("http://127.0.0.1:9/weights.pth", path, pause=lambda _: None)


@pytest.mark.parametrize("url", ["http://example.org/a.pth", "ftp://127.0.0.1/a.pth", "file:///etc/passwd", "a.pth"])
def test_links_that_are_not_safe_are_refused(path, url):
    with pytest.raises(WeightsError, match="https"):
        download(url, path)


def test_a_redirect_to_what_is_not_safe_is_refused(site, path):
    site.moved = "http://example.org/weights.pth"
    with pytest.raises(WeightsError, match=r"example\.org.*https"):
        fetch(site, path)


def test_a_redirect_is_followed(site, path):
    with serving(Site(moved=site.url)) as first:
        fetch(first, path)
    assert path.read_bytes() == CONTENT


def test_too_little_space_is_said_before_it_is_filled(site, path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(0, 0, 1000))
    with pytest.raises(OutputWriteError, match=r"needed.*MICROTOME_CACHE"):
        fetch(site, path)
    assert not list(path.parent.glob("weights.pth*"))


def test_a_disk_that_fills_up_keeps_what_has_come(site, path, monkeypatch):
    site.drops = [100_000]
    real = module._append
    full = [False, True]

    def append(*arguments):
        if full.pop(0):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*arguments)

    monkeypatch.setattr(module, "_append", append)
    with pytest.raises(OutputWriteError, match="disk is full"):
        fetch(site, path)
    monkeypatch.undo()
    fetch(site, path)
    assert path.read_bytes() == CONTENT
    assert site.asked == ["", "bytes=100000-", "bytes=100000-"]


def test_a_folder_that_cannot_be_made(site, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputWriteError):
        fetch(site, tmp_path / "file" / "weights.pth")


def test_of_many_at_once_one_downloads(site, path):
    threads = [threading.Thread(target=download, args=(site.url, path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() == CONTENT
    assert site.asked == [""]


def test_who_waits_for_another_finds_the_file(site, path):
    claim = Claim(path)
    claim.__enter__()
    waits = []

    def pause(seconds):
        waits.append(seconds)
        path.write_bytes(b"from the other")
        claim.__exit__()

    assert download(site.url, path, pause=pause) == path
    assert path.read_bytes() == b"from the other"
    assert site.asked == []
    assert len(waits) == 1


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_says_how_much_how_fast_and_how_long():
    now, log = [0.0], io.StringIO()
    shown = BytesShown("uni", log, clock=lambda: now[0])
    for second in range(31):
        now[0] = second
        shown(second * 10_000_000, 1_000_000_000)
    lines = log.getvalue().splitlines()
    assert lines[0] == "uni: 0 B of 1 GB"
    assert lines[1:] == [
        "uni: 100 MB of 1 GB, 10 MB/s, 1 min 30 s left",
        "uni: 200 MB of 1 GB, 10 MB/s, 1 min 20 s left",
        "uni: 300 MB of 1 GB, 10 MB/s, 1 min 10 s left",
    ]
    shown(1_000_000_000, 1_000_000_000)
    assert "left" not in log.getvalue().splitlines()[-1]


def test_progress_on_a_terminal_stays_on_one_line_until_it_is_done():
    now, terminal = [0.0], Terminal()
    shown = BytesShown("uni", terminal, clock=lambda: now[0])
    for done in (0, 50, 100):
        now[0] += 1
        shown(done, 100)
    assert terminal.getvalue().count("\n") == 1
    assert terminal.getvalue().endswith("\n")
    assert "50 B of 100 B" in terminal.getvalue()
