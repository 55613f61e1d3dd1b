"""Write the generated part of performance.md: the tables of the last full run of each benchmark."""

import json
import re
import sys
from pathlib import Path
from typing import Any

from microtome.storage import write_text

PAGE = Path(__file__).with_name("performance.md")
RESULTS = Path(__file__).with_name("benchmarks")
FIRST = ("tile_reading", "extract_end_to_end", "encoder_runtimes", "tiling_job")  # the rest follows by name


def fill(page: str, results: list[dict[str, Any]]) -> str:
    """The page with these results."""
    block = re.compile(r"(<!-- results: .*? -->\n).*?(<!-- end of results -->)", re.DOTALL)
    return block.sub(lambda found: f"{found[1]}\n{shown(results)}\n{found[2]}", page)


def shown(results: list[dict[str, Any]]) -> str:
    """All results as Markdown."""
    if not results:
        return "No results are here yet: run `make bench`.\n"
    return "\n".join(section(result) for result in results)


def section(result: dict[str, Any]) -> str:
    """One benchmark: what it measures, on what machine, its tables."""
    title = result["name"].replace("_", " ").capitalize()
    lines = [f"## {title}", "", result["about"].rstrip(), ""]
    lines += [f"{result['date']}, median of {result['rounds']} rounds; {machine(result['machine'])}.", ""]
    for table in result["tables"]:
        lines += [f"**{escaped(table['title'])}**", "", *markdown(table["columns"], table["rows"]), ""]
        if table["notes"]:
            lines += ["; ".join(escaped(note) for note in table["notes"]) + ".", ""]
    return "\n".join(lines)


def machine(found: dict[str, Any]) -> str:
    """The machine, and whether it did anything else."""
    flags = ", ".join(f"`{flag}`" for flag in found["flags"]) or "no AVX2"
    hardware = f"{found['cores']} cores of {found['cpu']} ({flags}), {found['memory_gb']} GB"
    others = f"others used {max(0.0, found['others']):.0%} of the cores meanwhile"
    return f"{hardware}, Python {found['python']}; {others}"


def markdown(columns: list[str], rows: list[list[str]]) -> list[str]:
    """A table: the first column to the left, the rest to the right."""
    cells = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return [f"| {' | '.join(escaped(cell) for cell in row)} |" for row in cells]


def escaped(text: str) -> str:
    """Text that Markdown leaves as it is."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def read_results() -> list[dict[str, Any]]:
    """Results of full runs, the most important first."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    rank = {name: place for place, name in enumerate(FIRST)}
    return sorted((r for r in found if not r["quick"]), key=lambda r: (rank.get(r["name"], len(FIRST)), r["name"]))


def main() -> int:
    """Write the page; with ``--check`` only say whether it is as it would be written."""
    page = PAGE.read_text(encoding="utf-8")
    filled = fill(page, read_results())
    if "--check" in sys.argv[1:]:
        return int(filled != page)
    write_text(PAGE, filled)
    return 0


if __name__ == "__main__":
    sys.exit(main())
