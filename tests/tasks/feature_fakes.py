"""A store of features in memory, with the surface that grouping needs."""

from dataclasses import dataclass

import numpy as np


@dataclass
class FakeBag:
    features: np.ndarray
    boxes: np.ndarray


class FakeStore(dict[str, FakeBag]):
    """slide_id → FakeBag, in the order of insertion."""

    def recipe_text(self, slide_id: str) -> str | None:
        return f'{{"slide":"{slide_id}"}}'


def boxes_of(n: int) -> np.ndarray:
    return np.stack([np.arange(n) * 10, np.zeros(n), np.full(n, 10), np.full(n, 10)], axis=1).astype(np.int64)


def store_of(parts: dict[str, np.ndarray], dtype: type = np.float32) -> FakeStore:
    return FakeStore({name: FakeBag(x.astype(dtype), boxes_of(len(x))) for name, x in parts.items()})


def blobs(n: int = 600, n_centers: int = 4, n_features: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Well parted groups of falling size."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(n_centers, n, p=np.arange(n_centers, 0, -1) / np.arange(n_centers + 1).sum())
    centers = 20.0 * rng.standard_normal((n_centers, n_features))
    return (centers[labels] + rng.standard_normal((n, n_features))).astype(np.float32), labels


def split(x: np.ndarray, n_slides: int) -> dict[str, np.ndarray]:
    return {f"s{i}": part for i, part in enumerate(np.array_split(x, n_slides))}
