"""Tables of scores: slides, patients, specimens, regions, patches; as the original saves them, too."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from microtome.cohort.predictions import Predictions, predictions_of
from microtome.cohort.targets import Target
from microtome.encoders.srh_model import SrhModel
from microtome.encoders.srh_reference import sigmoid
from microtome.encoders.srh_use import BANDS, TUMOUR_CUT, band_of
from microtome.storage import write_text, written_whole

LEAST_REGION = 4
"""Patches that a region must have to get a score."""

Row = Mapping[str, object]


@dataclass(frozen=True, eq=False)
class RegionTable:
    """Parts of a slide, scored one by one.

    Attributes:
        rows: One per region.
        of_patch: Index of each patch's region.
    """

    rows: tuple[Row, ...]
    of_patch: Int64[np.ndarray, " n"]


def score_row(score: float) -> Row:
    """What is said of a score wherever it stands in a table."""
    band = band_of(score)
    return {"score": score, "band": band.name, "grade": band.grade, "interpretation": band.meaning}


def score_regions(
    model: SrhModel,
    features: Float32[np.ndarray, "n d"],
    grid: Int64[np.ndarray, "n 2"],
    *,
    side: int,
    values: Mapping[str, Float[np.ndarray, " n"]],
) -> RegionTable:
    """Score squares of patches, each as if it were a slide of its own, at its places.

    Args:
        model: The model.
        features: Vectors of the slide's patches.
        grid: Row and column of each.
        side: Of a square, in patches, counted from the first row and column that have a patch.
        values: More to average over a region's patches.

    Returns:
        The regions by row, then column. One of fewer than four patches has no score.
    """
    places = (grid - grid.min(axis=0)) // side
    distinct, of_patch = np.unique(places, axis=0, return_inverse=True)
    rows = []
    for index in range(len(distinct)):
        mine = np.flatnonzero(of_patch.reshape(-1) == index)
        own = grid[mine]
        entry: dict[str, object] = {
            "region": index,
            "row_from": int(own[:, 0].min()),
            "row_to": int(own[:, 0].max()),
            "column_from": int(own[:, 1].min()),
            "column_to": int(own[:, 1].max()),
            "n_patches": len(mine),
            "logit": None,
            "score": None,
            "band": "",
            "grade": None,
            "interpretation": "",
        }
        if len(mine) >= LEAST_REGION:
            logit = model.see_slide(features[mine], own).logit
            entry |= {"logit": logit, **score_row(calibrated(model, np.array([logit]))[0])}
        rows.append(entry | {name: float(value[mine].mean()) for name, value in values.items()})
    return RegionTable(tuple(rows), of_patch.reshape(-1).astype(np.int64))


def calibrated(model: SrhModel, logits: Float64[np.ndarray, " n"]) -> list[float]:
    """Scores of logits: the sigmoid, or what the model's calibration makes of it."""
    from microtome.encoders.srh_reference import Calibration

    return [float(score) for score in (model.calibration or Calibration()).apply(logits)]


