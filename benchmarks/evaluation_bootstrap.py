"""Intervals by bootstrap: 100,000 predictions resampled 1,000 times, beside the loop that one writes without thinking.

Ours sorts once and takes a resample as weights of rows. The loop draws rows and calls scikit-learn's ``roc_auc_score``
(lifelines' ``concordance_index``) on them; it is run a few times only, and its time is scaled to the same number of
resamples. Both draw patients; here each row is a patient of its own, the easiest case for the loop. The last rows give
all nine metrics of a binary target in one go.
"""

import argparse

import numpy as np
from harness import Options, Report, interleaved, timed
from lifelines.utils import concordance_index
from sklearn.metrics import roc_auc_score

from microtome.cohort.targets import Target
from microtome.evaluation.bootstrap import resampled
from microtome.evaluation.metrics import Outcomes, list_metrics, weighted_metric

_MSI = Target("msi", "binary", ("msi",), ("MSS", "MSI"))
_OS = Target("os", "survival", ("time", "event"))
_WANTED = 1000  # resamples of an interval


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--predictions", type=int, default=100_000, help="rows of the binary target")
    parser.add_argument("--subjects", type=int, default=2_000, help="rows of the survival target")


def main() -> None:
    options = Options.parse(__doc__, add_arguments)
    report = Report("evaluation_bootstrap", options, about=(__doc__ or "").split("\n\n")[0])
    n_boot, n_loop = (50, 3) if options.quick else (_WANTED, 20)
    for outcomes, loop, peer in (
        (binary(options.extra.predictions), auroc_loop, "scikit-learn loop"),
        (survival(options.extra.subjects), cindex_loop, "lifelines loop"),
    ):
        names = list_metrics(outcomes.target)
        jobs = {
            f"ours, {names[0]}": timed(lambda o=outcomes, m=names[:1]: ours(o, m, n_boot), n_boot),
            f"ours, all {len(names)} metrics": timed(lambda o=outcomes, m=names: ours(o, m, n_boot // 5), n_boot // 5),
            peer: timed(lambda o=outcomes, run=loop: run(o, n_loop), n_loop) if options.peers else None,
        }
        samples = interleaved(jobs, options.rounds)
        title = f"{len(outcomes.values):,} predictions, {outcomes.target.type}"
        report.rates(title, samples, reference=peer, unit="resamples")
        rows = [
            [name, int(sample.n), sample.cpu_s / sample.n * _WANTED, sample.wall_s / sample.n * _WANTED]
            for name, sample in samples.items()
        ]
        report.table(
            f"{title}: {_WANTED:,} resamples",
            ["", "resamples run", "CPU s", "wall s"],
            rows,
            notes=[f"Seconds are scaled from the resamples run to {_WANTED:,}."],
        )
    report.write()


def binary(n: int) -> Outcomes:
    rng = np.random.default_rng(0)
    truth = rng.random(n) < 0.3
    p = 1 / (1 + np.exp(-rng.normal(size=n) - truth))
    return Outcomes(_MSI, truth[:, None].astype(np.float64), {"p_MSS": 1 - p, "p_MSI": p})


def survival(n: int) -> Outcomes:
    rng = np.random.default_rng(0)
    risk = rng.normal(size=n)
    event, end = rng.exponential(np.exp(-risk)), rng.exponential(1.0, n)
    return Outcomes(_OS, np.stack([np.minimum(event, end), event <= end], axis=1), {"risk": risk + rng.normal(size=n)})


def ours(outcomes: Outcomes, names: tuple[str, ...], n_boot: int) -> None:
    statistics = [weighted_metric(name, outcomes) for name in names]
    patients = np.arange(len(outcomes.values))
    found = resampled(lambda w: np.stack([s(w) for s in statistics], axis=1), patients, n_boot, seed=0)
    np.quantile(found, [0.025, 0.975], axis=0)


def auroc_loop(outcomes: Outcomes, n_boot: int) -> None:
    rng, truth, scores = np.random.default_rng(0), outcomes.truth(), outcomes.column("p_MSI")
    for _ in range(n_boot):
        rows = rng.integers(len(truth), size=len(truth))
        roc_auc_score(truth[rows], scores[rows])


def cindex_loop(outcomes: Outcomes, n_boot: int) -> None:
    rng, (time, event, risk) = np.random.default_rng(0), outcomes.survival()
    for _ in range(n_boot):
        rows = rng.integers(len(time), size=len(time))
        concordance_index(time[rows], -risk[rows], event[rows])


if __name__ == "__main__":
    main()
