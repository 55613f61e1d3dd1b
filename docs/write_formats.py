"""Write the generated part of formats.md: what each format of feature files holds."""

import re
from pathlib import Path

from microtome.features.formats.registry import formats_table
from microtome.storage import write_text

PAGE = Path(__file__).with_name("formats.md")


def fill(page: str) -> str:
    """The page with the table as it is now."""
    block = re.compile(r"(<!-- formats: .*? -->\n).*?(<!-- end of formats -->)", re.DOTALL)
    return block.sub(lambda found: f"{found[1]}\n{formats_table()}\n\n{found[2]}", page)


if __name__ == "__main__":
    write_text(PAGE, fill(PAGE.read_text(encoding="utf-8")))