def pool_patients(slides: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Scores of patients, and the specimens behind them.

    Args:
        slides: Rows of the table of slides; one without a patient stands for itself.

    Returns:
        One row per patient (the largest score, with its slide, and the mean); one row per specimen, from the highest
        score down within a patient.
    """
    patients: dict[str, list[Row]] = {}
    for slide in slides:
        patients.setdefault(str(slide["patient_id"] or slide["slide_id"]), []).append(slide)
    pooled: list[Row] = []
    specimens: list[Row] = []
    for patient_id, own in patients.items():
        ranked = sorted(own, key=lambda slide: -float(str(slide["score"])))
        scores = [float(str(slide["score"])) for slide in ranked]
        most, mean = scores[0], float(np.mean(scores))
        pooled.append(
            {
                "patient_id": patient_id,
                "n_slides": len(own),
                "score_max": most,
                "band_max": band_of(most).name,
                "interpretation_max": band_of(most).meaning,
                "slide_max": ranked[0]["slide_id"],
                "score_mean": mean,
                "band_mean": band_of(mean).name,
                "n_tumour": sum(score > TUMOUR_CUT for score in scores),
            }
        )
        for rank, slide in enumerate(ranked, 1):
            kept = ("slide_id", "score", "band", "interpretation", "n_patches")
            specimens.append({"patient_id": patient_id, "rank": rank, **{name: slide[name] for name in kept}})
    return pooled, specimens


def ordinal_predictions(slides: Sequence[Row]) -> Predictions:
    """Scores in the form that `microtome evaluate` takes: degree, and how likely each degree or more is.

    The score says where a slide stands and no probability of a degree; that of a degree or more is taken to be one
    half where the score is at the band's edge, and to rise with it: ``sigmoid(logit(score) - logit(edge))``.

    Args:
        slides: Rows of the table of slides.
    """
    scores = np.clip([float(str(slide["score"])) for slide in slides], 1e-12, 1 - 1e-12)
    above = {
        f"p_ge_{band.grade + 1}": sigmoid(np.log(scores / (1 - scores)) - np.log(band.upto / (1 - band.upto)))
        for band in BANDS[:-1]
    }
    target = Target("grade", "ordinal", ("grade",), tuple(str(band.grade) for band in BANDS))
    return predictions_of(
        target,
        [str(slide["slide_id"]) for slide in slides],
        [str(slide["patient_id"] or slide["slide_id"]) for slide in slides],
        {"grade": np.array([slide["grade"] for slide in slides], np.int64), **above},
        attrs={"model": str(slides[0]["model"]) if slides else ""},
    )


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write rows of one kind as CSV; numbers in full."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    names = list(rows[0]) if rows else []
    table.writerow(names)
    for row in rows:
        table.writerow(["" if row[name] is None else row[name] for name in names])
    write_text(path, text.getvalue())


def write_parquet(path: Path, rows: Sequence[Row]) -> None:
    """Write the same as parquet."""
    import pyarrow as pa
    import pyarrow.json
    import pyarrow.parquet as pq

    # By way of JSON: making a table from Python's own values imports pandas, which takes half a second.
    text = "\n".join(json.dumps(dict(row), allow_nan=False) for row in rows)
    unknown = [name for name in rows[0] if all(row[name] is None for row in rows)]
    schema = pa.schema([(name, pa.float64()) for name in unknown])
    options = pa.json.ParseOptions(explicit_schema=schema)
    table = pa.json.read_json(io.BytesIO(text.encode()), parse_options=options).select(list(rows[0]))
    with written_whole(path) as temporary:
        pq.write_table(table, temporary)


def write_embeddings(path: Path, slides: Sequence[str], embeddings: Float32[np.ndarray, "n d"]) -> None:
    """Write the slides' vectors: ``slide_id`` and ``embeddings`` of a npz, without pickles."""
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, slide_id=np.array(slides, dtype=np.str_), embeddings=embeddings)


def write_predictions_pt(path: Path, slides: Sequence[Row], embeddings: Float32[np.ndarray, "n d"]) -> None:
    """Write what the original saves: a dict of lists and tensors, sorted by slide.

    References:
        specs FastGlioma section 2.3. ``slide`` is patient and slide, not the first nine parts of a path.
    """
    import torch

    order = sorted(range(len(slides)), key=lambda i: str(slides[i]["slide_id"]))
    content = {
        "slide": [str(slides[i]["slide_id"]).replace(".", "/", 1) for i in order],
        "label": [str(slides[i]["label"]) for i in order],
        "logits": torch.tensor([slides[i]["logit"] for i in order], dtype=torch.float32),
        "scores": torch.tensor([slides[i]["score"] for i in order], dtype=torch.float32),
        "embeddings": torch.from_numpy(np.stack([embeddings[i] for i in order])),
    }
    with written_whole(path) as temporary:
        torch.save(content, temporary)
