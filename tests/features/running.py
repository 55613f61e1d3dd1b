"""Runs extraction over fake sources and says what should come out."""

from typing import Any

import numpy as np

from microtome.features.extract import Extracted, ExtractOptions, Failure, extract_all
from microtome.features.store import FeatureStore
from tests.features.fakes import ArraySource, Means, job_of

SMALL = ExtractOptions(batch_size=4, workers=2)


def run_all(
    sources: list[ArraySource],
    store: FeatureStore,
    options: ExtractOptions = SMALL,
    encoder: Any = None,
    **rest: Any,
) -> dict[str, Extracted | Failure]:
    outcomes: dict[str, Extracted | Failure] = {}

    def note(outcome: Extracted | Failure) -> None:
        assert outcome.slide_id not in outcomes
        outcomes[outcome.slide_id] = outcome

    jobs = [job_of(s) for s in sources]
    extract_all(jobs, encoder or Means(), store, options, on_done=note, **rest)
    return outcomes


def expected(source: ArraySource, encoder: Means | None = None) -> np.ndarray:
    rows = [r for r in range(len(source)) if r not in source.broken]
    return (encoder or Means()).encode(source.images[rows])
