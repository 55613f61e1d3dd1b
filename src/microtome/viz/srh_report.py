"""The report on infiltration scores: one HTML file, made from nothing but the files of an output folder.

It needs no network and no other file, and states what the score is for wherever it is opened.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment

from microtome.encoders.srh_use import BANDS, INTENDED_USE, NOT_INTENDED, TUMOUR_CUT
from microtome.errors import CorruptOutputError, MissingOutputError
from microtome.storage import write_text
from microtome.viz.page import page_environment

SRH_RUN_FILE = "run.json"
SRH_REPORT_FILE = "report.html"

_PICTURES = (
    ("few-shot", "Likeness to the support patches of each class, smoothed, over the virtual H&E."),
    ("attention", "What the score looked at: attention of the class token to each patch in the last block."),
    ("slide", "Virtual H&E, computed from the two channels; not a stain, and not what the model sees."),
)
_PICTURE_BYTES = 24_000_000  # of all pictures together


def write_srh_report(out: Path) -> Path:
    """Draw ``report.html`` from what `microtome score` left in a folder.

    Args:
        out: The output folder.

    Returns:
        Path of the report.

    Raises:
        MissingOutputError: If there is no run.json.
        CorruptOutputError: If it cannot be read.
        OutputWriteError: If the report cannot be written.
    """
    run = _read_run(out / SRH_RUN_FILE)
    path = out / SRH_REPORT_FILE
    slides = _slides(out, run)
    html = (
        _environment()
        .get_template("srh_report.html")
        .render(
            run=run,
            slides=slides,
            bands=BANDS,
            cut=TUMOUR_CUT,
            intended=INTENDED_USE,
            not_intended=NOT_INTENDED,
        )
    )
    write_text(path, html)
    return path


def _read_run(path: Path) -> Mapping[str, Any]:
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingOutputError(f"There is no '{path}': score slides first (microtome score).") from error
    except (OSError, ValueError) as error:
        raise CorruptOutputError(f"'{path}' cannot be read: {error}. Score the slides again.") from error
    if not isinstance(run, dict) or run.get("kind") != "srh-score":
        raise CorruptOutputError(f"'{path}' is not the record of `microtome score`. Name its output folder.")
    return run


def _slides(out: Path, run: Mapping[str, Any]) -> Sequence[Mapping[str, object]]:
    """The slides with their pictures, shrunk where there are so many that the file would be too large."""
    found: list[tuple[int, str, str]] = []
    contents: list[bytes] = []
    for index, slide in enumerate(run["slides"]):
        for name, caption in _PICTURES:
            path = out / "maps" / f"{slide['slide_id']}.{name}.jpg"
            if path.is_file():
                found.append((index, name, caption))
                contents.append(path.read_bytes())
    if sum(map(len, contents)) > _PICTURE_BYTES:
        from microtome.viz.report_images import fit_pictures  # it takes OpenCV, which few reports need

        contents = fit_pictures(contents, budget=_PICTURE_BYTES)
    return [
        {
            **slide,
            "regions": run["regions"].get(slide["slide_id"], []),
            "pictures": [
                {
                    "name": name,
                    "caption": caption,
                    "uri": f"data:image/jpeg;base64,{base64.b64encode(content).decode()}",
                }
                for (of, name, caption), content in zip(found, contents, strict=True)
                if of == index
            ],
        }
        for index, slide in enumerate(run["slides"])
    ]


@cache
def _environment() -> Environment:
    return page_environment({"percent": lambda value: f"{100 * value:.0f}", "number": lambda value: f"{value:.3f}"})
