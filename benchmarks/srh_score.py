"""Seconds from stimulated Raman TIFFs on disk to score, maps and report: `microtome score` as a process of its own.

Slides of 100, 300 and 1,000 patches of 300 px on this machine's cores, fp32 and bf16; warm, and cold: patches and model
out of the system's cache, and nothing compiled before. The split is the process's own account; what it lacks to the
whole is the start of Python and its libraries. Weights are filled by rule, which takes as long as trained ones do.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tifffile
from harness import Options, Report, Sample, cpu_seconds, interleaved

if TYPE_CHECKING:
    from collections.abc import Mapping

_PATCHES = (100, 300, 1000)
_PRECISIONS = ("fp32", "bf16")
_LIMIT_S = 10.0
_JUDGED = (300, "fp32", "warm")
_PARTS = ("load", "read", "tokenise", "attend", "wait_for_drawing", "tables", "report")


def main() -> None:
    options = Options.parse(__doc__)
    report = Report("srh_score", options, about=(__doc__ or "").split("\n\n")[0])
    counts = (30,) if options.quick else _PATCHES
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = write_model(folder)
        write_slides(folder, counts)
        jobs = {}
        for n in counts:
            for precision in _PRECISIONS:
                for state in ("cold", "warm"):
                    jobs[f"{n} patches, {precision}, {state}"] = job(folder, model, (n, precision, state))
        samples = interleaved(jobs, options.rounds)
        transform = transform_seconds()
    rows = [row(name, sample, transform) for name, sample in samples.items()]
    judged = samples.get("{} patches, {}, {}".format(*_JUDGED))
    note = "idle machine" if report.idle else "LOADED machine: wall times are not to be judged, CPU seconds are"
    notes = [
        note,
        "transform is part of tokenise; drawing runs beside the next slide, so one slide waits for all of it",
    ]
    if judged is not None:
        notes.append(
            f"300 patches, fp32, warm: {judged.wall_s:.1f} s; below {_LIMIT_S:g} s: {judged.wall_s < _LIMIT_S}"
        )
    columns = ["", "wall s", "CPU s", "CPU ms/patch", "start", "load", "read", "transform", "tokenise", "attend"]
    report.table("Process start to report on disk", [*columns, "draw", "tables", "report", "runtime"], rows, notes)
    report.write()


def row(name: str, sample: Sample, transform: float) -> list[object]:
    """A line of the table."""
    parts = sample.details["seconds"]
    inside = sum(parts.get(part, 0.0) for part in _PARTS)
    shown = [parts.get(part, 0.0) for part in ("attend", "wait_for_drawing", "tables")]
    return [
        *(name, sample.wall_s, sample.cpu_s, 1000 * sample.cpu_s / sample.n, sample.details["wall_s"] - inside),
        *(parts["load"], parts["read"], transform * sample.n, parts["tokenise"], *shown, sample.details["report_s"]),
        sample.details["runtime"],
    ]


def job(folder: Path, model: Path, case: tuple[int, str, str]):  # type: ignore[no-untyped-def]  # noqa: ANN201 - a Job
    """One process; cold has a cache of compiled networks of its own, which is empty."""
    n, precision, state = case
    slide, out, cache = folder / f"slide{n}", folder / "out", folder / f"cache-{state}"
    command = [sys.executable, "-m", "microtome", "score", str(slide), "--model", str(model), "--precision", precision]
    command += ["--mpp", "0.467", "--out", str(out), "--quiet"]

    def run() -> Sample:
        shutil.rmtree(out, ignore_errors=True)
        if state == "cold":
            shutil.rmtree(cache, ignore_errors=True)
            for path in [model, *slide.iterdir()]:
                forget(path)
        cpu, wall = cpu_seconds(), time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "MICROTOME_CACHE": str(cache)})
        cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
        record: Mapping[str, object] = json.loads((out / "run.json").read_text(encoding="utf-8"))
        written = (out / "report.html").stat().st_mtime - (out / "run.json").stat().st_mtime
        runtime = record["model"]["runtime"]  # type: ignore[index]  # of JSON
        details = {"seconds": record["seconds"], "wall_s": wall, "runtime": runtime, "report_s": written}
        return Sample(n, cpu, wall, details)

    return run


def forget(path: Path) -> None:
    """Ask the system to drop a file from its cache."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_model(folder: Path) -> Path:
    """The network of the published one with weights by rule, as the file that `microtome srh convert` writes."""
    from microtome.encoders.hardware import Wanted
    from microtome.encoders.srh_model import load_srh_model
    from microtome.tasks.srh.convert import write_srh_model

    path = folder / "model.safetensors"
    model = load_srh_model("fastglioma-highres", weights="none", wanted=Wanted("cpu", "fp32", "torch"))
    write_srh_model(path, replace(model, familiar=None))
    return path


def write_slides(folder: Path, counts: tuple[int, ...]) -> None:
    """Slides whose patches are those of one drawn slide, again and again."""
    from microtome.testing.srh_sample import draw_srh_slide

    drawn = draw_srh_slide(np.random.default_rng(0), 3, 2).pixels
    cut = [drawn[:, y : y + 300, x : x + 300] for y in (0, 300, 600) for x in (0, 300, 600)]
    for n in counts:
        slide = folder / f"slide{n}"
        slide.mkdir()
        across = int(np.ceil(n**0.5))
        for i in range(n):
            (ix, iy), (jx, jy) = ((1000 * (k // 3), 300 * (k % 3)) for k in divmod(i, across))
            path = slide / f"A-1-{ix}_{jx}_{iy}_{jy}.tif"
            tifffile.imwrite(path, cut[i % len(cut)] + np.uint16(i), photometric="minisblack")


def transform_seconds() -> float:
    """Seconds to prepare one patch for the network, of batches as `microtome score` makes them."""
    import torch

    from microtome.encoders.registry import read_card
    from microtome.encoders.srh_preprocess import SrhPreprocess

    images = torch.from_numpy(np.random.default_rng(0).integers(0, 60000, (16, 300, 300, 2)).astype(np.uint16))
    prepare = SrhPreprocess(read_card("fastglioma-highres-tokenizer"), (300, 300), low_resolution=False)
    with torch.inference_mode():
        prepare(images)
        began = time.perf_counter()
        for _ in range(5):
            prepare(images)
    return (time.perf_counter() - began) / 5 / len(images)


if __name__ == "__main__":
    main()
