"""Extracts fake slides in a process of its own, saying each batch, so that a test can kill it at any of them.

Arguments: folder, seconds per batch, names of slides.
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np

from microtome.features.extract import Extracted, ExtractOptions, Failure, Job, extract_all
from microtome.features.store import FeatureStore
from tests.features.fakes import ArraySource, Means

OPTIONS = ExtractOptions(batch_size=4, workers=2, min_coverage=0.5)


def slide(name: str) -> ArraySource:
    n = 20 + 7 * len(name)
    return ArraySource(name, n, broken={3: "torn", n - 1: "torn"})


class Speaking(Means):
    def encode(self, images: np.ndarray) -> np.ndarray:
        sys.stdout.write("batch\n")
        sys.stdout.flush()
        return super().encode(images)


def say(outcome: Extracted | Failure) -> None:
    what = outcome.status if isinstance(outcome, Extracted) else f"failed {outcome.error}"
    sys.stdout.write(f"{what} {outcome.slide_id}\n")
    sys.stdout.flush()


def main(folder: str, seconds: str, *names: str) -> None:
    jobs = [Job(name, partial(slide, name)) for name in names]
    extract_all(jobs, Speaking(delay_s=float(seconds)), FeatureStore(Path(folder)), OPTIONS, on_done=say)


if __name__ == "__main__":
    main(*sys.argv[1:])
