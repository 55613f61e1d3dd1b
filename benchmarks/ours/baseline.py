"""What extraction takes without tiles in flight: everything imported, the slide open, the encoder at work.

Usage: baseline.py SLIDE OUT ENCODER BATCH_SIZE. The command is run for two tiles; then each of as many threads as there
are cores encodes batches that hold one tile's pixels and no more.
"""

import contextlib
import sys
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count

import numpy as np
from measure import report, timed


def main() -> None:
    slide, out, encoder, batch_size = sys.argv[1:5]
    with contextlib.redirect_stdout(sys.stderr):
        _, cpu_s, wall_s = timed(_warm, slide, out, encoder, int(batch_size))
    report(1, cpu_s, wall_s)


def _warm(slide: str, out: str, name: str, batch_size: int) -> None:
    from microtome.cli import main as command
    from microtome.encoders.registry import load_encoder

    few = ["--n-tiles", "2", "--batch-size", "1", "--memory", "2M"]
    if command(["extract", slide, "--out", out, "--encoder", name, "--quiet", *few]):
        raise RuntimeError("microtome extract failed")
    encoder, threads = load_encoder(name), cpu_count() or 1
    tile = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    images = np.broadcast_to(tile, (batch_size, *tile.shape))
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(encoder.encode, [images] * 4 * threads))


if __name__ == "__main__":
    main()
