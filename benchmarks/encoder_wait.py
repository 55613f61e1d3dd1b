"""Share of the time in which the encoder waits, over 20 small slides: for tiles, for a slide to open, for a commit.

While one slide's last tiles are encoded the next one's are decoded, so that many small slides keep the encoder as busy
as a large one. With `texture` the encoder's threads and the decoders share the cores: there waiting only says which of
the two needs them more, and the share is shown for comparison.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness import Options, Report, Sample, interleaved, local
from inputs import big_slide, tissue_boxes

_LIMIT = 0.10
_CASES = (("timm:resnet18", "none", 32), ("texture", None, 64))


def main() -> None:
    options = Options.parse(__doc__)
    report = Report("encoder_wait", options, about=(__doc__ or "").split("\n\n")[0])
    slide = big_slide("6k")
    boxes = tissue_boxes(slide, 448, 40 if options.quick else 60)
    jobs = {}
    with tempfile.TemporaryDirectory() as folder:
        for encoder, weights, batch_size in _CASES:
            plan = {"slide": str(slide), "boxes": boxes, "out_px": 224, "copies": 5 if options.quick else 20}
            plan |= {"encoder": encoder, "weights": weights, "precision": None, "batch_size": batch_size}
            plan |= {"decode": "exact", "measured": False, "keep": None}
            path = Path(folder) / f"{encoder.replace(':', '-')}.json"
            path.write_text(json.dumps(plan), encoding="utf-8")
            jobs[encoder] = local("ours/extract.py", path, "both")
        samples = interleaved(jobs, options.rounds)
    columns = ["", "encoder waits", "for tiles", "below 10 %", "tiles/CPU-s", "tiles/s", "seconds", "runtime"]
    rows = [row(name, sample) for name, sample in samples.items()]
    note = "idle machine" if report.idle else "LOADED machine: who waits for whom is not to be judged"
    plan_text = f"{20 if not options.quick else 5} slides of {len(boxes)} tiles, 224 px at 0.5 µm/px from 0.25"
    report.table(plan_text, columns, rows, [note])
    report.write()


def row(name: str, sample: Sample) -> Sequence[object]:
    """A line of the table; the shares are those of the last round."""
    found = sample.details
    waits = found["wait_share"]
    judged = waits < _LIMIT if name.startswith("timm:") else ""
    tiles = found["decode_wait_s"] / found["seconds"] / found["encoder_threads"]
    rates = [sample.per_cpu_s, sample.per_s, found["seconds"], found["runtime"]]
    return [name, f"{waits:.1%}", f"{tiles:.1%}", judged, *rates]


if __name__ == "__main__":
    main()
