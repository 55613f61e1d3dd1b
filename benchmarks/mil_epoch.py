"""Epochs of training on bags of 1,000 and 10,000 instances, of 768 and 1,536 features: bags and instances per second.

Four models that share their training rows, together and one by one, in bf16 and fp32. Every model trains on half of the
bags and predicts the other half, once per epoch.
"""

import argparse
import json
import tempfile
from os import cpu_count
from pathlib import Path

from harness import Options, Report, interleaved, local
from mil_nested_cv import write_store

_WAYS = (("together", "bf16"), ("together", "fp32"), ("one by one", "fp32"))
_GRID = ((1e-3, 0.0), (1e-3, 1e-4), (1e-4, 0.0), (1e-4, 1e-4))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--instances-in-all", type=int, default=64_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--model", default="abmil")
    parser.add_argument("--threads", type=int, default=cpu_count())


def main() -> None:
    options = Options.parse(__doc__, add_arguments)
    asked = options.extra
    if options.quick:
        asked.instances_in_all, asked.epochs = 20_000, 1
    report = Report("mil_epoch", options, about=(__doc__ or "").split("\n\n")[0])
    for n in (1_000, 10_000):
        for d in (768, 1_536):
            measure(report, options, n, d)
    report.write()


def measure(report: Report, options: Options, n: int, d: int) -> None:
    """One length of bags and of features."""
    asked = options.extra
    n_bags = max(2, asked.instances_in_all // n)
    with tempfile.TemporaryDirectory() as folder:
        write_store(Path(folder), n_bags, n, d)
        even, odd = list(range(0, n_bags, 2)), list(range(1, n_bags, 2))
        settings = {"model": asked.model, "epochs": asked.epochs, "threads": asked.threads}
        settings["jobs"] = [(even, odd, rate, decay) for rate, decay in _GRID]
        jobs = {}
        for how, precision in _WAYS:
            text = json.dumps({**settings, "precision": precision})
            jobs[f"{how}, {precision}"] = local("ours/mil_train.py", folder, how, Path(folder) / "out.npz", text)
        samples = interleaved(jobs, min(options.rounds, 3), warm=0)
    seen = n_bags * len(_GRID) * asked.epochs
    rows = [
        [name, seen / s.wall_s, seen * n / s.wall_s, seen / s.cpu_s, s.details["peak_rss_mb"]]
        for name, s in samples.items()
    ]
    columns = ["", "bags/s", "instances/s", "bags/CPU-s", "peak MB"]
    note = "a bag counts once for each model that trains on it or predicts it"
    report.table(f"{n_bags} bags × {n:,} × {d:,}, {len(_GRID)} models of {asked.model}", columns, rows, [note])


if __name__ == "__main__":
    main()
