"""Small cohorts, predictions and run folders, for the tests of what judges them."""

import csv
from pathlib import Path

import numpy as np

from microtome.cohort import read_cohort
from microtome.cohort.predictions import Predictions, predictions_of
from microtome.cohort.targets import Target
from microtome.config import CVConfig
from microtome.evaluation.evaluate import evaluate
from microtome.storage import write_json
from microtome.tasks.evaluate import write_evaluation

BINARY = Target("msi", "binary", ("msi",), ("MSS", "MSI-H"))
LABELS = ["MSS", "MSS", "MSS", "MSS", "MSI-H", "MSI-H", "MSI-H", "MSI-H", ""]
GOOD = [0.1, 0.3, 0.2, 0.7, 0.6, 0.9, 0.8, 0.95, 0.5]
POOR = [0.9, 0.2, 0.7, 0.4, 0.3, 0.8, 0.1, 0.65, 0.5]


def write_labels(folder: Path, **columns: list[str]) -> Path:
    """Nine slides of eight patients: s7 and s8 are of one, and s8 has no label of msi."""
    columns = {"msi": LABELS, **columns}
    path = folder / "labels.csv"
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["slide_id", "patient_id", *columns])
        for i in range(9):
            writer.writerow([f"s{i}", f"p{min(i, 7)}", *(values[i] for values in columns.values())])
    return path


def binary_predictions(scores: list[float], *, in_training: list[int] | None = None, **attrs: str) -> Predictions:
    """One row per slide; patients of even number are in fold 0."""
    n = len(scores)
    values = np.array(scores)
    columns = {
        "p_MSS": 1 - values,
        "p_MSI-H": values,
        "fold": np.minimum(np.arange(n), 7) % 2,
        "repeat": np.zeros(n, np.int64),
    }
    return predictions_of(
        BINARY,
        [f"s{i}" for i in range(n)],
        [f"p{min(i, 7)}" for i in range(n)],
        columns,
        in_training=None if in_training is None else [i in in_training for i in range(n)],
        attrs={"model": "abmil", "encoder": "phikon", **attrs},
    )


def write_cv_run(folder: Path, labels: Path, scores: list[float], *, model: str = "abmil", **record: object) -> Path:
    """A folder as `microtome cv` leaves it, of predictions that are given."""
    predictions = binary_predictions(scores, model=model)
    evaluation = evaluate(predictions, read_cohort(labels), n_boot=10)
    folder.mkdir(parents=True)
    predictions.write(folder / "predictions.parquet")
    write_evaluation(evaluation, folder / "evaluation", figures=False)
    config = CVConfig(
        features=folder / "features", cohort=labels, target="msi", model=model, outer=2, inner=3, out=folder
    )
    write_json(
        folder / "run.json",
        {
            "kind": "cv",
            "status": "done",
            "config": config.model_dump(mode="json"),
            "target": BINARY.as_dict(),
            "model": {"name": model, "options": {}},
            "encoder": {"name": "phikon"},
            "task": None,
            "excluded": {"s8": "no label"},
            "ended": "2026-01-01T00:00:00Z",
            **record,
        },
    )
    return folder
