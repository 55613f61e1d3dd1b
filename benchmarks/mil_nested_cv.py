"""Nested cross-validation of ABMIL, all models together, beside the same models one by one, in one run.

Bags of random vectors with a planted signal are written as a feature store; the models of 2 × 2 folds and a grid of
five points are trained on the inner folds. Each way is a process of its own, which reads the store, trains, and
predicts the test rows after every epoch; start-up is not counted. ``plain`` is a loop as anyone would write it (padded
batches, torch's Adam). What precision does to the result is shown as the inner folds' AUROC, and how far probabilities
move.
"""

import argparse
import json
import tempfile
from os import cpu_count
from pathlib import Path

import numpy as np
from harness import Job, Options, Report, Sample, interleaved, local
from sklearn.metrics import roc_auc_score

from microtome.features.store import FeatureStore

_GRID = ((1e-3, 0.0), (1e-3, 1e-4), (1e-4, 0.0), (1e-4, 1e-4), (3e-4, 0.0))
_WAYS = {
    "together, bf16": ("together", "bf16"),
    "together, fp32": ("together", "fp32"),
    "one by one, bf16": ("one by one", "bf16"),
    "one by one, fp32": ("one by one", "fp32"),
    "plain loop, fp32": ("plain", "fp32"),
}
_REFERENCE = "one by one, fp32"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bags", type=int, default=270)
    parser.add_argument("--instances", type=int, default=1000, help="per bag")
    parser.add_argument("--features", type=int, default=768, help="length of a vector")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--model", default="abmil")
    parser.add_argument("--threads", type=int, default=cpu_count())
    parser.add_argument("--only", nargs="*", default=list(_WAYS), choices=list(_WAYS))


def main() -> None:
    options = Options.parse(__doc__, add_arguments)
    asked = options.extra
    if options.quick:
        asked.bags, asked.epochs = 64, 2
    report = Report("mil_nested_cv", options, about=(__doc__ or "").split("\n\n")[0])
    with tempfile.TemporaryDirectory() as folder:
        labels = write_store(Path(folder), asked.bags, asked.instances, asked.features)
        jobs = nested_jobs(asked.bags)
        ways = {name: way(Path(folder), name, jobs, asked) for name in asked.only}
        samples = interleaved(ways, min(options.rounds, 3), warm=0)
        tests = [np.array(test) for _, test, _, _ in jobs]
        report_ways(report, asked, samples, labels, tests, Path(folder))
    report.write()


def write_store(folder: Path, n_bags: int, n: int, d: int) -> np.ndarray:
    """Bags in which a twentieth of the instances of half of them are moved along one direction."""
    rng = np.random.default_rng(0)
    store, direction = FeatureStore(folder), rng.normal(size=d).astype(np.float32)
    labels = rng.permutation(n_bags) % 2
    boxes = np.zeros((n, 4), np.int64)
    for i, label in enumerate(labels.tolist()):
        features = rng.normal(size=(n, d)).astype(np.float32)
        features[: n // 20] += 0.1 * label * direction
        store.write(f"bag{i:04d}", features, boxes, recipe={"benchmark": "mil_nested_cv"})
    (folder / "labels.json").write_text(json.dumps(labels.tolist()))
    return labels


def nested_jobs(n_bags: int) -> list[tuple[list[int], list[int], float, float]]:
    """Training rows, test rows, learning rate and weight decay of the inner models of 2 × 2 folds."""
    quarters = [list(range(i, n_bags, 4)) for i in range(4)]
    inner = [(0, 1), (1, 0), (2, 3), (3, 2)]
    return [(quarters[a], quarters[b], rate, decay) for a, b in inner for rate, decay in _GRID]


def way(
    folder: Path, name: str, jobs: list[tuple[list[int], list[int], float, float]], asked: argparse.Namespace
) -> Job:
    """One way of training as a job."""
    how, precision = _WAYS[name]
    settings = {"model": asked.model, "jobs": jobs, "epochs": asked.epochs, "precision": precision}
    text = json.dumps({**settings, "threads": asked.threads})
    return local("ours/mil_train.py", folder, how, folder / f"{name}.npz", text)


def report_ways(
    report: Report,
    asked: argparse.Namespace,
    samples: dict[str, Sample],
    labels: np.ndarray,
    tests: list[np.ndarray],
    folder: Path,
) -> None:
    found = {name: list(np.load(folder / f"{name}.npz").values()) for name in samples}
    base, own = samples.get(_REFERENCE), found.get(_REFERENCE)
    rows = []
    for name, sample in samples.items():
        aurocs = [roc_auc_score(labels[test], logits[:, 0]) for test, logits in zip(tests, found[name], strict=True)]
        drift = (
            ""
            if own is None
            else max(np.abs(sigmoid(a) - sigmoid(b)).max() for a, b in zip(found[name], own, strict=True))
        )
        rows.append(
            [
                name,
                sample.wall_s,
                base.wall_s / sample.wall_s if base else "",
                sample.cpu_s,
                base.cpu_s / sample.cpu_s if base else "",
                sample.details["peak_rss_mb"],
                float(np.mean(aurocs)),
                drift if drift == "" else float(drift),
            ]
        )
    title = (
        f"{len(tests)} models of {asked.model}, {asked.bags} bags × {asked.instances:,} × {asked.features}, "
        f"{asked.epochs} epochs, {asked.threads} threads"
    )
    columns = ["", "wall s", f"× {_REFERENCE}", "CPU s", "× CPU", "peak MB", "mean AUROC", "largest Δp"]
    report.table(title, columns, rows, ["Δp: of a predicted probability against one by one in fp32, over all models"])


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


if __name__ == "__main__":
    main()
