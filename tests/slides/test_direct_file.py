"""Reading by position from many threads, and closing under a reader."""

import gc
import os
import threading

import pytest

from microtome.slides.direct_file import DirectFile


def test_pieces(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes(range(200)))
    file = DirectFile(path)
    assert file.read(10, 5) == bytes(range(10, 15))
    assert file.read(0, 0) == b""
    with pytest.raises(EOFError, match="3 bytes too early"):
        file.read(195, 8)
    file.close()
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.read(0, 1)
    with pytest.raises(ValueError, match="closed"):
        file.check_open()
    with pytest.raises(FileNotFoundError):
        DirectFile(tmp_path / "b")


def test_a_file_that_is_closed_under_a_reader_is_not_another_one(tmp_path):
    """A descriptor's number is given away again at once; a reader must never meet the next owner's bytes."""
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"a" * 1000)
    other.write_bytes(b"b" * 1000)
    wrong: list[bytes] = []

    def read(file: DirectFile) -> None:
        try:
            while True:
                data = file.read(0, 1000)
                if data != b"a" * 1000:
                    wrong.append(data)
        except ValueError:
            pass

    for _ in range(30):
        file = DirectFile(path)
        threads = [threading.Thread(target=read, args=(file,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        file.close()
        taken = [other.open("rb") for _ in range(4)]
        for thread in threads:
            thread.join()
        for handle in taken:
            handle.close()
    assert not wrong


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors as Linux shows them")  # noqa: PTH112 - evaluated at import
def test_no_descriptor_stays_open(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"a")
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names only
    for _ in range(50):
        DirectFile(path).read(0, 1)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - names only
