"""Evaluations made by hand, for the figures and the page: every table is what it says it is."""

from typing import Any

import numpy as np
import pandas as pd

from microtome.cohort.targets import Target
from microtome.evaluation.evaluate import Evaluation

CLASSES = ("MSS", "MSI-H")
BINARY = Target("msi", "binary", ("msi",), CLASSES)


def metric_table(**estimates: tuple[float, float, float]) -> pd.DataFrame:
    rows = [
        {
            "metric": name.replace("__", ":"),
            "better": "low" if name.endswith("_loss") else "high",
            "estimate": estimate,
            "low": low,
            "high": high,
            "n": 8,
            "n_patients": 7,
            "n_undefined": 0,
            "reason": "one class only" if np.isnan(estimate) else "",
        }
        for name, (estimate, low, high) in estimates.items()
    ]
    return pd.DataFrame(rows)


def rows_table(**columns: Any) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    front = {
        "id": [f"s{i}" for i in range(n)],
        "patient_id": [f"p{max(i - 1, 0)}" for i in range(n)],  # s0 and s1 are of one patient
        "repeat": 0,
        "fold": [i % 2 for i in range(n)],
    }
    return pd.DataFrame({**front, **columns})


def binary_evaluation(**changes: Any) -> Evaluation:
    """Eight slides of seven patients in two folds, with curves by hand."""
    roc = pd.DataFrame(
        {
            "class": "MSI-H",
            "repeat": [-1, -1, -1, -1, 0, 0, 0, 0, 0, 0],
            "fold": [-1, -1, -1, -1, 0, 0, 0, 1, 1, 1],
            "fpr": [0, 0, 0.25, 1, 0, 0.5, 1, 0, 0, 1],
            "tpr": [0, 0.75, 1, 1, 0, 1, 1, 0, 1, 1],
        }
    )
    pr = pd.DataFrame(
        {
            "class": "MSI-H",
            "repeat": [-1, -1, -1],
            "fold": [-1, -1, -1],
            "recall": [0, 0.75, 1.0],
            "precision": [1, 1, 0.8],
        }
    )
    band = pd.DataFrame({"class": "MSI-H", "fpr": [0, 0.5, 1], "low": [0, 0.6, 1], "high": [0.9, 1, 1]})
    pr_band = pd.DataFrame({"class": "MSI-H", "recall": [0, 0.5, 1], "low": [0.7, 0.6, 0.5], "high": [1.0, 1, 1]})
    calibration = pd.DataFrame(
        {
            "class": "MSI-H",
            "predicted": [0.2, 0.8],
            "observed": [0.25, 0.75],
            "low": [0.05, 0.3],
            "high": [0.7, 0.95],
            "n": [4, 4],
        }
    )
    confusion = pd.DataFrame(
        {
            "label": ["MSS", "MSS", "MSI-H", "MSI-H"],
            "prediction": ["MSS", "MSI-H", "MSS", "MSI-H"],
            "n": [3, 1, 0, 4],
        }
    )
    score = np.array([0.1, 0.2, 0.3, 0.7, 0.6, 0.8, 0.9, 0.9])
    label = ["MSS"] * 4 + ["MSI-H"] * 4
    values: dict[str, Any] = {
        "target": BINARY,
        "table": metric_table(
            roc_auc_score=(0.9375, 0.81, 1.0),
            average_precision_score=(0.95, 0.8, 1.0),
            brier_score_loss=(0.123, 0.1, 0.2),
        ),
        "folds": pd.DataFrame(
            {
                "repeat": [0, 0],
                "fold": [0, 1],
                "metric": "roc_auc_score",
                "estimate": [0.5, 1.0],
                "n": [4, 4],
                "n_patients": [4, 4],
                "reason": "",
            }
        ),
        "excluded": {"s8": "no label", "s9": "no label", "s10": "the patient was in training"},
        "rows": rows_table(label=label, **{"p_MSS": 1 - score, "p_MSI-H": score}),
        "curves": {
            "roc": roc,
            "roc_band": band,
            "pr": pr,
            "pr_band": pr_band,
            "calibration": calibration,
            "confusion": confusion,
        },
        "settings": {"unit": "slide", "n_boot": 1000, "seed": 0, "include_training": False},
    }
    return Evaluation(**{**values, **changes})
