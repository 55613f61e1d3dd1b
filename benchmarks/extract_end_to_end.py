"""Slide to features beside a plain DataLoader, and beside what decoding and the encoder alone allow.

ResNet18 without weights, 224 px at 0.5 µm/px from a slide of 0.25. Decoding and the encoder share the cores of a
machine without a GPU, so that no loop can do more tiles per CPU-second than 1 / (1 / decode + 1 / encoder): "share of
ceiling" is how much of that the whole loop does, feature files included. Start-up, compilation included, is not
counted for either side. Cosine: the least similarity of a tile's features to those in fp32.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from harness import Job, Options, Peer, Report, Sample, interleaved, local
from inputs import big_slide, tissue_boxes

_NAIVE = "DataLoader, 2 workers, fp32"
_PARTS = {"both": "ours, whole loop", "decode": "ours, decoding alone", "encode": "ours, encoder alone"}


def main() -> None:
    options = Options.parse(__doc__)
    report = Report("extract_end_to_end", options, about=" ".join((__doc__ or "").split("\n\n")))
    with tempfile.TemporaryDirectory() as folder:
        network(report, Path(folder))
        texture(report, Path(folder))
    report.write()


def network(report: Report, folder: Path) -> None:
    """ResNet18, in the runtime that is chosen here, and exact and shrunken decoding."""
    n = 96 if report.options.quick else 320
    plan = base_plan(n, encoder="timm:resnet18", weights="none", batch_size=32)
    exact = parts(folder, "exact", plan)
    dct = parts(folder, "dct", {**plan, "decode": "dct"})
    jobs: dict[str, Job | None] = {_NAIVE: Peer("dataloader").job("extract.py", written(folder, "naive", plan))}
    jobs |= exact
    jobs |= {f"{name} (dct)": job for name, job in dct.items() if "encoder" not in name}
    samples = interleaved(jobs, report.options.rounds)
    reference = folder / "fp32.npy"
    fp32 = written(folder, "fp32", {**plan, "precision": "fp32", "keep": str(reference)})
    samples |= interleaved({"ours, whole loop, fp32": local("ours/extract.py", fp32, "both")}, 1, warm=0)
    for name, kept in (("ours, whole loop", "exact"), ("ours, whole loop (dct)", "dct")):
        if name in samples and reference.is_file():
            samples[name] = with_detail(samples[name], "cosine", least_cosine(folder / f"{kept}.npy", reference))
    for name, suffix in (("ours, whole loop", ""), ("ours, whole loop (dct)", " (dct)")):
        samples = with_ceiling(samples, name, f"ours, decoding alone{suffix}", "ours, encoder alone")
    report.rates(
        f"ResNet18, 224 px at 0.5 µm/px from 0.25, {n} tiles",
        samples,
        reference=_NAIVE,
        unit="tiles",
        details={"share of ceiling": "ceiling", "cosine": "cosine", "runtime": "runtime"},
    )


def texture(report: Report, folder: Path) -> None:
    """The embedded encoder, beside decoding alone."""
    n = 192 if report.options.quick else 1024
    plan = base_plan(n, encoder="texture", weights=None, batch_size=64)
    jobs = parts(folder, "texture", plan)
    jobs["with quality flags"] = local("ours/extract.py", written(folder, "flags", {**plan, "measured": True}), "both")
    samples = interleaved(jobs, report.options.rounds)
    samples = with_ceiling(samples, "ours, whole loop", "ours, decoding alone", "ours, encoder alone")
    report.rates(
        f"texture, 224 px at 0.5 µm/px from 0.25, {n} tiles",
        samples,
        reference="ours, decoding alone",
        unit="tiles",
        details={"share of ceiling": "ceiling"},
    )


def base_plan(n: int, **more: object) -> dict[str, Any]:
    """What both sides are asked."""
    slide = big_slide("20k")
    boxes = tissue_boxes(slide, 448, n)
    plan = {"slide": str(slide), "boxes": boxes, "out_px": 224, "copies": -(-n // len(boxes))}
    return {**plan, "precision": None, "decode": "exact", "measured": False, "keep": None, **more}


def parts(folder: Path, name: str, plan: dict[str, Any]) -> dict[str, Job | None]:
    """The whole loop and its two halves."""
    path = written(folder, name, {**plan, "keep": str(folder / f"{name}.npy")})
    return {title: local("ours/extract.py", path, part) for part, title in _PARTS.items()}


def written(folder: Path, name: str, plan: dict[str, Any]) -> Path:
    """A plan as a file."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(plan), encoding="utf-8")
    return path


def with_ceiling(samples: Mapping[str, Sample], whole: str, decode: str, encode: str) -> dict[str, Sample]:
    """The samples, with the whole loop's share of what its halves allow."""
    found = dict(samples)
    if {whole, decode, encode} <= samples.keys():
        ceiling = 1 / (1 / samples[decode].per_cpu_s + 1 / samples[encode].per_cpu_s)
        found[whole] = with_detail(samples[whole], "ceiling", f"{samples[whole].per_cpu_s / ceiling:.0%}")
    return found


def with_detail(sample: Sample, name: str, value: object) -> Sample:
    """The sample with one more detail."""
    return Sample(sample.n, sample.cpu_s, sample.wall_s, {**sample.details, name: value}, sample.spread)


def least_cosine(path: Path, reference: Path) -> str:
    """Least cosine similarity of corresponding rows."""
    a, b = (np.load(file).astype(np.float64) for file in (path, reference))
    cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return f"{cosine.min():.5f}"


if __name__ == "__main__":
    main()
