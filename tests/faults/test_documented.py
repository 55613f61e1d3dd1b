"""The page of faults and outcomes names tests; they are there."""

import ast
import re

import pytest

from tests.conftest import REPOSITORY

PAGE = REPOSITORY / "docs" / "what_happens_when.md"
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE.read_text(encoding="utf-8"))))


@pytest.mark.parametrize(("file", "test"), NAMED, ids=lambda part: part or "all")
def test_a_named_test_exists(file, test):
    tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}
    assert (test in names) if test else names


def test_every_row_names_a_test():
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith("| What happens |")]
    assert len(rows) > 20
    for row in rows:
        assert len(row.split("|")) == 5, row
        assert "`tests/" in row.split("|")[3], row


def test_every_fault_test_is_on_the_page():
    """A fault that is tested is one that a person may meet."""
    named = {test for file, test in NAMED if test} | {file for file, test in NAMED if not test}
    for path in sorted((REPOSITORY / "tests" / "faults").glob("test_*.py")):
        file = path.relative_to(REPOSITORY).as_posix()
        if file in named or path.name == "test_documented.py":
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                assert node.name in named, f"{file}::{node.name}"
