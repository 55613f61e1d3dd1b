"""Spoiled slides and outputs: an error of ours or a result; no crash, no hang, no warning, no foreign error."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.fuzz.binary import KINDS

_FEW, _MANY = 40, 800


def fuzz(name: str, folder: Path, first: int, last: int) -> None:
    command = [sys.executable, "-m", "tests.fuzz.binary", name, str(folder), str(first), str(last)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, errors="replace", check=False)
    where = (done.stdout.splitlines() or ["before the first seed"])[-1]
    assert done.returncode == 0, f"status {done.returncode}, last {where}\n{done.stderr[-6000:]}"
    assert where == f"{name} seed {last - 1}"


@pytest.mark.parametrize("name", KINDS)
def test_spoiled_files_give_our_errors_only(tmp_path, name):
    fuzz(name, tmp_path, 0, _FEW)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", KINDS)
def test_many_spoiled_files_give_our_errors_only(tmp_path, name):
    fuzz(name, tmp_path, _FEW, _MANY)
