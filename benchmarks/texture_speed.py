"""Tiles per second of the texture encoder beside JPEG decoding of the same tiles, interleaved in one run.

Decoding is the work that no pipeline can avoid, so the ratio says whether the encoder can be the bottleneck; it
holds on a busy machine where tiles per second do not.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import cv2
import imagecodecs
import numpy as np

from microtome.encoders.registry import load_encoder

_TILE_PX = 224
_JPEG_QUALITY = 80


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=int, default=64, help="tiles per round")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds; medians are printed")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads to try")
    options = parser.parse_args()
    cv2.setNumThreads(1)  # what is measured is one core per thread of ours
    jpegs = [imagecodecs.jpeg8_encode(tile, level=_JPEG_QUALITY) for tile in paint_tiles(options.tiles)]
    images = np.stack([imagecodecs.jpeg8_decode(jpeg) for jpeg in jpegs])
    encoder = load_encoder("texture")
    print(f"{options.tiles} tiles of {_TILE_PX} px, JPEG quality {_JPEG_QUALITY}, median of {options.rounds} rounds")
    print("threads   decode tiles/s   encode tiles/s   encode time / decode time")
    for threads in options.threads:
        with ThreadPoolExecutor(threads) as pool:
            jobs: list[Callable[[], object]] = [
                lambda pool=pool: list(pool.map(imagecodecs.jpeg8_decode, jpegs)),
                lambda pool=pool: list(pool.map(encoder.encode, np.array_split(images, len(images) // 8))),
            ]
            decode, encode = interleaved(jobs, options.rounds)
        speeds = f"{options.tiles / decode:>14.0f} {options.tiles / encode:>16.0f}"
        print(f"{threads:>7} {speeds} {encode / decode:>19.1f}")


def interleaved(jobs: list[Callable[[], object]], rounds: int) -> list[float]:
    """Median seconds of each job over rounds in which all take turns; one round before to warm up."""
    seconds: list[list[float]] = [[] for _ in jobs]
    for _ in range(rounds + 1):
        for times, job in zip(seconds, jobs, strict=True):
            start = time.perf_counter()
            job()
            times.append(time.perf_counter() - start)
    return [statistics.median(times[1:]) for times in seconds]


def paint_tiles(n: int) -> list[np.ndarray]:
    """Tiles with fibres and nuclei, so that the measures have something to measure."""
    rng = np.random.default_rng(0)
    tiles = []
    for _ in range(n):
        tile = np.full((_TILE_PX, _TILE_PX, 3), (225, 160, 200), dtype=np.uint8)
        fibres = cv2.GaussianBlur(rng.normal(0, 90, tile.shape[:2]).astype(np.float32), (0, 0), 6, sigmaY=1.5)
        tile = np.clip(tile + fibres[..., None] * (0.5, 1.0, 0.5), 0, 255).astype(np.uint8)
        for x, y in rng.integers(0, _TILE_PX, (60, 2)).tolist():
            axes = tuple(rng.integers(4, 9, 2).tolist())
            cv2.ellipse(tile, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, (95, 65, 135), -1, cv2.LINE_AA)
        noise = rng.normal(0, 4, tile.shape)
        tiles.append(np.clip(tile + noise, 0, 255).astype(np.uint8))
    return tiles


if __name__ == "__main__":
    main()
