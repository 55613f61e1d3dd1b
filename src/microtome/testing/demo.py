"""The demo: sample slides, the main job on them, and the clusters held against what was planted."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from microtome.config import RunConfig
from microtome.evaluation.clusters import cluster_purity, purity_score, region_labels
from microtome.tasks.cluster import read_assignment
from microtome.tasks.run import RunResult, run
from microtome.testing.synthetic import SampleSlide, write_sample


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The run, and how well its clusters match the planted regions."""

    run: RunResult
    purity: float
    purity_text: str


def run_demo(folder: Path, *, n_slides: int = 3, size_px: int = 8192, seed: int = 0, quiet: bool = False) -> DemoResult:
    """Write sample slides, run the main job with the embedded encoder, and measure cluster purity.

    Args:
        folder: Where to work: ``slides/`` and ``out/`` are made in it; what is there already is kept.
        n_slides: How many slides.
        size_px: Their longest side, level-0 pixels.
        seed: Decides the slides and the clusters.
        quiet: Show no progress.

    Returns:
        The run and the purity: the share of tiles, 0..1, whose cluster's commonest planted label is their own.
    """
    slides = write_sample(folder / "slides", n_slides=n_slides, size_px=size_px, seed=seed)
    paths = tuple(str(slide.path) for slide in slides)
    config = RunConfig(slides=paths, out=folder / "out", seed=seed, quiet=quiet)
    result = run(config)
    purity, text = compare_with_truth(result, slides)
    return DemoResult(result, purity, text)


def compare_with_truth(result: RunResult, slides: list[SampleSlide]) -> tuple[float, str]:
    """Cluster purity against planted tumour, over all tiles, and a few lines that say it."""
    labels, clusters = [], []
    for slide in slides:
        table = read_assignment(result.folder.clusters / f"{slide.slide_id}.parquet")
        boxes = table[["x", "y", "w", "h"]].to_numpy(np.int64)
        labels.append(region_labels(boxes, {"tumour": slide.tumour}))
        clusters.append(table["cluster"].to_numpy())
    truth, found = np.concatenate(labels), np.concatenate(clusters)
    purity = purity_score(truth, found)
    lines = [f"\nCluster purity against planted tumour: {purity:.3f} ({len(truth)} tiles, {len(slides)} slides)"]
    share = float((truth == "tumour").mean())
    lines.append(f"(always saying the commonest label would give {max(share, 1 - share):.3f})")
    for cluster, part in cluster_purity(truth, found).items():
        lines.append(f"  cluster {cluster}: {part.n} tiles, {part.purity:.0%} {part.label}")
    return purity, "\n".join(lines)
