"""Small stores of bags with labels, for tests of what is trained on them."""

from pathlib import Path

import numpy as np

from microtome.cohort.targets import Labels, Target
from microtome.features.store import FeatureStore
from microtome.tasks.mil.bags import BagSet, open_bags

BINARY = Target("planted", "binary", ("planted",), ("no", "yes"))
LENGTHS = (1, 7, 30, 2, 12, 1, 25, 9, 40, 3, 16, 8)


def write_bag(store: FeatureStore, slide_id: str, features: np.ndarray, **attrs) -> None:
    boxes = np.zeros((len(features), 4), np.int64)
    boxes[:, 0] = np.arange(len(features))
    store.write(slide_id, features, boxes, recipe={"weights_sha256": "w"}, attrs={"encoder": "e", **attrs})


def labels_of(ids, values, target=BINARY, slides=None) -> Labels:
    ids = tuple(ids)
    values = np.asarray(values, np.float64).reshape(len(ids), -1)
    return Labels(target, ids, ids, tuple((i,) for i in ids) if slides is None else slides, values)


def planted(folder: Path, values=None, target=BINARY, lengths=LENGTHS, d=6, seed=0) -> tuple[BagSet, Labels]:
    """Bags of unequal length whose first instance lies apart where the first value is above 0."""
    rng, store = np.random.default_rng(seed), FeatureStore(folder)
    n = len(lengths)
    values = np.arange(n) % 2 if values is None else np.asarray(values)
    for i, length in enumerate(lengths):
        features = rng.normal(size=(length, d)).astype(np.float32)
        features[0] += 2 * float(np.ravel(values[i])[0] > 0)
        write_bag(store, f"s{i:02d}", features)
    return open_bags(store, labels_of([f"s{i:02d}" for i in range(n)], values, target))
