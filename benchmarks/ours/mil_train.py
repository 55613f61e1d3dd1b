"""Train the models of a nested cross-validation in one of several ways, and report time and peak memory.

Usage: mil_train.py FOLDER WAY OUT JSON. FOLDER holds the features, WAY is ``together``, ``one by one`` (both
:func:`microtome.tasks.mil.train_jobs.train_jobs`) or ``plain`` (a loop as anyone would write it); the logits of the
last epoch go to OUT. JSON has ``model jobs epochs precision threads``.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from measure import report, timed
from torch.nn.functional import binary_cross_entropy_with_logits

from microtome.cohort.targets import Labels, Target
from microtome.models.objectives import build_objective
from microtome.tasks.mil.bags import BagSet, open_bags
from microtome.tasks.mil.jobs import Hyper, ModelSpec, TrainJob
from microtome.tasks.mil.stacked import initial_model
from microtome.tasks.mil.stacked_order import epoch_order
from microtome.tasks.mil.train_jobs import choose_machine, train_jobs


def main() -> None:
    folder, way, out, text = sys.argv[1:5]
    asked = json.loads(text)
    torch.set_num_threads(asked["threads"])
    given = np.array(json.loads((Path(folder) / "labels.json").read_text()), np.float64)
    ids = tuple(f"bag{i:04d}" for i in range(len(given)))
    target = Target("planted", "binary", ("planted",), ("no", "yes"))
    labels = Labels(target, ids, ids, tuple((name,) for name in ids), given[:, None])
    bags, labels = open_bags(Path(folder), labels)
    jobs = [
        TrainJob(str(i), np.array(train), np.array(test), Hyper(rate, decay, asked["epochs"]))
        for i, (train, test, rate, decay) in enumerate(asked["jobs"])
    ]
    spec = ModelSpec(asked["model"])
    if way == "plain":
        logits, cpu, wall = timed(plain, jobs, bags, labels, spec)
    else:

        def run() -> list[np.ndarray]:
            objective = build_objective(target)
            options = {"precision": asked["precision"], "together": way == "together"}
            return [result.logits[-1] for result in train_jobs(jobs, bags, labels, spec, objective, **options)]

        logits, cpu, wall = timed(run)
    np.savez(out, *logits)
    precision = "fp32" if way == "plain" else choose_machine("auto", asked["precision"]).precision
    report(sum(len(job.train) * asked["epochs"] for job in jobs), cpu, wall, precision=precision)


def plain(jobs: Sequence[TrainJob], bags: BagSet, labels: Labels, spec: ModelSpec) -> list[np.ndarray]:
    """Each model by itself: padded batches, autograd, ``torch.optim.Adam``; the same order of bags."""
    values = torch.from_numpy(labels.values).float()
    found = []
    for job in jobs:
        model = initial_model(spec, bags.n_features, 1, job.hyper.seed)
        optimizer = torch.optim.Adam(
            model.parameters(), lr=job.hyper.learning_rate, weight_decay=job.hyper.weight_decay
        )
        for epoch in range(job.hyper.n_epochs):
            order = epoch_order(len(labels), 0, epoch)
            own = order[np.isin(order, job.train)]
            size = min(job.hyper.batch_size, len(own))
            for rows in own[: len(own) // size * size].reshape(-1, size):
                optimizer.zero_grad()
                binary_cross_entropy_with_logits(model(*padded(bags, rows)).logits, values[rows]).backward()
                optimizer.step()
            with torch.no_grad():
                starts = range(0, len(job.test), size)
                logits = [model(*padded(bags, job.test[start : start + size])).logits for start in starts]
        found.append(torch.cat(logits).numpy())
    return found


def padded(bags: BagSet, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Bags of one length, and where there are instances."""
    each = [torch.from_numpy(np.array(bags.read(int(row)), np.float32)) for row in rows]
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(bag), dtype=torch.bool) for bag in each], batch_first=True)
    return torch.nn.utils.rnn.pad_sequence(each, batch_first=True), mask


if __name__ == "__main__":
    main()
