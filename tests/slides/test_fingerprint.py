"""A fingerprint is of content: not of path or date, and it sees what a copy or a new scan changes."""

import os
import shutil

import numpy as np
import pytest

from microtome.slides.fingerprint import fingerprint_file


@pytest.fixture(params=[5_000, 6_000_000])
def file(request, tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(np.random.default_rng(0).bytes(request.param))
    return path


def changed(path, at, value=b"\0\1\2\3"):
    data = bytearray(path.read_bytes())
    data[at : at + len(value)] = value
    path.write_bytes(bytes(data))


def test_path_and_date_do_not_count(file, tmp_path):
    first = fingerprint_file(file)
    copy = tmp_path / "copy.bin"
    shutil.copy(file, copy)
    os.utime(copy, (0, 0))
    assert fingerprint_file(copy) == first
    assert len(first) == 32


def test_content_counts(file):
    seen = {fingerprint_file(file)}
    for at in (0, 1000, file.stat().st_size - 5):
        changed(file, at)
        seen.add(fingerprint_file(file))
    with file.open("ab") as stream:
        stream.write(b"\0")
    seen.add(fingerprint_file(file))
    assert len(seen) == 5


def test_companions_count(file, tmp_path):
    one, two = tmp_path / "1.dat", tmp_path / "2.dat"
    one.write_bytes(b"11111")
    two.write_bytes(b"22222")
    first = fingerprint_file(file, [one, two])
    assert fingerprint_file(file, [two, one]) == first
    seen = {first, fingerprint_file(file), fingerprint_file(file, [one])}
    two.write_bytes(b"33333")
    seen.add(fingerprint_file(file, [one, two]))
    two.rename(tmp_path / "3.dat")
    seen.add(fingerprint_file(file, [one, tmp_path / "3.dat"]))
    assert len(seen) == 5
