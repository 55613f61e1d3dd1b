"""Disks that are full or read-only, made for a test and unmade after it. They need Linux and root."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, *, n_bytes: int) -> Iterator[Path]:
    """A file system in memory with this much space; skips where that may not be made."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("mounting needs Linux and root")
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "tmpfs", str(folder)], capture_output=True, check=False
    ).returncode:
        pytest.skip("this system does not let a test mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def make_read_only(folder: Path) -> None:
    """Remount such a disk."""
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


def fill(folder: Path, *, leave: int) -> Path:
    """Take all space of the disk but this much; deleting the file that is returned gives it back."""
    filler = folder / "filler"
    space = os.statvfs(folder)
    filler.write_bytes(bytes(max(0, space.f_bavail * space.f_frsize - leave)))
    return filler
