"""Write the generated parts of encoders.md: the table of encoders, and that of the texture features."""

import re
from pathlib import Path

from microtome.encoders.registry import cards_table
from microtome.encoders.texture import features_table
from microtome.storage import write_text

PAGE = Path(__file__).with_name("encoders.md")


def fill(page: str) -> str:
    """The page with both tables as they are now."""
    for name, table in (("cards", cards_table()), ("features", features_table())):
        block = re.compile(rf"(<!-- {name}: .*? -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        page = block.sub(lambda found, table=table: f"{found[1]}\n{table}\n{found[2]}", page)
    return page


if __name__ == "__main__":
    write_text(PAGE, fill(PAGE.read_text(encoding="utf-8")))
