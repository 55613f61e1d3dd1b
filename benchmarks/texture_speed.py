"""Tiles per CPU-second of the texture encoder beside what comes before it, interleaved in one run.

A synthetic slide is written, and of its tissue the tiles that OpenSlide reads at once (aligned with the file's own)
are read with OpenSlide, decoded from JPEG, and encoded. CPU-seconds hold on a busy machine where seconds do not, and
the ratios hold on another machine too. With several threads seconds count; two processes say what the machine had to
give at that time.
"""

import argparse
import tempfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import cv2
import imagecodecs
import numpy as np
import openslide
from harness import Options, Report, interleaved, timed

from microtome.encoders.registry import load_encoder
from microtome.testing.synthetic_sample import write_sample

_TILE_PX = 224
_JPEG_QUALITY = 80
_BATCH = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batches", type=int, default=2, help=f"batches of {_BATCH} tiles per round")
    parser.add_argument("--threads", type=int, default=2, help="threads, and processes, to try beside one")


def main() -> None:
    options = Options.parse(__doc__, add_arguments)
    report = Report("texture_speed", options, about=(__doc__ or "").split("\n\n")[0])
    n_threads, n_batches = options.extra.threads, 1 if options.quick else options.extra.batches
    cv2.setNumThreads(1)  # what is measured is one core per thread of ours
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(n_threads) as threads:
        (sample,) = write_sample(folder, n_slides=1, size_px=4096, kinds=("svs",))
        slide = openslide.OpenSlide(str(sample.path))
        origins = find_tissue_tiles(slide, n_batches * _BATCH)
        batches = np.stack([read_tile(slide, xy) for xy in origins]).reshape(-1, _BATCH, _TILE_PX, _TILE_PX, 3)
        jpegs = [imagecodecs.jpeg8_encode(tile, level=_JPEG_QUALITY) for batch in batches for tile in batch]
        encoder = load_encoder("texture")
        n = len(origins)
        jobs = {
            "read with OpenSlide": timed(lambda: [read_tile(slide, xy) for xy in origins], n),
            f"decode JPEG, quality {_JPEG_QUALITY}": timed(lambda: [imagecodecs.jpeg8_decode(j) for j in jpegs], n),
            "encode": timed(lambda: [encoder.encode(batch) for batch in batches], n),
        }
        samples = interleaved(jobs, options.rounds)
        report.rates(f"{n} tiles of {_TILE_PX} px, one thread", samples, reference="read with OpenSlide", unit="tiles")
        with ProcessPoolExecutor(n_threads) as processes:
            jobs = {
                "one thread": timed(lambda: [encode(batch) for batch in batches], n),
                f"{n_threads} threads": timed(lambda: list(threads.map(encode, batches)), n),
                f"{n_threads} processes": timed(lambda: list(processes.map(encode, batches)), n),
            }
            samples = interleaved(jobs, options.rounds)
        rows = [[name, sample.per_s] for name, sample in samples.items()]
        report.table("encode, wall time", ["", "tiles/s"], rows)
    report.write()


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


if __name__ == "__main__":
    main()
