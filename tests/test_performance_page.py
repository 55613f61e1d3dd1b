"""The page of measured figures is the one that the kept results give."""

import json
import subprocess
import sys

from tests.conftest import REPOSITORY

RESULTS = sorted((REPOSITORY / "docs" / "benchmarks").glob("*.json"))


def test_the_page_shows_the_kept_results():
    script = REPOSITORY / "docs" / "write_performance.py"
    done = subprocess.run([sys.executable, script, "--check"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or "run: python docs/write_performance.py"


def test_kept_results_are_of_full_runs_and_name_their_machine():
    for path in RESULTS:
        result = json.loads(path.read_text(encoding="utf-8"))
        assert result["name"] == path.stem
        assert result["quick"] is False
        assert result["machine"]["cpu"]
        for table in result["tables"]:
            assert all(len(row) == len(table["columns"]) for row in table["rows"])
