"""Names and whole files."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microtome.errors import ConfigError, OutputWriteError, SlidePermissionError
from microtome.storage import (
    hash_array,
    hash_file,
    now_utc,
    remove_leftovers,
    safe_name,
    write_json,
    write_text,
    written_whole,
)


@pytest.mark.parametrize("name", ["A", "TCGA-3X (2)", "a.b.c", "Schnitt Ä", "字", "con-1", "x" * 180, "COMA", "a b"])
def test_good_names_are_kept(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", ".hidden", "a/b", "a\\b", "../a", "/a", "C:a", "a*", "a?", 'a"', "a<", "a>", "a|", "a\n",
        "a\x00",
        "a\x7f", "a.", "a ", "x" * 181, "Ä" * 91, "con", "NUL", "com1", "LPT9.svs", "Aux.h5", "bad\udcff",
    ],
)  # fmt: skip
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be a file name"):
        safe_name(name)


@given(st.text(max_size=12))
def test_a_safe_name_is_one_part_of_a_path(name: str) -> None:
    try:
        safe_name(name)
    except ConfigError:
        return
    assert Path("folder", name).name == name
    assert Path("folder", name).parent == Path("folder")


# -- whole files ----------------------------------------------------------------------------------------------


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "a.txt"
    with written_whole(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_failing_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with (
        pytest.raises(UnicodeEncodeError),
        written_whole(path) as temporary,
        temporary.open("w", encoding="ascii") as file,
    ):
        file.write("half" * 10_000 + "ä")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_the_systems_refusal_is_explained(tmp_path: Path, number: int) -> None:
    path = tmp_path / "a.txt"
    with (
        pytest.raises(OutputWriteError, match=r"a\.txt' cannot be written: .*Free space") as caught,
        written_whole(path),
    ):
        raise OSError(number, os.strerror(number))
    assert isinstance(caught.value.__cause__, OSError)
    assert not path.exists()


def test_errors_of_inputs_are_not_taken_for_errors_of_the_output(tmp_path: Path) -> None:
    path = tmp_path / "out" / "a.txt"
    with pytest.raises(PermissionError) as caught, written_whole(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "slide.svs"))
    assert not isinstance(caught.value, OutputWriteError)
    with pytest.raises(SlidePermissionError), written_whole(path):
        raise SlidePermissionError(errno.EACCES, "not yours")


def test_a_file_in_place_of_the_folder_is_explained(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputWriteError):
        write_text(tmp_path / "out" / "a.txt", "x")
    with pytest.raises(OutputWriteError):
        write_text(tmp_path / "out" / "deep" / "a.txt", "x")
    (tmp_path / "dir").mkdir()
    with pytest.raises(OutputWriteError):
        write_text(tmp_path / "dir", "x")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_a_read_only_folder_is_explained(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputWriteError):
            write_text(tmp_path / "a.txt", "x")
    finally:
        tmp_path.chmod(0o700)


_LIMITED = """
import resource, sys
from pathlib import Path
from microtome.errors import OutputWriteError
from microtome.storage import write_text
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    write_text(Path(sys.argv[1]), "x" * 1000)
except OutputWriteError:
    sys.exit(7)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_real_lack_of_space_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    assert subprocess.run([sys.executable, "-c", _LIMITED, str(path)], check=False).returncode == 7
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_plain_and_finite(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": (1, np.float32(0.5)), "path": Path("x"), "none": None, "ä": True})
    assert json.loads(path.read_text(encoding="utf-8")) == {"b": [1, 0.5], "path": "x", "none": None, "ä": True}
    with pytest.raises(ConfigError, match="finite"):
        write_json(path, {"a": float("nan")})
    with pytest.raises(ConfigError, match="set cannot be recorded"):
        write_json(path, {"a": {1, 2}})


def test_leftovers_of_one_output_are_removed_and_no_others(tmp_path: Path) -> None:
    path = tmp_path / "A.h5"
    own = [".A.h5.123-0123abcd.tmp", ".A.h5.9-00000000.tmp"]
    others = [
        "A.h5",
        "A.h5.claim",
        ".A.h5.partial",
        ".A.h5.b.h5.123-0123abcd.tmp",
        ".B.h5.123-0123abcd.tmp",
        ".A.h5.tmp",
    ]
    for name in own + others:
        (tmp_path / name).write_text(name)
    remove_leftovers(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(others)


def test_hashes_are_sha256(tmp_path: Path) -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (tmp_path / "a").write_bytes(b"")
    assert hash_file(tmp_path / "a") == empty
    assert hash_array(np.zeros(0)) == empty
    grid = np.arange(6).reshape(2, 3)
    assert hash_array(grid.T) == hash_array(np.ascontiguousarray(grid.T)) != hash_array(grid)


def test_now_is_utc_to_the_second() -> None:
    import datetime as dt

    now = dt.datetime.strptime(now_utc(), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=dt.UTC)
    assert abs((dt.datetime.now(dt.UTC) - now).total_seconds()) < 5
