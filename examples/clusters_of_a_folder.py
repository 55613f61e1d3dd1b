"""The main job from Python: a folder of slides to clusters and a report, then a new slide assigned to them."""

import tempfile
from collections import Counter
from pathlib import Path

import microtome
from microtome.config import ExtractConfig, RunConfig
from microtome.testing.synthetic import write_sample


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    write_sample(folder / "slides", n_slides=2, size_px=2048, kinds=("svs", "tiff"))
    out = folder / "out"
    result = microtome.run(
        RunConfig(slides=(str(folder / "slides"),), out=out, n_clusters=4, umap_points=0, quiet=True)
    )
    print(f"done {len(result.record.done)}, failed {len(result.record.failed)}; report: {result.report}")

    (new,) = write_sample(folder / "new", n_slides=1, size_px=2048, kinds=("svs",), seed=7)
    microtome.run(ExtractConfig(slides=(str(new.path),), out=folder / "out_new", quiet=True))
    clusters = microtome.load_clusters(out / "clusters" / "centroids.npz")
    bag = microtome.FeatureStore(folder / "out_new" / "features" / "texture_224px_0.5")[new.slide_id]
    print(f"tiles per cluster on a new slide: {dict(sorted(Counter(clusters.assign(bag.features).tolist()).items()))}")


if __name__ == "__main__":
    main()
