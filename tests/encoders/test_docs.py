"""The docs' tables are those of the code."""

from pathlib import Path

from microtome.encoders.registry import cards_table
from microtome.encoders.texture import features_table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "encoders.md"


def test_the_page_holds_both_tables_as_they_are_now():
    page = PAGE.read_text(encoding="utf-8")
    for table in (cards_table(), features_table()):
        assert f"\n{table}\n" in page, "run: python docs/write_encoders.py"
