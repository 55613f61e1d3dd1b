"""Accuracy of attention MIL on MUSK1 and Elephant over fixed folds, five times ten of them, beside the published one.

Settings are those of the paper that introduced it: Adam, one bag per step, up to 100 epochs, weight decay 0.005,
learning rate 0.0005 (MUSK1) and 0.0001 (Elephant). The paper stops by a validation set; here all epochs are trained,
or with --inner as many as inner folds choose. Its network has three layers before the attention; this
project's has one, and two after it. Instances are standardised feature by feature over the whole data set, which looks
at no label. Run by `microtome cv` on features and folds that are read here from the files of MIDatasets.jl.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from harness import SHARED

from microtome.cohort import read_cohort
from microtome.cohort.splits import OuterSplit, write_splits
from microtome.cohort.targets import find_target, read_labels
from microtome.config import CVConfig
from microtome.features.store import FeatureStore
from microtome.tasks.mil.cross_validate import cross_validate

_PUBLISHED = {"Musk1": "0.892 ± 0.040, gated 0.900 ± 0.050", "Elephant": "0.868 ± 0.022, gated 0.868 ± 0.027"}
_LEARNING_RATE = {"Musk1": 5e-4, "Elephant": 1e-4}


@dataclass(frozen=True)
class Data:
    """Bags, labels, and for each repeat and fold which bags are trained on."""

    bags: list[np.ndarray]
    labels: np.ndarray
    folds: list[list[np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "features" / "midatasets_jld")
    parser.add_argument("--models", nargs="+", default=["abmil"])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--datasets", nargs="+", default=list(_PUBLISHED), choices=list(_PUBLISHED))
    parser.add_argument("--repeats", type=int, default=5, choices=range(1, 6), help="of the ten folds")
    parser.add_argument("--inner", type=int, default=0, help="inner folds on which the number of epochs is chosen")
    parser.add_argument("--quick", action="store_true", help="one repeat of ten folds, 20 epochs")
    arguments = parser.parse_args()
    for name in arguments.datasets:
        data = read_jld(arguments.data / f"{name}.jld", n_repeats=1 if arguments.quick else arguments.repeats)
        for model in arguments.models:
            with tempfile.TemporaryDirectory() as folder:
                epochs = 20 if arguments.quick else arguments.epochs
                reached = run(data, Path(folder), model, _LEARNING_RATE[name], (epochs, arguments.inner))
                print(f"{name}, {model}: {reached}", flush=True)
        print(f"{name}, published attention MIL: {_PUBLISHED[name]}")


def run(data: Data, folder: Path, model: str, learning_rate: float, length: tuple[int, int]) -> str:
    """Cross-validate with so many epochs and inner folds; a sentence about the accuracies."""
    epochs, inner = length
    write_bags(data, folder)
    cohort = read_cohort(folder / "labels.csv")
    labels = read_labels(cohort, find_target(cohort, "label"))
    write_splits(folder / "splits.json", labels, list(splits_of(data)))
    result = cross_validate(
        CVConfig(
            features=folder / "features", cohort=folder / "labels.csv", target="label", splits=folder / "splits.json",
            model=model, inner=inner, learning_rate=learning_rate, weight_decay=5e-3, epochs=epochs, batch_size=1,
            precision="fp32", device="cpu", n_boot=0, no_figures=True, out=folder / "cv",
        )
    )  # fmt: skip
    folds = result.evaluation.folds
    accuracies = folds[folds["metric"] == "accuracy_score"]
    values = accuracies["estimate"].to_numpy(float)
    runs = accuracies.groupby("repeat")["estimate"].mean()
    error = values.std(ddof=1) / np.sqrt(len(values))
    each = ", ".join(f"{run:.3f}" for run in runs)
    return f"accuracy {values.mean():.3f} ± {error:.3f} (standard error over {len(values)} folds; runs: {each})"


def write_bags(data: Data, folder: Path) -> None:
    """Features and labels as `microtome cv` reads them."""
    store = FeatureStore(folder / "features")
    every = np.concatenate(data.bags)
    mean, scale = every.mean(axis=0), every.std(axis=0)
    scale[scale == 0] = 1
    lines = ["slide_id,label"]
    for number, (bag, label) in enumerate(zip(data.bags, data.labels, strict=True)):
        boxes = np.zeros((len(bag), 4), np.int64)
        standardised = ((bag - mean) / scale).astype(np.float32)
        store.write(f"bag{number:03d}", standardised, boxes, recipe={"encoder": "given"}, attrs={"encoder": "given"})
        lines.append(f"bag{number:03d},{label}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def splits_of(data: Data) -> "list[OuterSplit]":
    """The fixed folds as rows."""
    return [
        OuterSplit(repeat, fold, np.flatnonzero(trained), np.flatnonzero(~trained))
        for repeat, folds in enumerate(data.folds)
        for fold, trained in enumerate(folds)
    ]


def read_jld(path: Path, n_repeats: int) -> Data:
    """Bags, labels and folds of a file of MIDatasets.jl; its truth values are bits in 64-bit words."""
    with h5py.File(path) as file:

        def bits(value: np.void) -> np.ndarray:
            words, length, _ = value.item()
            return np.unpackbits(file[words][()].astype("<u8").view(np.uint8), bitorder="little")[:length].astype(bool)

        bags = [file[reference][()].T.astype(np.float64) for reference in file["X"][()]]
        folds = [[bits(file[fold][()]) for fold in file[repeat][()]] for repeat in file["folds"][()][:n_repeats]]
        return Data(bags, bits(file["y"][()]).astype(int), folds)


if __name__ == "__main__":
    main()
