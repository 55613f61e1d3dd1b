"""What was found for one slide, kept in one file, so that a slide is not scored twice."""

import json
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from microtome.encoders.srh_model import SlideOutput
from microtome.storage import written_whole
from microtome.tasks.srh.scoring import ScoredSlide

_VERSION = 1


def write_slide_file(path: Path, slide: ScoredSlide, recipe_digest: str) -> None:
    """Write it, whole.

    Raises:
        OutputWriteError: If it cannot be written.
    """
    about = {
        "version": _VERSION,
        "logit": slide.output.logit,
        "n_blank": slide.n_blank,
        "skipped": {str(row): why for row, why in slide.skipped.items()},
        "recipe_digest": recipe_digest,
    }
    arrays: dict[str, Any] = {
        "embedding": slide.output.embedding,
        "attention": slide.output.attention,
        "features": slide.features,
        "grid": slide.grid,
        "boxes": slide.boxes,
    }
    if slide.thumbnails is not None:
        arrays["thumbnails"] = np.rint(slide.thumbnails).astype(np.uint16)
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, about=np.array(json.dumps(about)), **arrays)


def read_slide_file(path: Path, recipe_digest: str) -> ScoredSlide | None:
    """Read it; None where it is absent, damaged, or was made from other pixels or with another model."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            if about["version"] != _VERSION or about["recipe_digest"] != recipe_digest:
                return None
            thumbnails = file["thumbnails"].astype(np.float32) if "thumbnails" in file else None
            return ScoredSlide(
                output=SlideOutput(float(about["logit"]), file["embedding"], file["attention"]),
                features=file["features"],
                grid=file["grid"],
                boxes=file["boxes"],
                thumbnails=thumbnails,
                n_blank=int(about["n_blank"]),
                skipped={int(row): str(why) for row, why in about["skipped"].items()},
            )
    except (OSError, ValueError, KeyError, EOFError, TypeError, BadZipFile):
        return None  # it is made again
