"""Tiles per CPU-second of the texture encoder beside what comes before it, interleaved in one run.

A synthetic slide is written, and of its tissue the tiles that OpenSlide reads at once (aligned with the file's own)
are read with OpenSlide, decoded from JPEG, and encoded. CPU-seconds hold on a busy machine where seconds do not, and
the ratios hold on another machine too. With several threads seconds count; two processes say what the machine had to
give at that time.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import cv2
import imagecodecs
import numpy as np
import openslide

from microtome.encoders.registry import load_encoder
from microtome.testing.synthetic_sample import write_sample

_TILE_PX = 224
_JPEG_QUALITY = 80
_BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=2, help=f"batches of {_BATCH} tiles per round")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds; medians are printed")
    parser.add_argument("--threads", type=int, default=2, help="threads, and processes, to try beside one")
    options = parser.parse_args()
    cv2.setNumThreads(1)  # what is measured is one core per thread of ours
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.threads) as threads:
        (sample,) = write_sample(folder, n_slides=1, size_px=4096, kinds=("svs",))
        slide = openslide.OpenSlide(str(sample.path))
        origins = find_tissue_tiles(slide, options.batches * _BATCH)
        batches = np.stack([read_tile(slide, xy) for xy in origins]).reshape(-1, _BATCH, _TILE_PX, _TILE_PX, 3)
        jpegs = [imagecodecs.jpeg8_encode(tile, level=_JPEG_QUALITY) for batch in batches for tile in batch]
        encoder = load_encoder("texture")
        names = ["read with OpenSlide", f"decode JPEG, quality {_JPEG_QUALITY}", "encode"]
        jobs: list[Callable[[], object]] = [
            lambda: [read_tile(slide, xy) for xy in origins],
            lambda: [imagecodecs.jpeg8_decode(jpeg) for jpeg in jpegs],
            lambda: [encoder.encode(batch) for batch in batches],
        ]
        print(f"{len(origins)} tiles of {_TILE_PX} px, median of {options.rounds} rounds, one thread")
        for name, seconds in zip(names, interleaved(jobs, options.rounds, time.process_time), strict=True):
            print(f"{name:<26} {len(origins) / seconds:>8.0f} tiles per CPU-second")
        with ProcessPoolExecutor(options.threads) as processes:
            names = ["one thread", f"{options.threads} threads", f"{options.threads} processes"]
            jobs = [
                lambda: [encode(batch) for batch in batches],
                lambda: list(threads.map(encode, batches)),
                lambda: list(processes.map(encode, batches)),
            ]
            for name, seconds in zip(names, interleaved(jobs, options.rounds, time.perf_counter), strict=True):
                print(f"encode with {name:<14} {len(origins) / seconds:>8.0f} tiles per second")


def encode(batch: np.ndarray) -> np.ndarray:
    """In this process, with OpenCV's own threads off."""
    cv2.setNumThreads(1)
    return load_encoder("texture").encode(batch)


def find_tissue_tiles(slide: openslide.OpenSlide, n: int) -> list[tuple[int, int]]:
    """Origins of tiles in file order whose middle is tissue, taken again from the start until there are n."""
    width, height = slide.dimensions
    grid = [(x, y) for y in range(0, height - _TILE_PX, _TILE_PX) for x in range(0, width - _TILE_PX, _TILE_PX)]
    thumbnail = np.asarray(slide.get_thumbnail((256, 256)).convert("L"))
    scale = thumbnail.shape[1] / width
    inside = [(x, y) for x, y in grid if thumbnail[int((y + 112) * scale), int((x + 112) * scale)] < 225]
    return (inside * (n // len(inside) + 1))[:n]


def read_tile(slide: openslide.OpenSlide, origin: tuple[int, int]) -> np.ndarray:
    """RGB pixels of a level-0 tile."""
    return np.asarray(slide.read_region(origin, 0, (_TILE_PX, _TILE_PX)).convert("RGB"))


def interleaved(jobs: list[Callable[[], object]], rounds: int, clock: Callable[[], float]) -> list[float]:
    """Median seconds of each job over rounds in which all take turns; one round before to warm up."""
    seconds: list[list[float]] = [[] for _ in jobs]
    for _ in range(rounds + 1):
        for times, job in zip(seconds, jobs, strict=True):
            start = clock()
            job()
            times.append(clock() - start)
    return [statistics.median(times[1:]) for times in seconds]


if __name__ == "__main__":
    main()
